"""Layers without parameters that act on each value, or only on the shape."""

from __future__ import annotations

from typing import Any

from lpnorm.arrays import Array
from lpnorm.nn.base import Backward, Layer


class ReLU(Layer):
    """y = max(x, 0), any shape; dx = dy where x > 0, else 0 (the subgradient 0 at 0). NaN stays."""

    functions = ("relu",)

    def __init__(self, impl: Any = None) -> None:
        self.impl = self.check_impl(impl)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        return self.impl.relu(x)


class Flatten(Layer):
    """x (N, ...) -> (N, everything else); going back, the shape is put back."""

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        shape = x.shape
        if x.ndim == 0:
            raise ValueError("Flatten: x must have at least 1 axis, got shape ()")

        def backward(dy: Array) -> Array:
            return dy.reshape(shape)

        return x.reshape(shape[0], -1), backward
