"""Centre, measure, scale: one forward and one backward for every norm.

Batch norm and layer norm are the same mathematics over other axes. Per group of n values x (a
channel in batch norm, a sample in layer norm), with mean mu and deviations d = x - mu,

    s = C * statistic(d)              a norm of the deviations       (`lpnorm.norms`)
    s_hat = s + eps                   for p = 2: (s^2 + eps)^(1/2)
    x_hat = d / s_hat
    y = gamma * x_hat + beta

(Hoffer et al., "Norm matters", NeurIPS 2018; p = 2 is Ioffe & Szegedy 2015.) The core,
`normalize` and `normalize_backward`, works on rows (groups, n); the affine part stands outside.

Precision. Means, sums and everything with one value per group are kept in the accumulator's
dtype (float32 for float16 arrays unless `accumulate` says float16). Every operation that gives an
array as large as x is rounded once to the dtype of x, squares and products included: a float16
input stays float16 throughout (but for the shares of ties, kept in the accumulator's dtype).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm.arrays import (
    Accumulate,
    Array,
    accumulator,
    check_axes,
    check_gradient,
    check_number,
    check_shape,
    column,
    from_rows,
    namespace,
    to_rows,
)
from lpnorm.norms import Norm, as_norm, gaussian_constant

# --- the core: rows in, rows out --------------------------------------------------------------


@dataclass(frozen=True)
class Normalized:
    """What the backward pass of `normalize` needs."""

    x_hat: Array  # (groups, n)
    d: Array  # (groups, n)
    mean: Array  # (groups, 1), in the accumulator's dtype
    scale: Array  # (groups, 1), s_hat: eps included, in the accumulator's dtype
    norm: Norm
    constant: float
    accumulate: Accumulate


def normalize(
    x: Array, norm: Norm, constant: float, eps: float, accumulate: Accumulate
) -> Normalized:
    """Centre each row of x (groups, n), measure its deviations, and divide by the measure."""
    mean = accumulate.average(x)
    d = _round(x - mean, x)
    scale = norm.scale(d, constant, eps, accumulate)
    return Normalized(_round(d / scale, x), d, mean, scale, norm, constant, accumulate)


def normalize_backward(g: Array, cache: Normalized) -> Array:
    """The gradient with respect to x of sum(g * x_hat), for g (groups, n): one formula for all.

    Derivation, for one row. s_hat depends on x through d alone, so from x_hat_i = d_i / s_hat,
    writing phi = s_hat as a function of d and using dL/dx_hat_i = g_i,

        dL/dd_j = g_j / s_hat - (sum_i g_i d_i) / s_hat^2 * dphi/dd_j
                = ( g_j - T dphi/dd_j ) / s_hat,             T = sum_i g_i x_hat_i.

    d = x - mean(x), so dd_j/dx_i = (j == i) - 1/n: the gradient with respect to x is that with
    respect to d with its own mean taken off,

        dL/dx = ( g - mean(g) - T (grad phi - mean(grad phi)) ) / s_hat.

    Half precision cannot hold this: T overflows and grad phi, of order 1/n, is subnormal. With
    grad phi = C h / (m a) and an h that it can hold (`lpnorm.norms`), put the two together,

        dx = ( g - b - c h ) / s_hat,     c = C (T / m) / a,     b = mean(g) - c mean(h),

    where c and b, one number a row, keep the accumulator's dtype and T / m is a mean where m = n.
    (c h is rounded to x's dtype: in float16 it can overflow although dx, after the division, would
    fit.)

    What follows from it. Sum dx = 0 for any eps, since both terms have their mean taken off.
    phi is homogeneous of degree 1 up to eps, so sum_i d_i dphi/dd_i = s (Euler), for p = 2
    s^2 / s_hat, and <dx, d> = T (s_hat - s) / s_hat: 0 if eps = 0, else T eps / s_hat where eps
    is added and T eps / s_hat^2 where it is inside the root. Scaling x by a > 0 (and eps along)
    leaves x_hat and hence b, c, h alone and divides dx by a.
    """
    x_hat, accumulate = cache.x_hat, cache.accumulate
    h, a = cache.norm.direction(cache.d, cache.scale, accumulate)
    c = cache.constant * accumulate.over(g * x_hat, cache.norm.count(g.shape[-1])) / a
    b = accumulate.average(g) - c * accumulate.average(h)
    numerator = _round(_round(g - b, x_hat) - _round(c * h, x_hat), x_hat)
    return _round(numerator / cache.scale, x_hat)


def _round(result: Array, like: Array) -> Array:
    """The result of one operation, rounded once to the dtype of `like`."""
    return result.astype(like.dtype, copy=False)


# --- batch norm and layer norm: which axes are reduced, which carry gamma and beta -------------


@dataclass(frozen=True)
class Cache:
    """What `batch_norm_backward` and `layer_norm_backward` need; `mean` and `scale` are public.

    mean, scale: what is subtracted and what is divided by (eps included), with the shape of x
    without the reduced axes ((C,) for batch norm), in the accumulator's dtype.
    """

    core: Normalized
    gamma: Array | None
    beta: Array | None
    shape: tuple[int, ...]
    reduced: tuple[int, ...]
    affine: tuple[int, ...]  # the axes of x that gamma and beta have

    @property
    def mean(self) -> Array:
        return self.core.mean.reshape(_without(self.shape, self.reduced))

    @property
    def scale(self) -> Array:
        return self.core.scale.reshape(_without(self.shape, self.reduced))


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
    """Batch norm in any norm: y = gamma * (x - mean) / s_hat + beta for each channel.

    x: at least 2-D, float16, float32 or float64; `axis` is the channel axis, which is kept, all
    others are reduced. gamma, beta: shape (C,), in the dtype of x or of the accumulator, or None
    for no affine part. p: a real number >= 1, math.inf, TopK(k) or Range(). eps: inside the root
    for p = 2, added to the scale for every other p. constant: see `gaussian_constant`.
    accumulate: None (float32 for float16, else x's own dtype), a float dtype at least as wide as
    x's, or an `Accumulate`, which also says in which order sums are taken.

    Returns y (shape and dtype of x) and the cache for `batch_norm_backward`; cache.mean and
    cache.scale have shape (C,). A constant channel gives beta within gamma * (error of the mean) /
    s_hat; with eps = 0 it gives NaN, or anything where the mean does not come out exactly. A NaN
    or Inf in a channel gives NaN in that channel alone, and so may an x - mean that overflows. x is
    not modified; the cache refers to gamma and beta, so change them only by new arrays before the
    backward.

    Raises TypeError or ValueError, naming the argument, before any work.
    Source: equations (5) and (6) for p = 1 and p = inf; Ioffe & Szegedy 2015 for p = 2.
    """
    channel = _batch_norm_axis(axis, x=x, gamma=gamma, beta=beta)
    reduced = tuple(a for a in range(x.ndim) if a not in channel)
    return _forward(x, gamma, beta, reduced, channel, p, eps, constant, accumulate)


def batch_norm_backward(dy: Array, cache: Cache) -> tuple[Array, Array | None, Array | None]:
    """dx, dgamma, dbeta from dy (the shape and dtype of x) and the cache of `batch_norm`.

    y = gamma x_hat + beta, so dgamma = sum dy x_hat and dbeta = sum dy over each channel, and the
    gradient that reaches x_hat is g = gamma dy; from there see `normalize_backward`. dx has the
    dtype of x, dgamma and dbeta that of gamma and beta (None where those are None). May be called
    more than once. Raises TypeError or ValueError naming dy.
    """
    x_hat, gamma, beta = cache.core.x_hat, cache.gamma, cache.beta
    check_gradient("dy", dy, x_hat, cache.shape)
    dy = to_rows(dy, cache.reduced)
    along_rows = cache.affine != cache.reduced  # gamma: one number a row, or one a column?

    def gathered(terms: Array, parameter: Array) -> Array:
        sums = cache.core.accumulate.total(terms if along_rows else terms.T)
        return sums.reshape(parameter.shape).astype(parameter.dtype)

    dgamma = None if gamma is None else gathered(dy * x_hat, gamma)
    dbeta = None if beta is None else gathered(dy, beta)
    g = dy if gamma is None else _round(dy * _broadcast(gamma, along_rows), x_hat)
    dx = normalize_backward(g, cache.core)
    return from_rows(dx, cache.shape, cache.reduced), dgamma, dbeta


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
    """Layer norm in any norm: the same as `batch_norm`, with the axes the other way round.

    axis: an int or a tuple, the axes that are *reduced*; gamma and beta have x's shape on those
    axes (in the order of x), cache.mean and cache.scale x's shape without them. Everything else,
    errors included, as for `batch_norm`. Source: Ba, Kiros, Hinton 2016 for p = 2.
    """
    namespace(x=x, gamma=gamma, beta=beta)
    reduced = check_axes(axis, x.ndim)
    return _forward(x, gamma, beta, reduced, reduced, p, eps, constant, accumulate)


def layer_norm_backward(dy: Array, cache: Cache) -> tuple[Array, Array | None, Array | None]:
    """dx, dgamma, dbeta from dy and the cache of `layer_norm`: the formulas of batch norm.

    Only the sums for dgamma and dbeta run over the kept axes instead of the reduced ones.
    """
    return batch_norm_backward(dy, cache)


def batch_norm_inference(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    axis: int = 1,
) -> Array:
    """y = gamma * (x - mean) / scale + beta with fixed statistics (running averages).

    x, gamma, beta, axis as for `batch_norm`; mean, scale: shape (C,), eps already inside scale.
    Returns y with the shape and dtype of x. Raises TypeError or ValueError naming the argument.
    """
    reduced, x_hat = _with_statistics(x, gamma, beta, mean, scale, axis)
    return from_rows(_affine(x_hat, gamma, beta, True), x.shape, reduced)


def batch_norm_inference_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    axis: int = 1,
) -> tuple[Array, Array | None, Array | None]:
    """dx, dgamma, dbeta of `batch_norm_inference` (same arguments, and dy of x's shape and dtype).

    mean and scale are constants now, so dx = gamma dy / scale; dgamma = sum dy (x - mean) / scale
    and dbeta = sum dy, for each channel.
    """
    reduced, x_hat = _with_statistics(x, gamma, beta, mean, scale, axis)
    check_gradient("dy", dy, x_hat, x.shape)
    dy = to_rows(dy, reduced)
    accumulate = accumulator(x.dtype)
    dgamma = dbeta = None
    if gamma is not None:
        dgamma = accumulate.total(dy * x_hat)[:, 0].astype(gamma.dtype)
    if beta is not None:
        dbeta = accumulate.total(dy)[:, 0].astype(beta.dtype)
    g = dy if gamma is None else _round(dy * column(gamma), x_hat)
    return from_rows(_round(g / column(scale), x_hat), x.shape, reduced), dgamma, dbeta


def _forward(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    reduced: tuple[int, ...],
    affine: tuple[int, ...],
    p: Any,
    eps: float,
    constant: str | None,
    accumulate: Any,
) -> tuple[Array, Cache]:
    norm = as_norm(p)
    accumulate = accumulator(x.dtype, accumulate)
    _check_affine(x, gamma, beta, affine, accumulate.dtype)
    eps = check_number("eps", eps)
    rows = to_rows(x, reduced)
    c = gaussian_constant(norm, rows.shape[1], constant)

    core = normalize(rows, norm, c, eps, accumulate)
    y = _affine(core.x_hat, gamma, beta, affine != reduced)
    return from_rows(y, x.shape, reduced), Cache(core, gamma, beta, x.shape, reduced, affine)


def _check_affine(
    x: Array, gamma: Array | None, beta: Array | None, affine: tuple[int, ...], accumulate: Any
) -> None:
    if x.size == 0:
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
    for name, parameter in (("gamma", gamma), ("beta", beta)):
        check_shape(name, parameter, tuple(x.shape[a] for a in affine))
        if parameter is not None and parameter.dtype not in (x.dtype, accumulate):
            allowed = " or ".join(sorted({x.dtype.name, accumulate.name}))
            raise TypeError(f"{name} must have dtype {allowed}, got {parameter.dtype}")


def _affine(x_hat: Array, gamma: Array | None, beta: Array | None, along_rows: bool) -> Array:
    """gamma * x_hat + beta in a new array, rounded after each of the two operations."""
    y = x_hat.copy() if gamma is None and beta is None else x_hat
    if gamma is not None:
        y = _round(y * _broadcast(gamma, along_rows), x_hat)
    if beta is not None:
        y = _round(y + _broadcast(beta, along_rows), x_hat)
    return y


def _broadcast(parameter: Array, along_rows: bool) -> Array:
    """One number a row, (groups, 1), or one number a column, (1, n)."""
    return column(parameter) if along_rows else parameter.reshape(1, -1)


def _without(shape: tuple[int, ...], reduced: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for a, size in enumerate(shape) if a not in reduced)


def _batch_norm_axis(axis: int, *, x: Array, **arrays: Array) -> tuple[int, ...]:
    namespace(x=x, **arrays)
    if x.ndim < 2:
        raise ValueError(f"x must have at least 2 axes, got shape {tuple(x.shape)}")
    if isinstance(axis, tuple):
        raise TypeError(f"axis must be one int, the channel axis, got {axis!r}")
    return check_axes(axis, x.ndim)


def _with_statistics(
    x: Array, gamma: Array | None, beta: Array | None, mean: Array, scale: Array, axis: int
) -> tuple[tuple[int, ...], Array]:
    """The reduced axes, and (x - mean) / scale as rows, after checking everything."""
    if mean is None or scale is None:
        raise TypeError("mean and scale must be arrays of shape (C,), got None")
    (channel,) = _batch_norm_axis(axis, x=x, gamma=gamma, beta=beta, mean=mean, scale=scale)
    wide = np.promote_types(accumulator(x.dtype).dtype, scale.dtype)
    _check_affine(x, gamma, beta, (channel,), wide)
    for name, each in (("mean", mean), ("scale", scale)):
        check_shape(name, each, (x.shape[channel],))
    reduced = tuple(a for a in range(x.ndim) if a != channel)
    rows = to_rows(x, reduced)
    return reduced, _round(_round(rows - column(mean), x) / column(scale), x)
