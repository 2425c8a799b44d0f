"""The formulas once more, as a list of lines, so that a variant is: these lines replaced.

This is what diagnosis needs: an accepted convention or a known mistake (`mistakes`) is the right
program with one line or a few replaced, so the whole catalogue is data. Plain NumPy float64: the
verdict on values comes from the oracle, never from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from lpnorm.arrays import Accumulate, from_rows, to_rows
from lpnorm.norms import as_norm, gaussian_constant
from lpnorm.verify.bounds import with_eps

Array = np.ndarray
Value = Callable[[SimpleNamespace], Any]
FLOAT64 = Accumulate("float64")


@dataclass(frozen=True)
class Line:
    """One line of mathematics: what it defines, how it reads, how it is computed."""

    name: str
    text: str
    value: Value


def run(
    program: Sequence[Line], given: Mapping[str, Any], replaced: Mapping[str, Value] | None = None
) -> SimpleNamespace:
    """All the program's values, from the given ones, some lines replaced.

    A replacement may use what the right line gives: the value of `dx`, say, is there as `dx0`.
    """
    v = SimpleNamespace(**given)
    with np.errstate(all="ignore"):
        for line in program:
            setattr(v, line.name, line.value(v))
            if replaced and line.name in replaced:
                setattr(v, line.name + "0", getattr(v, line.name))
                setattr(v, line.name, replaced[line.name](v))
    return v


def text(program: Sequence[Line], name: str) -> str:
    """How the line of this name reads."""
    return next(line.text for line in program if line.name == name)


# ---- helpers the lines are written with -------------------------------------------------------


def mean(v: SimpleNamespace, a: Array) -> Array:
    return np.broadcast_to(a, v.x.shape).mean(axis=v.axes, keepdims=True)


def total(v: SimpleNamespace, a: Array) -> Array:
    return np.broadcast_to(a, v.x.shape).sum(axis=v.axes, keepdims=True)


def per_group(v: SimpleNamespace, f: Callable[[Array], Array], a: Array) -> Array:
    """f, which maps rows to one number a row or to rows, on each group of a."""
    result = f(to_rows(a, v.axes))
    if result.shape[-1] == 1:
        return result.reshape([1 if i in v.axes else size for i, size in enumerate(a.shape)])
    return from_rows(result, a.shape, v.axes)


def statistic(v: SimpleNamespace, d: Array, p: Any) -> Array:
    return per_group(v, lambda rows: as_norm(p).statistic(rows, FLOAT64), d)


def gradient(v: SimpleNamespace, d: Array, p: Any) -> Array:
    """The gradient of the statistic: h / (m a) of `lpnorm.norms`, 0 where the statistic is 0."""
    norm = as_norm(p)

    def rows(d: Array) -> Array:
        phi = norm.statistic(d, FLOAT64)
        h, a = norm.direction(d, phi + (phi == 0), FLOAT64)
        return np.asarray(h / (norm.count(d.shape[1]) * a))

    return per_group(v, rows, d)


def constant(v: SimpleNamespace, n: int) -> float:
    if isinstance(v.constant, float):
        return v.constant
    return 1.0 if v.p == 2 else gaussian_constant(v.p, max(n, getattr(v.p, "k", 1)), v.constant)


def parameter_sum(v: SimpleNamespace, a: Array) -> Array:
    return np.broadcast_to(a, v.x.shape).sum(axis=v.unaffine)


# ---- batch norm and layer norm ----------------------------------------------------------------
# Given: x, dy, gamma and beta (broadcastable to x), reduced (axes normalized over), unaffine (axes
# gamma and beta do not have), p, eps, place, constant.

NORM: tuple[Line, ...] = (
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
)
OUTPUTS = ("y", "dx", "dgamma", "dbeta")
