"""Batch norm and layer norm against the oracle, finite differences, the laws, and PyTorch."""

import inspect
import math

import numpy as np
import pytest
from draws import NORMS, SMOOTH, any_values, directional, layouts, normal, seeds, with_gaps
from hypothesis import assume, given
from hypothesis import strategies as st

import lpnorm
from lpnorm import Range, TopK
from lpnorm.arrays import accumulator, from_rows, to_rows
from lpnorm.verify import oracle
from lpnorm.verify.bounds import normalize_bounds

DTYPES = ["float64", "float32", "float16"]
# float16 holds 1/eps only from eps = 2^-16 on, and the README's advice is 2^-10 or more there.
EPS = {"float64": [0.0, 1e-5, 0.5], "float32": [0.0, 1e-5, 0.5], "float16": [2.0**-10, 0.5]}
CONSTANTS = ["paper", "exact", None]


def arguments(p, n):
    """Whether groups of n values are large enough for p."""
    return not isinstance(p, TopK) or p.k <= n


def reduced(ndim, axis):
    return tuple(a for a in range(ndim) if a != axis % ndim)


def assert_within(got, want, bound, what):
    """|got - want| <= bound everywhere; NaN fails."""
    error = np.abs(got.astype("float64") - want)
    worst = np.argmax(error - bound) if error.size else 0
    assert np.all(error <= bound), (
        f"{what}: {got.ravel()[worst]!r} instead of {want.ravel()[worst]!r}, "
        f"off by {error.ravel()[worst]:.3g}, allowed {bound.ravel()[worst]:.3g}"
    )


# --- values and gradients, every norm, dtype, layout, eps, constant: the oracle -------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), seed=seeds, layout=layouts(), affine=st.booleans())
def test_agrees_with_the_oracle(xp, p, dtype, data, seed, layout, affine):
    shape, axis = layout
    channels, axes = shape[axis], reduced(len(shape), axis)
    scale = data.draw(st.sampled_from([1.0, 0.125, 16.0]))
    offset = data.draw(st.sampled_from([0.0, 0.5, 4.0]))
    eps = data.draw(st.sampled_from(EPS[dtype]))
    constant = data.draw(st.sampled_from(CONSTANTS))
    x = (normal(seed, shape) * scale + offset).astype("float16").astype("float64")
    dy = normal(seed + 1, shape)
    gamma = normal(seed + 2, (channels,)) if affine else None
    beta = normal(seed + 3, (channels,)) if affine else None
    assume(np.ptp(to_rows(x, axes), axis=1).min() > 0)  # constant channels: a test of their own

    y, cache = lpnorm.batch_norm(
        xp(x, dtype),
        xp(gamma, dtype),
        xp(beta, dtype),
        p=p,
        axis=axis,
        eps=eps,
        constant=constant,
    )
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(xp(dy, dtype), cache)

    want = oracle.batch_norm(x, gamma, beta, p, axis, eps, constant)
    dx_want, dgamma_want, dbeta_want = oracle.batch_norm_backward(
        dy, x, gamma, beta, p, axis, eps, constant
    )
    gamma_ = np.ones(channels) if gamma is None else gamma
    beta_ = np.zeros(channels) if beta is None else beta
    per_channel = [1] * len(shape)
    per_channel[axis] = channels
    n = math.prod(shape) // channels
    c = oracle.gaussian_constant(p, n, constant)
    x_rows, dy_rows = to_rows(x, axes), to_rows(dy, axes)
    bounds = normalize_bounds(x_rows, dy_rows * gamma_[:, None], p, c, eps, dtype, None, affine)
    # the oracle's own error; its exact constants are good to 1e-12, not to the last bit
    oracles = 1e-13 if constant == "exact" else 1e-16
    exact = normalize_bounds(x_rows, dy_rows * gamma_[:, None], p, c, eps, "float64", u=oracles)

    u = np.finfo(dtype).eps
    x_hat = to_rows(want.x_hat, axes)
    e_y = np.abs(gamma_[:, None]) * (bounds.x_hat + exact.x_hat + u * np.abs(x_hat))
    e_y = e_y + u * (np.abs(beta_[:, None]) + np.abs(gamma_[:, None] * x_hat)) + 1e-7 * (u > 1e-4)
    assert_within(to_rows(xp.numpy(y), axes), to_rows(want.y, axes), e_y, "y")
    assert_within(xp.numpy(cache.mean), want.mean, (bounds.mean + exact.mean)[:, 0], "mean")
    assert_within(xp.numpy(cache.scale), want.scale, (bounds.scale + exact.scale)[:, 0], "scale")
    assert_within(to_rows(xp.numpy(dx), axes), to_rows(dx_want, axes), bounds.dx + exact.dx, "dx")
    assert y.dtype == dx.dtype == dtype
    if not affine:
        assert dgamma is None and dbeta is None
        return
    depth = math.ceil(math.log2(n)) + 1
    plain = normalize_bounds(x_rows, dy_rows, p, c, eps, dtype, None, False)
    e_dgamma = (plain.product + exact.product).sum(axis=1) + u * np.abs(dgamma_want)
    e_dbeta = u * np.abs(dbeta_want) + depth * 1.2e-7 * (u > 1e-8) * np.abs(dy_rows).sum(axis=1)
    assert_within(xp.numpy(dgamma), dgamma_want, e_dgamma, "dgamma")
    assert_within(xp.numpy(dbeta), dbeta_want, e_dbeta + depth * u * 1e-3 + 1e-14, "dbeta")


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(seed=seeds, eps=st.sampled_from([0.0, 1e-5, 0.5]), offset=st.sampled_from([0.0, 100.0]))
def test_float64_is_good_to_1e_12_of_the_terms(p, seed, eps, offset):
    """Away from kinks: |error| <= 1e-12 max|x| / s_hat for y, and the same of max|g| for dx."""
    n, channels = 12, 3
    x = with_gaps(seed, n, channels).T + offset
    dy = np.random.default_rng(seed).standard_normal(x.shape)
    gamma, beta = normal(seed, (channels,)), normal(seed + 1, (channels,))
    y, cache = lpnorm.batch_norm(x, gamma, beta, p, eps=eps)
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(dy, cache)
    want = oracle.batch_norm(x, gamma, beta, p, eps=eps)
    dx_want, dgamma_want, dbeta_want = oracle.batch_norm_backward(dy, x, gamma, beta, p, eps=eps)
    term = 1 + np.abs(x).max(axis=0) / want.scale
    size = term * np.abs(gamma) * (1 + np.abs(want.x_hat).max(axis=0))
    sums = n * np.abs(dy).max(axis=0) * (1 + np.abs(want.x_hat).max(axis=0))
    assert np.all(np.abs(y - want.y) <= 1e-12 * (term + np.abs(beta)))
    assert np.all(np.abs(dx - dx_want) <= 1e-12 * size * sums / want.scale)
    assert np.all(np.abs(dgamma - dgamma_want) <= 1e-12 * term * sums)
    assert np.all(np.abs(dbeta - dbeta_want) <= 1e-12 * sums)


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), seed=seeds, constant=st.sampled_from(CONSTANTS))
def test_layer_norm_agrees_with_the_oracle(xp, p, data, seed, constant):
    ndim = data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.lists(st.integers(2, 4), min_size=ndim, max_size=ndim)))
    axes = data.draw(st.lists(st.integers(0, ndim - 1), min_size=1, unique=True))
    axis = axes[0] if len(axes) == 1 else tuple(a - ndim if a % 2 else a for a in axes)
    assume(arguments(p, math.prod(shape[a] for a in axes)))
    inner = tuple(shape[a] for a in sorted(axes))
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
    gamma, beta = rng.standard_normal(inner), rng.standard_normal(inner)
    y, cache = lpnorm.layer_norm(
        xp(x), xp(gamma), xp(beta), p=p, axis=axis, eps=1e-3, constant=constant
    )
    got = lpnorm.layer_norm_backward(xp(dy), cache)
    want = oracle.layer_norm(x, gamma, beta, p, axis, 1e-3, constant)
    gradients = oracle.layer_norm_backward(dy, x, gamma, beta, p, axis, 1e-3, constant)
    size = np.abs(x).max() / np.abs(want.scale).min()
    np.testing.assert_allclose(xp.numpy(y), want.y, rtol=0, atol=1e-13 * (1 + size) * 4)
    np.testing.assert_allclose(xp.numpy(cache.mean), want.mean, rtol=0, atol=1e-14 * 4)
    np.testing.assert_allclose(xp.numpy(cache.scale), want.scale, rtol=1e-13)
    kinked = p in (1, math.inf) or isinstance(p, (TopK, Range)) or p < 2
    if kinked:  # only where no kink is within reach of rounding
        rows = to_rows(x, tuple(sorted(axes)))
        d = np.abs(rows - rows.mean(axis=1, keepdims=True))
        gaps = np.diff(np.sort(np.hstack([np.zeros((len(d), 1)), d])))
        assume(gaps.min() > 1e-9)
    for g, w in zip(got, gradients, strict=True):
        atol = 1e-9 if p == 1.5 else 1e-12
        np.testing.assert_allclose(xp.numpy(g), w, rtol=0, atol=atol * (1 + size) ** 2 * 10)


# --- finite differences, random upstream gradients ------------------------------------------------


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(seed=seeds, n=st.integers(4, 12), eps=st.sampled_from([0.0, 1e-5, 0.3]))
def test_gradients_against_finite_differences(p, seed, n, eps):
    channels = 3
    x = with_gaps(seed, n, channels).T
    rng = np.random.default_rng(seed)
    gamma, beta = rng.standard_normal((2, channels))
    dy, v = rng.standard_normal((2, *x.shape))
    vg, vb = rng.standard_normal((2, channels))

    def loss(x, gamma, beta):
        return float((lpnorm.batch_norm(x, gamma, beta, p=p, eps=eps)[0] * dy).sum())

    _, cache = lpnorm.batch_norm(x, gamma, beta, p=p, eps=eps)
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(dy, cache)
    size = np.abs(dy).sum() * (1 + np.abs(gamma).max())
    for got, step, f in (
        (dx, v, lambda x: loss(x, gamma, beta)),
        (dgamma, vg, lambda gamma: loss(x, gamma, beta)),
        (dbeta, vb, lambda beta: loss(x, gamma, beta)),
    ):
        at = {id(dx): x, id(dgamma): gamma, id(dbeta): beta}[id(got)]
        assert abs((step * got).sum() - directional(f, at, step)) < 1e-7 * size


@pytest.mark.parametrize("p", NORMS, ids=str)
def test_taylor_remainder_has_slope_two(p):
    """|f(x + hv) - f(x) - h <dx, v>| falls with h^2; with h only if dx were wrong.

    Where f is piecewise linear in d the remainder comes from dividing by s, and has slope 2 too.
    """
    x = with_gaps(7, 9, 2).T
    rng = np.random.default_rng(7)
    dy, v = rng.standard_normal((2, *x.shape))
    f = lambda x: float((lpnorm.batch_norm(x, None, None, p=p)[0] * dy).sum())  # noqa: E731
    dx, _, _ = lpnorm.batch_norm_backward(dy, lpnorm.batch_norm(x, None, None, p=p)[1])
    steps = 2.0 ** -np.arange(7, 13)
    remainders = [abs(f(x + h * v) - f(x) - h * (dx * v).sum()) for h in steps]
    slope = np.polyfit(np.log(steps), np.log(remainders), 1)[0]
    assert slope == pytest.approx(2, abs=0.1)


# --- the laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), seed=seeds, eps=st.sampled_from([0.0, 1e-5, 0.5]))
def test_sum_dx_and_euler(xp, p, data, seed, eps):
    """sum dx = 0 for any eps; <dx, d> = T eps/s_hat (eps added) or T eps/s_hat^2 (p = 2).

    Any values at all, ties and zeros included: these laws hold for subgradients too.
    """
    x = data.draw(any_values((8, 3)))
    assume(np.ptp(x, axis=0).min() > 0)
    dy = np.random.default_rng(seed).standard_normal(x.shape)
    y, cache = lpnorm.batch_norm(xp(x), None, None, p=p, eps=eps)
    dx, _, _ = lpnorm.batch_norm_backward(xp(dy), cache)
    x_hat, dx, s = xp.numpy(y), xp.numpy(dx), xp.numpy(cache.scale)
    d = x - xp.numpy(cache.mean)
    t = (dy * x_hat).sum(axis=0)
    # an entry is at most |g|/s + |b|/s + |c h|/s; h reaches n^((p-1)/p) <= n
    size = 8 * (np.abs(dy).max(axis=0) + np.abs(t)) / s * np.maximum(1, np.abs(x_hat).max(axis=0))
    assert np.all(np.abs(dx.sum(axis=0)) <= 1e-13 * size)
    shift = np.abs(x).max(axis=0) / np.abs(d).max(axis=0)  # cancellation in d
    expected = t * eps / (s * s if p == 2 else s)
    assert np.all(
        np.abs((dx * d).sum(axis=0) - expected)
        <= 1e-13 * size * np.abs(d).max(axis=0) * (1 + shift)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), seed=seeds, layout=layouts())
def test_sum_dx_and_euler_on_every_axis_and_dtype(xp, p, dtype, data, seed, layout):
    """The same two laws as far as rounding lets them hold: the bounds on dx and d say how far."""
    shape, axis = layout
    axes, eps = reduced(len(shape), axis), data.draw(st.sampled_from(EPS[dtype]))
    x, dy = normal(seed, shape), normal(seed + 1, shape)
    assume(np.ptp(to_rows(x, axes), axis=1).min() > 0)
    _, cache = lpnorm.batch_norm(xp(x, dtype), None, None, p=p, axis=axis, eps=eps)
    dx, _, _ = lpnorm.batch_norm_backward(xp(dy, dtype), cache)
    dx, rows, g = (to_rows(a.astype("float64"), axes) for a in (xp.numpy(dx), x, dy))
    c = oracle.gaussian_constant(p, rows.shape[1], "paper")
    bound = normalize_bounds(rows, g, p, c, eps, dtype, None, False)
    slack = normalize_bounds(rows, g, p, c, eps, "float64").dx + bound.dx
    assert np.all(np.abs(dx.sum(axis=1)) <= slack.sum(axis=1))
    d = rows - rows.mean(axis=1, keepdims=True)
    s = oracle.batch_norm(x, None, None, p, axis, eps).scale
    expected = (g * d).sum(axis=1) / s * eps / (s * s if p == 2 else s)
    off = np.abs((dx * d).sum(axis=1) - expected)
    assert np.all(off <= (slack * np.abs(d)).sum(axis=1) + 1e-13 * np.abs(dx * d).sum(axis=1))


@pytest.mark.parametrize("p", [p for p in NORMS if p != 2], ids=str)
@given(data=st.data(), seed=seeds, a=st.sampled_from([2.0, -4.0, 8.0]))
def test_scale_law_bit_for_bit_in_float16(xp, p, data, seed, a):
    """As above, with eps = 0, for what neither overflows nor becomes subnormal (so not p = 2,
    whose squares do)."""
    x = data.draw(any_values((8, 3), largest=8.0).map(lambda x: np.round(x * 32) / 32))
    assume(np.ptp(x, axis=0).min() > 0)
    dy, gamma = normal(seed, x.shape), normal(seed + 1, (3,))
    one = run(xp, x, dy, gamma, p, 0.0, "float16")
    other = run(xp, a * x, np.sign(a) * dy, gamma, p, 0.0, "float16")
    np.testing.assert_array_equal(other[0], np.sign(a) * one[0])
    normal_numbers = np.abs(one[1]) >= 8 * 2.0**-14
    np.testing.assert_array_equal((other[1] * a)[normal_numbers], one[1][normal_numbers])


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(
    data=st.data(),
    seed=seeds,
    a=st.sampled_from([2.0, 0.25, -1.0, -8.0]),
    eps=st.sampled_from([0.0, 1e-5, 0.5]),
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_scale_law_bit_for_bit(xp, p, data, seed, a, eps, dtype):
    """x -> a x with a = +-2^k: x_hat -> sign(a) x_hat, dx -> dx/|a|, dgamma -> sign(a) dgamma.

    With eps scaled along (eps |a|; a^2 inside the root), and the same dy up to the sign: every
    bit the same.
    """
    x = data.draw(any_values((8, 3)))
    assume(np.ptp(x, axis=0).min() > 0)
    dy = np.random.default_rng(seed).standard_normal(x.shape)
    gamma = normal(seed, (3,))
    eps_a = eps * a * a if p == 2 else eps * abs(a)
    one = run(xp, x, dy, gamma, p, eps, dtype)
    other = run(xp, a * x, dy, gamma, p, eps_a, dtype)
    sign = np.sign(a)
    np.testing.assert_array_equal(other[0], sign * one[0])
    np.testing.assert_array_equal(other[2], sign * one[2])
    np.testing.assert_array_equal(run(xp, a * x, sign * dy, gamma, p, eps_a, dtype)[1] * a, one[1])


def run(xp, x, dy, gamma, p, eps, dtype):
    """y, dx, dgamma as NumPy arrays."""
    y, cache = lpnorm.batch_norm(xp(x, dtype), xp(gamma, dtype), None, p=p, eps=eps)
    dx, dgamma, _ = lpnorm.batch_norm_backward(xp(dy, dtype), cache)
    return tuple(xp.numpy(each) for each in (y, dx, dgamma))


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), seed=seeds, shift=st.sampled_from([1.0, -16.0, 0.5]))
def test_shift_changes_nothing(p, data, seed, shift):
    """x -> x + b: exact here, because small multiples of 1/8 and their means of 8 are exact."""
    x = data.draw(any_values((8, 3)).map(lambda x: np.round(x * 8) / 8))
    assume(np.ptp(x, axis=0).min() > 0)
    dy = np.random.default_rng(seed).standard_normal(x.shape)
    results = []
    for moved in (x, x + shift):
        y, cache = lpnorm.batch_norm(moved, None, None, p=p)
        results.append((y, lpnorm.batch_norm_backward(dy, cache)[0]))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), seed=seeds)
def test_permuting_samples_permutes_everything(p, data, seed):
    x = data.draw(any_values((8, 3)).map(lambda x: np.round(x * 8) / 8))  # ties, exact means
    assume(np.ptp(x, axis=0).min() > 0)
    rng = np.random.default_rng(seed)
    dy, order = rng.standard_normal(x.shape), rng.permutation(8)
    y, cache = lpnorm.batch_norm(x, None, None, p=p)
    dx, _, _ = lpnorm.batch_norm_backward(dy, cache)
    y2, cache2 = lpnorm.batch_norm(x[order], None, None, p=p)
    dx2, _, _ = lpnorm.batch_norm_backward(dy[order], cache2)
    size = (1 + np.abs(dy).sum()) * (1 + np.abs(y).max()) ** 2 / cache.scale
    np.testing.assert_allclose(y2, y[order], rtol=1e-13)
    assert np.all(np.abs(dx2 - dx[order]) <= 1e-13 * size)


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(seed=seeds, dtype=st.sampled_from(DTYPES))
def test_channels_are_independent(xp, p, seed, dtype):
    """A channel's bits do not depend on its neighbours, nor on the layout in memory."""
    x, dy = normal(seed, (6, 3, 2)), normal(seed + 1, (6, 3, 2))
    gamma = normal(seed + 2, (3,))

    def both(x, dy, gamma, axis=1):
        y, cache = lpnorm.batch_norm(x, gamma, None, p=p, axis=axis, eps=2**-10)
        dx, dgamma, _ = lpnorm.batch_norm_backward(dy, cache)
        return y, dx, dgamma

    y, dx, dgamma = both(xp(x, dtype), xp(dy, dtype), xp(gamma, dtype))
    one = both(xp(x[:, 1:2], dtype), xp(dy[:, 1:2], dtype), xp(gamma[1:2], dtype))
    for whole, part in zip((y[:, 1:2], dx[:, 1:2], dgamma[1:2]), one, strict=True):
        np.testing.assert_array_equal(xp.numpy(whole), xp.numpy(part))
    last = [xp(a.transpose(0, 2, 1), dtype).transpose(0, 2, 1) for a in (x, dy)]
    backwards = [xp(a[::-1].copy(), dtype)[::-1] for a in (x, dy)]
    for views in (last, backwards):
        for whole, again in zip((y, dx, dgamma), both(*views, xp(gamma, dtype)), strict=True):
            np.testing.assert_array_equal(xp.numpy(whole), xp.numpy(again))
    nhwc = both(*(xp(a.transpose(0, 2, 1).copy(), dtype) for a in (x, dy)), xp(gamma, dtype), -1)
    np.testing.assert_array_equal(xp.numpy(nhwc[1]).transpose(0, 2, 1), xp.numpy(dx))


def test_n_is_one_gives_beta():
    x, beta = np.array([[3.0, -2.0]]), np.array([0.5, 1.5])
    for p in (1, 2, 3, math.inf, TopK(1), Range()):
        y, cache = lpnorm.batch_norm(x, np.ones(2), beta, p=p)
        dx, dgamma, dbeta = lpnorm.batch_norm_backward(np.array([[7.0, -1.0]]), cache)
        np.testing.assert_array_equal(y, [beta])
        np.testing.assert_array_equal(dx, [[0, 0]])
        np.testing.assert_array_equal(dgamma, [0, 0])
        np.testing.assert_array_equal(dbeta, [7, -1])


# --- kinks ----------------------------------------------------------------------------------------

SHARED = [  # p, deviations (they sum to 0), h as the docstring of lpnorm.norms says
    (1, [-3.0, 0.0, 1.0, 2.0], [-1, 0, 1, 1]),
    (math.inf, [-3.0, 3.0, -1.0, 1.0], [-0.5, 0.5, 0, 0]),
    (TopK(2), [-4.0, 2.0, 2.0, 0.0], [-1, 0.5, 0.5, 0]),
    (TopK(3), [-3.0, 1.0, 1.0, 1.0], [-1, 2 / 3, 2 / 3, 2 / 3]),
    (TopK(4), [-3.0, 1.0, 2.0, 0.0], [-1, 1, 1, 0]),
    (Range(), [-2.0, -2.0, 1.0, 3.0], [-0.5, -0.5, 0, 1]),
    (1.5, [-3.0, 0.0, 0.0, 3.0], [-1, 0, 0, 1]),
]


@pytest.mark.parametrize(("p", "d", "h"), SHARED, ids=str)
def test_ties_share_and_zeros_get_nothing(xp, p, d, h):
    """dx from the written-out h, at every dtype: exact data, so no near-tie can interfere."""
    rng = np.random.default_rng(3)
    d, h, g = np.array(d), np.array(h), rng.standard_normal(4)
    norm = lpnorm.norms.as_norm(p)
    for dtype, atol in (("float64", 1e-14), ("float32", 3e-6), ("float16", 2e-2)):
        got, a = norm.direction(xp(d[None], dtype), None, accumulator(dtype))
        m = norm.count(4) * (a if isinstance(a, float) else float(a[0, 0]))
        np.testing.assert_allclose(xp.numpy(got)[0], h, atol=atol)
        _, cache = lpnorm.batch_norm(xp(d[:, None] + 1, dtype), None, None, p=p, eps=0.0)
        dx, _, _ = lpnorm.batch_norm_backward(xp(g[:, None], dtype), cache)
        s = oracle.gaussian_constant(p, 4, "paper") * oracle.deviation(d.tolist(), p)
        slope = oracle.gaussian_constant(p, 4, "paper") * h / m
        t = (g * d).sum() / s
        want = (g - g.mean() - t * (slope - slope.mean())) / s
        np.testing.assert_allclose(xp.numpy(dx)[:, 0], want, atol=10 * atol)


# --- constants, non-finite values, extreme inputs -------------------------------------------------


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_channel_gives_beta_and_zero_or_finite_gradients(xp, p, dtype):
    """y = beta within gamma (error of the mean) / s_hat; 0.1 is no dyadic number: its mean errs."""
    eps = 2.0**-10 if dtype == "float16" else 1e-5
    x = np.full((7, 2), 0.1)
    dy = normal(0, x.shape)
    y, cache = lpnorm.batch_norm(xp(x, dtype), xp([2, 3], dtype), xp([1, -1], dtype), p, eps=eps)
    dx, dgamma, _ = lpnorm.batch_norm_backward(xp(dy, dtype), cache)
    wide = np.float32 if dtype == "float16" else dtype
    e_mean = 4 * np.finfo(wide).eps * 0.1
    s = math.sqrt(eps) if p == 2 else eps
    rounding = 2 * np.finfo(dtype).eps
    assert np.all(np.abs(xp.numpy(y) - [1, -1]) <= 3 * e_mean / s + rounding)
    assert np.isfinite(xp.numpy(dx)).all() and np.isfinite(xp.numpy(dgamma)).all()


@pytest.mark.parametrize("p", NORMS, ids=str)
def test_constant_channel_with_eps_zero_gives_nan(xp, p):
    with np.errstate(all="ignore"):
        y, cache = lpnorm.batch_norm(xp(np.full((8, 2), 2.0)), None, None, p=p, eps=0.0)
        dx, _, _ = lpnorm.batch_norm_backward(xp(normal(0, (8, 2))), cache)
    assert np.isnan(xp.numpy(y)).all() and np.isnan(xp.numpy(dx)).all()


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bad_value_spoils_its_channel_alone(xp, p, bad, dtype):
    x, dy = normal(0, (8, 3)), normal(1, (8, 3))
    spoilt = x.copy()
    spoilt[2, 1] = bad
    with np.errstate(all="ignore"):
        y, cache = lpnorm.batch_norm(xp(spoilt, dtype), None, None, p=p, eps=2**-10)
        dx, _, _ = lpnorm.batch_norm_backward(xp(dy, dtype), cache)
    assert np.isnan(xp.numpy(y)[:, 1]).all() and np.isnan(xp.numpy(dx)[:, 1]).all()
    y2, cache2 = lpnorm.batch_norm(xp(x, dtype), None, None, p=p, eps=2**-10)
    dx2, _, _ = lpnorm.batch_norm_backward(xp(dy, dtype), cache2)
    for got, want in ((y, y2), (dx, dx2)):
        got, want = xp.numpy(got), xp.numpy(want)
        np.testing.assert_array_equal(got[:, [0, 2]], want[:, [0, 2]])


def test_extreme_magnitudes_where_division_by_the_maximum_matters():
    """p = 64 in float32 and p = 3 in float16 overflow if powers are taken of d itself."""
    for p, dtype, size in ((64, "float32", 1e30), (3, "float16", 300.0), (1.5, "float32", 1e-30)):
        x = (np.array([[1.0], [-1.0], [0.5], [-0.5]]) * size).astype(dtype)
        y, cache = lpnorm.batch_norm(x, None, None, p=p, eps=0.0)
        want = oracle.batch_norm(x, None, None, p, eps=0.0)
        np.testing.assert_allclose(y, want.y, rtol=4e-3 if dtype == "float16" else 1e-5)
        dx, _, _ = lpnorm.batch_norm_backward(normal(0, (4, 1), dtype), cache)
        assert np.isfinite(dx).all()


def test_l2_in_float16_overflows_where_l1_does_not():
    """The paper's point: squares of |d| >= 256 are infinite in float16."""
    x = np.array([[300.0], [-300.0], [100.0], [-100.0]], "float16")
    with np.errstate(over="ignore"):
        y2, cache = lpnorm.batch_norm(x, None, None, p=2)
    assert np.isinf(cache.scale).all() and not y2.any()
    y1, cache = lpnorm.batch_norm(x, None, None, p=1)
    np.testing.assert_allclose(y1, oracle.batch_norm(x, None, None, 1).y, rtol=2e-3)


def test_float16_backward_at_the_size_where_the_plain_form_fails():
    """n = 802,816 (ImageNet's first layer): T overflows float16 and C/n is subnormal in it."""
    n = 802_816
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, n, 1)).astype("float16")
    random = dy
    for p in (1, 2, 1.5, math.inf, TopK(10), Range()):
        # T of order n, but where m < n: there it would be dx itself that float16 cannot hold
        dy = random + np.sign(x) if p in (1, 2, 1.5) else random
        _, cache = lpnorm.batch_norm(x, None, None, p=p)
        dx, _, _ = lpnorm.batch_norm_backward(dy, cache)
        x64, dy64 = x.astype("float64").T, dy.astype("float64").T
        c = lpnorm.gaussian_constant(p, n)
        _, cache64 = lpnorm.batch_norm(x64.T, None, None, p=p)
        want, _, _ = lpnorm.batch_norm_backward(dy64.T, cache64)
        bounds = normalize_bounds(x64, dy64, p, c, 1e-5, "float16", None, False)
        assert_within(dx.T, want.T, bounds.dx, f"dx for p = {p}")
        assert np.all(np.abs(dx - want) < 0.02 + 0.002 * np.abs(want))


def test_lp_in_float16_with_many_values_and_a_large_p():
    """(|d|/M)^(p-1) reaches n^((p-1)/p), beyond float16 here; h = u^(p-1) does not."""
    n = 802_816
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, n, 1)).astype("float16")
    dx, _, _ = lpnorm.batch_norm_backward(dy, lpnorm.batch_norm(x, None, None, p=64)[1])
    x64, dy64 = x.astype("float64"), dy.astype("float64")
    want, _, _ = lpnorm.batch_norm_backward(dy64, lpnorm.batch_norm(x64, None, None, p=64)[1])
    bounds = normalize_bounds(x64.T, dy64.T, 64, lpnorm.gaussian_constant(64, n), 1e-5, "float16")
    assert_within(dx.T, want.T, bounds.dx, "dx")
    assert np.median(np.abs(dx - want)) < 1e-3


@pytest.mark.parametrize("p", [math.inf, TopK(4), Range()], ids=str)
def test_shares_of_very_many_ties_keep_their_bits_in_float16(p):
    """1/400,000 is subnormal in float16: shares are kept in the accumulator's dtype."""
    n = 802_816
    rng = np.random.default_rng(0)
    x = rng.permutation(np.repeat([1.0, -1.0], n // 2))[:, None]
    dy = (30 * x + rng.standard_normal(x.shape)).astype("float16")
    dx, _, _ = lpnorm.batch_norm_backward(
        dy, lpnorm.batch_norm(x.astype("float16"), None, None, p)[1]
    )
    dy64 = dy.astype("float64")
    want, _, _ = lpnorm.batch_norm_backward(dy64, lpnorm.batch_norm(x, None, None, p)[1])
    assert np.abs(dx - want).max() < 0.05


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("size", [60000.0, 2.0**-23])
def test_float16_keeps_its_statistics_in_float32(xp, p, size):
    """Scales that float16 cannot hold (75,000; or 7e-8, a subnormal of one bit): x_hat is right."""
    if p == 2:
        return  # squares overflow and underflow; that is the paper's point
    x = size * np.array([[1.0], [-1.0], [0.5], [-0.5], [1.0], [-1.0], [1.0], [-1.0]])
    y, cache = lpnorm.batch_norm(xp(x, "float16"), None, None, p=p, eps=0.0)
    with np.errstate(over="ignore"):  # dx of order 1/7e-8 does not fit
        dx, _, _ = lpnorm.batch_norm_backward(xp(normal(0, x.shape), "float16"), cache)
    want = oracle.batch_norm(x, None, None, p, eps=0.0)
    np.testing.assert_allclose(xp.numpy(y), want.y, rtol=0.01)
    np.testing.assert_allclose(xp.numpy(cache.scale), want.scale, rtol=0.01)
    assert cache.scale.dtype == np.float32
    if size > 1:
        want_dx = oracle.batch_norm_backward(normal(0, x.shape), x, None, None, p, eps=0.0)[0]
        np.testing.assert_allclose(xp.numpy(dx), want_dx, atol=2e-7)


def test_float16_parameter_gradients_are_summed_in_float32(xp):
    """8,192 ones: a float16 sum of partial sums would still be exact, of 0.1 it is not."""
    n = 8192
    x = normal(0, (n, 2), "float16")
    dy = np.full((n, 2), 0.1, "float16")
    exact = n * float(np.float16(0.1))
    gamma = np.ones(2, "float32")
    _, cache = lpnorm.batch_norm(xp(x), xp(gamma), xp(gamma), p=1)
    assert float(lpnorm.batch_norm_backward(xp(dy), cache)[2][0]) == pytest.approx(exact, rel=1e-6)
    _, cache = lpnorm.layer_norm(xp(x), xp(gamma), xp(gamma), p=1)
    assert float(lpnorm.layer_norm_backward(xp(dy), cache)[2][0]) == pytest.approx(exact, rel=1e-6)
    ones = xp(np.ones(2, "float32"))
    backward = lpnorm.batch_norm_inference_backward
    _, dgamma, dbeta = backward(xp(dy), xp(np.ones_like(x)), ones, ones, 0 * ones, ones)
    assert float(dgamma[0]) == float(dbeta[0]) == pytest.approx(exact, rel=1e-6)


def test_results_lie_in_memory_as_x_does(xp):
    """Channels first, channels last (as a view, too), layer norm; what is gathered in C order."""
    plain = xp(normal(0, (2, 3, 4, 5)))
    for x, axis in ((plain, 1), (plain, 3), (plain.transpose(0, 3, 1, 2), 1)):
        y, cache = lpnorm.batch_norm(x, None, None, axis=axis)
        dx, _, _ = lpnorm.batch_norm_backward(x, cache)
        fixed = 0 * cache.mean, 1 + 0 * cache.scale
        for result in (y, dx, lpnorm.batch_norm_inference(x, None, None, *fixed, axis=axis)):
            assert result.strides == x.strides
    for axis in (3, (2, 3), (0, 2), 0):
        y, cache = lpnorm.layer_norm(plain, None, None, axis=axis)
        dx, _, _ = lpnorm.layer_norm_backward(plain, cache)
        assert y.flags.c_contiguous and dx.flags.c_contiguous


def test_signatures_are_the_published_ones():
    for name, want in SIGNATURES.items():
        parameters = inspect.signature(getattr(lpnorm, name)).parameters.values()
        given = [p.name + ("" if p.default is p.empty else f"={p.default!r}") for p in parameters]
        assert ", ".join(given) == want, name


SIGNATURES = {
    "batch_norm": "x, gamma, beta, p=2, axis=1, eps=1e-05, constant='paper', accumulate=None",
    "layer_norm": "x, gamma, beta, p=2, axis=-1, eps=1e-05, constant='paper', accumulate=None",
    "batch_norm_backward": "dy, cache",
    "layer_norm_backward": "dy, cache",
    "batch_norm_inference": "x, gamma, beta, mean, scale, axis=1",
    "gaussian_constant": "p, n, constant='paper'",
    "weight_norm": "v, g, p=2, axis=0, accumulate=None",
    "weight_norm_backward": "dw, cache",
    "bounded_norm": "v, p=2, axis=0, accumulate=None",
    "bounded_weight_norm": "v, rho, p=2, axis=0, accumulate=None",
    "bounded_weight_norm_backward": "dw, cache",
}


# --- p = 2 is ordinary batch norm: PyTorch --------------------------------------------------------


@given(seed=seeds, layout=layouts(), eps=st.sampled_from([1e-5, 0.1]))
def test_l2_is_torch_batch_norm(seed, layout, eps):
    torch = pytest.importorskip("torch")
    shape, axis = layout
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, *shape))
    gamma, beta = rng.standard_normal((2, shape[axis]))
    y, cache = lpnorm.batch_norm(x, gamma, beta, p=2, axis=axis, eps=eps)
    grads = lpnorm.batch_norm_backward(dy, cache)
    t = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    moved = t[0].movedim(axis, 1)
    want = torch.nn.functional.batch_norm(moved, None, None, t[1], t[2], True, eps=eps)
    want = want.movedim(1, axis)
    want.backward(torch.tensor(dy))
    size = 1 + np.abs(x).max() / cache.scale.min()
    for got, its in zip((y, *grads), (want, *(a.grad for a in t)), strict=True):
        np.testing.assert_allclose(got, its.detach().numpy(), rtol=0, atol=1e-12 * size**2 * 10)


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(seed=seeds)
def test_every_norm_against_torch_autograd(p, seed):
    """The definition in torch operations, differentiated by torch, away from kinks."""
    torch = pytest.importorskip("torch")
    n, eps = 10, 1e-3
    x = with_gaps(seed, n, 2).T
    dy = np.random.default_rng(seed).standard_normal(x.shape)
    t = torch.tensor(x, requires_grad=True)
    d = t - t.mean(dim=0)
    c = lpnorm.gaussian_constant(p, n)
    if p == 2:
        s = torch.sqrt((d * d).mean(dim=0) + eps)
    elif p == math.inf:
        s = c * d.abs().amax(dim=0) + eps
    elif isinstance(p, TopK):
        s = c * d.abs().topk(p.k, dim=0).values.mean(dim=0) + eps
    elif isinstance(p, Range):
        s = c * (d.amax(dim=0) - d.amin(dim=0)) + eps
    else:
        s = c * (d.abs() ** p).mean(dim=0) ** (1 / p) + eps
    (d / s).backward(torch.tensor(dy))
    y, cache = lpnorm.batch_norm(x, None, None, p=p, eps=eps)
    dx, _, _ = lpnorm.batch_norm_backward(dy, cache)
    np.testing.assert_allclose(y, (d / s).detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-10, atol=1e-11)


@given(seed=seeds)
def test_layer_norm_is_torch_layer_norm(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, 4, 3, 5))
    gamma, beta = rng.standard_normal((2, 3, 5))
    y, cache = lpnorm.layer_norm(x, gamma, beta, axis=(1, 2))
    grads = lpnorm.layer_norm_backward(dy, cache)
    t = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    want = torch.nn.functional.layer_norm(t[0], (3, 5), t[1], t[2])
    want.backward(torch.tensor(dy))
    for got, its in zip((y, *grads), (want, *(a.grad for a in t)), strict=True):
        np.testing.assert_allclose(got, its.detach().numpy(), rtol=0, atol=1e-12)


# --- inference ------------------------------------------------------------------------------------


@given(seed=seeds, layout=layouts(), affine=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_inference_and_its_backward(xp, seed, layout, affine, dtype):
    shape, axis = layout
    channels = shape[axis]
    x, dy = normal(seed, shape), normal(seed + 1, shape)
    gamma = normal(seed + 2, (channels,)) if affine else None
    beta = normal(seed + 3, (channels,)) if affine else None
    mean, scale = normal(seed + 4, (channels,)), 1 + np.abs(normal(seed + 5, (channels,)))
    scale = scale.astype("float16").astype("float64")
    statistics = xp(mean, dtype), xp(scale, dtype)
    parameters = [None if a is None else xp(a, dtype) for a in (gamma, beta)]
    y = lpnorm.batch_norm_inference(xp(x, dtype), *parameters, *statistics, axis=axis)
    dx, dgamma, dbeta = lpnorm.batch_norm_inference_backward(
        xp(dy, dtype), xp(x, dtype), *parameters, *statistics, axis=axis
    )
    want = oracle.batch_norm_inference(x, gamma, beta, mean, scale, axis)
    tol = 8 * np.finfo(dtype).eps
    size = (1 + np.abs(x).max()) * (1 + (0 if gamma is None else np.abs(gamma).max()))
    np.testing.assert_allclose(xp.numpy(y), want, rtol=0, atol=tol * (size + 4))
    axes = reduced(len(shape), axis)
    x_hat = (to_rows(x, axes) - mean[:, None]) / scale[:, None]
    rows = to_rows(dy, axes)
    g = rows if gamma is None else rows * gamma[:, None]
    want_dx = from_rows(g / scale[:, None], shape, axes)
    np.testing.assert_allclose(xp.numpy(dx), want_dx, rtol=0, atol=tol * 20)
    if affine:
        n = rows.shape[1]
        np.testing.assert_allclose(
            xp.numpy(dgamma), (rows * x_hat).sum(axis=1), rtol=0, atol=tol * n * 40
        )
        np.testing.assert_allclose(xp.numpy(dbeta), rows.sum(axis=1), rtol=0, atol=tol * n * 4)


# --- good manners ---------------------------------------------------------------------------------


def test_inputs_are_never_modified_and_backward_may_be_called_twice(xp):
    x, dy, gamma, beta = (normal(i, s) for i, s in enumerate([(6, 3, 4)] * 2 + [(3,)] * 2))
    for p in NORMS:
        arrays = [xp(a) for a in (x, gamma, beta)]
        if xp.name == "NumPy":
            for a in arrays:
                a.setflags(write=False)
        _, cache = lpnorm.batch_norm(*arrays, p=p)
        first = lpnorm.batch_norm_backward(xp(dy), cache)
        second = lpnorm.batch_norm_backward(xp(dy), cache)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(xp.numpy(a), xp.numpy(b))
        for a, b in zip(arrays, (x, gamma, beta), strict=True):
            np.testing.assert_array_equal(xp.numpy(a), b)


def test_gamma_and_beta_may_have_the_accumulators_dtype(xp):
    x, dy = normal(0, (6, 3), "float16"), normal(1, (6, 3), "float16")
    gamma, beta = normal(2, (3,), "float32"), normal(3, (3,), "float32")
    y, cache = lpnorm.batch_norm(xp(x), xp(gamma), xp(beta), p=1)
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(xp(dy), cache)
    assert y.dtype == dx.dtype == np.float16
    assert dgamma.dtype == dbeta.dtype == cache.mean.dtype == cache.scale.dtype == np.float32


def test_a_wider_accumulator_is_used(xp):
    """0.1 in float32, 4,096 times: the float64 mean is that number, and every d exactly 0."""
    x = np.full((4096, 1), 0.1, "float32")
    _, cache = lpnorm.batch_norm(xp(x), None, None, p=1, accumulate="float64")
    assert cache.mean.dtype == cache.scale.dtype == np.float64
    assert float(cache.mean[0]) == np.float64(np.float32(0.1))


@pytest.mark.parametrize("p", SMOOTH)
def test_the_upstream_gradient_must_be_random(p):
    """Why the tests above draw dy: for dy = 1, dx is 0, and `return zeros` would pass."""
    x = normal(0, (64, 2))
    _, cache = lpnorm.batch_norm(x, None, None, p=p)
    flat = lpnorm.batch_norm_backward(np.ones_like(x), cache)[0]
    drawn = lpnorm.batch_norm_backward(normal(1, x.shape), cache)[0]
    assert np.abs(flat).max() < 1e-13 < 0.1 < np.abs(drawn).max()
