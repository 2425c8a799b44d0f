"""Layer norm, weight norm and bounded weight norm in NumPy, right."""

from __future__ import annotations

import math

import numpy as np

from candidates.case import C1, Case


def l1_layer_forward(x, gamma, beta, eps):
    d = x - x.mean(axis=-1, keepdims=True)
    scale = C1 * np.abs(d).mean(axis=-1, keepdims=True) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (d, x_hat, scale, gamma)


def l1_layer_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    others = tuple(range(dy.ndim - 1))
    g = gamma * dy
    v = g - C1 * (g * x_hat).mean(axis=-1, keepdims=True) * np.sign(d)
    dx = (v - v.mean(axis=-1, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


def l2_layer_forward(x, gamma, beta, eps):
    std = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    x_hat = (x - x.mean(axis=-1, keepdims=True)) / std
    return gamma * x_hat + beta, (x_hat, std, gamma)


def l2_layer_backward(dy, cache):
    x_hat, std, gamma = cache
    others = tuple(range(dy.ndim - 1))
    g = gamma * dy
    dx = g - g.mean(axis=-1, keepdims=True)
    dx = (dx - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) / std
    return dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


def weight_rows(v):
    return v.reshape(v.shape[0], -1)


def l2_weight_forward(v, g):
    rows = weight_rows(v)
    norm = np.linalg.norm(rows, axis=1)
    w = (g / norm)[:, None] * rows
    return w.reshape(v.shape), (rows, g, norm)


def l2_weight_backward(dw, cache):
    v, g, norm = cache
    d = weight_rows(dw)
    direction = v / norm[:, None]
    dg = (d * direction).sum(axis=1)
    dv = (g / norm)[:, None] * (d - dg[:, None] * direction)
    return dv.reshape(dw.shape), dg


def l1_weight_forward(v, g):
    rows = weight_rows(v)
    norm = np.abs(rows).sum(axis=1)
    return ((g / norm)[:, None] * rows).reshape(v.shape), (rows, g, norm)


def l1_weight_backward(dw, cache):
    v, g, norm = cache
    d = weight_rows(dw)
    dg = (d * v).sum(axis=1) / norm
    dv = (g / norm)[:, None] * (d - dg[:, None] * np.sign(v))
    return dv.reshape(dw.shape), dg


def linf_bounded_forward(v, rho):
    rows = weight_rows(v)
    norm = np.abs(rows).max(axis=1, keepdims=True)
    return (rho * rows / norm).reshape(v.shape), (rows, norm, rho)


def linf_bounded_backward(dw, cache):
    v, norm, rho = cache
    d = weight_rows(dw)
    hit = np.abs(v) == norm
    h = np.sign(v) * hit / hit.sum(axis=1, keepdims=True).astype(v.dtype)
    along = (d * (v / norm)).sum(axis=1, keepdims=True)
    return (rho / norm * (d - along * h)).reshape(dw.shape)


def l2_bounded_forward(v, rho):
    rows = weight_rows(v)
    norm = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return (rho * rows / norm).reshape(v.shape), (rows / norm, norm, rho)


def l2_bounded_backward(dw, cache):
    unit, norm, rho = cache
    d = weight_rows(dw)
    return (rho / norm * (d - (d * unit).sum(axis=1, keepdims=True) * unit)).reshape(dw.shape)


def cases():
    layer = {"layer": "layer_norm"}
    cases = [
        Case("numpy L1 layer", (l1_layer_forward, l1_layer_backward), {**layer, "p": 1}),
        Case("numpy L2 layer", (l2_layer_forward, l2_layer_backward), {**layer, "p": 2}),
    ]
    weight, bounded = {"layer": "weight_norm"}, {"layer": "bounded_weight_norm"}
    linf_bounded = (linf_bounded_forward, linf_bounded_backward)
    cases += [
        Case("numpy L2 weight", (l2_weight_forward, l2_weight_backward), {**weight, "p": 2}),
        Case("numpy L1 weight", (l1_weight_forward, l1_weight_backward), {**weight, "p": 1}),
        Case("numpy L2 bounded", (l2_bounded_forward, l2_bounded_backward), {**bounded, "p": 2}),
        Case("numpy Linf bounded", linf_bounded, {**bounded, "p": math.inf}),
    ]
    return cases
