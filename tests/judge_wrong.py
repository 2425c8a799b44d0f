"""Wrong implementations for the judge, each with one sentence saying what is wrong with it.

Written, as `judge_correct` was, without knowledge of the catalogue of mistakes.
"""

from __future__ import annotations

import math

import numpy as np
from judge_correct import (
    C1,
    Case,
    ChannelsFirst,
    LpBatchNorm,
    RangeBatchNorm,
    TopKBatchNorm,
    axes_of,
    c_inf,
    l1_backward,
    l1_forward,
    l1_weight_forward,
    l2_backward,
    l2_bounded_backward,
    l2_bounded_forward,
    l2_forward,
    l2_layer_backward,
    l2_layer_forward,
    l2_weight_backward,
    l2_weight_forward,
    linf_backward,
    linf_bounded_forward,
    linf_forward,
    optimizers,
    torch_function,
    torch_modules,
    weight_rows,
    wide,
)

from lpnorm import Range, TopK

# ---- wrong: batch norm in NumPy ----------------------------------------------------------------


def median_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    d = x - np.median(x, axis=axes, keepdims=True)
    scale = C1 * np.abs(d).mean(axis=axes, keepdims=True) + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)


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


def sign_of_x_forward(x, gamma, beta, eps):
    y, (_, x_hat, scale, gamma) = l1_forward(x, gamma, beta, eps)
    return y, (x, x_hat, scale, gamma)


def batch_axis_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    v = g - C1 * (g * x_hat).mean(axis=axes, keepdims=True) * np.sign(d)
    dx = (v - v.mean(axis=0, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def mean_dgamma_backward(dy, cache):
    dx, dgamma, dbeta = l1_backward(dy, cache)
    return dx, dgamma * dy.shape[0] * dy.shape[1] / dy.size, dbeta


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


def in_place_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    x -= x.mean(axis=axes, keepdims=True)
    scale = C1 * np.abs(x).mean(axis=axes, keepdims=True) + eps
    x_hat = x / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (x, x_hat, scale, gamma)


def in_place_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    dgamma, dbeta = (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)
    dy *= wide(gamma, dy)
    v = dy - C1 * (dy * x_hat).mean(axis=axes, keepdims=True) * np.sign(d)
    return (v - v.mean(axis=axes, keepdims=True)) / scale, dgamma, dbeta


def clobber_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    c = C1 * (g * x_hat).mean(axis=axes, keepdims=True)
    dgamma = (dy * x_hat).sum(axis=axes)
    np.sign(d, out=d)
    np.multiply(c, d, out=x_hat)  # "nobody needs x_hat any more"
    v = g - x_hat
    return (v - v.mean(axis=axes, keepdims=True)) / scale, dgamma, dy.sum(axis=axes)


class Workspace:
    """Keeps one output array for each shape."""

    def __init__(self):
        self.kept = {}

    def forward(self, x, gamma, beta, eps):
        y, cache = l1_forward(x, gamma, beta, eps)
        kept = self.kept.setdefault((y.shape, y.dtype), np.empty_like(y))
        kept[...] = y
        return kept, cache

    backward = staticmethod(l1_backward)


class SelfCache:
    """Keeps what the backward needs in self, not in the cache."""

    def forward(self, x, gamma, beta, eps):
        y, self.saved = l1_forward(x, gamma, beta, eps)
        return y, None

    def backward(self, dy, cache):
        return l1_backward(dy, self.saved)


class Subsample:
    """Statistics of a random nine tenths of the batch."""

    def __init__(self):
        self.rng = np.random.default_rng()

    def forward(self, x, gamma, beta, eps):
        axes = axes_of(x)
        n = x.shape[0]
        some = x[self.rng.permutation(n)[: max(1, math.ceil(0.9 * n))]]
        d = x - some.mean(axis=axes, keepdims=True)
        scale = C1 * np.abs(some - some.mean(axis=axes, keepdims=True)).mean(
            axis=axes, keepdims=True
        )
        scale = scale + eps
        x_hat = d / scale
        return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)

    backward = staticmethod(l1_backward)


class Atomics:
    """Adds up in whatever order the threads arrive."""

    def __init__(self):
        self.rng = np.random.default_rng()

    def forward(self, x, gamma, beta, eps):
        rows = ChannelsFirst.rows(x)
        order = self.rng.permutation(rows.shape[1])
        mean = np.add.reduce(np.ascontiguousarray(rows[:, order]), axis=1) / rows.shape[1]
        d = x - wide(mean, x)
        sizes = np.ascontiguousarray(np.abs(ChannelsFirst.rows(d))[:, order])
        scale = wide(C1 * np.add.reduce(sizes, axis=1) / rows.shape[1] + eps, x)
        x_hat = d / scale
        return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)

    backward = staticmethod(l1_backward)


def eps_mismatch_forward(x, gamma, beta, eps):
    y, (x_hat, std, gamma) = l2_forward(x, gamma, beta, eps)
    return y, (x_hat, np.sqrt(np.maximum(std**2 - eps, 0)) + eps, gamma)


def eps_mismatch_l1_backward(dy, cache):
    """x_hat in the backward is taken without eps."""
    d, x_hat, scale, gamma = cache
    m = C1 * np.abs(d).mean(axis=axes_of(d), keepdims=True)
    x_hat = np.divide(d, m, out=np.zeros_like(d), where=m > 0)
    return l1_backward(dy, (d, x_hat, scale, gamma))


def batch_size_linf_forward(x, gamma, beta, eps):
    """Like `linf_forward`, but n is the batch size: the same for (N, C), not for (N, C, H, W)."""
    axes = axes_of(x)
    constant = c_inf(x.shape[0])
    d = x - x.mean(axis=axes, keepdims=True)
    biggest = np.abs(d).max(axis=axes, keepdims=True)
    scale = constant * biggest + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, biggest, x_hat, scale, gamma, constant)


def every_tie_linf_backward(dy, cache):
    d, biggest, x_hat, scale, gamma, constant = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    h = np.sign(d) * (np.abs(d) == biggest)
    c = constant * (g * x_hat).sum(axis=axes, keepdims=True)
    dx = g - g.mean(axis=axes, keepdims=True) - c * (h - h.mean(axis=axes, keepdims=True))
    return dx / scale, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def signless_linf_backward(dy, cache):
    d, biggest, x_hat, scale, gamma, constant = cache
    return linf_backward(dy, (np.abs(d), biggest, x_hat, scale, gamma, constant))


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


class WrongPower(LpBatchNorm):
    """|d|^p instead of |d|^(p-1) in the gradient."""

    def backward(self, dy, cache):
        sign, u, m, x_hat, scale, gamma = cache
        return super().backward(dy, (sign, u ** (self.p / (self.p - 1)), m, x_hat, scale, gamma))


def clipped_backward(dy, cache):
    dx, dgamma, dbeta = l1_backward(dy, cache)
    return np.clip(dx, -10, 10), dgamma, dbeta


def memory_order_forward(x, gamma, beta, eps):
    return l1_forward(x.ravel(order="K").reshape(x.shape), gamma, beta, eps)


def float32_kernel_forward(x, gamma, beta, eps):
    y, cache = l1_forward(*(a.astype(np.float32) for a in (x, gamma, beta)), eps)
    return y.astype(x.dtype), cache


def float32_kernel_backward(dy, cache):
    return tuple(a.astype(dy.dtype) for a in l1_backward(dy.astype(np.float32), cache))


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


def half_dgamma_backward(dy, cache):
    """A float16 branch of its own that averages over the batch."""
    dx, dgamma, dbeta = l1_backward(dy, cache)
    return dx, (dgamma / len(dy) if dy.dtype == np.float16 else dgamma), dbeta


def float16_reciprocal_forward(x, gamma, beta, eps):
    """Multiplies by 1/scale: in float16 1/1e-5 is infinite, and 0 times that is NaN."""
    axes = axes_of(x)
    d = x - x.mean(axis=axes, keepdims=True)
    scale = C1 * np.abs(d).mean(axis=axes, keepdims=True) + eps
    x_hat = d * (1 / scale)
    return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)


def dy_hat_backward(dy, cache):
    """gamma in the sums twice: once in g, once in the factor outside."""
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    v = g - wide(gamma, dy) * C1 * (g * x_hat).mean(axis=axes, keepdims=True) * np.sign(d)
    dx = (v - v.mean(axis=axes, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def running_dbeta_backward():
    """Accumulates dgamma and dbeta over calls, as .grad does, and nobody clears it."""
    kept = {}

    def backward(dy, cache):
        dx, dgamma, dbeta = l1_backward(dy, cache)
        old = kept.get((dgamma.shape, dgamma.dtype), (0, 0))
        kept[dgamma.shape, dgamma.dtype] = old[0] + dgamma, old[1] + dbeta
        return dx, *kept[dgamma.shape, dgamma.dtype]

    return backward


def swapped_backward(dy, cache):
    dx, dgamma, dbeta = l1_backward(dy, cache)
    return dx, dbeta, dgamma


def nan_hiding_forward(x, gamma, beta, eps):
    y, cache = l1_forward(x, gamma, beta, eps)
    return np.nan_to_num(y), cache


def global_scale_forward(x, gamma, beta, eps):
    """One scale for all channels."""
    d = x - x.mean(axis=axes_of(x), keepdims=True)
    scale = C1 * np.abs(d).mean(keepdims=True) + eps
    scale = np.broadcast_to(scale, (1, x.shape[1], *(1,) * (x.ndim - 2)))
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, gamma)


def numpy_wrong():
    """Wrong NumPy batch norms. The first ones have wrong values, the last ones wrong manners."""
    every, stale, sided = EveryTieTopK(3), StaleKth(3), OneSidedRange()
    zero, power = PowerOfZero(1.5), WrongPower(3)
    l1 = {"p": 1}

    def pair(o):
        return o.forward, o.backward

    half = {"dtype": "float16"}
    return [
        Case("median", (median_forward, l1_backward), l1, "centres at the median"),
        Case(
            "inverse constant",
            (inverse_constant_forward, inverse_constant_backward),
            {"p": 1, "constant": "paper"},
            "sqrt(2/pi) where sqrt(pi/2) belongs",
        ),
        Case("sign of x", (sign_of_x_forward, l1_backward), l1, "sign(x), not sign(x - mean)"),
        Case(
            "mean over the batch axis",
            (l1_forward, batch_axis_backward),
            l1,
            "the mean of the gradient is taken over axis 0 alone: wrong for images only",
        ),
        Case(
            "mean dgamma",
            (l1_forward, mean_dgamma_backward),
            l1,
            "dgamma is averaged over the pixels: wrong for images only",
        ),
        Case(
            "reshape without transpose",
            (reshape_forward, reshape_backward),
            l1,
            "(N, C, ...) is reshaped to (C, -1) without moving C to the front",
        ),
        Case(
            "eps differs",
            (eps_mismatch_forward, l2_backward),
            {"p": 2, "eps": 1e-5},
            "eps inside the root in the forward, outside in the backward",
        ),
        Case(
            "x_hat without eps",
            (l1_forward, eps_mismatch_l1_backward),
            {"p": 1, "eps": 1e-5},
            "the backward computes x_hat again and forgets eps",
        ),
        Case(
            "batch size as n",
            (batch_size_linf_forward, linf_backward),
            {"p": math.inf, "constant": "paper"},
            "C(n) with n the batch size, not N H W: wrong for images only",
        ),
        Case(
            "every tie, Linf",
            (linf_forward, every_tie_linf_backward),
            {"p": math.inf},
            "each of the tied maxima gets the whole gradient: wrong at ties only",
        ),
        Case(
            "signless Linf",
            (linf_forward, signless_linf_backward),
            {"p": math.inf},
            "the gradient of max |d| without the sign of d",
        ),
        Case(
            "every tie, Top-k",
            pair(every),
            {"p": TopK(3)},
            "the mask |d| >= k-th lets more than k in: wrong at ties only",
        ),
        Case("smallest k", pair(stale), {"p": TopK(3)}, "the k smallest |d|"),
        Case("range, one side", pair(sided), {"p": Range()}, "no gradient through the minimum"),
        Case("power of zero", pair(zero), {"p": 1.5}, "NaN where a deviation is exactly zero"),
        Case("wrong power", pair(power), {"p": 3}, "|d|^p instead of |d|^(p-1) in the gradient"),
        Case(
            "clipped",
            (l1_forward, clipped_backward),
            l1,
            "dx clipped at 10: wrong when it is large",
        ),
        Case(
            "memory order",
            (memory_order_forward, l1_backward),
            l1,
            "reads x in memory order: wrong for arrays that are not contiguous only",
        ),
        Case(
            "float32 inside",
            (float32_kernel_forward, float32_kernel_backward),
            {"p": 1, "dtype": "float64"},
            "computes float64 in float32: seven digits, not sixteen",
        ),
        Case(
            "float16 half the scale term",
            (l1_forward, float16_count_backward),
            l1,
            "the float16 branch halves the term of the scale in dx",
        ),
        Case(
            "float16 dgamma",
            (l1_forward, half_dgamma_backward),
            l1,
            "the float16 branch divides dgamma by the batch size",
        ),
        Case(
            "float16 reciprocal",
            (float16_reciprocal_forward, l1_backward),
            {"p": 1, "eps": 1e-5, **half},
            "multiplies by 1/scale, infinite in float16: NaN in a constant channel",
        ),
        Case(
            "gamma twice", (l1_forward, dy_hat_backward), l1, "gamma twice in the term of the scale"
        ),
        Case("swapped", (l1_forward, swapped_backward), l1, "dbeta, dgamma returned in this order"),
        Case(
            "hides NaN",
            (nan_hiding_forward, l1_backward),
            l1,
            "NaN in comes out as 0: nan_to_num on y",
        ),
        Case("one scale", (global_scale_forward, l1_backward), l1, "one scale for all channels"),
    ]


def rude_wrong():
    """Wrong NumPy batch norms whose values are right when looked at once."""
    l1 = {"p": 1}
    work, own, some, order = Workspace(), SelfCache(), Subsample(), Atomics()
    return [
        Case("in place, x", (in_place_forward, l1_backward), l1, "the forward centres x in place"),
        Case(
            "in place, dy",
            (l1_forward, in_place_backward),
            l1,
            "the backward multiplies dy in place",
        ),
        Case(
            "eats its cache",
            (l1_forward, clobber_backward),
            l1,
            "the backward overwrites the cache: a second call on it differs",
        ),
        Case("workspace", work, l1, "every call returns the same array: earlier results change"),
        Case(
            "cache in self",
            own,
            l1,
            "the backward uses the last forward's values, not its cache's",
        ),
        Case("subsample", some, l1, "statistics of a random part of the batch: not deterministic"),
        Case("atomics", order, l1, "sums in random order: two calls differ in the last bits"),
        Case(
            "accumulating",
            (l1_forward, running_dbeta_backward()),
            l1,
            "dgamma and dbeta add up over calls",
        ),
    ]


# ---- wrong: layer norm, weight norm ------------------------------------------------------------


def gamma_outside_backward(dy, cache):
    """Batch norm's formula, where gamma is the same for a whole group."""
    x_hat, std, gamma = cache
    others = tuple(range(dy.ndim - 1))
    dx = dy - dy.mean(axis=-1, keepdims=True) - x_hat * (dy * x_hat).mean(axis=-1, keepdims=True)
    return gamma * dx / std, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


def batch_count_backward(dy, cache):
    x_hat, std, gamma = cache
    others, n = tuple(range(dy.ndim - 1)), len(dy)
    g = gamma * dy
    dx = g - g.sum(axis=-1, keepdims=True) / n
    dx = (dx - x_hat * (g * x_hat).sum(axis=-1, keepdims=True) / n) / std
    return dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


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


def rms_layer_forward(x, gamma, beta, eps):
    std = np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return gamma * (x / std) + beta, (x / std, std, gamma)


def rms_layer_backward(dy, cache):
    x_hat, std, gamma = cache
    others = tuple(range(dy.ndim - 1))
    g = gamma * dy
    dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) / std
    return dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


def first_axis_dgamma_backward(dy, cache):
    dx, _, _ = l2_layer_backward(dy, cache)
    return dx, (dy * cache[0]).sum(axis=0), dy.sum(axis=0)


def lost_g_backward(dw, cache):
    v, g, norm = cache
    d, direction = weight_rows(dw), v / norm[:, None]
    dg = (d * direction).sum(axis=1)
    dv = g[:, None] * d / norm[:, None] - dg[:, None] * direction / norm[:, None]
    return dv.reshape(dw.shape), dg


def unnormalized_dg_backward(dw, cache):
    dv, _ = l2_weight_backward(dw, cache)
    return dv, (weight_rows(dw) * cache[0]).sum(axis=1)


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


def eps_weight_forward(v, g):
    rows = weight_rows(v)
    norm = np.linalg.norm(rows, axis=1) + 1e-5
    return ((g / norm)[:, None] * rows).reshape(v.shape), (rows, g, norm)


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


def squared_half_forward(v, g):
    """The sum of squares in v's own dtype."""
    rows = weight_rows(v)
    norm = np.sqrt((rows * rows).sum(axis=1))
    return ((g / norm)[:, None] * rows).reshape(v.shape), (rows, g, norm)


def l2_projection_backward(dw, cache):
    """The L1 form with the projection of the L2 form."""
    v, g, norm = cache
    d = weight_rows(dw)
    dg = (d * v).sum(axis=1) / norm
    dv = (g / norm)[:, None] * (d - dg[:, None] * v / norm[:, None])
    return dv.reshape(dw.shape), dg


def rho_power_forward(v, rho):
    w, (_, norm, rho) = l2_bounded_forward(v, rho)
    return w, (weight_rows(w), norm, rho)


def rho_power_backward(dw, cache):
    w, norm, rho = cache
    d = weight_rows(dw)
    along = (d * w).sum(axis=1, keepdims=True) / rho
    return (rho / norm * (d - along * w)).reshape(dw.shape)


def own_rho_forward(v, rho):
    """rho measured again at every call."""
    rho = np.linalg.norm(v) / math.sqrt(len(v))
    return l2_bounded_forward(v, rho)


def every_tie_bounded_backward(dw, cache):
    v, norm, rho = cache
    d = weight_rows(dw)
    h = np.sign(v) * (np.abs(v) == norm)
    along = (d * (v / norm)).sum(axis=1, keepdims=True)
    return (rho / norm * (d - along * h)).reshape(dw.shape)


def learned_rho_backward(dw, cache):
    """The straight-through gradient: rho / ||v|| dw, the direction is not a function of v."""
    _, norm, rho = cache
    return dw * (rho / norm).reshape(-1, *(1,) * (dw.ndim - 1))


def other_layers_wrong():
    """Wrong layer norms and weight norms."""
    layer, weight = {"layer": "layer_norm", "p": 2}, {"layer": "weight_norm", "p": 2}
    bounded = {"layer": "bounded_weight_norm", "p": 2}
    sup = {"layer": "bounded_weight_norm", "p": math.inf}
    return [
        Case(
            "layer: gamma outside",
            (l2_layer_forward, gamma_outside_backward),
            layer,
            "dx is multiplied by gamma at the end, as in batch norm",
        ),
        Case(
            "layer: batch size as n",
            (l2_layer_forward, batch_count_backward),
            layer,
            "means in the backward divide by the batch size",
        ),
        Case(
            "layer: whole sample",
            (whole_sample_forward, whole_sample_backward),
            layer,
            "statistics over all axes but the first: wrong from three axes on",
        ),
        Case(
            "layer: RMS", (rms_layer_forward, rms_layer_backward), layer, "never subtracts the mean"
        ),
        Case(
            "layer: dgamma over the first axis",
            (l2_layer_forward, first_axis_dgamma_backward),
            layer,
            "dgamma and dbeta are summed over the first axis: wrong from three axes on",
        ),
        Case(
            "weight: g lost",
            (l2_weight_forward, lost_g_backward),
            weight,
            "the second term of dv lacks g",
        ),
        Case(
            "weight: dg unnormalized",
            (l2_weight_forward, unnormalized_dg_backward),
            weight,
            "dg = <dw, v> without 1/||v||",
        ),
        Case(
            "weight: dg from w",
            (w_for_direction_forward, w_for_direction_backward),
            weight,
            "dg = <dw, w>: g times too large",
        ),
        Case(
            "weight: eps",
            (eps_weight_forward, l2_weight_backward),
            weight,
            "1e-5 added to the norm: small weights come out too small",
        ),
        Case(
            "weight: input axis",
            (input_axis_forward, input_axis_backward),
            weight,
            "the norm over axis 1 alone: wrong for convolutions only",
        ),
        Case(
            "weight: float16 squares",
            (squared_half_forward, l2_weight_backward),
            {**weight, "dtype": "float16"},
            "v^2 in float16 underflows for small weights and overflows for large ones",
        ),
        Case(
            "weight: L2 projection in L1",
            (l1_weight_forward, l2_projection_backward),
            {**weight, "p": 1},
            "v/||v|| where sign(v) belongs",
        ),
        Case(
            "bounded: power of rho",
            (rho_power_forward, rho_power_backward),
            bounded,
            "w for v/||v|| in the projection, divided by rho once: right for rho = 1 only",
        ),
        Case(
            "bounded: own rho",
            (own_rho_forward, l2_bounded_backward),
            bounded,
            "measures rho again at every call instead of using the fixed one",
        ),
        Case(
            "bounded: every tie",
            (linf_bounded_forward, every_tie_bounded_backward),
            sup,
            "each of the tied maxima gets the whole gradient: wrong at ties only",
        ),
        Case(
            "bounded: straight through",
            (l2_bounded_forward, learned_rho_backward),
            bounded,
            "the norm is taken for a constant",
        ),
    ]


# ---- wrong: torch ------------------------------------------------------------------------------


def torch_wrong():
    """Wrong torch modules and functions: most are right in training and wrong elsewhere."""
    import torch
    from torch import nn

    L1 = torch_modules()["L1"][0]

    class UpdatesInEvaluation(L1):
        def forward(self, x):
            with torch.no_grad():
                mean, scale = self.statistics(x)
                if not self.training:
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_scale.lerp_(scale, self.momentum)
            return super().forward(x)

    class LastBatch(L1):
        def forward(self, x):
            y = super().forward(x)
            if self.training:
                mean, scale = self.statistics(x)
                self.running_mean.copy_(mean.detach())
                self.running_scale.copy_(scale.detach())
            return y

    class CentredMean(L1):
        """The running mean is that of d, which is zero."""

        def forward(self, x):
            before = self.running_mean.clone()
            y = super().forward(x)
            if self.training:
                self.running_mean.copy_(before * (1 - self.momentum))
            return y

    class Attached(L1):
        """The running statistics keep the graphs of all batches."""

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            if self.training:
                mean, scale = self.statistics(x)
                m = self.momentum
                self.running_mean = (1 - m) * self.running_mean + m * mean
                self.running_scale = (1 - m) * self.running_scale + m * scale
            else:
                mean, scale = self.running_mean, self.running_scale
            x_hat = (x - mean.view(shape)) / scale.view(shape)
            return self.weight.view(shape) * x_hat + self.bias.view(shape)

    class BareEvaluation(L1):
        def forward(self, x):
            if self.training:
                return super().forward(x)
            shape = (1, -1) + (1,) * (x.dim() - 2)
            return (x - self.running_mean.view(shape)) / self.running_scale.view(shape)

    class UnscaledRunning(L1):
        """Training divides by C mean|d|, evaluation by the running mean|d|."""

        def forward(self, x):
            before = self.running_scale.clone()
            y = super().forward(x)
            if self.training:
                _, scale = self.statistics(x)
                self.running_scale.copy_(before.lerp(scale.detach() / C1, self.momentum))
            return y

    class RescaledAverage(L1):
        """The running scale is multiplied by C at every step, old part included."""

        def forward(self, x):
            before = self.running_scale.clone()
            y = super().forward(x)
            if self.training:
                _, scale = self.statistics(x)
                self.running_scale.copy_(C1 * before.lerp(scale.detach() / C1, self.momentum))
            return y

    class MeanAfterScale(L1):
        """Momentum 0.1 for the mean and 0.01 for the scale."""

        def forward(self, x):
            before = self.running_scale.clone()
            y = super().forward(x)
            if self.training:
                _, scale = self.statistics(x)
                self.running_scale.copy_(before.lerp(scale.detach(), self.momentum**2))
            return y

    class DetachedMean(L1):
        def statistics(self, x):
            mean, scale = super().statistics(x)
            return mean.detach(), scale

    class NoEvaluation(L1):
        """self.training is never looked at in the subclass that a colleague wrote."""

        def forward(self, x):
            training, self.training = self.training, True
            try:
                return super().forward(x)
            finally:
                self.training = training

    class HalfRunning(L1):
        """Statistics of evaluation frozen at the first batch."""

        def __init__(self, channels):
            super().__init__(channels)
            self.seen = False

        def forward(self, x):
            kept = self.running_mean.clone(), self.running_scale.clone()
            y = super().forward(x)
            if self.training and self.seen:
                self.running_mean.copy_(kept[0])
                self.running_scale.copy_(kept[1])
            self.seen = self.seen or self.training
            return y

    def no_graph(x, gamma, beta, eps):
        """The scale leaves torch for NumPy and comes back without its history."""
        dims = [0, *range(2, x.dim())]
        shape = (1, -1) + (1,) * (x.dim() - 2)
        d = x - x.mean(dim=dims, keepdim=True)
        scale = C1 * d.detach().abs().numpy().mean(axis=tuple(dims), keepdims=True) + eps
        scale = torch.as_tensor(scale, dtype=x.dtype)
        return gamma.view(shape) * (d / scale) + beta.view(shape)

    def in_place(x, gamma, beta, eps):
        dims = [0, *range(2, x.dim())]
        with torch.no_grad():
            x.sub_(x.mean(dim=dims, keepdim=True))
        return torch_function(x, gamma, beta, eps)

    l1 = {"p": 1}
    return [
        Case(
            "torch: updates in evaluation",
            UpdatesInEvaluation,
            l1,
            "evaluation moves the statistics",
        ),
        Case("torch: last batch", LastBatch, l1, "keeps the last batch's statistics only"),
        Case("torch: centred mean", CentredMean, l1, "averages the mean of d, which is zero"),
        Case("torch: attached", Attached, l1, "running statistics are not detached from the graph"),
        Case("torch: bare evaluation", BareEvaluation, l1, "evaluation forgets gamma and beta"),
        Case("torch: unscaled running", UnscaledRunning, l1, "the running scale lacks C"),
        Case("torch: rescaled average", RescaledAverage, l1, "multiplies the old average by C too"),
        Case("torch: two momenta", MeanAfterScale, l1, "the scale has another momentum"),
        Case("torch: detached mean", DetachedMean, l1, "no gradient through the mean"),
        Case(
            "torch: no evaluation", NoEvaluation, l1, "evaluation uses and moves batch statistics"
        ),
        Case("torch: first batch", HalfRunning, l1, "statistics stop after the first batch"),
        Case("torch: through NumPy", no_graph, l1, "no gradient through the scale"),
        Case("torch: in place", in_place, l1, "centres its input in place"),
        Case(
            "torch: InstanceNorm2d",
            lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
            {"p": 2},
            "statistics of each sample by itself",
        ),
        Case("torch: GroupNorm", lambda c: nn.GroupNorm(1, c), {"p": 2}, "normalizes each sample"),
        Case("torch: L2 for L1", nn.BatchNorm2d, l1, "an L2 batch norm, asked to be L1"),
        Case(
            "torch: eps 1e-3",
            lambda c: nn.BatchNorm2d(c, eps=1e-3),
            {"p": 2, "eps": 1e-5},
            "eps = 1e-3",
        ),
        Case(
            "torch: RMSNorm", nn.RMSNorm, {"layer": "layer_norm", "p": 2}, "no mean is subtracted"
        ),
    ]


def sgd_wrong():
    """Wrong optimizers."""
    import torch

    own = optimizers()

    class DampedFirst(own):
        def update(self, p, g, state, lr, momentum, dampening, weight_decay, **_):
            g = g + weight_decay * p
            buffer = state.get("buffer", torch.zeros_like(p))
            state["buffer"] = momentum * buffer + (1 - dampening) * g
            p.sub_(lr * state["buffer"])

    class DoubleDecay(own):
        def update(self, p, g, state, weight_decay, **rest):
            super().update(p, g, state, weight_decay=2 * weight_decay, **rest)

    class SwappedDecay(own):
        def update(self, p, g, state, decoupled, **rest):
            super().update(p, g, state, decoupled=not decoupled, **rest)

    class DecayAfter(own):
        def update(self, p, g, state, lr, weight_decay, decoupled, **rest):
            super().update(p, g, state, lr=lr, weight_decay=0, decoupled=False, **rest)
            p.mul_(1 - lr * weight_decay)

    class SharedBuffer(own):
        """One buffer for each shape, not for each parameter."""

        def update(self, p, g, state, **rest):
            if not hasattr(self, "shared"):
                self.shared = {}
            super().update(p, g, self.shared.setdefault(p.shape, {}), **rest)

    class NoDecayOfVectors(own):
        def update(self, p, g, state, weight_decay, **rest):
            super().update(p, g, state, weight_decay=weight_decay * (p.dim() > 1), **rest)

    class AliasedBuffer(own):
        """The first buffer is the gradient itself, which the next backward overwrites."""

        def update(self, p, g, state, lr, momentum, weight_decay, **_):
            if weight_decay:
                g = g + weight_decay * p
            if "buffer" not in state:
                state["buffer"] = g
            else:
                state["buffer"] = momentum * state["buffer"] + g
            p.sub_(lr * state["buffer"])

    class GradientInPlace(own):
        def update(self, p, g, state, weight_decay, **rest):
            p.grad.add_(p, alpha=weight_decay)
            super().update(p, p.grad, state, weight_decay=0, **rest)

    class MovingAverage(own):
        """b = m b + (1 - m) g, as Adam's first moment."""

        def update(self, p, g, state, lr, momentum, weight_decay, **_):
            g = g + weight_decay * p
            buffer = state.get("buffer", torch.zeros_like(p))
            state["buffer"] = momentum * buffer + (1 - momentum) * g
            p.sub_(lr * state["buffer"])

    class NesterovTwice(own):
        """g + m (m b + g) computed with a buffer that already moved twice."""

        def update(self, p, g, state, lr, momentum, weight_decay, **_):
            g = g + weight_decay * p
            buffer = momentum * state.get("buffer", torch.zeros_like(p)) + g
            state["buffer"] = buffer
            p.sub_(lr * (g + momentum * (momentum * buffer + g)))

    class FirstGroup(own):
        """The settings of the first group for all groups."""

        @torch.no_grad()
        def step(self, closure=None):
            settings = {k: v for k, v in self.param_groups[0].items() if k != "params"}
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.update(p, p.grad, self.state[p], **settings)

    class StaleRate(own):
        """Reads the learning rate once: a schedule changes nothing."""

        def update(self, p, g, state, lr, **rest):
            super().update(p, g, state, lr=self.defaults["lr"], **rest)

    class NoneIsZero(own):
        """A parameter without gradient still moves on with its momentum and decay."""

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    g = torch.zeros_like(p) if p.grad is None else p.grad
                    self.update(p, g, self.state[p], **group)

    momentum = {"momentum": 0.9}
    decay = {"momentum": 0.9, "weight_decay": 0.01}

    def case(name, kind, mode, why):
        def factory(parameters):
            return kind(parameters, lr=0.1, **mode)

        return Case(f"sgd: {name}", factory, {"layer": "sgd", "lr": 0.1, **mode}, why)

    return [
        case(
            "damped first", DampedFirst, {**decay, "dampening": 0.5}, "dampening in the first step"
        ),
        case("double decay", DoubleDecay, decay, "the decay's gradient is 2 lambda w"),
        case("decoupled", SwappedDecay, decay, "decoupled decay, asked to be coupled"),
        case(
            "coupled", SwappedDecay, {**decay, "decoupled": True}, "coupled, asked to be decoupled"
        ),
        case("decay after", DecayAfter, decay, "the decay acts on the new weights"),
        case("shared buffer", SharedBuffer, momentum, "parameters of one shape share one buffer"),
        case("vectors", NoDecayOfVectors, decay, "does not decay vectors"),
        case("aliased", AliasedBuffer, momentum, "the first buffer is the gradient's own memory"),
        case("in place", GradientInPlace, decay, "adds the decay to p.grad itself"),
        case("moving average", MovingAverage, decay, "(1 - momentum) times the gradient"),
        case("nesterov twice", NesterovTwice, {**decay, "nesterov": True}, "looks ahead twice"),
        case("first group", FirstGroup, decay, "all groups have the settings of the first"),
        case("stale rate", StaleRate, momentum, "changes of the learning rate are ignored"),
        case("none", NoneIsZero, decay, "parameters without a gradient move"),
    ]
