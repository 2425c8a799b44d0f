"""Batch norm and layer norm, forward, backward and in evaluation."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lpnorm.verify.oracle.layout import (
    Array,
    Parameter,
    each,
    float64,
    in_groups,
    split,
    spread,
    sum_onto,
    ungroup,
)
from lpnorm.verify.oracle.statistics import (
    deviation,
    deviation_gradient,
    exact_mean,
    gaussian_constant,
)

Gradients = tuple[Array, Array | None, Array | None]


class NormOutput(NamedTuple):
    """y and x_hat in x's shape; mean (subtracted) and scale (divided by, eps included)."""

    y: Array
    x_hat: Array
    mean: Array
    scale: Array


class _Group(NamedTuple):
    """n numbers that are normalized together; slope = d scale / d deviation."""

    mean: float
    d: list[float]
    scale: float
    slope: float
    x_hat: list[float]


def _centre(x: list[float]) -> tuple[float, list[float]]:
    """The mean and the n differences x - mean, correctly rounded even where mean >> x - mean."""
    if not all(math.isfinite(v) for v in x):
        return math.nan, [math.nan] * len(x)
    mean = exact_mean(x)
    error = 2 * exact_mean([v for x_i in x for v in (x_i, -mean)])  # true mean - rounded mean
    return mean, [math.fsum((x_i, -mean, -error)) for x_i in x]


PLACES = ("added", "root", "moment", "statistic", "floor")


def with_eps(phi: float, p: Any, eps: float, c: float, place: str) -> tuple[float, float]:
    """What d is divided by, and its derivative by phi, for eps in any of five places.

    added: C phi + eps; root: ((C phi)^2 + eps)^(1/2); moment: C (phi^p + eps)^(1/p), finite p only;
    statistic: C (phi + eps); floor: max(C phi, eps). The derivative at 0 is 0 where phi counts not.
    """
    if place == "root":
        scale = math.hypot(c * phi, math.sqrt(eps))  # hypot: no overflow
        return scale, c * (c * phi / scale) if scale > 0 else math.nan
    if place == "moment":
        largest = max(phi, eps ** (1 / p))
        if not largest > 0:
            return largest, math.nan
        scale = largest * ((phi / largest) ** p + eps / largest**p) ** (1 / p)
        return c * scale, c * (phi / scale) ** (p - 1)
    if place == "floor":
        return (c * phi, c) if not c * phi <= eps else (eps, 0.0)
    return (c * (phi + eps) if place == "statistic" else c * phi + eps), c


def _normalize(x: list[float], p: Any, eps: float, c: float, place: str | None) -> _Group:
    mean, d = _centre(x)
    phi = deviation(d, p) if math.isfinite(mean) else math.nan
    scale, slope = with_eps(phi, p, eps, c, place or ("root" if p == 2 else "added"))
    if not scale > 0:  # a constant group without eps, or one that is not finite
        return _Group(mean, d, scale, math.nan, [math.nan] * len(d))
    return _Group(mean, d, scale, slope, [v / scale for v in d])


def _times_jacobian(g: list[float], group: _Group, p: Any) -> list[float]:
    """dx_j = sum_i g_i * dx_hat_i/dx_j, where g is the gradient at x_hat.

    x_hat_i = d_i / s and dd_i/dx_j = delta_ij - 1/n, so by the quotient rule
    dx_hat_i/dx_j = (delta_ij - 1/n) / s - d_i / s^2 * ds/dx_j, and by the chain rule
    ds/dx_j = sum_i ds/dd_i (delta_ij - 1/n), with ds/dd_i = ds/dphi * dphi/dd_i, phi the deviation.
    The sum of a_i (delta_ij - 1/n) over i is a_j - mean(a), which `_centre` computes.
    """
    s = group.scale
    if not s > 0:
        return [math.nan] * len(g)
    ds_dx = _centre([group.slope * h for h in deviation_gradient(group.d, p)])[1]
    through_s = math.fsum(g_i * (d_i / s) for g_i, d_i in zip(g, group.d, strict=True)) / s
    return [a / s - through_s * b for a, b in zip(_centre(g)[1], ds_dx, strict=True)]


def _norm(
    x: Array,
    gamma: Parameter,
    beta: Parameter,
    reduced: list[int],
    affine: list[int],
    p: Any,
    eps: float,
    constant: str | float | None,
    place: str | None,
) -> NormOutput:
    """Normalize over the axes `reduced`; gamma and beta have x's shape on the axes `affine`."""
    rows = in_groups(x, reduced)
    c = gaussian_constant(p, len(rows[0]), constant)
    groups = [_normalize(row, p, eps, c, place) for row in rows]
    x_hat = ungroup([group.x_hat for group in groups], reduced, x.shape)
    affine_part = spread(gamma, 1, affine, x.shape), spread(beta, 0, affine, x.shape)
    y = each(lambda v, g, b: g * v + b, x_hat, *affine_part)
    kept = [x.shape[a] for a in split(reduced, x.ndim)[1]]
    mean = np.array([group.mean for group in groups]).reshape(kept)
    return NormOutput(y, x_hat, mean, np.array([group.scale for group in groups]).reshape(kept))


def _norm_backward(
    dy: Array,
    x: Array,
    gamma: Parameter,
    beta: Parameter,
    reduced: list[int],
    affine: list[int],
    p: Any,
    eps: float,
    constant: str | float | None,
    place: str | None,
) -> Gradients:
    if dy.shape != x.shape:
        raise ValueError(f"dy has shape {dy.shape}, x {x.shape}")
    rows = in_groups(x, reduced)
    c = gaussian_constant(p, len(rows[0]), constant)
    groups = [_normalize(row, p, eps, c, place) for row in rows]
    g = each(lambda a, b: a * b, dy, spread(gamma, 1, affine, x.shape))
    dx = [_times_jacobian(*pair, p) for pair in zip(in_groups(g, reduced), groups, strict=True)]
    x_hat = ungroup([group.x_hat for group in groups], reduced, x.shape)
    dgamma = sum_onto(each(lambda a, b: a * b, dy, x_hat), affine)
    return (
        ungroup(dx, reduced, x.shape),
        None if gamma is None else dgamma,
        None if beta is None else sum_onto(dy, affine),
    )


def batch_norm(
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    p: Any = 2,
    axis: int = 1,
    eps: float = 1e-5,
    constant: str | float | None = "paper",
    place: str | None = None,
) -> NormOutput:
    """y = gamma * x_hat + beta with x_hat = (x - mean) / scale, for each of the C channels.

    x: any shape, channels on `axis`; gamma, beta: (C,) or None; mean, scale: (C,).
    scale = C * deviation + eps, or sqrt(deviation^2 + eps) for p = 2; 0 gives NaN. constant: also
    C itself; place: eps elsewhere, see `with_eps`.
    Hoffer et al. 2018, equations (5) and (6); p = 2 is Ioffe & Szegedy 2015.
    """
    channel, rest = split(axis, np.ndim(x))
    return _norm(float64(x), gamma, beta, rest, channel, p, eps, constant, place)


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    p: Any = 2,
    axis: int = 1,
    eps: float = 1e-5,
    constant: str | float | None = "paper",
    place: str | None = None,
) -> Gradients:
    """dx, dgamma, dbeta for the gradient dy at y, through the full Jacobian of x_hat.

    dy, dx: x's shape; dgamma, dbeta: (C,), None where gamma, beta are.
    """
    channel, rest = split(axis, np.ndim(x))
    return _norm_backward(
        float64(dy), float64(x), gamma, beta, rest, channel, p, eps, constant, place
    )


def layer_norm(
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    p: Any = 2,
    axis: int | Sequence[int] = -1,
    eps: float = 1e-5,
    constant: str | float | None = "paper",
    place: str | None = None,
) -> NormOutput:
    """`batch_norm`'s formula with x reduced over `axis` (one or several); Ba et al. 2016 for p = 2.

    gamma, beta: x's shape on `axis` (in x's order), or None; mean, scale: x's shape without it.
    """
    axes = split(axis, np.ndim(x))[0]
    return _norm(float64(x), gamma, beta, axes, axes, p, eps, constant, place)


def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    p: Any = 2,
    axis: int | Sequence[int] = -1,
    eps: float = 1e-5,
    constant: str | float | None = "paper",
    place: str | None = None,
) -> Gradients:
    """dx, dgamma, dbeta in the shapes of x, gamma, beta for the gradient dy (x's shape) at y."""
    axes = split(axis, np.ndim(x))[0]
    return _norm_backward(float64(dy), float64(x), gamma, beta, axes, axes, p, eps, constant, place)


def batch_norm_inference(
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    mean: ArrayLike,
    scale: ArrayLike,
    axis: int = 1,
) -> Array:
    """y = gamma * (x - mean) / scale + beta with stored statistics; shapes as in `batch_norm`."""
    x = float64(x)
    channel = split(axis, x.ndim)[0]
    given = ((gamma, 1), (beta, 0), (mean, 0), (scale, 1))
    wide = [spread(values, default, channel, x.shape) for values, default in given]
    return each(lambda v, g, b, m, s: g * ((v - m) / s if s else math.nan) + b, x, *wide)
