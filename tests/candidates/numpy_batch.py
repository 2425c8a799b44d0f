"""Batch norms in NumPy, right."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from candidates.case import C1, Case, axes_of, c_inf, c_p, c_range, wide
from lpnorm import Range, TopK


def l1_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    d = x - x.mean(axis=axes, keepdims=True)
    scale = C1 * np.abs(d).mean(axis=axes, keepdims=True) + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)


def l1_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    h = np.sign(d)
    g_dot_x_hat = (g * x_hat).mean(axis=axes, keepdims=True)
    dx = g - g.mean(axis=axes, keepdims=True)
    dx = (dx - C1 * g_dot_x_hat * (h - h.mean(axis=axes, keepdims=True))) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def l2_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    mean = x.mean(axis=axes, keepdims=True)
    std = np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    x_hat = (x - mean) / std
    return wide(gamma, x) * x_hat + wide(beta, x), (x_hat, std, gamma)


def l2_backward(dy, cache):
    """The textbook form, as in every course on deep learning."""
    x_hat, std, gamma = cache
    axes = axes_of(dy)
    n = dy.size // dy.shape[1]
    dgamma = np.sum(dy * x_hat, axis=axes)
    dbeta = np.sum(dy, axis=axes)
    dx = wide(gamma, dy) / std * (dy - (wide(dbeta, dy) + x_hat * wide(dgamma, dy)) / n)
    return dx, dgamma, dbeta


class LpBatchNorm:
    """Any real p, |d| divided by its maximum before it is raised to a power."""

    def __init__(self, p):
        self.p = p
        self.constant = c_p(p)

    def forward(self, x, gamma, beta, eps):
        axes = axes_of(x)
        d = x - x.mean(axis=axes, keepdims=True)
        biggest = np.abs(d).max(axis=axes, keepdims=True)
        biggest = np.where(biggest > 0, biggest, 1).astype(x.dtype)
        u = np.abs(d) / biggest
        m = (u**self.p).mean(axis=axes, keepdims=True) ** (1 / self.p)
        scale = self.constant * biggest * m + eps
        x_hat = d / scale
        return wide(gamma, x) * x_hat + wide(beta, x), (np.sign(d), u, m, x_hat, scale, gamma)

    def backward(self, dy, cache):
        sign, u, m, x_hat, scale, gamma = cache
        axes = axes_of(dy)
        g = dy * wide(gamma, dy)
        h = sign * (u / np.where(m > 0, m, 1).astype(m.dtype)) ** (self.p - 1)
        c = self.constant * (g * x_hat).mean(axis=axes, keepdims=True)
        v = g - c * h
        dx = (v - v.mean(axis=axes, keepdims=True)) / scale
        return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def plain_lp_forward(x, gamma, beta, eps, p=3):
    """The power mean as one writes it down; |d|^p overflows earlier than it has to."""
    axes = axes_of(x)
    d = x - x.mean(axis=axes, keepdims=True)
    m = (np.abs(d) ** p).mean(axis=axes, keepdims=True) ** (1 / p)
    scale = c_p(p) * m + eps
    return wide(gamma, x) * (d / scale) + wide(beta, x), (d, m, scale, gamma)


def plain_lp_backward(dy, cache, p=3):
    d, m, scale, gamma = cache
    axes = axes_of(dy)
    x_hat = d / scale
    g = dy * wide(gamma, dy)
    ratio = np.divide(np.abs(d), m, out=np.zeros_like(d), where=m > 0)
    h = np.sign(d) * ratio ** (p - 1)
    h = h - h.mean(axis=axes, keepdims=True)
    dx = g - g.mean(axis=axes, keepdims=True)
    dx = (dx - c_p(p) * (g * x_hat).mean(axis=axes, keepdims=True) * h) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def linf_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    constant = c_inf(x.size // x.shape[1])
    d = x - x.mean(axis=axes, keepdims=True)
    biggest = np.abs(d).max(axis=axes, keepdims=True)
    scale = constant * biggest + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, biggest, x_hat, scale, gamma, constant)


def linf_backward(dy, cache):
    d, biggest, x_hat, scale, gamma, constant = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    at_max = np.abs(d) == biggest
    h = np.sign(d) * at_max / at_max.sum(axis=axes, keepdims=True).astype(d.dtype)
    c = constant * (g * x_hat).sum(axis=axes, keepdims=True)
    dx = g - g.mean(axis=axes, keepdims=True) - c * (h - h.mean(axis=axes, keepdims=True))
    return dx / scale, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


class ChannelsFirst:
    """Helpers that gather each channel in one row: (N, C, ...) <-> (C, n)."""

    @staticmethod
    def rows(x):
        return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)

    @staticmethod
    def back(rows, like):
        shape = np.moveaxis(like, 1, 0).shape
        return np.moveaxis(rows.reshape(shape), 0, 1)


class TopKBatchNorm(ChannelsFirst):
    def __init__(self, k):
        self.k = k

    def forward(self, x, gamma, beta, eps):
        rows = self.rows(x)
        constant = c_inf(rows.shape[1])
        d = rows - rows.mean(axis=1, keepdims=True)
        largest = np.sort(np.abs(d), axis=1)[:, -self.k :]
        scale = constant * largest.mean(axis=1, keepdims=True) + eps
        x_hat = d / scale
        y = gamma[:, None] * x_hat + beta[:, None]
        return self.back(y, x), (d, largest[:, :1], x_hat, scale, gamma, constant)

    def backward(self, dy, cache):
        d, kth, x_hat, scale, gamma, constant = cache
        rows = self.rows(dy)
        g = rows * gamma[:, None]
        above, tied = np.abs(d) > kth, np.abs(d) == kth
        slots = self.k - above.sum(axis=1, keepdims=True)
        share = (slots / tied.sum(axis=1, keepdims=True)).astype(d.dtype)
        h = np.sign(d) * (above + tied * share)
        c = constant / self.k * (g * x_hat).sum(axis=1, keepdims=True)
        b = g.mean(axis=1, keepdims=True) - c * h.mean(axis=1, keepdims=True)
        dx = (g - b - c * h) / scale
        return self.back(dx, dy), (rows * x_hat).sum(axis=1), rows.sum(axis=1)


class RangeBatchNorm(ChannelsFirst):
    def forward(self, x, gamma, beta, eps):
        rows = self.rows(x)
        constant = c_range(rows.shape[1])
        d = rows - rows.mean(axis=1, keepdims=True)
        scale = constant * np.ptp(d, axis=1, keepdims=True) + eps
        x_hat = d / scale
        y = gamma[:, None] * x_hat + beta[:, None]
        return self.back(y, x), (d, x_hat, scale, gamma, constant)

    def backward(self, dy, cache):
        d, x_hat, scale, gamma, constant = cache
        rows = self.rows(dy)
        top = d == d.max(axis=1, keepdims=True)
        low = d == d.min(axis=1, keepdims=True)
        h = top / top.sum(axis=1, keepdims=True) - low / low.sum(axis=1, keepdims=True)
        h = h.astype(d.dtype)  # its mean is zero
        g = rows * gamma[:, None]
        c = constant * (g * x_hat).sum(axis=1, keepdims=True)
        dx = (g - g.mean(axis=1, keepdims=True) - c * h) / scale
        return self.back(dx, dy), (rows * x_hat).sum(axis=1), rows.sum(axis=1)


def in_float32(pair):
    """Half precision as most kernels do it: float16 in and out, float32 in between."""
    forward, backward = pair

    def up(a):
        return a.astype(np.float32) if a.dtype == np.float16 else a

    def forward_16(x, gamma, beta, eps):
        y, cache = forward(up(x), up(gamma), up(beta), eps)
        return y.astype(x.dtype), (cache, gamma.dtype)

    def backward_16(dy, cache):
        inner, dtype = cache
        dx, dgamma, dbeta = backward(up(dy), inner)
        return dx.astype(dy.dtype), dgamma.astype(dtype), dbeta.astype(dtype)

    return forward_16, backward_16


def half_l1_forward(x, gamma, beta, eps):
    """float16 arrays throughout; only the one number a channel is float32."""
    axes, half = axes_of(x), x.dtype
    wider = np.float32 if half == np.float16 else half
    mean = x.mean(axis=axes, keepdims=True, dtype=wider)
    d = (x - mean).astype(half)
    scale = C1 * np.abs(d).mean(axis=axes, keepdims=True, dtype=wider) + eps
    x_hat = (d / scale).astype(half)
    y = (wide(gamma, x) * x_hat + wide(beta, x)).astype(half)
    return y, (np.sign(d), x_hat, scale, gamma, beta.dtype)


def half_l1_backward(dy, cache):
    h, x_hat, scale, gamma, beta_dtype = cache
    axes, wider = axes_of(dy), scale.dtype
    dgamma = (dy.astype(wider) * x_hat).sum(axis=axes)
    dbeta = dy.sum(axis=axes, dtype=wider)
    n = dy.size // dy.shape[1]
    c = wide(C1 * gamma * dgamma / n, dy)
    b = wide(gamma * dbeta / n, dy) - c * h.mean(axis=axes, keepdims=True, dtype=wider)
    dx = (wide(gamma, dy).astype(wider) * dy - b - c * h) / scale
    return dx.astype(dy.dtype), dgamma.astype(gamma.dtype), dbeta.astype(beta_dtype)


def forward_alone(x, gamma, beta, eps):
    """An L1 batch norm for inference engines: only y."""
    return l1_forward(x, gamma, beta, eps)[0]


L1_PAIR, L2_PAIR = (l1_forward, l1_backward), (l2_forward, l2_backward)
LINF_PAIR = (linf_forward, linf_backward)


def cases():
    cube, root = LpBatchNorm(3), LpBatchNorm(1.5)
    top, spread = TopKBatchNorm(3), RangeBatchNorm()
    pairs = {
        "L1": (L1_PAIR, 1),
        "L2": (L2_PAIR, 2),
        "Lp p=3": ((cube.forward, cube.backward), 3),
        "Lp p=1.5": ((root.forward, root.backward), 1.5),
        "Linf": (LINF_PAIR, math.inf),
        "Top-k k=3": ((top.forward, top.backward), TopK(3)),
        "Range": ((spread.forward, spread.backward), Range()),
    }
    cases = [Case(f"numpy {name}", pair, {"p": p}) for name, (pair, p) in pairs.items()]
    cases += [
        Case(f"numpy {name} float16 in float32", in_float32(pair), {"p": p, "dtype": "float16"})
        for name, (pair, p) in pairs.items()
    ]
    half = (half_l1_forward, half_l1_backward)
    cases += [
        Case("numpy L1 native float16", half, {"p": 1, "dtype": "float16"}),
        Case("numpy L1 native float16, in float32", half, {"p": 1, "dtype": "float32"}),
        Case("numpy plain p=3", (plain_lp_forward, plain_lp_backward), {"p": 3}),
        Case("numpy L1 forward alone", forward_alone, {"p": 1}),
        Case("numpy L1 as an object", SimpleNamespace(forward=l1_forward, backward=l1_backward)),
        Case("numpy Lp as an object", cube, {"p": 3}),
        Case("numpy L1, float32", L1_PAIR, {"p": 1, "dtype": "float32"}),
        Case("numpy L2, float32", L2_PAIR, {"p": 2, "dtype": "float32"}),
        Case("numpy L1, eps 1e-3", L1_PAIR, {"p": 1, "eps": 1e-3}),
    ]
    return cases
