"""The statistics of n deviations, their gradients, and the Gaussian constants."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


# ---- the statistics -------------------------------------------------------------------------


def _top_k(p: Any, n: int) -> int | None:
    """How many of the largest |d| the norm looks at: k, 1 for infinity; None for finite p."""
    if not hasattr(p, "k"):
        if not p >= 1:
            raise ValueError(f"p must be at least 1, got {p}")
        return 1 if p == math.inf else None
    if not 1 <= p.k <= n:
        raise ValueError(f"Top-k needs 1 <= k <= n, got k = {p.k}, n = {n}")
    return int(p.k)


def _is_range(p: Any) -> bool:
    return type(p).__name__ == "Range"


def _sign(value: float) -> float:
    return float((value > 0) - (value < 0))


def exact_mean(values: Sequence[float]) -> float:
    """The mean; a power of two is taken out first (exactly), so that the sum cannot overflow."""
    exponent = math.frexp(max(abs(v) for v in values))[1]
    total = math.fsum(math.ldexp(v, -exponent) for v in values)
    return math.ldexp(total / len(values), exponent)


def deviation(d: Sequence[float], p: Any) -> float:
    """The statistic of n deviations d, without the Gaussian constant.

    (mean |d|^p)^(1/p); for p = 1 that is mean |d| (Hoffer et al. 2018, equation (5)); max |d| for
    infinity (equation (6)); the mean of the k largest |d| for Top-k; max d - min d for Range.
    """
    if _is_range(p):
        return float(max(d) - min(d))
    k = _top_k(p, len(d))
    sizes = sorted((abs(float(v)) for v in d), reverse=True)
    if k is not None:
        return exact_mean(sizes[:k])
    if sizes[0] == 0:
        return 0.0
    return float(sizes[0] * exact_mean([(size / sizes[0]) ** p for size in sizes]) ** (1 / p))


def deviation_gradient(d: Sequence[float], p: Any) -> list[float]:
    """The gradient of `deviation` with respect to its n arguments d: n numbers.

    Finite p: sign(d_i) / n * (|d_i| / deviation)^(p-1). Infinity and Top-k: sign(d_i) / k on the k
    largest; those tied at the k-th place share the slots left equally. Range: +1 shared by the
    maxima, -1 by the minima. sign(0) = 0, and where the statistic is 0 so is the gradient.
    """
    d = [float(v) for v in d]
    if _is_range(p):
        high, low = max(d), min(d)
        most, least = d.count(high), d.count(low)
        return [(v == high) / most - (v == low) / least for v in d]
    n, k, sizes = len(d), _top_k(p, len(d)), [abs(v) for v in d]
    largest = max(sizes)
    if largest == 0:
        return [0.0] * n
    if k is None:  # d / largest has the same gradient and cannot over- or underflow
        value = deviation([v / largest for v in d], p)
        return [_sign(v) / n * (abs(v) / largest / value) ** float(p - 1) for v in d]
    last = sorted(sizes, reverse=True)[k - 1]
    share = (k - sum(size > last for size in sizes)) / sizes.count(last)
    return [_sign(v) / k * (abs(v) > last or (abs(v) == last) * share) for v in d]


# ---- the constants that make E[C * statistic] = 1 for n standard normal values ----------------


def _integral(f: Callable[[float], float], end: float = 12.0, steps: int = 4000) -> float:
    """Integral of f from 0 to 12 (no normal value exceeds that once in 10^30) by Simpson's rule.

    t = u^2 puts more points near 0, where a k close to n makes f steep.
    """
    h = math.sqrt(end) / steps
    values = [f((i * h) ** 2) * 2 * i * h for i in range(steps + 1)]
    inner = math.fsum(values[1::2]) * 4 + math.fsum(values[2:-1:2]) * 2
    return (values[0] + inner + values[-1]) * h / 3


def _expected_top_k(n: int, k: int) -> float:
    """E[mean of the k largest of |z_1|, ..., |z_n|].

    The sum of the k largest is the integral over t > 0 of min(k, N(t)), where N(t) counts the
    |z_i| above t: binomial, n trials of probability erfc(t / sqrt 2). So its expectation is the
    integral of E[min(k, N)] = k - sum_{j<k} (k - j) P(N = j).
    """
    log_ratios = [math.log((n - j) / (j + 1)) for j in range(k)]  # binom(n, j+1) / binom(n, j)

    def expected_count(t: float) -> float:
        above, below = math.erfc(t / math.sqrt(2)), math.erf(t / math.sqrt(2))
        if below == 0:
            return float(k)
        log_below = math.log1p(-above) if above < 0.5 else math.log(below)
        log_odds = math.log(above) - log_below
        log_probability = n * log_below  # of N = j, starting at j = 0
        missing = 0.0
        for j in range(k):
            missing += (k - j) * math.exp(log_probability)
            log_probability += log_ratios[j] + log_odds
        return k - missing

    return _integral(expected_count) / k


def _expected_range(n: int) -> float:
    """E[max z - min z]: the integral over all t of 1 - F(t)^n - (1 - F(t))^n."""

    def f(t: float) -> float:
        above = math.erfc(t / math.sqrt(2)) / 2
        return -math.expm1(n * math.log1p(-above)) - above**n

    return 2 * _integral(f)


def gaussian_constant(p: Any, n: int, constant: str | float | None = "paper") -> float:
    """The constant C for which C * deviation estimates sigma from n Gaussian values.

    Finite p: (E|z|^p)^(-1/p), so sqrt(pi/2) at p = 1 (Hoffer et al. 2018, equation (5)).
    "paper": equation (6) for infinity and every Top-k; 1 / sqrt(2 ln n) for Range (Banner et al.
    2018, "Scalable methods for 8-bit training of neural networks"). "exact": 1 / E[statistic] of n
    standard normal values, the mean known. None: 1. One value (n = 1): 1. A number: itself.
    """
    if isinstance(constant, float):
        return constant
    if constant not in ("paper", "exact", None):
        raise ValueError(f'constant must be "paper", "exact" or None, got {constant!r}')
    k = None if _is_range(p) else _top_k(p, n)
    if constant is None or n == 1 or p == 2:
        return 1.0
    if k is None and not _is_range(p):  # E|z|^p = 2^(p/2) Gamma((p+1)/2) / sqrt(pi)
        log_moment = p / 2 * math.log(2) + math.lgamma((p + 1) / 2) - math.log(math.pi) / 2
        return math.exp(-log_moment / p)
    if constant == "exact":
        return 1 / (_expected_range(n) if k is None else _expected_top_k(n, k))
    numerator = 1.0 if k is None else (1 + math.sqrt(math.pi * math.log(4))) / 2
    return numerator / math.sqrt(2 * math.log(n))


# ---- arrays as lists of Python floats ---------------------------------------------------------
