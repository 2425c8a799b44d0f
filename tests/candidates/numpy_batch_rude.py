"""Batch norms in NumPy whose values are right when looked at once."""

from __future__ import annotations

import math

import numpy as np

from candidates.case import C1, Case, axes_of, wide
from candidates.numpy_batch import ChannelsFirst, l1_backward, l1_forward

WRONG: list[Case] = []


def in_place_forward(x, gamma, beta, eps):
    axes = axes_of(x)
    x -= x.mean(axis=axes, keepdims=True)
    scale = C1 * np.abs(x).mean(axis=axes, keepdims=True) + eps
    x_hat = x / scale
    return wide(gamma, x) * x_hat + wide(beta, x), (x, x_hat, scale, gamma)


WRONG.append(
    Case(
        "in place, x",
        (in_place_forward, l1_backward),
        {"p": 1},
        "the forward centres x in place",
        "x is modified",
    )
)


def in_place_backward(dy, cache):
    d, x_hat, scale, gamma = cache
    axes = axes_of(dy)
    dgamma, dbeta = (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)
    dy *= wide(gamma, dy)
    v = dy - C1 * (dy * x_hat).mean(axis=axes, keepdims=True) * np.sign(d)
    return (v - v.mean(axis=axes, keepdims=True)) / scale, dgamma, dbeta


WRONG.append(
    Case(
        "in place, dy",
        (l1_forward, in_place_backward),
        {"p": 1},
        "the backward multiplies dy in place",
        "dy is modified",
    )
)


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


WRONG.append(
    Case(
        "eats its cache",
        (l1_forward, clobber_backward),
        {"p": 1},
        "the backward overwrites the cache: a second call on it differs",
    )
)


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


WRONG.append(
    Case(
        "workspace",
        Workspace(),
        {"p": 1},
        "every call returns the same array: earlier results change",
        "they are one array",
    )
)


class SelfCache:
    """Keeps what the backward needs in self, not in the cache."""

    def forward(self, x, gamma, beta, eps):
        y, self.saved = l1_forward(x, gamma, beta, eps)
        return y, None

    def backward(self, dy, cache):
        return l1_backward(dy, self.saved)


WRONG.append(
    Case(
        "cache in self",
        SelfCache(),
        {"p": 1},
        "the backward uses the last forward's values, not its cache's",
    )
)


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


WRONG.append(
    Case(
        "subsample",
        Subsample(),
        {"p": 1},
        "statistics of a random part of the batch: not deterministic",
        "differs between two calls",
    )
)


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


WRONG.append(
    Case(
        "atomics",
        Atomics(),
        {"p": 1},
        "sums in random order: two calls differ in the last bits",
        "differs between two calls",
    )
)


def running_dbeta_backward():
    """Accumulates dgamma and dbeta over calls, as .grad does, and nobody clears it."""
    kept = {}

    def backward(dy, cache):
        dx, dgamma, dbeta = l1_backward(dy, cache)
        old = kept.get((dgamma.shape, dgamma.dtype), (0, 0))
        kept[dgamma.shape, dgamma.dtype] = old[0] + dgamma, old[1] + dbeta
        return dx, *kept[dgamma.shape, dgamma.dtype]

    return backward


WRONG.append(
    Case(
        "accumulating",
        (l1_forward, running_dbeta_backward()),
        {"p": 1},
        "dgamma and dbeta add up over calls",
        "differs between two calls",
    )
)
