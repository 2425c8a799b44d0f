"""Weight norm, bounded weight norm and SGD for the judge: values and bounds.

The values come from the oracle. The bounds follow the model of `bounds`: u is the unit roundoff of
the dtype, v the accumulator's, L the depth of a sum.

    S        |e_S| <= S r_S,  r_S = (2 + a) u + (L + 2) v: v over its maximum, the sum, the
             factors; a = 0 for p = 1 and inf, 2 for p = 2, else 10: the power, good to 8 u
    w        |e_w| <= |w| (r_S + 2 u + v)
    dg       |e_dg| <= sum|dw v_hat| (r_S + 2 u + (L + 1) v)
    h        |e_h| <= |h| ((p - 1) (r_S + 2 u) + 8 u), without the 8 u for p = 1 and inf; 1 where v
             is tied at the maximum (p = inf) or 0 (p = 1): any element of the subdifferential
    dv       |e_dv| <= |g / S| (|h| e_dg + |dg| e_h + 2 u (|dw| + |dg h|)) + |dv| (r_S + 3 u + v)

and every operation may underflow, by `tiny` at most. In SGD the error of the weights goes through
the recursion: e_g = |decay| e_w + u (...), e_b = momentum e_b + ..., e_w = e_w + lr e_u + ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from lpnorm.verify import oracle
from lpnorm.verify.cases import Case, Outcome, gaps, half
from lpnorm.verify.chosen import FORMS
from lpnorm.verify.formula import SGD, WEIGHT, Value
from lpnorm.verify.reference import Arithmetic

Array = np.ndarray
OUTPUTS = {
    "weight_norm": ("w", "dv", "dg"),
    "bounded_weight_norm": ("w", "dv", "bounded_norm"),
    "sgd": ("weights",),
}


def expected(case: Case, conventions: Any = None) -> Outcome:
    """The oracle's outputs."""
    a, p = case.arrays, case.p
    if case.layer == "sgd":
        return Outcome(weights=np.array(oracle.sgd(a["w"], list(a["gradients"]), **case.settings)))
    if case.layer == "weight_norm":
        dv, dg = oracle.weight_norm_backward(a["dw"], a["v"], a["g"], p)
        return Outcome(w=oracle.weight_norm(a["v"], a["g"], p), dv=dv, dg=dg)
    rho = case.settings["rho"]
    return Outcome(
        w=oracle.bounded_weight_norm(a["v"], rho, p),
        dv=oracle.bounded_weight_norm_backward(a["dw"], a["v"], rho, p),
        bounded_norm=np.array(oracle.bounded_norm(a["v"], p)),
    )


# ---- bounds -----------------------------------------------------------------------------------


def allowed(case: Case, arithmetic: Arithmetic) -> dict[str, Array]:
    """The largest errors that rounding explains, in the shapes of the outputs."""
    u = float(np.finfo(case.dtype).eps) / 2
    v = float(np.finfo(arithmetic.accumulate).eps) / 2
    tiny = float(np.finfo(case.dtype).smallest_subnormal)
    with np.errstate(all="ignore"):
        limits = _of_sgd(case, u, tiny) if case.layer == "sgd" else _of_norm(case, u, v, tiny)
        return {name: FORMS * limit for name, limit in limits.items()}


def _of_norm(case: Case, u: float, v: float, tiny: float) -> dict[str, Array]:
    p, n = case.p, case.arrays["v"][0].size
    values = WEIGHT.run(given(case))
    smooth = 0.0 if p in (1, math.inf) else 1.0
    r_s = (2 + {1: 0, 2: 2, math.inf: 0}.get(p, 10)) * u + (n + 1) * v
    g_over_s, size = abs(values.g / values.S), abs(values.v)
    e_w = abs(values.w) * (r_s + 2 * u + v) + tiny * (2 + g_over_s)
    sizes = abs(values.dw * values.v_hat)
    e_dg = _rows(sizes * (r_s + 2 * u + n * v) + tiny * (1 + abs(values.dw)), values)
    power = 0.0 if p == math.inf else p - 1
    e_h = abs(values.h) * (power * (r_s + 2 * u) + 8 * u * smooth) + smooth * tiny
    if p == math.inf:
        tied = size == size.max(axis=values.axes, keepdims=True)
        e_h = np.where(tied & (tied.sum(axis=values.axes, keepdims=True) > 1), 1.0, e_h)
    if p == 1:
        e_h = np.where(size == 0, 1.0, e_h)
    turned = abs(values.dg * values.h)
    e_dv = abs(values.h) * e_dg + abs(values.dg) * e_h + 2 * u * (abs(values.dw) + turned)
    e_dv = g_over_s * (e_dv + 3 * tiny) + abs(values.dv) * (r_s + 3 * u + v) + tiny
    if case.layer == "weight_norm":
        return {"w": e_w, "dv": e_dv, "dg": e_dg.reshape(-1) + u * abs(values.dg).reshape(-1)}
    rho = values.bounded_norm
    return {"w": e_w, "dv": e_dv, "bounded_norm": np.asarray(rho * (2 * r_s + n * v + u) + tiny)}


def _rows(a: Array, values: SimpleNamespace) -> Array:
    return np.asarray(a.sum(axis=values.axes, keepdims=True))


def _of_sgd(case: Case, u: float, tiny: float) -> dict[str, Array]:
    s = SimpleNamespace(**case.settings)
    decay, shrink = (0.0, s.lr * s.weight_decay) if s.decoupled else (s.weight_decay, 0.0)
    e_w = e_b = 0.0
    limits = []
    for v in _steps(case, {}):
        e_g = abs(decay) * e_w + u * (2 * abs(decay * v.w_old) + abs(v.g)) + tiny
        if v.first or not s.momentum:
            e_b = e_g
        else:
            kept = (1 - s.dampening) * v.g
            e_b = s.momentum * e_b + abs(1 - s.dampening) * e_g
            e_b = e_b + u * (2 * abs(s.momentum * v.b_old) + 3 * abs(kept) + abs(v.b)) + 2 * tiny
        e_u = e_b
        if s.nesterov:
            e_u = e_g + s.momentum * e_b + u * (2 * abs(s.momentum * v.b) + abs(v.u)) + tiny
        e_w = (1 - shrink) * e_w + s.lr * e_u
        e_w = (
            e_w + u * (2 * abs(s.lr * v.u) + abs(v.w) + 3 * bool(shrink) * abs(v.w_old)) + 2 * tiny
        )
        limits.append(e_w)
    return {"weights": np.array(limits)}


# ---- the formulas, run ---------------------------------------------------------------------------


def given(case: Case) -> dict[str, Any]:
    """What `WEIGHT` starts from, in float64."""
    arrays = {name: a.astype("float64") for name, a in case.arrays.items()}
    v = arrays["v"]
    column = (len(v),) + (1,) * (v.ndim - 1)
    g = arrays.get("g", np.full(len(v), case.settings.get("rho", 1.0))).reshape(column)
    return {"v": v, "dw": arrays["dw"], "g": g, "p": case.p, "reduced": tuple(range(1, v.ndim))}


def _steps(case: Case, lines: Mapping[str, Value]) -> list[SimpleNamespace]:
    """`SGD` step after step, some lines replaced; w_old and b_old are what a step starts from."""
    w, found = case.arrays["w"].astype("float64"), []
    b: Any = np.zeros_like(w)
    for t, each in enumerate(case.arrays["gradients"].astype("float64")):
        start = {"w_old": w, "b_old": b, "gradient": each, "first": t == 0, **case.settings}
        found.append(SGD.run(start, lines))
        w, b = found[-1].w, found[-1].b
    return found


def run(case: Case, conventions: Any, lines: Mapping[str, Value], got: Any, until: str = "") -> Any:
    """The formula's values with some lines replaced; `expected` has their shapes."""
    if case.layer == "sgd":
        return SimpleNamespace(weights=np.array([v.w for v in _steps(case, lines)]))
    return WEIGHT.run(given(case), lines, until)


def values(case: Case, lines: Mapping[str, Value]) -> dict[str, Array]:
    """The outputs of `run`."""
    v = run(case, None, lines, None)
    return {name: np.asarray(getattr(v, name)) for name in OUTPUTS[case.layer]}


# ---- the cases ----------------------------------------------------------------------------------


def weight_cases(layer: str, p: Any, dtype: str) -> Iterator[Case]:
    """The probes of a weight norm."""

    def made(name: str, why: str, rows: Array, shape: tuple[int, ...], flags: str = "") -> Case:
        v, rng = rows.reshape(shape), np.random.default_rng([1, *shape])
        arrays = {"v": v}
        if layer == "weight_norm":
            arrays["g"] = half(rng.uniform(0.5, 2.0, len(v)) * np.resize([1, -1], len(v)))
        arrays["dw"] = half(rng.standard_normal(shape) + np.sign(v) / 4)
        rho = {} if layer == "weight_norm" else {"rho": 1.625}
        arrays = {key: a.astype(dtype) for key, a in arrays.items()}
        return Case(name, why, layer, arrays, rho, p, flags=frozenset(flags.split()))

    rows = gaps(12, 4) * np.array([[1.0], [0.5], [2.0], [4.0]])  # unlike norms
    yield made("random values", "every formula shows here", rows, (4, 3, 2, 2), "telling")
    yield made("random values, 2 axes", "every formula shows here", gaps(10, 5), (5, 10), "telling")
    tied = np.resize([2.0, -1.0, 0.0, 1.0, -2.0, 0.5], (3, 8))
    why = "tied values and zeros: any element of the subdifferential is right"
    yield made("ties and zeros", why, tied, (3, 8), "ties zeros")
    small = 2.0**-5 if dtype == "float16" else 2.0**-10
    yield made("small magnitude", "small weights: no eps is needed", rows * small, (4, 12), "tiny")
    large = 4.0 if dtype == "float16" else 1024.0
    yield made("large magnitude", "large weights", rows * large, (4, 12), "large")


def sgd_cases(dtype: str) -> Iterator[Case]:
    """SGD in ten modes."""
    rng = np.random.default_rng(5)
    arrays = {"w": half(rng.standard_normal((4, 3)))}
    arrays["gradients"] = half(rng.standard_normal((5, 4, 3)))
    arrays = {name: a.astype(dtype) for name, a in arrays.items()}
    plain = {"lr": 0.25, "momentum": 0.0, "dampening": 0.0, "nesterov": False}
    plain |= {"weight_decay": 0.0, "decoupled": False}
    momentum, decay = {"momentum": 0.75}, {"weight_decay": 0.5}
    modes: dict[str, dict[str, Any]] = {
        "plain": {},
        "decay": decay,
        "decoupled decay": {**decay, "decoupled": True},
        "momentum": momentum,
        "momentum and dampening": {**momentum, "dampening": 0.375},
        "Nesterov": {**momentum, "nesterov": True},
        "momentum and decay": {**momentum, **decay},
        "momentum, dampening and decay": {**momentum, **decay, "dampening": 0.375},
        "Nesterov and decay": {**momentum, **decay, "nesterov": True},
        "momentum and decoupled decay": {**momentum, **decay, "decoupled": True},
    }
    for name, mode in modes.items():
        why = "five steps of one parameter: its weights after each"
        yield Case(name, why, "sgd", arrays, {**plain, **mode})
