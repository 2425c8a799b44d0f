"""Pooling: the maximum or the average of each window, or the average of each whole channel."""

from __future__ import annotations

import math
from typing import Any

from lpnorm.arrays import Array, accumulator, library_of
from lpnorm.nn.base import Backward, Layer
from lpnorm.nn.linear import Windows


class MaxPool2d(Layer):
    """The maximum of each window of x (N, C, H, W); stride defaults to the kernel.

    Windows may overlap; padding counts as minus infinity and may be at most half the kernel, so
    that no window is all padding (ValueError). The gradient goes to the maximum; tied values in
    a window, often the zeros a ReLU made, give it to the first of them in row order, a
    subgradient and what most frameworks do. NaN counts as the maximum.
    """

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0) -> None:
        self.windows = _pool_windows(type(self).__name__, kernel, stride, padding)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        seen = self.windows.view(x, -math.inf)
        flat = seen.reshape(-1, *seen.shape[2:])  # (taps, N, C, H', W')
        winner = flat.argmax(axis=0)

        def backward(dy: Array) -> Array:
            xp = library_of(x)
            places = xp.arange(flat.shape[0]).reshape(-1, 1, 1, 1, 1)
            taps = xp.where(winner == places, dy, xp.zeros_like(dy))
            return self.windows.scatter(taps.reshape(seen.shape), x)

        return flat.max(axis=0), backward


class AvgPool2d(Layer):
    """The average of each window of x (N, C, H, W); stride defaults to the kernel.

    Windows may overlap. Padding counts as zeros, and always in the denominator: a window's sum is
    divided by the kernel's area. Padding may be at most half the kernel (ValueError). Backward:
    every value of a window receives dy / area.
    """

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0) -> None:
        self.windows = _pool_windows(type(self).__name__, kernel, stride, padding)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        seen = self.windows.view(x)
        area = seen.shape[0] * seen.shape[1]
        y = accumulator(x.dtype).average(seen.reshape(area, -1).T).reshape(seen.shape[2:])

        def backward(dy: Array) -> Array:
            share = _share(dy, area)
            return self.windows.scatter(library_of(x).broadcast_to(share, seen.shape), x)

        return y.astype(x.dtype, copy=False), backward


class GlobalAvgPool2d(Layer):
    """The mean of each channel: x (N, C, H, W) -> (N, C); dx = dy / (H W) everywhere."""

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        if x.ndim != 4:
            raise ValueError(f"GlobalAvgPool2d: x must have shape (N, C, H, W), got {x.shape}")
        n, c, height, width = x.shape
        y = accumulator(x.dtype).average(x.reshape(n * c, -1)).reshape(n, c)

        def backward(dy: Array) -> Array:
            share = _share(dy, height * width)[..., None, None]
            return library_of(x).broadcast_to(share, (n, c, height, width)).copy()

        return y.astype(x.dtype, copy=False), backward


def _share(dy: Array, area: int) -> Array:
    """dy / area, rounded once (float16 cannot hold every area)."""
    return (dy.astype(accumulator(dy.dtype).dtype) / area).astype(dy.dtype)


def _pool_windows(owner: str, kernel: Any, stride: Any, padding: Any) -> Windows:
    windows = Windows(owner, kernel, kernel if stride is None else stride, padding)
    if any(2 * pad > size for pad, size in zip(windows.padding, windows.kernel, strict=True)):
        raise ValueError(f"padding must be at most half the kernel {windows.kernel}, got {padding}")
    return windows
