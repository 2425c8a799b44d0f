"""Batch norms that are right under a convention which must be named."""

from __future__ import annotations

import math

import numpy as np

from candidates.case import C1, Case, axes_of, wide
from candidates.numpy_batch import (
    L1_PAIR,
    L2_PAIR,
    LINF_PAIR,
    l1_backward,
    l1_forward,
    linf_backward,
    linf_forward,
)
from lpnorm import TopK, gaussian_constant

# Right under a convention; `why` is a word by which the report must name it
RIGHT: list[Case] = []
# The same, where an argument names another convention
CONTRADICTING: list[Case] = []


CONTRADICTING.append(
    Case("constant, none asked", L1_PAIR, {"p": 1, "constant": None}, "C, no constant asked")
)
CONTRADICTING.append(Case("L2 for L1", L2_PAIR, {"p": 1}, "an L2 batch norm, asked to be L1"))
CONTRADICTING.append(Case("Linf for Top-k", LINF_PAIR, {"p": TopK(3)}, "k = 1, asked to be 3"))


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


RIGHT.append(Case("L1, no constant", affine_l1(1.0, outside), {"p": 1}, "constant"))
CONTRADICTING.append(
    Case(
        "no constant, paper's asked",
        affine_l1(1.0, outside),
        {"p": 1, "constant": "paper"},
        "C = 1, the paper's constant asked",
    )
)


def inside(s, eps):
    root = np.sqrt(s * s + eps)
    return root, s / root


RIGHT.append(Case("L1, eps inside a root", affine_l1(C1, inside), {"p": 1}, "eps"))


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


RIGHT.append(Case("L2, eps outside", (l2_outside_forward, l2_outside_backward), {"p": 2}, "eps"))


def exact_linf_forward(x, gamma, beta, eps):
    _, (d, biggest, *_) = linf_forward(x, gamma, beta, eps)
    constant = gaussian_constant(math.inf, x.size // x.shape[1], "exact")
    scale = constant * biggest + eps
    x_hat = d / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (d, biggest, x_hat, scale, gamma, constant)


RIGHT.append(Case("Linf, exact", (exact_linf_forward, linf_backward), {"p": math.inf}, "exact"))
CONTRADICTING.append(
    Case(
        "exact, paper's asked",
        (exact_linf_forward, linf_backward),
        {"p": math.inf, "constant": "paper"},
        "the exact constant, the paper's asked",
    )
)


def mask_l1_backward(dy, cache):
    """The sign from a bit mask: +1 where d > 0, -1 elsewhere, at zero too."""
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    g = dy * wide(gamma, dy)
    h = np.where(d > 0, 1, -1).astype(d.dtype)
    v = g - C1 * (g * x_hat).mean(axis=axes, keepdims=True) * h
    dx = (v - v.mean(axis=axes, keepdims=True)) / scale
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


RIGHT.append(Case("L1, mask", (l1_forward, mask_l1_backward), {"p": 1}, "sign(0)"))


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


RIGHT.append(Case("Linf, n = 1", (unguarded_linf_forward, linf_backward), {"p": math.inf}, "n = 1"))


def own_eps_forward(x, gamma, beta, eps):
    return l1_forward(x, gamma, beta, 1e-3)


CONTRADICTING.append(
    Case("own eps", (own_eps_forward, l1_backward), {"p": 1, "eps": 1e-5}, "eps = 1e-3")
)
CONTRADICTING.append(
    Case("own eps, unasked", (own_eps_forward, l1_backward), {"p": 1}, "ignores its eps")
)
