"""Checks that every room shares: each names the argument, what came and what is allowed."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from lpnorm.arrays.libraries import FLOATS, Array, is_array, namespace, to_device


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """value as a float; TypeError unless a real number, ValueError unless low <= value <= high.

    Infinity is refused.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {short(value)}")
    try:
        number = float(value)
    except OverflowError:  # 10**400
        number = math.inf
    if not low <= number <= high or math.isinf(number):
        span = f">= {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be finite and {span}, got {short(value)}")
    return number


def check_count(name: str, value: Any, low: int = 1) -> int:
    """value as an int; TypeError unless an integer, ValueError if less than low."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {short(value)}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return int(value)


def check_dtype(name: str, value: Any) -> np.dtype:
    """value as one of the three float dtypes; TypeError naming the argument otherwise."""
    try:
        dtype = np.dtype(object if value is None else value)
    except Exception:  # "," is a SyntaxError, for instance
        dtype = np.dtype(object)
    if dtype.char not in "efd" or not dtype.isnative:
        raise TypeError(f"{name} must be one of {', '.join(FLOATS)}, got {short(value)}")
    return dtype


def check_shape(name: str, x: Array, shape: tuple[int, ...], hint: str = "") -> None:
    """ValueError, naming the argument, unless x has exactly this shape; None passes."""
    if x is not None and tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(x.shape)}{hint}")


def check_gradient(name: str, dy: Array, y: Array, shape: tuple[int, ...]) -> None:
    """TypeError or ValueError, naming the argument, unless dy has y's library, dtype and shape."""
    namespace(**{name: dy, "the forward's array": y})
    check_shape(name, dy, shape)
    if dy.dtype != y.dtype:
        wanted = f"{y.dtype}, as in the forward, got {dy.dtype}"
        cast = f'{name.rpartition(" ")[2]}.astype("{y.dtype}")'
        raise TypeError(f"{name} must have dtype {wanted}: pass {cast}")


def check_cache(cache: Any, kind: type, call: str) -> None:
    """TypeError unless cache is of this kind; call: the forward, whose second result is meant."""
    if not isinstance(cache, kind):
        got = type(cache).__name__
        raise TypeError(f"cache must be the second result of {call}, after dy, got {got}")


def check_function(name: str, function: Any) -> None:
    """TypeError, naming the argument, unless it is None or can be called."""
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be None or a function, got {short(function)}")


def check_positive(name: str, values: Any, channels: int) -> None:
    """TypeError or ValueError unless finite numbers > 0: one, or one for each channel."""
    try:
        found = np.asarray(to_device(values, "cpu") if is_array(values) else values, "float64")
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers, got {short(values)}") from None
    if found.shape not in ((), (1,), (channels,)):
        raise ValueError(f"{name} must have shape ({channels},), got {found.shape}")
    bad = found[~((found > 0) & (found < math.inf))]
    if bad.size:
        raise ValueError(f"{name} must be finite and above 0, got {bad.flat[0]}")


def check_rng(name: str, rng: Any) -> np.random.Generator:
    """A Generator from a seed (what numpy takes for one, but None), or the Generator given.

    TypeError naming the argument otherwise.
    """
    seed: Any = "none" if rng is None or isinstance(rng, bool) else rng
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        what = f"a seed, an integer >= 0, or a numpy Generator, got {short(rng)}"
        raise TypeError(f"{name} must be {what}") from None


def short(value: Any) -> str:
    """repr of a value, cut to what fits a line of an error."""
    try:
        text = " ".join(repr(value)[:400].split())
    except ValueError:  # an int of more digits than Python prints
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:50]}..."


def axes_given(axis: Any) -> tuple[int, ...]:
    """axis as a tuple of ints, whatever array it is for; TypeError for anything else."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    if any(isinstance(a, bool) or not isinstance(a, numbers.Integral) for a in axes):
        raise TypeError(f"axis must be an int or a tuple of ints, got {short(axis)}")
    return tuple(int(a) for a in axes)


def one_axis(axis: Any) -> int:
    """axis as an int, the channel axis; TypeError for anything else."""
    if isinstance(axis, tuple):
        raise TypeError(f"axis must be one int, the channel axis, got {axis!r}")
    return axes_given(axis)[0]


def check_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """axis (an int or a tuple of ints, negative from the end) as a sorted tuple in 0..ndim-1.

    Raises TypeError for what is no integer, ValueError for one out of range or named twice.
    """
    axes = axes_given(axis)
    if not axes or any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"axis must be from {-ndim} to {ndim - 1} for {ndim} axes, got {axis!r}")
    found = tuple(sorted(int(a) % ndim for a in axes))
    if len(set(found)) != len(found):
        raise ValueError(f"axis names an axis twice: {axis!r}")
    return found


def check_channels(axis: int, *, x: Array, **arrays: Array) -> tuple[int, ...]:
    """The channel axis of a batch x, at least 2-D, of one library with `arrays` (None passes)."""
    namespace(x=x, **arrays)
    check_batch("x", x)
    return check_axes(one_axis(axis), x.ndim)


def check_batch(name: str, x: Array) -> None:
    """ValueError unless x has at least 2 axes."""
    if x.ndim < 2:
        raise ValueError(f"{name} must have at least 2 axes, got shape {tuple(x.shape)}")


def other_axis(shape: tuple[int, ...], channels: int, axis: int) -> str:
    """A hint, if x of this shape has its `channels` last or second instead of on `axis`."""
    for other, words in ((-1, "last"), (1, "on axis 1")):
        if len(shape) > 2 and axis % len(shape) != other % len(shape) and shape[other] == channels:
            return f": if the channels are {words}, pass axis={other}"
    return ""


def check_affine(
    x: Array, gamma: Array | None, beta: Array | None, affine: tuple[int, ...], wide: Any
) -> None:
    """gamma and beta: None, or x's shape on the axes `affine`, in x's dtype or the dtype `wide`."""
    if x.size == 0:
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
    shape = tuple(x.shape[a] for a in affine)
    for name, parameter in (("gamma", gamma), ("beta", beta)):
        hint = ""
        if len(affine) == 1 and parameter is not None and parameter.ndim == 1:
            hint = other_axis(x.shape, parameter.shape[0], affine[0])
        check_shape(name, parameter, shape, hint)
        if parameter is not None and parameter.dtype not in (x.dtype, wide):
            allowed = " or ".join(sorted({x.dtype.name, wide.name}))
            got = f"got {parameter.dtype} with {x.dtype} x: convert one of them with .astype"
            raise TypeError(f"{name} must have dtype {allowed}, {got}")
