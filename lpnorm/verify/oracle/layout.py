"""Arrays as lists of groups, and back."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Parameter = ArrayLike | None  # gamma or beta: None where there is no affine part


def float64(x: ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def each(f: Callable[..., float], *arrays: Array) -> Array:
    """f, element by element."""
    columns = [a.ravel().tolist() for a in arrays]
    return np.array([f(*v) for v in zip(*columns, strict=True)]).reshape(arrays[0].shape)


def split(axis: int | Sequence[int], ndim: int) -> tuple[list[int], list[int]]:
    """The axes named, and the others; both counted from 0 and ascending."""
    named = {range(ndim)[a] for a in ([axis] if isinstance(axis, int) else axis)}
    return sorted(named), [a for a in range(ndim) if a not in named]


def in_groups(x: Array, axes: list[int]) -> list[list[float]]:
    """The lists of numbers that are reduced together when x is reduced over these axes."""
    n = math.prod(x.shape[a] for a in axes)
    rows: list[list[float]] = x.transpose(split(axes, x.ndim)[1] + axes).reshape(-1, n).tolist()
    return rows


def ungroup(groups: list[list[float]], axes: list[int], shape: tuple[int, ...]) -> Array:
    """The inverse of `groups`."""
    order = split(axes, len(shape))[1] + axes
    return np.array(groups).reshape([shape[a] for a in order]).transpose(np.argsort(order))


def spread(values: Parameter, default: float, axes: list[int], shape: tuple[int, ...]) -> Array:
    """Values with x's shape on these axes, repeated to all of x's shape."""
    if values is None:
        return np.full(shape, float(default))
    if np.shape(values) != tuple(shape[a] for a in axes):
        raise ValueError(f"shape {np.shape(values)} does not fit axes {axes} of {shape}")
    wide = [size if a in axes else 1 for a, size in enumerate(shape)]
    return np.broadcast_to(float64(values).reshape(wide), shape)


def sum_onto(terms: Array, axes: list[int]) -> Array:
    """The sum over all other axes: the gradient of values that were spread from these axes."""
    sums = [math.fsum(group) for group in in_groups(terms, split(axes, terms.ndim)[1])]
    return np.array(sums).reshape([terms.shape[a] for a in axes])


# ---- batch norm and layer norm ----------------------------------------------------------------
