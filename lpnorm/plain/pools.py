"""Pools: the maximum or the average of each window, or of each whole channel."""

from __future__ import annotations

import math
from collections.abc import Callable

from lpnorm.arrays import Array, accumulator, library_of
from lpnorm.plain.windows import Windows

Backward = Callable[[Array], Array]


def max_pool2d(x: Array, windows: Windows) -> tuple[Array, Backward]:
    """The maximum of each window of x (N, C, H, W), padding being minus infinity: (N, C, H', W').

    NaN counts as the maximum. The backward gives dy to the first maximum of a window in row order;
    kept for it: that tap, a byte for each window.
    """
    shape, across = x.shape, windows.over(x.shape)
    seen = windows.view(x, -math.inf)
    flat = seen.reshape(windows.taps, *x.shape[:2], *across)
    first = flat.argmax(axis=0)
    y = library_of(x).take_along_axis(flat, first[None], axis=0)[0]
    winner = first.astype("uint8" if windows.taps <= 256 else "int32")

    def backward(dy: Array) -> Array:
        xp, taps = library_of(dy), windows.taps
        places = xp.arange(taps, dtype=winner.dtype).reshape(taps, 1, 1, 1, 1)
        sent = xp.where(winner == places, dy, xp.zeros_like(dy))
        return spread(sent.reshape(*windows.kernel, *dy.shape), windows, shape)

    return y, backward


def avg_pool2d(x: Array, windows: Windows) -> tuple[Array, Backward]:
    """The average of each window of x, padding being zeros: (N, C, H, W) -> (N, C, H', W').

    Backward: every value of a window receives dy / (kernel height * kernel width).
    """
    shape, across = x.shape, windows.over(x.shape)
    rows = windows.view(x).reshape(windows.taps, -1).T
    y = accumulator(x.dtype).average(rows).reshape(*x.shape[:2], *across)

    def backward(dy: Array) -> Array:
        share = _share(dy, windows.taps)
        sent = library_of(dy).broadcast_to(share, (*windows.kernel, *dy.shape))
        return spread(sent, windows, shape)

    return y.astype(x.dtype, copy=False), backward


def global_avg_pool2d(x: Array) -> tuple[Array, Backward]:
    """The mean of each channel: x (N, C, H, W) -> (N, C); dx = dy / (H W) everywhere."""
    n, c, height, width = x.shape
    y = accumulator(x.dtype).average(x.reshape(n * c, -1)).reshape(n, c)

    def backward(dy: Array) -> Array:
        share = _share(dy, height * width)[..., None, None]
        return library_of(dy).broadcast_to(share, (n, c, height, width)).copy()

    return y.astype(x.dtype, copy=False), backward


def _share(dy: Array, area: int) -> Array:
    """dy / area, rounded once (float16 cannot hold every area)."""
    return (dy.astype(accumulator(dy.dtype).dtype, copy=False) / area).astype(dy.dtype, copy=False)


def spread(taps: Array, windows: Windows, shape: tuple[int, ...]) -> Array:
    """dx of this shape from what each tap sends back, added up in the accumulator's dtype."""
    dx = library_of(taps).zeros(shape, accumulator(taps.dtype).dtype)
    windows.scatter(taps, dx)
    return dx.astype(taps.dtype, copy=False)
