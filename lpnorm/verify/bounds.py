"""How far from the exact result may an implementation in a given dtype be? Derived, not chosen.

Model (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, chapters 2 to 4): each
operation returns the exact result times (1 + delta), |delta| <= u, plus at most `tiny` where it
underflows; u is the unit roundoff of the dtype (2^-11, 2^-24, 2^-53), v that of the accumulator;
a pairwise sum of n terms errs by at most L v sum|terms|, L = ceil(log2 n). NumPy's and CuPy's
power is taken to be good to 8 u. First order throughout; SECOND covers the rest.

Forward, per group, e_z standing for the bound on |computed z - exact z|:

    e_mean = (L + 1) v mean|x|
    e_d    = e_mean + (u + v) |d|                     the rounding of x - mean
    e_s    : a norm is 1-Lipschitz in itself, |phi(d + e) - phi(d)| <= phi(e), hence
      L1     C (mean e_d + (L + 1) v mean|d|)
      L2     ( mean(|d| e_d) + (u + (L + 2) v) mean d^2 / 2 ) / s + v s
      Lp     C (M(e_d) + M (u + (8 u + (L + 1) v) / p + 10 v)),  M the p-mean
      Top-k  C (max e_d + (L_k + 1) v max|d|);   Range  C (2 max e_d + 2 v max|d|)
    e_x_hat = e_d / s + |x_hat| (e_s / s + u + v)

Backward: h is a step or a power of d, so its error is the width of the interval of values it
takes when d moves by e_d (for Top-k and Range: an entry whose distance to the last place is
within that error may be in or out, `_in_doubt`); then, following dx = (g - b - c h) / s,

    e_T  = sum(|x_hat| e_g + |g| e_x_hat + (u + L v) |g x_hat|),  e_c = C e_T / m + (4 v + e_m) |c|
    e_b  = mean e_g + (L + 1) v mean|g| + |c| e_mean_h + |mean h| e_c + 2 v (|b| + |c mean h|)
    e_dx = ( e_g + e_b + |h| e_c + |c| e_h + (u + v) (|g - b| + |c h| + |g - b - c h|) ) / s
           + |dx| (e_s / s + u + v)

(and e_c e_h, e_c e_mean_h, which are not small where h is in doubt: constant groups),
where e_g = u |g| is the rounding of gamma dy. Everything is evaluated in float64 on the exact
values, row by row of a (groups, n) array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
SECOND = 1.05
POWER = 8.0


@dataclass(frozen=True)
class Bounds:
    """Bounds on the errors, in the shapes of what they bound; see the module."""

    x_hat: Array  # (groups, n)
    mean: Array  # (groups, 1)
    scale: Array  # (groups, 1)
    dx: Array  # (groups, n)
    product: Array  # (groups, n): of dy * x_hat, whose sums are dgamma


def normalize_bounds(
    x: Array,
    g: Array,
    p: Any,
    constant: float,
    eps: float,
    dtype: Any,
    accumulate: Any = None,
    rounded_g: bool = True,
    u: float | None = None,
    place: str | None = None,
    sequential: bool = False,
) -> Bounds:
    """Bounds for x, g (groups, n) in float64, computed in `dtype` with sums in `accumulate`.

    p as in `lpnorm.batch_norm`; constant: the value of C; rounded_g: whether g = gamma * dy was
    rounded to dtype. accumulate: None for float32 where dtype is float16, else dtype. u: another
    unit roundoff than that of dtype and accumulator, for arithmetic that has none of its own.
    place: where eps is, as in `with_eps`. sequential: sums one after another, n - 1 for L.
    """
    dtype = np.dtype(dtype)
    wide = np.dtype(
        "float32" if accumulate is None and dtype.itemsize == 2 else accumulate or dtype
    )
    u, v = (float(np.finfo(each).eps) / 2 if u is None else u for each in (dtype, wide))
    tiny = float(np.finfo(dtype).smallest_subnormal)
    n = x.shape[1]
    depth = math.ceil(math.log2(n)) if n > 1 else 0
    depth = max(n - 1, 0) if sequential else depth
    place = place or ("root" if p == 2 else "added")
    squares = p == 2 and place == "root"  # then h = x_hat, exactly

    def mean(rows: Array) -> Array:
        return rows.mean(axis=1, keepdims=True)

    e_mean = (depth + 1) * v * mean(np.abs(x))
    d = x - mean(x)
    size = np.abs(d)
    e_d = e_mean + (u + v) * size + tiny
    statistic, e_statistic, h, e_h, m = _norm(p, d, e_d, u, v, tiny, depth)
    # Lp divides its h <= 1 by n (M / max|d|)^(p - 1): p - 1 times the relative error of M / max|d|
    lp = isinstance(p, (int, float)) and p not in (1, 2, math.inf)
    e_m = (p - 1) * (u + (POWER * u + (depth + 1) * v + n * tiny) / p + POWER * v) if lp else 0.0
    if p == 2 and not squares:  # e_statistic is that of mean d^2
        e_statistic = e_statistic / np.maximum(2 * statistic, np.sqrt(e_statistic))
        h = d / np.maximum(statistic, 1e-300)
        e_h = (e_d + np.abs(h) * e_statistic) / np.maximum(statistic, 1e-300) + 2 * u * np.abs(h)
    s, slope = with_eps(statistic, p, eps, constant, place)
    e_slope: Any = 0.0  # relative
    if squares:
        # the squares, their sum and the root; e_statistic is that of mean d^2
        e_s, slope = e_statistic / 2 / np.maximum(s, 1e-300) + 2 * v * s, 1.0
    else:
        e_s = constant * e_statistic + 2 * v * s
        if place in ("root", "moment"):
            power = 1 if place == "root" else p
            e_s = e_s + (2 + 2 * POWER) * v * s
            e_slope = e_s / np.maximum(s, 1e-300) + e_statistic / np.maximum(statistic, 1e-300)
            e_slope = power * (e_slope + POWER * v)
            slope = np.broadcast_to(slope, s.shape)
    s = np.maximum(s, 1e-300)
    x_hat = d / s
    relative = e_s / s + u + v
    e_x_hat = e_d / s + np.abs(x_hat) * relative + tiny
    if squares:
        h, e_h = x_hat, e_x_hat

    e_g = u * np.abs(g) + tiny if rounded_g else np.zeros_like(g)
    product = np.abs(x_hat) * e_g + np.abs(g) * e_x_hat + (u + depth * v) * np.abs(g * x_hat) + tiny
    c = slope * (g * x_hat).sum(axis=1, keepdims=True) / m
    e_c = slope * product.sum(axis=1, keepdims=True) / m + (4 * v + e_m + e_slope) * np.abs(c)
    mean_h = mean(h)
    e_mean_h = mean(e_h) + (depth + 1) * v * mean(np.abs(h))
    b = mean(g) - c * mean_h
    e_b = mean(e_g) + (depth + 1) * v * mean(np.abs(g)) + np.abs(c) * e_mean_h
    e_b = e_b + (np.abs(mean_h) + e_mean_h) * e_c + 2 * v * (np.abs(b) + np.abs(c * mean_h))
    numerator = g - b - c * h
    e_numerator = e_g + e_b + (np.abs(h) + e_h) * e_c + np.abs(c) * e_h + 3 * tiny
    e_numerator = e_numerator + (u + v) * (np.abs(g - b) + np.abs(c * h) + np.abs(numerator))
    e_dx = e_numerator / s + np.abs(numerator / s) * relative + tiny
    return Bounds(*(SECOND * e for e in (e_x_hat, e_mean, e_s, e_dx, product)))


def with_eps(phi: Array, p: Any, eps: float, c: float, place: str) -> tuple[Array, Any]:
    """The scale and its derivative by phi for eps in a place: `oracle.with_eps`, on arrays."""
    if place == "root":
        s = np.sqrt((c * phi) ** 2 + eps)
        return s, c * (c * phi / np.maximum(s, 1e-300))
    if place == "moment":
        largest = np.maximum(phi, max(eps ** (1 / p), 1e-300))
        s = largest * ((phi / largest) ** p + eps / largest**p) ** (1 / p)
        return c * s, c * (phi / s) ** (p - 1)
    if place == "floor":
        return np.maximum(c * phi, eps), c * (c * phi > eps)
    return (c * (phi + eps) if place == "statistic" else c * phi + eps), c


def _norm(
    p: Any, d: Array, e_d: Array, u: float, v: float, tiny: float, depth: int
) -> tuple[Array, Array, Array, Array, int]:
    """statistic, its error (for p = 2 that of the mean square), h, its error, m."""
    size, n = np.abs(d), d.shape[1]
    largest, e_largest = size.max(axis=1, keepdims=True), e_d.max(axis=1, keepdims=True)
    if hasattr(p, "k") or p == math.inf:
        k = getattr(p, "k", 1)
        if k == 1 and n == 2:
            # both are tied whatever they are, and any share of each gives h - mean(h) = sign(d)/2
            return largest, e_largest + v * largest, np.sign(d) / 2, (size <= e_d) * 1.0 + u, 1
        ordered = np.sort(size, axis=1)[:, n - k :]
        levels = math.ceil(math.log2(k)) if k > 1 else 0
        h, e_h = _in_doubt(size, ordered[:, :1], e_d, k)
        sign = np.where(size <= e_d, 0.0, np.sign(d))
        e_h = np.where(size <= e_d, h + e_h, e_h)
        error = e_largest + (levels + 1) * v * largest
        return ordered.mean(axis=1, keepdims=True), error, sign * h, e_h + u * np.abs(h), k
    if type(p).__name__ == "Range":
        top, e_top = _in_doubt(d, d.max(axis=1, keepdims=True), e_d, 1)
        low, e_low = _in_doubt(-d, (-d).max(axis=1, keepdims=True), e_d, 1)
        span = d.max(axis=1, keepdims=True) - d.min(axis=1, keepdims=True)
        h = top - low
        return span, 2 * e_largest + 2 * v * largest, h, e_top + e_low + 2 * u * np.abs(h), 1
    p = float(p)
    safe = np.maximum(largest, 1e-300)
    moment = ((size / safe) ** p).mean(axis=1, keepdims=True)
    statistic = largest * moment ** (1 / p)
    if p == 2:
        square = (size * e_d).mean(axis=1, keepdims=True) * 2 + tiny
        square = square + (u + (depth + 2) * v) * (d * d).mean(axis=1, keepdims=True)
        return statistic, square, d, e_d, n
    e_statistic = np.maximum(e_largest, 1e-300)
    e_statistic = e_statistic * ((e_d / e_statistic) ** p).mean(axis=1, keepdims=True) ** (1 / p)
    rounding = (depth + 1) * v
    if p != 1:  # underflow of the powers: tiny each, against a mean of at least 1/n
        rounding = u + (POWER * u + (depth + 1) * v + n * tiny) / p + (POWER + 2) * v
    e_statistic = e_statistic + statistic * rounding
    # h between the smallest and the largest that d in d -+ e_d and the statistic allow
    low = np.maximum(size - e_d, 0.0) / np.maximum(statistic + e_statistic, 1e-300)
    high = (size + e_d) / np.maximum(statistic - e_statistic, 1e-300)
    high = np.minimum(high, 2.0 * n ** (1 / p))  # |d| <= n^(1/p) M, whatever d is
    magnitude = np.where(size > 0, (size / np.maximum(statistic, 1e-300)) ** (p - 1), 0.0)
    e_h = np.maximum(magnitude - low ** (p - 1), high ** (p - 1) - magnitude)
    e_h = np.where(size <= e_d, magnitude + high ** (p - 1), e_h)
    rounding = 0.0 if p == 1 else POWER * u + (p - 1) * 3 * u
    e_h = e_h + rounding * magnitude + (tiny if p != 1 else 0.0)
    return statistic, e_statistic, np.sign(d) * magnitude, e_h, n


def _in_doubt(value: Array, last: Array, e: Array, slots: int) -> tuple[Array, Array]:
    """The shares of the `slots` largest of each row, (groups, n), and how far they are in doubt.

    last: the value at the last place. An entry is in doubt if the errors could move it across the
    last place while the entries around it cannot all get in or are not all the same number.
    """
    above, tied = value > last, value == last
    left = slots - above.sum(axis=1, keepdims=True)
    share = above + tied * left / tied.sum(axis=1, keepdims=True)
    margin = e + e.max(axis=1, keepdims=True)
    near = np.abs(value - last) <= margin
    slots_near = slots - (value > last + margin).sum(axis=1, keepdims=True)
    settled = near.sum(axis=1, keepdims=True) == slots_near
    return share, np.where(near & ~settled, 1.0, 0.0)
