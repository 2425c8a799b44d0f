"""A strict stand-in for CuPy, so that a machine without a GPU notices code that would fail on one.

The library asks an array whose it is and then calls that array library. Tested on NumPy arrays
alone, a stray `np.` call goes unseen until somebody owns a GPU. Here a "GPU" array is a type of
its own around a private NumPy array; it computes with NumPy, but only through the names and the
parameters that real CuPy has (recorded in standin_cupy_names.json), and it refuses to meet NumPy:

    with standin_cupy.installed() as cupy:      # also in sys.modules["cupy"]
        x = cupy.asarray(np.ones(3))            # a transfer that was asked for is fine
        np.sqrt(x); x + np.ones(3); x.sum(where=mask); cupy.vecdot(x, x)    # each of them raises

Where CuPy leaves something open (sums of float16, repeated indices in an assignment, the memory
of `empty`) it raises or spoils; where CuPy differs from NumPy (marked "CuPy:") it follows CuPy.
What CuPy has and this file has not raises NotImplementedError. After an upgrade of CuPy,
`python tests/standin_cupy.py` writes the names again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import inspect
import json
import re
import sys
import types
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("standin_cupy_names.json")
NAMES = json.loads(FILE.read_text())

DTYPES = "?bhilqBHILQefdFD"
PROPERTIES = {
    "shape", "dtype", "ndim", "size", "itemsize", "nbytes", "strides", "T", "mT", "real", "imag",
}  # fmt: skip
NO_FLOAT16 = {  # sums of float16: half or single inside, by device, layout and version
    "sum", "mean", "var", "std", "prod", "cumsum", "cumprod", "cumulative_sum", "cumulative_prod",
    "nansum", "nanmean", "nanvar", "nanstd", "nanprod", "nancumsum", "nancumprod", "trace",
    "average",
}  # fmt: skip
NOT_FORWARDED = {  # they hand naked NumPy arrays to a callback, or read and write
    "apply_along_axis", "apply_over_axes", "fromfunction", "piecewise", "mask_indices", "load",
    "loadtxt", "genfromtxt", "frombuffer", "fromfile", "fromiter", "fromstring", "from_dlpack",
    "dump", "dumps",
}  # fmt: skip
TRANSFERS = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"}
TAKE_ANYTHING = {"shape", "ndim", "size", "isclose", "allclose"}  # their `a` may be a scalar
BOOLS_IN_NUMPY = {"allclose", "array_equal", "array_equiv", "count_nonzero"}  # CuPy: 0-d arrays
REDUCTIONS = {  # CuPy: no other ufunc reduces; the function that each of them calls
    "add.reduce": "sum", "multiply.reduce": "prod", "add.accumulate": "cumsum",
    "multiply.accumulate": "cumprod", "add.reduceat": "cumsum",
}  # fmt: skip
SCATTER = {  # CuPy: the ufuncs that have .at, and for which dtypes
    "add": "iIlLqQefd", "subtract": "iI", "maximum": "iIlLqQfd", "minimum": "iIlLqQfd",
    "bitwise_and": "iIlLqQ", "bitwise_or": "iIlLqQ", "bitwise_xor": "iIlLqQ",
}  # fmt: skip
BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power, "lshift": np.left_shift,
    "rshift": np.right_shift, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "matmul": np.matmul, "divmod": np.divmod,
}  # fmt: skip
COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal,
}  # fmt: skip
UNARY = {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}


# ---- from the stand-in to NumPy and back ---------------------------------------------------------


def _is_scalar(value) -> bool:
    return type(value) in (bool, int, float, complex) or isinstance(value, np.generic)


def _unwrap(value, where: str, seen: dict):
    """The NumPy value inside; `seen` remembers whose it was, so that out= comes back itself."""
    if isinstance(value, ndarray):
        seen[id(value._array)] = value
        return value._array
    if isinstance(value, np.ndarray):
        raise TypeError(
            f"a NumPy array and a CuPy array were mixed in {where}:"
            " say which side is meant with cupy.asarray(...) or .get()"
        )
    if isinstance(value, (list, tuple)):
        items = [_unwrap(item, where, seen) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _wrap(result, seen: dict):
    """Every NumPy array and NumPy scalar becomes a stand-in array: CuPy has 0-d arrays only."""
    if isinstance(result, (np.ndarray, np.generic)):
        return seen[id(result)] if id(result) in seen else ndarray._of(np.asarray(result))
    if isinstance(result, (list, tuple)):
        items = [_wrap(item, seen) for item in result]
        return items if isinstance(result, list) else tuple(items)
    return result


def _compute(function, where: str, args, kwargs):
    seen: dict = {}
    args = [_unwrap(value, where, seen) for value in args]
    kwargs = {key: _unwrap(value, where, seen) for key, value in kwargs.items()}
    with np.errstate(all="ignore"):  # a GPU does not warn about overflow
        return _wrap(function(*args, **kwargs), seen)


@functools.cache
def _signature(text: str) -> inspect.Signature:
    return inspect.signature(eval(f"lambda {text}: None"))  # the text is ours, from the record


def _arguments(where: str, text: str, args, kwargs) -> tuple[list, dict]:
    """Check a call against CuPy's parameters. What has a default goes on by keyword, because
    NumPy's parameters may stand in another order; what has none may have another name there."""
    try:
        bound = _signature(text).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{where}: {error}; CuPy has {where}({text})") from None
    positional, keywords = [], {}
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional.extend(value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            keywords.update(value)
        elif parameter.default is parameter.empty:
            positional.append(value)
        else:
            keywords[name] = value
    return positional, keywords


def _check(name: str, where: str, array, keywords: dict) -> None:
    """Refuse the calls that CuPy takes, but with another meaning than NumPy's, or with none."""
    dtype, have = keywords.get("dtype"), getattr(array, "dtype", None)
    if name in NO_FLOAT16 and have == np.float16 and dtype is None:
        raise TypeError(f"{where} of float16 has no one meaning: name the accumulator, dtype=...")
    if name in ("var", "std") and have.kind in "fc" and dtype is not None and dtype != have:
        raise TypeError(f"{where}(dtype=): CuPy rounds the mean to {have} first; use x.astype")
    if name in ("min", "amin") and keywords.get("out") is not None:
        raise NotImplementedError(f"{where}(out=): CuPy 14.2 passes out on as the dtype")
    if name in ("sort", "argsort"):
        if keywords.get("kind") not in (None, "stable"):
            raise ValueError(f"{where}: kind can only be None or 'stable' in CuPy")
        keywords["kind"] = "stable"  # CuPy: always
    if name == "astype" and (keywords.get("casting") or keywords.get("subok")):
        raise TypeError(f"{where}: CuPy supports neither casting= nor subok=")


# ---- the array -----------------------------------------------------------------------------------


class _Flags(types.SimpleNamespace):
    """CuPy: no array is read-only, so there is no `writeable`."""

    def __getitem__(self, name: str) -> bool:
        return vars(self)[name.lower()]


class ndarray:
    """A "GPU" array. It has no __array_ufunc__, unlike CuPy's: NumPy's ufuncs would find a way."""

    __module__ = "cupy"
    __slots__ = ("__weakref__", "_array")
    __array_priority__ = 100  # NumPy's operators then ask ours, which refuse (or take a scalar)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C") -> None:
        if memptr is not None or strides is not None:
            raise NotImplementedError("cupy.ndarray(memptr=, strides=) is not in the stand-in")
        self._array = _spoil(np.empty(shape, dtype, order))

    @classmethod
    def _of(cls, array: np.ndarray) -> ndarray:
        if array.dtype.char not in DTYPES or array.dtype.byteorder == ">":
            raise ValueError(f"Unsupported dtype {array.dtype!r} (as in CuPy)")
        self = object.__new__(cls)
        self._array = array
        return self

    def __getattr__(self, name: str):
        if any(name in group for group in NAMES["ndarray"].values()):
            raise NotImplementedError(f"cupy.ndarray.{name} exists, but not in the stand-in")
        also = ", though numpy.ndarray has" if hasattr(np.ndarray, name) else ""
        raise AttributeError(f"cupy.ndarray has no attribute {name!r}{also}")

    @property
    def flags(self) -> _Flags:
        names = ("c_contiguous", "f_contiguous", "owndata", "fnc", "forc")
        return _Flags(**{name: getattr(self._array.flags, name) for name in names})

    # An explicit transfer is allowed; whatever NumPy tries by itself is not.
    def get(self, stream=None, order="C", out=None, blocking=True) -> np.ndarray:
        if out is None:
            return np.array(self._array, order=order)
        if not isinstance(out, np.ndarray) or (out.dtype, out.shape) != (self.dtype, self.shape):
            raise TypeError("get: out must be a numpy.ndarray of the same dtype and shape")
        out[...] = self._array
        return out

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed: a NumPy function was called on"
            " a GPU array (cupy.ndarray). Call the array's own library, or transfer with .get()"
        )

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy function {function.__name__!r} called on a GPU array")

    def __reduce_ex__(self, protocol):
        raise TypeError("a GPU array was pickled: transfer it with .get() first")

    def __format__(self, spec):
        return format(self._array, spec)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        return _wrap(self._array[_index(index)], {})

    def __setitem__(self, index, value):
        value = _unwrap(value, "an assignment", {})
        if not isinstance(value, np.ndarray) and not _is_scalar(value):
            raise TypeError(f"assign an array or a scalar, not {type(value).__name__}")
        index = _index(index)
        if np.size(value) > 1 and any(isinstance(part, (list, np.ndarray)) for part in index):
            places = np.arange(self.size).reshape(self.shape)[index]
            if np.unique(places).size < places.size:  # CuPy: any of the values may win
                raise ValueError("assignment to repeated indices is undefined in CuPy: cupy.add.at")
        with np.errstate(all="ignore"):
            self._array[index] = value


def _index(index) -> tuple:
    """The Ellipsis at the end makes NumPy return 0-d views instead of scalars, as CuPy does."""
    index = _unwrap(index, "an index", {})
    index = index if isinstance(index, tuple) else (index,)
    return index if any(part is Ellipsis for part in index) else (*index, Ellipsis)


def _spoil(array: np.ndarray) -> np.ndarray:
    """Memory that nobody asked to be zero is not: a GPU's pool hands out used blocks."""
    array.fill(np.nan if array.dtype.kind in "fc" else 77)
    return array


def _method(name: str, text: str):
    where, function = f"ndarray.{name}", getattr(np.ndarray, name)

    def method(self, *args, **kwargs):
        args, kwargs = _arguments(where, text, args, kwargs)
        _check(name, where, self, kwargs)
        if name in ("sort", "partition") and not self.flags.c_contiguous:
            raise NotImplementedError(f"{where}: CuPy sorts only C-contiguous arrays in place")
        return _compute(function, where, [self, *args], kwargs)

    return method


def _operator(function: np.ufunc, *, reflected: bool = False, inplace: bool = False):
    def operator(self, other):
        if not isinstance(other, (ndarray, np.ndarray)) and not _is_scalar(other):
            if function in (np.equal, np.not_equal):  # NotImplemented would be a silent False
                raise TypeError(f"a GPU array was compared with {type(other).__name__}")
            return NotImplemented
        pair = (other, self) if reflected else (self, other)
        kwargs = {"out": self} if inplace else {"order": "C"}
        return _compute(function, function.__name__, pair, kwargs)

    return operator


def _fill_in_ndarray() -> None:
    for name, text in NAMES["ndarray"]["methods"].items():
        if hasattr(np.ndarray, name) and name not in NOT_FORWARDED:
            setattr(ndarray, name, _method(name, text))
    for name in PROPERTIES:
        get = functools.partial(lambda self, name: _wrap(getattr(self._array, name), {}), name=name)
        setattr(ndarray, name, property(get))
    for name, function in (BINARY | COMPARISONS).items():
        setattr(ndarray, f"__{name}__", _operator(function))
    for name, function in BINARY.items():
        setattr(ndarray, f"__r{name}__", _operator(function, reflected=True))
        if name not in ("matmul", "divmod"):  # CuPy: x @= y makes a new array
            setattr(ndarray, f"__i{name}__", _operator(function, inplace=True))
    for name, function in UNARY.items():
        setattr(ndarray, f"__{name}__", lambda self, f=function: _compute(f, "", [self], {}))
    for convert in (bool, int, float, complex, repr, str, len):
        setattr(ndarray, f"__{convert.__name__}__", lambda self, f=convert: f(self._array))
    ndarray.__copy__ = ndarray.copy
    ndarray.__deepcopy__ = lambda self, memo: self.copy()


_fill_in_ndarray()


# ---- functions -----------------------------------------------------------------------------------


class ufunc:
    """CuPy's ufuncs know out=, dtype= and casting=, but no where= or order=, and no lists."""

    def __init__(self, name: str) -> None:
        self._function = getattr(np, name)  # fix, i0 and sinc are plain functions in NumPy
        self.__name__ = name
        self.nin = getattr(self._function, "nin", 1)
        self.nout = getattr(self._function, "nout", 1)

    def __call__(self, *args, **kwargs):
        name = self.__name__
        args, kwargs = _arguments(name, "*args, out=None, dtype=None, casting=None", args, kwargs)
        for value in args:
            if not isinstance(value, (ndarray, np.ndarray)) and not _is_scalar(value):
                raise TypeError(f"cupy.{name}: Unsupported type {type(value)}")
        if isinstance(self._function, np.ufunc):
            kwargs["order"] = "C"  # CuPy: new results are C-contiguous, NumPy keeps the layout
        return _compute(self._function, name, args, kwargs)

    def __getattr__(self, method: str):
        where = f"{self.__name__}.{method}"
        if method not in NAMES["ufunc"]:
            raise AttributeError(f"cupy.{self.__name__} has no attribute {method!r}")
        if where not in REDUCTIONS and method != "outer":
            raise NotImplementedError(f"cupy.{where} is not supported, neither here nor in CuPy")

        def call(*args, **kwargs):
            args, kwargs = _arguments(where, NAMES["ufunc"][method], args, kwargs)
            _check(REDUCTIONS.get(where, ""), where, args[0], kwargs)
            return _compute(getattr(self._function, method), where, args, kwargs)

        return call

    def at(self, a, indices, b=None) -> None:
        name = self.__name__
        if name not in SCATTER:
            raise NotImplementedError(f"cupy.{name}.at is not supported in CuPy")
        if not isinstance(a, ndarray) or a.dtype.char not in SCATTER[name]:
            kind = getattr(a, "dtype", type(a).__name__)
            raise TypeError(f"cupy.{name}.at cannot change {type(a).__module__} {kind}")
        _compute(self._function.at, f"{name}.at", [a, indices, b], {})


def _function(name: str, text: str, host):
    function, where = getattr(host, name), f"cupy.{name}"
    first = next(iter(_signature(text).parameters), "")

    def call(*args, **kwargs):
        args, kwargs = _arguments(where, text, args, kwargs)
        arrays = args[0] if first == "tup" else args[:1] if first == "a" else []
        for value in arrays:  # CuPy: no lists, no scalars
            if not isinstance(value, (ndarray, np.ndarray)) and name not in TAKE_ANYTHING:
                raise TypeError(f"{where} takes a cupy.ndarray, not {type(value).__name__}")
        _check(name, where, args[0] if args else None, kwargs)
        if name == "where":  # NumPy's x and y have no keywords
            args, kwargs = [*args, *kwargs.values()], {}
        result = _compute(function, name, args, kwargs)
        if name in BOOLS_IN_NUMPY:
            return result if isinstance(result, ndarray) else ndarray._of(np.asarray(result))
        if name in ("empty", "empty_like"):
            _spoil(result._array)
        return result

    return call


def _transfer(name: str, text: str):
    """cupy.asarray and its family: the functions that take a NumPy array, and always copy it."""
    order = {"ascontiguousarray": {"order": "C"}, "asfortranarray": {"order": "F"}}.get(name, {})

    def call(*args, **kwargs):
        (value,), kwargs = _arguments(f"cupy.{name}", text, args, kwargs)
        kwargs = {key: kwargs[key] for key in kwargs if key != "blocking"} | order
        if not isinstance(value, np.ndarray):
            result = _compute(np.array if name == "array" else np.asarray, name, [value], kwargs)
        else:
            if kwargs.get("order", "K") in ("K", "A", None):  # CuPy: C unless it is Fortran's
                kwargs["order"] = "F" if value.flags.fnc else "C"
            result = ndarray._of(np.array(value, **(kwargs | {"copy": True})))
        return result.reshape(1) if order and not result.ndim else result

    return call


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True) -> np.ndarray:
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking)
    if out is None:
        return np.asarray(a, order=order)
    out[...] = a
    return out


# ---- modules -------------------------------------------------------------------------------------


class _Module(types.ModuleType):
    """A module that makes each function when it is first asked for, if CuPy and NumPy have it."""

    def __init__(self, name: str, host=None) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self._host, self._names = host, NAMES.get(name)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        where, names, host = f"{self.__name__}.{name}", self._names, self._host
        kinds = [kind for kind in names or () if name in names[kind]]
        if where == "cupy.random":
            raise NotImplementedError("cupy.random: draw from a numpy.random.Generator, transfer")
        if not kinds and names is not None:
            also = ", though NumPy has" if hasattr(host, name) else ""
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}{also}")
        if not hasattr(host, name) or name in NOT_FORWARDED or kinds == ["others"]:
            raise NotImplementedError(f"{where} is not in the stand-in")
        if kinds == ["functions"]:
            text = names["functions"][name]
            value = _transfer(name, text) if name in TRANSFERS else _function(name, text, host)
        else:
            value = ufunc(name) if kinds == ["ufuncs"] else getattr(host, name)
        setattr(self, name, value)
        return value


def create() -> dict[str, types.ModuleType]:
    """A fresh stand-in: its modules by their names in sys.modules. It claims to have one GPU."""
    cupy, lib = _Module("cupy", np), _Module("cupy.lib")
    lib.stride_tricks = _Module("cupy.lib.stride_tricks", np.lib.stride_tricks)
    cuda, runtime = _Module("cupy.cuda"), _Module("cupy.cuda.runtime")
    runtime.getDeviceCount = lambda: 1
    cuda.runtime, cuda.is_available = runtime, lambda: True
    cuda.nvrtc = types.SimpleNamespace(getVersion=lambda: (13, 0))
    cupy.ndarray, cupy.ufunc, cupy.asnumpy = ndarray, ufunc, asnumpy
    cupy.is_available = lambda: True
    cupy.get_array_module = lambda *args: cupy if any(isinstance(a, ndarray) for a in args) else np
    cupy.cuda, cupy.lib, cupy.linalg = cuda, lib, _Module("cupy.linalg", np.linalg)
    cupy.__version__, cupy.__path__ = NAMES["version"], []
    modules = (cupy, cuda, runtime, cupy.linalg, lib, lib.stride_tricks)
    return {module.__name__: module for module in modules}


@contextlib.contextmanager
def installed():
    """The stand-in is sys.modules["cupy"] inside the block; what was there before comes back."""

    def take_out() -> dict:
        found = [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx")]
        return {name: sys.modules.pop(name) for name in found}

    before = take_out()
    modules = create()
    sys.modules.update(modules)
    sys.modules["cupyx"] = None  # type: ignore[assignment]  # "import cupyx" fails plainly
    try:
        yield modules["cupy"]
    finally:
        take_out()
        sys.modules.update(before)


# ---- the record of CuPy's names ------------------------------------------------------------------


class _Empty:
    __slots__ = ()


# The names that Python gives to every class, or (from 3.12 on) to every C type with a buffer: which
# they are depends on its version and says nothing about CuPy.
PYTHONS = {*dir(_Empty), "__buffer__", "__release_buffer__"}


def _parameters(function) -> str:
    """`a, axis=None`, as Python reads it again. Cython's functions tell it in their docstring."""
    try:
        text = str(inspect.signature(function))
    except ValueError:  # "_ndarray_base.sort(self, int axis=-1, kind=None)"
        text = re.sub(r"(\(|, )\w+ (?=\w)", r"\1", function.__doc__.split("\n")[0])
    text = text.split(" -> ")[0]
    text = text[text.index("(") + 1 : text.rindex(")")]
    for pattern, new in (
        (r"^self(, )?", ""), (r": '[^']*'", ""), (" = ", "="), ("<[^>]*>", "..."), ("^/$", ""),
    ):  # fmt: skip
        text = re.sub(pattern, new, text)  # a lone "/" is how Python 3.13 tells of no parameters
    return text


def record(cupy) -> dict:
    """What the stand-in needs to know of real CuPy."""

    def kinds_of(module, host) -> dict:
        kinds: dict = {"functions": {}, "ufuncs": [], "same as NumPy": [], "others": []}
        for name in dir(module):
            value = getattr(module, name)
            if name.startswith("_") or name in ("annotations", "np"):
                continue
            if value is getattr(host, name, kinds):
                kinds["same as NumPy"].append(name)
            elif isinstance(value, cupy.ufunc):
                kinds["ufuncs"].append(name)
            elif inspect.isroutine(value) or type(value).__name__ == "_GUFunc":
                kinds["functions"][name] = _parameters(value)
            else:
                kinds["others"].append(name)
        return kinds

    array = [name for name in dir(cupy.ndarray) if name not in PYTHONS]
    public = {name: getattr(cupy.ndarray, name) for name in array if name[0] != "_"}
    methods = {name: _parameters(value) for name, value in public.items() if callable(value)}
    return {
        "version": cupy.__version__,
        "ndarray": {
            "methods": methods,
            "attributes": [name for name in public if name not in methods],
            "special": [name for name in array if name.startswith("__")],
        },
        "ufunc": {
            name: _parameters(getattr(cupy.ufunc, name))
            for name in ("accumulate", "at", "outer", "reduce", "reduceat")
        },
        "cupy": kinds_of(cupy, np),
        "cupy.linalg": kinds_of(cupy.linalg, np.linalg),
        "cupy.lib.stride_tricks": kinds_of(cupy.lib.stride_tricks, np.lib.stride_tricks),
    }


if __name__ == "__main__":
    import cupy

    FILE.write_text(json.dumps(record(cupy), indent=1) + "\n")
