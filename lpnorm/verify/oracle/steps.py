"""Weight norm, bounded weight norm and SGD."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from lpnorm.verify.oracle.layout import Array, each, float64, in_groups, split, ungroup
from lpnorm.verify.oracle.statistics import deviation, deviation_gradient

# ---- weight norm ------------------------------------------------------------------------------


def _plain_norm(v: list[float], p: float) -> float:
    """(sum |v|^p)^(1/p), or max |v|: no mean and no Gaussian constant."""
    if not any(v):
        raise ValueError("a zero weight vector has no direction")
    return float(deviation(v, p) * len(v) ** (1 / p))


def _plain_norm_gradient(v: list[float], p: float) -> list[float]:
    return [h * len(v) ** (1 / p) for h in deviation_gradient(v, p)]


def weight_norm(v: ArrayLike, g: ArrayLike, p: float = 2, axis: int = 0) -> Array:
    """w_i = g_i v_i / ||v_i||_p for each of the N output channels v_i (Salimans & Kingma 2016).

    v, w: any shape, output channels on `axis`; g: N numbers; p real >= 1 or infinity.
    """
    v = float64(v)
    rest = split(axis, v.ndim)[1]
    w = []
    for v_i, g_i in zip(in_groups(v, rest), np.ravel(g).tolist(), strict=True):
        norm = _plain_norm(v_i, p)
        w.append([g_i * (a / norm) for a in v_i])
    return ungroup(w, rest, v.shape)


def weight_norm_backward(
    dw: ArrayLike, v: ArrayLike, g: ArrayLike, p: float = 2, axis: int = 0
) -> tuple[Array, Array]:
    """dv (v's shape) and dg (g's shape) for the gradient dw (v's shape) at w.

    Within a channel, by the quotient rule:
    dw_i/dg = v_i / norm, dw_i/dv_j = g (delta_ij / norm - v_i / norm^2 * dnorm/dv_j).
    """
    v = float64(v)
    rest = split(axis, v.ndim)[1]
    dv, dg = [], []
    rows = zip(in_groups(float64(dw), rest), in_groups(v, rest), np.ravel(g).tolist(), strict=True)
    for dw_i, v_i, g_i in rows:
        norm, slopes = _plain_norm(v_i, p), _plain_norm_gradient(v_i, p)
        dg.append(math.fsum(a * (b / norm) for a, b in zip(dw_i, v_i, strict=True)))
        dv.append([g_i * (a / norm - dg[-1] / norm * h) for a, h in zip(dw_i, slopes, strict=True)])
    return ungroup(dv, rest, v.shape), np.array(dg).reshape(np.shape(g))


def bounded_norm(v: ArrayLike, p: float = 2, axis: int = 0) -> float:
    """rho = ||V||_p / N^(1/p): V all of v, N its output channels on `axis` (Hoffer et al. 2018)."""
    return float(_plain_norm(np.ravel(float64(v)).tolist(), p) / np.shape(v)[axis] ** (1 / p))


def bounded_weight_norm(v: ArrayLike, rho: float, p: float = 2, axis: int = 0) -> Array:
    """w_i = rho v_i / ||v_i||_p, rho fixed for the layer (Hoffer et al. 2018); shapes as above."""
    return weight_norm(v, [rho] * np.shape(v)[axis], p, axis)


def bounded_weight_norm_backward(
    dw: ArrayLike, v: ArrayLike, rho: float, p: float = 2, axis: int = 0
) -> Array:
    """dv (v's shape) for the gradient dw at w; rho is a constant, so it has no gradient."""
    return weight_norm_backward(dw, v, [rho] * np.shape(v)[axis], p, axis)[0]


# ---- stochastic gradient descent --------------------------------------------------------------


def sgd(
    w: ArrayLike,
    gradients: Iterable[ArrayLike],
    lr: float,
    momentum: float = 0,
    dampening: float = 0,
    nesterov: bool = False,
    weight_decay: float = 0,
    decoupled: bool = False,
) -> list[Array]:
    """The weights after each step, as torch.optim.SGD; gradients: one array of w's shape a step.

    g = gradient + weight_decay * w; buffer = momentum * buffer + (1 - dampening) * g, but g the
    first time; w -= lr * buffer, with nesterov lr * (g + momentum * buffer).
    Decoupled: first w *= 1 - lr * weight_decay, and g = gradient.
    """
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError("nesterov needs momentum > 0 and dampening = 0")
    w, buffer, steps = float64(w), None, []
    for g in map(float64, gradients):
        if decoupled:
            w = each(lambda a: a * (1 - lr * weight_decay), w)
        else:
            g = each(lambda a, b: b + weight_decay * a, w, g)
        if buffer is None or momentum == 0:
            buffer = g
        else:
            buffer = each(lambda a, b: momentum * a + (1 - dampening) * b, buffer, g)
        step = each(lambda a, b: b + momentum * a, buffer, g) if nesterov else buffer
        w = each(lambda a, b: a - lr * b, w, step)
        steps.append(w)
    return steps
