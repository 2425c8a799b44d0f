"""Layers made of layers."""

from __future__ import annotations

from typing import Any

from lpnorm.arrays import Array
from lpnorm.nn.base import Backward, Layer, Parameter, check_layer


class Sequential(Layer):
    """The layers one after the other; `model[i]` is the i-th, its parameters are named "i.…"."""

    def __init__(self, *layers: Layer) -> None:
        for i, layer in enumerate(layers):
            check_layer(f"Sequential: argument {i}", layer)
        self.sequence = list(layers)

    def children(self) -> dict[str, Parameter | Layer]:
        return {str(i): layer for i, layer in enumerate(self.sequence)}

    def __getitem__(self, i: int) -> Layer:
        return self.sequence[i]

    def __len__(self) -> int:
        return len(self.sequence)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        backwards = []
        for layer in self.sequence:
            x, layer_backward = layer(x, train)
            backwards.append(layer_backward)

        def backward(dy: Array) -> Array:
            for layer_backward in reversed(backwards):
                dy = layer_backward(dy)
            return dy

        return x, backward


class Residual(Layer):
    """y = body(x) + shortcut(x); without a shortcut, y = body(x) + x.

    x may have any shape that both branches take; they must return the same shape, ValueError
    otherwise. The gradient reaches both branches, so dx is the sum of what they send back.
    """

    functions = ("add",)

    def __init__(self, body: Layer, shortcut: Layer | None = None, impl: Any = None) -> None:
        self.impl = self.check_impl(impl)
        for name, layer in (("body", body), ("shortcut", shortcut)):
            if layer is not None or name == "body":
                check_layer(f"Residual: {name}", layer)
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        y, body_backward = self.body(x, train)
        side, side_backward = (x, None) if self.shortcut is None else self.shortcut(x, train)
        if y.shape != side.shape:
            raise ValueError(
                f"Residual: the body gives shape {tuple(y.shape)}, the shortcut {tuple(side.shape)}"
            )

        def backward(dy: Array) -> Array:
            side = dy if side_backward is None else side_backward(dy)
            return self.impl.add(body_backward(dy), side)

        return self.impl.add(y, side), backward
