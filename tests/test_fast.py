"""`lpnorm.fast` is `lpnorm.batchnorm`, bit for bit: its float16 arithmetic, and its functions."""

import math

import numpy as np
import pytest
from draws import NORMS, layouts, normal, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lpnorm
import lpnorm.fast
from lpnorm import Accumulate, Range, TopK, batchnorm, nn
from lpnorm.fast import cpu, half

ACCUMULATE = [
    None,
    "float16",
    "float32",
    "float64",
    Accumulate("float16", "pairwise"),
    Accumulate("float16", "pairwise_mean"),
    Accumulate("float16", "sequential"),
    Accumulate("float32", "pairwise_mean"),
]
EVERY_FLOAT16 = np.arange(2**16, dtype=np.uint16).view(np.float16)


@pytest.fixture(autouse=True, params=[0, half.SMALL], ids=["all kept", "small let go"])
def small(request, monkeypatch):
    """With SMALL = 0 a Half stays a Half in arrays of any size; pieces and blocks are tiny too."""
    monkeypatch.setattr(half, "SMALL", request.param)
    if request.param == 0:
        monkeypatch.setattr(half, "PIECE", 7)
        monkeypatch.setattr(cpu, "BLOCK", 40)
    with np.errstate(all="ignore"):
        yield


def assert_same_bits(got, want, what):
    """The same array type, dtype, shape and bits; any NaN equals any other."""
    if want is None:
        assert got is None, what
        return
    assert type(got) is type(want) is np.ndarray, (what, type(got))
    assert got.dtype == want.dtype and got.shape == want.shape, (what, got.dtype, got.shape)
    assert np.array_equal(np.isnan(got), np.isnan(want)), (what, got, want)
    unsigned = f"uint{8 * got.itemsize}"
    bits = (np.where(np.isnan(a), 0, a).astype(a.dtype).view(unsigned) for a in (got, want))
    wrong = np.flatnonzero(np.not_equal(*bits))
    assert not wrong.size, (what, got.ravel()[wrong[:4]], want.ravel()[wrong[:4]], wrong.size)


# --- the arithmetic -------------------------------------------------------------------------------


def test_load_and_store_every_float16():
    """All 65,536, in pieces without and with infinities and NaN, and of any memory layout."""
    finite = EVERY_FLOAT16[np.isfinite(EVERY_FLOAT16)]
    for x in (finite, EVERY_FLOAT16, finite[::-3], EVERY_FLOAT16.reshape(256, 256).T):
        kept = half.load(x)
        assert kept.dtype == np.float16 and half.plain(kept).dtype == np.float32
        assert_same_bits(half.plain(kept), x.astype(np.float32), "load")
        assert_same_bits(half.store(kept, np.empty(x.shape, np.float16)), x, "store")
        assert_same_bits(half.narrow(kept), x, "narrow")


def test_rounded_at_every_tie_and_next_to_it():
    """Halfway between any two neighbours (65,520 and 2^-25 included), a float32 above and below."""
    positive = np.sort(EVERY_FLOAT16[np.isfinite(EVERY_FLOAT16) & ~np.signbit(EVERY_FLOAT16)])
    numbers = positive.astype(np.float32)
    ties = np.append((numbers[1:] + numbers[:-1]) / 2, np.float32(65520))
    tiny_and_huge = np.float32([0, 1e-45, 1e-38, 1e-20, 2**-25, 1e10, 3.4e38, np.inf, np.nan])
    v = np.concatenate([ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf), tiny_and_huge])
    for values in (v, -v, np.float32([0.1, -0.0])):
        want = values.astype(np.float16).astype(np.float32)
        assert_same_bits(half.rounded(values), want, "rounded")
        again = values.copy()
        assert half.rounded(again, out=again) is again
        assert_same_bits(again, want, "rounded in place")


BINARY = [np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum, np.power]
COMPARE = [np.less, np.less_equal, np.equal, np.not_equal, np.greater, np.greater_equal]
UNARY = [np.sqrt, np.square, np.absolute, np.negative, np.sign, np.exp, np.isnan]


@pytest.mark.parametrize("ufunc", BINARY + COMPARE, ids=lambda u: u.__name__)
@given(seed=seeds)
def test_an_operation_on_any_two_float16(ufunc, seed):
    """4,096 random bit patterns by as many others, and by a column, a number, a mask, a float32."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 2**16, (64, 64), np.uint16).view(np.float16) for _ in range(2))
    single = rng.standard_normal((64, 1)).astype(np.float32)
    number = float(rng.choice([0.5, 2.0, 1e-5, 1.2533141, 0.0, 7.0]))
    for other in (b, a, b[:, :1], number, 2, True, single, b > 0, np.float16(0.1), np.float64(0.1)):
        kept = half.load(other) if other is b or other is a else other
        for got, want in (
            (ufunc(half.load(a), kept), ufunc(a, other)),
            (ufunc(kept, half.load(a)), ufunc(other, a)),
        ):
            got = half.narrow(got)
            if ufunc in (
                np.maximum,
                np.minimum,
            ):  # of 0 and -0 either is right, as the machine has it
                got, want = got + got.dtype.type(0), want + want.dtype.type(0)
            assert_same_bits(got, want, (ufunc, other))


@pytest.mark.parametrize("ufunc", UNARY, ids=lambda u: u.__name__)
def test_an_operation_on_every_float16(ufunc):
    assert_same_bits(half.narrow(ufunc(half.load(EVERY_FLOAT16))), ufunc(EVERY_FLOAT16), ufunc)


@given(seed=seeds)
def test_what_else_the_reference_does_with_arrays(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 2**16, (8, 512), np.uint16).view(np.float16) for _ in range(2))
    kept, other = half.load(a), half.load(b)
    mask, mask_kept = a > b, kept > other
    column = rng.standard_normal((8, 1)).astype(np.float16)
    for what, got, want in [
        ("max", kept.max(axis=-1, keepdims=True), a.max(axis=-1, keepdims=True)),
        ("min", kept.min(axis=0), a.min(axis=0)),
        ("scan", np.add.accumulate(kept, axis=-1), np.add.accumulate(a, axis=-1)),
        ("partition", np.sort(np.partition(kept, 9)[:, :9]), np.sort(np.partition(a, 9)[:, :9])),
        ("mask times column", mask_kept * column, mask * column),
        ("mask sum", mask_kept.sum(axis=-1, keepdims=True), mask.sum(axis=-1, keepdims=True)),
        ("to float32 and back", (kept + np.float32(0.1)).astype("float16"), None),
        ("to float64", kept.astype("float64"), a.astype("float64")),
        ("transposed", (kept.T * other.T).reshape(-1), (a.T * b.T).reshape(-1)),
    ]:
        want = (a + np.float32(0.1)).astype("float16") if want is None else want
        assert_same_bits(half.narrow(got), want, what)
    for out, got in ((a.copy(), kept.copy()), (a.copy(), a.copy())):
        out[..., :100] += b[..., 100:200]
        got[..., :100] += other[..., 100:200]
        assert_same_bits(half.narrow(got), out, "in place")


# --- the functions: bits against the reference ----------------------------------------------------


@st.composite
def float16_arrays(draw, shape):
    """Gaussians of any magnitude, or any bit patterns (with inf and NaN or without), or few values
    and so ties; whatever channels are constant."""
    kind = draw(st.sampled_from(["gaussian", "bits", "finite", "ties", "hypothesis"]))
    rng = np.random.default_rng(draw(seeds))
    if kind == "hypothesis":
        return draw(hnp.arrays(np.float16, shape, elements=st.floats(width=16)))
    with np.errstate(over="ignore"):
        if kind == "gaussian":
            scale, offset = 2.0 ** draw(st.integers(-24, 15)), draw(st.sampled_from([0, 0, 1, 1e3]))
            x = (rng.standard_normal(shape) * scale + offset).astype(np.float16)
        elif kind == "ties":
            few = np.float16([0.0, -0.0, 1.0, -1.0, 2**-24, 65504, -65504, 0.1])
            x = rng.choice(few[rng.permutation(8)[: draw(st.integers(1, 4))]], shape)
        else:
            x = rng.integers(0, 2**16, shape, np.uint16).view(np.float16)
            if kind == "finite":
                x = np.where(np.isfinite(x), x, np.float16(-0.0))
    if draw(st.booleans()):
        x[:, : x.shape[1] // 2] = x.flat[0]
    return x


def relaid(x, layout):
    """The same values in another memory layout."""
    if layout == "fortran":
        return np.asfortranarray(x)
    if layout == "reversed":
        return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    if layout == "strided":
        wide = np.zeros((2 * x.shape[0], *x.shape[1:]), x.dtype)
        wide[::2] = x
        return wide[::2]
    return x


def both(x, dy, gamma, beta, backward=True, function="batch_norm", **arguments):
    """(name, fast's, reference's) for every result of forward, cache and backward."""
    results = []
    before = x.tobytes(), dy.tobytes()
    for module in (lpnorm.fast, batchnorm):
        y, cache = getattr(module, function)(x, gamma, beta, **arguments)
        first = getattr(module, function + "_backward")(dy, cache)
        again = getattr(module, function + "_backward")(dy, cache)
        results.append([y, cache.mean, cache.scale, *first, *again])
    assert (x.tobytes(), dy.tobytes()) == before
    names = ["y", "mean", "scale", "dx", "dgamma", "dbeta", "dx 2", "dgamma 2", "dbeta 2"]
    return zip(names, *results, strict=True)


@pytest.mark.parametrize("p", [*NORMS, TopK(1), TopK(3)], ids=str)
@given(data=st.data())
def test_batch_norm_has_the_reference_s_bits(p, data):
    shape, axis = data.draw(layouts())
    arguments = {
        "p": p,
        "axis": axis,
        "eps": data.draw(st.sampled_from([0.0, 1e-5, 2.0**-10, 0.5, 1e5])),
        "constant": data.draw(st.sampled_from(["paper", "exact", None])),
        "accumulate": data.draw(st.sampled_from(ACCUMULATE)),
    }
    x, dy = (data.draw(float16_arrays(shape)) for _ in range(2))
    layout = data.draw(st.sampled_from(["", "fortran", "reversed", "strided"]))
    wide = batchnorm.accumulator("float16", arguments["accumulate"]).dtype
    dtypes = st.sampled_from([None, np.float16, wide])
    gamma, beta = (
        None if (dtype := data.draw(dtypes)) is None else normal(seed, (shape[axis],), dtype)
        for seed in (1, 2)
    )
    for name, got, want in both(relaid(x, layout), relaid(dy, layout), gamma, beta, **arguments):
        assert_same_bits(got, want, name)


@pytest.mark.parametrize("p", [1, 2, 3, math.inf, TopK(2), Range()], ids=str)
@given(data=st.data())
def test_layer_norm_has_the_reference_s_bits(p, data):
    shape = tuple(data.draw(st.lists(st.integers(2, 5), min_size=2, max_size=4)))
    axes = data.draw(st.sampled_from([(-1,), (0,), (-2, -1), tuple(range(len(shape)))]))
    axis = axes[0] if len(axes) == 1 else axes
    inner = tuple(shape[a] for a in sorted(a % len(shape) for a in axes))
    x, dy = (data.draw(float16_arrays(shape)) for _ in range(2))
    affine = (normal(1, inner, "float16"), normal(2, inner, "float16"))
    gamma, beta = data.draw(st.sampled_from([affine, (None, None)]))
    arguments = {"p": p, "axis": axis, "eps": data.draw(st.sampled_from([0.0, 1e-5, 2.0**-10]))}
    accumulate = data.draw(st.sampled_from(ACCUMULATE))
    for name, got, want in both(
        x, dy, gamma, beta, function="layer_norm", accumulate=accumulate, **arguments
    ):
        assert_same_bits(got, want, name)


@given(data=st.data())
def test_inference_has_the_reference_s_bits(data):
    shape, axis = data.draw(layouts())
    x, dy = (data.draw(float16_arrays(shape)) for _ in range(2))
    channels, dtypes = (shape[axis],), st.sampled_from(["float16", "float32", "float64"])
    mean = normal(1, channels, data.draw(dtypes))
    scale = abs(normal(2, channels, data.draw(dtypes))) * data.draw(st.sampled_from([0, 1e-3, 1]))
    scale = scale.astype(mean.dtype)
    wide = np.promote_types("float32", scale.dtype)
    affine = (normal(3, channels, "float16"), normal(4, channels, wide))
    gamma, beta = data.draw(st.sampled_from([affine, (None, None)]))
    arguments = x, gamma, beta, mean, scale, axis
    y, want = (m.batch_norm_inference(*arguments) for m in (lpnorm.fast, batchnorm))
    assert_same_bits(y, want, "y")
    got, want = (m.batch_norm_inference_backward(dy, *arguments) for m in (lpnorm.fast, batchnorm))
    for name, *pair in zip(("dx", "dgamma", "dbeta"), got, want, strict=True):
        assert_same_bits(*pair, name)


@pytest.mark.parametrize("accumulate", [None, "float16", ACCUMULATE[4]], ids=str)
@pytest.mark.parametrize("p", [1, 2, math.inf, TopK(10), Range()], ids=str)
@pytest.mark.parametrize("n", [(8, 23, 11), (16, 32, 16)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 2.0**-20, 2.0**14])
def test_sizes_at_which_half_and_blocks_matter(monkeypatch, scale, n, p, accumulate):
    """Thousands of values a channel, a few channels a block, the last block not full."""
    monkeypatch.setattr(cpu, "BLOCK", 2 * math.prod(n))
    monkeypatch.setattr(half, "PIECE", 2**11)
    shape = (n[0], 5, *n[1:])
    x, dy = (normal(seed, shape) for seed in (1, 2))
    x, dy = (x * scale).astype("float16"), dy.astype("float16")
    x[:, 1] = x[0, 1, 0, 0]
    x[0, 2, 0, 0] = np.inf
    gamma, beta = normal(3, (5,), "float16"), normal(4, (5,), "float16")
    for name, got, want in both(x, dy, gamma, beta, p=p, eps=2.0**-10, accumulate=accumulate):
        assert_same_bits(got, want, name)


@pytest.mark.parametrize("module", [lpnorm.fast, batchnorm], ids=lambda m: m.__name__)
@pytest.mark.parametrize("accumulate", [None, "float16"])
def test_floating_point_errors_are_seen_where_they_occur(module, accumulate):
    """Ordinary numbers give no overflow or invalid operation; what does overflow is not hidden."""
    x, dy = normal(1, (64, 3, 20), "float16"), normal(2, (64, 3, 20), "float16")
    gamma = np.ones(3, np.float16)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        _, cache = module.batch_norm(x, gamma, None, p=1, accumulate=accumulate)
        module.batch_norm_backward(dy, cache)
        with pytest.raises(FloatingPointError, match="overflow"):
            module.batch_norm(x * np.float16(512), gamma, None, p=2, accumulate=accumulate)


# --- everything else is the reference's -----------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_other_dtypes_and_libraries_are_the_reference_s(xp, dtype):
    x, dy = xp(normal(1, (6, 3, 2)), dtype), xp(normal(2, (6, 3, 2)), dtype)
    gamma, beta = xp(normal(3, (3,)), dtype), xp(normal(4, (3,)), dtype)
    inner = (xp(normal(3, (2,)), dtype), xp(normal(4, (2,)), dtype))
    results = []
    for module in (lpnorm.fast, batchnorm):
        y, cache = module.batch_norm(x, gamma, beta, p=1)
        z, layers = module.layer_norm(x, *inner, p=math.inf)
        fixed = gamma, beta, cache.mean, cache.scale
        found = [y, cache.mean, cache.scale, *module.batch_norm_backward(dy, cache)]
        found += [z, layers.mean, layers.scale, *module.layer_norm_backward(dy, layers)]
        found += [module.batch_norm_inference(x, *fixed)]
        found += module.batch_norm_inference_backward(dy, x, *fixed)
        results.append(found)
    for got, want in zip(*results, strict=True):
        assert_same_bits(xp.numpy(got), xp.numpy(want), dtype)
    # and a cache of the reference's is as good as one of its own
    cache = batchnorm.batch_norm(x, gamma, beta)[1]
    for got, want in zip(
        lpnorm.fast.batch_norm_backward(dy, cache),
        batchnorm.batch_norm_backward(dy, cache),
        strict=True,
    ):
        assert_same_bits(xp.numpy(got), xp.numpy(want), dtype)


@pytest.mark.parametrize(
    "change",
    [
        {"x": [1.0]},
        {"x": np.ones((2, 3), np.int64)},
        {"x": np.ones(3, np.float16)},
        {"x": np.ones((0, 3), np.float16)},
        {"axis": 2},
        {"axis": True},
        {"axis": (0, 1)},
        {"gamma": np.ones(2, np.float16)},
        {"gamma": [1.0, 1.0, 1.0]},
        {"beta": np.ones(3, np.float64)},
        {"p": 0.5},
        {"p": TopK(3)},
        {"eps": -1.0},
        {"constant": "papers"},
        {"accumulate": "int8"},
    ],
    ids=str,
)
def test_the_same_errors(change):
    arguments = {"x": np.ones((2, 3), np.float16), "gamma": None, "beta": None, **change}
    messages = []
    for module in (lpnorm.fast, batchnorm):
        with pytest.raises((TypeError, ValueError)) as caught:
            module.batch_norm(**arguments)
        messages.append((caught.type, str(caught.value)))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("dy", [np.ones((2, 3)), np.ones((3, 2), np.float16), None], ids=str)
def test_the_same_errors_backward(dy):
    x, one = np.ones((2, 3), np.float16), np.ones(3, np.float16)
    messages = []
    for module in (lpnorm.fast, batchnorm):
        _, cache = module.batch_norm(x, None, None)
        for call in (
            lambda m=module, c=cache: m.batch_norm_backward(dy, c),
            lambda m=module: m.batch_norm_inference_backward(dy, x, None, None, one, one),
            lambda m=module: m.batch_norm_inference(x, None, None, None, one),
        ):
            with pytest.raises((TypeError, ValueError)) as caught:
                call()
            messages.append((caught.type, str(caught.value)))
    assert messages[:3] == messages[3:]


def test_as_the_implementation_of_a_layer():
    """Trained for a step and evaluated, with impl=lpnorm.fast: the same bits as without."""
    x, dy = normal(1, (8, 3, 4), "float16"), normal(2, (8, 3, 4), "float16")
    results = []
    for impl in (lpnorm.fast, None):
        layer = nn.BatchNorm(3, p=1, dtype="float16", impl=impl)
        y, backward = layer(x, train=True)
        dx = backward(dy)
        grads = [parameter.grad for parameter in layer.parameters()]
        evaluated, backward = layer(x, train=False)
        results.append([y, dx, *grads, evaluated, backward(dy), *layer.state().values()])
    for got, want in zip(*results, strict=True):
        assert_same_bits(got, want, "layer")
