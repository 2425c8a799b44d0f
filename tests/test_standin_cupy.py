"""The stand-in for CuPy keeps its promises: what it refuses, what it gives, and whose names."""

import copy
import importlib.machinery
import inspect
import io
import json
import operator
import pickle
import subprocess
import sys

import numpy as np
import pytest
import standin_cupy

OPERATORS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    divmod,
]  # fmt: skip
INPLACE = [
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow,
]  # fmt: skip
MIXED = "a NumPy array and a CuPy array were mixed"


@pytest.fixture(scope="module")
def cupy():
    with standin_cupy.installed() as module:
        yield module


@pytest.fixture
def x(cupy):
    return cupy.asarray(np.array([[1.5, -2.0, 3.0], [4.0, 5.0, -6.5]], np.float32))


def same(gpu, expected):
    """A stand-in array with exactly these values, this dtype and this shape."""
    assert type(gpu) is standin_cupy.ndarray
    expected = np.asarray(expected)
    assert (gpu.dtype, gpu.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(gpu.get(), expected)


# ---- being installed -----------------------------------------------------------------------------


def test_installed_and_taken_out_again():
    before = {name: module for name, module in sys.modules.items() if name[:4] == "cupy"}
    with standin_cupy.installed() as inner:
        assert sys.modules["cupy"] is inner
        import cupy
        from cupy.lib.stride_tricks import sliding_window_view

        assert cupy is inner and cupy.is_available() and cupy.cuda.runtime.getDeviceCount() == 1
        assert sliding_window_view(cupy.ones(4), 2).shape == (3, 2)
        with pytest.raises(ImportError):
            import cupyx  # noqa: F401
    assert {name: m for name, m in sys.modules.items() if name[:4] == "cupy"} == before


# ---- NumPy and CuPy never meet by themselves -----------------------------------------------------


@pytest.mark.parametrize("f", OPERATORS + INPLACE + [operator.matmul], ids=lambda f: f.__name__)
def test_operators_refuse_a_numpy_array_on_either_side(x, f):
    for other in (np.ones((2, 3), np.float32), np.array(2.0)):
        for pair in ((x, other), (other, x)):
            with pytest.raises(TypeError, match=MIXED):
                f(*pair)


@pytest.mark.parametrize("f", OPERATORS + INPLACE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("scalar", [2, 2.0, *(t(2) for t in (np.float16, np.float64, np.int64))])
def test_operators_take_python_and_numpy_scalars_on_either_side(cupy, x, f, scalar):
    host, ufunc = np.abs(x.get()), np.power if f is operator.pow else f
    pairs = [(f(cupy.asarray(host), scalar), ufunc(host.copy(), scalar))]
    if f not in INPLACE:
        pairs += [(f(scalar, cupy.asarray(host)), ufunc(scalar, host))]
    for results, expected in pairs:
        if f is not divmod:
            results, expected = [results], [expected]
        for result, value in zip(results, expected, strict=True):
            same(result, value)


def test_inplace_changes_the_same_array(x):
    view, before = x[0], x
    x += 1
    assert x is before
    same(view, np.array([2.5, -1.0, 4.0], np.float32))


def test_numpy_refuses_the_array(x):
    host = np.ones((2, 3))
    for call in (
        lambda: np.sqrt(x),
        lambda: np.add(x, 1),
        lambda: np.add.reduce(x),
        lambda: np.asarray(x),
        lambda: np.array([x, x]),
        lambda: host[x],
        lambda: host.dot(x),
        lambda: host.clip(x),
        lambda: host.__setitem__(..., x),
    ):
        with pytest.raises(TypeError, match="a NumPy function was called on a GPU array"):
            call()
    with pytest.raises(TypeError):
        np.sqrt(host, out=x)


@pytest.mark.parametrize("name", ["sum", "mean", "where", "concatenate", "shape", "result_type"])
def test_numpy_functions_are_named(x, name):
    with pytest.raises(TypeError, match=f"numpy function '{name}' called on a GPU array"):
        getattr(np, name)([x] if name == "concatenate" else x)


def test_numpy_arrays_are_refused_as_arguments(cupy, x):
    host = np.ones((2, 3), np.float32)
    for call in (
        lambda: cupy.add(x, host),
        lambda: cupy.sum(host),
        lambda: cupy.concatenate([x, host]),
        lambda: cupy.where(x > 0, x, host),
        lambda: cupy.sqrt(x, out=host),
        lambda: cupy.sum(x, axis=0, out=host[0]),
        lambda: x.sum(axis=0, out=host[0]),
        lambda: x.dot(host.T),
        lambda: cupy.full(3, host),
        lambda: cupy.einsum("ij,ij", x, host),
        lambda: x[np.array([0])],
        lambda: x[0, np.array([0])],
        lambda: x.__setitem__(0, host[0]),
        lambda: x.__setitem__(np.array([0]), 1.0),
        lambda: cupy.linalg.norm(host),
    ):
        with pytest.raises(TypeError, match=MIXED):
            call()


def test_lists_are_not_arrays(cupy, x):
    for call in (
        lambda: cupy.sqrt([1.0]),
        lambda: cupy.sum([1.0]),
        lambda: cupy.concatenate([x, 1.0]),
        lambda: x - [1.0],
        lambda: x == [1.0],
        lambda: x == None,  # noqa: E711
        lambda: x.__setitem__(0, [1.0, 2.0, 3.0]),
        lambda: cupy.sum(2.0),
    ):
        with pytest.raises(TypeError):
            call()


def test_pickle_and_save_are_refused(x):
    for call in (lambda: pickle.dumps(x), lambda: np.save(io.BytesIO(), x)):
        with pytest.raises(TypeError, match="GPU array"):
            call()
    same(copy.deepcopy(x), x.get())
    same(copy.copy(x), x.get())


# ---- explicit transfers --------------------------------------------------------------------------


def test_transfers_copy(cupy):
    host = np.arange(6.0).reshape(2, 3)
    host.flags.writeable = False
    x = cupy.asarray(host)
    x += 1  # CuPy has no read-only arrays
    back = x.get()
    back += 1
    assert (host.max(), float(x.max()), back.max()) == (5, 6, 7)
    assert cupy.asarray(x) is x and cupy.asarray(x, x.dtype) is x
    assert cupy.array(x) is not x
    assert type(cupy.asnumpy(x)) is np.ndarray and cupy.asnumpy(host) is host
    assert x.T.get().flags.c_contiguous and cupy.asarray(host[::-1, ::2]).flags.c_contiguous
    assert cupy.asarray(host.T).flags.f_contiguous
    assert cupy.ascontiguousarray(x.T).flags.c_contiguous
    same(cupy.ascontiguousarray(x[0, 0]), [1.0])  # CuPy, and NumPy too: at least 1-d
    same(cupy.asfortranarray(np.float32(1)), np.ones(1, np.float32))
    same(cupy.array([x[0], x[1]]), x.get())
    out = np.empty((2, 3))
    assert x.get(out=out) is out and out[1, 2] == 6
    with pytest.raises(TypeError):
        x.get(out=np.empty((2, 3), np.float32))


def test_get_array_module(cupy, x):
    assert cupy.get_array_module(np.ones(2), x) is cupy
    assert cupy.get_array_module(np.ones(2)) is np


@pytest.mark.parametrize("dtype", [np.longdouble, str, object, ">f4"])
def test_dtypes_that_cupy_has_not(cupy, dtype):
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.asarray(np.zeros(3, dtype))


# ---- what an array is ----------------------------------------------------------------------------


def test_reductions_indexing_and_iterating_give_arrays(cupy, x):
    same(x.sum(), x.get().sum())
    same(cupy.max(x), np.float32(5))
    same(x.argmax(axis=1), x.get().argmax(axis=1))
    same(x[1, 2], np.float32(-6.5))
    same(next(iter(x[0])), np.float32(1.5))
    same(cupy.sqrt(4.0), 2.0)
    same(cupy.allclose(x, x), np.True_)
    same(cupy.array_equal(x, x), np.True_)
    same(cupy.count_nonzero(x), np.int64(6))
    same(abs(-x[0]) ** 2 @ x[1], (x.get()[0] ** 2) @ x.get()[1])
    first = x[0, 0]
    assert (float(first), int(first), bool(first), first.item()) == (1.5, 1, True, 1.5)
    assert type(first.item()) is float
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
    with pytest.raises(TypeError, match="0-d"):
        iter(x.sum())
    with pytest.raises(TypeError):
        range(cupy.asarray(3))  # CuPy: no __index__


def test_attributes_and_methods(cupy, x):
    host = x.get()
    for name in ("shape", "dtype", "ndim", "size", "strides", "nbytes", "itemsize"):
        assert getattr(x, name) == getattr(host, name)
    assert len(x) == 2 and f"{x[0, 0]:.2f}" == "1.50" and repr(x) == repr(host)
    assert x.astype(np.float32, copy=False) is x and x.astype(np.float16).dtype == np.float16
    same(x.T.reshape(-1).ravel(), host.T.reshape(-1))
    same(x.transpose(1, 0).swapaxes(0, 1)[None].squeeze(0), host)
    same(x.mean(axis=0, keepdims=True), host.mean(axis=0, keepdims=True))
    same(x.view(np.int32), host.view(np.int32))
    same(x[::-1, ::-2], host[::-1, ::-2])
    same(x[x > 0], host[host > 0])
    same(x[cupy.asarray([1, 0]), 1:], host[[1, 0], 1:])
    assert x.fill(3) is None and x.tolist() == [[3.0] * 3] * 2
    assert cupy.add(x, x, out=x) is x and cupy.sum(x, axis=0, out=x[0]).shape == (3,)


def test_views_share_memory_also_in_0_d(x):
    x[0, 0][...] = 7
    x.T[1, 0] = 8
    x.reshape(-1)[2:3] += 1
    assert x.tolist()[0] == [7, 8, 4]


def test_flags(x):
    assert x.flags.c_contiguous and not x.T.flags.c_contiguous and x.T.flags.f_contiguous
    assert x.flags["C_CONTIGUOUS"] and not hasattr(x.flags, "writeable")


def test_new_results_are_c_contiguous(cupy, x):
    assert (x.T + 1).flags.c_contiguous and cupy.sqrt(x.T).flags.c_contiguous


def test_arrays_take_no_new_attributes_and_no_hash(x):
    with pytest.raises(AttributeError):
        x.note = 1
    with pytest.raises(TypeError):
        hash(x)


def test_a_gpu_does_not_warn(cupy):
    x = cupy.asarray(np.array([0.0, 60000.0], np.float16))
    with np.errstate(all="raise"):
        assert np.isinf((x + x).get()[1]) and np.isnan((x / x).get()[0])
        x *= 2
        assert np.isinf(x.astype(np.float32).max().get())


# ---- CuPy's names and parameters, not NumPy's ----------------------------------------------------


@pytest.mark.parametrize(
    "name", ["vecdot", "errstate", "spacing", "nditer", "block", "insert", "memmap", "longdouble"]
)
def test_functions_that_only_numpy_has(cupy, name):
    with pytest.raises(AttributeError, match=rf"'{name}', though NumPy has"):
        getattr(cupy, name)
    assert not hasattr(cupy, name)


@pytest.mark.parametrize("name", ["setflags", "ctypes", "resize", "__array_interface__"])
def test_methods_that_only_numpy_has(x, name):
    with pytest.raises(AttributeError, match=r"though numpy\.ndarray has"):
        getattr(x, name)


@pytest.mark.parametrize("name", ["RawKernel", "ElementwiseKernel", "fuse", "fft", "load"])
def test_names_that_the_standin_has_not(cupy, name):
    with pytest.raises(NotImplementedError, match=rf"cupy\.{name} is not in the stand-in"):
        getattr(cupy, name)


@pytest.mark.parametrize("name", ["device", "data", "scatter_add", "dumps", "__dlpack__"])
def test_array_names_that_the_standin_has_not(x, name):
    with pytest.raises(NotImplementedError, match=name):
        getattr(x, name)


def test_random_is_numpys_business(cupy):
    with pytest.raises(NotImplementedError, match=r"numpy\.random\.Generator"):
        cupy.random.standard_normal(3)
    with pytest.raises(ImportError):
        import cupy.random


def test_parameters_that_cupy_has_not(cupy, x):
    for call in (
        lambda: x.sum(where=x > 0),
        lambda: cupy.sum(x, where=x > 0),
        lambda: cupy.max(x, initial=0),
        lambda: cupy.add(x, x, where=x > 0),
        lambda: cupy.add(x, x, order="C"),
        lambda: cupy.take(x, 0, mode="clip"),
        lambda: x.item(0),
        lambda: cupy.broadcast_to(x, (2, 3), subok=True),
        lambda: x.astype(np.float16, casting="same_kind"),
        lambda: cupy.zeros(3, like=x),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="kind"):
        cupy.sort(x, kind="quicksort")


def test_parameters_in_cupys_order(cupy, x):
    same(cupy.clip(x, -1, 1), x.get().clip(-1, 1))
    same(cupy.mean(x, 0, np.float64, None, True), x.get().mean(0, np.float64, keepdims=True))
    same(cupy.where(x > 0, x, 0), np.where(x.get() > 0, x.get(), np.float32(0)))
    same(cupy.where(x > 0)[0], np.where(x.get() > 0)[0])
    same(cupy.moveaxis(cupy.stack([x, x], 2), 2, 0), np.stack([x.get()] * 2))
    same(cupy.linalg.norm(x, axis=1), np.linalg.norm(x.get(), axis=1))
    same(cupy.matmul(x, x.T), x.get() @ x.get().T)
    same(cupy.ones(2, cupy.float16), np.ones(2, np.float16))


def test_every_keyword_goes_somewhere(cupy):
    """NumPy takes each parameter that CuPy has, except for these, which nobody here needs."""
    known = {
        "argmax(dtype)", "argmin(dtype)", "nanargmax(dtype)", "nanargmin(dtype)",
        "corrcoef(bias)", "corrcoef(ddof)", "percentile(interpolation)", "quantile(interpolation)",
        "show_config(_full)", "reshape(copy)",  # the last one before NumPy 2.1
    }  # fmt: skip
    handled = {"where", "matmul"} | standin_cupy.TRANSFERS | standin_cupy.NOT_FORWARDED
    lost = set()
    for host, texts in (
        (np, standin_cupy.NAMES["cupy"]["functions"]),
        (np.linalg, standin_cupy.NAMES["cupy.linalg"]["functions"]),
    ):
        for name in [name for name in texts if hasattr(host, name) and name not in handled]:
            try:
                theirs = inspect.signature(getattr(host, name)).parameters
            except ValueError:  # older NumPys do not tell
                continue
            for parameter in standin_cupy._signature(texts[name]).parameters.values():
                optional = parameter.default is not parameter.empty
                if optional and parameter.name not in theirs:
                    lost.add(f"{name}({parameter.name})")
    assert lost <= known


# ---- where CuPy differs --------------------------------------------------------------------------


def test_float16_sums_name_their_accumulator(cupy):
    x = cupy.ones(3, cupy.float16)
    for call in (
        x.sum, x.mean, x.prod, x.cumsum, x.var, lambda: cupy.sum(x), lambda: cupy.nanmean(x),
        lambda: cupy.add.reduce(x), lambda: cupy.add.accumulate(x), lambda: cupy.average(x),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="name the accumulator"):
            call()
    same(x.sum(dtype=cupy.float32), np.float32(3))
    same(cupy.add.reduce(x, dtype=cupy.float16), np.float16(3))
    same(x.max(), np.float16(1))


def test_var_with_another_dtype_is_refused(cupy, x):
    same(x.var(axis=0), x.get().var(axis=0))
    for dtype in (cupy.float64, "float16"):
        with pytest.raises(TypeError, match="rounds the mean"):
            x.var(dtype=dtype)


def test_min_with_out_is_refused(cupy, x):
    with pytest.raises(NotImplementedError, match="out"):
        cupy.min(x, axis=0, out=cupy.empty(3, x.dtype))


def test_ufunc_methods(cupy, x):
    same(cupy.add.reduce(x), x.get().sum(axis=0))
    same(cupy.multiply.accumulate(x, axis=1), x.get().cumprod(axis=1))
    same(cupy.subtract.outer(x[0], x[1]), np.subtract.outer(x.get()[0], x.get()[1]))
    for missing in ("maximum.reduce", "logical_and.reduce", "subtract.accumulate", "multiply.at"):
        name, method = missing.split(".")
        with pytest.raises(NotImplementedError):
            getattr(getattr(cupy, name), method)(x, 0)


def test_scatter(cupy, x):
    index = cupy.asarray([0, 0, 1])
    cupy.add.at(x, (index, index), 1.0)
    assert (x[0, 0], x[1, 1]) == (3.5, 6)
    with pytest.raises(TypeError, match="float16"):
        cupy.maximum.at(cupy.ones(3, cupy.float16), index, 1.0)
    x[index] = 0.0  # the same value thrice is defined
    with pytest.raises(ValueError, match="repeated indices"):
        x[index] = cupy.ones((3, 3), x.dtype)


def test_memory_of_empty_is_spoiled(cupy, x):
    assert np.isnan(cupy.empty(3).get()).all() and np.isnan(cupy.empty_like(x).get()).all()
    assert (cupy.ndarray((2,), np.int8).get() == 77).all()


def test_sort_in_place_wants_contiguous(cupy, x):
    with pytest.raises(NotImplementedError, match="C-contiguous"):
        x.T.sort()
    same(cupy.sort(x.T), np.sort(x.get().T))


# ---- the record ----------------------------------------------------------------------------------


def test_the_standin_has_only_recorded_names():
    names = standin_cupy.NAMES["ndarray"]
    recorded = {*names["methods"], *names["attributes"], *names["special"]}
    own = {"_array", "_of", "__getattr__", "__weakref__"}
    assert set(vars(standin_cupy.ndarray)) - standin_cupy.PYTHONS - own <= recorded
    missing = {name for name in names["special"] if not hasattr(standin_cupy.ndarray, name)}
    assert missing == {
        "__array_finalize__", "__array_ufunc__", "__bytes__", "__class_getitem__",
        "__cuda_array_interface__", "__delitem__", "__div__", "__dlpack__", "__dlpack_device__",
        "__hex__", "__idiv__", "__oct__", "__pyx_vtable__",
    }  # fmt: skip


def test_the_record_equals_real_cupy():
    """In a process of its own: an imported CuPy would stay in sys.modules for all other tests."""
    if importlib.machinery.PathFinder.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    code = "import cupy, json, standin_cupy; print(json.dumps(standin_cupy.record(cupy)))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(
        command, cwd=standin_cupy.FILE.parent, capture_output=True, text=True, check=True
    )
    real = json.loads(run.stdout)
    if real["version"] != standin_cupy.NAMES["version"]:
        pytest.skip(f"the names were recorded from CuPy {standin_cupy.NAMES['version']}")
    assert real == standin_cupy.NAMES
