"""In which order, and in which dtype, is it summed: one meaning on every library and layout.

Everything here works on *rows*: a 2-D array with one row per group that is normalized together (a
channel of batch norm, a sample of layer norm, an output channel of weight norm) and the n values of
that group along the last axis.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm.arrays.checks import check_dtype
from lpnorm.arrays.libraries import Array, library_of

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
        return _usual(dtype)
    if not isinstance(accumulate, Accumulate):
        accumulate = Accumulate(check_dtype("accumulate", accumulate))
    if accumulate.dtype.itemsize < dtype.itemsize:
        raise ValueError(
            f"accumulate must be at least as wide as {dtype} arrays, got {accumulate.dtype}"
        )
    return accumulate


@functools.lru_cache
def _usual(dtype: np.dtype) -> Accumulate:
    return Accumulate("float32" if dtype == np.float16 else dtype)


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
