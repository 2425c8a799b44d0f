"""What order statistics of Gaussian values are on average: what the exact constants divide by.

Let q(t) = P(|z| > t) = erfc(t/sqrt 2) and N(t) ~ Binomial(n, q(t)) the number of values above t.
The sum of the k largest is the integral over t >= 0 of min(N(t), k), so

    E[mean of the k largest] = 1/k * integral of E[min(N, k)] dt.

Where n q >> k the integrand is k, where n q << k it is n q (whose integral has a closed form):
only the transition between the two is left to a quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def expected_top(n: int, k: int) -> float:
    """E[mean of the k largest of |z_1|, ..., |z_n|], z independent standard Gaussian."""
    spread = 10 * math.sqrt(k) + 60  # pmf below 1e-15 beyond
    start = _where_above(min(n, k + spread) / n)
    end = _where_above(max(k - spread, 1e-9) / n)
    density = math.exp(-end * end / 2) / math.sqrt(2 * math.pi)
    tail = n * (2 * density - end * math.erfc(end / math.sqrt(2)))  # the integral of n q

    def expected_min(t: np.ndarray) -> np.ndarray:  # E[min(N, k)] = k - sum_{j<k} (k - j) P(N = j)
        q = _above(t)[:, None]
        j = np.arange(max(0, int(k - 2 * spread)), k)
        steps = np.log((n - np.arange(k - 1)) / (1 + np.arange(k - 1)))
        log_binomial = np.concatenate([[0.0], np.cumsum(steps)])[j]
        pmf = np.exp(log_binomial + j * np.log(q) + (n - j) * np.log1p(-q))
        return k - pmf @ (k - j)

    return (k * start + _integral(expected_min, start, end) + tail) / k


def expected_range(n: int) -> float:
    """E[max z - min z] = 2 E[max z] = 2 * integral over t >= 0 of 1 - F(t)^n - F(-t)^n."""
    start, end = _where_above(min(1.0, 200 / n)), _where_above(1e-20 / n)

    def above(t: np.ndarray) -> np.ndarray:
        tail = _above(t) / 2  # F(-t)
        return -np.expm1(n * np.log1p(-tail)) - tail**n

    return 2 * (start + _integral(above, start, end))


def _integral(f: Callable[[np.ndarray], np.ndarray], start: float, end: float) -> float:
    """Gauss-Legendre with 32 nodes on each of 16 panels; f is smooth."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    edges = np.linspace(start, end, 17)
    half = (edges[1:] - edges[:-1]) / 2
    t = (edges[:-1] + half)[:, None] + half[:, None] * nodes
    return float(f(t.ravel()) @ (half[:, None] * weights).ravel())


def _where_above(q: float) -> float:
    """The t >= 0 with P(|z| > t) = q, by bisection."""
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(middle / math.sqrt(2)) > q else (low, middle)
    return low


def _above(t: np.ndarray) -> np.ndarray:
    """P(|z| > t) for each t."""
    return np.array([math.erfc(value / math.sqrt(2)) for value in t])
