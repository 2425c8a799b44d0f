"""Right implementations for the judge, as engineers write them; the wrong ones: `judge_wrong`.

Written without knowledge of `lpnorm.verify.check` or of its catalogue of mistakes. Every correct
one is checked against the oracle and finite differences in tests/test_judge_candidates.py, and
every wrong one whose values are wrong is shown there to differ from the oracle.

A `Case` holds a candidate, the arguments for `check`, and one sentence saying what is wrong with
it ("" for the correct ones). Cases of torch, JAX and ONNX come from functions that import them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from lpnorm import Range, TopK, gaussian_constant

C1 = math.sqrt(math.pi / 2)


@dataclass(frozen=True)
class Case:
    name: str
    candidate: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        return self.name


def c_inf(n: int) -> float:
    """The paper's constant of L-infinity and Top-k."""
    if n == 1:
        return 1.0
    return 0.5 * (1 + math.sqrt(math.pi * math.log(4))) / math.sqrt(2 * math.log(n))


def c_range(n: int) -> float:
    return 1.0 if n == 1 else 1 / math.sqrt(2 * math.log(n))


def c_p(p: float) -> float:
    return (2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)) ** (-1 / p)


def axes_of(x):
    """Everything but the channels, which are axis 1."""
    return (0, *range(2, x.ndim))


def wide(v, x):
    """A vector (C,) shaped to broadcast against x (N, C, ...)."""
    return v.reshape(1, -1, *(1,) * (x.ndim - 2))


# ---- correct, NumPy: batch norm ----------------------------------------------------------------


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


# ---- correct, NumPy: layer norm, weight norm ---------------------------------------------------


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


def forward_alone(x, gamma, beta, eps):
    """An L1 batch norm for inference engines: only y."""
    return l1_forward(x, gamma, beta, eps)[0]


L1_PAIR, L2_PAIR = (l1_forward, l1_backward), (l2_forward, l2_backward)
LINF_PAIR = (linf_forward, linf_backward)


def numpy_cases():
    """Correct NumPy candidates."""
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
    layer = {"layer": "layer_norm"}
    cases += [
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


# ---- correct: torch ----------------------------------------------------------------------------


def torch_modules():
    """Modules differentiated by torch's autograd: name -> (class, p)."""
    import torch
    from torch import nn

    class BatchNorm(nn.Module):
        """Running statistics in torch's convention; they hold the mean and the scale."""

        def __init__(self, channels, eps=1e-5, momentum=0.1):
            super().__init__()
            self.eps, self.momentum = eps, momentum
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_scale", torch.ones(channels))

        def measure(self, d):
            """d: (C, n) -> (C,)"""
            raise NotImplementedError

        def statistics(self, x):
            rows = x.transpose(0, 1).reshape(x.shape[1], -1)
            mean = rows.mean(dim=1)
            return mean, self.measure(rows - mean[:, None]) + self.eps

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            if self.training:
                mean, scale = self.statistics(x)
                with torch.no_grad():
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_scale.lerp_(scale, self.momentum)
            else:
                mean, scale = self.running_mean, self.running_scale
            x_hat = (x - mean.view(shape)) / scale.view(shape)
            return self.weight.view(shape) * x_hat + self.bias.view(shape)

    class L1(BatchNorm):
        def measure(self, d):
            return C1 * d.abs().mean(dim=1)

    class LInf(BatchNorm):
        def measure(self, d):
            return c_inf(d.shape[1]) * d.abs().amax(dim=1)

    class LInfFirst(BatchNorm):
        """`max` with an index: the whole gradient goes to one of those tied."""

        def measure(self, d):
            return c_inf(d.shape[1]) * d.abs().max(dim=1).values

    class Top3(BatchNorm):
        def measure(self, d):
            return c_inf(d.shape[1]) * d.abs().topk(3, dim=1).values.mean(dim=1)

    class L1Variance(L1):
        """Keeps the square of the scale, under torch's own name for it."""

        def __init__(self, channels, eps=1e-5, momentum=0.1):
            super().__init__(channels, eps, momentum)
            del self.running_scale
            self.register_buffer("running_var", torch.ones(channels))

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            if self.training:
                mean, scale = self.statistics(x)
                with torch.no_grad():
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_var.lerp_(scale**2, self.momentum)
            else:
                mean, scale = self.running_mean, self.running_var.sqrt()
            x_hat = (x - mean.view(shape)) / scale.view(shape)
            return self.weight.view(shape) * x_hat + self.bias.view(shape)

    class L1Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, eps):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            dims = [0, *range(2, x.dim())]
            d = x - x.mean(dims, keepdim=True)
            scale = C1 * d.abs().mean(dims, keepdim=True) + eps
            x_hat = d / scale
            ctx.save_for_backward(d.sign(), x_hat, scale, weight)
            return weight.view(shape) * x_hat + bias.view(shape)

        @staticmethod
        def backward(ctx, dy):
            sign, x_hat, scale, weight = ctx.saved_tensors
            dims = [0, *range(2, dy.dim())]
            g = dy * weight.view((1, -1) + (1,) * (dy.dim() - 2))
            v = g - C1 * (g * x_hat).mean(dims, keepdim=True) * sign
            dx = (v - v.mean(dims, keepdim=True)) / scale
            return dx, (dy * x_hat).sum(dims), dy.sum(dims), None

    class L1ByHand(BatchNorm):
        """A backward written by hand; nothing is kept for evaluation."""

        def __init__(self, channels, eps=1e-5):
            super().__init__(channels, eps)
            del self.running_mean, self.running_scale

        def forward(self, x):
            return L1Function.apply(x, self.weight, self.bias, self.eps)

    modules = {
        "L1": (L1, 1),
        "Linf, amax": (LInf, math.inf),
        "Linf, max": (LInfFirst, math.inf),
        "Top-k k=3": (Top3, TopK(3)),
        "L1, running variance": (L1Variance, 1),
        "L1, autograd.Function": (L1ByHand, 1),
    }
    return modules


def torch_function(x, gamma, beta, eps):
    """An L1 batch norm of torch tensors."""
    dims = [0, *range(2, x.dim())]
    shape = (1, -1) + (1,) * (x.dim() - 2)
    d = x - x.mean(dim=dims, keepdim=True)
    scale = C1 * d.abs().mean(dim=dims, keepdim=True) + eps
    return gamma.view(shape) * (d / scale) + beta.view(shape)


def torch_weight_function(v, g):
    norm = v.flatten(1).norm(dim=1)
    return v * (g / norm).view(-1, *(1,) * (v.dim() - 1))


def torch_bounded_function(v, rho):
    return rho * v / v.flatten(1).norm(dim=1).view(-1, *(1,) * (v.dim() - 1))


def torch_cases():
    """Correct candidates of torch: its own layers, and modules and functions written with it."""
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    l2, layer, weight = {"p": 2}, {"layer": "layer_norm", "p": 2}, {"layer": "weight_norm", "p": 2}
    cases = []
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        cases += [
            Case(f"torch {kind.__name__}", kind, l2),
            Case(f"torch {kind.__name__}(4)", kind(4), l2),
        ]
    cases += [
        Case("torch BatchNorm2d float32", nn.BatchNorm2d, {"p": 2, "dtype": "float32"}),
        Case("torch BatchNorm2d float16", nn.BatchNorm2d, {"p": 2, "dtype": "float16"}),
        Case("torch BatchNorm2d, no affine", lambda c: nn.BatchNorm2d(c, affine=False), l2),
        Case(
            "torch BatchNorm2d, eps 1e-3",
            lambda c: nn.BatchNorm2d(c, eps=1e-3),
            {**l2, "eps": 1e-3},
        ),
        Case("torch BatchNorm2d, momentum 0.3", lambda c: nn.BatchNorm2d(c, momentum=0.3), l2),
        Case(
            "torch BatchNorm2d, no running statistics",
            lambda c: nn.BatchNorm2d(c, track_running_stats=False),
            l2,
        ),
        Case("torch LayerNorm", nn.LayerNorm, layer),
        Case("torch LayerNorm(6)", nn.LayerNorm(6), layer),
        Case("torch LayerNorm, no bias", lambda c: nn.LayerNorm(c, bias=False), layer),
        Case("torch weight norm, linear", weight_norm(nn.Linear(5, 4, bias=False)), weight),
        Case("torch weight norm, linear and bias", weight_norm(nn.Linear(5, 4)), weight),
        Case("torch weight norm, conv", weight_norm(nn.Conv2d(3, 4, 3)), weight),
        Case("torch weight norm, factory", lambda c: weight_norm(nn.Linear(5, c)), weight),
        Case("torch weight norm function", torch_weight_function, weight),
        Case(
            "torch._weight_norm",
            lambda v, g: torch._weight_norm(v, g.reshape(-1, *(1,) * (v.dim() - 1)), 0),
            weight,
        ),
        Case(
            "torch bounded function",
            torch_bounded_function,
            {"layer": "bounded_weight_norm", "p": 2},
        ),
        Case("torch L1 function", torch_function, {"p": 1, "backend": "torch"}),
    ]
    for name, (module, p) in torch_modules().items():
        cases += [
            Case(f"torch module {name}", module, {"p": p}),
            Case(f"torch module {name}, built", module(3), {"p": p}),
            Case(f"torch module {name}, float32", module, {"p": p, "dtype": "float32"}),
        ]
    return cases


SGD_MODES = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"weight_decay": 0.01},
    "momentum and decay": {"momentum": 0.9, "weight_decay": 0.01},
    "dampening and decay": {"momentum": 0.8, "dampening": 0.5, "weight_decay": 0.02},
    "nesterov and decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


def optimizers():
    """An SGD of torch written by hand, with and without decoupled decay."""
    import torch

    class SGD(torch.optim.Optimizer):
        def __init__(
            self,
            parameters,
            lr=0.1,
            momentum=0.0,
            dampening=0.0,
            nesterov=False,
            weight_decay=0.0,
            decoupled=False,
        ):
            settings = {"lr": lr, "momentum": momentum, "dampening": dampening}
            settings |= {"nesterov": nesterov, "weight_decay": weight_decay}
            super().__init__(parameters, settings | {"decoupled": decoupled})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.update(p, p.grad, self.state[p], **group)

        def update(
            self, p, g, state, lr, momentum, dampening, nesterov, weight_decay, decoupled, **_
        ):
            if decoupled:
                p.mul_(1 - lr * weight_decay)
            elif weight_decay:
                g = g + weight_decay * p
            if momentum:
                if "buffer" not in state:
                    state["buffer"] = g.clone()
                else:
                    state["buffer"].mul_(momentum).add_(g, alpha=1 - dampening)
                g = g + momentum * state["buffer"] if nesterov else state["buffer"]
            p.sub_(lr * g)

    return SGD


def sgd_cases():
    """Correct optimizers."""
    import torch

    own = optimizers()
    cases = []
    for name, mode in SGD_MODES.items():
        arguments = {"layer": "sgd", "lr": 0.1, **mode}
        for kind in ("loop", "foreach", "fused", "own"):
            more = {} if kind in ("loop", "own") else {kind: True}
            maker = own if kind == "own" else torch.optim.SGD

            def factory(parameters, maker=maker, mode=mode, more=more):
                return maker(parameters, lr=0.1, **mode, **more)

            cases.append(Case(f"sgd {name}, {kind}", factory, arguments))
    for name in ("decay", "momentum and decay", "nesterov and decay"):
        mode = {**SGD_MODES[name], "decoupled": True}

        def factory(parameters, mode=mode):
            return own(parameters, lr=0.1, **mode)

        cases.append(Case(f"sgd decoupled {name}", factory, {"layer": "sgd", "lr": 0.1, **mode}))
    return cases


# ---- correct: JAX and ONNX ---------------------------------------------------------------------


def jax_functions():
    """name -> (function of JAX arrays, p)."""
    import jax
    import jax.numpy as jnp

    def affine(x, d, scale, gamma, beta):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return gamma.reshape(shape) * (d / scale) + beta.reshape(shape)

    def centred(x):
        axes = (0, *range(2, x.ndim))
        return x - jnp.mean(x, axis=axes, keepdims=True), axes, x.size // x.shape[1]

    def l1(x, gamma, beta, eps):
        d, axes, _ = centred(x)
        scale = C1 * jnp.mean(jnp.abs(d), axis=axes, keepdims=True) + eps
        return affine(x, d, scale, gamma, beta)

    def linf(x, gamma, beta, eps):
        d, axes, n = centred(x)
        scale = c_inf(n) * jnp.max(jnp.abs(d), axis=axes, keepdims=True) + eps
        return affine(x, d, scale, gamma, beta)

    def top3(x, gamma, beta, eps):
        d, _, n = centred(x)
        rows = jnp.moveaxis(jnp.abs(d), 1, -1).reshape(n, -1).T
        largest, _ = jax.lax.top_k(rows, 3)
        scale = c_inf(n) * largest.mean(axis=1) + eps
        return affine(x, d, scale.reshape((1, -1) + (1,) * (x.ndim - 2)), gamma, beta)

    def l2(x, gamma, beta, eps):
        d, axes, _ = centred(x)
        scale = jnp.sqrt(jnp.var(x, axis=axes, keepdims=True) + eps)
        return affine(x, d, scale, gamma, beta)

    def weight(v, g):
        rows = v.reshape(v.shape[0], -1)
        w = g[:, None] * rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
        return w.reshape(v.shape)

    return {
        "L1": (l1, 1),
        "Linf": (linf, math.inf),
        "Top-k k=3": (top3, TopK(3)),
        "L2": (l2, 2),
        "weight": (weight, 2),
    }


def jax_cases():
    """Correct JAX candidates, compiled and not."""
    import jax

    cases = []
    for name, (function, p) in jax_functions().items():
        arguments = {"p": p, "layer": "weight_norm" if name == "weight" else "batch_norm"}
        cases += [
            Case(f"jax {name}", function, arguments),
            Case(f"jax {name}, jit", jax.jit(function), arguments),
            Case(f"jax {name}, float32", function, {**arguments, "dtype": "float32"}),
        ]
    return cases


def onnx_batch_norm(x, gamma, beta, eps):
    """ONNX's reference BatchNormalization in training mode."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    inputs = ["x", "gamma", "beta", "mean", "var"]
    node = helper.make_node(
        "BatchNormalization", inputs, ["y", "m", "v"], epsilon=float(eps), training_mode=1
    )
    graph = helper.make_graph(
        [node],
        "batch_norm",
        [helper.make_tensor_value_info(name, kind, None) for name in inputs],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    zeros = np.zeros_like(gamma)
    feeds = {"x": x, "gamma": gamma, "beta": beta, "mean": zeros, "var": zeros + 1}
    return ReferenceEvaluator(model).run(["y"], feeds)[0]


def onnx_cases():
    import onnx.reference  # noqa: F401

    return [
        Case("onnx BatchNormalization", onnx_batch_norm, {"p": 2}),
        Case("onnx BatchNormalization, float32", onnx_batch_norm, {"p": 2, "dtype": "float32"}),
    ]


# ---- as the paper's authors wrote theirs -------------------------------------------------------


def authors_cases():
    """The departures of the authors' code from their paper (Case.why names them)."""
    import torch
    from torch import nn

    class Authors(nn.Module):
        """Momentum is the part kept; running_var holds 1/scale, from 0; affine not initialised."""

        def __init__(self, channels, momentum=0.1, eps=1e-5):
            super().__init__()
            self.momentum, self.eps = momentum, eps
            self.weight = nn.Parameter(torch.empty(channels))
            self.bias = nn.Parameter(torch.empty(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.zeros(channels))

        def inverse(self, d):
            raise NotImplementedError

        def apply_inverse(self, d, kept):
            return d * kept

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            if self.training:
                rows = x.transpose(0, 1).contiguous().view(x.size(1), -1)
                mean = rows.mean(1)
                kept = self.inverse(rows - mean.unsqueeze(1))
                self.running_mean.mul_(self.momentum).add_(mean.detach() * (1 - self.momentum))
                self.running_var.mul_(self.momentum).add_(kept.detach() * (1 - self.momentum))
            else:
                mean, kept = self.running_mean, self.running_var
            out = self.apply_inverse(x - mean.view(shape), kept.view(shape))
            return out * self.weight.view(shape) + self.bias.view(shape)

    class AuthorsL1(Authors):
        def inverse(self, d):
            return (d.abs().mean(1) * C1 + self.eps) ** -1

    class AuthorsTopK(Authors):
        def inverse(self, d):
            constant = 0.5 * (1 + math.sqrt(math.pi * math.log(4)))
            constant = constant / math.sqrt(2 * math.log(d.size(1)))
            return 1 / (d.abs().topk(3, dim=1)[0].mean(1) * constant + self.eps)

    class AuthorsMeanL1(Authors):
        """The L1 layer of the mean-only file: keeps the scale itself and has no eps."""

        def inverse(self, d):
            return d.abs().mean(1) * C1

        def apply_inverse(self, d, kept):
            return d / kept

    usual = "momentum is the kept fraction; running_var holds the reciprocal scale, from 0"
    return [
        Case("authors' L1", AuthorsL1, {"p": 1}, usual),
        Case("authors' Top-k", AuthorsTopK, {"p": TopK(3)}, usual),
        Case("authors' L1 without eps", AuthorsMeanL1, {"p": 1}, "momentum is kept; no eps"),
    ]


# ---- correct under conventions that must be named ------------------------------------------------


def affine_l1(statistic, place):
    """An L1 batch norm with another scale: `place(statistic, eps)`, ds/dd by the chain rule."""

    def forward(x, gamma, beta, eps):
        axes = axes_of(x)
        d = x - x.mean(axis=axes, keepdims=True)
        scale, slope = place(statistic * np.abs(d).mean(axis=axes, keepdims=True), eps)
        x_hat = d / scale
        return wide(gamma, x) * x_hat + wide(beta, x), (d, x_hat, scale, slope, gamma)

    def backward(dy, cache):
        d, x_hat, scale, slope, gamma = cache
        axes = axes_of(dy)
        g = dy * wide(gamma, dy)
        v = g - statistic * slope * (g * x_hat).mean(axis=axes, keepdims=True) * np.sign(d)
        dx = (v - v.mean(axis=axes, keepdims=True)) / scale
        return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)

    return forward, backward


def outside(s, eps):
    return s + eps, 1


def inside(s, eps):
    root = np.sqrt(s * s + eps)
    return root, s / root


def l2_outside_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    std = x.std(axis=axes, keepdims=True)
    x_hat = (x - x.mean(axis=axes, keepdims=True)) / (std + eps)
    return wide(gamma, x) * x_hat + wide(beta, x), (x_hat, std + eps, std, gamma)


def l2_outside_backward(dy, cache):
    x_hat, scale, std, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    unit = x_hat * np.divide(scale, std, out=np.zeros_like(std), where=std > 0)
    v = g - unit * (g * x_hat).mean(axis=axes, keepdims=True)
    dx = (v - v.mean(axis=axes, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def exact_linf_forward(x, gamma, beta, eps):
    _, (d, biggest, *_) = linf_forward(x, gamma, beta, eps)
    constant = gaussian_constant(math.inf, x.size // x.shape[1], "exact")
    scale = constant * biggest + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, biggest, x_hat, scale, gamma, constant)


def mask_l1_backward(dy, cache):
    """The sign from a bit mask: +1 where d > 0, -1 elsewhere, at zero too."""
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    h = np.where(d > 0, 1, -1).astype(d.dtype)
    v = g - C1 * (g * x_hat).mean(axis=axes, keepdims=True) * h
    dx = (v - v.mean(axis=axes, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def unguarded_linf_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    n = x.size // x.shape[1]
    constant = 0.5 * (1 + np.sqrt(np.pi * np.log(4))) / np.sqrt(2 * np.log(n))
    d = x - x.mean(axis=axes, keepdims=True)
    biggest = np.abs(d).max(axis=axes, keepdims=True)
    scale = float(constant) * biggest + eps
    x_hat = d / scale
    y = wide(gamma, x) * x_hat + wide(beta, x)
    return y, (d, biggest, x_hat, scale, gamma, float(constant))


def own_eps_forward(x, gamma, beta, eps):
    return l1_forward(x, gamma, beta, 1e-3)


def convention_cases():
    """Right under a convention; `why` is a word by which the report must name it."""
    l1 = {"p": 1}
    return [
        Case("L1, eps inside a root", affine_l1(C1, inside), l1, "eps"),
        Case("L1, no constant", affine_l1(1.0, outside), l1, "constant"),
        Case("L2, eps outside", (l2_outside_forward, l2_outside_backward), {"p": 2}, "eps"),
        Case("Linf, exact", (exact_linf_forward, linf_backward), {"p": math.inf}, "exact"),
        Case("L1, mask", (l1_forward, mask_l1_backward), l1, "sign(0)"),
        Case("Linf, n = 1", (unguarded_linf_forward, linf_backward), {"p": math.inf}, "n = 1"),
    ]


def contradicting_cases():
    """The same, where an argument names another convention."""
    return [
        Case(
            "no constant, paper's asked",
            affine_l1(1.0, outside),
            {"p": 1, "constant": "paper"},
            "C = 1, the paper's constant asked",
        ),
        Case(
            "exact, paper's asked",
            (exact_linf_forward, linf_backward),
            {"p": math.inf, "constant": "paper"},
            "the exact constant, the paper's asked",
        ),
        Case("constant, none asked", L1_PAIR, {"p": 1, "constant": None}, "C, no constant asked"),
        Case("own eps", (own_eps_forward, l1_backward), {"p": 1, "eps": 1e-5}, "eps = 1e-3"),
        Case("own eps, unasked", (own_eps_forward, l1_backward), {"p": 1}, "ignores its eps"),
        Case("L2 for L1", L2_PAIR, {"p": 1}, "an L2 batch norm, asked to be L1"),
        Case("Linf for Top-k", LINF_PAIR, {"p": TopK(3)}, "k = 1, asked to be 3"),
    ]


def torch_convention_cases():
    """Modules with a convention to name; `why` is a word for it."""
    import torch
    from torch import nn

    L1 = torch_modules()["L1"][0]

    class TwiceEps(L1):
        """eps is in the running scale and added again in evaluation."""

        def forward(self, x):
            if self.training:
                return super().forward(x)
            shape = (1, -1) + (1,) * (x.dim() - 2)
            scale = self.running_scale.view(shape) + self.eps
            x_hat = (x - self.running_mean.view(shape)) / scale
            return self.weight.view(shape) * x_hat + self.bias.view(shape)

    class UnbiasedL1(L1):
        """Keeps the fraction `momentum` of the old statistics."""

        def __init__(self, channels):
            super().__init__(channels, momentum=0.9)

        def forward(self, x):
            self.momentum = 1 - self.momentum
            try:
                return super().forward(x)
            finally:
                self.momentum = 1 - self.momentum

    class Cumulative(nn.BatchNorm2d):
        """The plain average over all batches: torch's momentum = None."""

        def __init__(self, channels):
            super().__init__(channels, momentum=None)

    return [
        Case("torch: eps twice", TwiceEps, {"p": 1}, "eps is added"),
        Case("torch: kept fraction", UnbiasedL1, {"p": 1}, "momentum"),
        Case("torch: cumulative average", Cumulative, {"p": 2}, "average"),
        Case("torch: biased in name", torch.nn.BatchNorm1d, {"p": 2}, "unbiased"),
    ]
