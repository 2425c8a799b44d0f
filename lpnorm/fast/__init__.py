"""The functions of `lpnorm.plain`, with the same signatures and the same bits, compiled.

Chosen by name, never silently: ``lpnorm.fast.batch_norm(x, ...)``, ``nn.BatchNorm(64, p=1,
impl=lpnorm.fast)``, ``model.to(impl=lpnorm.fast)``. NumPy arrays of any float dtype and layout are
taken by loops that Numba compiles (`pip install "lpnorm[fast]"`) and keeps on disk; what they do
not cover, a real p, the order "sequential" and other libraries' arrays, goes to the plain
functions, and so do weight norm, averages, linear layers and the loss, which are not where the time
goes. Every result is that of `lpnorm.plain`, bit for bit, but for the sign of a NaN, and of a zero
that is the largest of several in a batch norm; and a cache of one is a cache of the other. What
does not reach compiled loops is NumPy's: `np.errstate` and warnings (an overflow is silent here).
Results lie in memory that is used again once nothing refers to it (`lpnorm.fast.memory`).

To read it next to the book: `lanes` says what a leaf, a lane and the tree are and how a value is
rounded, `loops` has the formulas, `cpu` cuts the work into parts for `lpnorm.threads`;
`convolution` has what stands around a product and `blas` the product, `images` pools and ReLU,
`layers` what they are called by; `compiled` keeps what Numba made.
"""

from __future__ import annotations

from typing import Any

try:
    from lpnorm.fast.cpu import LOOPS
except ImportError as error:
    package = (error.name or "").split(".")[0]
    if package == "lpnorm":
        raise
    why = f"needs {package}" if isinstance(error, ModuleNotFoundError) else f"found: {error}"
    remedy = 'pip install "lpnorm[fast]" (the other rooms do without)'
    raise ImportError(f"lpnorm.fast {why}: {remedy}") from None

from lpnorm import dispatch
from lpnorm.arrays import Array
from lpnorm.dispatch import Cache
from lpnorm.fast.layers import add, conv2d, max_pool2d, relu
from lpnorm.plain import (
    Windows,
    avg_pool2d,
    bounded_weight_norm,
    bounded_weight_norm_backward,
    center,
    global_avg_pool2d,
    linear,
    softmax_cross_entropy,
    weight_norm,
    weight_norm_backward,
)

__all__ = [
    "Windows",
    "add",
    "avg_pool2d",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "bounded_weight_norm",
    "bounded_weight_norm_backward",
    "center",
    "conv2d",
    "global_avg_pool2d",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "max_pool2d",
    "relu",
    "softmax_cross_entropy",
    "weight_norm",
    "weight_norm_backward",
]
_Gradients = tuple[Array, Array | None, Array | None]


def batch_norm(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    p: Any = 2,
    axis: int = 1,
    eps: float = 1e-5,
    constant: str | None = "paper",
    accumulate: Any = None,
) -> tuple[Array, Cache]:
    """`lpnorm.batch_norm`, bit for bit: same arguments, errors and cache."""
    return dispatch.batch_norm(LOOPS, x, gamma, beta, p, axis, eps, constant, accumulate)


def batch_norm_backward(dy: Array, cache: Cache) -> _Gradients:
    """`lpnorm.batch_norm_backward`, bit for bit, for a cache of this module or of the book's."""
    return dispatch.backward(LOOPS, dy, cache)


def layer_norm(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    p: Any = 2,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    constant: str | None = "paper",
    accumulate: Any = None,
) -> tuple[Array, Cache]:
    """`lpnorm.layer_norm`, bit for bit: same arguments, errors and cache."""
    return dispatch.layer_norm(LOOPS, x, gamma, beta, p, axis, eps, constant, accumulate)


def layer_norm_backward(dy: Array, cache: Cache) -> _Gradients:
    """`lpnorm.layer_norm_backward`, bit for bit, for a cache of this module or of the book's."""
    return dispatch.backward(LOOPS, dy, cache)


def batch_norm_inference(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    axis: int = 1,
) -> Array:
    """`lpnorm.batch_norm_inference`, bit for bit."""
    return dispatch.inference(LOOPS, x, gamma, beta, mean, scale, axis)


def batch_norm_inference_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    axis: int = 1,
) -> _Gradients:
    """`lpnorm.batch_norm_inference_backward`, bit for bit."""
    return dispatch.inference_backward(LOOPS, dy, x, gamma, beta, mean, scale, axis)
