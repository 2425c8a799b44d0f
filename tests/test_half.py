"""float16 bit by bit: against tests/half_emulation.py, and the laws of its arithmetic."""

import math
from typing import ClassVar

import half_emulation as emulation
import numpy as np
import pytest
from conftest import Library
from draws import normal, seeds
from half_emulation import Sums
from hypothesis import assume, given
from hypothesis import strategies as st

import lpnorm
from lpnorm import Accumulate, Range, TopK, nn
from lpnorm.decay import SGD

NORMS = [1, 2, math.inf, TopK(3), Range(), 3, 1.5]
SCALE_FREE = [1, math.inf, TopK(3), Range(), 3]  # L2 squares what it is given
WEIGHT_NORMS = [1, 2, math.inf, 3, 1.5]
ORDERS = [None, "pairwise", "sequential", "pairwise_mean"]
ACCUMULATORS = [
    None,
    *("float16", "float32", "float64"),
    *(Accumulate(dtype, order) for dtype in ("float16", "float32") for order in ORDERS),
    Accumulate("float64", "sequential"),
]
FLOAT16_AND_32 = [a for a in ACCUMULATORS if a is None or "64" not in str(a)]
BOTH = ["float16", "float32"]
LARGEST, SMALLEST, SUBNORMAL = 65504.0, 2.0**-14, 2.0**-24  # SMALLEST: normal number


@pytest.fixture(autouse=True)
def quiet():
    """Overflow, 0/0 and Inf are what this file is about: no warnings."""
    with np.errstate(all="ignore"):
        yield


def sums(accumulate, kind=Sums):
    """The emulation's accumulator for the library's argument."""
    if isinstance(accumulate, Accumulate):
        return kind(accumulate.dtype.type, accumulate.order)
    return kind(np.dtype(accumulate or "float32").type)


def assert_same_bits(got, want, what=""):
    """Every bit, signs of zero included; any NaN is as good as another."""
    assert got.dtype == want.dtype and got.shape == want.shape, (what, got.dtype, want.dtype)
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan, err_msg=what)
    unsigned = f"uint{8 * want.itemsize}"
    bits = [np.where(nan, 0, np.ascontiguousarray(a).view(unsigned)) for a in (got, want)]
    if not np.array_equal(*bits):
        at = np.argwhere(bits[0] != bits[1])[0]
        raise AssertionError(f"{what} at {at}: {got[tuple(at)]!r} instead of {want[tuple(at)]!r}")


def real_power(xp, p):
    """Whether xp takes its own power |d|^p and root and not NumPy's: a real p on a real GPU.

    Equal bits are promised for L1, L2, L-infinity, Top-k and Range. No two libraries round powers
    alike: CUDA's differ from NumPy's in the last bit.
    """
    return xp.name == "CuPy" and p in (1.5, 3)


def assert_near(got, want, terms, roundings, what):
    """Apart by no more than `roundings` float16 roundings of the terms that make up the value.

    Nothing is compared where one of the two is not finite: the last bit may decide what overflows,
    and what becomes of NaN and Inf is compared bit for bit for the other norms and on NumPy.
    """
    assert got.dtype == want.dtype and got.shape == want.shape, (what, got.dtype, want.dtype)
    got, want, terms = (np.asarray(a, "float64") for a in (got, want, terms))
    allowed = roundings * 2.0**-10 * (terms + SMALLEST)
    finite = np.isfinite(got) & np.isfinite(want) & np.isfinite(allowed)
    off = np.where(finite, abs(got - want) - allowed, 0)
    at = np.unravel_index(np.argmax(off), off.shape)
    assert off[at] <= 0, f"{what} at {at}: {got[at]} instead of {want[at]}, {allowed[at]} allowed"


def terms_of_norm(slow, x, dy):
    """How large the terms of each result that takes a power are, shapes as of the results.

    SMALLEST is added to every term: a rounding of a subnormal one is as large as one of that.
    """
    x, dy, s = x.astype("float64"), dy.astype("float64"), slow.kept(slow.scale)

    def wide(parameter):
        return 1.0 if parameter is None else abs(slow.wide(parameter))

    def mean(a):
        return a.mean(axis=slow.reduced, keepdims=True)

    d, g = abs(x - slow.kept(slow.mean)), wide(slow.gamma) * abs(dy) + SMALLEST

    power = (d / mean(d**slow.p) ** (1 / slow.p)) ** (slow.p - 1)  # h / a
    of_scale = 1 + (SMALLEST / s if slow.sums.dtype == np.float16 else 0)
    x_hat = d / s * of_scale + SMALLEST
    pull = slow.constant * mean(g * x_hat + SMALLEST) * (power + mean(power))
    return {
        "scale": slow.scale,
        "y": wide(slow.gamma) * x_hat + wide(slow.beta),
        "dx": (g + mean(g) + pull) / s * of_scale,
        "dgamma": (abs(dy) * x_hat + SMALLEST).sum(axis=slow.summed()),
    }


def terms_of_weights(slow, v, dw):
    """The same for weights (n, channels) normalized along the first axis."""
    v, dw, n, p = abs(v.astype("float64")), abs(dw.astype("float64")), len(v), slow.p
    size, step = (abs(np.array(a, "float64")) for a in (slow.size, slow.step))
    least = SMALLEST if slow.sums.dtype == np.float16 else 0
    power = (v / (v**p).mean(axis=0) ** (1 / p)) ** (p - 1)
    of_size = 1 + least / size
    inner = (dw * v / size * of_size + SMALLEST).sum(axis=0)
    step = step * of_size + least
    return {"w": v * step, "dv": (dw + inner * n ** (1 / p - 1) * power) * step, "dg": inner}


def power_roundings(n, p, accumulate):
    """How many roundings apart two runs may end whose powers differ in the last bit.

    p for each of |d|^p and u^(p-1), whose argument differs too, two more for the root and a, four
    for the operations after them, and one for each addition on the way of a term to its sum
    (n of them one after another, else one a level of the tree), since each may round the other
    way; of such sums the statistic, T and the means come one after another in dx.
    """
    depth = n if getattr(accumulate, "order", None) == "sequential" else (n - 1).bit_length()
    return 2 * p + 6 + (3 * depth if sums(accumulate).dtype == np.float16 else 0)


# --- values ---------------------------------------------------------------------------------------


@st.composite
def channel(draw, n):
    """n float16 numbers: Gaussian at any scale, or one of the values that break things."""
    kind = draw(st.sampled_from(["gaussian"] * 5 + ["ties", "zeros", "constant", "edge", "small"]))
    rng = np.random.default_rng(draw(seeds))
    values = rng.standard_normal(n)
    if kind == "gaussian":
        values *= 2.0 ** draw(st.integers(-20, 12))
        values += draw(st.sampled_from([0.0, 0.0, 0.5, 100.0]))
    elif kind == "ties":
        values = rng.integers(-2, 3, n) * 2.0 ** draw(st.integers(-20, 13))
    elif kind == "zeros":
        values = np.where(rng.random(n) < 0.8, rng.choice([0.0, -0.0], n), values)
    elif kind == "constant":
        values = np.full(n, draw(st.floats(-LARGEST, LARGEST, width=16)))
    elif kind == "edge":
        values = rng.choice([LARGEST, -LARGEST, 0.0, 60000.0], n)
    else:
        values = rng.integers(-40, 41, n) * SUBNORMAL
    special = draw(st.sampled_from([None] * 9 + [math.inf, -math.inf, math.nan]))
    if special is not None:
        values[rng.integers(n)] = special
    return values.astype("float16")


sizes = st.sampled_from([3, 5, 6, 7, 9, 11, 13, 21, 33, 45])
epsilons = st.sampled_from([0.0, 1e-5, 2.0**-10, 0.5])
constants = st.sampled_from(["paper", "exact", None])


@st.composite
def arguments(draw, accumulate, n, channels):
    """x and dy, (n, channels), and gamma and beta, (channels,) or None."""
    x = np.stack([draw(channel(n)) for _ in range(channels)], axis=1)
    seed = draw(seeds)
    dy = normal(seed, (n, channels), "float16") * np.float16(2.0 ** draw(st.integers(-14, 9)))
    acc = sums(accumulate).dtype
    gamma, beta = (
        normal(seed + i, (channels,), acc if draw(st.booleans()) else "float16")
        * draw(st.sampled_from([1.0, 0.3, 30.0]))
        if draw(st.booleans())
        else None
        for i in (1, 2)
    )
    return x, dy, gamma, beta


# --- (a) the library is the emulation, bit for bit ------------------------------------------------


def assert_norm_is_emulated(xp, layer, p, x, dy, gamma, beta, axis, eps, constant, accumulate):
    f = lpnorm.layer_norm if layer else lpnorm.batch_norm
    options = {"p": p, "axis": axis, "eps": eps, "constant": constant, "accumulate": accumulate}
    y, cache = f(xp(x), xp(gamma), xp(beta), **options)
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(xp(dy), cache)
    axis %= x.ndim
    reduced = (axis,) if layer else tuple(a for a in range(x.ndim) if a != axis)
    n = math.prod(x.shape[a] for a in reduced)
    c = lpnorm.gaussian_constant(p, n, constant)
    slow = emulation.Norm(p, c, eps, sums(accumulate), reduced, layer)
    want = {"y": slow.forward(x, gamma, beta)}
    want["dx"], want["dgamma"], want["dbeta"] = slow.backward(dy)
    want["mean"], want["scale"] = slow.mean, slow.scale
    got = {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta}
    got |= {"mean": cache.mean.ravel(), "scale": cache.scale.ravel()}
    terms = terms_of_norm(slow, x, dy) if real_power(xp, p) else {}
    for name in ("mean", "scale", "y", "dgamma", "dbeta", "dx"):
        if want[name] is None:
            assert got[name] is None
        elif name in terms:
            roundings = power_roundings(n, p, accumulate)
            assert_near(xp.numpy(got[name]), want[name], terms[name], roundings, name)
        else:
            assert_same_bits(xp.numpy(got[name]), want[name], name)


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), n=sizes, eps=epsilons, constant=constants)
def test_batch_norm_is_the_emulation(xp, p, data, n, eps, constant):
    accumulate = data.draw(st.sampled_from(ACCUMULATORS))
    x, dy, gamma, beta = data.draw(arguments(accumulate, n, 3))
    assert_norm_is_emulated(xp, False, p, x, dy, gamma, beta, 1, eps, constant, accumulate)


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("accumulate", ACCUMULATORS, ids=str)
def test_every_accumulator_with_every_norm(xp, p, accumulate):
    """Images, (2, 3, 5, 3): 30 values a channel, at scales from 2^-12 to 2^8."""
    channel_scale = 2.0 ** np.array([-12, 0, 8])[:, None, None]
    x = (normal(1, (2, 3, 5, 3)) * channel_scale).astype("float16")
    dy = normal(2, x.shape, "float16")
    gamma = normal(3, (3,), "float16")
    beta = normal(4, (3,), sums(accumulate).dtype)
    assert_norm_is_emulated(xp, False, p, x, dy, gamma, beta, 1, 2.0**-10, "paper", accumulate)


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), n=sizes, eps=epsilons)
def test_layer_norm_is_the_emulation(xp, p, data, n, eps):
    accumulate = data.draw(st.sampled_from(ACCUMULATORS))
    x, dy, gamma, beta = data.draw(arguments(accumulate, n, 3))
    gamma, beta = (None if k is None else np.resize(k, n) for k in (gamma, beta))
    assert_norm_is_emulated(xp, True, p, x, dy, gamma, beta, 0, eps, "paper", accumulate)


@given(data=st.data(), n=sizes)
def test_inference_is_the_emulation(xp, data, n):
    wide = data.draw(st.sampled_from(["float16", "float32"]))
    x, _, gamma, beta = data.draw(arguments(wide, n, 3))
    mean = normal(data.draw(seeds), (3,), wide)
    scale = abs(normal(data.draw(seeds), (3,), wide))
    y = lpnorm.batch_norm_inference(xp(x), xp(gamma), xp(beta), xp(mean), xp(scale))
    want = emulation.inference(x, gamma, beta, mean, scale, (0,))
    assert_same_bits(xp.numpy(y), want, "y")


@pytest.mark.parametrize("bounded", [False, True], ids=["weight", "bounded"])
@pytest.mark.parametrize("p", WEIGHT_NORMS, ids=str)
@given(data=st.data(), n=sizes)
def test_weight_norms_are_the_emulation(xp, p, bounded, data, n):
    assert_weight_norm_is_emulated(xp, p, bounded, data, n)


def assert_weight_norm_is_emulated(xp, p, bounded, data, n):
    accumulate = data.draw(st.sampled_from(ACCUMULATORS))
    v, dw, _, _ = data.draw(arguments(accumulate, n, 3))
    v[0, abs(v).max(axis=0) == 0] = 1  # a channel of zeros is refused
    slow = emulation.WeightNorm(p, sums(accumulate), (0,))
    factor = 0.7
    if not bounded:
        dtype = data.draw(st.sampled_from(["float16", slow.sums.dtype]))
        factor = normal(data.draw(seeds), (3,), dtype)
    w_want = slow.forward(v, factor)
    if (np.array(slow.size) == 0).any():  # underflow of the norm is refused as well
        return
    dv_want, dg_want = slow.backward(dw)
    options = {"p": p, "axis": 1, "accumulate": accumulate}
    if bounded:
        w, cache = lpnorm.bounded_weight_norm(xp(v), factor, **options)
        dv, dg = lpnorm.bounded_weight_norm_backward(xp(dw), cache), None
    else:
        w, cache = lpnorm.weight_norm(xp(v), xp(factor), **options)
        dv, dg = lpnorm.weight_norm_backward(xp(dw), cache)
    terms = terms_of_weights(slow, v, dw) if real_power(xp, p) else {}
    for name, got, want in (("w", w, w_want), ("dv", dv, dv_want), ("dg", dg, dg_want)):
        if want is None:
            assert got is None
        elif name in terms:
            roundings = power_roundings(n, p, accumulate)
            assert_near(xp.numpy(got), want, terms[name], roundings, name)
        else:
            assert_same_bits(xp.numpy(got), want, name)


@pytest.mark.parametrize("kind", ["batch", "layer", "weight", "bounded"])
@pytest.mark.parametrize("p", [3, 1.5])
@given(data=st.data(), seed=seeds, n=sizes)
def test_powers_that_differ_in_the_last_bit_are_near(p, kind, data, seed, n):
    """As on a real GPU, where the tests above compare a real p with these tolerances."""
    rng, numpys, gpu = np.random.default_rng(seed), emulation.power, Library("CuPy", np)

    def power(base, exponent):
        value = numpys(base, exponent)
        exact = not np.isfinite(value) or value in (0, 1)
        return value if exact else np.nextafter(value, value.dtype.type(rng.choice([0, 0.999999])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emulation, "power", power)
        if kind in ("weight", "bounded"):
            return assert_weight_norm_is_emulated(gpu, p, kind == "bounded", data, n)
        accumulate, layer = data.draw(st.sampled_from(ACCUMULATORS)), kind == "layer"
        x, dy, gamma, beta = data.draw(arguments(accumulate, n, 3))
        if layer:
            gamma, beta = (None if k is None else np.resize(k, n) for k in (gamma, beta))
        arrays = (x, dy, gamma, beta, 0 if layer else 1, data.draw(epsilons), "paper", accumulate)
        assert_norm_is_emulated(gpu, layer, p, *arrays)


# --- (b) a power of two changes no bit ------------------------------------------------------------


class Watching(Sums):
    """Sums that remember every node."""

    seen: ClassVar[list] = []

    def note(self, values):
        self.seen.extend(values)


def powers_allowed(x, p, c, accumulate, dx=()):
    """(lowest, highest) k for which 2^k x must leave the bits alone, from the run at k = 0.

    For y these must stay normal or zero, and finite: x; every node (and every half of a node) of
    the sums for the mean and for the statistic; d; for L2 each d^2, which goes with 4^k; for p = 3
    nothing but max |d|, since the powers are taken of |d| / max |d|; the statistic, and C times it.
    For dx, given as well, only dx itself, which goes with 2^-k. Everything else (x_hat, g, b, c,
    h, a) does not change at all.
    """
    watch = sums(accumulate, Watching)
    watch.seen.clear()
    mean = watch.average(x)
    d = [np.float16(v - mean) for v in x]
    goes_with = {1: [*x, *watch.seen, mean, *d], 2: [], -1: list(dx)}
    watch.seen.clear()
    size = emulation.statistic(p, d, watch)
    if p == 2:
        squares = [v * v for v in d]
        if any(s == 0 != v for s, v in zip(squares, d, strict=True)):
            return 1, 0
        goes_with[2] = squares + watch.seen
    elif p != 3:
        goes_with[1] += watch.seen
    goes_with[1] += [size, watch.dtype(c) * size]
    lowest, highest = -1000, 1000
    for power, values in goes_with.items():
        for v in values:
            if v == 0:
                continue
            if not np.isfinite(v):
                return 1, 0
            info, exponent = np.finfo(v.dtype), math.frexp(float(v))[1]
            span = [info.minexp + 1 - exponent, info.maxexp - exponent]
            least, most = sorted(bound / power for bound in span)
            lowest, highest = max(lowest, math.ceil(least)), min(highest, math.floor(most))
    return lowest, highest


def forward_backward(xp, x, dy, p, accumulate, eps=0.0, constant="paper"):
    """y and dx of one channel, (n,) -> (n,)."""
    y, cache = lpnorm.batch_norm(
        xp(x[:, None]), None, None, p=p, eps=eps, constant=constant, accumulate=accumulate
    )
    dx, _, _ = lpnorm.batch_norm_backward(xp(dy[:, None]), cache)
    return xp.numpy(y)[:, 0], xp.numpy(dx)[:, 0]


@pytest.mark.parametrize("p", [*SCALE_FREE, 2], ids=str)
@given(data=st.data(), seed=seeds, n=sizes)
def test_powers_of_two(xp, p, data, seed, n):
    """Also at both ends of the ranges, which are computed and not drawn."""
    accumulate = data.draw(st.sampled_from(FLOAT16_AND_32))
    offset = data.draw(st.sampled_from([0.0, 0.0, 1.0, 3.5]))
    x = (normal(seed, (n,)) * 2 + offset).astype("float16")
    dy = normal(seed + 1, (n,), "float16")
    y, dx = forward_backward(xp, x, dy, p, accumulate)
    c = lpnorm.gaussian_constant(p, n)
    for gradient in ((), dx):
        lowest, highest = powers_allowed(x, p, c, accumulate, gradient)
        assume(lowest <= 0 <= highest)
        for k in {lowest, highest, data.draw(st.integers(lowest, highest))}:
            scaled_y, scaled_dx = forward_backward(xp, np.ldexp(x, k), dy, p, accumulate)
            assert_same_bits(scaled_y, y, f"y at 2^{k}")
            if gradient is dx:
                assert_same_bits(scaled_dx, np.ldexp(dx, -k), f"dx at 2^{k}")


def fixed_channel():
    """40 values of 1 to 2 in size, each with its negative: d is x, and nothing is small."""
    rng = np.random.default_rng(7)
    x = (rng.uniform(1, 2, 20) * rng.choice([-1, 1], 20)).astype("float16")
    return np.concatenate([x, -x]), rng.uniform(0.5, 1, 40).astype("float16")


def powers_that_change_y(xp, p, accumulate, powers):
    """The k in `powers` for which y of 2^k x has other bits than y of x."""
    x, dy = fixed_channel()
    y, _ = forward_backward(xp, x, dy, p, accumulate)
    others = {k: forward_backward(xp, np.ldexp(x, k), dy, p, accumulate)[0] for k in powers}
    return {k for k, other in others.items() if not np.array_equal(other, y)}


def test_l2_breaks_where_its_range_ends(xp):
    """float32: from 2^-7 to 2^7 and not one power more. float16: 2^-6, and broken at 2^-9."""
    x, dy = fixed_channel()
    every = set(range(-16, 16))
    assert powers_allowed(x, 2, 1.0, "float32") == (-7, 7)
    assert powers_that_change_y(xp, 2, "float32", every) == every - set(range(-7, 8))
    assert powers_allowed(x, 2, 1.0, "float16") == (-6, 7)
    kept = every - powers_that_change_y(xp, 2, "float16", every)
    assert set(range(-6, 8)) <= kept <= set(range(-8, 8))
    for accumulate in BOTH:
        above, _ = forward_backward(xp, np.ldexp(x, 8), dy, 2, accumulate)
        np.testing.assert_array_equal(above, 0)  # some d^2 is infinite, and so is s
        tiny, _ = forward_backward(xp, np.ldexp(x, -14), dy, 2, accumulate)
        np.testing.assert_array_equal(tiny, np.copysign(np.inf, x))  # every d^2 is 0


@pytest.mark.parametrize("p", SCALE_FREE, ids=str)
@pytest.mark.parametrize("accumulate", BOTH)
def test_the_others_go_on_where_l2_breaks(xp, accumulate, p):
    x, _ = fixed_channel()
    c = lpnorm.gaussian_constant(p, len(x))
    lowest, highest = powers_allowed(x, p, c, accumulate)
    l2_lowest, l2_highest = powers_allowed(x, 2, 1.0, accumulate)
    assert lowest <= l2_lowest - 3 and l2_highest + 4 <= highest
    assert not powers_that_change_y(xp, p, accumulate, range(lowest, highest + 1))


# --- (c) the bits do not depend on where the values lie -------------------------------------------


def layouts(x):
    """The same values in other memory layouts."""
    read_only = x.copy()
    read_only.flags.writeable = False
    padded = np.zeros([2 * size for size in x.shape], x.dtype)
    padded[tuple(slice(None, None, 2) for _ in x.shape)] = x
    backwards = tuple(slice(None, None, -1) for _ in x.shape)
    return {
        "Fortran": np.asfortranarray(x),
        "negative strides": np.ascontiguousarray(x[backwards])[backwards],
        "transposed view": np.ascontiguousarray(x.transpose(2, 0, 3, 1)).transpose(1, 3, 0, 2),
        "every second": padded[tuple(slice(None, None, 2) for _ in x.shape)],
        "read-only": read_only,
    }


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("accumulate", ACCUMULATORS, ids=str)
def test_the_same_bits_in_every_layout(xp, p, accumulate):
    x, dy = (normal(seed, (3, 4, 5, 3), "float16") * np.float16(4) for seed in (0, 1))
    gamma, beta = (xp(normal(seed, (4,), "float16")) for seed in (2, 3))

    def run(x, dy, axis=1):
        y, cache = lpnorm.batch_norm(x, gamma, beta, p=p, axis=axis, accumulate=accumulate)
        dx, dgamma, dbeta = lpnorm.batch_norm_backward(dy, cache)
        return [xp.numpy(a) for a in (y, dx, dgamma, dbeta)]

    want = run(xp(x), xp(dy))
    others = {
        name: run(a if xp.module is np else xp(a), b if xp.module is np else xp(b))
        for (name, a), b in zip(layouts(x).items(), layouts(dy).values(), strict=True)
    }
    nhwc = run(*(xp(np.ascontiguousarray(np.moveaxis(a, 1, -1))) for a in (x, dy)), axis=-1)
    others["NHWC"] = [np.moveaxis(a, -1, 1) for a in nhwc[:2]] + nhwc[2:]
    for name, got in others.items():
        for g, w, what in zip(got, want, ("y", "dx", "dgamma", "dbeta"), strict=True):
            assert_same_bits(g, w, f"{what}, {name}")


@pytest.mark.parametrize("p", WEIGHT_NORMS, ids=str)
@pytest.mark.parametrize("accumulate", ["float16", "float32", Accumulate("float16", "sequential")])
def test_weight_norm_has_the_same_bits_in_every_layout(p, accumulate):
    v, dw = (normal(seed, (3, 4, 5, 3), "float16") for seed in (0, 1))
    g = normal(2, (3,), "float16")

    def run(v, dw):
        w, cache = lpnorm.weight_norm(v, g, p=p, accumulate=accumulate)
        return (w, *lpnorm.weight_norm_backward(dw, cache))

    want = run(v, dw)
    for (name, a), b in zip(layouts(v).items(), layouts(dw).values(), strict=True):
        for got, w in zip(run(a, b), want, strict=True):
            assert_same_bits(got, w, name)


# --- (d) the values that break things -------------------------------------------------------------

EPS = 2.0**-10


def added(p):
    """s_hat of a row of zeros."""
    return math.sqrt(EPS) if p == 2 else EPS


@pytest.mark.parametrize("n", [4, 8, 45, 1000])
@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("accumulate", BOTH)
def test_constant_channels(xp, p, accumulate, n):
    values = np.array([1.0, -3.5, 0.1, 1000.0, LARGEST, -LARGEST, SUBNORMAL, 5 * SUBNORMAL])
    x = np.repeat(values[None], n, 0).astype("float16")
    dy = normal(n, x.shape, "float16")
    gamma, beta = np.full(8, 1.5, "float16"), np.full(8, 0.25, "float16")
    y, cache = lpnorm.batch_norm(
        xp(x), xp(gamma), xp(beta), p=p, eps=EPS, accumulate=accumulate, constant=None
    )
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(xp(dy), cache)
    y, s = xp.numpy(y).astype("float64"), xp.numpy(cache.scale).astype("float64")
    # a rounding a level, two more in the division by n / 2^L, and half a subnormal a level
    unit = 2.0**-11 if accumulate == "float16" else 2.0**-24
    levels = (n - 1).bit_length()
    error = (levels + 3) * unit * abs(x[0].astype("float64")) + (levels + 1) * SUBNORMAL
    allowed = 1.5 * error / s * (1 + 2.0**-8) + 2.0**-11 * (0.25 + 1.5 * error / s)
    assert (abs(y - 0.25) <= allowed).all()
    for gradient in (dx, dgamma, dbeta):
        assert np.isfinite(xp.numpy(gradient)).all()
    if n in (4, 8):  # then the mean of all but subnormal values is exact
        np.testing.assert_array_equal(y[:, :6], 0.25)
        np.testing.assert_allclose(s[:6], added(p), rtol=2.0**-10)


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("accumulate", BOTH)
def test_eps_0_on_a_constant_channel_is_nan(xp, p, accumulate):
    x = np.array([3.0, -LARGEST, 0.0]).repeat(8)
    for row in x.reshape(3, 8).astype("float16"):
        y, _ = forward_backward(xp, row, normal(0, (8,), "float16"), p, accumulate)
        assert np.isnan(y).all()


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("accumulate", BOTH)
def test_zeros(xp, p, accumulate):
    x = xp(np.zeros((6, 1)), "float16")
    dy = np.array([1, -1, 2, -2, 3, -3])[:, None].astype("float16")
    gamma, beta = xp([1.5], "float16"), xp([0.3], "float16")
    y, cache = lpnorm.batch_norm(x, gamma, beta, p=p, eps=EPS, accumulate=accumulate)
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(xp(dy), cache)
    np.testing.assert_array_equal(xp.numpy(y), np.float16(0.3))
    np.testing.assert_array_equal(xp.numpy(dx), dy * np.float16(1.5 / added(p)))
    np.testing.assert_array_equal(xp.numpy(dgamma), 0)
    np.testing.assert_array_equal(xp.numpy(dbeta), 0)


def at_the_edge(size):
    return (np.array([1, -1, 1, -1, -1, 1, -1, 1]) * size).astype("float16")


@pytest.mark.parametrize("accumulate", BOTH)
def test_plus_and_minus_65504(xp, accumulate):
    """d is +-65,504 exactly. What survives: all but L2, and Range in float16 (it is 131,008)."""
    x, dy = at_the_edge(LARGEST), at_the_edge(1) + normal(0, (8,), "float16")
    signs = at_the_edge(1)
    for p in (1, math.inf, TopK(3), 3, 1.5):
        y, dx = forward_backward(xp, x, dy, p, accumulate, constant=None)
        np.testing.assert_array_equal(y, signs, err_msg=str(p))
        assert np.isfinite(dx).all()
    y, _ = forward_backward(xp, x, dy, 2, accumulate)
    np.testing.assert_array_equal(y, 0)  # d^2 and hence s are infinite
    y, _ = forward_backward(xp, x, dy, Range(), accumulate, constant=None)
    np.testing.assert_array_equal(y, signs * (0 if accumulate == "float16" else 0.5))
    # C_1 times 65,504 is 82,097: beyond float16
    y, _ = forward_backward(xp, x, dy, 1, accumulate)
    want = 0 if accumulate == "float16" else signs * np.float16(math.sqrt(2 / math.pi))
    np.testing.assert_array_equal(y, want)


def test_plus_and_minus_65504_need_the_tree_of_averages(xp):
    x, dy = at_the_edge(LARGEST), normal(0, (8,), "float16")
    for order, survives in (("pairwise_mean", True), ("pairwise", False), ("sequential", False)):
        accumulate = Accumulate("float16", order)
        y, _ = forward_backward(xp, x, dy, 1, accumulate, constant=None)
        np.testing.assert_array_equal(y, at_the_edge(1) if survives else 0, err_msg=order)


@pytest.mark.parametrize("accumulate", BOTH)
def test_subnormals(xp, accumulate):
    """+-2^-20, whose halves in a short tree are exact: L2 has no square left, the others all."""
    x, dy = at_the_edge(16 * SUBNORMAL), normal(0, (8,), "float16")
    for p in (1, math.inf, TopK(3), 3, 1.5, Range()):
        y, _ = forward_backward(xp, x, dy, p, accumulate, constant=None)
        want = at_the_edge(0.5 if p == Range() else 1)
        np.testing.assert_array_equal(y, want, err_msg=str(p))
    y, _ = forward_backward(xp, x, dy, 2, accumulate)
    np.testing.assert_array_equal(y, np.copysign(np.inf, x))
    for p in NORMS:  # eps holds s_hat up: y is next to nothing, and the gradient is plain 1 / eps
        y, dx = forward_backward(xp, x, dy, p, accumulate, eps=EPS)
        assert (abs(y) <= 16 * SUBNORMAL / added(p) * 1.01).all()
        assert np.isfinite(dx).all()


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize("accumulate", [*BOTH, Accumulate("float16", "sequential")], ids=str)
def test_nan_and_inf_stay_in_their_channel(xp, p, accumulate, special):
    clean, dy = normal(0, (9, 3), "float16"), normal(1, (9, 3), "float16")
    gamma, beta = xp(normal(2, (3,), "float16")), xp(normal(3, (3,), "float16"))

    def run(x, dy):
        y, cache = lpnorm.batch_norm(xp(x), gamma, beta, p=p, accumulate=accumulate)
        return [xp.numpy(a) for a in (y, *lpnorm.batch_norm_backward(xp(dy), cache))]

    want, others = run(clean, dy), [0, 2]
    for place in (0, 4, 8):
        x = clean.copy()
        x[place, 1] = special
        got = run(x, dy)
        for g, w in zip(got, want, strict=True):
            assert_same_bits(g[..., others], w[..., others])
        for broken in got[:2]:
            assert np.isnan(broken[:, 1]).all()
        assert np.isnan(got[2][1])
        upstream = dy.copy()
        upstream[place, 1] = special
        got = run(clean, upstream)
        for g, w in zip(got, want, strict=True):
            assert_same_bits(g[..., others], w[..., others])
        assert not np.isfinite(got[1][:, 1]).any()


@pytest.mark.parametrize("p", [p for p in NORMS if p != TopK(3)], ids=str)
@pytest.mark.parametrize("accumulate", BOTH)
def test_groups_of_one(xp, p, accumulate):
    x = np.array([[3.0, -LARGEST, SUBNORMAL, 0.0]]).astype("float16")
    gamma, beta = xp(normal(0, (4,), "float16")), xp(normal(1, (4,), "float16"))
    options = {"p": p, "accumulate": accumulate}
    y, cache = lpnorm.batch_norm(xp(x), gamma, beta, eps=EPS, **options)
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(xp(normal(2, (1, 4), "float16")), cache)
    np.testing.assert_array_equal(xp.numpy(y)[0], xp.numpy(beta))
    np.testing.assert_array_equal(xp.numpy(dx), 0)
    np.testing.assert_array_equal(xp.numpy(dgamma), 0)
    np.testing.assert_array_equal(xp.numpy(dbeta), normal(2, (4,), "float16"))
    y, _ = lpnorm.batch_norm(xp(x), gamma, beta, eps=0.0, **options)
    assert np.isnan(xp.numpy(y)).all()


def test_pairwise_mean_never_overflows(xp):
    """A constant channel of 65,504, the worst there is, at every n."""
    accumulate = Accumulate("float16", "pairwise_mean")
    row = xp(np.full((1, 3000), LARGEST), "float16")
    means = {n: float(xp.numpy(accumulate.average(row[:, :n]))[0, 0]) for n in range(1, 3001)}
    assert not [n for n, mean in means.items() if not 65504 * (1 - 14 / 2048) <= mean <= 65504]


# --- (e) SGD on float16 weights -------------------------------------------------------------------

MODES = [
    {},
    {"weight_decay": 0.05},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.9, "dampening": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"momentum": 0.9, "weight_decay": 0.05, "decoupled": True},
]


def scalar_sgd(w, gradients, lr, loss_scale, kind, mode):
    """The float16 weights after every step: the docstring's lines on scalars of dtype `kind`."""
    momentum, decay = mode.get("momentum", 0.0), mode.get("weight_decay", 0.0)
    weights, b, trail = [kind(v) for v in w], [None] * len(w), []
    for gradient in gradients:
        for i, g in enumerate(gradient):
            g, value = kind(g), weights[i]
            if loss_scale != 1:
                g = g / kind(loss_scale)
            if not mode.get("decoupled"):
                g = g + kind(decay) * value
            u = g
            if momentum:
                new = kind(1 - mode.get("dampening", 0.0)) * g
                b[i] = g if b[i] is None else kind(momentum) * b[i] + new
                u = g + kind(momentum) * b[i] if mode.get("nesterov") else b[i]
            if mode.get("decoupled"):
                value = kind(1 - lr * decay) * value
            weights[i] = value - kind(lr) * u
        trail.append(np.array([np.float16(v) for v in weights]))
    return trail


def trained(xp, w, gradients, lr=0.1, loss_scale=1.0, master=None, **mode):
    """The optimizer, its parameter, and the weights after every step."""
    parameter = nn.Parameter(xp(w), "w")
    sgd = SGD([parameter], lr=lr, master=master, **mode)
    sgd.loss_scale, trail = loss_scale, []
    for gradient in gradients:
        parameter.grad = xp(gradient)
        sgd.step()
        assert parameter.data.dtype == np.float16
        trail.append(xp.numpy(parameter.data).copy())
    return sgd, parameter, trail


def assert_same_trail(got, want):
    for t, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_same_bits(g, w, f"step {t}")


@pytest.mark.parametrize("master", [None, "float32", "float64"])
@pytest.mark.parametrize("mode", MODES, ids=str)
@given(seed=seeds, scale=st.integers(-20, 6), loss_scale=st.sampled_from([1.0, 8.0, 2.0**15, 3.0]))
def test_sgd_is_the_scalar_one(xp, mode, master, seed, scale, loss_scale):
    w = normal(seed, (6,), "float16")
    gradients = (normal(seed + 1, (4, 6)) * 2.0**scale).astype("float16")
    _, _, trail = trained(xp, w, gradients, 0.1, loss_scale, master, **mode)
    kind = np.dtype(master or "float16").type
    assert_same_trail(trail, scalar_sgd(w, gradients, 0.1, loss_scale, kind, mode))


@pytest.mark.parametrize("master", [None, "float32"])
@pytest.mark.parametrize("mode", MODES, ids=str)
@given(seed=seeds, k=st.integers(-12, 12))
def test_a_loss_scale_that_is_a_power_of_two_changes_no_bit(xp, mode, master, seed, k):
    w, gradients = normal(seed, (6,), "float16"), normal(seed + 1, (4, 6), "float16")
    scaled = np.ldexp(gradients, k)
    assume(((gradients == 0) | (abs(scaled) >= 2.0**-14)).all() and np.isfinite(scaled).all())
    assume(((gradients == 0) | (abs(gradients) >= 2.0**-14)).all())
    plain = trained(xp, w, gradients, master=master, **mode)[2]
    assert_same_trail(trained(xp, w, scaled, loss_scale=2.0**k, master=master, **mode)[2], plain)


def test_a_loss_scale_saves_gradients_that_float16_loses(xp):
    """A gradient of 2^-30 is 0 in float16; multiplied by 2^12 in the loss it is 2^-18."""
    w, scaled = np.zeros(3, "float16"), np.full((1, 3), 2.0**-18, "float16")
    lost = np.full((1, 3), 2.0**-30).astype("float16")
    assert not trained(xp, w, lost, lr=2.0**15, master="float32")[2][0].any()
    saved = trained(xp, w, scaled, lr=2.0**15, loss_scale=2.0**12, master="float32")[2][0]
    np.testing.assert_array_equal(saved, -(2.0**-15))


def test_a_loss_scale_beyond_float16_without_masters(xp):
    """65,536 is infinite in float16, and a gradient divided by that would be 0."""
    gradients = np.full((1, 3), 2.0**14, "float16")
    w = trained(xp, np.ones(3, "float16"), gradients, lr=1.0, loss_scale=2.0**16)[2][0]
    np.testing.assert_array_equal(w, 0.75)


def test_masters_add_up_what_float16_loses(xp):
    """Steps of 2^-13 from 1, whose neighbour below is 1 - 2^-11: 64 of them make 2^-7."""
    w, gradients = np.ones(4, "float16"), np.ones((64, 4), "float16")
    alone = trained(xp, w, gradients, lr=2.0**-13)[2][-1]
    with_master = trained(xp, w, gradients, lr=2.0**-13, master="float32")[2][-1]
    np.testing.assert_array_equal(alone, 1)
    np.testing.assert_array_equal(with_master, 1 - 2.0**-7)


@pytest.mark.parametrize("master", [None, "float32"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_state_continues_with_the_same_bits(xp, mode, master):
    w, gradients = normal(0, (6,), "float16"), normal(1, (12, 6), "float16")
    options = {"lr": 2.0**-10, "master": master, **mode}
    whole = trained(xp, w, gradients, **options)[2]
    first, before, trail = trained(xp, w, gradients[:5], **options)
    saved = {name: xp.numpy(a).copy() for name, a in first.state().items()}
    kept = {"w": mode.get("momentum"), "w:master": master}
    assert set(saved) == {name for name, wanted in kept.items() if wanted}
    parameter = nn.Parameter(xp(xp.numpy(before.data).copy()), "w")
    second = SGD([parameter], **options)
    second.load_state({name: xp(a) for name, a in saved.items()}, 5)
    for gradient in gradients[5:]:
        parameter.grad = xp(gradient)
        second.step()
        trail.append(xp.numpy(parameter.data).copy())
    assert second.t == 12
    assert_same_trail(trail, whole)


def test_setting_the_data_sets_the_master(xp):
    sgd, parameter, _ = trained(
        xp, np.ones(3, "float16"), np.ones((3, 3), "float16"), 2.0**-13, master="float32"
    )
    assert (xp.numpy(sgd.state()["w:master"]) == np.float32(1 - 3 * 2.0**-13)).all()
    parameter.data = xp(np.full(3, 5.0), "float16")
    parameter.grad = xp(np.zeros(3), "float16")
    sgd.step()
    np.testing.assert_array_equal(xp.numpy(parameter.data), 5)
    np.testing.assert_array_equal(xp.numpy(sgd.state()["w:master"]), 5)
