"""What acts on each value, and the mean of each channel."""

from __future__ import annotations

from collections.abc import Callable

from lpnorm.arrays import Array, accumulator, column, from_rows, library_of, to_rows

Backward = Callable[[Array], Array]


def relu(x: Array) -> tuple[Array, Backward]:
    """y = max(x, 0), NaN stays, and its backward: dy where x > 0, else 0 (the subgradient at 0).

    Kept for the backward: one bit for each value.
    """
    xp, shape = library_of(x), x.shape
    bits = xp.packbits((x > 0).reshape(-1))

    def backward(dy: Array) -> Array:
        passed = xp.unpackbits(bits)[: dy.size].reshape(shape)
        return xp.where(passed, dy, xp.zeros_like(dy))  # not dy * passed: inf * 0 is NaN

    return xp.where(x <= 0, xp.zeros_like(x), x), backward


def add(a: Array, b: Array) -> Array:
    """a + b for arrays of one shape."""
    return a + b


def center(x: Array, beta: Array, mean: Array | None, axis: int) -> tuple[Array, Array, Callable]:
    """Mean-only batch norm: y = x - mean + beta along the channel axis.

    mean: (C,), a constant, or None for the mean of each channel of x. Returns y, the mean (C,) in
    the accumulator's dtype, and dy -> dx, dbeta: dbeta = sum dy; the mean of x is 1/n in every x,
    so dx = dy - mean(dy), and dx = dy for a constant mean.
    """
    reduced = tuple(a for a in range(x.ndim) if a != axis)
    rows, wide, learns = to_rows(x, reduced), accumulator(x.dtype), mean is None
    mean = wide.average(rows) if mean is None else column(mean)
    y = (rows - mean).astype(x.dtype, copy=False) + column(beta)

    def backward(dy: Array) -> tuple[Array, Array]:
        dy = to_rows(dy, reduced)
        dbeta = wide.total(dy)[:, 0].astype(beta.dtype, copy=False)
        dx = (dy - wide.average(dy)).astype(dy.dtype, copy=False) if learns else dy.copy()
        return from_rows(dx, x.shape, reduced), dbeta

    return from_rows(y, x.shape, reduced), mean[:, 0], backward
