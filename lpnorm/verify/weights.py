"""Weight norm, bounded weight norm and SGD for the judge: values, bounds, mistakes, ties.

As `variants` and `mistakes` do for batch norm: each formula is a list of lines, and a mistake is
these lines with one or a few replaced. The values come from the oracle. The bounds follow the model
of `bounds`: u is the unit roundoff of the dtype, v the accumulator's, L the depth of a sum.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from lpnorm.verify import oracle
from lpnorm.verify.diagnosis import CLOSE, EXPLAINS, Diagnosis, _off
from lpnorm.verify.reference import FORMS, Arithmetic
from lpnorm.verify.ties import _shares
from lpnorm.verify.variants import Line, Value, gradient, run, statistic, text

Array = np.ndarray
OUTPUTS = {
    "weight_norm": ("w", "dv", "dg"),
    "bounded_weight_norm": ("w", "dv", "bounded_norm"),
    "sgd": ("weights",),
}


@dataclass(frozen=True)
class WeightCase:
    """One probe. arrays: v, dw and (weight norm) g, or w and gradients (SGD: one a step).

    settings: rho of bounded weight norm; lr, momentum, dampening, nesterov, weight_decay and
    decoupled of SGD. Output channels are on axis 0 of v.
    """

    name: str
    why: str
    layer: str
    p: Any  # None for SGD
    arrays: dict[str, Array]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        return str(next(iter(self.arrays.values())).dtype)


def expected(case: WeightCase) -> dict[str, Array]:
    """The oracle's outputs."""
    a, p = case.arrays, case.p
    if case.layer == "sgd":
        return {"weights": np.array(oracle.sgd(a["w"], list(a["gradients"]), **case.settings))}
    if case.layer == "weight_norm":
        dv, dg = oracle.weight_norm_backward(a["dw"], a["v"], a["g"], p)
        return {"w": oracle.weight_norm(a["v"], a["g"], p), "dv": dv, "dg": dg}
    rho = case.settings["rho"]
    return {
        "w": oracle.bounded_weight_norm(a["v"], rho, p),
        "dv": oracle.bounded_weight_norm_backward(a["dw"], a["v"], rho, p),
        "bounded_norm": np.array(oracle.bounded_norm(a["v"], p)),
    }


# ---- bounds -----------------------------------------------------------------------------------


def allowed(case: WeightCase, arithmetic: Arithmetic) -> dict[str, Array]:
    """The largest errors that rounding explains, in the shapes of the outputs."""
    u = float(np.finfo(case.dtype).eps) / 2
    v = float(np.finfo(arithmetic.accumulate).eps) / 2
    tiny = float(np.finfo(case.dtype).smallest_subnormal)
    with np.errstate(all="ignore"):
        limits = _of_sgd(case, u, tiny) if case.layer == "sgd" else _of_norm(case, u, v, tiny)
        return {name: FORMS * limit for name, limit in limits.items()}


def _of_norm(case: WeightCase, u: float, v: float, tiny: float) -> dict[str, Array]:
    p, n = case.p, case.arrays["v"][0].size
    values = run(WEIGHT, given(case))
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


def _of_sgd(case: WeightCase, u: float, tiny: float) -> dict[str, Array]:
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


# ---- the formulas as lines --------------------------------------------------------------------


def given(case: WeightCase) -> dict[str, Any]:
    """What `WEIGHT` starts from, in float64."""
    arrays = {name: a.astype("float64") for name, a in case.arrays.items()}
    v = arrays["v"]
    column = (len(v),) + (1,) * (v.ndim - 1)
    g = arrays.get("g", np.full(len(v), case.settings.get("rho", 1.0))).reshape(column)
    return {"v": v, "dw": arrays["dw"], "g": g, "p": case.p, "reduced": tuple(range(1, v.ndim))}


def _count(v: SimpleNamespace) -> int:
    return math.prod(v.v.shape[a] for a in v.axes)


def _norm(v: SimpleNamespace, p: Any) -> Array:
    return np.asarray(statistic(v, v.v, p) * float(_count(v)) ** (1 / p))


def _slopes(v: SimpleNamespace, p: Any) -> Array:
    return np.asarray(gradient(v, v.v, p) * float(_count(v)) ** (1 / p))


def _total(v: SimpleNamespace, a: Array) -> Array:
    return np.asarray(a.sum(axis=tuple(range(1, a.ndim)), keepdims=True))


def _mean_norm(v: SimpleNamespace) -> Array:
    """(sum S^p / N)^(1/p) over the N channels."""
    largest = v.S.max()
    if v.p == math.inf:
        return np.asarray(largest)
    return np.asarray(largest * np.mean((v.S / largest) ** v.p) ** (1 / v.p))


WEIGHT: tuple[Line, ...] = (
    Line("axes", "normalized over all axes but the output channels", lambda v: v.reduced),
    Line("S", "S = ||v||_p = (sum |v|^p)^(1/p), for each output channel", lambda v: _norm(v, v.p)),
    Line("v_hat", "v_hat = v / S", lambda v: v.v / v.S),
    Line("w", "w = g v_hat (bounded: rho for g)", lambda v: v.g * v.v_hat),
    Line("h", "h = dS/dv = sign(v) (|v| / S)^(p-1)", lambda v: _slopes(v, v.p)),
    Line("dg", "dg = sum(dw v_hat)", lambda v: _total(v, v.dw * v.v_hat)),
    Line("dv", "dv = (g / S) (dw - dg h)", lambda v: v.g / v.S * (v.dw - v.dg * v.h)),
    Line("bounded_norm", "rho = ||V||_p / N^(1/p), N output channels", _mean_norm),
)

SGD: tuple[Line, ...] = (
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
)


def _steps(case: WeightCase, lines: Mapping[str, Value]) -> list[SimpleNamespace]:
    """`SGD` step after step, some lines replaced; w_old and b_old are what a step starts from."""
    w, found = case.arrays["w"].astype("float64"), []
    b: Any = np.zeros_like(w)
    for t, each in enumerate(case.arrays["gradients"].astype("float64")):
        start = {"w_old": w, "b_old": b, "gradient": each, "first": t == 0, **case.settings}
        found.append(run(SGD, start, lines))
        w, b = found[-1].w, found[-1].b
    return found


def values(case: WeightCase, lines: Mapping[str, Value]) -> dict[str, Array]:
    """What a variant gives, in the shapes of the outputs."""
    if case.layer == "sgd":
        return {"weights": np.array([v.w for v in _steps(case, lines)])}
    v = run(WEIGHT, given(case), lines)
    return {name: np.asarray(getattr(v, name)) for name in OUTPUTS[case.layer]}


@dataclass(frozen=True)
class Mistake:
    """A known mistake: its name, what to say, the lines it replaces, and in which layers."""

    name: str
    diagnosis: str
    lines: dict[str, Value]
    layers: tuple[str, ...] = ("weight_norm", "bounded_weight_norm")
    applies: Callable[[Any], bool] = lambda p: True

    @property
    def compare(self) -> str:
        program = SGD if self.layers == ("sgd",) else WEIGHT
        return ";  ".join(text(program, name) for name in self.lines)


WN, BWN, DESCENT = ("weight_norm",), ("bounded_weight_norm",), ("sgd",)
MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "norm over the wrong axis",
        "the norm is taken over the output channels (axis 0), for each weight apart, instead of "
        "over the weights of each channel",
        {"axes": lambda v: (0,)},
    ),
    Mistake(
        "norm of the whole tensor",
        "one norm is taken of all of v, instead of one for each output channel",
        {"axes": lambda v: tuple(range(v.v.ndim))},
    ),
    Mistake(
        "norm as a mean",
        "the norm is a mean, (mean |v|^p)^(1/p), where the plain norm, a sum, belongs",
        {
            "S": lambda v: v.S0 / _count(v) ** (1 / v.p),
            "h": lambda v: v.h0 / _count(v) ** (1 / v.p),
        },
        applies=lambda p: p != math.inf,
    ),
    Mistake(
        "no root",
        "the root is missing: v is divided by sum |v|^p",
        {"S": lambda v: v.S0**v.p, "h": lambda v: v.p * v.S ** (1 - 1 / v.p) * v.h0},
        applies=lambda p: p not in (1, math.inf),
    ),
    Mistake(
        "another norm",
        "this is another norm: p = 2 was computed (p = 1 where p = 2 was asked)",
        {
            "S": lambda v: _norm(v, 1 if v.p == 2 else 2),
            "h": lambda v: _slopes(v, 1 if v.p == 2 else 2),
        },
    ),
    Mistake(
        "not normalized",
        "v is not divided by its norm: w = g v",
        {"v_hat": lambda v: v.v},
    ),
    Mistake(
        "g forgotten",
        "g (rho, in bounded weight norm) is missing from w",
        {"w": lambda v: v.v_hat},
    ),
    Mistake(
        "g forgotten in dv",
        "g (rho, in bounded weight norm) is missing from dv",
        {"dv": lambda v: v.dv0 / v.g},
    ),
    Mistake(
        "no projection",
        "the projection is missing from dv, the term -dg h: the norm depends on v too (it was "
        "detached)",
        {"dv": lambda v: v.g / v.S * v.dw},
    ),
    Mistake(
        "projection added",
        "the term dg h is added in dv instead of subtracted",
        {"dv": lambda v: v.g / v.S * (v.dw + v.dg * v.h)},
    ),
    Mistake(
        "projection of L2",
        "the gradient of the L2 norm, v / S, was used with another norm",
        {"h": lambda v: v.v / v.S},
        applies=lambda p: p != 2,
    ),
    Mistake(
        "no sign",
        "the sign of v is missing from the gradient of the norm: d|v|/dv = sign(v)",
        {"h": lambda v: abs(v.h0)},
    ),
    Mistake(
        "not divided by the norm",
        "dv is not divided by the norm S",
        {"dv": lambda v: v.dv0 * v.S},
    ),
    Mistake(
        "divided by the norm twice",
        "dv is divided by the norm S twice",
        {"dv": lambda v: v.dv0 / v.S},
    ),
    Mistake(
        "dg with v",
        "dg is sum(dw v): it was not divided by the norm S",
        {"dg": lambda v: v.dg0 * v.S, "dv": lambda v: v.g / v.S * (v.dw - v.dg0 * v.h)},
        WN,
    ),
    Mistake(
        "dg with w",
        "dg is sum(dw w): it has a factor g too many",
        {"dg": lambda v: v.dg0 * v.g, "dv": lambda v: v.g / v.S * (v.dw - v.dg0 * v.h)},
        WN,
    ),
    Mistake(
        "rho without the root of N",
        "N^(1/p) is missing from rho = ||V||_p / N^(1/p)",
        {"bounded_norm": lambda v: v.bounded_norm0 * len(v.v) ** (1 / v.p)},
        BWN,
        lambda p: p != math.inf,
    ),
    Mistake(
        "rho of p = 2",
        "rho is that of p = 2, ||V||_2 / N^(1/2)",
        {"bounded_norm": lambda v: np.sqrt((v.v**2).sum() / len(v.v))},
        BWN,
        lambda p: p != 2,
    ),
    Mistake(
        "rho as the mean norm",
        "rho is the mean of the channels' norms (the authors' bwn_alt.py), not ||V||_p / N^(1/p)",
        {"bounded_norm": lambda v: v.S.mean()},
        BWN,
        lambda p: p != 1,
    ),
    Mistake("momentum ignored", "the momentum is not used", {"u": lambda v: v.g}, DESCENT),
    Mistake(
        "momentum reversed",
        "momentum is taken as the new fraction: b = (1 - momentum) b + momentum g",
        {"b": lambda v: v.g if v.first else (1 - v.momentum) * v.b_old + v.momentum * v.g},
        DESCENT,
    ),
    Mistake(
        "momentum as an average",
        "b is an average, momentum b + (1 - momentum) g, without dampening = momentum being asked",
        {"b": lambda v: v.g if v.first else v.momentum * v.b_old + (1 - v.momentum) * v.g},
        DESCENT,
    ),
    Mistake(
        "average from zero",
        "b is an average that starts at 0: momentum b + (1 - momentum) g also at the first step",
        {"b": lambda v: v.momentum * v.b_old + (1 - v.momentum) * v.g},
        DESCENT,
    ),
    Mistake(
        "dampening at the first step",
        "dampening is applied at the first step too, where b = g",
        {"b": lambda v: v.momentum * v.b_old + (1 - v.dampening) * v.g},
        DESCENT,
    ),
    Mistake(
        "dampening ignored",
        "the dampening is not used",
        {"b": lambda v: v.momentum * v.b_old + v.g},
        DESCENT,
    ),
    Mistake(
        "Nesterov off by one",
        "Nesterov's look-ahead uses the buffer before it was updated, u = g + momentum b_old: that "
        "is b, no look-ahead at all",
        {"u": lambda v: v.b},
        DESCENT,
    ),
    Mistake(
        "Nesterov without the gradient",
        "the gradient is missing from Nesterov's form: u = momentum b",
        {"u": lambda v: v.momentum * v.b if v.nesterov else v.u0},
        DESCENT,
    ),
    Mistake(
        "decay ignored",
        "the weight decay is not used",
        {"g": lambda v: v.gradient, "kept": lambda v: v.w_old},
        DESCENT,
    ),
    Mistake(
        "decay after momentum",
        "the weight decay is added after the momentum, to u (so it is decoupled), not to the "
        "gradient",
        {
            "g": lambda v: v.gradient,
            "u": lambda v: v.u0 + (0 if v.decoupled else v.weight_decay) * v.w_old,
        },
        DESCENT,
    ),
    Mistake(
        "decay doubled",
        "the weight decay is twice what was asked: weight_decay / 2 ||w||^2 has the derivative "
        "weight_decay w",
        {
            "g": lambda v: v.gradient + (0 if v.decoupled else 2 * v.weight_decay) * v.w_old,
            "kept": lambda v: (1 - 2 * v.lr * v.weight_decay) * v.w_old if v.decoupled else v.w_old,
        },
        DESCENT,
    ),
    Mistake(
        "decay subtracted",
        "the weight decay has the wrong sign: the weights grow",
        {
            "g": lambda v: v.gradient - (0 if v.decoupled else v.weight_decay) * v.w_old,
            "kept": lambda v: (1 + v.lr * v.weight_decay) * v.w_old if v.decoupled else v.w_old,
        },
        DESCENT,
    ),
    Mistake(
        "decoupled decay without lr",
        "decoupled decay is w <- (1 - weight_decay) w: the learning rate is missing",
        {"kept": lambda v: (1 - v.weight_decay) * v.w_old if v.decoupled else v.w_old},
        DESCENT,
    ),
    Mistake(
        "decay coupled",
        "the decay was asked to be decoupled and is in the gradient (so in the momentum)",
        {"g": lambda v: v.gradient + v.weight_decay * v.w_old, "kept": lambda v: v.w_old},
        DESCENT,
    ),
    Mistake("step added", "the step is added to w", {"w": lambda v: v.kept + v.lr * v.u}, DESCENT),
    Mistake(
        "no learning rate", "the learning rate is missing", {"w": lambda v: v.kept - v.u}, DESCENT
    ),
)


def diagnose(pairs: Sequence[tuple[WeightCase, dict[str, Array]]]) -> Diagnosis | None:
    """The known mistake nearest to the outputs of all these cases; None if none is near."""
    if not pairs:
        return None
    first = pairs[0][0]
    wants = [expected(case) for case, _ in pairs]
    best: tuple[float, Mistake | None] = (np.inf, None)
    for mistake in MISTAKES:
        if first.layer not in mistake.layers or not mistake.applies(first.p):
            continue
        worst = moved = 0.0
        for (case, got), want in zip(pairs, wants, strict=True):
            try:
                variant = values(case, mistake.lines)
            except (ValueError, TypeError, IndexError, ZeroDivisionError):
                worst = np.inf
                break
            for name, each in got.items():
                with np.errstate(all="ignore"):
                    value = variant[name].astype(case.dtype).astype("float64")
                value = value.reshape(want[name].shape) if value.size == each.size else value
                worst = max(worst, _off(each.astype("float64"), value))
                moved = max(moved, _off(want[name], value))
            if worst > CLOSE[case.dtype]:
                break
        if worst <= min(CLOSE[first.dtype], EXPLAINS * moved) and worst < 0.5 * best[0]:
            best = (worst, mistake)
    if best[1] is None:
        return None
    return Diagnosis(best[1].diagnosis, best[1].compare, best[1].name)


# ---- ties -------------------------------------------------------------------------------------


def membership(case: WeightCase, got: dict[str, Array]) -> tuple[bool, str]:
    """Is dv in the subdifferential where v is tied (p = inf) or 0 (p = 1)? And which rule is it?

    From dv the gradient of the norm is read back, h = (dw - S dv / g) / dg. Only these two norms
    have a kink; the other values of dv are judged by their bounds.
    """
    if case.p not in (1, math.inf) or "dv" not in got or got["dv"].shape != case.arrays["v"].shape:
        return True, ""
    v = run(WEIGHT, given(case))
    u = float(np.finfo(case.dtype).eps) / 2
    dv, rules = got["dv"].astype("float64"), set()
    for i in range(len(dv)):
        s, g, dg = (float(np.ravel(a[i])[0]) for a in (v.S, v.g, v.dg))
        each, dw = v.v[i].ravel(), v.dw[i].ravel()
        h = (dw - s * dv[i].ravel() / g) / dg
        slack = (each.size + 8) * u * (2 * abs(dw).max() + abs(dg)) / abs(dg) + 1e-12
        if not np.all(np.isfinite(h)):
            return False, "dv is not finite at a tie or zero"
        if slack > 0.2:  # rounding hides which it is
            continue
        if case.p == math.inf:
            tied = abs(each) == abs(each).max()
            ok, words = _shares((h * np.sign(each))[tied], 1, 2 * slack, "the maximum")
            if not ok:
                return ok, words
            rules.add(words)
        elif (each == 0).any():
            at = h[each == 0]
            if abs(at).max() > 1 + 2 * slack:
                return False, f"sign(0) was taken as {at[abs(at).argmax()]:.3g}, outside [-1, 1]"
            value = round(float(np.median(at)), 3)
            rules.add("sign(0) = 0" if abs(at).max() <= 2 * slack else f"sign(0) = {value:g}")
    return True, ", ".join(sorted(rules))
