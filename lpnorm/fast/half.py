"""`Half`: a float16 array kept as float32 numbers, with float16's results bit for bit.

NumPy computes a float16 operation by converting each operand to float32, computing there, and
rounding the result to float16: two or three conversions an element, one element at a time. A `Half`
is an ndarray whose *storage* is float32 and whose values all lie on the float16 grid (they are
numbers that float16 has). Its operators compute in float32 and round the result to the grid, so the
conversions fall away and what remains runs several elements at a time:

    Half op Half -> Half, rounded once     Half op float32 -> `Single`: float32 numbers, until
    Half op bool or a number -> Half           ``.astype("float16")`` rounds them to a Half

which is NumPy's promotion. Addition, subtraction, multiplication, division, square and square root
are rounded; absolute value, negation, sign, maximum, minimum and comparisons are exact. Every other
ufunc (a power, a scan) is NumPy's own, on true float16 arrays. ``x.dtype`` says float16, so code
written for float16 arrays (the reference's) runs on a Half unchanged. Results of at most `SMALL`
elements are true float16 arrays, which are faster there and make no other difference.

The grid: in [2^e, 2^(e+1)) neighbours are 2^(e-10) apart, below 2^-14 (subnormals) 2^-24. What
rounds to 2^16 is infinite: that is 65,520 and up, for the largest number is 65,504.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SMALL = 2**11
PIECE = 2**16  # elements of float32 scratch: 256 KiB, inside a core's second-level cache

_EXPONENT = np.int32(0xFF << 23)  # the bits that say which power of two a float32 is above
_2_TO_10 = np.int32(10 << 23)  # subtracted from those bits, it divides by 2^10
_2_TO_15 = np.float32(2.0**15).view(np.int32)
_NORMAL = np.full(PIECE, 2.0**-14, np.float32).view(np.int32)  # (np.maximum is slow with a scalar)
_BIAS = np.float32(2.0**112)  # float32 counts exponents from -127, float16 from -15

_ROUNDED = {np.add, np.subtract, np.multiply, np.divide, np.square, np.sqrt}
_EXACT = {np.absolute, np.negative, np.sign, np.maximum, np.minimum}
_COMPARED = {np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal}


# --- the arrays -------------------------------------------------------------------------------


class Kept(np.ndarray):
    """An array that took part in float16 arithmetic: a `Half`, a `Single` or a `Mask`."""

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any
    ) -> Any:
        if method == "reduce" and ufunc in (np.maximum, np.minimum):
            result, half = ufunc.reduce(plain(self), **options), isinstance(self, Half)
        elif method == "__call__" and not options and (kinds := _kinds(ufunc, inputs)):
            half = kinds != "single" and ufunc not in _COMPARED
            operands = (_operand(x, kinds == "half") for x in inputs)
            result = np.asarray(ufunc(*operands, order="C"))
            if half and ufunc in _ROUNDED:
                rounded(result, out=result)
        else:  # NumPy's own
            result = getattr(ufunc, method)(*map(narrow, inputs), **options)
            half = result.dtype == np.float16
        if out is not None:
            np.copyto(plain(out[0]), result, casting="unsafe")
            return out[0]
        if half:
            if result.size <= SMALL:
                return result.astype(np.float16, copy=False)
            return (result if result.dtype == np.float32 else plain(load(result))).view(Half)
        return result.view({"f": Single, "?": Mask}.get(result.dtype.char, np.ndarray))


class Mask(Kept):
    """The outcome of a comparison; times a float16 number it is a Half again."""


class Single(Kept):
    """float32 numbers that were computed with a Half."""

    def astype(self, dtype: Any, copy: bool = True) -> Any:  # type: ignore[override]
        """As `numpy.ndarray.astype`, but float16 is a Half."""
        if np.dtype(dtype) == np.float16:
            return rounded(plain(self)).view(Half)
        return plain(self).astype(dtype, copy=copy)


class Half(Kept):
    """float16 numbers in float32 storage (see the module)."""

    dtype = property(lambda self: np.dtype(np.float16))

    def astype(self, dtype: Any, copy: bool = True) -> Any:  # type: ignore[override]
        """As `numpy.ndarray.astype`: float16 is a Half, anything else a true array."""
        if np.dtype(dtype) == np.float16:
            return self.copy() if copy else self
        return plain(self).astype(dtype, copy=copy)

    def copy(self, order: Any = "C") -> Any:
        """As `numpy.ndarray.copy`, and a place where a Half that has become small is let go."""
        return narrow(self) if self.size <= SMALL else super().copy(order)


def plain(x: Any) -> Any:
    """The storage of a Half, Single or Mask: float32, float32, bool; anything else as it is."""
    return x.view(np.ndarray) if isinstance(x, Kept) else x


def narrow(x: Any) -> Any:
    """x as NumPy would have it: a Half as a float16 array, a Single as a float32 array."""
    return store(x, np.empty(x.shape, np.float16)) if isinstance(x, Half) else plain(x)


def _kinds(ufunc: np.ufunc, inputs: tuple[Any, ...]) -> str:
    """The dtype NumPy computes in, "half" or "single"; "" for what is left to NumPy itself."""
    found = ""
    if ufunc in _ROUNDED or ufunc in _EXACT or ufunc in _COMPARED:
        for x in inputs:
            if isinstance(x, (np.ndarray, np.generic)):
                if x.dtype == np.float32:
                    found = "single"
                elif x.dtype == np.float16:
                    found = found or "half"
                elif x.dtype != np.bool:
                    return ""
            elif not isinstance(x, (float, int)):
                return ""
    return found


def _operand(x: Any, half: bool) -> Any:
    """x as float32 numbers (bool stays); a Python number first takes the dtype of the others."""
    if isinstance(x, (float, int)) and not isinstance(x, np.generic):
        return np.float32(np.float16(x)) if half else x
    x = plain(x)
    return x.astype(np.float32) if x.dtype == np.float16 else x


# --- the grid ---------------------------------------------------------------------------------


def rounded(v: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The float32 numbers v rounded to the float16 grid, ties to even; out, C-contiguous, may be v.

    Dividing by the grid's spacing is exact (a power of two), and `rint` does the rest: it rounds to
    even and keeps infinities, NaN and the sign of zero. Then 2^16 has to become infinite: times
    2^112 it is one past the largest float32, and nothing smaller is. Piece by piece, in cache.
    """
    v = np.ascontiguousarray(v)
    out = np.empty_like(v) if out is None else out
    v_flat, out_flat = v.reshape(-1), out.reshape(-1)
    scratch = np.empty(min(v.size, PIECE), np.int32)
    for start in range(0, v.size, PIECE):
        piece, result = v_flat[start : start + PIECE], out_flat[start : start + PIECE]
        spacing = np.bitwise_and(piece.view(np.int32), _EXPONENT, out=scratch[: piece.size])
        largest = spacing.max()
        np.maximum(spacing, _NORMAL[: piece.size], out=spacing)
        spacing -= _2_TO_10
        np.divide(piece, spacing.view(np.float32), out=result)
        np.rint(result, out=result)
        result *= spacing.view(np.float32)
        if largest >= _2_TO_15:
            result *= _BIAS
            result /= _BIAS
    return out


def load(x: np.ndarray) -> Half:
    """A float16 array of any layout as a C-contiguous Half.

    The 15 bits of its exponent and fraction, put where a float32 has them, are the number divided
    by 2^112, subnormals included. Only infinities and NaN, which come out as 2^16 and up, are not.
    """
    v = np.empty(x.shape, np.float32)
    bits = v.view(np.int32)
    np.copyto(bits, x.view(np.int16))  # which repeats the sign in the upper half
    bits <<= 13
    bits &= np.int32(0x0FFFE000 - 2**31)
    v *= _BIAS
    if not _all_below_2_to_16(v):
        np.copyto(v, x)
    return v.view(Half)


def store(v: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Numbers on the grid, in any storage, written to a float16 array: `load` backwards."""
    v = plain(v)
    if v.dtype != np.float32 or v.size <= SMALL or not _all_below_2_to_16(v):
        np.copyto(out, v, casting="unsafe")
        return out
    bits = (v / _BIAS).view(np.int32)
    sign = bits >> 16
    sign &= np.int32(0x8000)
    bits >>= 13
    bits |= sign
    np.copyto(out.view(np.int16), bits, casting="unsafe")
    return out


def _all_below_2_to_16(v: np.ndarray) -> bool:
    """Is |v| < 2^16 throughout? (NaN is not.)"""
    return bool(v.max(initial=0) < 2**16 and v.min(initial=0) > -(2**16))
