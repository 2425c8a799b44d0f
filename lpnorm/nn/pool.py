"""Pooling: the maximum or the average of each window, or the average of each whole channel."""

from __future__ import annotations

from typing import Any

from lpnorm.arrays import Array
from lpnorm.nn.base import Backward, Layer
from lpnorm.plain import Windows


class _Pool(Layer):
    """A layer that looks through windows."""

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0, impl: Any = None) -> None:
        self.impl = self.check_impl(impl)
        self.windows = Windows(
            type(self).__name__, kernel, kernel if stride is None else stride, padding
        )
        sides = zip(self.windows.padding, self.windows.kernel, strict=True)
        if any(2 * pad > size for pad, size in sides):
            half = f"at most half the kernel {self.windows.kernel}"
            raise ValueError(f"padding must be {half}, got {padding}")


class MaxPool2d(_Pool):
    """The maximum of each window of x (N, C, H, W); stride defaults to the kernel.

    Windows may overlap; padding counts as minus infinity and may be at most half the kernel, so
    that no window is all padding (ValueError). The gradient goes to the maximum; tied values in
    a window, often the zeros a ReLU made, give it to the first of them in row order, a
    subgradient and what most frameworks do. NaN counts as the maximum.
    """

    functions = ("max_pool2d",)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        return self.impl.max_pool2d(x, self.windows)


class AvgPool2d(_Pool):
    """The average of each window of x (N, C, H, W); stride defaults to the kernel.

    Windows may overlap. Padding counts as zeros, and always in the denominator: a window's sum is
    divided by the kernel's area. Padding may be at most half the kernel (ValueError). Backward:
    every value of a window receives dy / area.
    """

    functions = ("avg_pool2d",)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        return self.impl.avg_pool2d(x, self.windows)


class GlobalAvgPool2d(Layer):
    """The mean of each channel: x (N, C, H, W) -> (N, C); dx = dy / (H W) everywhere."""

    functions = ("global_avg_pool2d",)

    def __init__(self, impl: Any = None) -> None:
        self.impl = self.check_impl(impl)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        if x.ndim != 4:
            raise ValueError(f"GlobalAvgPool2d: x must have shape (N, C, H, W), got {x.shape}")
        return self.impl.global_avg_pool2d(x)
