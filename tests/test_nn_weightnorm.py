"""WeightNorm, BoundedWeightNorm and MeanOnlyBatchNorm in the engine."""

import math

import numpy as np
import pytest
from draws import WEIGHT_NORMS, normal, seeds
from hypothesis import given
from hypothesis import strategies as st

from lpnorm import nn
from lpnorm.decay import channel_norms
from lpnorm.verify import oracle


def on(xp, layer, dtype="float64"):
    return layer.to("cpu" if xp.module is np else "gpu", dtype)


def layers(seed):
    return [
        (nn.Linear(4, 3, rng=seed), (5, 4)),
        (nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=1, rng=seed), (2, 2, 4, 5)),
        (nn.Sequential(nn.Linear(4, 3, rng=seed)), (5, 4)),
    ]


WRAPPERS = [nn.WeightNorm, nn.BoundedWeightNorm]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("p", WEIGHT_NORMS)
@given(seed=seeds, which=st.sampled_from([0, 1]), axis=st.sampled_from([0, 1]))
def test_gradients_against_finite_differences(xp, wrapper, p, seed, which, axis):
    layer, shape = layers(seed % 100)[which]
    model = on(xp, wrapper(layer, p=p, axis=axis))
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():  # away from the start, where g is a norm of v
        noise = 1 + 0.3 * rng.uniform(size=parameter.data.shape)
        parameter.data = parameter.data * xp(noise)
    x = normal(seed, shape)
    y, backward = model(xp(x))
    dy = normal(seed + 1, tuple(y.shape))
    dx = xp.numpy(backward(xp(dy)))

    def loss(x):
        return float((xp.numpy(model(xp(x))[0]) * dy).sum())

    h, v, size = 1e-6, rng.standard_normal(shape), 1e-6 * (1 + np.abs(dy).sum())
    assert abs((dx * v).sum() - (loss(x + h * v) - loss(x - h * v)) / (2 * h)) < size
    for parameter in model.parameters():
        at, grad = xp.numpy(parameter.data).copy(), xp.numpy(parameter.grad)
        v = rng.standard_normal(at.shape)
        if p not in (2, 3):  # keep the largest |v| the largest, and every sign
            v = v * np.abs(at)
        values = []
        for sign in (1, -1):
            parameter.data = xp(at + sign * h * v)
            values.append(loss(x))
        parameter.data = xp(at)
        assert abs((grad * v).sum() - (values[0] - values[1]) / (2 * h)) < size * 10, parameter.name


@pytest.mark.parametrize("p", WEIGHT_NORMS)
def test_weight_norm_keeps_the_initialization_and_bounded_its_directions(xp, p):
    for which in (0, 1):
        layer, shape = layers(3)[which]
        w = layer.weight.data.copy()
        x = normal(0, shape)
        before = xp.numpy(on(xp, layer)(xp(x))[0])
        after = xp.numpy(on(xp, nn.WeightNorm(layer, p=p))(xp(x))[0])
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)  # g is kept in float32
        layer, _ = layers(3)[which]
        bounded = nn.BoundedWeightNorm(layer, p=p)
        bounded(x.astype("float32"))
        rho = oracle.bounded_norm(w, p)
        assert float(bounded.weight_rho) == pytest.approx(rho, rel=1e-6)
        np.testing.assert_allclose(
            bounded.layer.weight.data, oracle.bounded_weight_norm(w, rho, p), rtol=3e-5, atol=1e-6
        )


def test_names_and_what_is_learned():
    layer = nn.Conv2d(2, 3, 3)
    model = nn.Sequential(nn.WeightNorm(layer), nn.BoundedWeightNorm(nn.Linear(3, 3), p=1))
    names = [p.name for p in model.parameters()]
    assert names == ["0.weight_v", "0.weight_g", "0.layer.bias", "1.weight_v", "1.layer.bias"]
    assert list(model.state()) == [*names, "1.weight_rho"]
    assert [p.name for p, _ in nn.scale_invariant(model)] == ["0.weight_v", "1.weight_v"]
    assert model[0].weight_g.data.shape == (3,)


def test_another_axis():
    layer = nn.Linear(4, 3, dtype="float64")
    model = nn.WeightNorm(layer, axis=-1)
    assert model.weight_g.data.shape == (4,)
    assert [axis for _, axis in nn.scale_invariant(model)] == [1]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_scaling_v_changes_nothing(xp, wrapper):
    model = on(xp, nn.Sequential(wrapper(nn.Linear(4, 3)), nn.ReLU()))
    x = xp(normal(0, (5, 4)))
    before = xp.numpy(model(x)[0])
    for parameter, axis in nn.scale_invariant(model):
        assert axis == 0
        parameter.data = parameter.data * xp(np.array([[2.0], [0.5], [8.0]]))
    np.testing.assert_array_equal(xp.numpy(model(x)[0]), before)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_called_twice_before_going_back(xp, wrapper):
    model = on(xp, wrapper(nn.Linear(4, 3)))
    x, dy = [xp(normal(i, (5, 4))) for i in (0, 1)], [xp(normal(i, (5, 3))) for i in (2, 3)]
    grads = []
    for pair in zip(x, dy, strict=True):
        model(pair[0])[1](pair[1])
        grads.append([xp.numpy(p.grad).copy() for p in model.parameters()])
        for p in model.parameters():
            p.grad = None
    backwards = [model(each)[1] for each in x]
    for backward, each in zip(backwards, dy, strict=True):
        backward(each)
    for p, one, other in zip(model.parameters(), *grads, strict=True):
        np.testing.assert_allclose(xp.numpy(p.grad), one + other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_unwrap_bakes_the_weight_back(xp, wrapper):
    layer = nn.Conv2d(2, 3, 3)
    model = on(xp, wrapper(layer))
    model.weight_v.data = model.weight_v.data * 3 + 1
    x = xp(normal(0, (2, 2, 5, 5)))
    want = xp.numpy(model(x)[0])
    plain = model.unwrap()
    assert plain is layer and isinstance(layer.weight, nn.Parameter)
    np.testing.assert_array_equal(xp.numpy(plain(x)[0]), want)
    assert [p.name for p in plain.parameters()] == ["weight", "bias"]
    nn.initialize(plain)  # allowed again


def test_initializing_again_is_an_error_not_a_silent_loss():
    model = nn.Sequential(nn.WeightNorm(nn.Linear(2, 2)))
    for call in (lambda: nn.initialize(model), lambda: model[0].layer.initialize()):
        with pytest.raises(ValueError, match=r"Linear is wrapped in a weight norm.*unwrap"):
            call()


def test_wrong_arguments():
    for call, error, word in (
        (lambda: nn.WeightNorm("linear"), TypeError, "layer must be a Layer"),
        (lambda: nn.WeightNorm(nn.ReLU()), ValueError, "ReLU has no Parameter 'weight'"),
        (lambda: nn.WeightNorm(nn.Linear(2, 2), weights=("w",)), ValueError, "weight, bias"),
        (lambda: nn.WeightNorm(nn.Linear(2, 2), p=0.5), ValueError, "p must"),
        (lambda: nn.BoundedWeightNorm(nn.Linear(2, 2), axis=2), ValueError, "axis"),
        (
            lambda: nn.WeightNorm(nn.WeightNorm(nn.Linear(2, 2))),
            ValueError,
            "no Parameter 'weight'",
        ),
    ):
        with pytest.raises(error, match=word):
            call()


def test_state_round_trip_and_dtypes(xp, tmp_path):
    def fresh(seed):
        wrapped = nn.BoundedWeightNorm(nn.Linear(4, 3, rng=seed), p=math.inf)
        return on(xp, nn.Sequential(wrapped, nn.WeightNorm(nn.Linear(3, 2, rng=seed))), "float32")

    one, other = fresh(0), fresh(1)
    nn.save(one, tmp_path / "model.npz")
    nn.load(other, tmp_path / "model.npz")
    x = xp(normal(0, (5, 4)), "float32")
    np.testing.assert_array_equal(xp.numpy(one(x)[0]), xp.numpy(other(x)[0]))
    half = one.to(dtype="float16")
    y, backward = half(xp(normal(0, (5, 4)), "float16"))
    dx = backward(y)
    assert y.dtype == dx.dtype == half[0].weight_v.grad.dtype == np.float16
    assert half[0].weight_rho.dtype == np.float32


def test_torchs_weight_norm_on_a_convolution():
    torch = pytest.importorskip("torch")
    layer = nn.Conv2d(2, 3, 3, padding=1, rng=1, dtype="float64")
    theirs = torch.nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(layer.weight.data))
        theirs.bias.copy_(torch.tensor(layer.bias.data))
    torch.nn.utils.parametrizations.weight_norm(theirs)
    ours = nn.WeightNorm(layer)
    x, dy = normal(0, (2, 2, 5, 5)), normal(1, (2, 3, 5, 5))
    y, backward = ours(x)
    tx = torch.tensor(x, requires_grad=True)
    ty = theirs(tx)
    ty.backward(torch.tensor(dy))
    np.testing.assert_allclose(y, ty.detach().numpy(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(backward(dy), tx.grad.numpy(), rtol=1e-11, atol=1e-12)
    g, v = theirs.parametrizations.weight.parameters()
    np.testing.assert_allclose(ours.weight_g.grad, g.grad.numpy().ravel(), rtol=1e-10)
    np.testing.assert_allclose(ours.weight_v.grad, v.grad.numpy(), rtol=1e-10, atol=1e-11)


# --- mean-only batch norm ----------


@given(seed=seeds, axis=st.sampled_from([1, -1, 0]))
def test_mean_only_batch_norm_by_its_definition(xp, seed, axis):
    x, dy = normal(seed, (4, 3, 2)), normal(seed + 1, (4, 3, 2))
    channels = x.shape[axis]
    layer = on(xp, nn.MeanOnlyBatchNorm(channels, axis=axis, momentum=0.25))
    beta = normal(seed + 2, (channels,))
    layer.beta.data = xp(beta)
    shape = [1, 1, 1]
    shape[axis] = channels
    rest = tuple(a for a in range(3) if a != axis % 3)
    mean = x.mean(axis=rest)
    y, backward = layer(xp(x))
    dx = xp.numpy(backward(xp(dy)))
    want = x - mean.reshape(shape) + beta.reshape(shape)
    np.testing.assert_allclose(xp.numpy(y), want, rtol=0, atol=1e-14)
    want = dy - dy.mean(axis=rest).reshape(shape)
    np.testing.assert_allclose(dx, want, rtol=0, atol=1e-14)
    np.testing.assert_allclose(xp.numpy(layer.beta.grad), dy.sum(axis=rest), rtol=0, atol=1e-13)
    np.testing.assert_allclose(xp.numpy(layer.running_mean), 0.25 * mean, rtol=1e-14, atol=1e-15)
    y, backward = layer(xp(x), train=False)
    want = x - 0.25 * mean.reshape(shape) + beta.reshape(shape)
    np.testing.assert_allclose(xp.numpy(y), want, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(xp.numpy(backward(xp(dy))), dy)


def test_channel_norms_of_a_bounded_layer_are_all_rho():
    model = nn.BoundedWeightNorm(nn.Linear(30, 8, dtype="float64"))
    model(normal(0, (2, 30)))
    rho = float(model.weight_rho)
    np.testing.assert_allclose(channel_norms(model.layer.weight.data), rho, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_it_starts_in_the_dtype_of_the_layer(dtype):
    """float16's norms are summed in float32, and g is the rounded norm; rho keeps their dtype."""
    layer = nn.Linear(4, 3, rng=0, dtype=dtype)
    sizes = channel_norms(layer.weight.data.copy())
    model = nn.WeightNorm(layer)
    assert {parameter.data.dtype.name for parameter in model.parameters()} == {dtype}
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(model.weight_g.data.astype("float64"), sizes, rtol=4 * eps)
    bounded = nn.BoundedWeightNorm(nn.Linear(4, 3, rng=0, dtype=dtype))
    assert bounded.weight_rho.dtype == ("float32" if dtype == "float16" else dtype)
