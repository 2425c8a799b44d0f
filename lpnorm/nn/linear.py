"""Layers with weights: Linear and Conv2d, and how their weights are drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lpnorm.arrays import (
    Array,
    accumulator,
    check_count,
    check_dtype,
    check_rng,
    column,
    library_of,
    matmul,
    to_device,
)
from lpnorm.nn.base import Backward, Layer, Parameter, check_input, check_layer


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

    def __init__(self, shape: tuple[int, ...], bias: bool, init: str, rng: Any, dtype: Any) -> None:
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

    def _add_grads(self, dy: Array, x: Array) -> None:
        """For y = x w^T + bias with rows x (N, in), dy (N, out): dw = dy^T x, dbias = sum dy."""
        weight, bias = self.weight, self.bias
        weight.add_grad(matmul(dy.T, x).reshape(weight.data.shape))
        if bias is not None:
            sums = accumulator(dy.dtype).total(dy.T)
            bias.add_grad(sums[:, 0].astype(dy.dtype, copy=False))


def initialize(model: Layer, rng: int | np.random.Generator = 0, init: str = "he") -> None:
    """Draw every weight of a model anew from one seed or Generator, in the order of its layers."""
    check_layer("model", model)
    generator = check_rng("rng", rng)
    for _, layer in model.layers():
        if isinstance(layer, _Weighted):
            layer.initialize(generator, init)


class Linear(_Weighted):
    """y = x w^T + bias: x (N, inputs) -> y (N, outputs); weight (outputs, inputs), bias (outputs,).

    init, rng: see `draw`; pass one Generator to all layers of a model. Backward: dx = dy w,
    dw = dy^T x, dbias = sum over the batch of dy. Errors name the layer and the shape.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = True,
        init: str = "he",
        rng: int | np.random.Generator = 0,
        dtype: Any = "float32",
    ) -> None:
        shape = (check_count("outputs", outputs), check_count("inputs", inputs))
        super().__init__(shape, bias, init, rng, dtype)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        w = self.weight.data
        check_input(self, x, w, (None, w.shape[1]), ": put nn.Flatten() before" * (x.ndim > 2))
        y = matmul(x, w.T)
        if self.bias is not None:
            y = y + self.bias.data

        def backward(dy: Array) -> Array:
            self._add_grads(dy, x)
            return matmul(dy, w)

        return y, backward


class Conv2d(_Weighted):
    """2-D cross-correlation: x (N, inputs, H, W) -> y (N, outputs, H', W').

    y[n, o, i, j] = bias[o] + sum over c, a, b of w[o, c, a, b] * x[n, c, i*stride + a - padding,
    j*stride + b - padding], zero outside; H' = (H + 2 padding - kernel) // stride + 1. weight
    (outputs, inputs, kernel, kernel). kernel, stride, padding: an int or a pair (height, width).

    Every output position is a column of the input values its window sees, so the layer is one
    matrix product with those columns; going back, a window sends its gradient to where it read
    from, and overlapping windows add up. Errors name the layer and the shape.
    """

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
    ) -> None:
        self.windows = Windows("Conv2d", kernel, stride, padding)
        shape = (check_count("outputs", outputs), check_count("inputs", inputs))
        super().__init__(shape + self.windows.kernel, bias, init, rng, dtype)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        w = self.weight.data
        outputs, inputs = w.shape[:2]
        last = x.ndim == 4 and x.shape[3] == inputs
        hint = ": for channels last, pass x.transpose(0, 3, 1, 2)" if last else ""
        check_input(self, x, w, (None, inputs, None, None), hint)
        taps = self.windows.view(x)  # (kernel height, kernel width, N, C, H', W')
        n, _, height, width = taps.shape[2:]
        columns = taps.transpose(3, 0, 1, 2, 4, 5).reshape(-1, n * height * width)
        flat = w.reshape(outputs, -1)
        y = matmul(flat, columns)
        if self.bias is not None:
            y = y + column(self.bias.data)

        def backward(dy: Array) -> Array:
            dy = dy.transpose(1, 0, 2, 3).reshape(outputs, -1)
            self._add_grads(dy.T, columns.T)
            dtaps = matmul(flat.T, dy).reshape(inputs, *self.windows.kernel, n, height, width)
            return self.windows.scatter(dtaps.transpose(1, 2, 3, 0, 4, 5), x)

        y = y.reshape(outputs, n, height, width).transpose(1, 0, 2, 3)
        return library_of(y).ascontiguousarray(y), backward


class Windows:
    """The windows a convolution or a pool looks through: kernel, stride, padding as pairs.

    Raises TypeError or ValueError naming kernel, stride or padding.
    """

    def __init__(self, owner: str, kernel: Any, stride: Any, padding: Any) -> None:
        self.owner = owner  # whose windows, for messages
        self.kernel = _pair("kernel", kernel, 1)
        self.stride = _pair("stride", stride, 1)
        self.padding = _pair("padding", padding, 0)

    def view(self, x: Array, fill: float = 0.0) -> Array:
        """x (N, C, H, W) padded with `fill`, as (kernel height, kernel width, N, C, H', W').

        Entry [a, b] is what the tap (a, b) of the kernel sees at every output position.
        """
        (above, left), (down, right) = self.padding, self.stride
        if x.ndim != 4:
            raise ValueError(f"{self.owner}: x must be (N, C, H, W), got {tuple(x.shape)}")
        for size, pad, kernel in zip(x.shape[2:], self.padding, self.kernel, strict=True):
            if size + 2 * pad < kernel:
                raise ValueError(
                    f"{self.owner}: x of shape {tuple(x.shape)}, padded by {self.padding}, "
                    f"is smaller than the kernel {self.kernel}"
                )
        xp = library_of(x)
        if above or left:
            sides = ((0, 0), (0, 0), (above, above), (left, left))
            x = xp.pad(x, sides, constant_values=fill)
        seen = xp.lib.stride_tricks.sliding_window_view(x, self.kernel, axis=(2, 3))
        return seen[:, :, ::down, ::right].transpose(4, 5, 0, 1, 2, 3)

    def scatter(self, taps: Array, x: Array) -> Array:
        """The transpose of `view`: add up gradients (kh, kw, N, C, H', W') where x was read."""
        (above, left), (down, right) = self.padding, self.stride
        n, c, height, width = x.shape
        size = (c, n, height + 2 * above, width + 2 * left)
        dx = library_of(x).zeros(size, accumulator(x.dtype).dtype)
        dx = dx.transpose(1, 0, 2, 3)  # channels first in memory, as Conv2d's matrix product is
        rows, columns = taps.shape[4:]
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                dx[:, :, i : i + down * rows : down, j : j + right * columns : right] += taps[i, j]
        return dx[:, :, above : above + height, left : left + width].astype(x.dtype, copy=False)


def _pair(name: str, value: Any, low: int) -> tuple[int, int]:
    both = value if isinstance(value, tuple) else (value, value)
    if len(both) != 2:
        raise ValueError(f"{name} must be an int or a pair, got {value!r}")
    return check_count(name, both[0], low), check_count(name, both[1], low)
