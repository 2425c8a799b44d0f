"""Whose array is this: NumPy's or CuPy's?

The array library is found from the arguments. CuPy is never imported here because it might be
there: a CuPy array can only exist if somebody has imported CuPy already, so it is enough to look
into ``sys.modules``. The one exception is `to_device(x, "gpu")`, where a person asked for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray or a cupy.ndarray; the two share no base class
FLOATS = ("float16", "float32", "float64")


def is_array(x: object) -> bool:
    """True for an array that is computed with: see `not_taken`."""
    return (type(x) is np.ndarray and x.dtype.isnative) or not not_taken("x", x)


def not_taken(name: str, x: Any) -> str:
    """What x, the argument `name`, is and what to pass instead, in words; "" if it is an array.

    The arrays that are computed with are plain NumPy ones (read-only and memory-mapped ones too) in
    the machine's byte order and, if CuPy is loaded, CuPy's. A subclass may mean something else by
    the same operations: a masked array's mask would be lost, a matrix stays 2-D.
    """
    kind, module = type(x).__name__, type(x).__module__.partition(".")[0]
    name = name.rpartition(" ")[2]  # "x" of "Linear: x"
    if type(x) in (np.ndarray, np.memmap):
        swapped = f"{x.dtype.name} in another byte order ({x.dtype.str})"
        return "" if x.dtype.isnative else f'{swapped}: pass {name}.astype("{x.dtype.name}")'
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return ""
    if isinstance(x, np.ma.MaskedArray):
        return f"a {kind}, whose mask would be ignored: pass {name}.filled(value) or unmasked rows"
    if module == "torch":
        return f"a torch {kind}: pass {name}.detach().cpu().numpy()"
    if module in ("pandas", "polars"):
        return f"a {module} {kind}: pass {name}.to_numpy()"
    if isinstance(getattr(x, "data", None), np.ndarray):
        return f"{kind}: pass {name}.data"
    if isinstance(x, (list, tuple)) or hasattr(x, "__array__"):
        return f"{kind}: pass numpy.asarray({name})"
    return kind


def check_array(name: str, x: Any) -> None:
    """TypeError, naming the argument and what to pass instead, unless `is_array`; any dtype."""
    if not is_array(x):
        raise TypeError(f"{name} must be a NumPy or CuPy array, got {not_taken(name, x)}")


def namespace(**named: Array) -> Any:
    """The library (module `numpy` or `cupy`) all the named arrays belong to.

    The first is required, the others may be None. Raises TypeError, naming the argument, for what
    is not an array (see `not_taken`), a mixture of libraries, or a dtype that is not float16,
    float32 or float64.
    """
    first, library = "", None
    for name, x in named.items():
        if x is None and library is not None:
            continue
        check_array(name, x)
        if x.dtype.char not in "efd":  # FLOATS; the names take ten times as long
            cast = f': pass {name.rpartition(" ")[2]}.astype("float32")'
            got = f"got {x.dtype}{cast if x.dtype.kind in 'biuf' else ''}"
            raise TypeError(f"{name} must have dtype {', '.join(FLOATS)}, {got}")
        its = np if isinstance(x, np.ndarray) else sys.modules["cupy"]
        if library is None:
            first, library = name, its
        elif its is not library:
            raise TypeError(
                f"{first} is a {_called(library)} array but {name} is a {_called(its)} array: "
                "move one of them first, for instance with lpnorm.arrays.to_device"
            )
    return library


def library_of(x: Array) -> Any:
    """The module `numpy` or `cupy` whose array x (of any dtype) is; TypeError for anything else."""
    check_array("x", x)
    return np if isinstance(x, np.ndarray) else sys.modules["cupy"]


def _called(library: Any) -> str:
    return "NumPy" if library is np else "CuPy"


def to_device(x: Any, device: str) -> Array:
    """x on "cpu" (a NumPy array) or "gpu" (a CuPy array), copied only where it is not there yet.

    Raises ValueError for another device, RuntimeError with one line saying what is missing when
    there is no usable GPU.
    """
    if device == "cpu":
        return x if isinstance(x, np.ndarray) else library_of(x).asnumpy(x)
    return gpu_library().asarray(x) if check_device(device) == "gpu" else x


def check_device(device: str) -> str:
    """device itself; ValueError if it is not "cpu" or "gpu", RuntimeError for a GPU not there."""
    if device not in ("cpu", "gpu"):
        raise ValueError(f'device must be "cpu" or "gpu", got {device!r}')
    if device == "gpu":
        gpu_library()
    return device


def gpu_library() -> Any:
    """The module `cupy`, once package, driver, device and run-time compiler have answered.

    Raises RuntimeError with one line naming the first of the four that is missing.
    """
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        raise RuntimeError(
            "no GPU: the package CuPy is not installed "
            "(pip install 'lpnorm[cuda13]', or cuda12 for an older driver)"
        )
    try:
        cupy = importlib.import_module("cupy")
    except Exception as error:  # a broken or half-installed package fails in many ways
        raise RuntimeError(f"no GPU: the package CuPy does not import ({_line(error)})") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        what = "device" if "NoDevice" in str(error) else "driver"
        raise RuntimeError(f"no GPU: the CUDA {what} is missing ({_line(error)})") from error
    if count == 0:
        raise RuntimeError("no GPU: the CUDA driver works but sees no device")
    try:
        if not cupy.cuda.nvrtc.getVersion():
            raise RuntimeError("it gives no version")
    except Exception as error:
        raise RuntimeError(
            "no GPU: NVRTC, CuPy's run-time compiler, is missing "
            f"(install CuPy with its [ctk] extra: {_line(error)})"
        ) from error
    return cupy


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
