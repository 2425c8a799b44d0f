"""Normalization layers: the functions of `lpnorm.batchnorm` with parameters and statistics."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from lpnorm.arrays import (
    Array,
    accumulator,
    axes_given,
    check_axes,
    check_batch,
    check_count,
    check_dtype,
    check_number,
    one_axis,
    other_axis,
)
from lpnorm.nn.base import Backward, Layer, Parameter, check_input_dtype
from lpnorm.norms import as_norm, gaussian_constant

ONE_VALUE = (
    "a training batch with one value a channel: y is beta whatever x is, no gradient reaches x, "
    "and the running statistics follow it; train with more samples, or call with train=False"
)


def check_channels_of(layer: Layer, x: Array, channels: int, axis: int) -> int:
    """axis as a number from 0, after checking that x has this many channels there."""
    kind, shape = type(layer).__name__, tuple(x.shape)
    check_batch(f"{kind}: x", x)
    if not -x.ndim <= axis < x.ndim or shape[axis] != channels:
        got = f"{shape}{other_axis(shape, channels, axis)}"
        raise ValueError(f"{kind}: x must have {channels} channels on axis {axis}, got {got}")
    return axis % x.ndim


class _Normalization(Layer):
    """gamma = 1 and beta = 0 of a given shape, or None, and the arguments of the function."""

    def __init__(
        self, shape: tuple[int, ...], p: Any, affine: bool, impl: Any, dtype: Any, **arguments: Any
    ) -> None:
        as_norm(p)
        check_dtype("dtype", dtype)
        accumulator(dtype, arguments["accumulate"])
        check_number("eps", arguments["eps"])
        gaussian_constant(2, 1, arguments["constant"])  # refuses what it does not know
        self.impl = self.check_impl(impl)
        self.gamma = Parameter(np.ones(shape, dtype)) if affine else None
        self.beta = Parameter(np.zeros(shape, dtype)) if affine else None
        self.arguments = {"p": p, **arguments}

    def _affine(self) -> tuple[Array | None, Array | None]:
        return (
            None if self.gamma is None else self.gamma.data,
            None if self.beta is None else self.beta.data,
        )

    def _check_dtype(self, x: Array) -> None:
        """gamma and beta may be wider than x where they have its accumulator's dtype."""
        if self.gamma is None:
            return
        gamma = self.gamma.data
        narrower = x.dtype.itemsize < gamma.dtype.itemsize
        if not narrower or accumulator(x.dtype, self.accumulate).dtype != gamma.dtype:
            check_input_dtype(self, x, gamma)

    def _add_grads(self, dgamma: Array | None, dbeta: Array | None) -> None:
        if self.gamma is not None and self.beta is not None:
            self.gamma.add_grad(dgamma, fresh=True)
            self.beta.add_grad(dbeta)


class BatchNorm(_Normalization):
    """`lpnorm.batch_norm` with learned gamma, beta (channels,) and running statistics.

    In training the batch's own mean and scale are used, and the running ones follow:
    ``running = (1 - momentum) * running + momentum * batch`` (PyTorch's convention), running_mean
    from 0 and running_scale, what is divided by (eps included, not squared), from 1. With
    train=False the running ones are used and, being constants, get no gradient.

    channels: the length of `axis`; p, eps, constant, accumulate: see `lpnorm.batch_norm`;
    momentum: from 0 to 1; affine: learn gamma and beta; impl: a module with the same functions
    (None: `lpnorm.plain`). The running statistics have the accumulator's dtype: float32 in a
    float16 layer, float16 with ``accumulate="float16"``. Raises TypeError or ValueError
    naming the argument. Until it is called, the backward holds x itself and the arrays of gamma,
    beta and the running statistics, not copies, with train=False too: change none in place.

    A training batch of one value a channel has scale eps alone (for p = 2, its root) and y = beta:
    a UserWarning says so, once with Python's usual filter.
    """

    buffers = ("running_mean", "running_scale")
    functions = ("batch_norm", "batch_norm_backward", "batch_norm_inference")

    def __init__(
        self,
        channels: int,
        p: Any = 2,
        axis: int = 1,
        eps: float = 1e-5,
        momentum: float = 0.1,
        constant: str | None = "paper",
        accumulate: Any = None,
        affine: bool = True,
        impl: Any = None,
        dtype: Any = "float32",
    ) -> None:
        shape = (check_count("channels", channels),)
        super().__init__(
            shape, p, affine, impl, dtype, eps=eps, constant=constant, accumulate=accumulate
        )
        self.axis = one_axis(axis)
        self.momentum = check_number("momentum", momentum, 0, 1)
        self.accumulate = accumulate
        wide = accumulator(dtype, accumulate).dtype
        self.running_mean, self.running_scale = np.zeros(shape, wide), np.ones(shape, wide)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        check_channels_of(self, x, self.running_mean.shape[0], self.axis)
        self._check_dtype(x)
        gamma, beta = self._affine()
        if not train:
            return self._with_fixed_statistics(x, gamma, beta)
        if x.size == x.shape[self.axis]:
            warnings.warn(ONE_VALUE, UserWarning, stacklevel=2)
        y, cache = self.impl.batch_norm(x, gamma, beta, axis=self.axis, **self.arguments)
        for name, batch in (("running_mean", cache.mean), ("running_scale", cache.scale)):
            running = getattr(self, name)
            new = (1 - self.momentum) * running + self.momentum * batch.astype(running.dtype)
            setattr(self, name, new)

        def backward(dy: Array) -> Array:
            dx, dgamma, dbeta = self.impl.batch_norm_backward(dy, cache)
            self._add_grads(dgamma, dbeta)
            return dx

        return y, backward

    def _with_fixed_statistics(
        self, x: Array, gamma: Array | None, beta: Array | None
    ) -> tuple[Array, Backward]:
        statistics = self.running_mean, self.running_scale
        y = self.impl.batch_norm_inference(x, gamma, beta, *statistics, axis=self.axis)

        def backward(dy: Array) -> Array:
            dx, dgamma, dbeta = self.impl.batch_norm_inference_backward(
                dy, x, gamma, beta, *statistics, axis=self.axis
            )
            self._add_grads(dgamma, dbeta)
            return dx

        return y, backward


class LayerNorm(_Normalization):
    """`lpnorm.layer_norm` with learned gamma and beta; the same in training and evaluation.

    shape: an int or a tuple, the shape of x on the axes that are reduced (and of gamma and beta);
    axis: those axes, the last ones unless given. Everything else as for `BatchNorm`.
    """

    functions = ("layer_norm", "layer_norm_backward")

    def __init__(
        self,
        shape: int | tuple[int, ...],
        p: Any = 2,
        axis: int | tuple[int, ...] | None = None,
        eps: float = 1e-5,
        constant: str | None = "paper",
        accumulate: Any = None,
        affine: bool = True,
        impl: Any = None,
        dtype: Any = "float32",
    ) -> None:
        shape = shape if isinstance(shape, tuple) else (shape,)
        shape = tuple(check_count("shape", size) for size in shape)
        axes = tuple(range(-len(shape), 0)) if axis is None else axes_given(axis)
        if not shape or len(set(axes)) != len(shape):
            raise ValueError(f"axis must name an axis for each of shape {shape}, got {axes}")
        super().__init__(
            shape, p, affine, impl, dtype, eps=eps, constant=constant, accumulate=accumulate
        )
        self.shape, self.accumulate = shape, accumulate
        self.arguments["axis"] = axes

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        gamma, beta = self._affine()
        axes = self.arguments["axis"]
        if any(not -x.ndim <= a < x.ndim for a in axes):
            raise ValueError(f"LayerNorm: x must have the axes {axes}, got {tuple(x.shape)}")
        inner = tuple(x.shape[a] for a in check_axes(axes, x.ndim))
        if inner != self.shape:
            got = f"{inner} of {tuple(x.shape)}"
            raise ValueError(f"LayerNorm: x must be {self.shape} on its axes {axes}, got {got}")
        self._check_dtype(x)
        y, cache = self.impl.layer_norm(x, gamma, beta, **self.arguments)

        def backward(dy: Array) -> Array:
            dx, dgamma, dbeta = self.impl.layer_norm_backward(dy, cache)
            self._add_grads(dgamma, dbeta)
            return dx

        return y, backward


class MeanOnlyBatchNorm(Layer):
    """y = x - mean + beta for each channel: what the authors put behind a (bounded) weight norm.

    Backward: the mean is 1/n in every x, so dx = dy - mean(dy), and dbeta = sum dy, over each
    channel. Training uses the batch's mean, and running_mean follows as in `BatchNorm`; with
    train=False it is used instead and, being a constant, dx = dy. channels, axis, momentum, dtype,
    impl and errors as for `BatchNorm`. Source: Salimans & Kingma 2016, as the authors of "Norm
    matters" use it.
    """

    buffers = ("running_mean",)
    functions = ("center",)

    def __init__(
        self,
        channels: int,
        axis: int = 1,
        momentum: float = 0.1,
        dtype: Any = "float32",
        impl: Any = None,
    ) -> None:
        shape = (check_count("channels", channels),)
        self.axis, self.momentum = one_axis(axis), check_number("momentum", momentum, 0, 1)
        self.impl = self.check_impl(impl)
        self.beta = Parameter(np.zeros(shape, check_dtype("dtype", dtype)))
        self.running_mean = np.zeros(shape, accumulator(dtype).dtype)

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        beta, running = self.beta.data, self.running_mean
        axis = check_channels_of(self, x, beta.shape[0], self.axis)
        check_input_dtype(self, x, beta)
        if train and x.size == x.shape[axis]:
            warnings.warn(ONE_VALUE, UserWarning, stacklevel=2)
        y, mean, center_backward = self.impl.center(x, beta, None if train else running, axis)
        if train:
            batch = mean.astype(running.dtype)
            self.running_mean = (1 - self.momentum) * running + self.momentum * batch

        def backward(dy: Array) -> Array:
            dx, dbeta = center_backward(dy)
            self.beta.add_grad(dbeta)
            return dx

        return y, backward
