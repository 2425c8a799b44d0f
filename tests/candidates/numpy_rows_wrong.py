"""Layer norms, weight norms and bounded weight norms in NumPy, each with its mistake."""

from __future__ import annotations

import math

import numpy as np

from candidates.case import Case
from candidates.numpy_rows import (
    l1_weight_forward,
    l2_bounded_backward,
    l2_bounded_forward,
    l2_layer_backward,
    l2_layer_forward,
    l2_weight_backward,
    l2_weight_forward,
    linf_bounded_forward,
    weight_rows,
)

LAYER, WEIGHT = {"layer": "layer_norm", "p": 2}, {"layer": "weight_norm", "p": 2}
BOUNDED = {"layer": "bounded_weight_norm", "p": 2}
SUP = {**BOUNDED, "p": math.inf}
WRONG: list[Case] = []


def gamma_outside_backward(dy, cache):
    """Batch norm's formula, where gamma is the same for a whole group."""
    x_hat, std, gamma = cache
    others = tuple(range(dy.ndim - 1))
    dx = dy - dy.mean(axis=-1, keepdims=True) - x_hat * (dy * x_hat).mean(axis=-1, keepdims=True)
    return gamma * dx / std, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


WRONG.append(
    Case(
        "layer: gamma outside",
        (l2_layer_forward, gamma_outside_backward),
        LAYER,
        "dx is multiplied by gamma at the end, as in batch norm",
        "gamma multiplies dx at the end",
    )
)


def batch_count_backward(dy, cache):
    x_hat, std, gamma = cache
    others, n = tuple(range(dy.ndim - 1)), len(dy)
    g = gamma * dy
    dx = g - g.sum(axis=-1, keepdims=True) / n
    dx = (dx - x_hat * (g * x_hat).sum(axis=-1, keepdims=True) / n) / std
    return dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


WRONG.append(
    Case(
        "layer: batch size as n",
        (l2_layer_forward, batch_count_backward),
        LAYER,
        "means in the backward divide by the batch size",
        "number of samples",
    )
)


def whole_sample_forward(x, gamma, beta, eps):
    axes = tuple(range(1, x.ndim))
    std = np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    x_hat = (x - x.mean(axis=axes, keepdims=True)) / std
    return gamma * x_hat + beta, (x_hat, std, gamma)


def whole_sample_backward(dy, cache):
    x_hat, std, gamma = cache
    axes, others = tuple(range(1, dy.ndim)), tuple(range(dy.ndim - 1))
    g = gamma * dy
    dx = g - g.mean(axis=axes, keepdims=True)
    dx = (dx - x_hat * (g * x_hat).mean(axis=axes, keepdims=True)) / std
    return dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


WRONG.append(
    Case(
        "layer: whole sample",
        (whole_sample_forward, whole_sample_backward),
        LAYER,
        "statistics over all axes but the first: wrong from three axes on",
        "all axes but the first",
    )
)


def rms_layer_forward(x, gamma, beta, eps):
    std = np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return gamma * (x / std) + beta, (x / std, std, gamma)


def rms_layer_backward(dy, cache):
    x_hat, std, gamma = cache
    others = tuple(range(dy.ndim - 1))
    g = gamma * dy
    dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) / std
    return dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


WRONG.append(
    Case(
        "layer: RMS",
        (rms_layer_forward, rms_layer_backward),
        LAYER,
        "never subtracts the mean",
        "no mean is subtracted",
    )
)


def first_axis_dgamma_backward(dy, cache):
    dx, _, _ = l2_layer_backward(dy, cache)
    return dx, (dy * cache[0]).sum(axis=0), dy.sum(axis=0)


WRONG.append(
    Case(
        "layer: dgamma over the first axis",
        (l2_layer_forward, first_axis_dgamma_backward),
        LAYER,
        "dgamma and dbeta are summed over the first axis: wrong from three axes on",
    )
)


def lost_g_backward(dw, cache):
    v, g, norm = cache
    d, direction = weight_rows(dw), v / norm[:, None]
    dg = (d * direction).sum(axis=1)
    dv = g[:, None] * d / norm[:, None] - dg[:, None] * direction / norm[:, None]
    return dv.reshape(dw.shape), dg


WRONG.append(
    Case(
        "weight: g lost",
        (l2_weight_forward, lost_g_backward),
        WEIGHT,
        "the second term of dv lacks g",
    )
)


def unnormalized_dg_backward(dw, cache):
    dv, _ = l2_weight_backward(dw, cache)
    return dv, (weight_rows(dw) * cache[0]).sum(axis=1)


WRONG.append(
    Case(
        "weight: dg unnormalized",
        (l2_weight_forward, unnormalized_dg_backward),
        WEIGHT,
        "dg = <dw, v> without 1/||v||",
    )
)


def w_for_direction_forward(v, g):
    w, (rows, g, norm) = l2_weight_forward(v, g)
    return w, (rows * g[:, None] / norm[:, None], g, norm)


def w_for_direction_backward(dw, cache):
    w, g, norm = cache
    d = weight_rows(dw)
    dg = (d * w).sum(axis=1)
    direction = w / g[:, None]
    along = (d * direction).sum(axis=1)
    return ((g / norm)[:, None] * (d - along[:, None] * direction)).reshape(dw.shape), dg


WRONG.append(
    Case(
        "weight: dg from w",
        (w_for_direction_forward, w_for_direction_backward),
        WEIGHT,
        "dg = <dw, w>: g times too large",
    )
)


def eps_weight_forward(v, g):
    rows = weight_rows(v)
    norm = np.linalg.norm(rows, axis=1) + 1e-5
    return ((g / norm)[:, None] * rows).reshape(v.shape), (rows, g, norm)


WRONG.append(
    Case(
        "weight: eps",
        (eps_weight_forward, l2_weight_backward),
        WEIGHT,
        "1e-5 added to the norm: small weights come out too small",
    )
)


def input_axis_forward(v, g):
    """Each pixel of a kernel is normalized by itself: right for matrices."""
    norm = np.sqrt((v * v).sum(axis=1, keepdims=True))
    g = g.reshape(-1, *(1,) * (v.ndim - 1))
    return g * v / norm, (v, g, norm)


def input_axis_backward(dw, cache):
    v, g, norm = cache
    along = (dw * v / norm).sum(axis=1, keepdims=True)
    dg = along.reshape(len(v), -1).sum(axis=1)
    return g / norm * (dw - along * v / norm), dg


WRONG.append(
    Case(
        "weight: input axis",
        (input_axis_forward, input_axis_backward),
        WEIGHT,
        "the norm over axis 1 alone: wrong for convolutions only",
    )
)


def squared_half_forward(v, g):
    """The sum of squares in v's own dtype."""
    rows = weight_rows(v)
    norm = np.sqrt((rows * rows).sum(axis=1))
    return ((g / norm)[:, None] * rows).reshape(v.shape), (rows, g, norm)


WRONG.append(
    Case(
        "weight: float16 squares",
        (squared_half_forward, l2_weight_backward),
        {**WEIGHT, "dtype": "float16"},
        "v^2 in float16 underflows for small weights and overflows for large ones",
    )
)


def l2_projection_backward(dw, cache):
    """The L1 form with the projection of the L2 form."""
    v, g, norm = cache
    d = weight_rows(dw)
    dg = (d * v).sum(axis=1) / norm
    dv = (g / norm)[:, None] * (d - dg[:, None] * v / norm[:, None])
    return dv.reshape(dw.shape), dg


WRONG.append(
    Case(
        "weight: L2 projection in L1",
        (l1_weight_forward, l2_projection_backward),
        {**WEIGHT, "p": 1},
        "v/||v|| where sign(v) belongs",
    )
)


def rho_power_forward(v, rho):
    w, (_, norm, rho) = l2_bounded_forward(v, rho)
    return w, (weight_rows(w), norm, rho)


def rho_power_backward(dw, cache):
    w, norm, rho = cache
    d = weight_rows(dw)
    along = (d * w).sum(axis=1, keepdims=True) / rho
    return (rho / norm * (d - along * w)).reshape(dw.shape)


WRONG.append(
    Case(
        "bounded: power of rho",
        (rho_power_forward, rho_power_backward),
        BOUNDED,
        "w for v/||v|| in the projection, divided by rho once: right for rho = 1 only",
    )
)


def own_rho_forward(v, rho):
    """rho measured again at every call."""
    rho = np.linalg.norm(v) / math.sqrt(len(v))
    return l2_bounded_forward(v, rho)


WRONG.append(
    Case(
        "bounded: own rho",
        (own_rho_forward, l2_bounded_backward),
        BOUNDED,
        "measures rho again at every call instead of using the fixed one",
    )
)


def every_tie_bounded_backward(dw, cache):
    v, norm, rho = cache
    d = weight_rows(dw)
    h = np.sign(v) * (np.abs(v) == norm)
    along = (d * (v / norm)).sum(axis=1, keepdims=True)
    return (rho / norm * (d - along * h)).reshape(dw.shape)


WRONG.append(
    Case(
        "bounded: every tie",
        (linf_bounded_forward, every_tie_bounded_backward),
        SUP,
        "each of the tied maxima gets the whole gradient: wrong at ties only",
    )
)


def learned_rho_backward(dw, cache):
    """The straight-through gradient: rho / ||v|| dw, the direction is not a function of v."""
    _, norm, rho = cache
    return dw * (rho / norm).reshape(-1, *(1,) * (dw.ndim - 1))


WRONG.append(
    Case(
        "bounded: straight through",
        (l2_bounded_forward, learned_rho_backward),
        BOUNDED,
        "the norm is taken for a constant",
    )
)
