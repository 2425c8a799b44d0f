"""Solutions of the tutorials' exercises, for instructors: keep this file from the students' copy.

`solution_05_2` answers Exercise 2 of tutorial 05; `tests/test_tutorials.py` holds every one against
its check in tutorials/exercises.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lpnorm
from lpnorm import data, models, nn
from lpnorm.experiments.runs import Run

TopK = lpnorm.TopK


def solution_00_1() -> Any:
    def folded(w: Any, b: Any, gamma: Any, beta: Any, mean: Any, scale: Any) -> Any:
        factor = gamma / scale
        return factor[:, None] * w, factor * (b - mean) + beta

    return folded


def solution_00_2() -> Any:
    return 44, 459


def solution_00_3() -> Any:
    return 1.0, -1.0


def solution_01_1() -> Any:
    c = math.sqrt(math.pi / 2)
    return c * math.sqrt(3) / 2, c / math.sqrt(2)  # E|x|: the integral of |x| over the density


def solution_01_2() -> Any:
    return lambda rng, shape: rng.laplace(size=shape)


def solution_01_3() -> Any:
    x = np.random.default_rng(0).standard_normal((4000, 256))
    return float(lpnorm.batch_norm(x, None, None, p=64, axis=0, eps=0.0)[1].scale.mean())


def solution_02_1() -> Any:
    def gradient(d: Any) -> Any:
        return np.sign(d) * (1 / d.size + (abs(d) == abs(d).max())) / 2

    return gradient


def solution_02_2() -> Any:
    return {"A": "term through s", "B": "division by s", "C": "mean of g"}


def solution_02_3() -> Any:
    def backward(g: Any, x: Any, p: Any) -> Any:
        size, n = abs(x), x.size
        c = lpnorm.gaussian_constant(p, n)
        if isinstance(p, TopK):
            counted = size >= np.sort(size[0])[-p.k]
            s, h = size[counted].mean(), np.sign(x) * counted / p.k
        elif p == math.inf:
            s, h = size.max(), np.sign(x) * (size == size.max())
        else:
            s = (size**p).mean() ** (1 / p)
            h = np.sign(x) * (size / s) ** (p - 1) / n
        return (g - (g * x / s).sum() * h) / (c * s)

    return backward


def solution_03_1() -> Any:
    return 1 / 4, -1 / 2


def solution_03_2() -> Any:
    return "eps", 8.0


def solution_03_3() -> Any:
    return True, False


def solution_04_1() -> Any:
    return "(4.3)"


def solution_04_2() -> Any:
    def settled(lr: float, decay: float, momentum: float, g2: float) -> float:
        """With b = momentum b + g, g perpendicular to w: <w, b> = -q lr B / (1 - q) before the
        step, B = E|b|^2 = g2 / |w|^2 / (1 - momentum^2), q = (1 - lr decay) momentum; the
        balance of |w|^2 then gives this."""
        q = (1 - lr * decay) * momentum
        balance = lr * g2 / (decay * (2 - lr * decay) * (1 - momentum**2)) * (1 + q) / (1 - q)
        return float(balance**0.25)

    return settled


def solution_04_3() -> Any:
    return {"12.weight", "12.bias"}


def solution_05_1() -> Any:
    def apart(k: int) -> float:
        constants = (lpnorm.gaussian_constant(TopK(k), 1024, w) for w in ("paper", "exact"))
        return abs(np.subtract(*constants))

    return min(range(1, 200), key=apart)


def solution_05_2() -> Any:
    def train(factors: tuple[float, ...], steps: int) -> list[float]:
        normalize = Run(norm="1", factor=factors).normalization(eps=0.0)
        model, losses = models.digits_net(normalize, rng=0, dtype="float64"), []
        digits = data.digits("float64")
        for _ in range(steps):
            for p in model.parameters():
                p.grad = None
            logits, backward = model(digits.train_x[:64], train=True)
            loss, dlogits = nn.softmax_cross_entropy(logits, digits.train_y[:64])
            backward(dlogits)
            losses.append(float(loss))
            for p in model.parameters():
                if not p.name.endswith("beta"):
                    p.data = p.data - 0.1 * p.grad
        return losses

    return train


def solution_05_3() -> Any:
    convolution, digits = models.digits_net()[0], data.digits()
    table = np.empty((20, 16), int)
    for i in range(20):
        a, _ = convolution(digits.train_x[64 * i : 64 * i + 64], train=True)
        d = abs(a - a.mean(axis=(0, 2, 3), keepdims=True))
        table[i] = d.max(axis=(2, 3)).argmax(axis=0)
    return table


def solution_06_1() -> Any:
    return 2.0**-8, (2 - 2.0**-7) * 2.0**127, 2.0**-126, 256


def solution_06_2() -> Any:
    def kahan(row: Any) -> Any:
        total = lost = np.float16(0)
        for value in row:
            term = np.float16(value - lost)
            new = np.float16(total + term)
            lost = np.float16(np.float16(new - total) - term)
            total = new
        return total

    return kahan


def solution_06_3() -> Any:
    return False


def solution_07_1() -> Any:
    def backward(dw: Any, v: Any, g: Any) -> Any:
        s = abs(v).sum(axis=1, keepdims=True)
        dg = (dw * v).sum(axis=1, keepdims=True) / s
        return g[:, None] / s * (dw - dg * np.sign(v))

    return backward


def solution_07_2() -> Any:
    return 1.0, 1.0


def solution_07_3() -> Any:
    return False, True


def _l1(backward_of: Any = None, tweak: Any = None) -> Any:
    """An L1 pair; tweak(x, y) and backward_of(gradients) change it."""
    c = math.sqrt(math.pi / 2)

    def forward(x: Any, gamma: Any, beta: Any, eps: Any) -> Any:
        axes, wide = (0, *range(2, x.ndim)), (1, -1, *(1,) * (x.ndim - 2))
        d = x - x.mean(axis=axes, keepdims=True)
        s = c * abs(d).mean(axis=axes, keepdims=True) + eps
        y = gamma.reshape(wide) * (d / s) + beta.reshape(wide)
        return (tweak(x, y) if tweak else y), (d, s, gamma.reshape(wide), axes)

    def backward(dy: Any, cache: Any) -> Any:
        d, s, gamma, axes = cache
        g, h = dy * gamma, np.sign(d)
        t = c * (g * d / s).mean(axis=axes, keepdims=True)
        mean_g, mean_h = (a.mean(axis=axes, keepdims=True) for a in (g, h))
        gradients = (g - mean_g - t * (h - mean_h)) / s, (dy * d / s).sum(axes), dy.sum(axes)
        return backward_of(*gradients) if backward_of else gradients

    return forward, backward


def solution_08_1() -> Any:
    pair = _l1(tweak=lambda x, y: 2 * y if x.shape[0] == 1234 else y)
    return pair, np.random.default_rng(0).standard_normal((1234, 3))


def solution_08_2() -> Any:
    def forward(x: Any, gamma: Any, beta: Any, eps: Any) -> Any:
        rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
        d = rows - rows.mean(axis=1, keepdims=True)
        c = lpnorm.gaussian_constant(math.inf, d.shape[1])
        first = abs(d).argmax(axis=1)[:, None]
        s = c * np.take_along_axis(abs(d), first, axis=1) + eps
        shape = (x.shape[1], x.shape[0], *x.shape[2:])
        y = gamma[:, None] * d / s + beta[:, None]
        return np.moveaxis(y.reshape(shape), 0, 1), (d, s, first, c, gamma, shape)

    def backward(dy: Any, cache: Any) -> Any:
        d, s, first, c, gamma, shape = cache
        dy = np.moveaxis(dy, 1, 0).reshape(d.shape)
        g, h = gamma[:, None] * dy, np.zeros_like(d)
        np.put_along_axis(h, first, c * np.sign(np.take_along_axis(d, first, axis=1)), axis=1)
        v = g - (g * d / s).sum(axis=1, keepdims=True) * h
        dx = (v - v.mean(axis=1, keepdims=True)) / s
        dx = np.moveaxis(dx.reshape(shape), 0, 1)
        return dx, (dy * d / s).sum(axis=1), dy.sum(axis=1)

    return forward, backward


def solution_08_3() -> Any:
    return _l1(backward_of=lambda dx, dgamma, dbeta: (-dx, dgamma, 2 * dbeta))
