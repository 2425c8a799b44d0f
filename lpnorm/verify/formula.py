"""Each layer's formula as a list of lines, so that a variant is: these lines replaced.

This is what diagnosis needs: an accepted convention or a known mistake (`mistakes`) is the right
program with one line or a few replaced, and an output is a sum of known terms, so that how often it
holds each of them is a measurement. Plain NumPy float64, sharing no code with the library; the
verdict on values comes from the oracle, never from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from lpnorm.verify import oracle
from lpnorm.verify.bounds import with_eps

Array = np.ndarray
Value = Callable[[SimpleNamespace], Any]


@dataclass(frozen=True)
class Line:
    """One line of mathematics: what it defines, how it reads, how it is computed."""

    name: str
    text: str
    value: Value


@dataclass(frozen=True)
class Terms:
    """An output times `factor` is the sum of the terms, each so many times: (text, times, value).

    Terms that belong there 0 times are those that people put there.
    """

    factor: Value
    terms: tuple[tuple[str, float, Value], ...]


@dataclass(frozen=True)
class Formula:
    """The lines in order, the outputs among them, the lines that the first output comes from, and
    what the outputs are sums of."""

    lines: tuple[Line, ...]
    outputs: tuple[str, ...]
    forward: frozenset[str]
    terms: dict[str, Terms] = field(default_factory=dict)

    def run(
        self,
        given: Mapping[str, Any],
        replaced: Mapping[str, Value] | None = None,
        until: str = "",
    ) -> SimpleNamespace:
        """All values, from the given ones, some lines replaced; until: up to this line.

        A replacement may use what the right line gives: the value of `dx`, say, is there as `dx0`.
        """
        v = SimpleNamespace(**given)
        with np.errstate(all="ignore"):
            for line in self.lines:
                setattr(v, line.name, line.value(v))
                if replaced and line.name in replaced:
                    setattr(v, line.name + "0", getattr(v, line.name))
                    setattr(v, line.name, replaced[line.name](v))
                if line.name == until:
                    break
        return v

    def text(self, *names: str) -> str:
        """How the lines of these names read."""
        return ";  ".join(line.text for name in names for line in self.lines if line.name == name)


# ---- the statistics, row by row: (groups, n) to (groups, 1) -----------------------------------


def row_statistic(d: Array, p: Any) -> Array:
    """(mean |d|^p)^(1/p), max |d|, the mean of the k largest |d|, or max d - min d of each row:
    (groups, n) to (groups, 1), float64 (Hoffer et al. 2018, equations (5) and (6))."""
    if type(p).__name__ == "Range":
        return np.asarray(d.max(axis=1, keepdims=True) - d.min(axis=1, keepdims=True))
    size = abs(d)
    largest = size.max(axis=1, keepdims=True)
    if p == math.inf:
        return np.asarray(largest)
    if hasattr(p, "k"):
        return np.asarray(np.sort(size, axis=1)[:, d.shape[1] - p.k :].mean(axis=1, keepdims=True))
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(largest * ((size / unit) ** p).mean(axis=1, keepdims=True) ** (1 / p))


def row_gradient(d: Array, p: Any) -> Array:
    """The gradient of `row_statistic` by d, (groups, n).

    Finite p: from phi^p = mean |d|^p follows p phi^(p-1) dphi/dd_i = p |d_i|^(p-1) sign(d_i) / n,
    so dphi/dd_i = sign(d_i) (|d_i| / phi)^(p-1) / n. Top-k, infinity (k = 1): sign(d_i) / k on the
    k largest; Range: +1 at the maximum, -1 at the minimum. Ties share equally, sign(0) = 0, and
    where phi is 0 so is the gradient.
    """
    if type(p).__name__ == "Range":
        top, low = d == d.max(axis=1, keepdims=True), d == d.min(axis=1, keepdims=True)
        high, deep = (e / e.sum(axis=1, keepdims=True) for e in (top, low))
        return np.asarray(high - deep)
    size, sign = abs(d), np.sign(d)
    phi = row_statistic(d, p)
    if p == math.inf or hasattr(p, "k"):
        k = getattr(p, "k", 1)
        last = np.sort(size, axis=1)[:, d.shape[1] - k][:, None]
        above, tied = size > last, size == last
        left = k - above.sum(axis=1, keepdims=True)
        return np.asarray(sign * (above + tied * left / tied.sum(axis=1, keepdims=True)) / k)
    unit = np.where(phi > 0, phi, 1.0)
    return np.asarray(sign * (size / unit) ** (p - 1) / d.shape[1])


# ---- helpers the lines are written with -------------------------------------------------------


def rows_of(a: Array, axes: tuple[int, ...]) -> Array:
    """(groups, n): the axes reduced last."""
    kept = [i for i in range(a.ndim) if i not in axes]
    moved = a.transpose([*kept, *sorted(axes)])
    return np.ascontiguousarray(moved).reshape(math.prod(a.shape[i] for i in kept), -1)


def from_rows(rows: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """The inverse of `rows_of`."""
    order = [*(i for i in range(len(shape)) if i not in axes), *sorted(axes)]
    return np.ascontiguousarray(
        rows.reshape([shape[i] for i in order]).transpose(np.argsort(order))
    )


def mean(v: SimpleNamespace, a: Array) -> Array:
    return np.broadcast_to(a, v.x.shape).mean(axis=v.axes, keepdims=True)


def total(v: SimpleNamespace, a: Array) -> Array:
    return np.broadcast_to(a, v.x.shape).sum(axis=v.axes, keepdims=True)


def per_group(v: SimpleNamespace, f: Callable[[Array], Array], a: Array) -> Array:
    """f, which maps rows to one number a row or to rows, on each group of a."""
    result = f(rows_of(a, v.axes))
    if result.shape[-1] == 1:
        return result.reshape([1 if i in v.axes else size for i, size in enumerate(a.shape)])
    return from_rows(result, a.shape, v.axes)


def statistic(v: SimpleNamespace, d: Array, p: Any) -> Array:
    return per_group(v, lambda rows: row_statistic(rows, p), d)


def gradient(v: SimpleNamespace, d: Array, p: Any) -> Array:
    return per_group(v, lambda rows: row_gradient(rows, p), d)


def constant(v: SimpleNamespace, n: int) -> float:
    if isinstance(v.constant, float):
        return v.constant
    if v.p == 2:
        return 1.0
    return gaussian(v.p, max(n, getattr(v.p, "k", 1)), v.constant)


@lru_cache(maxsize=4096)
def gaussian(p: Any, n: int, constant: str | None) -> float:
    """`oracle.gaussian_constant`, kept."""
    return float(oracle.gaussian_constant(p, n, constant))


def parameter_sum(v: SimpleNamespace, a: Array) -> Array:
    return np.broadcast_to(a, v.x.shape).sum(axis=v.unaffine)


def _one(v: SimpleNamespace) -> float:
    return 1.0


# ---- batch norm and layer norm ----------------------------------------------------------------
# Given: x, dy, gamma and beta (broadcastable to x), reduced (axes normalized over), unaffine (axes
# gamma and beta do not have), p, eps, place, constant.

NORM = Formula(
    (
        Line("axes", "the axes reduced", lambda v: v.reduced),
        Line("n", "n values in a group", lambda v: math.prod(v.x.shape[a] for a in v.axes)),
        Line("mu", "mu = mean(x)", lambda v: mean(v, v.x)),
        Line("d", "d = x - mu", lambda v: v.x - v.mu),
        Line("phi", "phi = statistic(d)", lambda v: statistic(v, v.d, v.p)),
        Line("C", "C = the Gaussian constant of p and n", lambda v: constant(v, v.n)),
        Line(
            "s",
            "s = C phi + eps; for p = 2 s = sqrt(phi^2 + eps)",
            lambda v: with_eps(v.phi, v.p, v.eps, v.C, v.place)[0],
        ),
        Line("x_hat", "x_hat = d / s", lambda v: v.d / v.s),
        Line("y", "y = gamma x_hat + beta", lambda v: v.gamma * v.x_hat + v.beta),
        Line("g", "g = gamma dy", lambda v: v.gamma * v.dy),
        Line(
            "slope",
            "ds/dphi = C; for p = 2 phi / s",
            lambda v: with_eps(v.phi, v.p, v.eps, v.C, v.place)[1],
        ),
        Line("h", "h = ds/dd = (ds/dphi) grad phi(d)", lambda v: v.slope * gradient(v, v.d, v.p)),
        Line("T", "T = sum(g x_hat)", lambda v: total(v, v.g * v.x_hat)),
        Line(
            "dx",
            "dx = (g - mean(g) - T (h - mean(h))) / s,  h = ds/dd,  T = sum(g x_hat)",
            lambda v: (v.g - mean(v, v.g) - v.T * (v.h - mean(v, v.h))) / v.s,
        ),
        Line("dgamma", "dgamma = sum(dy x_hat)", lambda v: parameter_sum(v, v.dy * v.x_hat)),
        Line("dbeta", "dbeta = sum(dy)", lambda v: parameter_sum(v, v.dy)),
    ),
    ("y", "dx", "dgamma", "dbeta"),
    frozenset({"axes", "n", "mu", "d", "phi", "C", "s", "x_hat", "y"}),
    {
        "y": Terms(
            _one,
            (
                ("gamma x_hat", 1, lambda v: v.gamma * v.x_hat),
                ("beta", 1, lambda v: v.beta),
                ("gamma mean(x) / s", 0, lambda v: v.gamma * v.mu / v.s),
                ("x_hat", 0, lambda v: v.x_hat),
                ("gamma", 0, lambda v: v.gamma),
            ),
        ),
        "dx": Terms(
            lambda v: v.s,
            (
                ("g", 1, lambda v: v.g),
                ("mean(g)", -1, lambda v: mean(v, v.g)),
                ("T h", -1, lambda v: v.T * v.h),
                ("T mean(h)", 1, lambda v: v.T * mean(v, v.h)),
            ),
        ),
        "dgamma": Terms(
            _one,
            (
                ("sum(dy x_hat)", 1, lambda v: parameter_sum(v, v.dy * v.x_hat)),
                ("sum(dy)", 0, lambda v: parameter_sum(v, v.dy)),
            ),
        ),
        "dbeta": Terms(
            _one,
            (
                ("sum(dy)", 1, lambda v: parameter_sum(v, v.dy)),
                ("sum(dy x_hat)", 0, lambda v: parameter_sum(v, v.dy * v.x_hat)),
            ),
        ),
    },
)

# ---- weight norm and bounded weight norm --------------------------------------------------------
# Given: v, dw, g (rho), broadcastable to v, p, reduced (all axes but the channels'). Weight norm:
# Salimans & Kingma 2016; bounded: Hoffer et al. 2018, section 5. dv: `lpnorm.weightnorm`.


def count(v: SimpleNamespace) -> int:
    return math.prod(v.v.shape[a] for a in v.axes)


def plain_norm(v: SimpleNamespace, p: Any) -> Array:
    return np.asarray(statistic(v, v.v, p) * float(count(v)) ** (1 / p))


def norm_slopes(v: SimpleNamespace, p: Any) -> Array:
    return np.asarray(gradient(v, v.v, p) * float(count(v)) ** (1 / p))


def _over_axes(v: SimpleNamespace, a: Array) -> Array:
    return np.asarray(a.sum(axis=tuple(range(1, a.ndim)), keepdims=True))


def _mean_norm(v: SimpleNamespace) -> Array:
    """(sum S^p / N)^(1/p) over the N channels."""
    largest = v.S.max()
    if v.p == math.inf:
        return np.asarray(largest)
    return np.asarray(largest * np.mean((v.S / largest) ** v.p) ** (1 / v.p))


WEIGHT = Formula(
    (
        Line("axes", "normalized over all axes but the output channels", lambda v: v.reduced),
        Line(
            "S",
            "S = ||v||_p = (sum |v|^p)^(1/p), for each output channel",
            lambda v: plain_norm(v, v.p),
        ),
        Line("v_hat", "v_hat = v / S", lambda v: v.v / v.S),
        Line("w", "w = g v_hat (bounded: rho for g)", lambda v: v.g * v.v_hat),
        Line("h", "h = dS/dv = sign(v) (|v| / S)^(p-1)", lambda v: norm_slopes(v, v.p)),
        Line("dg", "dg = sum(dw v_hat)", lambda v: _over_axes(v, v.dw * v.v_hat)),
        Line("dv", "dv = (g / S) (dw - dg h)", lambda v: v.g / v.S * (v.dw - v.dg * v.h)),
        Line("bounded_norm", "rho = ||V||_p / N^(1/p), N output channels", _mean_norm),
    ),
    ("w", "dv", "dg", "bounded_norm"),
    frozenset({"axes", "S", "v_hat", "w"}),
    {
        "w": Terms(_one, (("g v_hat", 1, lambda v: v.g * v.v_hat),)),
        "dv": Terms(
            lambda v: v.S / v.g,
            (
                ("dw", 1, lambda v: v.dw),
                ("dg h", -1, lambda v: _over_axes(v, v.dw * v.v_hat) * v.h),
            ),
        ),
        "dg": Terms(_one, (("sum(dw v_hat)", 1, lambda v: _over_axes(v, v.dw * v.v_hat)),)),
        "bounded_norm": Terms(_one, (("||V||_p / N^(1/p)", 1, _mean_norm),)),
    },
)

# ---- SGD ----------------------------------------------------------------------------------------
# Given: w_old, b_old, gradient, first, and the settings. The steps of torch.optim.SGD.

SGD = Formula(
    (
        Line(
            "g",
            "g = gradient + weight_decay w (not if decoupled)",
            lambda v: v.gradient + (0 if v.decoupled else v.weight_decay) * v.w_old,
        ),
        Line(
            "b",
            "b = momentum b + (1 - dampening) g, and b = g at the first step",
            lambda v: v.g if v.first else v.momentum * v.b_old + (1 - v.dampening) * v.g,
        ),
        Line(
            "u",
            "u = b; with Nesterov u = g + momentum b; without momentum u = g",
            lambda v: v.g if not v.momentum else v.g + v.momentum * v.b if v.nesterov else v.b,
        ),
        Line(
            "kept",
            "w <- (1 - lr weight_decay) w, if decoupled",
            lambda v: (1 - v.lr * v.weight_decay) * v.w_old if v.decoupled else v.w_old,
        ),
        Line("w", "w <- w - lr u", lambda v: v.kept - v.lr * v.u),
    ),
    ("weights",),
    frozenset({"g", "b", "u", "kept", "w"}),
)
