"""`lpnorm.fast` is `lpnorm.batchnorm`, bit for bit: drawn, and its leaves and rounding directly.

Equal as bits: -0 differs from 0, any NaN equals any NaN. `pair` runs first by dtypes, so that a
process of a test run that starts without compiled loops compiles few of them.
"""

import contextlib
import importlib
import json
import math
import os
import subprocess
import sys
import time
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
from draws import normal, seeds
from hypothesis import given
from hypothesis import strategies as st

import lpnorm
from lpnorm import Accumulate, Range, TopK, batchnorm, dispatch, nn, threads

pytest.importorskip("lpnorm.fast", exc_type=ImportError)

import numba

import lpnorm.fast
from lpnorm.fast import cpu, lanes

PAIRS = [  # dtype of x, of the accumulator
    ("float32", "float32"),
    ("float16", "float16"),
    ("float16", "float32"),
    ("float64", "float64"),
    ("float16", "float64"),
    ("float32", "float64"),
]
EVERY_FLOAT16 = np.arange(2**16, dtype=np.uint16).view(np.float16)


# each of the last two takes a quarter of a minute to compile
SOME_SLOW = [*PAIRS[:4], *(pytest.param(pair, marks=pytest.mark.slow) for pair in PAIRS[4:])]


@pytest.fixture(scope="module", params=SOME_SLOW, ids=lambda pair: " in ".join(pair))
def pair(request):
    return request.param


@contextlib.contextmanager
def cut(count, share, narrow):
    """Work cut for `count` threads into parts of `share` values; see `lpnorm.fast.cpu`."""
    before = cpu.SHARE, cpu.NARROW
    cpu.SHARE, cpu.NARROW = share, narrow
    threads.use(count)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        threads.use(None)
        cpu.SHARE, cpu.NARROW = before


cuts = st.builds(
    cut,
    st.sampled_from([1, 2, 5]),
    st.sampled_from([1, cpu.SHARE]),
    st.sampled_from([1, cpu.NARROW]),
)


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


def assert_same(x, dy, gamma, beta, layer, **arguments):
    """Forward, cache and backward (twice, and with the other's cache) of fast and plain agree."""
    function = "layer_norm" if layer else "batch_norm"
    before = [None if v is None else v.tobytes() for v in (x, dy, gamma, beta)]
    (y, cache), (want_y, want_cache) = (
        getattr(module, function)(x, gamma, beta, **arguments)
        for module in (lpnorm.fast, batchnorm)
    )
    what = f"{function} {arguments} of {x.dtype}{x.shape} {x.strides}"
    assert_same_bits(y, want_y, f"y of {what}")
    assert_same_bits(cache.mean, want_cache.mean, f"mean of {what}")
    assert_same_bits(cache.scale, want_cache.scale, f"scale of {what}")
    want = getattr(batchnorm, function + "_backward")(dy, want_cache)
    for each, backward in (
        (cache, getattr(lpnorm.fast, function + "_backward")),
        (want_cache, getattr(lpnorm.fast, function + "_backward")),
        (cache, getattr(batchnorm, function + "_backward")),
        (cache, getattr(lpnorm.fast, function + "_backward")),
    ):
        for name, a, b in zip(("dx", "dgamma", "dbeta"), backward(dy, each), want, strict=True):
            assert_same_bits(a, b, f"{name} of {what}")
    assert [None if v is None else v.tobytes() for v in (x, dy, gamma, beta)] == before, what
    return cache


# --- what is drawn --------------------------------------------------------------------------------

KINDS = ["gauss", "ties", "constant", "bits", "subnormal", "zeros", "largest", "special"]
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 33]
ORDERS = [None, "pairwise", "pairwise_mean", "sequential"]


def values(kind, seed, shape, dtype):
    rng, info = np.random.default_rng(seed), np.finfo(dtype)
    if kind == "bits":
        unsigned = np.dtype(f"uint{info.bits}")
        return rng.integers(0, 2**info.bits, shape, unsigned).view(dtype)
    if kind == "gauss":
        x = rng.standard_normal(shape) * 2.0 ** rng.integers(-20, 14) + rng.choice([0, 0, 1, 1e3])
    elif kind == "ties":
        x = rng.choice([0.0, -0.0, 1.0, -1.0, 2.0, 0.1], shape)
    elif kind == "constant":
        x = np.full(shape, rng.standard_normal())
    elif kind == "subnormal":
        x = rng.standard_normal(shape) * float(info.smallest_normal)
    elif kind == "zeros":
        x = rng.choice([0.0, -0.0], shape)
    elif kind == "largest":
        x = rng.choice([1, -1, 0.5], shape) * float(info.max)
    else:
        x = rng.standard_normal(shape)
        x.flat[rng.integers(x.size)] = rng.choice([np.inf, -np.inf, np.nan])
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def relaid(x, layout):
    """The same values in another memory layout; also read-only."""
    if layout == "fortran":
        x = np.asfortranarray(x)
    elif layout == "reversed":
        x = np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    elif layout == "sliced":
        wide = np.zeros((2 * x.shape[0], *x.shape[1:-1], x.shape[-1] + 1), x.dtype)
        wide[::2, ..., 1:] = x
        x = wide[::2, ..., 1:]
    elif layout == "channels last":
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    elif layout == "unaligned":
        room = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        room[...] = x
        x = room
    elif layout == "read-only":
        x = x.view()
        x.flags.writeable = False
    return x


LAYOUTS = ["c", "fortran", "reversed", "sliced", "channels last", "unaligned", "read-only"]
shapes = st.lists(st.sampled_from(SIZES), min_size=2, max_size=5).filter(
    lambda shape: math.prod(shape) <= 20_000
)


@st.composite
def inputs(draw, dtype):
    """x and dy, each of any kind and layout, of one shape."""
    shape = tuple(draw(shapes))
    x, dy = (
        relaid(
            values(draw(st.sampled_from(KINDS)), draw(seeds), shape, dtype),
            draw(st.sampled_from(LAYOUTS)),
        )
        for _ in range(2)
    )
    return x, draw(st.sampled_from([dy, dy, dy, x]))


@st.composite
def affine(draw, shape, pair):
    """gamma and beta, in the dtype of x or of the accumulator, or None."""
    kinds = st.sampled_from([None, *pair, *pair])
    return [
        None if (dtype := draw(kinds)) is None else normal(draw(seeds), shape, dtype)
        for _ in range(2)
    ]


@st.composite
def numbers(draw, pair):
    return {
        "eps": draw(st.sampled_from([0.0, 1e-5, 2.0**-10, 1e5])),
        "constant": draw(st.sampled_from(["paper", "exact", None])),
        "accumulate": Accumulate(pair[1], draw(st.sampled_from(ORDERS))),
    }


def norms(n):
    """Every norm for groups of n; 1.5 goes to the plain code."""
    tops = {TopK(1), TopK(min(n, 3)), TopK((n + 1) // 2), TopK(n)}
    return [1, 2, math.inf, *sorted(tops, key=lambda norm: norm.k), Range(), 1.5]


# --- bits against the plain code ------------------------------------------------------------------


@given(data=st.data())
def test_batch_norm(pair, data):
    x, dy = data.draw(inputs(pair[0]))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    gamma, beta = data.draw(affine((x.shape[axis],), pair))
    arguments = data.draw(numbers(pair))
    with data.draw(cuts):
        for p in norms(x.size // x.shape[axis]):
            assert_same(x, dy, gamma, beta, False, p=p, axis=axis, **arguments)


@given(data=st.data())
def test_layer_norm(pair, data):
    """Over any set of axes, in any order."""
    x, dy = data.draw(inputs(pair[0]))
    every = st.permutations(range(x.ndim)).flatmap(
        lambda axes: st.integers(1, x.ndim).map(lambda count: tuple(axes[:count]))
    )
    axes = data.draw(every)
    inner = tuple(x.shape[a] for a in sorted(axes))
    gamma, beta = data.draw(affine(inner, pair))
    arguments = data.draw(numbers(pair))
    axis = axes[0] if len(axes) == 1 else axes
    with data.draw(cuts):
        for p in norms(math.prod(inner)):
            assert_same(x, dy, gamma, beta, True, p=p, axis=axis, **arguments)


@given(data=st.data())
def test_inference(pair, data):
    """mean and scale of x's dtype and wider ones, in both roles, and 0 among them."""
    x, dy = data.draw(inputs(pair[0]))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    channels = (x.shape[axis],)
    mean, scale = (
        normal(data.draw(seeds), channels, data.draw(st.sampled_from(pair))) for _ in "12"
    )
    scale = abs(scale) * scale.dtype.type(data.draw(st.sampled_from([0, 1e-3, 1])))
    gamma, beta = data.draw(affine(channels, (pair[0], pair[0])))
    fixed = gamma, beta, mean, scale, axis
    before = x.tobytes(), dy.tobytes()
    with data.draw(cuts):
        results = [
            (m.batch_norm_inference(x, *fixed), *m.batch_norm_inference_backward(dy, x, *fixed))
            for m in (lpnorm.fast, batchnorm)
        ]
    assert (x.tobytes(), dy.tobytes()) == before
    for name, got, want in zip(("y", "dx", "dgamma", "dbeta"), *results, strict=True):
        assert_same_bits(got, want, (name, x.shape, axis))


WIDE = lanes.WIDTH * lanes.ROWS  # values of a block of leaves
LARGE = [  # shape and channel axis
    ((1, 2, WIDE - 1), 1),
    ((1, 2, WIDE), 1),
    ((1, 2, WIDE + 1), 1),
    ((5, 3, 1023), 1),  # runs that cross leaves
    ((31, 2, 17, 19), 1),
    ((5003, 2), 1),  # channels last, a prime number of values
    ((4 * WIDE + 3, 1), 1),
    ((3, 2 * lanes.WIDTH + 1), 1),  # more channels than a row has lanes
    ((300, 130), 1),
    ((2, 9, 5, 130), 3),
    ((6, 1, 33, 65), 0),
]


@pytest.mark.parametrize(("shape", "axis"), LARGE, ids=str)
def test_across_the_width_of_the_tree(pair, shape, axis):
    """Batch norm, and layer norm over all other axes, of Gaussians with ties, in every norm."""
    x, dy = (normal(seed, shape, pair[0]) for seed in (1, 2))
    gamma, beta = (normal(seed, (shape[axis],), pair[0]) for seed in (3, 4))
    inner = tuple(a for a in range(x.ndim) if a != axis)
    own = [normal(seed, tuple(shape[a] for a in inner), pair[1]) for seed in (5, 6)]
    n = x.size // shape[axis]
    for i, p in enumerate([1, 2, math.inf, TopK(min(n, 10)), Range()]):
        sums = Accumulate(pair[1], ORDERS[i % 3])
        with cut([1, 2, 5][i % 3], 1, cpu.NARROW):
            assert_same(x, dy, gamma, beta, False, p=p, axis=axis, accumulate=sums)
            assert_same(x, dy, *own, True, p=p, axis=inner, accumulate=sums)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "sums"),
    [(1, "float16"), (1, "float32"), (2, "float16"), (math.inf, "float16"), (Range(), "float32")],
    ids=str,
)
def test_more_values_than_signs_can_be_counted(p, sums):
    """n above 2^24: 1 / 2^L is no float16, and float32 cannot add so many ones."""
    x, dy = (normal(seed, (1, 2**24 + 5), "float16") for seed in (1, 2))
    with cut(2, 1, cpu.NARROW):
        assert_same(x, dy, None, None, True, p=p, accumulate=sums)


@pytest.mark.slow
@pytest.mark.parametrize("p", [Range(), TopK(2)], ids=str)
def test_more_ties_than_float32_can_count(p):
    """2^24 + 5 values at the maximum, one at the minimum."""
    x, dy = np.zeros((1, 2**24 + 6), "float32"), normal(1, (1, 2**24 + 6), "float32")
    dy *= np.float32(1e-7)
    x[0, 5], dy[0, 5] = -1, 1
    with cut(2, 1, cpu.NARROW):
        assert_same(x, dy, None, None, True, p=p, eps=0.0)


# --- leaves ---------------------------------------------------------------------------------------


def folded(values, last=1):
    """A row folded in half until `last` are left; a node is a pair, of one and None if it waits."""
    while len(values) > last:
        half = len(values) // 2
        back = [*values[len(values) - half :], *[None] * (len(values) % 2)]
        values = [(a, b) for a, b in zip(values[: len(back)], back, strict=True)]
    return values


def node(a, b):
    """Missing lanes: none of two is none."""
    return None if a is None and b is None else (a, b)


def by_leaves(n, units):
    """The same tree as `lpnorm.fast.lanes` says it: blocks, a stack, the lanes that are left."""
    starts, lengths, width, rows = lanes.leaves.__wrapped__(n, units)
    stack = {}
    for t in range(len(starts) // rows):
        leaves = [
            [starts[i] + q if q < lengths[i] else None for q in range(width)]
            for i in range(t * rows, (t + 1) * rows)
        ]
        while len(leaves) > 1:
            half = len(leaves) // 2
            pairs = zip(leaves[:half], leaves[half:], strict=True)
            leaves = [list(map(node, front, back)) for front, back in pairs]
        row, level = leaves[0], 0
        while (t >> level) & 1:
            row, level = list(map(node, stack[level], row)), level + 1
        stack[level] = row
    return folded(stack[(len(starts) // rows - 1).bit_length()])


@pytest.mark.parametrize("units", [1, 2, 3, 8])
@pytest.mark.parametrize("width", [8, 12])
def test_leaves_are_the_tree(monkeypatch, width, units):
    """The whole tree, as nested pairs, is that of folding the row, for every n up to 300."""
    monkeypatch.setattr(lanes, "WIDTH", width)
    for n in range(1, 301):
        assert by_leaves(n, units) == folded(list(range(n))), n


@pytest.mark.parametrize("units", [1, 2, 130, 1000, lanes.WIDTH])
def test_every_value_is_in_one_leaf(units):
    for n in (1, 2, 3, 1000, 1023, 1024, 1025, 4097, 5003, 2**14 - 1, 2**14 + 1, 100_003):
        starts, lengths, width, rows = lanes.leaves(n, units)
        parts = [np.arange(s, s + c) for s, c in zip(starts, lengths, strict=True)]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
        assert max(lengths) == width and (width == 1 or width * units <= lanes.WIDTH)
        assert len(starts) % rows == 0 and rows <= lanes.ROWS


# --- rounding -------------------------------------------------------------------------------------

LIKE = {"float16": np.uint16(0), "float32": np.float32(0), "float64": np.float64(0)}


@lru_cache
def compiled(function):
    """function of every element of an array (and `like`), as a compiled loop."""
    if function is lanes.widen:

        def loop(v, like, result):
            for i in range(v.size):
                result[i] = lanes.widen(v[i])
    elif function is lanes.grid:

        def loop(v, like, result):
            for i in range(v.size):
                result[i] = lanes.grid(v[i], like)
    else:

        def loop(v, like, result):
            for i in range(v.size):
                result[i] = lanes.narrow(v[i], like)

    def call(v, like, dtype):
        result = np.empty(v.size, dtype)
        numba.njit(loop)(v, like, result)
        return result

    return call


def test_widen_and_narrow_every_float16():
    bits = EVERY_FLOAT16.view(np.uint16)
    wide = compiled(lanes.widen)(bits, LIKE["float16"], np.float32)
    assert_same_bits(wide, EVERY_FLOAT16.astype(np.float32), "widen")
    for kind in ("float32", "float64"):
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            same = wide.astype(kind)
        narrow = compiled(lanes.narrow)(same, LIKE["float16"], np.uint16)
        assert_same_bits(narrow.view(np.float16), EVERY_FLOAT16, f"narrow {kind}")
        kept = compiled(lanes.narrow)(same, same[0], same.dtype)
        assert_same_bits(kept, same, "what is not narrower stays")


@pytest.mark.parametrize(
    ("wide", "narrow"), [("float32", "float16"), ("float64", "float16"), ("float64", "float32")]
)
def test_rounded_at_every_tie_and_next_to_it(wide, narrow):
    """Halfway between neighbours (the largest and infinity too), and a step above and below."""
    if narrow == "float16":
        every = np.sort(EVERY_FLOAT16[np.isfinite(EVERY_FLOAT16) & ~np.signbit(EVERY_FLOAT16)])
    else:
        some = np.random.default_rng(0).integers(0, 0x7F7FFFFF, 20_000, np.uint32)
        ends = np.uint32([0, 1, 2, 0x7FFFFF, 0x800000, 0x7F7FFFFE])
        near = np.concatenate([some, ends])
        every = np.sort(np.concatenate([near, near + 1])).view(np.float32)
    numbers = every.astype(wide)
    info = np.finfo(narrow)
    beyond = float(info.max) * (1 + 2.0 ** -(info.nmant + 2))
    ties = np.append((numbers[1:] + numbers[:-1]) / 2, np.array(beyond, wide)).astype(wide)
    tiny_and_huge = np.array(
        [0, 1e-45, 1e-38, 2**-25, 65519.996, 1e10, 3.4e38, np.inf, np.nan], wide
    )
    more = normal(0, (1000,), wide) * np.array(1.0000001, wide)
    steps = np.nextafter(ties, wide_type(wide, 0)), np.nextafter(ties, wide_type(wide, np.inf))
    v = np.concatenate([numbers, ties, *steps, tiny_and_huge, more])
    for each in (v, -v):
        with np.errstate(all="ignore"):
            want = each.astype(narrow).astype(wide)
        assert_same_bits(compiled(lanes.grid)(each, LIKE[narrow], wide), want, "grid")
        same = compiled(lanes.grid)(each, LIKE[wide], wide)
        assert_same_bits(same, each, "its own grid changes nothing")


def wide_type(dtype, number):
    return np.dtype(dtype).type(number)


# --- not compiled, in other processes, from files -------------------------------------------------

TESTS = Path(__file__).parent


def python(script, *arguments, **environment):
    """Start Python with a script, this lpnorm and the tests' folder on its path."""
    path = os.pathsep.join([str(Path(lpnorm.__file__).parents[1]), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def uncompiled():
    """With NUMBA_DISABLE_JIT=1, and rows of 8 lanes, so that a few values make a deep tree.

    The loops are given no plain code to fall back on.
    """
    assert numba.config.DISABLE_JIT
    lanes.WIDTH = 8
    lanes.leaves.cache_clear()
    for name in ("loops", "cpu"):
        importlib.reload(sys.modules[f"lpnorm.fast.{name}"])
    sys.modules["lpnorm.fast.cpu"].batchnorm = None
    sys.modules["lpnorm.fast.cpu"]._covers = lambda x, scheme: True  # a large k too
    backend, cases = sys.modules["lpnorm.fast.cpu"].LOOPS, 0
    shapes_ = [
        ((3, 3, 15), 1),
        ((5, 3, 15), 1),
        ((41, 3), 1),
        ((3, 9), 1),
        ((1, 2, 2, 4), 1),
        ((2, 1), 1),
        ((7, 20), 1),
        ((2, 70), 0),
    ]
    for shape, axis in shapes_:
        for i, p in enumerate([1, 2, math.inf, TopK(5), Range()]):
            own, wide = PAIRS[cases % len(PAIRS)]
            x, dy = (
                values("ties" if cases % 4 > 1 else "gauss", i + seed, shape, own)
                for seed in (1, 2)
            )
            gamma = normal(3, (shape[axis],), own)
            sums, other = (
                Accumulate(wide, ORDERS[cases % 3]),
                tuple(a for a in range(len(shape)) if a != axis),
            )
            inner = normal(4, tuple(shape[a] for a in other), own)
            p = TopK(min(5, x.size // shape[axis])) if isinstance(p, TopK) else p
            with np.errstate(all="ignore"):
                results = []
                for b in (backend, batchnorm.PLAIN):
                    y, cache = dispatch.batch_norm(b, x, gamma, None, p, axis, 1e-5, "paper", sums)
                    z, layer = dispatch.layer_norm(b, x, inner, inner, p, other, 0.0, None, sums)
                    fixed = gamma, gamma, cache.mean, cache.scale
                    found = [y, cache.mean, cache.scale, *dispatch.backward(b, dy, cache)]
                    found += [z, layer.mean, layer.scale, *dispatch.backward(b, dy, layer)]
                    found += [dispatch.inference(b, x, *fixed, axis)]
                    results.append(found)
            for number, (got, want) in enumerate(zip(*results, strict=True)):
                assert_same_bits(got, want, (shape, axis, p, own, wide, number))
            cases += 1
    print(f"{cases} cases")


def test_without_compiling():
    out, _ = finished(python("import test_fast; test_fast.uncompiled()", NUMBA_DISABLE_JIT="1"))
    assert out == "40 cases\n"


FORK = """
import os, threading, time, numpy as np, lpnorm.fast
from lpnorm import threads
from lpnorm.fast import cpu
cpu.SHARE = 1
threads.use(3)
x = np.random.default_rng(0).standard_normal((16, 6, 50)).astype("float32")
def work():
    y, cache = lpnorm.fast.batch_norm(x, None, None, p=1)
    return y.tobytes() + lpnorm.fast.batch_norm_backward(y, cache)[0].tobytes()
before = work()
child = os.fork()
if child == 0:
    os._exit(0 if work() == before and threading.active_count() > 1 else 1)
end = time.monotonic() + 60
while time.monotonic() < end:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    raise SystemExit("the child hangs")
assert status == 0 and work() == before
print("the same")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork():
    """A child made after threads were used has threads of its own, the parent keeps its."""
    out, _ = finished(python(FORK))
    assert out == "the same\n"


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_memory_mapped_files(tmp_path, pair, mode):
    """As they are, and as plain arrays on the same memory: never written to."""
    x = normal(1, (6, 4, 5), pair[0])
    path = tmp_path / "x"
    x.tofile(path)
    mapped = np.memmap(path, pair[0], mode, shape=x.shape)
    gamma = normal(2, (4,), pair[0])
    for p in (1, 2, TopK(3)):
        want, cache = batchnorm.batch_norm(x, gamma, gamma, p=p)
        gradients = batchnorm.batch_norm_backward(x, cache)
        for each in (mapped, np.asarray(mapped)):
            y, own = lpnorm.fast.batch_norm(each, gamma, gamma, p=p)
            assert_same_bits(np.asarray(y), want, "y")
            for a, b in zip(lpnorm.fast.batch_norm_backward(each, own), gradients, strict=True):
                assert_same_bits(np.asarray(a), b, "gradient")
    mapped.flush()
    assert path.read_bytes() == x.tobytes()


# --- everything else is the plain code's ----------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_other_libraries(xp, dtype):
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


@pytest.mark.parametrize(
    "change",
    [
        {"x": [1.0]},
        {"x": np.ones((2, 3), np.int64)},
        {"x": np.ones((2, 3), ">f4")},
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
        _, layer = module.layer_norm(x, None, None)
        for call in (
            partial(module.batch_norm_backward, dy, cache),
            partial(module.layer_norm_backward, dy, layer),
            partial(module.batch_norm_inference_backward, dy, x, None, None, one, one),
            partial(module.batch_norm_inference, x, None, None, None, one),
        ):
            with pytest.raises((TypeError, ValueError)) as caught:
                call()
            messages.append((caught.type, str(caught.value)))
    assert messages[:4] == messages[4:]


@pytest.mark.parametrize("wrong", ["0", "two", "-1", "1.5"])
def test_a_wrong_number_of_threads(monkeypatch, wrong):
    monkeypatch.setenv("LPNORM_THREADS", wrong)
    with pytest.raises((TypeError, ValueError), match="LPNORM_THREADS"):
        threads.count()
    with pytest.raises((TypeError, ValueError), match="threads"):
        threads.use(json.loads(wrong) if wrong != "two" else wrong)


def test_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("LPNORM_THREADS", "7")
    assert threads.count() == 7
    with cut(3, 1, 1):
        assert threads.count() == 3
    monkeypatch.delenv("LPNORM_THREADS")
    assert 1 <= threads.count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("shape", "count", "share", "parts"),
    [
        ((4, 6, 5), 3, 40, 3),  # a thread each
        ((4, 6, 5), 9, 20, 6),  # no more threads than groups
        ((4, 6, 5), 3, 60, 2),  # no more than there is work for
        ((4, 6, 5), 3, 61, 1),
        ((4, 1, 5), 3, 1, 1),
        ((4, 7, 5), 3, 1, 3),  # 3, 3 and 1 groups
        ((1, 6, 1), 2, 1, 2),
    ],
)
def test_how_work_is_cut(shape, count, share, parts):
    """Every group once, in as many parts as pay."""
    x = np.zeros(shape, "float32")
    run, given = cpu._Run(x, Accumulate("float32")), []
    with cut(count, share, 1):
        run.over_groups(lambda version, seen, *rest: given.append(rest[-1]), [x])
    assert len(given) == parts
    groups = [g for first, last, _ in sorted(given) for g in range(first, last)]
    assert groups == list(range(shape[1]))


def test_an_error_in_a_thread_is_raised_here():
    def fails():
        raise ZeroDivisionError("in a part")

    for parts in ([fails], [fails, int], [int, fails], [int, int, fails]):
        with pytest.raises(ZeroDivisionError, match="in a part"):
            threads.run(parts)


def test_nobody_works_on_after_an_error():
    """The memory that the others work on is the caller's, who is told that all is over."""
    finished_ = []

    def fails():
        raise KeyboardInterrupt

    def slow():
        time.sleep(0.3)
        finished_.append(True)

    with pytest.raises(KeyboardInterrupt):
        threads.run([fails, slow, slow])
    assert len(finished_) == 2


def forbidden(*_):
    raise PermissionError


def no_more(*_):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("failing", ["affinity", "start"])
def test_helpers_that_cannot_be_had_are_done_without(monkeypatch, failing):
    """A sandbox that forbids choosing cores; no more threads, or a program that is ending."""
    x, dy = normal(1, (64, 6, 5, 7), "float32"), normal(2, (64, 6, 5, 7), "float32")
    with cut(3, 1, cpu.NARROW):
        monkeypatch.setattr(threads, "_helpers", None)
        if failing == "affinity" and hasattr(os, "sched_setaffinity"):
            monkeypatch.setattr(os, "sched_setaffinity", forbidden)
        elif failing == "start":
            monkeypatch.setattr(threads.threading.Thread, "start", no_more)
        for _ in range(3):
            assert_same(x, dy, None, None, False, p=1)


def test_k_is_an_int_of_python():
    """A numpy.uint8 would overflow in the plain code and be another version here."""
    assert type(TopK(np.uint8(3)).k) is int and TopK(np.uint8(3)) == TopK(3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2**24 + 2**22, 2), (2**23 + 2**21, 2, 2)], ids=str)
def test_ties_that_all_fall_on_one_lane(shape):
    """Runs so short that one float32 would have to count beyond 2^24."""
    x = np.ones(shape, "float32")
    x[::20] = 0
    dy = np.full(shape, 1e-7, "float32")
    dy[0] = 1
    with cut(2, 1, 1):
        assert_same(x, dy, None, None, False, p=Range())


@pytest.mark.parametrize(
    "make",
    [
        partial(nn.BatchNorm, 3, p=1),
        partial(nn.BatchNorm, 3, p=2, accumulate="float16"),
        partial(nn.BatchNorm, 3, p=TopK(2), affine=False),
        partial(nn.LayerNorm, (3, 4), p=math.inf),
    ],
)
def test_as_the_implementation_of_a_layer(make):
    """Trained for a step and evaluated, with impl=lpnorm.fast: the same bits as without."""
    x, dy = normal(1, (8, 3, 4), "float16"), normal(2, (8, 3, 4), "float16")
    results = []
    for impl in (lpnorm.fast, None):
        layer = make(dtype="float16", impl=impl)
        y, backward = layer(x, train=True)
        dx = backward(dy)
        grads = [parameter.grad for parameter in layer.parameters()]
        evaluated, backward = layer(x, train=False)
        results.append([y, dx, *grads, evaluated, backward(dy), *layer.state().values()])
    for got, want in zip(*results, strict=True):
        assert_same_bits(got, want, "layer")
