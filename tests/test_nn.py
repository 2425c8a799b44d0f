"""The layers and the loss: values from their definitions and PyTorch, gradients by differences."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import standin_cupy
from draws import NORMS, directional, normal, seeds, with_gaps
from hypothesis import given
from hypothesis import strategies as st

import lpnorm
from lpnorm import models, nn
from lpnorm.verify import oracle

DTYPES = ["float16", "float32", "float64"]
PRECISION = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


@dataclass
class Case:
    """A layer with random parameters and an input without ties and kinks, all float64."""

    layer: nn.Layer
    x: np.ndarray
    train: bool = True
    options: dict[str, Any] = field(default_factory=dict)  # the layer was built with them


def on(xp, layer, dtype="float64"):
    """The layer, moved to the library under test."""
    return layer.to("cpu" if xp.module is np else "gpu", dtype)


def randomized(layer, seed):
    for i, parameter in enumerate(layer.to(dtype="float64").parameters()):
        parameter.data = normal(seed + i, parameter.data.shape)
    return layer


def assert_close(got, want, tolerance=1e-12):
    """Equal up to a tolerance relative to the largest entry."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= tolerance * max(1, np.abs(want).max(initial=0))


# --- what is drawn for each kind of layer ---------------------------------------------------------


def pair(draw, low, high):
    return draw(st.integers(low, high)), draw(st.integers(low, high))


def draw_windows(draw, pool):
    """kernel, stride, padding as pairs, and an image that is not smaller than the kernel."""
    kernel, stride = pair(draw, 1, 3), pair(draw, 1, 3)
    padding = tuple(draw(st.integers(0, k // 2 if pool else 2)) for k in kernel)
    size = tuple(
        draw(st.integers(max(1, k - 2 * p), 6)) for k, p in zip(kernel, padding, strict=True)
    )
    return {"kernel": kernel, "stride": stride, "padding": padding}, size


def linear(draw, seed):
    inputs, outputs = pair(draw, 1, 4)
    layer = nn.Linear(inputs, outputs, bias=draw(st.booleans()))
    return Case(randomized(layer, seed), normal(seed, (draw(st.integers(1, 4)), inputs)))


def conv2d(draw, seed):
    inputs, outputs = pair(draw, 1, 3)
    options, size = draw_windows(draw, pool=False)
    layer = nn.Conv2d(inputs, outputs, bias=draw(st.booleans()), **options)
    x = normal(seed, (draw(st.integers(1, 3)), inputs, *size))
    return Case(randomized(layer, seed), x, options=options)


def max_pool(draw, seed):
    options, size = draw_windows(draw, pool=True)
    shape = (*pair(draw, 1, 2), *size)
    values = np.random.default_rng(seed).permutation(math.prod(shape)) / 8 - 2  # no ties
    return Case(nn.MaxPool2d(**options), values.reshape(shape), options=options)


def avg_pool(draw, seed):
    options, size = draw_windows(draw, pool=True)
    x = normal(seed, (*pair(draw, 1, 2), *size))
    return Case(nn.AvgPool2d(**options), x, options=options)


def global_avg_pool(draw, seed):
    return Case(nn.GlobalAvgPool2d(), normal(seed, (*pair(draw, 1, 3), *pair(draw, 1, 5))))


def flatten(draw, seed):
    shape = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    return Case(nn.Flatten(), normal(seed, tuple(shape)))


def relu(draw, seed):
    x = normal(seed, tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))))
    return Case(nn.ReLU(), np.where(x < 0, x - 0.125, x + 0.125))


def batch_norm(draw, seed, norms=NORMS, axes=(0, 1, 2, -1, -2)):
    p, axis = draw(st.sampled_from(norms)), draw(st.sampled_from(axes))
    channels, others = draw(st.integers(1, 3)), pair(draw, 2, 4)
    options = {"p": p, "axis": axis, "eps": draw(st.sampled_from([0.0, 1e-5, 0.5]))}
    layer = nn.BatchNorm(channels, affine=draw(st.booleans()), **options)
    rows = with_gaps(seed, math.prod(others), channels)
    x = np.moveaxis(rows.reshape(channels, *others), 0, axis)
    return Case(randomized(layer, seed), x, options=options)


def batch_norm_eval(draw, seed, **limits):
    case = batch_norm(draw, seed, **limits)
    for batch in range(3):  # so that the running statistics are not 0 and 1
        case.layer(3 * normal(seed + batch, case.x.shape) + 1)
    case.train = False
    return case


def layer_norm(draw, seed, norms=NORMS):
    shape = draw(st.sampled_from([(4,), (7,), (2, 3), (3, 2, 2)]))
    p, eps = draw(st.sampled_from(norms)), draw(st.sampled_from([0.0, 1e-5, 0.5]))
    layer = nn.LayerNorm(shape, p=p, eps=eps, affine=draw(st.booleans()))
    samples = draw(st.integers(1, 4))
    x = with_gaps(seed, math.prod(shape), samples).reshape(samples, *shape)
    return Case(randomized(layer, seed), x, options={"shape": shape, "eps": eps})


def residual(draw, seed):
    stride = draw(st.sampled_from([None, 1, 2]))
    shortcut = None if stride is None else nn.Conv2d(3, 3, 1, stride=stride)
    body = nn.Sequential(nn.Conv2d(3, 3, 3, stride=stride or 1, padding=1), nn.BatchNorm(3))
    return Case(randomized(nn.Residual(body, shortcut), seed), normal(seed, (2, 3, 4, 4)))


def sequential(draw, seed):
    flat = nn.Linear(8, 4)
    head = [flat, nn.LayerNorm(4), nn.Linear(4, 4)]
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm(2, p=3), nn.AvgPool2d(2), nn.Flatten(), *head]
    for _ in range(draw(st.integers(0, 2))):  # one layer several times
        layers.append(head[-1])
    return Case(randomized(nn.Sequential(*layers), seed), normal(seed, (3, 1, 6, 6)))


KINDS = {
    "Linear": linear,
    "Conv2d": conv2d,
    "MaxPool2d": max_pool,
    "AvgPool2d": avg_pool,
    "GlobalAvgPool2d": global_avg_pool,
    "Flatten": flatten,
    "ReLU": relu,
    "BatchNorm": batch_norm,
    "BatchNorm, train=False": batch_norm_eval,
    "LayerNorm": layer_norm,
    "Residual": residual,
    "Sequential": sequential,
}


@st.composite
def cases(draw, kind, **limits):
    return {**KINDS, **COMBINED}[kind](draw, draw(seeds), **limits)


every_kind = pytest.mark.parametrize("kind", KINDS)


def mean_only(draw, seed):
    channels, others = draw(st.integers(1, 3)), pair(draw, 2, 4)
    axis = draw(st.sampled_from([0, 1, 2, -1]))
    shape = list(others)
    shape.insert(axis % 3, channels)
    layer = nn.MeanOnlyBatchNorm(channels, axis=axis)
    return Case(randomized(layer, seed), normal(seed, tuple(shape)), draw(st.booleans()))


def weight_norm(draw, seed, wrap=nn.WeightNorm):
    """Of a convolution whose channels' weights keep away from the kinks of their norm."""
    inputs, outputs = pair(draw, 1, 3)
    options, size = draw_windows(draw, pool=False)
    layer = nn.Conv2d(inputs, outputs, dtype="float64", **options)
    shape = layer.weight.data.shape
    rng, n = np.random.default_rng(seed), math.prod(shape[1:])
    sizes = rng.permuted(np.arange(n) + rng.uniform(0.2, 0.8, (outputs, n)), axis=1)  # no ties
    layer.weight.data = (sizes * rng.choice([-1, 1], sizes.shape)).reshape(shape)
    layer = wrap(layer, p=draw(st.sampled_from([1, 1.5, 2, 3, math.inf])))
    return Case(layer, normal(seed, (draw(st.integers(1, 3)), inputs, *size)))


def bounded_weight_norm(draw, seed):
    return weight_norm(draw, seed, nn.BoundedWeightNorm)


def block(draw, seed):
    """What a network is made of, with images of more than a vector's values."""
    p, stride = draw(st.sampled_from([1, 2, math.inf])), draw(st.sampled_from([1, 2]))
    conv = nn.Conv2d(3, 4, 3, stride=stride, padding=1, bias=False)
    body = nn.Sequential(conv, nn.BatchNorm(4, p=p), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    residual = nn.Residual(body, nn.Conv2d(3, 4, 1, stride=stride))
    pool = draw(st.sampled_from([nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2)]))
    head = [nn.MeanOnlyBatchNorm(4), nn.ReLU(), pool, nn.GlobalAvgPool2d(), nn.Linear(4, 3)]
    return Case(randomized(nn.Sequential(residual, *head), seed), normal(seed, (3, 3, 7, 6)))


COMBINED = {
    "MeanOnlyBatchNorm": mean_only,
    "WeightNorm": weight_norm,
    "BoundedWeightNorm": bounded_weight_norm,
    "a block": block,
}


# --- gradients ------------------------------------------------------------------------------------


def run(xp, case, x=None):
    """y as a NumPy array, and backward from and to NumPy arrays."""
    y, backward = case.layer(xp(case.x if x is None else x), case.train)
    return xp.numpy(y), lambda dy: xp.numpy(backward(xp(dy)))


def gradients(xp, case, dy):
    """dx and every parameter's gradient, by name, starting from none."""
    for parameter in case.layer.parameters():
        parameter.grad = None
    found = {"x": run(xp, case)[1](dy)}
    return found | {p.name: xp.numpy(p.grad) for p in case.layer.parameters()}


def assert_slope(loss, value, gradient, seed):
    """<v, gradient> is the slope of the loss along a random direction v."""
    v = normal(seed, value.shape)
    slope, size = directional(loss, value, v), np.linalg.norm(v) * np.linalg.norm(gradient)
    assert abs((v * gradient).sum() - slope) <= 1e-6 * size + 1e-7


def assert_gradients(xp, case, seed):
    """dx and parameter gradients for a random dy agree with central differences."""
    dy = normal(seed, run(xp, case)[0].shape)
    found = gradients(xp, case, dy)
    assert_slope(lambda x: (dy * run(xp, case, x)[0]).sum(), case.x, found["x"], seed + 1)
    for parameter in case.layer.parameters():
        data = parameter.data

        def loss(value, parameter=parameter):
            parameter.data = xp(value)
            return (dy * run(xp, case)[0]).sum()

        assert_slope(loss, xp.numpy(data), found[parameter.name], seed + 2)
        parameter.data = data


@every_kind
@given(data=st.data(), seed=seeds)
def test_gradients_are_those_of_finite_differences(xp, kind, data, seed):
    case = data.draw(cases(kind))
    on(xp, case.layer)
    assert_gradients(xp, case, seed)


@pytest.mark.parametrize("kind", COMBINED)
@given(data=st.data(), seed=seeds)
def test_gradients_of_layers_around_and_among_layers(xp, kind, data, seed):
    case = data.draw(cases(kind))
    on(xp, case.layer)
    assert_gradients(xp, case, seed)


@pytest.mark.parametrize("xp", ["numpy"], indirect=True)
@pytest.mark.parametrize("kind", [*KINDS, *COMBINED])
@given(data=st.data(), seed=seeds)
def test_gradients_of_compiled_layers(xp, kind, data, seed):
    fast = pytest.importorskip("lpnorm.fast", exc_type=ImportError)
    case = data.draw(cases(kind))
    case.layer.to(impl=fast)
    assert_gradients(xp, case, seed)


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_every_norm_in_batch_norm(xp, p, train):
    layer = randomized(nn.BatchNorm(3, p=p), 0)
    for seed in range(3):
        layer(3 * normal(seed, (2, 3, 4)) + 1)
    x = with_gaps(1, 8, 3).reshape(3, 2, 4).swapaxes(0, 1)
    assert_gradients(xp, Case(on(xp, layer), x, train), seed=2)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm, lambda c: nn.BatchNorm(c, p=math.inf)])
def test_a_whole_network(xp, norm):
    """With random biases: behind dead units a bias of 0 puts the next ReLU on its kink."""
    model = on(xp, randomized(models.digits_net(norm, width=2), 3))
    assert_gradients(xp, Case(model, normal(4, (4, 1, 8, 8))), seed=5)


@pytest.mark.parametrize(
    ("network", "side"),
    [
        (lambda: models.vgg11(width=2, classes=3), 32),
        (lambda: models.resnet(8, width=2, classes=3), 8),
    ],
)
def test_the_networks_for_cifar(xp, network, side):
    model = on(xp, randomized(network(), 6))
    assert_gradients(xp, Case(model, normal(7, (3, 3, side, side))), seed=8)


@given(seed=seeds, n=st.integers(1, 4), classes=st.integers(1, 5))
def test_the_gradient_of_the_loss(xp, seed, n, classes):
    logits, labels = 3 * normal(seed, (n, classes)), np.arange(n) % classes
    _, dlogits = nn.softmax_cross_entropy(xp(logits), xp(labels))
    found = xp.numpy(dlogits)
    assert_slope(lambda z: nn.softmax_cross_entropy(xp(z), xp(labels))[0], logits, found, seed + 1)
    assert_close(found.sum(axis=1), np.zeros(n))


def test_going_back_does_not_depend_on_what_came_later(xp):
    """A layer is called twice before going back, and its weight changes in between."""
    layer, x, dy = on(xp, nn.Linear(3, 2)), normal(0, (4, 3)), xp(normal(1, (4, 2)))
    _, backward = layer(xp(x))
    want = xp.numpy(backward(dy))
    _, second = layer(xp(2 * x))
    layer.weight.data = 5 * layer.weight.data
    layer.weight.grad = None
    assert (xp.numpy(backward(dy)) == want).all()
    first_grad = xp.numpy(layer.weight.grad)
    assert_close(first_grad, xp.numpy(dy).T @ x)
    second(dy)
    assert_close(xp.numpy(layer.weight.grad), 3 * first_grad)


@every_kind
@given(data=st.data(), seed=seeds)
def test_called_twice_before_going_back(xp, kind, data, seed):
    case = data.draw(cases(kind))
    on(xp, case.layer)
    other = Case(case.layer, case.x * 2 + 1, case.train)
    dy = normal(seed, run(xp, case)[0].shape)
    alone, other_alone = gradients(xp, case, dy), gradients(xp, other, dy)
    for parameter in case.layer.parameters():
        parameter.grad = None
    backward, other_backward = run(xp, case)[1], run(xp, other)[1]
    assert (backward(dy) == alone["x"]).all()
    assert (other_backward(dy) == other_alone["x"]).all()
    for parameter in case.layer.parameters():
        both = alone[parameter.name] + other_alone[parameter.name]
        assert_close(xp.numpy(parameter.grad), both)


@every_kind
@given(data=st.data(), seed=seeds)
def test_backward_twice_gives_the_same_and_gradients_add_up(xp, kind, data, seed):
    case = data.draw(cases(kind))
    on(xp, case.layer)
    y, backward = run(xp, case)
    dy = normal(seed, y.shape)
    once = gradients(xp, case, dy)
    for parameter in case.layer.parameters():
        parameter.grad = None
    assert (backward(dy) == once["x"]).all()
    kept = [p.grad for p in case.layer.parameters()]
    copies = [xp.numpy(grad).copy() for grad in kept]
    assert (backward(dy) == once["x"]).all()
    for parameter, grad, copy in zip(case.layer.parameters(), kept, copies, strict=True):
        assert_close(xp.numpy(parameter.grad), 2 * once[parameter.name])
        assert (xp.numpy(grad) == copy).all()  # who kept the old gradient still has it


# --- what layers do with the arrays they are given ------------------------------------------------


@every_kind
@given(data=st.data())
def test_inputs_are_not_modified_and_may_be_read_only(xp, kind, data):
    case = data.draw(cases(kind))
    on(xp, case.layer)
    x, dy = xp(case.x), xp(normal(0, run(xp, case)[0].shape))
    arrays = [x, dy, *(p.data for p in case.layer.parameters())]
    before = [xp.numpy(a).copy() for a in arrays]
    if xp.module is np:
        for a in arrays:
            a.flags.writeable = False
    _, backward = case.layer(x, case.train)
    backward(dy)
    backward(dy)
    for a, old in zip(arrays, before, strict=True):
        assert (xp.numpy(a) == old).all()


def strided(xp, a):
    """The same values, every second entry of a larger array with the axes in reverse order."""
    larger = np.zeros([2 * size for size in a.shape[::-1]], a.dtype)
    view = xp(larger).transpose()[(slice(None, None, 2),) * a.ndim]
    view[...] = xp(a)
    return view


@every_kind
@given(data=st.data(), seed=seeds)
def test_memory_layout_does_not_matter(xp, kind, data, seed):
    case = data.draw(cases(kind))
    on(xp, case.layer)
    y, _ = run(xp, case)
    dy = normal(seed, y.shape)
    want = gradients(xp, case, dy)
    for parameter in case.layer.parameters():
        parameter.grad = None
    other_y, backward = case.layer(strided(xp, case.x), case.train)
    assert_close(xp.numpy(other_y), y)
    assert_close(xp.numpy(backward(strided(xp, dy))), want["x"])
    for parameter in case.layer.parameters():
        assert_close(xp.numpy(parameter.grad), want[parameter.name])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Flatten"])
@given(data=st.data(), seed=seeds)
def test_writing_into_y_changes_nothing_but_y(xp, kind, data, seed):
    """`y += skip` is something that people write. (Flatten's y is a view of x.)"""
    case = data.draw(cases(kind))
    on(xp, case.layer)
    x = xp(case.x)
    y, backward = case.layer(x, case.train)
    dy = xp(normal(seed, y.shape))
    want = xp.numpy(backward(dy)).copy()
    y += 5
    assert (xp.numpy(x) == case.x).all()
    assert (xp.numpy(backward(dy)) == want).all()


@every_kind
@given(dtype=st.sampled_from(DTYPES), data=st.data(), seed=seeds)
def test_the_dtype_stays(xp, kind, dtype, data, seed):
    case = data.draw(cases(kind))
    layer = on(xp, case.layer, dtype)
    y, backward = layer(xp(case.x, dtype), case.train)
    dx = backward(xp(normal(seed, y.shape), dtype))
    arrays = [y, dx, *(p.data for p in layer.parameters()), *(p.grad for p in layer.parameters())]
    assert {str(a.dtype) for a in arrays} == {dtype}
    statistics = [a for name, a in layer.state().items() if "running" in name]
    wide = "float32" if dtype == "float16" else dtype
    assert {str(a.dtype) for a in statistics} <= {wide}
    assert dx.shape == case.x.shape


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "AvgPool2d", "GlobalAvgPool2d"])
@given(data=st.data(), seed=seeds)
def test_lower_precision_is_off_by_a_few_roundings(xp, kind, dtype, data, seed):
    """The values are float16 numbers, so the inputs are the same."""
    case = data.draw(cases(kind))
    on(xp, case.layer)
    dy = normal(seed, run(xp, case)[0].shape)
    want = {"y": run(xp, case)[0], **gradients(xp, case, dy)}
    on(xp, case.layer, dtype)
    low = Case(case.layer, case.x.astype(dtype))
    got = {"y": run(xp, low)[0], **gradients(xp, low, dy.astype(dtype))}
    for name, value in want.items():
        assert_close(got[name], value, 30 * PRECISION[dtype])


def test_float16_sums_of_many_values(xp):
    """A sum kept in float16 would stop at 2048: 2048 + 1 is 2048."""
    many, ones = 4104, lambda *shape: xp(np.ones(shape), "float16")
    linear = on(xp, nn.Linear(many, 1), "float16")
    linear.weight.data = ones(1, many)
    assert xp.numpy(linear(ones(1, many))[0]) == many
    for layer, shape in ((nn.Linear(1, 1), (many, 1)), (nn.Conv2d(1, 1, 1), (1, 1, 72, 57))):
        y, backward = on(xp, layer, "float16")(ones(*shape))
        backward(ones(*y.shape))
        assert xp.numpy(layer.weight.grad).item() == xp.numpy(layer.bias.grad).item() == many
    for pool in (nn.GlobalAvgPool2d(), nn.AvgPool2d((72, 57))):  # the sum is above 65504
        assert xp.numpy(pool(100 * ones(1, 1, 72, 57))[0]).item() == 100


@pytest.mark.parametrize("make", [lambda: nn.Linear(1, 1), lambda: nn.BatchNorm(1)])
@pytest.mark.parametrize("train", [True, False])
def test_float16_sums_over_the_batch_do_not_overflow(xp, make, train):
    """The first and third dy are added first, to 80000."""
    layer = on(xp, make(), "float16")
    _, backward = layer(xp([[0], [0], [1.5], [1.5]], "float16"), train)
    backward(xp([[40000], [-40000], [40000], [-40000]], "float16"))
    assert [xp.numpy(p.grad).item() for p in layer.parameters()] == [0, 0]


def test_float16_sums_in_the_backward_of_a_convolution_do_not_overflow(xp):
    """In the middle 36000 + 36000 - 36000: a partial sum that float16 cannot hold."""
    layer = on(xp, nn.Conv2d(1, 1, (1, 3), bias=False), "float16")
    layer.weight.data = xp([[[[1, -1, -1.5]]]], "float16")
    _, backward = layer(xp(np.zeros((1, 1, 1, 5)), "float16"))
    dx = xp.numpy(backward(xp([[[[24000, -36000, 36000]]]], "float16")))
    assert dx[0, 0, 0, 2] == 36000 and np.isfinite(dx).all()


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("pool", [nn.GlobalAvgPool2d(), nn.AvgPool2d(256)], ids=["global", "avg"])
def test_float16_averages_of_many_values_have_a_gradient(xp, pool):
    """256 * 256 = 65,536 is infinity in float16; 1024 / 65,536 is not 0."""
    y, backward = pool(xp(np.ones((1, 1, 256, 256)), "float16"))
    dx = xp.numpy(backward(1024 * y))
    assert (dx == 1024 / 65536).all()


# --- values, from the definitions -----------------------------------------------------------------


def windows_of(x, options, fill):
    """(n, c, i, j) -> the window that output (i, j) sees, (kernel height, kernel width)."""
    (kh, kw), (down, right), (above, left) = (options[o] for o in ("kernel", "stride", "padding"))
    padded = np.pad(x, ((0, 0), (0, 0), (above, above), (left, left)), constant_values=fill)
    height = (x.shape[2] + 2 * above - kh) // down + 1
    width = (x.shape[3] + 2 * left - kw) // right + 1
    seen = np.zeros((*x.shape[:2], height, width, kh, kw))
    for i in range(height):
        for j in range(width):
            seen[:, :, i, j] = padded[:, :, i * down :, j * right :][:, :, :kh, :kw]
    return seen


@given(case=cases("Conv2d"))
def test_convolution_by_its_definition(xp, case):
    w = case.layer.weight.data.copy()
    bias = 0 if case.layer.bias is None else case.layer.bias.data[:, None, None]
    seen = windows_of(case.x, case.options, 0.0)  # (N, C, H', W', kh, kw)
    want = [[(sample * kernel[:, None, None]).sum((0, 3, 4)) for kernel in w] for sample in seen]
    on(xp, case.layer)
    assert_close(run(xp, case)[0], np.array(want) + bias)


@given(case=cases("MaxPool2d"))
def test_max_pooling_by_its_definition(xp, case):
    want = windows_of(case.x, case.options, -math.inf).max(axis=(4, 5))
    assert (run(xp, case)[0] == want).all()


@given(case=cases("AvgPool2d"))
def test_average_pooling_by_its_definition(xp, case):
    assert_close(run(xp, case)[0], windows_of(case.x, case.options, 0.0).mean(axis=(4, 5)))


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.AvgPool2d((2, 2))])
def test_the_stride_of_a_pool_is_its_kernel_unless_given(xp, layer):
    assert layer(xp(np.zeros((1, 1, 4, 6))))[0].shape == (1, 1, 2, 3)


def test_tied_values_send_the_gradient_of_max_pooling_to_the_first(xp):
    x = [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    _, backward = nn.MaxPool2d((2, 2), stride=(2, 1))(xp([[x]]))
    dx = xp.numpy(backward(xp([[[[3.0, 5.0]]]])))
    assert dx.tolist() == [[[[0, 8, 0], [0, 0, 0]]]]


def test_max_pooling_never_answers_with_its_padding(xp):
    y, backward = nn.MaxPool2d(3, stride=1, padding=1)(xp(np.full((1, 1, 2, 2), -7.0)))
    assert (xp.numpy(y) == -7).all()
    assert xp.numpy(backward(1 + 0 * y)).tolist() == [[[[4, 0], [0, 0]]]]


@given(case=cases("GlobalAvgPool2d"))
def test_global_average_pooling_by_its_definition(xp, case):
    assert_close(run(xp, case)[0], case.x.mean(axis=(2, 3)))


@given(case=cases("ReLU"))
def test_relu_by_its_definition(xp, case):
    assert (run(xp, case)[0] == np.where(case.x > 0, case.x, 0)).all()


def test_relu_at_zero_infinity_and_nan(xp):
    y, backward = nn.ReLU()(xp([0.0, -0.0, np.nan, 2.0, -np.inf, np.inf]))
    assert np.array_equal(xp.numpy(y), [0, 0, np.nan, 2, 0, np.inf], equal_nan=True)
    assert xp.numpy(backward(xp(np.ones(6))))[[0, 1, 3, 4, 5]].tolist() == [0, 0, 1, 0, 1]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_goes_only_where_y_came_from(xp, bad):
    _, backward = nn.ReLU()(xp([-1.0, 0.0, 1.0]))
    dx = xp.numpy(backward(xp([bad, bad, bad])))
    assert np.array_equal(dx, [0, 0, bad], equal_nan=True)
    _, backward = nn.MaxPool2d(2)(xp([[[[1.0, 2.0], [0.0, -1.0]]]]))
    dx = xp.numpy(backward(xp([[[[bad]]]])))
    assert np.array_equal(dx, [[[[0, bad], [0, 0]]]], equal_nan=True)


@given(case=cases("Linear"))
def test_linear_by_its_definition(xp, case):
    w, bias = case.layer.weight.data.copy(), case.layer.bias
    want = [[math.fsum(row * x) for row in w] for x in case.x]
    want = np.array(want) + (0 if bias is None else bias.data)
    on(xp, case.layer)
    assert_close(run(xp, case)[0], want)


@given(case=cases("LayerNorm"))
def test_layer_norm_by_the_oracle(xp, case):
    layer, axes = case.layer, tuple(range(1, case.x.ndim))
    gamma = None if layer.gamma is None else layer.gamma.data.copy()
    beta = None if layer.beta is None else layer.beta.data.copy()
    p, eps = layer.arguments["p"], case.options["eps"]
    want = oracle.layer_norm(case.x, gamma, beta, p=p, axis=axes, eps=eps).y
    on(xp, layer)
    assert_close(run(xp, case)[0], want, 1e-11)


@given(case=cases("Residual"))
def test_residual_by_its_definition(xp, case):
    on(xp, case.layer)
    x, body, shortcut = xp(case.x), case.layer.body, case.layer.shortcut
    side = x if shortcut is None else shortcut(x)[0]
    assert (run(xp, case)[0] == xp.numpy(body(x)[0] + side)).all()


@given(seed=seeds, n=st.integers(1, 4), classes=st.integers(1, 5), size=st.sampled_from([1, 1e4]))
def test_the_loss_by_its_definition(xp, seed, n, classes, size):
    logits, labels = size * normal(seed, (n, classes)), np.arange(n) % classes
    losses = []
    for z, label in zip(logits, labels, strict=True):
        losses.append(math.log(math.fsum(np.exp(z - z.max()))) + z.max() - z[label])
    loss, _ = nn.softmax_cross_entropy(xp(logits), xp(labels))
    assert isinstance(loss, float)
    assert_close(loss, math.fsum(losses) / n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_keeps_the_dtype_and_does_not_overflow(xp, dtype):
    logits, labels = xp([[60000.0, -60000.0], [0.0, 0.0]], dtype), xp([1, 0])
    loss, dlogits = nn.softmax_cross_entropy(logits, labels)
    want = (np.float64(np.array(60000, dtype)) * 2 + math.log(2)) / 2
    assert loss == pytest.approx(want, rel=1e-6)
    assert dlogits.dtype == dtype
    assert xp.numpy(dlogits).tolist() == [[0.5, -0.5], [-0.25, 0.25]]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_loss_of_logits_that_are_not_finite(xp, bad):
    loss, _ = nn.softmax_cross_entropy(xp([[0.0, bad], [0.0, 1.0]]), xp([0, 1]))
    assert math.isnan(loss)


# --- values and gradients, from PyTorch -----------------------------------------------------------


def torch_batch_norm(f, x, p, case):
    mean, scale = (t.clone() for t in (p["running_mean"], p["running_scale"]))
    eps, train = case.options["eps"], case.train
    variance = scale**2 - eps
    eps = max(eps, 1e-300)  # PyTorch refuses 0
    return f.batch_norm(x, mean, variance, p.get("gamma"), p.get("beta"), train, 0.1, eps)


TWINS = {
    "Linear": lambda f, x, p, case: f.linear(x, p["weight"], p.get("bias")),
    "Conv2d": lambda f, x, p, case: f.conv2d(
        x, p["weight"], p.get("bias"), case.options["stride"], case.options["padding"]
    ),
    "MaxPool2d": lambda f, x, p, case: f.max_pool2d(x, *case.options.values()),
    "AvgPool2d": lambda f, x, p, case: f.avg_pool2d(x, *case.options.values()),
    "LayerNorm": lambda f, x, p, case: f.layer_norm(
        x, case.options["shape"], p.get("gamma"), p.get("beta"), case.options["eps"]
    ),
    "BatchNorm": torch_batch_norm,
    "BatchNorm, train=False": torch_batch_norm,
}
PYTORCH_HAS = {
    "LayerNorm": {"norms": [2]},
    "BatchNorm": {"norms": [2], "axes": [1]},
    "BatchNorm, train=False": {"norms": [2], "axes": [1]},
}


@pytest.mark.parametrize("kind", TWINS)
@given(data=st.data(), seed=seeds)
def test_agrees_with_pytorch(xp, kind, data, seed):
    torch = pytest.importorskip("torch")
    case = data.draw(cases(kind, **PYTORCH_HAS.get(kind, {})))
    state = {name: torch.tensor(a.copy()) for name, a in case.layer.state().items()}
    names = [p.name for p in case.layer.parameters()]
    x = torch.tensor(case.x.copy(), requires_grad=True)
    for name in names:
        state[name].requires_grad = True
    want = TWINS[kind](torch.nn.functional, x, state, case)
    dy = normal(seed, tuple(want.shape))
    want.backward(torch.tensor(dy))

    on(xp, case.layer)
    assert_close(run(xp, case)[0], want.detach().numpy())
    got = gradients(xp, case, dy)
    assert_close(got["x"], x.grad.numpy())
    for name in names:
        assert_close(got[name], state[name].grad.numpy())


@given(seed=seeds, n=st.integers(1, 4), classes=st.integers(1, 5))
def test_the_loss_agrees_with_pytorch(xp, seed, n, classes):
    torch = pytest.importorskip("torch")
    logits, labels = 3 * normal(seed, (n, classes)), np.arange(n) % classes
    z = torch.tensor(logits, requires_grad=True)
    want = torch.nn.functional.cross_entropy(z, torch.tensor(labels))
    want.backward()
    loss, dlogits = nn.softmax_cross_entropy(xp(logits), xp(labels))
    assert_close(loss, want.item())
    assert_close(xp.numpy(dlogits), z.grad.numpy())


def test_the_running_mean_is_that_of_pytorch(xp):
    torch = pytest.importorskip("torch")
    ours = on(xp, nn.BatchNorm(3, momentum=0.3))
    theirs = torch.nn.BatchNorm1d(3, momentum=0.3, dtype=torch.float64)
    for seed in range(5):
        x = 2 * normal(seed, (4, 3)) + 1
        ours(xp(x))
        theirs(torch.tensor(x))
    assert_close(xp.numpy(ours.running_mean), theirs.running_mean.numpy())


# --- batch norm's running statistics --------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0, 0.1, 0.75, 1])
@pytest.mark.parametrize("p", NORMS, ids=str)
def test_running_statistics_follow_the_recursion(xp, p, momentum):
    layer = on(xp, nn.BatchNorm(3, p=p, momentum=momentum, eps=0.5))
    mean, scale = np.zeros(3), np.ones(3)
    for seed in range(4):
        x = (seed + 1) * normal(seed, (4, 3, 2)) + seed
        batch = oracle.batch_norm(x, None, None, p=p, eps=0.5)
        mean = (1 - momentum) * mean + momentum * batch.mean
        scale = (1 - momentum) * scale + momentum * batch.scale
        layer(xp(x))
    assert_close(xp.numpy(layer.running_mean), mean)
    assert_close(xp.numpy(layer.running_scale), scale)


def test_batch_norm_passes_its_arguments_on(xp):
    """constant and accumulate reach the function."""
    x = xp(normal(0, (16, 3)), "float32")
    paper, exact = (
        on(xp, nn.BatchNorm(3, p=math.inf, constant=c), "float32") for c in ("paper", "exact")
    )
    ratio = xp.numpy(paper(x)[0]) / xp.numpy(exact(x)[0])
    n = 16
    want = lpnorm.gaussian_constant(math.inf, n, "exact") / lpnorm.gaussian_constant(math.inf, n)
    assert np.allclose(ratio, want, rtol=1e-3)
    wide = on(xp, nn.BatchNorm(1, p=1, accumulate="float64"), "float32")
    wide(xp(np.full((4096, 1), 0.1), "float32"))
    assert float(wide.running_mean[0]) == pytest.approx(0.1 * float(np.float32(0.1)), rel=1e-15)


def test_evaluation_uses_the_running_statistics_and_leaves_them(xp):
    layer = on(xp, randomized(nn.BatchNorm(3, p=1), 0))
    layer(xp(2 * normal(1, (4, 3, 2)) + 1))
    before = {name: xp.numpy(a).copy() for name, a in layer.state().items()}
    x = normal(2, (5, 3, 2))
    y = xp.numpy(layer(xp(x), train=False)[0])
    column = {name: a[:, None] for name, a in before.items()}
    x_hat = (x - column["running_mean"]) / column["running_scale"]
    assert_close(y, column["gamma"] * x_hat + column["beta"])
    assert (xp.numpy(layer(xp(x[1:2]), train=False)[0]) == y[1:2]).all()  # sample by sample
    after = layer.state()
    assert all((xp.numpy(after[name]) == before[name]).all() for name in before)


@pytest.mark.parametrize("train", [True, False])
def test_a_backward_remembers_the_statistics_of_its_forward(xp, train):
    layer, dy = on(xp, nn.BatchNorm(3)), xp(normal(0, (4, 3)))
    _, backward = layer(xp(normal(1, (4, 3))), train)
    want = xp.numpy(backward(dy)).copy()
    for seed in range(3):
        layer(xp(9 * normal(seed, (4, 3)) + 5))
    layer.gamma.data = 3 * layer.gamma.data
    assert (xp.numpy(backward(dy)) == want).all()


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("p", NORMS, ids=str)
def test_nan_in_one_channel_stays_there(xp, p, bad):
    layer, x = on(xp, nn.BatchNorm(3, p=p)), normal(0, (4, 3, 2))
    clean = layer(xp(x))[0]
    x[1, 1, 0] = bad
    y, backward = layer(xp(x))
    arrays = [xp.numpy(a) for a in (y, backward(clean))]
    for a in arrays:
        assert np.isnan(a[:, 1]).all() and np.isfinite(a[:, [0, 2]]).all()
    assert (arrays[0][:, [0, 2]] == xp.numpy(clean)[:, [0, 2]]).all()
    for a in (layer.running_mean, layer.running_scale, layer.gamma.grad):
        assert np.isfinite(xp.numpy(a)).tolist() == [True, False, True]


@pytest.mark.parametrize("accumulate", ["float32", "float64"])
def test_running_statistics_keep_the_accumulator_that_was_asked_for(xp, accumulate):
    layer = nn.BatchNorm(2, accumulate=accumulate)
    assert layer.running_mean.dtype == accumulate
    on(xp, layer, "float32")
    assert layer.running_mean.dtype == layer.running_scale.dtype == accumulate
    layer(xp(normal(0, (4, 2)), "float32"))
    assert layer.running_mean.dtype == layer.running_scale.dtype == accumulate


DEFAULTS = {
    "Linear": lambda: nn.Linear(3, 2),
    "Conv2d": lambda: nn.Conv2d(1, 2, 3),
    "BatchNorm": lambda: nn.BatchNorm(3),
    "LayerNorm": lambda: nn.LayerNorm(3),
    "MeanOnlyBatchNorm": lambda: nn.MeanOnlyBatchNorm(3),
    "WeightNorm": lambda: nn.WeightNorm(nn.Linear(3, 2)),
    "BoundedWeightNorm": lambda: nn.BoundedWeightNorm(nn.Linear(3, 2)),
}


@pytest.mark.parametrize("layer", DEFAULTS)
def test_unless_asked_everything_a_layer_holds_is_float32(layer):
    state = DEFAULTS[layer]().state()
    assert state and {array.dtype.name for array in state.values()} == {"float32"}


@pytest.mark.parametrize("wrong", ["int32", "complex64", "half-ish", None, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda **dtype: nn.Linear(3, 2, **dtype),
        lambda **dtype: nn.Conv2d(1, 2, 3, **dtype),
        lambda **dtype: nn.BatchNorm(3, **dtype),
        lambda **dtype: nn.BatchNorm(3, affine=False, **dtype),
        lambda **dtype: nn.LayerNorm(3, **dtype),
        lambda **dtype: nn.LayerNorm(3, affine=False, **dtype),
        lambda **dtype: nn.MeanOnlyBatchNorm(3, **dtype),
    ],
)
def test_no_layer_takes_another_dtype(make, wrong):
    with pytest.raises(TypeError, match=f"^dtype must be one of float16.* got {wrong!r}"):
        make(dtype=wrong)


SIGNATURES = {
    "Linear": "inputs, outputs, bias=True, init='he', rng=0, dtype='float32', impl=None",
    "Conv2d": "inputs, outputs, kernel=3, stride=1, padding=0, bias=True, init='he', rng=0, "
    "dtype='float32', impl=None",
    "BatchNorm": "channels, p=2, axis=1, eps=1e-05, momentum=0.1, constant='paper', "
    "accumulate=None, affine=True, impl=None, dtype='float32'",
    "LayerNorm": "shape, p=2, axis=None, eps=1e-05, constant='paper', accumulate=None, "
    "affine=True, impl=None, dtype='float32'",
    "MeanOnlyBatchNorm": "channels, axis=1, momentum=0.1, dtype='float32', impl=None",
    "WeightNorm": "layer, p=2, axis=0, weights=('weight',), impl=None",
    "BoundedWeightNorm": "layer, p=2, axis=0, weights=('weight',), impl=None",
    "MaxPool2d": "kernel, stride=None, padding=0, impl=None",
    "AvgPool2d": "kernel, stride=None, padding=0, impl=None",
    "GlobalAvgPool2d": "impl=None",
    "ReLU": "impl=None",
    "Residual": "body, shortcut=None, impl=None",
    "initialize": "model, rng=0, init='he'",
    "softmax_cross_entropy": "logits, labels, scale=1.0, impl=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_published_ones(name):
    parameters = inspect.signature(getattr(nn, name)).parameters.values()
    found = [p.name + ("" if p.default is p.empty else f"={p.default!r}") for p in parameters]
    assert ", ".join(found) == SIGNATURES[name]


# --- names, sharing, watching ---------------------------------------------------------------------


def test_parameters_are_named_by_their_path():
    body = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm(1))
    model = nn.Sequential(nn.Residual(body, nn.Conv2d(1, 1, 1)), nn.ReLU(), nn.LayerNorm(3))
    names = [p.name for p in model.parameters()]
    residual = ["body.0.weight", "body.1.gamma", "body.1.beta", "shortcut.weight", "shortcut.bias"]
    assert names == [*("0." + name for name in residual), "2.gamma", "2.beta"]
    assert [p.name for p in body.parameters()] == ["0.weight", "1.gamma", "1.beta"]


def test_only_asking_for_parameters_gives_names():
    """Not looking at a state, moving, saving or loading: who did that last does not matter."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm(2))
    names = [p.name for p in model.parameters()]
    model[0].load_state(model[0].state())
    model[1].to(dtype="float32")
    held = [*model[0].children().values(), *model[1].children().values()]
    assert [p.name for p in held] == names
    assert list(model[0].state()) == ["weight", "bias"] and list(model.state())[:4] == names


@pytest.mark.parametrize("layer, shape", [
    (lambda: nn.Linear(3, 2), (1, 3)),
    (lambda: nn.Conv2d(1, 2, 1), (1, 1, 1, 1)),
    (lambda: nn.Conv2d(1, 1, 1), (1, 1, 3, 3)),
    (lambda: nn.MeanOnlyBatchNorm(3), (1, 3)),
    (lambda: nn.LayerNorm(3), (1, 3)),
    (lambda: nn.BatchNorm(3), (2, 3)),
    (lambda: nn.WeightNorm(nn.Linear(3, 2)), (1, 3)),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:a training batch with one value a channel")
def test_a_gradient_that_is_kept_shares_no_memory_with_dy(layer, shape):
    """At batch 1 the sum of dy over the batch is dy itself."""
    layer = layer()
    y, backward = layer(normal(0, shape, "float32"))
    dy = normal(1, y.shape, "float32")
    dx = backward(dy)
    for parameter in layer.parameters():
        before = parameter.grad.copy()
        assert not np.shares_memory(parameter.grad, dy) and not np.shares_memory(parameter.grad, dx)
        dy += 1
        np.testing.assert_array_equal(parameter.grad, before)


def test_add_grad_copies_what_is_not_handed_over_and_never_adds_in_place(xp):
    given, parameter = xp(np.ones(2)), nn.Parameter(xp(np.zeros(2)))
    parameter.add_grad(given)
    given[...] = 7
    first = parameter.grad
    assert first.tolist() == [1, 1]
    parameter.add_grad(given, fresh=True)
    assert parameter.grad.tolist() == [8, 8]
    assert first.tolist() == [1, 1] and given.tolist() == [7, 7]
    parameter.grad = None
    parameter.add_grad(given, fresh=True)
    assert parameter.grad is given


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("layer, shape", [
    (lambda: nn.Linear(3, 2), (3,)),
    (lambda: nn.Linear(1, 1), (1,)),
    (lambda: nn.Conv2d(1, 2, 1), (1, 1, 1)),
    (lambda: nn.Conv2d(2, 2, 3, padding=1), (2, 4, 4)),
    (lambda: nn.Conv2d(1, 1, 1), (1, 3, 3)),
    (lambda: nn.MeanOnlyBatchNorm(3), (3,)),
    (lambda: nn.LayerNorm(3), (3,)),
    (lambda: nn.BatchNorm(3), (3,)),
    (lambda: nn.BatchNorm(3, impl=models.implementation()), (3, 2, 2)),
    (lambda: nn.WeightNorm(nn.Linear(3, 2)), (3,)),
    (lambda: nn.BoundedWeightNorm(nn.Conv2d(2, 2, 3)), (2, 4, 4)),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:a training batch with one value a channel")
def test_a_gradient_that_is_handed_over_is_nobody_elses(monkeypatch, n, layer, shape):
    """Every layer's: those given with fresh=True, and those of weights, which are the large ones.

    Nothing shares memory with them, and the backward does not look at them again.
    """
    layer, handed, original = layer(), [], nn.Parameter.add_grad

    def add_grad(self, grad, fresh=False):
        if fresh or grad.ndim > 1:
            handed.append(grad)
        original(self, grad, fresh)

    monkeypatch.setattr(nn.Parameter, "add_grad", add_grad)
    monkeypatch.setattr(nn.weightnorm._Computed, "add_grad", add_grad)
    x = normal(0, (n, *shape), "float32")
    y, backward = layer(x)
    dy = normal(1, y.shape, "float32")
    dx = backward(dy)
    first = [grad.copy() for grad in handed]
    assert first or not any(p.data.ndim > 1 for p in layer.parameters())
    others = [x, y, dy, dx, *(getattr(*place) for place in layer._places().values())]
    for i, grad in enumerate(handed):
        assert not any(np.shares_memory(grad, other) for other in others + handed[:i])
        grad.fill(np.nan)
    np.testing.assert_array_equal(backward(dy), dx)
    for grad, again in zip(first, handed[len(first) :], strict=True):
        np.testing.assert_array_equal(grad, again)


def test_a_shared_parameter_is_listed_once_and_collects_both_gradients(xp):
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    model = on(xp, nn.Sequential(first, nn.LayerNorm(3), second, first))
    assert [p.name for p in model.parameters()] == ["0.weight", "1.gamma", "1.beta"]
    assert first.weight is second.weight
    assert_gradients(xp, Case(model, normal(0, (2, 3))), seed=1)


def test_sequential_is_a_list_of_layers(xp):
    layers = [nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers)
    assert len(model) == 2 and model[0] is layers[0] and model[-1] is layers[1]
    y, backward = nn.Sequential()(xp([1.0, 2.0]))
    assert xp.numpy(y).tolist() == xp.numpy(backward(y)).tolist() == [1, 2]


def test_watch_sees_every_forward_inside_its_block(xp):
    model, seen = nn.Sequential(nn.ReLU(), nn.Flatten()), []
    with pytest.raises(KeyError), nn.watch(lambda layer, y: seen.append((layer, y))):
        y, _ = model(xp([[1.0]]))
        raise KeyError
    model(xp([[1.0]]))
    assert [layer for layer, _ in seen] == [*model, model]
    assert seen[-1][1] is y


# --- wrong arguments ------------------------------------------------------------------------------


def f32(*shape):
    return np.zeros(shape, "float32")


def call(layer, x, train=True):
    return lambda: layer(x, train)


def back(layer, x, dy):
    return lambda: layer(x)[1](dy)


def loss(logits, labels):
    return lambda: nn.softmax_cross_entropy(logits, labels)


INTEGERS = np.arange(4).reshape(1, 1, 2, 2)

# fmt: off
WRONG = {  # name: (what is done, the error, words that its message has)
    "Linear, features": (call(nn.Linear(3, 2), f32(4, 2)), ValueError, ["Linear", "3", "(4, 2)"]),
    "Linear, axes": (call(nn.Linear(3, 2), f32(4, 1, 3)), ValueError, ["Linear", "(4, 1, 3)"]),
    "Linear, dtype": (call(nn.Linear(3, 2), np.zeros((1, 3))), TypeError, ["Linear", "float64"]),
    "Linear, a list": (call(nn.Linear(1, 2), [[1.0]]), TypeError, ["x", "list"]),
    "Linear, dy": (back(nn.Linear(3, 2), f32(4, 3), f32(1, 2)), ValueError, ["dy", "(1, 2)"]),
    "Linear, dy's dtype": (
        back(nn.Linear(3, 2), f32(4, 3), np.ones((4, 2))), TypeError, ["dy", "float64"]),
    "Linear, outputs": (lambda: nn.Linear(3, 0), ValueError, ["outputs"]),
    "Linear, init": (lambda: nn.Linear(3, 2, init="zero"), ValueError, ["init", "zero"]),
    "Linear, integers": (lambda: nn.Linear(3, 2, dtype="int32"), TypeError, ["dtype", "int32"]),
    "Conv2d, channels": (call(nn.Conv2d(3, 2), f32(1, 2, 5, 5)), ValueError, ["Conv2d", "3"]),
    "Conv2d, small": (call(nn.Conv2d(1, 2), f32(1, 1, 2, 5)), ValueError, ["Conv2d", "kernel"]),
    "Conv2d, padded": (
        call(nn.Conv2d(1, 2, 5, padding=1), f32(1, 1, 2, 9)), ValueError, ["(1, 1)", "(5, 5)"]),
    "Conv2d, empty": (call(nn.Conv2d(1, 2), f32(0, 1, 5, 5)), ValueError, ["x", "empty"]),
    "Conv2d, dy": (
        back(nn.Conv2d(1, 2, 1), f32(2, 1, 3, 5), f32(2, 2, 5, 3)), ValueError, ["dy", "5, 3)"]),
    "Conv2d, kernel": (lambda: nn.Conv2d(1, 2, (3, 0)), ValueError, ["kernel", "0"]),
    "Conv2d, three": (lambda: nn.Conv2d(1, 2, (3, 3, 3)), ValueError, ["kernel", "(3, 3, 3)"]),
    "Conv2d, stride": (lambda: nn.Conv2d(1, 2, 3, stride=1.5), TypeError, ["stride", "1.5"]),
    "Conv2d, padding": (lambda: nn.Conv2d(1, 2, 3, padding=-1), ValueError, ["padding", "-1"]),
    "ReLU, dy": (back(nn.ReLU(), f32(4, 3), f32(3)), ValueError, ["dy", "(3,)"]),
    "MaxPool2d, axes": (call(nn.MaxPool2d(2), f32(4, 4)), ValueError, ["x", "(4, 4)"]),
    "MaxPool2d, padding": (lambda: nn.MaxPool2d(2, padding=2), ValueError, ["padding", "half"]),
    "AvgPool2d, padding": (lambda: nn.AvgPool2d(3, padding=2), ValueError, ["padding", "half"]),
    "AvgPool2d, integers": (call(nn.AvgPool2d(2), INTEGERS), TypeError, ["x", "int"]),
    "GlobalAvgPool2d": (call(nn.GlobalAvgPool2d(), f32(4, 4)), ValueError, ["x", "(4, 4)"]),
    "BatchNorm, channels": (call(nn.BatchNorm(3), f32(2, 4)), ValueError, ["BatchNorm", "3"]),
    "BatchNorm, a list": (call(nn.BatchNorm(1), [[1.0]]), TypeError, ["x", "list"]),
    "BatchNorm, dtype": (call(nn.BatchNorm(3), np.ones((4, 3))), TypeError, ["dtype", "float32"]),
    "BatchNorm, dtype, train=False": (
        call(nn.BatchNorm(3), np.ones((4, 3)), train=False), TypeError, ["dtype", "float32"]),
    "BatchNorm, no channels": (lambda: nn.BatchNorm(0), ValueError, ["channels"]),
    "BatchNorm, p": (lambda: nn.BatchNorm(3, p=0.5), ValueError, ["p must", "0.5"]),
    "BatchNorm, eps": (lambda: nn.BatchNorm(3, eps=-1), ValueError, ["eps", "-1"]),
    "BatchNorm, momentum": (lambda: nn.BatchNorm(3, momentum=2), ValueError, ["momentum", "2"]),
    "LayerNorm, shape": (call(nn.LayerNorm(3), f32(2, 4)), ValueError, ["(3,)", "(4,)"]),
    "LayerNorm, no affine": (
        call(nn.LayerNorm(3, affine=False), f32(2, 4)), ValueError, ["3", "4"]),
    "Sequential": (lambda: nn.Sequential(nn.ReLU(), "relu"), TypeError, ["argument 1", "relu"]),
    "Residual, body": (lambda: nn.Residual("relu"), TypeError, ["body", "relu"]),
    "Residual, shapes": (
        call(nn.Residual(nn.Linear(3, 1)), f32(2, 3)), ValueError, ["Residual", "(2, 1)"]),
    "loss, axes": (loss(f32(3), np.zeros(3, int)), ValueError, ["logits", "(3,)"]),
    "loss, integers": (loss(np.zeros((1, 3), int), np.array([1])), TypeError, ["logits", "int"]),
    "loss, too few labels": (loss(f32(2, 3), np.zeros(1, int)), ValueError, ["labels", "(2,)"]),
    "loss, a label too large": (loss(f32(1, 3), np.array([3])), ValueError, ["labels", "2"]),
    "loss, a label below 0": (loss(f32(1, 3), np.array([-1])), ValueError, ["labels", "0"]),
    "loss, float labels": (loss(f32(1, 3), np.array([1.0])), TypeError, ["labels"]),
    "loss, a list of labels": (loss(f32(1, 3), [1]), TypeError, ["labels"]),
}
# fmt: on


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_gives_one_clear_error(name):
    do, error, words = WRONG[name]
    with pytest.raises(error) as caught:
        do()
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("layer", [nn.Linear(2, 2), nn.BatchNorm(2), nn.LayerNorm(2)])
def test_an_array_of_another_library_is_refused(layer):
    with standin_cupy.installed() as cupy, pytest.raises(TypeError, match="NumPy"):
        layer(cupy.asarray(f32(3, 2)))


# --- how weights are drawn ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, he, glorot",
    [
        (nn.Linear(400, 100), 2 / 400, 2 / 500),
        (nn.Conv2d(40, 30, (5, 4)), 2 / (40 * 20), 2 / (70 * 20)),
    ],
    ids=["Linear", "Conv2d"],
)
def test_variance_of_the_weights(layer, he, glorot):
    for init, variance in (("he", he), ("glorot", glorot)):
        layer.initialize(rng=1, init=init)
        z = layer.weight.data.ravel().astype("float64") / math.sqrt(variance)
        assert abs((z**2).mean() - 1) < 4 * math.sqrt(2 / z.size)  # four standard errors
        assert abs(z.mean()) < 4 / math.sqrt(z.size)


def test_weights_come_from_the_seed_or_generator():
    def weight(rng):
        return nn.Linear(3, 4, rng=rng).weight.data

    assert (weight(7) == weight(7)).all()
    assert (weight(7) != weight(8)).any()
    generator = np.random.default_rng(7)
    assert (weight(generator) == weight(7)).all()
    assert (weight(generator) != weight(7)).any()


def test_initialize_draws_all_layers_from_one_generator(xp):
    model = on(xp, nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), "float32")
    model[0].bias.data = model[0].bias.data + 1
    nn.initialize(model, rng=5, init="glorot")
    generator = np.random.default_rng(5)
    for i in (0, 2):
        want = nn.Linear(3, 3, init="glorot", rng=generator).weight.data
        assert (xp.numpy(model[i].weight.data) == want).all()
        assert model[i].weight.data.dtype == "float32"
        assert (xp.numpy(model[i].bias.data) == 0).all()


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_initialize_repairs_a_model_that_diverged(xp, bad):
    layer = on(xp, nn.Linear(2, 2))
    layer.weight.data, layer.bias.data = bad + layer.weight.data, bad + layer.bias.data
    nn.initialize(layer)
    assert np.isfinite(xp.numpy(layer.weight.data)).all()
    assert (xp.numpy(layer.bias.data) == 0).all()


# --- which weights does the network not feel the length of? ---------------------------------------


def invariant_names(*layers):
    return [parameter.name for parameter, _ in nn.scale_invariant(nn.Sequential(*layers))]


def conv():
    return nn.Conv2d(2, 2, 3, padding=1)


def test_a_sequence_without_layers_has_no_scale_invariant_weights():
    """An identity, as the shortcut of a block may be."""
    assert nn.scale_invariant(nn.Sequential()) == []
    block = nn.Residual(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm(3)), nn.Sequential())
    assert [p.name for p, _ in nn.scale_invariant(block)] == ["body.0.weight"]


def test_weights_right_before_a_batch_norm_are_scale_invariant():
    block = nn.Sequential(conv(), nn.BatchNorm(2), nn.ReLU(), conv(), nn.BatchNorm(2, p=1))
    head = [nn.Flatten(), nn.Linear(8, 3), nn.BatchNorm(3, axis=-1), nn.Linear(3, 3)]
    names = invariant_names(conv(), nn.ReLU(), nn.Residual(block, conv()), *head)
    assert names == ["2.body.0.weight", "2.body.3.weight", "4.weight"]


def shared_weight():
    one, other = conv(), conv()
    other.weight = one.weight
    return one, other


class Tied(nn.Layer):
    """Somebody's own layer, with a weight that belongs to another one."""

    def __init__(self, weight):
        self.weight = weight


def felt():
    """name -> layers none of whose weights is scale invariant."""
    one, other = shared_weight()
    twice, branch, other_use = conv(), conv(), conv()
    return {
        "no norm": [conv(), nn.ReLU()],
        "not right before": [conv(), nn.ReLU(), nn.BatchNorm(2)],
        "layer norm": [nn.Linear(2, 2), nn.LayerNorm(2)],
        "another axis": [conv(), nn.BatchNorm(2, axis=0)],
        "last axis after a convolution": [conv(), nn.BatchNorm(2, axis=-1)],
        "a shared weight": [one, nn.BatchNorm(2), nn.ReLU(), other],
        "a weight that another layer uses": [other_use, nn.BatchNorm(2), Tied(other_use.weight)],
        "a shared layer": [twice, nn.BatchNorm(2), twice, nn.ReLU()],
        "a shared layer in a branch": [
            nn.Residual(nn.Sequential(branch, nn.BatchNorm(2)), branch),
        ],
    }


@pytest.mark.parametrize("name", felt())
def test_weights_that_the_network_feels_are_left_out(name):
    assert invariant_names(*felt()[name]) == []


@pytest.mark.parametrize("seen", [lambda one, two: (one, two), lambda one, two: (one, one)])
def test_a_weight_shared_by_two_layers_before_norms_is_named_once(seen):
    one, two = seen(*shared_weight())
    assert invariant_names(one, nn.BatchNorm(2), two, nn.BatchNorm(2)) == ["0.weight"]


@pytest.mark.parametrize("p", NORMS, ids=str)
def test_scaling_a_channel_of_an_invariant_weight_changes_nothing(xp, p):
    model = on(xp, models.digits_net(lambda c: nn.BatchNorm(c, p=p, eps=0), width=2, rng=1))
    x = xp(normal(2, (4, 1, 8, 8)))
    before = xp.numpy(model(x)[0])
    found = nn.scale_invariant(model)
    assert [parameter.name for parameter, _ in found] == ["0.weight", "3.weight", "7.weight"]
    for parameter, axis in found:
        w = xp.numpy(parameter.data).copy()
        np.moveaxis(w, axis, 0)[1] *= 3.7
        parameter.data = xp(w)
    assert_close(xp.numpy(model(x)[0]), before, 1e-9)
    model[-1].weight.data = 3.7 * model[-1].weight.data
    assert np.abs(xp.numpy(model(x)[0]) - before).max() > 0.1
