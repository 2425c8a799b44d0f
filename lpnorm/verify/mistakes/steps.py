"""Mistakes in weight norm, bounded weight norm and SGD."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lpnorm.verify.formula import SGD, WEIGHT, Value, count, norm_slopes, plain_norm
from lpnorm.verify.mistakes.common import Mistake


def _weight(
    name: str,
    diagnosis: str,
    lines: dict[str, Value],
    layer: str = "",
    p_of: Callable[[Any], bool] = lambda p: True,
) -> Mistake:
    """One of both weight norms, or of the layer alone, for some p."""

    def applies(of: str, p: Any) -> bool:
        return layer in ("", of) and p_of(p)

    return Mistake(name, diagnosis, lines, applies, WEIGHT)


def _descent(name: str, diagnosis: str, lines: dict[str, Value]) -> Mistake:
    return Mistake(name, diagnosis, lines, lambda layer, p: True, SGD)


WEIGHTS: tuple[Mistake, ...] = (
    _weight(
        "norm over the wrong axis",
        "the norm is taken over the output channels (axis 0), for each weight apart, instead of "
        "over the weights of each channel",
        {"axes": lambda v: (0,)},
    ),
    _weight(
        "norm for each index of the last axis",
        "the norm is taken over all axes but the last, for each index of that, instead of over the "
        "weights of each channel",
        {"axes": lambda v: tuple(range(v.v.ndim - 1))},
    ),
    _weight(
        "norm of the whole tensor",
        "one norm is taken of all of v, instead of one for each output channel",
        {"axes": lambda v: tuple(range(v.v.ndim))},
    ),
    _weight(
        "norm as a mean",
        "the norm is a mean, (mean |v|^p)^(1/p), where the plain norm, a sum, belongs",
        {
            "S": lambda v: v.S0 / count(v) ** (1 / v.p),
            "h": lambda v: v.h0 / count(v) ** (1 / v.p),
        },
        p_of=lambda p: p != math.inf,
    ),
    _weight(
        "no root",
        "the root is missing: v is divided by sum |v|^p",
        {"S": lambda v: v.S0**v.p, "h": lambda v: v.p * v.S ** (1 - 1 / v.p) * v.h0},
        p_of=lambda p: p not in (1, math.inf),
    ),
    _weight(
        "another norm",
        "this is another norm: p = 2 was computed (p = 1 where p = 2 was asked)",
        {
            "S": lambda v: plain_norm(v, 1 if v.p == 2 else 2),
            "h": lambda v: norm_slopes(v, 1 if v.p == 2 else 2),
        },
    ),
    _weight(
        "no absolute value",
        "the absolute value is missing: the norm is max v, not max |v|",
        {"S": lambda v: v.v.max(axis=v.axes, keepdims=True)},
        p_of=lambda p: p == math.inf,
    ),
    _weight(
        "not normalized",
        "v is not divided by its norm: w = g v",
        {"v_hat": lambda v: v.v},
    ),
    _weight(
        "g forgotten",
        "g (rho, in bounded weight norm) is missing from w",
        {"w": lambda v: v.v_hat},
    ),
    _weight(
        "g forgotten in dv",
        "g (rho, in bounded weight norm) is missing from dv",
        {"dv": lambda v: v.dv0 / v.g},
    ),
    _weight(
        "no projection",
        "the projection is missing from dv, the term -dg h: the norm depends on v too (it was "
        "detached)",
        {"dv": lambda v: v.g / v.S * v.dw},
    ),
    _weight(
        "projection added",
        "the term dg h is added in dv instead of subtracted",
        {"dv": lambda v: v.g / v.S * (v.dw + v.dg * v.h)},
    ),
    _weight(
        "projection of L2",
        "the gradient of the L2 norm, v / S, was used with another norm",
        {"h": lambda v: v.v / v.S},
        p_of=lambda p: p != 2,
    ),
    _weight(
        "no sign",
        "the sign of v is missing from the gradient of the norm: d|v|/dv = sign(v)",
        {"h": lambda v: abs(v.h0)},
    ),
    _weight(
        "not divided by the norm",
        "dv is not divided by the norm S",
        {"dv": lambda v: v.dv0 * v.S},
    ),
    _weight(
        "divided by the norm twice",
        "dv is divided by the norm S twice",
        {"dv": lambda v: v.dv0 / v.S},
    ),
    _weight(
        "dg with v",
        "dg is sum(dw v): it was not divided by the norm S",
        {"dg": lambda v: v.dg0 * v.S, "dv": lambda v: v.g / v.S * (v.dw - v.dg0 * v.h)},
        "weight_norm",
    ),
    _weight(
        "dg with w",
        "dg is sum(dw w): it has a factor g too many",
        {"dg": lambda v: v.dg0 * v.g, "dv": lambda v: v.g / v.S * (v.dw - v.dg0 * v.h)},
        "weight_norm",
    ),
    _weight(
        "rho without the root of N",
        "N^(1/p) is missing from rho = ||V||_p / N^(1/p)",
        {"bounded_norm": lambda v: v.bounded_norm0 * len(v.v) ** (1 / v.p)},
        "bounded_weight_norm",
        p_of=lambda p: p != math.inf,
    ),
    _weight(
        "rho of p = 2",
        "rho is that of p = 2, ||V||_2 / N^(1/2)",
        {"bounded_norm": lambda v: np.sqrt((v.v**2).sum() / len(v.v))},
        "bounded_weight_norm",
        p_of=lambda p: p != 2,
    ),
    _weight(
        "rho as the mean norm",
        "rho is the mean of the channels' norms (the authors' bwn_alt.py), not ||V||_p / N^(1/p)",
        {"bounded_norm": lambda v: v.S.mean()},
        "bounded_weight_norm",
        p_of=lambda p: p != 1,
    ),
)

DESCENT: tuple[Mistake, ...] = (
    _descent("momentum ignored", "the momentum is not used", {"u": lambda v: v.g}),
    _descent(
        "momentum reversed",
        "momentum is taken as the new fraction: b = (1 - momentum) b + momentum g",
        {"b": lambda v: v.g if v.first else (1 - v.momentum) * v.b_old + v.momentum * v.g},
    ),
    _descent(
        "momentum as an average",
        "b is an average, momentum b + (1 - momentum) g, without dampening = momentum being asked",
        {"b": lambda v: v.g if v.first else v.momentum * v.b_old + (1 - v.momentum) * v.g},
    ),
    _descent(
        "average from zero",
        "b is an average that starts at 0: momentum b + (1 - momentum) g also at the first step",
        {"b": lambda v: v.momentum * v.b_old + (1 - v.momentum) * v.g},
    ),
    _descent(
        "dampening at the first step",
        "dampening is applied at the first step too, where b = g",
        {"b": lambda v: v.momentum * v.b_old + (1 - v.dampening) * v.g},
    ),
    _descent(
        "dampening ignored",
        "the dampening is not used",
        {"b": lambda v: v.momentum * v.b_old + v.g},
    ),
    _descent(
        "Nesterov off by one",
        "Nesterov's look-ahead uses the buffer before it was updated, u = g + momentum b_old: that "
        "is b, no look-ahead at all",
        {"u": lambda v: v.b},
    ),
    _descent(
        "Nesterov without the gradient",
        "the gradient is missing from Nesterov's form: u = momentum b",
        {"u": lambda v: v.momentum * v.b if v.nesterov else v.u0},
    ),
    _descent(
        "decay ignored",
        "the weight decay is not used",
        {"g": lambda v: v.gradient, "kept": lambda v: v.w_old},
    ),
    _descent(
        "decay after momentum",
        "the weight decay is added after the momentum, to u (so it is decoupled), not to the "
        "gradient",
        {
            "g": lambda v: v.gradient,
            "u": lambda v: v.u0 + (0 if v.decoupled else v.weight_decay) * v.w_old,
        },
    ),
    _descent(
        "decay doubled",
        "the weight decay is twice what was asked: weight_decay / 2 ||w||^2 has the derivative "
        "weight_decay w",
        {
            "g": lambda v: v.gradient + (0 if v.decoupled else 2 * v.weight_decay) * v.w_old,
            "kept": lambda v: (1 - 2 * v.lr * v.weight_decay) * v.w_old if v.decoupled else v.w_old,
        },
    ),
    _descent(
        "decay subtracted",
        "the weight decay has the wrong sign: the weights grow",
        {
            "g": lambda v: v.gradient - (0 if v.decoupled else v.weight_decay) * v.w_old,
            "kept": lambda v: (1 + v.lr * v.weight_decay) * v.w_old if v.decoupled else v.w_old,
        },
    ),
    _descent(
        "decoupled decay without lr",
        "decoupled decay is w <- (1 - weight_decay) w: the learning rate is missing",
        {"kept": lambda v: (1 - v.weight_decay) * v.w_old if v.decoupled else v.w_old},
    ),
    _descent(
        "decay coupled",
        "the decay was asked to be decoupled and is in the gradient (so in the momentum)",
        {"g": lambda v: v.gradient + v.weight_decay * v.w_old, "kept": lambda v: v.w_old},
    ),
    _descent("step added", "the step is added to w", {"w": lambda v: v.kept + v.lr * v.u}),
    _descent("no learning rate", "the learning rate is missing", {"w": lambda v: v.kept - v.u}),
)
