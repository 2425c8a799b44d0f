"""As people write them who have only read the README's table: courses' classes, books' modules,
optimizers with names of their own. `said` stands in the first diagnosis, or, of a right one, in
the report."""

from __future__ import annotations

import numpy as np

from candidates.case import Case

L2 = {"p": 2}


class BatchNorm:
    """State in plain attributes, arrays of 2 axes, training as an argument; mistake: a name."""

    def __init__(self, channels, momentum=0.9, eps=1e-5, mistake=""):
        self.gamma, self.beta = np.ones((1, channels)), np.zeros((1, channels))
        self.running_mean, self.running_var = np.zeros((1, channels)), np.ones((1, channels))
        self.momentum, self.eps, self.mistake = momentum, eps, mistake

    def forward(self, x, training=True):
        mean, var = self.running_mean, self.running_var
        if training:
            mean, var = x.mean(axis=0, keepdims=True), x.var(axis=0, keepdims=True)
            m, kept = self.momentum, self.momentum
            if self.mistake == "swapped":
                m = 1 - m
            self.running_mean = m * self.running_mean + (1 - m) * mean
            new = {"mean": mean, "half": var / 2}.get(self.mistake, var)
            self.running_var = kept * self.running_var + (1 - kept) * new
        self.d, self.scale = x - mean, np.sqrt(var + self.eps)
        self.x_hat = self.d / self.scale
        return self.gamma * self.x_hat + self.beta

    def backward(self, dy):
        self.dbeta = dy.sum(axis=0, keepdims=True)
        self.dgamma = (dy * self.x_hat).sum(axis=0, keepdims=True)
        n, dx_hat = len(dy), dy * self.gamma
        along = (dx_hat * self.x_hat).sum(axis=0, keepdims=True) / n
        return (dx_hat - dx_hat.mean(axis=0, keepdims=True) - along * self.x_hat) / self.scale


class Keeping(BatchNorm):
    """What backward needs is kept anew only when the batch has another shape."""

    def __init__(self, channels=5):
        super().__init__(channels)
        self.kept = None

    def forward(self, x, training=True):
        y = super().forward(x, training)
        if self.kept is None or self.kept[0].shape != x.shape:
            self.kept = self.x_hat, self.scale
        return y

    def backward(self, dy):
        self.x_hat, self.scale = self.kept
        return super().backward(dy)


class Adding(BatchNorm):
    """Of one size, and its gradients are added to."""

    def __init__(self, channels=5):
        super().__init__(channels)
        self.dgamma, self.dbeta = np.zeros((1, channels)), np.zeros((1, channels))

    def backward(self, dy):
        before = self.dgamma, self.dbeta
        dx = super().backward(dy)
        self.dgamma, self.dbeta = self.dgamma + before[0], self.dbeta + before[1]
        return dx


def made(mistake):
    return lambda channels: BatchNorm(channels, mistake=mistake)


def other_order(x, eps, gamma, beta):
    return gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + eps) + beta


def without_parameters(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def forgotten_forward(x, gamma, beta, eps):
    d = x - x.mean(0)
    std = np.sqrt((d * d).mean(0))
    return gamma * d / std + beta, (d, std, gamma, eps)


def staged_backward(dy, cache):
    """Step by step as in a well-known exercise, with eps in one place."""
    d, std, gamma, eps = cache
    n, dx_hat = len(dy), dy * gamma
    dvar = 0.5 / np.sqrt(std**2 + eps) * -(dx_hat * d).sum(0) / std**2
    dd = dx_hat / std + 2 * d * dvar / n
    return dd - dd.mean(0), (dy * d / std).sum(0), dy.sum(0)


def every_axis_forward(x, gamma, beta, eps):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x_hat = (x - mean) / np.sqrt(var + eps)
    return gamma * x_hat + beta, (x_hat, np.sqrt(var + eps), gamma)


def two_axes_backward(dy, cache):
    x_hat, scale, gamma = cache
    _rows, _columns = dy.shape  # for (N, C) alone, though the forward takes (N, L, C)
    g = dy * gamma
    dx = g - g.mean(-1, keepdims=True) - x_hat * (g * x_hat).mean(-1, keepdims=True)
    return dx / scale, (dy * x_hat).sum(0), dy.sum(0)


def weight_forward(v, g):
    shape = (-1, *(1,) * (v.ndim - 1))
    norm = np.sqrt((v.reshape(len(v), -1) ** 2).sum(1))
    return v * (g / norm).reshape(shape), (v, g, norm, shape)


def weight_backward(power, factor):
    """dv = g / S dw - (g^factor dg / S^power) v: 2 and 1 are right."""

    def backward(dw, cache):
        v, g, norm, shape = cache
        dg = (v * dw).reshape(len(v), -1).sum(1) / norm
        dv = (g / norm).reshape(shape) * dw - (g**factor * dg / norm**power).reshape(shape) * v
        return dv, dg

    return backward


WEIGHT = {"layer": "weight_norm", "p": 2}
LAYER_PAIR = (every_axis_forward, two_axes_backward)
ROWS = {"layer": "layer_norm", "p": 2}
RIGHT = [
    Case("stranger: a class", BatchNorm, L2, said="running_var holds the biased variance"),
    Case("stranger: other order", other_order, L2, said="gamma = gamma; beta = beta; eps = eps"),
    Case("stranger: weight", (weight_forward, weight_backward(2, 1)), WEIGHT),
    Case("stranger: adds", Adding, L2, said="dgamma and dbeta add up over calls"),
    Case("stranger: added", Adding(), L2, said="dgamma and dbeta add up over calls"),
    Case("stranger: 2 axes", without_parameters, {**L2, "ndim": 2}),
]
WRONG = [
    Case("stranger: stale cache", Keeping, L2, said="another dx: something of the first is kept"),
    Case("stranger: stale object", Keeping(4), L2, said="something of the first is kept"),
    Case("stranger: two momenta", made("swapped"), L2, said="running_mean takes the share 0.9"),
    Case("stranger: mean twice", made("mean"), L2, said="running_var holds the mean, as"),
    Case("stranger: half", made("half"), L2, said="averages 0.5 times the biased variance"),
    Case("stranger: eps", (forgotten_forward, staged_backward), L2, said="eps is ignored"),
    Case(
        "stranger: rows", (every_axis_forward, two_axes_backward), ROWS, said="its backward raises"
    ),
    Case("stranger: S", (weight_forward, weight_backward(1, 1)), WEIGHT, said="dg h in dv is S"),
    Case("stranger: g", (weight_forward, weight_backward(2, 0)), WEIGHT, said="dv is 1 / g times"),
]


def torch_cases():
    """Right ones of torch."""
    import torch
    from torch import nn

    class Book(nn.Module):
        """A book's: gamma of shape (1, C), running statistics in plain attributes, no momentum."""

        def __init__(self, channels):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(1, channels))
            self.beta = nn.Parameter(torch.zeros(1, channels))
            self.moving_mean, self.moving_var = torch.zeros(1, channels), torch.ones(1, channels)

        def forward(self, x):
            mean, var = self.moving_mean, self.moving_var
            if self.training:
                mean, var = x.mean(dim=0), ((x - x.mean(dim=0)) ** 2).mean(dim=0)
                self.moving_mean = (0.9 * self.moving_mean + 0.1 * mean).data
                self.moving_var = (0.9 * self.moving_var + 0.1 * var).data
            return self.gamma * (x - mean) / torch.sqrt(var + 1e-5) + self.beta

    class OwnNames(torch.optim.Optimizer):
        """SGD whose decay is called wd, which no group can be given by another name."""

        def __init__(self, parameters, lr=0.1, wd=0.01):
            super().__init__(parameters, {"lr": lr, "wd": wd})

        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(group["lr"] * (p.grad + group["wd"] * p))

    sgd = {"layer": "sgd", "lr": 0.1, "weight_decay": 0.01}
    return [
        Case("stranger: book", Book, L2, said="moving_mean and moving_var: no buffer"),
        Case("stranger: own names", OwnNames, sgd),
        Case("stranger: a class of SGD", torch.optim.SGD, {**sgd, "momentum": 0.9}),
    ]
