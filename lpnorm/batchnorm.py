"""Centre, measure, scale: one forward and one backward for every norm.

Batch norm and layer norm are the same mathematics over other axes. Per group of n values x (a
channel in batch norm, a sample in layer norm), with mean mu and deviations d = x - mu,

    s = C * statistic(d)              a norm of the deviations       (`lpnorm.norms`)
    s_hat = s + eps                   for p = 2: (s^2 + eps)^(1/2)
    x_hat = d / s_hat
    y = gamma * x_hat + beta

(Hoffer et al., "Norm matters", NeurIPS 2018; p = 2 is Ioffe & Szegedy 2015.) The core,
`normalize` and `normalize_backward`, works on rows (groups, n). Around it stand `forward`,
`backward` and `inference` on the view (outer, groups, inner), which a faster backend replaces;
around those the public functions, which check, choose axes and remember.

Precision. Means, sums and everything with one value per group are kept in the accumulator's
dtype (float32 for float16 arrays unless `accumulate` says float16). Every operation that gives an
array as large as x is rounded once to the dtype of x, squares and products included: a float16
input stays float16 throughout (but for the shares of ties, kept in the accumulator's dtype).
"""

from __future__ import annotations

from typing import Any

from lpnorm import dispatch
from lpnorm.arrays import (
    Array,
    column,
    library_of,
)
from lpnorm.dispatch import Backend, Cache, Scheme

# --- the core: rows in, rows out --------------------------------------------------------------


def normalize(x: Array, scheme: Scheme) -> tuple[Array, Array, Array]:
    """Centre each row of x (groups, n), measure its deviations, and divide by the measure.

    Returns x_hat (groups, n), and mean and s_hat (groups, 1) in the accumulator's dtype.
    """
    assert scheme.norm is not None
    mean = scheme.accumulate.average(x)
    d = _round(x - mean, x)
    scale = scheme.norm.scale(d, scheme.constant, scheme.eps, scheme.accumulate)
    return _round(d / scale, x), mean, scale


def normalize_backward(g: Array, d: Array, x_hat: Array, scale: Array, scheme: Scheme) -> Array:
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
    leaves x_hat and hence b, c, h alone and divides dx by a. Where mean and scale are constants
    (no norm), dx = g / s_hat.
    """
    norm, accumulate = scheme.norm, scheme.accumulate
    if norm is None:
        return _round(g / scale, x_hat)
    h, a = norm.direction(d, scale, accumulate)
    c = scheme.constant * accumulate.over(g * x_hat, norm.count(g.shape[-1])) / a
    b = accumulate.average(g) - c * accumulate.average(h)
    numerator = _round(_round(g - b, x_hat) - _round(c * h, x_hat), x_hat)
    return _round(numerator / scale, x_hat)


def _round(result: Array, like: Array) -> Array:
    """The result of one operation, rounded once to the dtype of `like`."""
    return result.astype(like.dtype, copy=False)


# --- on the view (outer, groups, inner): what a faster backend replaces ------------------------


def forward(
    x: Array, gamma: Array | None, beta: Array | None, scheme: Scheme
) -> tuple[Array, Array, Array]:
    """y (as x, (outer, groups, inner)), mean and scale (groups,).

    gamma, beta: (groups,), or (n,) where ``scheme.per_value``, or None.
    """
    x_hat, mean, scale = normalize(_rows(x), scheme)
    y = _affine(x_hat, gamma, beta, scheme.per_value)
    return _from_rows(y, x.shape), mean[:, 0], scale[:, 0]


def backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    scheme: Scheme,
) -> tuple[Array, Array | None, Array | None]:
    """dx (as x), dgamma and dbeta (in the accumulator's dtype, None where gamma or beta is).

    d and x_hat are computed again: x, mean and scale are all that is kept.
    """
    shape, x, dy = x.shape, _rows(x), _rows(dy)
    d = _round(x - column(mean), x)
    x_hat = _round(d / column(scale), x)

    def gathered(terms: Array) -> Array:
        return scheme.accumulate.total(terms.T if scheme.per_value else terms)[:, 0]

    dgamma = None if gamma is None else gathered(dy * x_hat)
    dbeta = None if beta is None else gathered(dy)
    g = _affine(dy, gamma, None, scheme.per_value)
    dx = normalize_backward(g, d, x_hat, column(scale), scheme)
    return _from_rows(dx, shape), dgamma, dbeta


def inference(
    x: Array, gamma: Array | None, beta: Array | None, mean: Array, scale: Array
) -> Array:
    """gamma * (x - mean) / scale + beta, all four (groups,), as x."""
    rows = _rows(x)
    x_hat = _round(_round(rows - column(mean), x) / column(scale), x)
    return _from_rows(_affine(x_hat, gamma, beta, False), x.shape)


def _affine(x_hat: Array, gamma: Array | None, beta: Array | None, per_value: bool) -> Array:
    """gamma * x_hat + beta, rounded after each of the two operations."""
    shape = (1, -1) if per_value else (-1, 1)
    y = x_hat if gamma is None else _round(x_hat * gamma.reshape(shape), x_hat)
    return y if beta is None else _round(y + beta.reshape(shape), x_hat)


def _rows(x: Array) -> Array:
    """(outer, groups, inner) -> (groups, n)."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def _from_rows(rows: Array, shape: tuple[int, ...]) -> Array:
    """(groups, n) -> (outer, groups, inner), contiguous."""
    outer, groups, inner = shape
    x = rows.reshape(groups, outer, inner).transpose(1, 0, 2)
    return library_of(x).ascontiguousarray(x)


# --- batch norm and layer norm: which axes are reduced, which carry gamma and beta -------------


PLAIN = Backend(forward, backward, inference)


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
    s_hat, which under L1 and L-infinity may come near gamma / C: in float32 the mean of a
    constant 1,000 can be off by an ulp, 6e-5, six times eps. ``accumulate="float64"`` makes the
    mean exact there, and y beta. With eps = 0 a constant channel gives NaN, or anything where its
    mean is not exact. A NaN or Inf in a channel gives NaN in that channel alone, and so may an
    x - mean that overflows. x is not modified; the cache refers to x, gamma and beta, so change
    them only by new arrays before the backward.

    Raises TypeError or ValueError, naming the argument, before any work.
    Source: equations (5) and (6) for p = 1 and p = inf; Ioffe & Szegedy 2015 for p = 2.
    """
    return dispatch.batch_norm(PLAIN, x, gamma, beta, p, axis, eps, constant, accumulate)


def batch_norm_backward(dy: Array, cache: Cache) -> tuple[Array, Array | None, Array | None]:
    """dx, dgamma, dbeta from dy (the shape and dtype of x) and the cache of `batch_norm`.

    y = gamma x_hat + beta, so dgamma = sum dy x_hat and dbeta = sum dy over each channel, and the
    gradient that reaches x_hat is g = gamma dy; from there see `normalize_backward`. dx has the
    dtype of x, dgamma and dbeta that of gamma and beta (None where those are None). May be called
    more than once. Raises TypeError or ValueError naming dy or cache.
    """
    return dispatch.backward(PLAIN, dy, cache)


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
    return dispatch.layer_norm(PLAIN, x, gamma, beta, p, axis, eps, constant, accumulate)


def layer_norm_backward(dy: Array, cache: Cache) -> tuple[Array, Array | None, Array | None]:
    """dx, dgamma, dbeta from dy and the cache of `layer_norm`: the formulas of batch norm.

    Only the sums for dgamma and dbeta run over the kept axes instead of the reduced ones.
    """
    return dispatch.backward(PLAIN, dy, cache)


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
    return dispatch.inference(PLAIN, x, gamma, beta, mean, scale, axis)


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
    return dispatch.inference_backward(PLAIN, dy, x, gamma, beta, mean, scale, axis)
