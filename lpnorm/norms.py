"""What a norm is: a statistic of the deviations d, its gradient, and its Gaussian constant.

A normalizer divides the deviations d = x - mean(x) of a group of n values by

    s = C * statistic(d),        statistic(d) a positively homogeneous function of degree 1,

where C makes E[s] equal the standard deviation for Gaussian values. Everything the backward pass
needs is the gradient of s, written with entries h that half precision can hold, at most 1 but for
L2's, which reach sqrt(n), a count m of values, and a factor a, 1 except for a real p:

    ds/dd_i = C * h_i / (m a).

| p           | statistic                   | h_i                               | m | source      |
|-------------|-----------------------------|-----------------------------------|---|-------------|
| 2           | (mean d^2)^(1/2)            | d_i / s                           | n | batch norm  |
| 1           | mean abs d                  | sign(d_i), sign(0) = 0            | n | equation 5  |
| real p >= 1 | M = (mean abs(d)^p)^(1/p)   | sign(d_i) u_i^(p-1),              | n | the paper   |
|             |                             | u = abs(d) / max abs d            |   |             |
| TopK(k)     | mean of the k largest abs d | sign(d_i) on those k, 0 elsewhere | k | the paper   |
| inf         | max abs d: TopK(1)          | sign(d_j) at the maximum, else 0  | 1 | equation 6  |
| Range()     | max d - min d               | 1 at the maximum, -1 at the       | 1 | 8-bit paper |
|             |                             | minimum, 0 elsewhere              |   |             |

For a real p, a = (M / max abs d)^(p-1), one number a row. (The plain form, (abs(d_i)/M)^(p-1)
over n, has entries up to n^((p-1)/p), which overflow float16 for large n and p.)

Ties share equally: the candidates tied at the last place of a Top-k, at the maximum or at the
minimum divide the slots that are left among themselves. That is a subgradient and it respects
every permutation; giving each tied entry the whole value is not a subgradient, and picking the
first one makes the result depend on the order of the samples.

Sources: Hoffer, Banner, Golan, Soudry, "Norm matters", NeurIPS 2018 ("equation"); Banner, Hubara,
Hoffer, Soudry, "Scalable methods for 8-bit training of neural networks", NeurIPS 2018 ("8-bit
paper"). Equation numbers, here and everywhere, are those of the authors' poster. Arrays are rows
(groups, n), reduced along the last axis; each operation rounds once to the dtype of d or, for one
number a row, to that of the accumulator (see `lpnorm.arrays.Accumulate`).
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import cache
from typing import Any

from lpnorm.arrays import Accumulate, Array, check_count, library_of, short
from lpnorm.gaussian import expected_range, expected_top


class Norm:
    """One norm: `statistic` and its gradient `direction` side by side, and its constants."""

    def statistic(self, d: Array, accumulate: Accumulate) -> Array:
        """The statistic of each row: (groups, n) -> (groups, 1), in the accumulator's dtype."""
        raise NotImplementedError

    def direction(self, d: Array, s: Array, accumulate: Accumulate) -> tuple[Array, Any]:
        """h (shape of d) and a: the gradient of s is C * h / (m a); s comes from `scale`.

        h has the dtype of d, or the accumulator's where it holds the shares of ties.
        """
        raise NotImplementedError

    def count(self, n: int) -> int:
        """m: how many of n values share the gradient of s."""
        return n

    def scale(self, d: Array, constant: float, eps: float, accumulate: Accumulate) -> Array:
        """What the deviations are divided by: C * statistic + eps, (groups, n) -> (groups, 1)."""
        return constant * self.statistic(d, accumulate) + eps

    def check(self, n: int) -> None:
        """ValueError if this norm has no value for groups of n."""

    def paper_constant(self, n: int) -> float:
        """The constant the papers give; for maxima and ranges right in its growth with n only."""
        raise NotImplementedError

    def exact_constant(self, n: int) -> float:
        """1 / E[statistic] for n independent standard Gaussian values of known mean."""
        return self.paper_constant(n)


@dataclass(frozen=True)
class Lp(Norm):
    """(mean |d|^p)^(1/p) for a real p >= 1, computed after division by max |d|.

    Without that division |d|^p overflows (p = 64 in float32, p = 3 in float16). The gradient of M
    is dM/dd_i = (1/p) M^(1-p) * (1/n) p |d_i|^(p-1) sign(d_i) = sign(d_i) (|d_i|/M)^(p-1) / n,
    and with u = |d| / max|d| and M_u = M / max|d| it is sign(d_i) u_i^(p-1) / (n M_u^(p-1)).
    """

    p: float

    def statistic(self, d: Array, accumulate: Accumulate) -> Array:
        u, largest = _over_largest(d)
        return largest * self._mean_power(u, accumulate)

    def direction(self, d: Array, s: Array, accumulate: Accumulate) -> tuple[Array, Any]:
        u, _ = _over_largest(d)
        mean = _nonzero(self._mean_power(u, accumulate))
        return library_of(d).sign(d) * u ** (self.p - 1), mean ** (self.p - 1)

    def _mean_power(self, u: Array, accumulate: Accumulate) -> Array:
        return accumulate.average(u**self.p) ** (1 / self.p)

    def paper_constant(self, n: int) -> float:
        """C_p = (2^(p/2) Gamma((p+1)/2) / sqrt(pi))^(-1/p) = (E|z|^p)^(-1/p)."""
        p = self.p
        log_moment = p / 2 * math.log(2) + math.lgamma((p + 1) / 2) - math.log(math.pi) / 2
        return math.exp(-log_moment / p)


@dataclass(frozen=True)
class L1(Norm):
    """mean |d|: no square and no root; only the sum can overflow (equation 5)."""

    def statistic(self, d: Array, accumulate: Accumulate) -> Array:
        return accumulate.average(abs(d))

    def direction(self, d: Array, s: Array, accumulate: Accumulate) -> tuple[Array, Any]:
        return library_of(d).sign(d), 1.0

    def paper_constant(self, n: int) -> float:
        """C_1 = 1 / E|z| = sqrt(pi/2)."""
        return math.sqrt(math.pi / 2)


@dataclass(frozen=True)
class L2(Norm):
    """(mean d^2)^(1/2), eps inside the root: ordinary batch norm.

    d is squared unscaled on purpose: that it overflows in half precision is the paper's point.
    With s = (mean d^2 + eps)^(1/2), ds/dd_i = d_i / (n s) exactly, eps included: h = d / s.
    """

    def statistic(self, d: Array, accumulate: Accumulate) -> Array:
        return self.scale(d, 1.0, 0.0, accumulate)

    def scale(self, d: Array, constant: float, eps: float, accumulate: Accumulate) -> Array:
        return library_of(d).sqrt(accumulate.average(d * d) + eps)  # C = 1

    def direction(self, d: Array, s: Array, accumulate: Accumulate) -> tuple[Array, Any]:
        return (d / s).astype(d.dtype, copy=False), 1.0

    def paper_constant(self, n: int) -> float:
        return 1.0


@dataclass(frozen=True)
class TopK(Norm):
    """The mean of the k largest |d|; TopK(1) is the L-infinity norm.

    k: an integer >= 1; TypeError or ValueError otherwise. A group must have at least k values.
    """

    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", check_count("k of TopK", self.k))

    def check(self, n: int) -> None:
        if self.k > n:
            raise ValueError(f"p = TopK({self.k}) needs groups of {self.k} values or more, got {n}")

    def statistic(self, d: Array, accumulate: Accumulate) -> Array:
        return accumulate.average(self._largest(abs(d)))

    def direction(self, d: Array, s: Array, accumulate: Accumulate) -> tuple[Array, Any]:
        size = abs(d)
        last = self._largest(size)[:, :1]  # the k-th place
        above, tied = size > last, size == last
        slots_left = self.k - above.sum(axis=-1, keepdims=True)
        share = slots_left / tied.sum(axis=-1, keepdims=True).clip(1)
        return library_of(d).sign(d) * (above + tied * share.astype(accumulate.dtype)), 1.0

    def count(self, n: int) -> int:
        return self.k

    def _largest(self, size: Array) -> Array:
        """The k largest of each row in increasing order, (groups, k); NaN counts as largest."""
        if self.k == 1:
            return size.max(axis=-1, keepdims=True)
        n = size.shape[-1]
        largest = library_of(size).partition(size, n - self.k, axis=-1)[:, n - self.k :]
        return library_of(size).sort(largest, axis=-1)

    def paper_constant(self, n: int) -> float:
        """C_inf(n) = (1 + sqrt(pi ln 4)) / (2 sqrt(2 ln n)) for every k (equation 6)."""
        return (1 + math.sqrt(math.pi * math.log(4))) / (2 * math.sqrt(2 * math.log(n)))

    def exact_constant(self, n: int) -> float:
        return 1 / expected_top(n, self.k)


@dataclass(frozen=True)
class Range(Norm):
    """max d - min d, the statistic of the same authors' 8-bit paper."""

    def statistic(self, d: Array, accumulate: Accumulate) -> Array:
        top, bottom = d.max(axis=-1, keepdims=True), d.min(axis=-1, keepdims=True)
        return top.astype(accumulate.dtype) - bottom.astype(accumulate.dtype)

    def direction(self, d: Array, s: Array, accumulate: Accumulate) -> tuple[Array, Any]:
        def shared(hit: Array) -> Array:  # one slot, divided among all that are tied
            return hit * (1 / hit.sum(axis=-1, keepdims=True).clip(1)).astype(accumulate.dtype)

        top, bottom = d.max(axis=-1, keepdims=True), d.min(axis=-1, keepdims=True)
        return shared(d == top) - shared(d == bottom), 1.0

    def count(self, n: int) -> int:
        return 1

    def paper_constant(self, n: int) -> float:
        """1 / sqrt(2 ln n); the authors' later code uses 0.35 * C_inf(n) instead."""
        return 1 / math.sqrt(2 * math.log(n))

    def exact_constant(self, n: int) -> float:
        return 1 / expected_range(n)


def as_norm(p: Any) -> Norm:
    """The Norm that p stands for: a real number >= 1, math.inf, TopK(k) or Range().

    Raises TypeError for anything else and ValueError for a number below 1, NaN, or a finite number
    above 65504, the largest that float16 holds.
    """
    allowed = "p must be a real number from 1 to 65504, math.inf, lpnorm.TopK(k) or lpnorm.Range()"
    if isinstance(p, Norm):
        return p
    if isinstance(p, bool) or not isinstance(p, numbers.Real):
        raise TypeError(f"{allowed}; got {short(p)}")
    try:
        number = float(p)
    except OverflowError:
        number = math.nan
    if not (1 <= number <= 65504 or number == math.inf):
        raise ValueError(f"{allowed}; got {short(p)}")
    special: dict[float, Norm] = {1.0: L1(), 2.0: L2(), math.inf: TopK(1)}
    return special.get(number) or Lp(number)


def gaussian_constant(p: Any, n: int, constant: str | None = "paper") -> float:
    """C such that C * statistic estimates the standard deviation of n Gaussian values.

    p: a real number >= 1, math.inf, TopK(k) or Range(); n: values in a group, >= 1 (and >= k);
    constant: "paper" (the papers' formulas), "exact" (1 / E[statistic], by numerical integration,
    good to 1e-6 or better for n up to 10^7) or None (1.0). n = 1 gives 1.0, since d = 0 there.
    Returns a Python float (a numpy.float64 would promote float32 and float16 arrays). Cached.
    Raises TypeError or ValueError naming p, n or constant.

    The papers' constants for L-infinity, Top-k and Range grow with n as they should, but the factor
    is not right: C_inf(n) * E[max |z|] is 1.36 at n = 16, 1.44 at 4,096, 1.47 at 802,816 and tends
    to (1 + sqrt(pi ln 4))/2 = 1.54; for Range it tends to 2. So x_hat comes out with a standard
    deviation of 0.70 (L-infinity) or 0.56 (Range) at n = 4,096; Top-10's goes from 1.35 at n = 16
    to 0.80 there. "exact" is exact for a known mean. With the *sample* mean
    subtracted, as every normalizer does, the deviations are a little smaller and E[C * statistic]
    stays below 1 for small n. Measured with the exact constants over 400,000 groups each
    (`python tests/sample_mean_bias.py`, seed 0, standard error below 0.001):

    |  n  |  L2   |  L1   | p = 3 |  inf  | Top-10 | Range |
    |-----|-------|-------|-------|-------|--------|-------|
    |   2 | 0.564 | 0.707 | 0.483 | 0.500 |   -    | 1.000 |
    |   4 | 0.798 | 0.867 | 0.745 | 0.818 |   -    | 1.001 |
    |  16 | 0.952 | 0.968 | 0.936 | 0.964 | 0.968  | 1.000 |
    |  64 | 0.988 | 0.992 | 0.984 | 0.992 | 0.992  | 1.000 |
    | 256 | 0.997 | 0.998 | 0.996 | 0.998 | 0.998  | 1.000 |

    (For L1 that is sqrt(1 - 1/n) exactly. Range does not change when a mean is subtracted.)
    """
    norm, n = as_norm(p), check_count("n", n)
    norm.check(n)
    if constant is not None and not (isinstance(constant, str) and constant in ("paper", "exact")):
        raise ValueError(f'constant must be "paper", "exact" or None, got {short(constant)}')
    return _constant(norm, n, constant)


@cache
def _constant(norm: Norm, n: int, constant: str | None) -> float:
    if constant is None or n == 1:
        return 1.0
    return float(norm.paper_constant(n) if constant == "paper" else norm.exact_constant(n))


# --- small pieces ---------------------------------------------------------------------------


def _over_largest(d: Array) -> tuple[Array, Array]:
    """|d| / max|d| (0 where all of a row is 0) and max|d|."""
    size = abs(d)
    largest = size.max(axis=-1, keepdims=True)
    return size / _nonzero(largest), largest


def _nonzero(column: Array) -> Array:
    """The column with 1 in place of 0, to divide by: 0 / 0 is meant to be 0 there."""
    return column + (column == 0)
