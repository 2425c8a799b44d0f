"""The networks for CIFAR: shapes, numbers of parameters, arguments. (Gradients: in test_nn.)"""

import numpy as np
import pytest
from draws import normal

from lpnorm import models, nn

IMAGES = normal(0, (2, 3, 32, 32), "float32")
NETWORKS = {"vgg11": models.vgg11, "resnet": lambda *a, **k: models.resnet(8, *a, **k)}


def size(model):
    return sum(p.data.size for p in model.parameters())


def shapes(model):
    return [p.data.shape for p in model.parameters() if p.data.ndim == 4]


def test_vgg11_is_configuration_a():
    """By hand: 9 (3 64 + 64 128 + 128 256 + 256^2 + 256 512 + 3 512^2) weights of convolutions, two
    numbers for each of 2,752 channels, and 512 10 + 10."""
    model = models.vgg11()
    assert size(model) == 9 * 1_024_192 + 2 * 2_752 + 5_130 == 9_228_362
    kinds = "".join({nn.Conv2d: "C", nn.MaxPool2d: "M"}.get(type(each), "") for each in model)
    assert kinds == "CMCMCCMCCMCCM"
    assert [shape[0] for shape in shapes(model)] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert size(models.vgg11(width=16)) == 9 * 64_048 + 2 * 688 + 1_290 == 579_098


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [
        # by hand, in units of 16^2 weights of a 3x3 kernel: n = 3 blocks have 2 n, 2 + 4 (2 n - 1)
        # and 8 + 16 (2 n - 1) = 6 + 22 + 88; then the first one, two 1x1 shortcuts, two numbers
        # for each channel that is normalized, and 64 10 + 10
        (20, 9 * 256 * 116 + 9 * 3 * 16 + 16 * 32 + 32 * 64 + 2 * 784 + 650),
        (8, 9 * 256 * 32 + 9 * 3 * 16 + 16 * 32 + 32 * 64 + 2 * 336 + 650),
    ],
)
def test_resnet_has_as_many_parameters(depth, parameters):
    model = models.resnet(depth)
    assert size(model) == parameters
    convolutions = shapes(model)
    assert len(convolutions) == depth - 1 + 2
    assert [s for s in convolutions if s[2:] == (1, 1)] == [(32, 16, 1, 1), (64, 32, 1, 1)]
    assert size(models.resnet(20)) == 272_474


def test_each_stage_of_a_resnet_halves_the_image_and_doubles_the_channels():
    seen = []
    with nn.watch(lambda layer, y: isinstance(layer, nn.Residual) and seen.append(y.shape[1:])):
        models.resnet(14, width=2)(IMAGES)
    assert seen == [(2, 32, 32)] * 2 + [(4, 16, 16)] * 2 + [(8, 8, 8)] * 2


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("normalize", [nn.BatchNorm, lambda c: nn.BatchNorm(c, p=1), None])
def test_the_arguments_of_both(name, normalize):
    network = NETWORKS[name]
    model = network(normalize, width=2, classes=7, rng=1, dtype="float64")
    again = network(normalize, width=2, classes=7, rng=np.random.default_rng(1), dtype="float64")
    other = network(normalize, width=2, classes=7, rng=2, dtype="float64")
    states = [each.state() for each in (model, again, other)]
    assert all(np.array_equal(states[0][k], states[1][k]) for k in states[0])
    assert not np.array_equal(states[0]["0.weight"], states[2]["0.weight"])
    logits, backward = model(IMAGES.astype("float64"))
    assert logits.shape == (2, 7) and logits.dtype == "float64"
    assert backward(np.ones_like(logits)).shape == IMAGES.shape
    biases = [path for path, each in model.layers() if getattr(each, "bias", None) is not None]
    count = len(shapes(model)) if normalize is None else 0
    assert len(biases) == count + 1  # the last is the linear layer's


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_is_wrapped(name):
    model = NETWORKS[name](None, nn.WeightNorm, width=2)
    wrapped = [layer for _, layer in model.layers() if isinstance(layer, nn.WeightNorm)]
    assert len(wrapped) == len(shapes(model)) > 0
    assert model(IMAGES)[0].shape == (2, 10)
