"""The one rule that turns figures into a verdict: an effect, its spread, and a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

YES, NO, NOISE, UNKNOWN = "yes", "no", "within noise", "cannot say"

POINT = 0.5  # what counts as "as well as", in points of accuracy
HALF = 0.5  # what counts as "corrected": less than this of the difference is left
FAR = 10.0  # what counts as "fails", in points of accuracy

RULE = (
    "Every claim says that a quantity lies above or below a bound, and it is measured once a seed. "
    "Yes: the 95 % interval of its mean over the seeds (Student's t) lies wholly on the side "
    "claimed; no: wholly on the other; within noise: the bound is inside; cannot say: one seed "
    "has no spread. Better or worse: the difference (same seeds) is above or below 0 points; "
    f"as well as: above -{POINT:g}; fails: below -{FAR:g}; corrected: less than half of the "
    "difference is left. ± after a difference: half its interval; after an accuracy: the standard "
    "deviation over the seeds."
)

# the 97.5 % quantiles of Student's t, by degrees of freedom; beyond nine, that of ten
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation (0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean of one value a seed and half its 95 % interval; infinite for a single value."""
    mean, spread = mean_and_spread(values)
    if len(values) < 2:
        return {"mean": mean, "half_95": math.inf}
    quantile = STUDENT.get(len(values) - 1, 2.23)
    return {"mean": mean, "half_95": quantile * spread / math.sqrt(len(values))}


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The interval of the paired differences (same seeds)."""
    return interval([a - b for a, b in zip(ours, theirs, strict=True)])


def above(measured: dict[str, float], bound: float = 0.0) -> str:
    """The rule: is what was measured (an `interval`) above the bound?"""
    low, high = (measured["mean"] + sign * measured["half_95"] for sign in (-1, 1))
    if math.isinf(measured["half_95"]):
        return UNKNOWN
    return YES if low > bound else NO if high < bound else NOISE


def below(measured: dict[str, float], bound: float = 0.0) -> str:
    """The same for: is it below the bound?"""
    return above(measured | {"mean": -measured["mean"]}, -bound)


def better(measured: dict[str, float]) -> str:
    return above(measured)


def worse(measured: dict[str, float]) -> str:
    return below(measured)


def as_well_as(measured: dict[str, float]) -> str:
    return above(measured, -POINT)


def fails(measured: dict[str, float]) -> str:
    return below(measured, -FAR)


def difference_text(measured: dict[str, float]) -> str:
    """For the table: "difference -0.07 ± 0.88"."""
    mean, half = measured.values()
    if half > max(FAR, abs(mean)):  # nothing can be read from such an interval
        return f"difference {mean:+.1f}, " + ("one seed" if half == math.inf else "too few seeds")
    return f"difference {mean:+.2f} ± {half:.2f}"
