"""Checks that every room shares: each names the argument, what came and what is allowed."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from lpnorm.arrays.libraries import FLOATS, Array, namespace


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


def check_channels(axis: int, *, x: Array, **arrays: Array) -> tuple[int, ...]:
    """The channel axis of a batch x, at least 2-D, of one library with `arrays` (None passes)."""
    namespace(x=x, **arrays)
    if x.ndim < 2:
        raise ValueError(f"x must have at least 2 axes, got shape {tuple(x.shape)}")
    if isinstance(axis, tuple):
        raise TypeError(f"axis must be one int, the channel axis, got {axis!r}")
    return check_axes(axis, x.ndim)


def check_affine(
    x: Array, gamma: Array | None, beta: Array | None, affine: tuple[int, ...], wide: Any
) -> None:
    """gamma and beta: None, or x's shape on the axes `affine`, in x's dtype or the dtype `wide`."""
    if x.size == 0:
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
    for name, parameter in (("gamma", gamma), ("beta", beta)):
        check_shape(name, parameter, tuple(x.shape[a] for a in affine))
        if parameter is not None and parameter.dtype not in (x.dtype, wide):
            allowed = " or ".join(sorted({x.dtype.name, wide.name}))
            raise TypeError(f"{name} must have dtype {allowed}, got {parameter.dtype}")
