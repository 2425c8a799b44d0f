"""The only seam between NumPy and CuPy: whose array is this, in what order and dtype is it summed.

The array library is found from the arguments. CuPy is never imported here because it might be
there: a CuPy array can only exist if somebody has imported CuPy already, so it is enough to look
into ``sys.modules``. The one exception is `to_device(x, "gpu")`, where a person asked for it.

Everything below the seam works on *rows*: a 2-D array with one row per group that is normalized
together (a channel of batch norm, a sample of layer norm, an output channel of weight norm) and
the n values of that group along the last axis. So there is one axis to reduce, always the last.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import numbers
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray or a cupy.ndarray; the two share no base class
FLOATS = ("float16", "float32", "float64")


# --- whose array is this? -------------------------------------------------------------------


def is_array(x: object) -> bool:
    """True for a NumPy array or, if CuPy is loaded, a CuPy array."""
    cupy = sys.modules.get("cupy")
    return isinstance(x, np.ndarray) or (cupy is not None and isinstance(x, cupy.ndarray))


def namespace(**named: Array) -> Any:
    """The library (module `numpy` or `cupy`) all the named arrays belong to.

    The first is required, the others may be None. Raises TypeError, naming the argument, for what
    is not an array, a mixture of libraries, or a dtype that is not float16, float32 or float64.
    """
    first, library = "", None
    for name, x in named.items():
        if x is None and library is not None:
            continue
        if not is_array(x):
            raise TypeError(f"{name} must be a NumPy or CuPy array, got {type(x).__name__}")
        if x.dtype.name not in FLOATS:
            raise TypeError(f"{name} must have dtype {', '.join(FLOATS)}, got {x.dtype}")
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
    if not is_array(x):
        raise TypeError(f"expected a NumPy or CuPy array, got {type(x).__name__}")
    return np if isinstance(x, np.ndarray) else sys.modules["cupy"]


def _called(library: Any) -> str:
    return "NumPy" if library is np else "CuPy"


def to_device(x: Any, device: str) -> Array:
    """x on "cpu" (a NumPy array) or "gpu" (a CuPy array), copied only where it is not there yet.

    Raises ValueError for another device, RuntimeError with one line saying what is missing when
    there is no usable GPU.
    """
    if device == "cpu":
        return x if isinstance(x, np.ndarray) else sys.modules["cupy"].asnumpy(x)
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
        from_nvrtc = cupy.cuda.nvrtc.getVersion()
        assert from_nvrtc
    except Exception as error:
        raise RuntimeError(
            "no GPU: NVRTC, CuPy's run-time compiler, is missing "
            f"(install CuPy with its [ctk] extra: {_line(error)})"
        ) from error
    return cupy


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- one meaning for every sum --------------------------------------------------------------

ORDERS = ("pairwise", "sequential", "pairwise_mean")


@dataclass(frozen=True)
class Accumulate:
    """In which dtype, and in which order, the n values of a row x_0 ... x_(n-1) are added up.

    Neither `numpy.sum` nor `cupy.sum` has one meaning for float16 (it depends on the memory
    layout). These orders are defined for every n by the values and their logical order alone, so
    NumPy and CuPy, every layout and every number of threads give the same bits. The values are
    converted to `dtype` (exact, for it is never narrower) and every operation rounds to it once.

    - "pairwise": a tree. Fold the row in half: with h = floor(n/2), element i + n - h is added to
      element i for every i < h, and the middle one of an odd row waits. Repeat until one is left:
      L = ceil(log2 n) levels, and an error of at most L u sum|x|, u the unit roundoff of dtype.
    - "sequential": ((x_0 + x_1) + x_2) + ..., an error of at most (n - 1) u sum|x|. In float16 it
      stalls: once the sum is 2^12 times a term, the term no longer changes it.
    - "pairwise_mean": the tree of averages, a/2 + b/2 instead of a + b and x/2 for the one that
      waits (its partner is -0). Its root is 2^-L sum x. No node is larger than the largest |x|
      (but for the rounding of subnormals), so it does not overflow where a sum would; what it
      loses is bits of values that are subnormal in dtype when halved.

    A mean is 2^-L times the sum (exact, unless subnormal), divided by n / 2^L, a number above 1/2
    and at most 1, and the quotient rounded to dtype: so n itself need not fit dtype. Should a
    quotient of a finite root round to infinity, it is the largest number instead.

    dtype: float16, float32 or float64. order: one of the three, which then serves for sums and for
    means (the sum of "pairwise_mean" is 2^L times its root), or None: "pairwise_mean" for means and
    "pairwise" for sums, which is also what a dtype alone stands for. Rows have n >= 1. Raises
    TypeError or ValueError naming dtype or order.
    """

    dtype: Any
    order: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", check_dtype("dtype of Accumulate", self.dtype))
        if self.order is not None and self.order not in ORDERS:
            allowed = ", ".join(map(repr, ORDERS))
            raise ValueError(f"order of Accumulate must be {allowed} or None, got {self.order!r}")

    def total(self, rows: Array) -> Array:
        """The sum of each row: shape (groups, n) -> (groups, 1), in `dtype`."""
        if self.order == "pairwise_mean":
            root, levels = _tree(rows.astype(self.dtype, copy=False), 0.5)
            return library_of(rows).ldexp(root, levels)
        if self.order == "sequential":
            return _one_after_another(rows.astype(self.dtype, copy=False))
        return total(rows, self.dtype)

    def average(self, rows: Array) -> Array:
        """The mean of each row: shape (groups, n) -> (groups, 1), in `dtype`."""
        n = rows.shape[-1]
        levels = (n - 1).bit_length()
        if self.order in ("pairwise", "sequential"):
            root = library_of(rows).ldexp(self.total(rows), -levels)
        else:
            root, _ = _tree(rows.astype(self.dtype, copy=False), 0.5)
        quotient = root.astype("float64") / (n / 2**levels)
        limit = float(np.finfo(self.dtype).max)
        within = quotient.clip(-limit, limit)
        return library_of(rows).where(abs(root) <= limit, within, quotient).astype(self.dtype)

    def over(self, rows: Array, count: int) -> Array:
        """The sum of each row, then divided by `count`; the mean where count is n."""
        if count == rows.shape[-1]:
            return self.average(rows)
        return (self.total(rows).astype("float64") / count).astype(self.dtype)


def accumulator(dtype: Any, accumulate: Any = None) -> Accumulate:
    """How arrays of `dtype` are summed and in which dtype their statistics are kept.

    accumulate: None (float32 for float16, else the array's own dtype), a float dtype or an
    `Accumulate`, at least as wide as the array's dtype. Raises TypeError or ValueError naming
    `accumulate` otherwise.
    """
    dtype = np.dtype(dtype)
    if accumulate is None:
        return Accumulate("float32" if dtype == np.float16 else dtype)
    if not isinstance(accumulate, Accumulate):
        accumulate = Accumulate(check_dtype("accumulate", accumulate))
    if accumulate.dtype.itemsize < dtype.itemsize:
        raise ValueError(
            f"accumulate must be at least as wide as {dtype} arrays, got {accumulate.dtype}"
        )
    return accumulate


def total(rows: Array, dtype: Any) -> Array:
    """The pairwise sum of each row in `dtype` (see `Accumulate`): (groups, n) -> (groups, 1)."""
    return _tree(rows.astype(dtype, copy=False), None)[0]


def _tree(rows: Array, weight: float | None) -> tuple[Array, int]:
    """Fold rows in half until one value is left; each is multiplied by `weight` before it is added.

    Returns the roots, (groups, 1), and the number of levels.
    """
    levels = 0
    while (n := rows.shape[-1]) > 1:
        rows = rows if weight is None else rows * weight
        half = n // 2
        front, back = rows[..., : n - half], rows[..., n - half :]
        if n % 2 == 0:
            rows = front + back
        else:  # the middle one waits
            rows = front.copy()
            rows[..., :half] += back
        levels += 1
    return rows, levels


def _one_after_another(rows: Array) -> Array:
    if isinstance(rows, np.ndarray):
        return np.add.accumulate(rows, axis=-1, dtype=rows.dtype)[..., -1:]
    result = rows[..., :1]  # a GPU's scan adds in another order
    for i in range(1, rows.shape[-1]):
        result = result + rows[..., i : i + 1]
    return result


def matmul(a: Array, b: Array) -> Array:
    """a @ b for matrices; float16 is summed in float32 and rounded once, as tensor cores do."""
    if a.dtype == np.float16:
        return (a.astype("float32") @ b.astype("float32")).astype("float16")
    return a @ b


# --- axes and rows --------------------------------------------------------------------------


def check_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """axis (an int or a tuple of ints, negative from the end) as a sorted tuple in 0..ndim-1.

    Raises TypeError for what is no integer, ValueError for one out of range or named twice.
    """
    axes = axis if isinstance(axis, tuple) else (axis,)
    if any(isinstance(a, bool) or not isinstance(a, numbers.Integral) for a in axes):
        raise TypeError(f"axis must be an int or a tuple of ints, got {axis!r}")
    if not axes or any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"axis must be from {-ndim} to {ndim - 1} for {ndim} axes, got {axis!r}")
    found = tuple(sorted(int(a) % ndim for a in axes))
    if len(set(found)) != len(found):
        raise ValueError(f"axis names an axis twice: {axis!r}")
    return found


def to_rows(x: Array, reduced: tuple[int, ...]) -> Array:
    """x with the axes `reduced` gathered into one last axis: shape (groups, n).

    The order within a row is the logical (C) order of those axes, whatever the memory layout.
    """
    kept = tuple(a for a in range(x.ndim) if a not in reduced)
    n = math.prod(x.shape[a] for a in reduced)
    return x.transpose(kept + reduced).reshape(-1, n)


def from_rows(rows: Array, shape: tuple[int, ...], reduced: tuple[int, ...]) -> Array:
    """The inverse of `to_rows`: a contiguous array of the given shape."""
    order = tuple(a for a in range(len(shape)) if a not in reduced) + reduced
    x = rows.reshape([shape[a] for a in order])
    back = [order.index(a) for a in range(len(shape))]
    return library_of(rows).ascontiguousarray(x.transpose(back))


def column(rows: Array) -> Array:
    """A vector with one entry per group as a column, to broadcast against rows: (g,) -> (g, 1)."""
    return rows.reshape(-1, 1)


# --- checks that every room shares ----------------------------------------------------------


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """value as a float; TypeError unless a real number, ValueError unless low <= value <= high.

    Infinity is refused.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    number = float(value)
    if not low <= number <= high or math.isinf(number):
        span = f">= {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be finite and {span}, got {value!r}")
    return number


def check_count(name: str, value: Any, low: int = 1) -> int:
    """value as an int; TypeError unless an integer, ValueError if less than low."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return int(value)


def check_dtype(name: str, value: Any) -> np.dtype:
    """value as one of the three float dtypes; TypeError naming the argument otherwise."""
    try:
        dtype = np.dtype(object if value is None else value)
    except (TypeError, ValueError):
        dtype = np.dtype(object)
    if dtype.name not in FLOATS:
        raise TypeError(f"{name} must be one of {', '.join(FLOATS)}, got {value}")
    return dtype


def check_shape(name: str, x: Array, shape: tuple[int, ...]) -> None:
    """ValueError, naming the argument, unless x has exactly this shape; None passes."""
    if x is not None and tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(x.shape)}")


def check_gradient(name: str, dy: Array, y: Array, shape: tuple[int, ...]) -> None:
    """TypeError or ValueError, naming the argument, unless dy has y's library, dtype and shape."""
    namespace(**{name: dy, "the forward's array": y})
    check_shape(name, dy, shape)
    if dy.dtype != y.dtype:
        raise TypeError(f"{name} must have dtype {y.dtype}, as in the forward, got {dy.dtype}")
