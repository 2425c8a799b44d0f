"""Mistakes in the forward of batch norm and layer norm: the right program with lines replaced."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from lpnorm.verify.bounds import with_eps
from lpnorm.verify.formula import (
    gaussian,
    gradient,
    mean,
    per_group,
    statistic,
)
from lpnorm.verify.mistakes.common import (
    Mistake,
    all_but,
    always,
    batch,
    finite,
    is_range,
    layer_norm,
    only,
    ordered,
    top,
)


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


def _largest_sizes(k: int, sign: int) -> Callable[[Any], Any]:
    """The mean of the k largest |d| of each row; with sign -1 of the k smallest."""
    return lambda d: np.sort(abs(d), axis=1)[:, ::-sign][:, :k].mean(axis=1, keepdims=True)


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


NO_CONSTANT = Mistake(
    "no Gaussian constant",
    "the Gaussian constant C is missing from the scale: without it x_hat does not have deviation 1",
    {"C": lambda v: 1.0},
    all_but(2),
)

FORWARD: tuple[Mistake, ...] = (
    NO_CONSTANT,
    Mistake(
        "constant inverted",
        "the scale is divided by the Gaussian constant C instead of multiplied",
        {"C": lambda v: 1 / v.C0},
        all_but(2),
    ),
    Mistake(
        "constant only in the forward",
        "the Gaussian constant C is in the forward but missing from the gradient of the scale",
        {"slope": lambda v: v.slope0 / v.C},
        all_but(2),
    ),
    Mistake(
        "constant of the wrong n: samples",
        "C is computed from the number of samples (the first axis), not from the n values that "
        "are normalized together",
        {"C": lambda v: gaussian(v.p, max(2, v.x.shape[0], v.k), v.constant)},
        ordered,
    ),
    Mistake(
        "constant of the wrong n: all values",
        "C is computed from the size of the whole array, not from the n values that are "
        "normalized together",
        {"C": lambda v: gaussian(v.p, v.x.size, v.constant)},
        ordered,
    ),
    Mistake(
        "constant of n - 1",
        "C is computed from n - 1 instead of n",
        {"C": lambda v: gaussian(v.p, max(2, v.n - 1, v.k), v.constant)},
        ordered,
    ),
    Mistake(
        "unbiased",
        "the mean under the scale divides by n - 1 instead of n: the forward uses the biased "
        "statistic (torch.var's default is the unbiased one)",
        {"phi": lambda v: v.phi0 * (v.n / (v.n - 1)) ** (1 / v.p)},
        finite,
    ),
    Mistake(
        "no absolute value",
        "the absolute value is missing: the statistic is taken of d, not of |d|",
        {"phi": _no_abs},
        only(1, 3, 5, math.inf),
    ),
    Mistake(
        "largest by value",
        "Top-k takes the k largest values d, not the k largest magnitudes |d|",
        {"phi": lambda v: per_group(v, _largest(v.k, lambda d: d), v.d)},
        top,
    ),
    Mistake(
        "magnitude forgotten in the mean",
        "Top-k chooses by magnitude but averages d, not |d|",
        {"phi": lambda v: per_group(v, _largest(v.k, abs), v.d)},
        top,
    ),
    Mistake(
        "k-th value",
        "the scale is the k-th largest |d| instead of the mean of the k largest",
        {"phi": lambda v: per_group(v, _kth(v.k), v.d)},
        top,
    ),
    Mistake(
        "sum instead of mean",
        "the statistic sums where it should average: it grows with the number of values",
        {"phi": lambda v: v.phi0 * (v.k if v.k > 1 else v.n ** (1 / v.p))},
        lambda layer, p: finite(layer, p) or top(layer, p),
    ),
    Mistake(
        "half the range",
        "the scale is half the range, (max - min) / 2",
        {"phi": lambda v: v.phi0 / 2},
        lambda layer, p: is_range(p),
    ),
    Mistake(
        "no root",
        "the root is missing: d is divided by the p-th moment instead of its p-th root",
        {"phi": lambda v: v.phi0**v.p},
        lambda layer, p: finite(layer, p) and p != 1,
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
        all_but(2),
    ),
    Mistake(
        "L1 instead",
        "this is another norm: the L1 norm, mean|d|, was computed",
        {
            "phi": lambda v: statistic(v, v.d, 1),
            "C": lambda v: gaussian(1, v.n, v.constant),
            "h": lambda v: v.slope * gradient(v, v.d, 1),
        },
        only(2),
    ),
    Mistake(
        "smallest",
        "the k smallest |d| are averaged, not the k largest",
        {"phi": lambda v: per_group(v, _largest_sizes(v.k, -1), v.d)},
        top,
    ),
    Mistake(
        "largest alone",
        "the scale is the largest |d| alone (k = 1), not the mean of the k largest",
        {
            "phi": lambda v: statistic(v, v.d, math.inf),
            "h": lambda v: v.slope * gradient(v, v.d, math.inf),
        },
        top,
    ),
    Mistake(
        "median",
        "the values are centred at their median, not at their mean",
        {"mu": lambda v: np.median(v.x, axis=v.axes, keepdims=True)},
        always,
    ),
    Mistake(
        "no mean at all",
        "no mean is subtracted anywhere (RMS norm): d = x, and dx has no term through the mean",
        {"mu": lambda v: 0 * v.mu0, "dx": lambda v: (v.g - v.T * v.h) / v.s},
        always,
    ),
    Mistake(
        "scale from x",
        "the scale is measured on x, not on the deviations d = x - mean(x)",
        {"phi": lambda v: statistic(v, v.x, v.p)},
        lambda layer, p: not is_range(p),
    ),
    Mistake(
        "mean not subtracted",
        "the mean is not subtracted: y is gamma x / s + beta",
        {"x_hat": lambda v: v.x / v.s},
        always,
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
        lambda layer, p: layer == "batch_norm" and finite(layer, p),
    ),
    Mistake(
        "one scale",
        "one scale for all groups: the statistic is taken over the whole array",
        {"phi": lambda v: _everywhere(v)},
        finite,
    ),
    Mistake(
        "statistics per sample",
        "the statistics are taken over the spatial axes of each sample (instance norm), not over "
        "all axes but the channels",
        {"axes": lambda v: v.reduced[1:]},
        batch,
    ),
    Mistake(
        "statistics over the samples only",
        "the statistics are taken over the first axis only, for each position apart, not over "
        "all axes but the channels",
        {"axes": lambda v: (0,)},
        batch,
    ),
    Mistake(
        "statistics over the wrong axis",
        "the statistics are taken over the channels of each sample (layer norm), not over all "
        "axes but the channels",
        {"axes": lambda v: tuple(range(1, v.x.ndim))},
        batch,
    ),
    Mistake(
        "statistics over everything",
        "one mean and one scale for the whole array, instead of one for each group",
        {"axes": lambda v: tuple(range(v.x.ndim))},
        always,
    ),
    Mistake(
        "statistics over the batch",
        "the statistics are taken over the samples (batch norm), not over the normalized axis",
        {"axes": lambda v: v.unaffine},
        layer_norm,
    ),
    Mistake(
        "gamma forgotten",
        "gamma is missing from y",
        {"y": lambda v: v.x_hat + v.beta, "g": lambda v: v.dy},
        always,
    ),
    Mistake(
        "absolute gamma",
        "|gamma| is used where gamma belongs",
        {"y": lambda v: abs(v.gamma) * v.x_hat + v.beta, "g": lambda v: abs(v.gamma) * v.dy},
        always,
    ),
    Mistake("beta forgotten", "beta is missing from y", {"y": lambda v: v.gamma * v.x_hat}, always),
    Mistake(
        "beta inside",
        "gamma multiplies beta too: y = gamma (x_hat + beta)",
        {"y": lambda v: v.gamma * (v.x_hat + v.beta)},
        always,
    ),
    Mistake(
        "gamma plus one",
        "gamma is taken as 1 + gamma",
        {"y": lambda v: (1 + v.gamma) * v.x_hat + v.beta, "g": lambda v: (1 + v.gamma) * v.dy},
        always,
    ),
    Mistake(
        "gamma and beta swapped",
        "gamma and beta have changed places",
        {"y": lambda v: v.beta * v.x_hat + v.gamma, "g": lambda v: v.beta * v.dy},
        always,
    ),
    Mistake(
        "beta subtracted",
        "beta is subtracted instead of added",
        {"y": lambda v: v.gamma * v.x_hat - v.beta},
        always,
    ),
    Mistake(
        "eps twice",
        "eps is added twice",
        {"s": lambda v: with_eps(v.phi, v.p, 2 * v.eps, v.C, v.place)[0]},
        always,
    ),
    Mistake(
        "eps squared",
        "eps is squared before it is added",
        {"s": lambda v: with_eps(v.phi, v.p, v.eps**2, v.C, v.place)[0]},
        always,
    ),
    Mistake(
        "eps subtracted",
        "eps is subtracted instead of added",
        {"s": lambda v: with_eps(v.phi, v.p, -v.eps, v.C, v.place)[0]},
        all_but(2),
    ),
)
