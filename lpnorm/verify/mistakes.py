"""The catalogue: mistakes people make in normalizers, each the right program with lines replaced.

A candidate that is wrong is compared with every entry that applies to its layer and norm; the
entry that reproduces its numbers is the diagnosis, and the lines it replaced are what to compare
with. Values: see `variants.NORM`. Entries that give the same numbers as another for some norm do
not apply to that norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from lpnorm.norms import Range, TopK, gaussian_constant
from lpnorm.verify.bounds import with_eps
from lpnorm.verify.variants import (
    NORM,
    Value,
    gradient,
    mean,
    parameter_sum,
    per_group,
    statistic,
    text,
    total,
)


@dataclass(frozen=True)
class Mistake:
    """A known mistake: its name, what to say, the lines it replaces, and where it applies."""

    name: str
    diagnosis: str
    lines: dict[str, Value]
    applies: Callable[[str, Any], bool]  # of layer and p

    @property
    def compare(self) -> str:
        """The lines of mathematics the mistake departs from, as they should read."""
        return ";  ".join(text(NORM, name) for name in self.lines)


def _any(layer: str, p: Any) -> bool:
    return True


def _finite(layer: str, p: Any) -> bool:
    return isinstance(p, (int, float)) and math.isfinite(p)


def _not(*excluded: Any) -> Callable[[str, Any], bool]:
    return lambda layer, p: p not in excluded


def _only(*included: Any) -> Callable[[str, Any], bool]:
    return lambda layer, p: p in included


def _lp(layer: str, p: Any) -> bool:
    return _finite(layer, p) and p not in (1, 2)


def _top(layer: str, p: Any) -> bool:
    return isinstance(p, TopK) and p.k > 1


def _ordered(layer: str, p: Any) -> bool:
    return isinstance(p, (TopK, Range)) or p == math.inf


def _batch(layer: str, p: Any) -> bool:
    return layer == "batch_norm"


def _layer(layer: str, p: Any) -> bool:
    return layer == "layer_norm"


def _safe(v: Any) -> Any:
    return v.phi + (v.phi == 0)


def _bare(v: Any) -> Any:
    """The scale without eps."""
    return np.where(v.phi > 0, v.C * v.phi, 1.0)


def _largest(k: int, key: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The mean over the k entries of each row that are largest by a key."""

    def rows(d: Any) -> Any:
        chosen = np.argsort(-key(d), axis=1, kind="stable")[:, :k]
        return np.take_along_axis(d, chosen, 1).mean(axis=1, keepdims=True)

    return rows


def _kth(k: int) -> Callable[[Any], Any]:
    return lambda d: np.sort(abs(d), axis=1)[:, -k][:, None]


def _no_abs(v: Any) -> Any:
    if v.p == math.inf:
        return v.d.max(axis=v.axes, keepdims=True)
    return mean(v, v.d**v.p) ** (1 / v.p)


def _off_centre(layer: str, p: Any) -> bool:
    return p != 2 and not isinstance(p, Range)


def _count(v: Any, *axes: int) -> int:
    return math.prod(v.x.shape[a] for a in axes)


def _largest_sizes(k: int, sign: int) -> Callable[[Any], Any]:
    """The mean of the k largest |d| of each row; with sign -1 of the k smallest."""
    return lambda d: np.sort(abs(d), axis=1)[:, ::-sign][:, :k].mean(axis=1, keepdims=True)


def _other_place(v: Any) -> Any:
    """The scale with eps in the other of the two usual places."""
    place = "added" if v.place == "root" else "root"
    return with_eps(v.phi, v.p, v.eps, v.C, place)[0]


def _everywhere(v: Any) -> Any:
    """The statistic over the whole array, in the shape of v.phi."""
    every = SimpleNamespace(axes=tuple(range(v.x.ndim)))
    return np.broadcast_to(per_group(every, lambda d: _moment(d, v.p), v.d), v.phi0.shape)


def _moment(d: Any, p: float) -> Any:
    return (abs(d) ** p).mean(axis=1, keepdims=True) ** (1 / p)


def _as_rows(v: Any, a: Any, f: Callable[[Any], Any]) -> Any:
    """f of the rows of a, as if channels were the first axis; in a's shape."""
    rows = a.reshape(a.size // v.n, -1)
    return np.broadcast_to(f(rows), rows.shape).reshape(a.shape)


def _channel(v: Any, parameter: Any) -> Any:
    return _as_rows(v, v.x, lambda rows: np.reshape(parameter, (-1, 1)))


def _less_first_mean(v: Any) -> Any:
    return v - v.mean(axis=0, keepdims=True)


def _detached(v: Any) -> Any:
    return (v.g - mean(v, v.g)) / v.s


NO_CONSTANT = Mistake(
    "no Gaussian constant",
    "the Gaussian constant C is missing from the scale: without it x_hat does not have deviation 1",
    {"C": lambda v: 1.0},
    _not(2),
)

FORWARD: tuple[Mistake, ...] = (
    NO_CONSTANT,
    Mistake(
        "constant inverted",
        "the scale is divided by the Gaussian constant C instead of multiplied",
        {"C": lambda v: 1 / v.C0},
        _not(2),
    ),
    Mistake(
        "constant only in the forward",
        "the Gaussian constant C is in the forward but missing from the gradient of the scale",
        {"slope": lambda v: v.slope0 / v.C},
        _not(2),
    ),
    Mistake(
        "constant of the wrong n: samples",
        "C is computed from the number of samples (the first axis), not from the n values that "
        "are normalized together",
        {"C": lambda v: gaussian_constant(v.p, max(2, v.x.shape[0], v.k), v.constant)},
        _ordered,
    ),
    Mistake(
        "constant of the wrong n: all values",
        "C is computed from the size of the whole array, not from the n values that are "
        "normalized together",
        {"C": lambda v: gaussian_constant(v.p, v.x.size, v.constant)},
        _ordered,
    ),
    Mistake(
        "constant of n - 1",
        "C is computed from n - 1 instead of n",
        {"C": lambda v: gaussian_constant(v.p, max(2, v.n - 1, v.k), v.constant)},
        _ordered,
    ),
    Mistake(
        "unbiased",
        "the mean under the scale divides by n - 1 instead of n: the forward uses the biased "
        "statistic (torch.var's default is the unbiased one)",
        {"phi": lambda v: v.phi0 * (v.n / (v.n - 1)) ** (1 / v.p)},
        _finite,
    ),
    Mistake(
        "no absolute value",
        "the absolute value is missing: the statistic is taken of d, not of |d|",
        {"phi": _no_abs},
        _only(1, 3, 5, math.inf),
    ),
    Mistake(
        "largest by value",
        "Top-k takes the k largest values d, not the k largest magnitudes |d|",
        {"phi": lambda v: per_group(v, _largest(v.k, lambda d: d), v.d)},
        _top,
    ),
    Mistake(
        "magnitude forgotten in the mean",
        "Top-k chooses by magnitude but averages d, not |d|",
        {"phi": lambda v: per_group(v, _largest(v.k, abs), v.d)},
        _top,
    ),
    Mistake(
        "k-th value",
        "the scale is the k-th largest |d| instead of the mean of the k largest",
        {"phi": lambda v: per_group(v, _kth(v.k), v.d)},
        _top,
    ),
    Mistake(
        "sum instead of mean",
        "the statistic sums where it should average: it grows with the number of values",
        {"phi": lambda v: v.phi0 * (v.k if v.k > 1 else v.n ** (1 / v.p))},
        lambda layer, p: _finite(layer, p) or _top(layer, p),
    ),
    Mistake(
        "half the range",
        "the scale is half the range, (max - min) / 2",
        {"phi": lambda v: v.phi0 / 2},
        lambda layer, p: isinstance(p, Range),
    ),
    Mistake(
        "no root",
        "the root is missing: d is divided by the p-th moment instead of its p-th root",
        {"phi": lambda v: v.phi0**v.p},
        lambda layer, p: _finite(layer, p) and p != 1,
    ),
    Mistake(
        "L2 instead",
        "this is another norm: the L2 norm, sqrt(mean(d^2)), was computed",
        {
            "phi": lambda v: statistic(v, v.d, 2),
            "C": lambda v: 1.0,
            "s": lambda v: with_eps(v.phi, 2, v.eps, 1.0, v.place)[0],
            "slope": lambda v: with_eps(v.phi, 2, v.eps, 1.0, v.place)[1],
            "h": lambda v: v.slope * gradient(v, v.d, 2),
        },
        _not(2),
    ),
    Mistake(
        "L1 instead",
        "this is another norm: the L1 norm, mean|d|, was computed",
        {
            "phi": lambda v: statistic(v, v.d, 1),
            "C": lambda v: gaussian_constant(1, v.n, v.constant),
            "h": lambda v: v.slope * gradient(v, v.d, 1),
        },
        _only(2),
    ),
    Mistake(
        "smallest",
        "the k smallest |d| are averaged, not the k largest",
        {"phi": lambda v: per_group(v, _largest_sizes(v.k, -1), v.d)},
        _top,
    ),
    Mistake(
        "largest alone",
        "the scale is the largest |d| alone (k = 1), not the mean of the k largest",
        {
            "phi": lambda v: statistic(v, v.d, math.inf),
            "h": lambda v: v.slope * gradient(v, v.d, math.inf),
        },
        _top,
    ),
    Mistake(
        "median",
        "the values are centred at their median, not at their mean",
        {"mu": lambda v: np.median(v.x, axis=v.axes, keepdims=True)},
        _any,
    ),
    Mistake(
        "no mean at all",
        "no mean is subtracted anywhere (RMS norm): d = x, and dx has no term through the mean",
        {"mu": lambda v: 0 * v.mu0, "dx": lambda v: (v.g - v.T * v.h) / v.s},
        _any,
    ),
    Mistake(
        "scale from x",
        "the scale is measured on x, not on the deviations d = x - mean(x)",
        {"phi": lambda v: statistic(v, v.x, v.p)},
        lambda layer, p: not isinstance(p, Range),
    ),
    Mistake(
        "mean not subtracted",
        "the mean is not subtracted: y is gamma x / s + beta",
        {"x_hat": lambda v: v.x / v.s},
        _any,
    ),
    Mistake(
        "reshape without transpose",
        "x was reshaped to (channels, -1) without moving the channels to the front: its rows mix "
        "the channels",
        {
            "mu": lambda v: _as_rows(v, v.x, lambda rows: rows.mean(axis=1, keepdims=True)),
            "phi": lambda v: _as_rows(v, v.d, lambda rows: _moment(rows, v.p)),
            "y": lambda v: _channel(v, v.gamma) * v.x_hat + _channel(v, v.beta),
        },
        lambda layer, p: layer == "batch_norm" and _finite(layer, p),
    ),
    Mistake(
        "one scale",
        "one scale for all groups: the statistic is taken over the whole array",
        {"phi": lambda v: _everywhere(v)},
        _finite,
    ),
    Mistake(
        "statistics per sample",
        "the statistics are taken over the spatial axes of each sample (instance norm), not over "
        "all axes but the channels",
        {"axes": lambda v: v.reduced[1:]},
        _batch,
    ),
    Mistake(
        "statistics over the samples only",
        "the statistics are taken over the first axis only, for each position apart, not over "
        "all axes but the channels",
        {"axes": lambda v: (0,)},
        _batch,
    ),
    Mistake(
        "statistics over the wrong axis",
        "the statistics are taken over the channels of each sample (layer norm), not over all "
        "axes but the channels",
        {"axes": lambda v: tuple(range(1, v.x.ndim))},
        _batch,
    ),
    Mistake(
        "statistics over everything",
        "one mean and one scale for the whole array, instead of one for each group",
        {"axes": lambda v: tuple(range(v.x.ndim))},
        _any,
    ),
    Mistake(
        "statistics over the batch",
        "the statistics are taken over the samples (batch norm), not over the normalized axis",
        {"axes": lambda v: v.unaffine},
        _layer,
    ),
    Mistake(
        "gamma forgotten",
        "gamma is missing from y",
        {"y": lambda v: v.x_hat + v.beta, "g": lambda v: v.dy},
        _any,
    ),
    Mistake("beta forgotten", "beta is missing from y", {"y": lambda v: v.gamma * v.x_hat}, _any),
    Mistake(
        "beta inside",
        "gamma multiplies beta too: y = gamma (x_hat + beta)",
        {"y": lambda v: v.gamma * (v.x_hat + v.beta)},
        _any,
    ),
    Mistake(
        "gamma plus one",
        "gamma is taken as 1 + gamma",
        {"y": lambda v: (1 + v.gamma) * v.x_hat + v.beta, "g": lambda v: (1 + v.gamma) * v.dy},
        _any,
    ),
    Mistake(
        "gamma and beta swapped",
        "gamma and beta have changed places",
        {"y": lambda v: v.beta * v.x_hat + v.gamma, "g": lambda v: v.beta * v.dy},
        _any,
    ),
    Mistake(
        "beta subtracted",
        "beta is subtracted instead of added",
        {"y": lambda v: v.gamma * v.x_hat - v.beta},
        _any,
    ),
    Mistake(
        "eps twice",
        "eps is added twice",
        {"s": lambda v: with_eps(v.phi, v.p, 2 * v.eps, v.C, v.place)[0]},
        _any,
    ),
    Mistake(
        "eps squared",
        "eps is squared before it is added",
        {"s": lambda v: with_eps(v.phi, v.p, v.eps**2, v.C, v.place)[0]},
        _any,
    ),
    Mistake(
        "eps subtracted",
        "eps is subtracted instead of added",
        {"s": lambda v: with_eps(v.phi, v.p, -v.eps, v.C, v.place)[0]},
        _not(2),
    ),
)

BACKWARD: tuple[Mistake, ...] = (
    Mistake(
        "no mean of g",
        "dx equals the reference without the term -mean(g): the mean also depends on x",
        {"dx": lambda v: (v.g - v.T * (v.h - mean(v, v.h))) / v.s},
        _any,
    ),
    Mistake(
        "no mean of h",
        "dx equals the reference without the term -mean(h), h = ds/dd: the scale depends on x "
        "through the mean too",
        {"dx": lambda v: (v.g - mean(v, v.g) - v.T * v.h) / v.s},
        _off_centre,  # mean(h) is 0 for the others
    ),
    Mistake(
        "mean detached",
        "the mean is treated as a constant: both terms that come through it, -mean(g) and "
        "-mean(h), are missing from dx",
        {"dx": lambda v: (v.g - v.T * v.h) / v.s},
        _off_centre,  # mean(h) is 0 for the others
    ),
    Mistake(
        "scale detached",
        "the gradient through the scale is missing (detached): the scale also depends on x",
        {"dx": _detached},
        _any,
    ),
    Mistake(
        "statistics detached",
        "mean and scale are both treated as constants: dx is only g / s",
        {"dx": lambda v: v.g / v.s},
        _any,
    ),
    Mistake(
        "gamma forgotten in dx",
        "gamma is missing from dx: the gradient that reaches x_hat is gamma dy, not dy",
        {"g": lambda v: v.dy},
        _any,
    ),
    Mistake(
        "gamma forgotten in T",
        "gamma is missing from T = sum(g x_hat), the term that comes through the scale",
        {"T": lambda v: total(v, v.dy * v.x_hat)},
        _any,
    ),
    Mistake(
        "gamma twice",
        "gamma is multiplied in twice in dx",
        {"g": lambda v: v.gamma**2 * v.dy},
        _any,
    ),
    Mistake(
        "sign of T",
        "the term that comes through the scale, T (h - mean(h)), is added instead of subtracted",
        {"T": lambda v: -v.T0},
        _any,
    ),
    Mistake(
        "sign of mean g",
        "mean(g) is added in dx instead of subtracted",
        {"dx": lambda v: (v.g + mean(v, v.g) - v.T * (v.h - mean(v, v.h))) / v.s},
        _any,
    ),
    Mistake(
        "T with d",
        "T is sum(g d), not sum(g x_hat): it was not divided by the scale",
        {"T": lambda v: total(v, v.g * v.d)},
        _any,
    ),
    Mistake(
        "T with x",
        "T is sum(g x), not sum(g x_hat)",
        {"T": lambda v: total(v, v.g * v.x)},
        _any,
    ),
    Mistake(
        "T averaged",
        "T is a mean where the sum belongs: the term that comes through the scale is divided by n "
        "once too often",
        {"T": lambda v: mean(v, v.g * v.x_hat)},
        _any,
    ),
    Mistake(
        "T once too large by n",
        "1/n (or 1/k) is missing from the gradient of the statistic, h = ds/dd",
        {"h": lambda v: v.h0 * (v.k if v.k > 1 else v.n)},
        lambda layer, p: _finite(layer, p) or _top(layer, p),
    ),
    Mistake(
        "scale not divided by",
        "dx is not divided by the scale s",
        {"dx": lambda v: v.dx0 * v.s},
        _any,
    ),
    Mistake(
        "scale divided by twice",
        "dx is divided by the scale s twice",
        {"dx": lambda v: v.dx0 / v.s},
        _any,
    ),
    Mistake(
        "eps missing in the backward",
        "the backward divides by the scale without eps, the forward by the scale with it",
        {
            "dx": lambda v: (
                (v.g - mean(v, v.g) - total(v, v.g * v.d / _bare(v)) * v.C * gradient_terms(v))
                / _bare(v)
            )
        },
        _any,
    ),
    Mistake(
        "eps missing in the last division",
        "the last division of dx is by the scale without eps",
        {"dx": lambda v: v.dx0 * v.s / _bare(v)},
        _any,
    ),
    Mistake(
        "eps elsewhere in the last division",
        "the last division of dx is by another scale than the forward's: eps is in another place "
        "(inside the root against outside of it)",
        {"dx": lambda v: v.dx0 * v.s / _other_place(v)},
        _any,
    ),
    Mistake(
        "x_hat without eps in the backward",
        "the backward computes x_hat again, without eps: T and dgamma do not use the x_hat of the "
        "forward",
        {
            "T": lambda v: total(v, v.g * v.d / _bare(v)),
            "dgamma": lambda v: parameter_sum(v, v.dy * v.d / _bare(v)),
        },
        _any,
    ),
    Mistake(
        "sign of x",
        "the gradient of the statistic is taken at x, not at the deviations: sign(x) where "
        "sign(d) belongs",
        {"h": lambda v: v.slope * gradient(v, v.x, v.p)},
        lambda layer, p: _finite(layer, p) and p != 2,
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
        _layer,
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
        _batch,
    ),
    Mistake(
        "no sign",
        "the sign of d is missing from the gradient of the statistic: d|d|/dd = sign(d)",
        {"h": lambda v: abs(v.h0)},
        _not(1, 2),
    ),
    Mistake(
        "gradient of L2",
        "the gradient of the L2 statistic, d / (n phi), was used with another norm",
        {"h": lambda v: v.slope * gradient(v, v.d, 2)},
        _not(2),
    ),
    Mistake(
        "power p instead of p - 1",
        "the gradient of the statistic has |d|^p where |d|^(p-1) belongs",
        {"h": lambda v: v.h0 * abs(v.d) / _safe(v)},
        _lp,
    ),
    Mistake(
        "factor p",
        "the gradient of the statistic has a factor p too many: it is cancelled by that of the "
        "root, 1/p",
        {"h": lambda v: v.p * v.h0},
        _lp,
    ),
    Mistake(
        "root not differentiated",
        "the root is not differentiated: a factor 1/2 (1/p) and phi^(1-p) are missing",
        {"h": lambda v: v.p * _safe(v) ** (v.p - 1) * v.h0},
        lambda layer, p: _finite(layer, p) and p != 1,
    ),
    Mistake(
        "n - 1 in the backward",
        "the backward divides by n - 1 where the forward divides by n",
        {"h": lambda v: v.h0 * v.n / (v.n - 1)},
        _finite,
    ),
    Mistake(
        "maximum only",
        "the gradient of the scale goes to the largest |d| alone, not to the k largest",
        {"h": lambda v: v.slope * gradient(v, v.d, math.inf)},
        _top,
    ),
    Mistake(
        "minimum forgotten",
        "the gradient of the range goes to the maximum alone; the minimum takes -1",
        {"h": lambda v: np.maximum(v.h0, 0)},
        lambda layer, p: isinstance(p, Range),
    ),
    Mistake(
        "dgamma without x_hat",
        "dgamma is sum(dy), without the factor x_hat",
        {"dgamma": lambda v: parameter_sum(v, v.dy)},
        _any,
    ),
    Mistake(
        "dgamma with d",
        "dgamma uses d where x_hat belongs: it was not divided by the scale",
        {"dgamma": lambda v: parameter_sum(v, v.dy * v.d)},
        _any,
    ),
    Mistake(
        "dgamma with x",
        "dgamma uses x where x_hat belongs",
        {"dgamma": lambda v: parameter_sum(v, v.dy * v.x)},
        _any,
    ),
    Mistake(
        "dgamma with y",
        "dgamma uses y where x_hat belongs",
        {"dgamma": lambda v: parameter_sum(v, v.dy * v.y)},
        _any,
    ),
    Mistake(
        "dgamma with g",
        "dgamma has a factor gamma too many: it uses g = gamma dy where dy belongs",
        {"dgamma": lambda v: parameter_sum(v, v.gamma * v.dy * v.x_hat)},
        _any,
    ),
    Mistake(
        "dgamma averaged",
        "dgamma is a mean where the sum belongs",
        {"dgamma": lambda v: v.dgamma0 / _count(v, *v.unaffine)},
        _any,
    ),
    Mistake(
        "dbeta averaged",
        "dbeta is a mean where the sum belongs",
        {"dbeta": lambda v: v.dbeta0 / _count(v, *v.unaffine)},
        _any,
    ),
    Mistake(
        "dbeta with gamma",
        "dbeta has a factor gamma too many",
        {"dbeta": lambda v: parameter_sum(v, v.gamma * v.dy)},
        _any,
    ),
    Mistake(
        "dgamma and dbeta swapped",
        "dgamma and dbeta have changed places",
        {
            "dgamma": lambda v: parameter_sum(v, v.dy),
            "dbeta": lambda v: parameter_sum(v, v.dy * v.x_hat),
        },
        _any,
    ),
    Mistake(
        "sign of dx",
        "dx has the wrong sign",
        {"dx": lambda v: -v.dx0},
        _any,
    ),
)


# These do not show in arrays of two axes.
MORE_AXES: tuple[Mistake, ...] = (
    Mistake(
        "statistics over the whole sample",
        "the statistics are taken over all axes but the first, not over the normalized axis alone",
        {"axes": lambda v: tuple(range(1, v.x.ndim))},
        _layer,
    ),
    Mistake(
        "mean over the first axis",
        "in dx the mean is taken over the first axis only, not over all axes but the channels",
        {"dx": lambda v: _less_first_mean(v.g - v.T * v.h) / v.s},
        _batch,
    ),
    Mistake(
        "dgamma averaged over positions",
        "dgamma is averaged over the positions and summed over the samples: it is a sum over both",
        {"dgamma": lambda v: v.dgamma0 * v.x.shape[0] / v.n},
        _batch,
    ),
)
CATALOGUE = FORWARD + BACKWARD + MORE_AXES


def gradient_terms(v: Any) -> Any:
    """grad phi less its mean."""
    h = gradient(v, v.d, v.p)
    return h - mean(v, h)
