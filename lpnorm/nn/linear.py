"""Layers with weights: Linear and Conv2d, and how their weights are drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lpnorm.arrays import (
    Array,
    check_count,
    check_dtype,
    check_rng,
    library_of,
    to_device,
)
from lpnorm.nn.base import Backward, Layer, Parameter, check_input, check_layer
from lpnorm.plain import Windows


def draw(
    shape: tuple[int, ...], init: str, rng: int | np.random.Generator, dtype: Any = "float32"
) -> np.ndarray:
    """Gaussian weights of shape (out, in, ...) from a seed or a numpy Generator.

    init "he": variance 2 / fan_in (He et al. 2015, for ReLU); "glorot": 2 / (fan_in + fan_out)
    (Glorot & Bengio 2010). fan_in = in * receptive field, fan_out = out * receptive field.
    ValueError for another init.
    """
    field = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * field, shape[0] * field
    variances = {"he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out)}
    if not isinstance(init, str) or init not in variances:
        raise ValueError(f'init must be "he" or "glorot", got {init!r}')
    dtype, generator = check_dtype("dtype", dtype), check_rng("rng", rng)
    return (math.sqrt(variances[init]) * generator.standard_normal(shape)).astype(dtype)


class _Weighted(Layer):
    """A layer with a weight (out, in, ...) and perhaps a bias (out,)."""

    def __init__(
        self, shape: tuple[int, ...], bias: bool, init: str, rng: Any, dtype: Any, impl: Any
    ) -> None:
        self.impl = self.check_impl(impl)
        self.weight: Any = Parameter(draw(shape, init, rng, dtype))
        self.bias = Parameter(np.zeros(shape[0], dtype)) if bias else None

    def initialize(self, rng: int | np.random.Generator = 0, init: str = "he") -> None:
        """Draw the weight anew (see `draw`) and set the bias to zero, keeping device and dtype.

        ValueError if a weight norm is wrapped around the layer: its weight is computed then, and
        what is drawn here would be lost.
        """
        if not isinstance(self.weight, Parameter):
            raise ValueError(
                f"{type(self).__name__} is wrapped in a weight norm, which computes its weight: "
                "initialize it before wrapping, or unwrap() it first"
            )
        old = self.weight.data
        fresh = draw(old.shape, init, rng, old.dtype)
        self.weight.data = to_device(fresh, "cpu" if isinstance(old, np.ndarray) else "gpu")
        if self.bias is not None:
            self.bias.data = library_of(old).zeros_like(self.bias.data)

    def _computed(self, function: Any, x: Array, *arguments: Any) -> tuple[Array, Backward]:
        """function(x, weight, bias, *arguments) of `impl`, with its gradients added where due."""
        weight, bias = self.weight, self.bias
        y, gradients = function(x, weight.data, None if bias is None else bias.data, *arguments)

        def backward(dy: Array) -> Array:
            dx, dw, dbias = gradients(dy)
            weight.add_grad(dw, fresh=True)
            if bias is not None:
                bias.add_grad(dbias)
            return dx

        return y, backward


def initialize(model: Layer, rng: int | np.random.Generator = 0, init: str = "he") -> None:
    """Draw every weight of a model anew from one seed or Generator, in the order of its layers."""
    check_layer("model", model)
    generator = check_rng("rng", rng)
    for _, layer in model.layers():
        if isinstance(layer, _Weighted):
            layer.initialize(generator, init)


class Linear(_Weighted):
    """y = x w^T + bias: x (N, inputs) -> y (N, outputs); weight (outputs, inputs), bias (outputs,).

    init, rng: see `draw`; pass one Generator to all layers of a model. impl: None (`lpnorm.plain`)
    or a module with `linear`. Backward: dx = dy w, dw = dy^T x, dbias = sum over the batch of dy.
    Errors name the layer and the shape. The same bits for any number of threads: see
    `lpnorm.plain.products`.
    """

    functions = ("linear",)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = True,
        init: str = "he",
        rng: int | np.random.Generator = 0,
        dtype: Any = "float32",
        impl: Any = None,
    ) -> None:
        shape = (check_count("outputs", outputs), check_count("inputs", inputs))
        super().__init__(shape, bias, init, rng, dtype, impl)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        w = self.weight.data
        check_input(self, x, w, (None, w.shape[1]), ": put nn.Flatten() before" * (x.ndim > 2))
        return self._computed(self.impl.linear, x)


class Conv2d(_Weighted):
    """2-D cross-correlation: x (N, inputs, H, W) -> y (N, outputs, H', W').

    y[n, o, i, j] = bias[o] + sum over c, a, b of w[o, c, a, b] * x[n, c, i*stride + a - padding,
    j*stride + b - padding], zero outside; H' = (H + 2 padding - kernel) // stride + 1. weight
    (outputs, inputs, kernel, kernel). kernel, stride, padding: an int or a pair (height, width).
    impl: None (`lpnorm.plain`) or a module with `conv2d`.

    Every output position is a column of the input values its window sees, so the layer is a matrix
    product with those columns: the derivation, the order of its sums, and why its bits are the same
    for any number of threads are in `lpnorm.plain.products`. The backward keeps x, not its columns.
    Errors name the layer and the shape.
    """

    functions = ("conv2d",)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        init: str = "he",
        rng: int | np.random.Generator = 0,
        dtype: Any = "float32",
        impl: Any = None,
    ) -> None:
        self.windows = Windows("Conv2d", kernel, stride, padding)
        shape = (check_count("outputs", outputs), check_count("inputs", inputs))
        super().__init__(shape + self.windows.kernel, bias, init, rng, dtype, impl)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        w = self.weight.data
        inputs = w.shape[1]
        last = x.ndim == 4 and x.shape[3] == inputs
        hint = ": for channels last, pass x.transpose(0, 3, 1, 2)" if last else ""
        check_input(self, x, w, (None, inputs, None, None), hint)
        return self._computed(self.impl.conv2d, x, self.windows)
