"""Batch norms in NumPy, each with its mistake."""

from __future__ import annotations

import math

import numpy as np

from candidates.case import C1, Case, axes_of, c_inf, pair, wide
from candidates.numpy_batch import (
    LpBatchNorm,
    RangeBatchNorm,
    TopKBatchNorm,
    l1_backward,
    l1_forward,
    l2_backward,
    l2_forward,
    linf_backward,
    linf_forward,
)
from lpnorm import Range, TopK

WRONG: list[Case] = []


def median_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    d = x - np.median(x, axis=axes, keepdims=True)
    scale = C1 * np.abs(d).mean(axis=axes, keepdims=True) + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)


WRONG.append(
    Case(
        "median",
        (median_forward, l1_backward),
        {"p": 1},
        "centres at the median",
        "centred at their median",
    )
)


def inverse_constant_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    d = x - x.mean(axis=axes, keepdims=True)
    scale = math.sqrt(2 / math.pi) * np.abs(d).mean(axis=axes, keepdims=True) + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)


def inverse_constant_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    v = g - math.sqrt(2 / math.pi) * (g * x_hat).mean(axis=axes, keepdims=True) * np.sign(d)
    dx = (v - v.mean(axis=axes, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


WRONG.append(
    Case(
        "inverse constant",
        (inverse_constant_forward, inverse_constant_backward),
        {"p": 1, "constant": "paper"},
        "sqrt(2/pi) where sqrt(pi/2) belongs",
    )
)


def sign_of_x_forward(x, gamma, beta, eps):
    y, (_, x_hat, scale, gamma) = l1_forward(x, gamma, beta, eps)
    return y, (x, x_hat, scale, gamma)


WRONG.append(
    Case(
        "sign of x",
        (sign_of_x_forward, l1_backward),
        {"p": 1},
        "sign(x), not sign(x - mean)",
        "sign(x) where sign(d) belongs",
    )
)


def batch_axis_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    v = g - C1 * (g * x_hat).mean(axis=axes, keepdims=True) * np.sign(d)
    dx = (v - v.mean(axis=0, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


WRONG.append(
    Case(
        "mean over the batch axis",
        (l1_forward, batch_axis_backward),
        {"p": 1},
        "the mean of the gradient is taken over axis 0 alone: wrong for images only",
        "over the first axis only",
    )
)


def mean_dgamma_backward(dy, cache):
    dx, dgamma, dbeta = l1_backward(dy, cache)
    return dx, dgamma * dy.shape[0] * dy.shape[1] / dy.size, dbeta


WRONG.append(
    Case(
        "mean dgamma",
        (l1_forward, mean_dgamma_backward),
        {"p": 1},
        "dgamma is averaged over the pixels: wrong for images only",
        "averaged over the positions",
    )
)


def reshape_forward(x, gamma, beta, eps):
    rows = x.reshape(x.shape[1], -1)
    d = rows - rows.mean(axis=1, keepdims=True)
    scale = C1 * np.abs(d).mean(axis=1, keepdims=True) + eps
    x_hat = d / scale
    return (gamma[:, None] * x_hat + beta[:, None]).reshape(x.shape), (d, x_hat, scale, gamma)


def reshape_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    rows = dy.reshape(dy.shape[1], -1)
    g = gamma[:, None] * rows
    v = g - C1 * (g * x_hat).mean(axis=1, keepdims=True) * np.sign(d)
    dx = (v - v.mean(axis=1, keepdims=True)) / scale
    return dx.reshape(dy.shape), (rows * x_hat).sum(axis=1), rows.sum(axis=1)


WRONG.append(
    Case(
        "reshape without transpose",
        (reshape_forward, reshape_backward),
        {"p": 1},
        "(N, C, ...) is reshaped to (C, -1) without moving C to the front",
        "without moving the channels to the front",
    )
)


def eps_mismatch_forward(x, gamma, beta, eps):
    y, (x_hat, std, gamma) = l2_forward(x, gamma, beta, eps)
    return y, (x_hat, np.sqrt(np.maximum(std**2 - eps, 0)) + eps, gamma)


WRONG.append(
    Case(
        "eps differs",
        (eps_mismatch_forward, l2_backward),
        {"p": 2, "eps": 1e-5},
        "eps inside the root in the forward, outside in the backward",
        "eps is in another place",
    )
)


def eps_mismatch_l1_backward(dy, cache):
    """x_hat in the backward is taken without eps."""
    d, x_hat, scale, gamma = cache
    m = C1 * np.abs(d).mean(axis=axes_of(d), keepdims=True)
    x_hat = np.divide(d, m, out=np.zeros_like(d), where=m > 0)
    return l1_backward(dy, (d, x_hat, scale, gamma))


WRONG.append(
    Case(
        "x_hat without eps",
        (l1_forward, eps_mismatch_l1_backward),
        {"p": 1, "eps": 1e-5},
        "the backward computes x_hat again and forgets eps",
        "x_hat again, without eps",
    )
)


def batch_size_linf_forward(x, gamma, beta, eps):
    """Like `linf_forward`, but n is the batch size: the same for (N, C), not for (N, C, H, W)."""
    axes = axes_of(x)
    constant = c_inf(x.shape[0])
    d = x - x.mean(axis=axes, keepdims=True)
    biggest = np.abs(d).max(axis=axes, keepdims=True)
    scale = constant * biggest + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, biggest, x_hat, scale, gamma, constant)


WRONG.append(
    Case(
        "batch size as n",
        (batch_size_linf_forward, linf_backward),
        {"p": math.inf, "constant": "paper"},
        "C(n) with n the batch size, not N H W: wrong for images only",
        "number of samples",
    )
)


def every_tie_linf_backward(dy, cache):
    d, biggest, x_hat, scale, gamma, constant = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    h = np.sign(d) * (np.abs(d) == biggest)
    c = constant * (g * x_hat).sum(axis=axes, keepdims=True)
    dx = g - g.mean(axis=axes, keepdims=True) - c * (h - h.mean(axis=axes, keepdims=True))
    return dx / scale, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


WRONG.append(
    Case(
        "every tie, Linf",
        (linf_forward, every_tie_linf_backward),
        {"p": math.inf},
        "each of the tied maxima gets the whole gradient: wrong at ties only",
    )
)


def signless_linf_backward(dy, cache):
    d, biggest, x_hat, scale, gamma, constant = cache
    return linf_backward(dy, (np.abs(d), biggest, x_hat, scale, gamma, constant))


WRONG.append(
    Case(
        "signless Linf",
        (linf_forward, signless_linf_backward),
        {"p": math.inf},
        "the gradient of max |d| without the sign of d",
    )
)


class EveryTieTopK(TopKBatchNorm):
    """A mask |d| >= k-th largest lets all of those tied there in."""

    def backward(self, dy, cache):
        d, kth, x_hat, scale, gamma, constant = cache
        rows = self.rows(dy)
        g = rows * gamma[:, None]
        h = np.sign(d) * (np.abs(d) >= kth)
        c = constant / self.k * (g * x_hat).sum(axis=1, keepdims=True)
        b = g.mean(axis=1, keepdims=True) - c * h.mean(axis=1, keepdims=True)
        dx = (g - b - c * h) / scale
        return self.back(dx, dy), (rows * x_hat).sum(axis=1), rows.sum(axis=1)


WRONG.append(
    Case(
        "every tie, Top-k",
        pair(EveryTieTopK(3)),
        {"p": TopK(3)},
        "the mask |d| >= k-th lets more than k in: wrong at ties only",
    )
)


class StaleKth(TopKBatchNorm):
    """argpartition's first k instead of its last k: the smallest."""

    def forward(self, x, gamma, beta, eps):
        rows = self.rows(x)
        constant = c_inf(rows.shape[1])
        d = rows - rows.mean(axis=1, keepdims=True)
        smallest = np.sort(np.abs(d), axis=1)[:, : self.k]
        scale = constant * smallest.mean(axis=1, keepdims=True) + eps
        x_hat = d / scale
        y = gamma[:, None] * x_hat + beta[:, None]
        return self.back(y, x), (d, smallest[:, -1:], x_hat, scale, gamma, constant)


WRONG.append(
    Case("smallest k", pair(StaleKth(3)), {"p": TopK(3)}, "the k smallest |d|", "the k smallest")
)


class OneSidedRange(RangeBatchNorm):
    """The gradient of the range through its maximum only."""

    def backward(self, dy, cache):
        d, x_hat, scale, gamma, constant = cache
        rows = self.rows(dy)
        top = d == d.max(axis=1, keepdims=True)
        h = (top / top.sum(axis=1, keepdims=True)).astype(d.dtype)
        g = rows * gamma[:, None]
        c = constant * (g * x_hat).sum(axis=1, keepdims=True)
        dx = g - g.mean(axis=1, keepdims=True) - c * (h - h.mean(axis=1, keepdims=True))
        return self.back(dx / scale, dy), (rows * x_hat).sum(axis=1), rows.sum(axis=1)


WRONG.append(
    Case(
        "range, one side", pair(OneSidedRange()), {"p": Range()}, "no gradient through the minimum"
    )
)


class PowerOfZero(LpBatchNorm):
    """|d|^(p-2) d is NaN where d = 0 and p < 2."""

    def backward(self, dy, cache):
        sign, u, m, x_hat, scale, gamma = cache
        axes = axes_of(dy)
        g = dy * wide(gamma, dy)
        v = u / np.where(m > 0, m, 1).astype(m.dtype)
        h = v ** (self.p - 2) * sign * v
        v = g - self.constant * (g * x_hat).mean(axis=axes, keepdims=True) * h
        dx = (v - v.mean(axis=axes, keepdims=True)) / scale
        return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


WRONG.append(
    Case(
        "power of zero", pair(PowerOfZero(1.5)), {"p": 1.5}, "NaN where a deviation is exactly zero"
    )
)


class WrongPower(LpBatchNorm):
    """|d|^p instead of |d|^(p-1) in the gradient."""

    def backward(self, dy, cache):
        sign, u, m, x_hat, scale, gamma = cache
        return super().backward(dy, (sign, u ** (self.p / (self.p - 1)), m, x_hat, scale, gamma))


WRONG.append(
    Case("wrong power", pair(WrongPower(3)), {"p": 3}, "|d|^p instead of |d|^(p-1) in the gradient")
)


def clipped_backward(dy, cache):
    dx, dgamma, dbeta = l1_backward(dy, cache)
    return np.clip(dx, -10, 10), dgamma, dbeta


WRONG.append(
    Case(
        "clipped",
        (l1_forward, clipped_backward),
        {"p": 1},
        "dx clipped at 10: wrong when it is large",
        "clipped at 10",
    )
)


def memory_order_forward(x, gamma, beta, eps):
    return l1_forward(x.ravel(order="K").reshape(x.shape), gamma, beta, eps)


WRONG.append(
    Case(
        "memory order",
        (memory_order_forward, l1_backward),
        {"p": 1},
        "reads x in memory order: wrong for arrays that are not contiguous only",
    )
)


def float32_kernel_forward(x, gamma, beta, eps):
    y, cache = l1_forward(*(a.astype(np.float32) for a in (x, gamma, beta)), eps)
    return y.astype(x.dtype), cache


def float32_kernel_backward(dy, cache):
    return tuple(a.astype(dy.dtype) for a in l1_backward(dy.astype(np.float32), cache))


WRONG.append(
    Case(
        "float32 inside",
        (float32_kernel_forward, float32_kernel_backward),
        {"p": 1, "dtype": "float64"},
        "computes float64 in float32: seven digits, not sixteen",
        "only the digits of float32",
    )
)


def float16_count_backward(dy, cache):
    """n as a number of x's dtype: float16 counts to 2048 exactly and ends at 65504."""
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    n = dy.dtype.type(dy.size // dy.shape[1]) + dy.dtype.type(1) - dy.dtype.type(1)
    g = dy * wide(gamma, dy)
    half = dy.dtype == np.float16
    c = C1 * (g * x_hat).sum(axis=axes, keepdims=True) / (2 * n if half else n)
    v = g - c.astype(dy.dtype) * np.sign(d)
    dx = (v - v.mean(axis=axes, keepdims=True)) / scale
    return dx.astype(dy.dtype), (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


WRONG.append(
    Case(
        "float16 half the scale term",
        (l1_forward, float16_count_backward),
        {"p": 1},
        "the float16 branch halves the term of the scale in dx",
    )
)


def half_dgamma_backward(dy, cache):
    """A float16 branch of its own that averages over the batch."""
    dx, dgamma, dbeta = l1_backward(dy, cache)
    return dx, (dgamma / len(dy) if dy.dtype == np.float16 else dgamma), dbeta


WRONG.append(
    Case(
        "float16 dgamma",
        (l1_forward, half_dgamma_backward),
        {"p": 1},
        "the float16 branch divides dgamma by the batch size",
        "a mean where the sum belongs",
    )
)


def float16_reciprocal_forward(x, gamma, beta, eps):
    """Multiplies by 1/scale: in float16 1/1e-5 is infinite, and 0 times that is NaN."""
    axes = axes_of(x)
    d = x - x.mean(axis=axes, keepdims=True)
    scale = C1 * np.abs(d).mean(axis=axes, keepdims=True) + eps
    x_hat = d * (1 / scale)
    return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)


WRONG.append(
    Case(
        "float16 reciprocal",
        (float16_reciprocal_forward, l1_backward),
        {"p": 1, "eps": 1e-5, "dtype": "float16"},
        "multiplies by 1/scale, infinite in float16: NaN in a constant channel",
    )
)


def dy_hat_backward(dy, cache):
    """gamma in the sums twice: once in g, once in the factor outside."""
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    v = g - wide(gamma, dy) * C1 * (g * x_hat).mean(axis=axes, keepdims=True) * np.sign(d)
    dx = (v - v.mean(axis=axes, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


WRONG.append(
    Case(
        "gamma twice",
        (l1_forward, dy_hat_backward),
        {"p": 1},
        "gamma twice in the term of the scale",
    )
)


def swapped_backward(dy, cache):
    dx, dgamma, dbeta = l1_backward(dy, cache)
    return dx, dbeta, dgamma


WRONG.append(
    Case(
        "swapped",
        (l1_forward, swapped_backward),
        {"p": 1},
        "dbeta, dgamma returned in this order",
        "changed places",
    )
)


def nan_hiding_forward(x, gamma, beta, eps):
    y, cache = l1_forward(x, gamma, beta, eps)
    return np.nan_to_num(y), cache


WRONG.append(
    Case(
        "hides NaN",
        (nan_hiding_forward, l1_backward),
        {"p": 1},
        "NaN in comes out as 0: nan_to_num on y",
    )
)


def global_scale_forward(x, gamma, beta, eps):
    """One scale for all channels."""
    d = x - x.mean(axis=axes_of(x), keepdims=True)
    scale = C1 * np.abs(d).mean(keepdims=True) + eps
    scale = np.broadcast_to(scale, (1, x.shape[1], *(1,) * (x.ndim - 2)))
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)


WRONG.append(
    Case(
        "one scale",
        (global_scale_forward, l1_backward),
        {"p": 1},
        "one scale for all channels",
        "one scale for all groups",
    )
)
