"""Weight norm and bounded weight norm against the oracle, finite differences, laws and PyTorch."""

import math

import numpy as np
import pytest
from draws import WEIGHT_NORMS, any_values, directional, layouts, normal, seeds, with_gaps
from hypothesis import assume, given
from hypothesis import strategies as st

import lpnorm
from lpnorm.arrays import to_rows
from lpnorm.verify import oracle

# 40 unit roundoffs: sums of up to 125 terms (7 levels of the tree), a power (8, times p - 1 in h
# for p = 64) and a dozen single operations, relative to the largest term.
DTYPES = {"float64": 1e-13, "float32": 5e-5, "float16": None}


def unkinked(seed, shape, axis):
    """Weights whose |v| are all different and away from zero within a channel."""
    n = math.prod(shape) // shape[axis]
    rng = np.random.default_rng(seed)
    rows = (1 + rng.permuted(np.tile(np.arange(n), (shape[axis], 1)), axis=1)) / n
    rows = rows * rng.choice([-1, 1], rows.shape)
    moved = rows.reshape([shape[axis]] + [s for i, s in enumerate(shape) if i != axis % len(shape)])
    return np.moveaxis(moved, 0, axis)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("p", WEIGHT_NORMS)
@given(seed=seeds, layout=layouts(least=1))
def test_agrees_with_the_oracle(xp, p, dtype, seed, layout):
    shape, axis = layout
    v, dw = unkinked(seed, shape, axis).astype(dtype), normal(seed, shape)
    g = normal(seed + 1, (shape[axis],))
    v64 = v.astype("float64")
    w, cache = lpnorm.weight_norm(xp(v), xp(g, dtype), p=p, axis=axis)
    dv, dg = lpnorm.weight_norm_backward(xp(dw, dtype), cache)
    rho = lpnorm.bounded_norm(xp(v), p=p, axis=axis)
    bounded, its_cache = lpnorm.bounded_weight_norm(xp(v), rho, p=p, axis=axis)
    bounded_dv = lpnorm.bounded_weight_norm_backward(xp(dw, dtype), its_cache)
    assert w.dtype == dv.dtype == dg.dtype == bounded.dtype == dtype and type(rho) is float

    tol = DTYPES[dtype]
    n = math.prod(shape) // shape[axis]
    np.testing.assert_allclose(
        xp.numpy(w), oracle.weight_norm(v64, g, p, axis), rtol=tol, atol=tol * 1e-3
    )
    assert rho == pytest.approx(oracle.bounded_norm(v64, p, axis), rel=tol)
    np.testing.assert_allclose(
        xp.numpy(bounded), oracle.bounded_weight_norm(v64, rho, p, axis), rtol=tol
    )
    want_dv, want_dg = oracle.weight_norm_backward(dw, v64, g, p, axis)
    size = 4 * n * (1 + np.abs(g).max() + rho) / np.abs(to_norms(v64, p, axis)).min()
    np.testing.assert_allclose(xp.numpy(dv), want_dv, rtol=0, atol=tol * size)
    np.testing.assert_allclose(xp.numpy(dg), want_dg, rtol=0, atol=tol * 4 * n)
    want = oracle.bounded_weight_norm_backward(dw, v64, rho, p, axis)
    np.testing.assert_allclose(xp.numpy(bounded_dv), want, rtol=0, atol=tol * size)


def to_norms(v, p, axis):
    return np.linalg.norm(to_rows(v, tuple(a for a in range(v.ndim) if a != axis % v.ndim)), p, 1)


@pytest.mark.parametrize("p", WEIGHT_NORMS)
@given(seed=seeds, axis=st.sampled_from([0, 1, -1]))
def test_finite_differences(p, seed, axis):
    shape = (3, 4, 2)
    v = unkinked(seed, shape, axis)
    rng = np.random.default_rng(seed)
    dw, step = rng.standard_normal((2, *shape))
    g, g_step = rng.standard_normal((2, shape[axis]))
    dv, dg = lpnorm.weight_norm_backward(dw, lpnorm.weight_norm(v, g, p, axis)[1])
    bounded = lpnorm.bounded_weight_norm(v, 1.5, p, axis)[1]
    bounded_dv = lpnorm.bounded_weight_norm_backward(dw, bounded)
    f = lambda v, g: float((lpnorm.weight_norm(v, g, p, axis)[0] * dw).sum())  # noqa: E731
    b = lambda v: float((lpnorm.bounded_weight_norm(v, 1.5, p, axis)[0] * dw).sum())  # noqa: E731
    size = 1e-7 * (1 + np.abs(dw).sum() + np.abs(g).sum())
    assert abs((dv * step).sum() - directional(lambda v: f(v, g), v, step)) < size
    assert abs((dg * g_step).sum() - directional(lambda g: f(v, g), g, g_step)) < size
    assert abs((bounded_dv * step).sum() - directional(b, v, step)) < size


@pytest.mark.parametrize("p", WEIGHT_NORMS)
@given(data=st.data(), seed=seeds, k=st.integers(-20, 20))
def test_laws(xp, p, data, seed, k):
    """Any weights, ties and zeros too: <dv, v> = 0, ||w_i|| = |g_i|, and v -> 2^k v is not felt."""
    v = data.draw(any_values((3, 8)))
    assume(np.abs(v).max(axis=1).min() > 0)
    dw, g = normal(seed, v.shape), normal(seed + 1, (3,))
    w, cache = lpnorm.weight_norm(xp(v), xp(g), p=p)
    dv, dg = (xp.numpy(each) for each in lpnorm.weight_norm_backward(xp(dw), cache))
    sizes = to_norms(v, p, 0)
    terms = np.abs(dw).sum(axis=1) * np.abs(g) * 8
    assert np.all(np.abs((dv * v).sum(axis=1)) <= 1e-13 * terms + 1e-300)
    np.testing.assert_allclose(to_norms(xp.numpy(w), p, 0), np.abs(g), rtol=1e-13)
    again, cache = lpnorm.weight_norm(xp(v * 2.0**k), xp(g), p=p)
    np.testing.assert_array_equal(xp.numpy(again), xp.numpy(w))
    dv2, dg2 = lpnorm.weight_norm_backward(xp(dw), cache)
    np.testing.assert_array_equal(xp.numpy(dv2) * 2.0**k, dv)
    np.testing.assert_array_equal(xp.numpy(dg2), dg)
    np.testing.assert_allclose(lpnorm.bounded_norm(xp(v), p=p), _p_mean(sizes, p), rtol=1e-13)


def _p_mean(sizes, p):
    return sizes.max() if p == math.inf else np.mean(sizes**p) ** (1 / p)


def test_l2_by_hand():
    v, g = np.array([[3.0, 4.0], [0.0, -2.0]]), np.array([10.0, 1.0])
    w, cache = lpnorm.weight_norm(v, g)
    np.testing.assert_allclose(w, [[6, 8], [0, -1]], rtol=1e-15)
    dv, dg = lpnorm.weight_norm_backward(np.array([[1.0, 0.0], [5.0, 7.0]]), cache)
    np.testing.assert_allclose(dg, [0.6, -7], rtol=1e-15)
    np.testing.assert_allclose(dv, [[2 * 0.64, -2 * 0.48], [2.5, 0]], rtol=1e-14, atol=1e-14)
    assert lpnorm.bounded_norm(v) == pytest.approx(math.sqrt(29 / 2))
    assert lpnorm.bounded_norm(v, p=1) == pytest.approx(9 / 2)
    assert lpnorm.bounded_norm(v, p=math.inf) == 4


@given(seed=seeds)
def test_weight_norm_is_torch_weight_norm(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    v, dw = rng.standard_normal((2, 4, 3, 2))
    g = rng.standard_normal(4)
    layer = torch.nn.Conv1d(3, 4, 2, bias=False, dtype=torch.float64)
    torch.nn.utils.parametrizations.weight_norm(layer, dim=0)
    magnitude, direction = layer.parametrizations.weight.parameters()
    with torch.no_grad():
        magnitude.copy_(torch.tensor(g).reshape(4, 1, 1))
        direction.copy_(torch.tensor(v))
    layer.weight.backward(torch.tensor(dw))
    w, cache = lpnorm.weight_norm(v, g)
    dv, dg = lpnorm.weight_norm_backward(dw, cache)
    np.testing.assert_allclose(w, layer.weight.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dv, direction.grad.numpy(), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(dg, magnitude.grad.numpy().ravel(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("p", WEIGHT_NORMS)
def test_float16_stays_float16_and_close(xp, p):
    """u = 2^-11: sums in float32, so a handful of roundings, and p - 1 = 63 of them for p = 64."""
    v, dw = with_gaps(0, 32, 4).astype("float16"), normal(1, (4, 32), "float16")
    v64 = v.astype("float64")
    g = normal(2, (4,), "float16")
    w, cache = lpnorm.weight_norm(xp(v), xp(g), p=p)
    dv, dg = lpnorm.weight_norm_backward(xp(dw), cache)
    assert w.dtype == dv.dtype == dg.dtype == np.float16
    tol = 2.0**-11 * (8 + (p if p < math.inf else 0) * 3)
    want = oracle.weight_norm(v, g, p)
    np.testing.assert_allclose(xp.numpy(w), want, rtol=tol, atol=1e-6)
    want_dv, want_dg = oracle.weight_norm_backward(dw, v, g, p)
    size = np.abs(want_dv).max() + np.abs(dw).max() * np.abs(g).max() / to_norms(v64, p, 0).min()
    np.testing.assert_allclose(xp.numpy(dv), want_dv, rtol=0, atol=tol * size)
    np.testing.assert_allclose(xp.numpy(dg), want_dg, rtol=0, atol=tol * 32)


@pytest.mark.parametrize("size", [1e-4, 300.0])
def test_small_and_large_float16_weights_are_ordinary_ones(xp, size):
    """Squares of 1e-4 underflow float16, those of 300 overflow; dw * v_hat of 1e-5 loses bits."""
    v = (normal(0, (4, 2304)) * size).astype("float16")
    dw, g = (normal(1, v.shape) * 1e-3).astype("float16"), normal(2, (4,), "float32")
    w, cache = lpnorm.weight_norm(xp(v), xp(g))
    dv, dg = lpnorm.weight_norm_backward(xp(dw), cache)
    assert dg.dtype == np.float32 and w.dtype == dv.dtype == np.float16
    np.testing.assert_allclose(xp.numpy(w), oracle.weight_norm(v, g), rtol=3e-3, atol=1e-7)
    want_dv, want_dg = oracle.weight_norm_backward(dw, v, g)
    np.testing.assert_allclose(xp.numpy(dg), want_dg, rtol=3e-3, atol=3e-6)
    np.testing.assert_allclose(
        xp.numpy(dv), want_dv, rtol=3e-3, atol=1e-7 + 1e-3 * np.abs(want_dv).max()
    )
    assert lpnorm.bounded_norm(xp(v)) == pytest.approx(oracle.bounded_norm(v), rel=1e-3)


def test_one_zero_channel_is_named():
    v = normal(0, (4, 3))
    v[2] = 0
    with pytest.raises(ValueError, match="v has norm 0 in channel 2:"):
        lpnorm.weight_norm(v, np.ones(4))


def test_inputs_unmodified(xp):
    v, g, dw = normal(0, (3, 4)), normal(1, (3,)), normal(2, (3, 4))
    arrays = xp(v), xp(g), xp(dw)
    _, cache = lpnorm.weight_norm(arrays[0], arrays[1])
    first = lpnorm.weight_norm_backward(arrays[2], cache)
    second = lpnorm.weight_norm_backward(arrays[2], cache)
    for a, b in zip((*arrays, *first), (v, g, dw, *map(xp.numpy, second)), strict=True):
        np.testing.assert_array_equal(xp.numpy(a), b)


BAD_GRADIENTS = {
    "a list": (lambda dw: dw.tolist(), TypeError, "dw must be a NumPy or CuPy array, got list"),
    "none": (lambda dw: None, TypeError, "dw must be .* got NoneType"),
    "of integers": (lambda dw: dw.astype("int64"), TypeError, "dw must have dtype .* got int64"),
    "wider": (lambda dw: dw.astype("float64"), TypeError, "dw must have dtype float32,.*float64"),
    "another shape": (lambda dw: dw.reshape(3, 4), ValueError, r"dw must .*\(4, 3\), got \(3, 4\)"),
    "one row": (lambda dw: dw[:1], ValueError, r"dw must have shape \(4, 3\), got \(1, 3\)"),
}


@pytest.mark.parametrize("bad", BAD_GRADIENTS)
def test_a_gradient_that_is_not_that_of_w_is_refused_by_name(bad):
    """Some of them would broadcast or promote, and so give other gradients without a word."""
    make, error, message = BAD_GRADIENTS[bad]
    v, dw = normal(0, (4, 3), "float32"), normal(1, (4, 3), "float32")
    _, cache = lpnorm.weight_norm(v, np.ones(4, "float32"))
    with pytest.raises(error, match=message):
        lpnorm.weight_norm_backward(make(dw), cache)
    _, cache = lpnorm.bounded_weight_norm(v, 2.0)
    with pytest.raises(error, match=message):
        lpnorm.bounded_weight_norm_backward(make(dw), cache)
