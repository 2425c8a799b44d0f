"""`lpnorm.fast`'s layers are `lpnorm.plain`'s, bit for bit, and nobody's result is overwritten.

Equal as bits: -0 differs from 0, any NaN equals any NaN. Threads, parts and chunks are made small
enough that a few values are shared among several.
"""

import contextlib
import ctypes
import gc
import os
import pickle
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from draws import normal, seeds
from hypothesis import given
from hypothesis import strategies as st

import lpnorm
from lpnorm import plain, threads
from lpnorm.plain import Windows, products

pytest.importorskip("lpnorm.fast", exc_type=ImportError)

from test_fast import LAYOUTS, assert_same_bits, relaid, values

import lpnorm.fast
from lpnorm.fast import blas, images, memory

DTYPES = ["float16", "float32", "float64"]
SIDES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@contextlib.contextmanager
def shared(count, cut=None):
    """Any work is worth a thread, of which there are `count`; cut: PARTS, CHUNK and LEAST."""
    names = ("PARTS", "CHUNK", "LEAST")
    before = [getattr(products, name) for name in names]
    worth, threads.WORTH = threads.WORTH, 1
    for name, value in zip(names, cut or before, strict=True):
        setattr(products, name, value)
    threads.use(count)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        threads.WORTH = worth
        for name, value in zip(names, before, strict=True):
            setattr(products, name, value)
        threads.use(None)


CUTS = [None, (3, 1, 1), (8, 1, 1), (5, 2000, 1), (2, 1, 50)]
ways = st.builds(shared, st.sampled_from([1, 2, 5]), st.sampled_from(CUTS))


@st.composite
def arrays(draw, shape, dtype, kinds=("gauss", "gauss", "ties", "special", "largest", "zeros")):
    """Values of any kind in any memory layout."""
    x = values(draw(st.sampled_from(kinds)), draw(seeds), shape or (1,), dtype).reshape(shape)
    return relaid(x, draw(st.sampled_from(LAYOUTS)) if len(shape) > 1 else "c")


@st.composite
def geometries(draw, pool):
    """Windows, and the sides of an image that is not smaller than one."""

    def side():
        kernel = draw(st.integers(1, 4))
        padding = draw(st.integers(0, kernel // 2 if pool else kernel + 1))
        size = draw(st.sampled_from([s for s in SIDES if s + 2 * padding >= kernel]))
        return kernel, padding, size

    kernel, padding, size = zip(side(), side(), strict=True)
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 2), (1, 2), (3, 1), (3, 5)]))
    return Windows("test", kernel, stride, padding), size


def assert_same_results(call, given_, dy_of, names):
    """call(impl) -> (y, backward); y and what a backward returns, twice, of fast and of plain.

    Returns fast's y. Nothing in `given_` is modified, nor is dy.
    """
    before = [a.tobytes() for a in given_]
    (y, backward), (want, plain_backward) = call(lpnorm.fast), call(plain)
    assert_same_bits(y, want, "y")
    dy = dy_of(want)
    dy_before = dy.tobytes()
    wanted = plain_backward(dy)
    first, second = backward(dy), backward(dy)
    for found in (first, second):
        if not isinstance(wanted, tuple):
            found, wanted = (found,), (wanted,)
        for name, a, b in zip(names, found, wanted, strict=True):
            assert_same_bits(a, b, name)
        wanted = wanted[0] if len(names) == 1 else wanted
    assert dy.tobytes() == dy_before
    assert [a.tobytes() for a in given_] == before
    return y


# --- bits against the plain code ------------------------------------------------------------------


@every_dtype
@given(data=st.data())
def test_conv2d(dtype, data):
    """Kernels that are not square, padding of more than the kernel, a stride of more."""
    windows, size = data.draw(geometries(pool=False))
    n, inputs, outputs = (data.draw(st.sampled_from([1, 2, 3, 5])) for _ in "123")
    x = data.draw(arrays((n, inputs, *size), dtype))
    w = data.draw(arrays((outputs, inputs, *windows.kernel), dtype, ("gauss", "ties")))
    bias = data.draw(st.none() | st.just(normal(1, (outputs,), dtype)))
    with data.draw(ways):
        assert_same_results(
            lambda impl: impl.conv2d(x, w, bias, windows),
            [x, w],
            lambda y: data.draw(arrays(y.shape, dtype)),
            ("dx", "dw", "dbias"),
        )


@every_dtype
@pytest.mark.parametrize("kernel, stride, padding", [
    (3, 1, 1), (1, 1, 0), (5, 1, 2), (3, 2, 1), (1, 2, 0), (2, 2, 0), (4, 3, 5),
    ((1, 5), (1, 2), (0, 2)),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("side", [4, 16, 17])
def test_convolutions_that_networks_have(dtype, kernel, stride, padding, side):
    """As they are cut by themselves, and into smaller parts and chunks."""
    windows = Windows("test", kernel, stride, padding)
    x, w = normal(1, (9, 5, side, side + 3), dtype), normal(2, (6, 5, *windows.kernel), dtype)
    for count, cut in ((1, None), (2, None), (5, (4, 1, 1)), (2, (8, 3000, 1))):
        with shared(count, cut):
            assert_same_results(
                lambda impl: impl.conv2d(x, w, None, windows),
                [x, w],
                lambda y: normal(3, y.shape, dtype),
                ("dx", "dw", "dbias"),
            )


@every_dtype
@pytest.mark.parametrize("stride", [1, 2])
def test_the_bits_of_a_convolution_do_not_depend_on_threads_or_layout(dtype, stride):
    """Of both; the parts and chunks are what they are for any number of threads."""
    windows = Windows("test", 3, stride, 1)
    x, w = normal(1, (11, 3, 9, 8), dtype), normal(2, (4, 3, 3, 3), dtype)
    results = []
    for impl in (plain, lpnorm.fast):
        for count in (1, 2, 5):
            for layout in LAYOUTS:
                with shared(count, (4, 500, 1)):
                    y, backward = impl.conv2d(
                        relaid(x, layout), relaid(w, layout), w[:, 0, 0, 0], windows
                    )
                    dy = relaid(normal(3, y.shape, dtype), layout)
                    results.append([y, *backward(dy)])
    for found in results[1:]:
        for got, want in zip(found, results[0], strict=True):
            assert_same_bits(got, want, (dtype, stride))


@every_dtype
@pytest.mark.parametrize("n", [1, 2])
def test_the_bits_of_a_strided_convolution_do_not_depend_on_alignment(dtype, n):
    """One sample, so that turning (N, O) around need not copy."""
    x, w = normal(1, (n, 2, 7, 15), dtype), normal(2, (5, 2, 1, 1), dtype)
    results = []
    for layout in ("c", "unaligned"):
        for impl in (plain, lpnorm.fast):
            _, backward = impl.conv2d(x, w, None, Windows("test", 1, 2, 0))
            results.append(backward(relaid(normal(3, (n, 5, 4, 8), dtype) / 3, layout))[:2])
    for found in results[1:]:
        for got, want in zip(found, results[0], strict=True):
            assert_same_bits(got, want, (dtype, n))


@every_dtype
@given(data=st.data())
def test_max_pool2d(dtype, data):
    windows, size = data.draw(geometries(pool=True))
    x = data.draw(arrays((*(data.draw(st.sampled_from([1, 2, 5])) for _ in "12"), *size), dtype))
    with data.draw(ways):
        assert_same_results(
            lambda impl: impl.max_pool2d(x, windows),
            [x],
            lambda y: data.draw(arrays(y.shape, dtype, ("gauss", "zeros", "special"))),
            ("dx",),
        )


@every_dtype
@pytest.mark.parametrize("kernel, stride", [((16, 16), 3), ((17, 16), 5), ((2, 2), 2)], ids=str)
@pytest.mark.parametrize("kind", ["ties", "special", "zeros"])
def test_max_pools_of_many_taps_and_of_four(dtype, kernel, stride, kind):
    """256 taps fit in a byte, 272 do not; planes of odd sides, whose last row nobody sees."""
    windows = Windows("test", kernel, stride, 0)
    for size in ((19, 21), (18, 20)):
        x = values(kind, 1, (3, 2, *size), dtype)
        for dys in ("gauss", kind):
            with shared(2):
                assert_same_results(
                    lambda impl, x=x: impl.max_pool2d(x, windows),
                    [x],
                    lambda y, dys=dys: values(dys, 2, y.shape, dtype),
                    ("dx",),
                )


ANY_SHAPE = st.lists(st.sampled_from([1, 2, 3, 5, 15, 16, 17, 33]), min_size=0, max_size=4).filter(
    lambda shape: np.prod(shape) <= 5000
)


@every_dtype
@given(data=st.data())
def test_relu(dtype, data):
    shape = tuple(data.draw(ANY_SHAPE))
    kinds = ("gauss", "ties", "special", "zeros", "bits", "subnormal")
    x = data.draw(arrays(shape, dtype, kinds))
    with data.draw(ways):
        assert_same_results(
            lambda impl: impl.relu(x),
            [x],
            lambda y: data.draw(arrays(shape, dtype, kinds)),
            ("dx",),
        )


@every_dtype
def test_relu_at_every_kind_of_value(dtype):
    """Each in every place of a vector, and in what is left behind the last one."""
    info = np.finfo(dtype)
    special = [0.0, -0.0, info.max, -info.max, info.smallest_subnormal, -info.smallest_subnormal]
    special = np.array([*special, 1, -1, np.inf, -np.inf, np.nan, -np.nan], dtype)
    for length in (1, 15, 16, 17, 31, 45):
        x = np.stack([np.roll(np.resize(special, length), shift) for shift in range(16)])
        for dy in (x[::-1], np.roll(x, 5)):
            assert_same_results(lambda impl, x=x: impl.relu(x), [x], lambda y, dy=dy: dy, ("dx",))


@every_dtype
@given(data=st.data())
def test_add(dtype, data):
    shape = tuple(data.draw(ANY_SHAPE))
    a, b = (data.draw(arrays(shape, dtype, ("gauss", "zeros", "special", "largest"))) for _ in "ab")
    before = a.tobytes(), b.tobytes()
    with data.draw(ways):
        assert_same_bits(np.asarray(lpnorm.fast.add(a, b)), np.asarray(plain.add(a, b)), "a + b")
    assert (a.tobytes(), b.tobytes()) == before


def test_add_of_other_dtypes_and_shapes_is_numpys():
    a = np.ones((3, 4), "float32")
    for b in (np.ones((3, 4)), np.ones((1, 4), "float32"), np.ones((3, 4), "float16")):
        assert_same_bits(lpnorm.fast.add(a, b), a + b, "a + b")


def test_a_wrong_geometry_gives_the_same_error():
    x, w, windows = (
        normal(1, (2, 3, 4, 4), "float32"),
        normal(2, (2, 3, 5, 5), "float32"),
        Windows("it", 5, 1, 0),
    )
    messages = []
    for impl in (plain, lpnorm.fast):
        for call in (
            partial(impl.conv2d, x, w, None, windows),
            partial(impl.max_pool2d, x, windows),
            partial(impl.max_pool2d, x[0], windows),
        ):
            with pytest.raises(ValueError, match=r"^it: x ") as caught:
                call()
            messages.append(str(caught.value))
    assert messages[:3] == messages[3:]


# --- where there is nothing to call, or to compile ------------------------------------------------


def without_blas(monkeypatch):
    monkeypatch.setattr(blas, "gemm", lambda dtype: None)


def without_threadpoolctl(monkeypatch):
    """BLAS cannot be found, nor told to use one thread."""
    monkeypatch.setattr(threads.one_blas_thread, "libraries", [])
    monkeypatch.setattr(blas, "gemm", blas.gemm.__wrapped__)
    assert not threads.one_blas_thread and blas.gemm("float32") is None


def a_product_of_another_library(monkeypatch):
    """A function of BLAS's name that gives other bits is not taken."""
    monkeypatch.setattr(blas, "gemm", blas.gemm.__wrapped__)
    monkeypatch.setattr(blas.np, "array_equal", lambda a, b: False)
    assert blas.gemm("float32") is blas.gemm("float64") is None


@pytest.mark.parametrize(
    "missing", [without_blas, without_threadpoolctl, a_product_of_another_library]
)
@every_dtype
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_without_a_product_to_call_are_the_plain_ones(
    monkeypatch, missing, dtype, stride
):
    windows, called = Windows("test", 3, stride, 1), []
    x, w = normal(1, (5, 3, 8, 8), dtype), normal(2, (4, 3, 3, 3), dtype)

    def noted(*arguments, of=products.correlate):
        called.append(arguments)
        of(*arguments)

    def computed():
        y, backward = lpnorm.fast.conv2d(x, w, None, windows)
        return [y, *backward(y)[:2]]

    with monkeypatch.context() as patch, shared(2, (3, 1, 1)):
        patch.setattr(products, "correlate", noted)
        want = computed()
        assert bool(called) == (threads.one_blas_thread.libraries == [])
        missing(patch)
        found = computed()
    assert called
    for got, bits in zip(found, want, strict=True):
        assert_same_bits(got, bits, missing.__name__)


def test_numpys_product_is_found():
    """Here and wherever the tests run: else nothing above has tried what is compiled."""
    pytest.importorskip("threadpoolctl")
    assert blas.gemm("float32") is not None and blas.gemm("float64") is not None


SCRIPT = """
import hashlib, numpy as np, lpnorm.fast
from lpnorm import nn, threads
threads.WORTH = 1
def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)
digest = hashlib.sha256()
for dtype in ("float16", "float32", "float64"):
    for stride in (1, 2):
        conv = nn.Conv2d(3, 4, 3, stride=stride, padding=1)
        body = nn.Sequential(conv, nn.BatchNorm(4, p=1), nn.ReLU())
        block = nn.Residual(body, nn.Conv2d(3, 4, 1, stride=stride))
        model = nn.Sequential(block, nn.MaxPool2d(2), nn.MaxPool2d(2, 1), nn.GlobalAvgPool2d())
        model.to(dtype=dtype, impl=lpnorm.fast)
        y, backward = model(draw(1, 6, 3, 8, 9).astype(dtype))
        dx = backward(draw(2, *y.shape).astype(dtype))
        for a in (y, dx, *(p.grad for p in model.parameters()), *model.state().values()):
            digest.update(a.tobytes())
print(digest.hexdigest())
"""


def bits_in_another_process(script, **environment):
    root = str(Path(lpnorm.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_compiled_where_numba_is_told_not_to():
    """Everything works as well, with the same bits."""
    compiled = bits_in_another_process(SCRIPT)
    assert bits_in_another_process(SCRIPT, NUMBA_DISABLE_JIT="1") == compiled
    plainly = SCRIPT.replace("impl=lpnorm.fast", "impl=None")
    assert plainly != SCRIPT and bits_in_another_process(plainly) == compiled


# --- nothing that anybody still holds is overwritten ----------------------------------------------

SHAPE = (6, 8, 24, 24)  # 110 KB: above `memory.SMALL` in every dtype but float16
WINDOWS = Windows("test", 3, 1, 1)


def layers(seed, impl=None, shape=SHAPE):
    """name -> (y, dy -> all gradients) of each function that takes blocks."""
    impl = lpnorm.fast if impl is None else impl
    x, w = normal(seed, shape, "float32"), normal(seed + 1, (8, 8, 3, 3), "float32")

    def batch_norm():
        y, cache = impl.batch_norm(x, None, None, p=1)
        return y, lambda dy: impl.batch_norm_backward(dy, cache)[0]

    return {
        "conv2d": lambda: impl.conv2d(x, w, None, WINDOWS),
        "strided": lambda: impl.conv2d(x, w, None, Windows("test", 3, 2, 1)),
        "relu": lambda: impl.relu(x),
        "pool": lambda: impl.max_pool2d(x, Windows("test", 3, 1, 1)),
        "pool of four": lambda: impl.max_pool2d(x, Windows("test", 2, 2, 0)),
        "add": lambda: (impl.add(x, x[::-1].copy()), lambda dy: impl.add(dy, dy)),
        "batch_norm": batch_norm,
    }


def every_result(seed, impl=None, shape=SHAPE):
    """name -> bits of y and of what its backward gives for dy = 2 y."""
    found = {}
    for name, call in layers(seed, impl, shape).items():
        y, backward = call()
        dx = backward(2 * y)
        dx = dx if isinstance(dx, tuple) else (dx,)
        found[name] = [a.tobytes() for a in (y, *dx) if a is not None]
    return found


def from_torch(y):
    return pytest.importorskip("torch").from_numpy(y)


HOLDERS = {  # what may be held of y, and its bytes
    "y": (lambda y: y, np.ndarray.tobytes),
    "y[1:]": (lambda y: y[1:], np.ndarray.tobytes),
    "one value": (lambda y: y[-1:, -1:, -1:, -1:], np.ndarray.tobytes),
    "turned": (lambda y: y.T[::2], np.ndarray.tobytes),
    "other dtype": (lambda y: y.view(np.uint8).reshape(-1)[5:], np.ndarray.tobytes),
    "windows": (
        lambda y: np.lib.stride_tricks.sliding_window_view(y, (2, 2), (2, 3)),
        np.ndarray.tobytes,
    ),
    "subclass": (lambda y: y.view(np.recarray), np.ndarray.tobytes),
    "memoryview": (memoryview, memoryview.tobytes),
    "a view of a memoryview": (lambda y: memoryview(y)[1:], memoryview.tobytes),
    "frombuffer": (lambda y: np.frombuffer(y, np.uint8), np.ndarray.tobytes),
    "pickle": (pickle.PickleBuffer, lambda held: bytes(held.raw())),
    "ctypes": (lambda y: (ctypes.c_byte * y.nbytes).from_buffer(y), bytes),
    "iterator": (lambda y: y.flat, lambda held: held.base.tobytes()),
    "rows": (list, lambda held: b"".join(row.tobytes() for row in held)),
    "dlpack": (np.from_dlpack, np.ndarray.tobytes),
    "torch": (from_torch, lambda held: held.numpy().tobytes()),
    "a part of a tensor": (lambda y: from_torch(y)[1:, 2], lambda held: held.numpy().tobytes()),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_held_is_never_overwritten(holder):
    """y and dx of every layer, held by something else than themselves while others are computed."""
    hold, read = HOLDERS[holder]
    held = []
    for name, call in layers(1).items():
        y, backward = call()
        dx = backward(y)
        dx = dx[0] if isinstance(dx, tuple) else dx
        for each in (y, dx):
            it = hold(each)
            held.append((name, it, read(it)))
        del y, dx, each, it, backward
    for seed in (5, 6):
        every_result(seed)
    for name, it, before in held:
        assert read(it) == before, (holder, name)


@pytest.mark.parametrize("name", layers(1))
def test_called_twice_before_going_back_and_back_twice(name):
    """What a backward holds is not overwritten by other calls, nor by its own."""
    want = [every_result(seed, plain)[name] for seed in (1, 3)]
    (y, backward), (z, other) = (layers(seed)[name]() for seed in (1, 3))
    y, z = 2 * y, 2 * z  # only the backwards are held, not what was computed
    every_result(5)
    for _ in range(2):
        for dy, back, bits in ((y, backward, want[0]), (z, other, want[1])):
            dx = back(dy)
            dx = dx if isinstance(dx, tuple) else (dx,)
            assert [a.tobytes() for a in dx if a is not None] == bits[1:], name
            every_result(7)


def test_writing_into_y_changes_nothing_but_y():
    want = every_result(1, plain)
    for name, call in layers(1).items():
        y, backward = call()
        dy = 2 * y
        y.fill(np.nan)
        dx = backward(dy)
        dx = dx if isinstance(dx, tuple) else (dx,)
        assert [a.tobytes() for a in dx if a is not None] == want[name][1:], name
        for a in dx:
            if a is not None:
                a.fill(np.nan)
        again = backward(dy)
        again = again if isinstance(again, tuple) else (again,)
        assert [a.tobytes() for a in again if a is not None] == want[name][1:], name


@pytest.mark.skipif(not memory.COUNTED, reason="blocks are not used again here")
def test_blocks_are_used_again_and_given_back():
    gc.collect()
    memory.clear()
    before = memory.size()  # what somebody else holds
    every_result(1)
    once = memory.size()
    assert once > before
    for _ in range(3):
        every_result(1)
    assert memory.size() == once
    gc.collect()
    memory.clear()
    assert memory.size() == before


@pytest.mark.skipif(not memory.COUNTED, reason="blocks are not used again here")
def test_a_block_that_is_held_is_not_given_back():
    blocks = memory.Blocks()
    kept, dropped = blocks.empty(2**16, "uint8"), blocks.empty(2**17, "uint8")
    view = kept[10:20]
    del kept, dropped
    blocks.clear()
    assert blocks.size() == 2**16
    view[...] = 7
    for _ in range(3):
        blocks.empty(2**16, "uint8")[...] = 1
    assert (view == 7).all()
    del view
    blocks.clear()
    assert blocks.size() == 0 and blocks.of_size == {}


@pytest.mark.skipif(not memory.COUNTED, reason="blocks are not used again here")
def test_blocks_that_nobody_needs_are_given_back_in_time(monkeypatch):
    monkeypatch.setattr(memory, "PATIENCE", 16)
    blocks = memory.Blocks()
    held = blocks.empty(2**18, "uint8")
    blocks.empty(2**17, "uint8")
    for _ in range(10):
        blocks.empty(2**16, "uint8")
    assert blocks.size() == 2**18 + 2**17 + 2**16
    for _ in range(16):
        blocks.empty(2**16, "uint8")
    assert blocks.size() == 2**18 + 2**16
    del held
    for _ in range(20):
        blocks.empty(2**16, "uint8")
    assert blocks.size() == 2**16


@given(size=st.integers(1, 2**22), more=st.integers(0, 2**12))
def test_a_block_has_room_and_little_more(size, more):
    room = memory._rounded(size)
    assert size <= room <= size * 5 / 4 + 1 and memory._rounded(room) == room
    assert memory._rounded(size + more) >= room


@pytest.mark.parametrize("shape", [(), 2**17, (0,), (2**9, 2**9), (3, 0, 5), (7, 11, 1003)])
@every_dtype
def test_an_array_of_blocks_is_an_array(shape, dtype):
    a = memory.Blocks().empty(shape, dtype)
    like = np.empty(shape, dtype)
    assert (a.shape, a.dtype, a.strides) == (like.shape, like.dtype, like.strides)
    assert a.flags.writeable and a.flags.c_contiguous and a.flags.aligned
    a[...] = 1
    assert (a == 1).all()
    assert a.nbytes < memory.SMALL or a.ctypes.data % memory.LINE == 0


def test_two_threads_at_once():
    """Layers called from threads of the program's own, each with its own values."""
    want = {seed: every_result(seed, plain) for seed in (1, 11, 21)}
    wrong, start = [], threading.Barrier(3)

    def work(seed):
        try:
            start.wait()
            for _ in range(8):
                if every_result(seed) != want[seed]:
                    wrong.append(seed)
        except BaseException as error:
            wrong.append(error)
            raise

    with shared(2):
        workers = [threading.Thread(target=work, args=(seed,)) for seed in want]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_geometries_that_are_forgotten_while_they_are_used():
    """More of them than are remembered, from two threads at once."""
    cases = [(normal(i, (2, 2, 5 + i % 13, 7 + i // 13), "float32"), 3 + i % 2) for i in range(150)]
    w = {k: normal(k, (3, 2, k, k), "float32") for k in (3, 4)}

    def work(impl, found):
        for x, k in cases:
            y, backward = impl.conv2d(x, w[k], None, Windows("test", k, 1 + k % 2, 2))
            found.append([y.tobytes(), *(a.tobytes() for a in backward(y)[:2])])

    want, results = [], ([], [])
    work(plain, want)
    workers = [threading.Thread(target=work, args=(lpnorm.fast, found)) for found in results]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results[0] == results[1] == want


@pytest.mark.parametrize("vector", [images.VECTOR])
def test_planes_at_the_end_of_memory_are_not_read_beyond(vector):
    """Vectors that hang over the last plane: of an array whose memory ends a page."""
    mmap = pytest.importorskip("mmap")
    page = mmap.PAGESIZE
    for sides in ((5, 5), (4, 4), (3, 7), (1, vector + 1), (2, vector - 1)):
        for kernel, stride in ((3, 1), (3, 2), (2, 1)):
            size = 4 * 2 * 3 * sides[0] * sides[1]
            room = np.frombuffer(mmap.mmap(-1, -(-size // page) * page), np.uint8)
            x = room[room.size - size :].view(np.float32).reshape(2, 3, *sides)
            x[...] = normal(1, x.shape)
            w = normal(2, (2, 3, kernel, kernel), "float32")
            windows = Windows("test", kernel, stride, 1)
            assert_same_results(
                lambda impl, x=x, w=w, windows=windows: impl.conv2d(x, w, None, windows),
                [x, w],
                lambda y: normal(3, y.shape, "float32"),
                ("dx", "dw", "dbias"),
            )
