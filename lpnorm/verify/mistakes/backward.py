"""Mistakes in the backward of batch norm and layer norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lpnorm.verify.bounds import with_eps
from lpnorm.verify.formula import (
    gradient,
    mean,
    parameter_sum,
    total,
)
from lpnorm.verify.mistakes.common import (
    Mistake,
    all_but,
    always,
    batch,
    finite,
    is_range,
    layer_norm,
    lp,
    off_centre,
    top,
)


def _safe(v: Any) -> Any:
    return v.phi + (v.phi == 0)


def _bare(v: Any) -> Any:
    """The scale without eps."""
    return np.where(v.phi > 0, v.C * v.phi, 1.0)


def _count(v: Any, *axes: int) -> int:
    return math.prod(v.x.shape[a] for a in axes)


def _other_place(v: Any) -> Any:
    """The scale with eps in the other of the two usual places."""
    place = "added" if v.place == "root" else "root"
    return with_eps(v.phi, v.p, v.eps, v.C, place)[0]


def _less_first_mean(v: Any) -> Any:
    return v - v.mean(axis=0, keepdims=True)


def _detached(v: Any) -> Any:
    return (v.g - mean(v, v.g)) / v.s


def _gradient_terms(v: Any) -> Any:
    """grad phi less its mean."""
    h = gradient(v, v.d, v.p)
    return h - mean(v, h)


BACKWARD: tuple[Mistake, ...] = (
    Mistake(
        "no mean of g",
        "dx equals the reference without the term -mean(g): the mean also depends on x",
        {"dx": lambda v: (v.g - v.T * (v.h - mean(v, v.h))) / v.s},
        always,
    ),
    Mistake(
        "no mean of h",
        "dx equals the reference without the term -mean(h), h = ds/dd: the scale depends on x "
        "through the mean too",
        {"dx": lambda v: (v.g - mean(v, v.g) - v.T * v.h) / v.s},
        off_centre,  # mean(h) is 0 for the others
    ),
    Mistake(
        "mean detached",
        "the mean is treated as a constant: both terms that come through it, -mean(g) and "
        "-mean(h), are missing from dx",
        {"dx": lambda v: (v.g - v.T * v.h) / v.s},
        off_centre,  # mean(h) is 0 for the others
    ),
    Mistake(
        "scale detached",
        "the gradient through the scale is missing (detached): the scale also depends on x",
        {"dx": _detached},
        always,
    ),
    Mistake(
        "statistics detached",
        "mean and scale are both treated as constants: dx is only g / s",
        {"dx": lambda v: v.g / v.s},
        always,
    ),
    Mistake(
        "gamma forgotten in dx",
        "gamma is missing from dx: the gradient that reaches x_hat is gamma dy, not dy",
        {"g": lambda v: v.dy},
        always,
    ),
    Mistake(
        "gamma forgotten in T",
        "gamma is missing from T = sum(g x_hat), the term that comes through the scale",
        {"T": lambda v: total(v, v.dy * v.x_hat)},
        always,
    ),
    Mistake(
        "gamma twice",
        "gamma is multiplied in twice in dx",
        {"g": lambda v: v.gamma**2 * v.dy},
        always,
    ),
    Mistake(
        "sign of T",
        "the term that comes through the scale, T (h - mean(h)), is added instead of subtracted",
        {"T": lambda v: -v.T0},
        always,
    ),
    Mistake(
        "sign of mean g",
        "mean(g) is added in dx instead of subtracted",
        {"dx": lambda v: (v.g + mean(v, v.g) - v.T * (v.h - mean(v, v.h))) / v.s},
        always,
    ),
    Mistake(
        "T with d",
        "T is sum(g d), not sum(g x_hat): it was not divided by the scale",
        {"T": lambda v: total(v, v.g * v.d)},
        always,
    ),
    Mistake(
        "T with x",
        "T is sum(g x), not sum(g x_hat)",
        {"T": lambda v: total(v, v.g * v.x)},
        always,
    ),
    Mistake(
        "T averaged",
        "T is a mean where the sum belongs: the term that comes through the scale is divided by n "
        "once too often",
        {"T": lambda v: mean(v, v.g * v.x_hat)},
        always,
    ),
    Mistake(
        "T once too large by n",
        "1/n (or 1/k) is missing from the gradient of the statistic, h = ds/dd",
        {"h": lambda v: v.h0 * (v.k if v.k > 1 else v.n)},
        lambda layer, p: finite(layer, p) or top(layer, p),
    ),
    Mistake(
        "scale not divided by",
        "dx is not divided by the scale s",
        {"dx": lambda v: v.dx0 * v.s},
        always,
    ),
    Mistake(
        "scale divided by twice",
        "dx is divided by the scale s twice",
        {"dx": lambda v: v.dx0 / v.s},
        always,
    ),
    Mistake(
        "eps missing in the backward",
        "the backward divides by the scale without eps, the forward by the scale with it",
        {
            "dx": lambda v: (
                (v.g - mean(v, v.g) - total(v, v.g * v.d / _bare(v)) * v.C * _gradient_terms(v))
                / _bare(v)
            )
        },
        always,
    ),
    Mistake(
        "eps missing in the last division",
        "the last division of dx is by the scale without eps",
        {"dx": lambda v: v.dx0 * v.s / _bare(v)},
        always,
    ),
    Mistake(
        "eps elsewhere in the last division",
        "the last division of dx is by another scale than the forward's: eps is in another place "
        "(inside the root against outside of it)",
        {"dx": lambda v: v.dx0 * v.s / _other_place(v)},
        always,
    ),
    Mistake(
        "x_hat without eps in the backward",
        "the backward computes x_hat again, without eps: T and dgamma do not use the x_hat of the "
        "forward",
        {
            "T": lambda v: total(v, v.g * v.d / _bare(v)),
            "dgamma": lambda v: parameter_sum(v, v.dy * v.d / _bare(v)),
        },
        always,
    ),
    Mistake(
        "sign of x",
        "the gradient of the statistic is taken at x, not at the deviations: sign(x) where "
        "sign(d) belongs",
        {"h": lambda v: v.slope * gradient(v, v.x, v.p)},
        lambda layer, p: finite(layer, p) and p != 2,
    ),
    Mistake(
        "gamma outside",
        "gamma multiplies dx at the end, as in batch norm: in layer norm it differs within a "
        "group, so it belongs inside the means, g = gamma dy",
        {
            "dx": lambda v: (
                v.gamma
                * (v.dy - mean(v, v.dy) - total(v, v.dy * v.x_hat) * (v.h - mean(v, v.h)))
                / v.s
            )
        },
        layer_norm,
    ),
    Mistake(
        "batch size as n",
        "the means in dx divide by the number of samples, not by the n values normalized together",
        {"dx": lambda v: (v.g - (total(v, v.g) + v.T * v.n * v.h) / v.x.shape[0]) / v.s},
        lambda layer, p: layer == "layer_norm" and p == 2,
    ),
    Mistake(
        "gamma twice in T",
        "gamma is multiplied in twice in the term that comes through the scale, T (h - mean(h))",
        {"dx": lambda v: (v.g - mean(v, v.g) - v.gamma * v.T * (v.h - mean(v, v.h))) / v.s},
        batch,
    ),
    Mistake(
        "no sign",
        "the sign of d is missing from the gradient of the statistic: d|d|/dd = sign(d)",
        {"h": lambda v: abs(v.h0)},
        all_but(1, 2),
    ),
    Mistake(
        "gradient of L2",
        "the gradient of the L2 statistic, d / (n phi), was used with another norm",
        {"h": lambda v: v.slope * gradient(v, v.d, 2)},
        all_but(2),
    ),
    Mistake(
        "power p instead of p - 1",
        "the gradient of the statistic has |d|^p where |d|^(p-1) belongs",
        {"h": lambda v: v.h0 * abs(v.d) / _safe(v)},
        lp,
    ),
    Mistake(
        "factor p",
        "the gradient of the statistic has a factor p too many: it is cancelled by that of the "
        "root, 1/p",
        {"h": lambda v: v.p * v.h0},
        lp,
    ),
    Mistake(
        "root not differentiated",
        "the root is not differentiated: a factor 1/2 (1/p) and phi^(1-p) are missing",
        {"h": lambda v: v.p * _safe(v) ** (v.p - 1) * v.h0},
        lambda layer, p: finite(layer, p) and p != 1,
    ),
    Mistake(
        "n - 1 in the backward",
        "the backward divides by n - 1 where the forward divides by n",
        {"h": lambda v: v.h0 * v.n / (v.n - 1)},
        finite,
    ),
    Mistake(
        "maximum only",
        "the gradient of the scale goes to the largest |d| alone, not to the k largest",
        {"h": lambda v: v.slope * gradient(v, v.d, math.inf)},
        top,
    ),
    Mistake(
        "minimum forgotten",
        "the gradient of the range goes to the maximum alone; the minimum takes -1",
        {"h": lambda v: np.maximum(v.h0, 0)},
        lambda layer, p: is_range(p),
    ),
    Mistake(
        "dgamma without x_hat",
        "dgamma is sum(dy), without the factor x_hat",
        {"dgamma": lambda v: parameter_sum(v, v.dy)},
        always,
    ),
    Mistake(
        "dgamma with d",
        "dgamma uses d where x_hat belongs: it was not divided by the scale",
        {"dgamma": lambda v: parameter_sum(v, v.dy * v.d)},
        always,
    ),
    Mistake(
        "dgamma with x",
        "dgamma uses x where x_hat belongs",
        {"dgamma": lambda v: parameter_sum(v, v.dy * v.x)},
        always,
    ),
    Mistake(
        "dgamma with y",
        "dgamma uses y where x_hat belongs",
        {"dgamma": lambda v: parameter_sum(v, v.dy * v.y)},
        always,
    ),
    Mistake(
        "dgamma with g",
        "dgamma has a factor gamma too many: it uses g = gamma dy where dy belongs",
        {"dgamma": lambda v: parameter_sum(v, v.gamma * v.dy * v.x_hat)},
        always,
    ),
    Mistake(
        "dgamma averaged",
        "dgamma is a mean where the sum belongs",
        {"dgamma": lambda v: v.dgamma0 / _count(v, *v.unaffine)},
        always,
    ),
    Mistake(
        "dbeta averaged",
        "dbeta is a mean where the sum belongs",
        {"dbeta": lambda v: v.dbeta0 / _count(v, *v.unaffine)},
        always,
    ),
    Mistake(
        "dbeta with gamma",
        "dbeta has a factor gamma too many",
        {"dbeta": lambda v: parameter_sum(v, v.gamma * v.dy)},
        always,
    ),
    Mistake(
        "dgamma and dbeta swapped",
        "dgamma and dbeta have changed places",
        {
            "dgamma": lambda v: parameter_sum(v, v.dy),
            "dbeta": lambda v: parameter_sum(v, v.dy * v.x_hat),
        },
        always,
    ),
    Mistake(
        "sign of dx",
        "dx has the wrong sign",
        {"dx": lambda v: -v.dx0},
        always,
    ),
)


# These do not show in arrays of two axes.
def _means_over(v: Any, axes: tuple[int, ...]) -> Any:
    """dx with means over other axes: (g - mean(g) - n mean(g x_hat) (h - mean(h))) / s, the last
    mean being 0 for p = 2, where nobody takes it."""
    n, h = v.n, np.broadcast_to(v.h, v.x.shape)
    product = (v.g * v.x_hat).mean(axis=axes, keepdims=True)
    inner = v.g - v.g.mean(axis=axes, keepdims=True)
    h = h if v.p == 2 else h - h.mean(axis=axes, keepdims=True)
    return (inner - n * product * h) / v.s


MORE_AXES: tuple[Mistake, ...] = (
    Mistake(
        "statistics over the whole sample",
        "the statistics are taken over all axes but the first, not over the normalized axis alone",
        {"axes": lambda v: tuple(range(1, v.x.ndim))},
        layer_norm,
    ),
    Mistake(
        "statistics over all axes but the last",
        "the statistics are taken over all axes but the last, not over all axes but the channels",
        {"axes": lambda v: tuple(range(v.x.ndim - 1))},
        batch,
    ),
    Mistake(
        "means over the whole sample",
        "in dx the means are taken over all axes but the first, not over the normalized axis alone",
        {"dx": lambda v: _means_over(v, tuple(range(1, v.x.ndim)))},
        layer_norm,
    ),
    Mistake(
        "means over the first axis",
        "in dx both means are taken over the first axis only, not over all axes but the channels",
        {"dx": lambda v: _means_over(v, (0,))},
        lambda layer, p: layer == "batch_norm" and p == 2,
    ),
    Mistake(
        "mean over the first axis",
        "in dx the mean is taken over the first axis only, not over all axes but the channels",
        {"dx": lambda v: _less_first_mean(v.g - v.T * v.h) / v.s},
        batch,
    ),
    Mistake(
        "dgamma averaged over positions",
        "dgamma is averaged over the positions and summed over the samples: it is a sum over both",
        {"dgamma": lambda v: v.dgamma0 * v.x.shape[0] / v.n},
        batch,
    ),
)
