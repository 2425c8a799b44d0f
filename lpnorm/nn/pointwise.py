"""Layers without parameters that act on each value, or only on the shape."""

from __future__ import annotations

from lpnorm.arrays import Array, library_of
from lpnorm.nn.base import Backward, Layer


class ReLU(Layer):
    """y = max(x, 0), any shape; dx = dy where x > 0, else 0 (the subgradient 0 at 0). NaN stays."""

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        passed = x > 0

        def backward(dy: Array) -> Array:
            xp = library_of(x)
            return xp.where(passed, dy, xp.zeros_like(dy))  # not dy * passed: inf * 0 is NaN

        return x.clip(0, None), backward


class Flatten(Layer):
    """x (N, ...) -> (N, everything else); going back, the shape is put back."""

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        shape = x.shape
        if x.ndim == 0:
            raise ValueError("Flatten: x must have at least 1 axis, got shape ()")

        def backward(dy: Array) -> Array:
            return dy.reshape(shape)

        return x.reshape(shape[0], -1), backward
