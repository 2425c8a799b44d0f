"""Where does each norm break in float16? Predicted from the arithmetic, and measured.

Groups of n float16 values x = scale * z are normalized (eps = 0, the paper's constants) in float16
with every accumulator and order, and compared with float64 on the same float16 values; z is
Gaussian, redrawn beyond 1.999 so that the largest scale, 2^15, fits. A cell (scale, n) holds if
the root mean square of the error of x_hat is at most 1 % of that of x_hat, in the median of its
groups. There are a few predictions to make, each a line or two of arithmetic, with u = 2^-11 the
unit roundoff, q = 2^-24 the smallest number and 65,520 where rounding gives infinity:

- **The mean** shifts every d alike. Means below q/2 vanish, others are rounded to a multiple of q:
  the shift is the smaller of scale sqrt(E z^2 / n) and q / sqrt(12), plus what the order loses. A
  float16 "pairwise" or "sequential" sum of the x, about scale sqrt(n), overflows beyond 65,520.
- **L2 squares.** d^2 overflows from |d| = 256 on, for any accumulator. Below d^2 = 2^-14 it is a
  multiple of q: the mean of d^2 becomes E[round(d^2)], 0 once d^2 <= q/2, and a float16 mean is
  such a multiple itself.
- **A float16 sum of n terms** of one sign (|d|, d^2, (|d|/max|d|)^3; for Top-10 ten terms)
  overflows when their sum does. One after another it may stall first: while the sum is in
  [2^e, 2^(e+1)) it is a multiple of g = 2^(e-10), so a term t adds g round(t/g) and, on average,
  E[g round(t/g)], which is 0 once every t < g/2. Integrated binade by binade, that is the sum.
- **A tree of averages** neither overflows nor stalls. Halving rounds subnormals, to within about
  0.4 q of the mean in the end.
- **The scale** in a float16 accumulator is a multiple of q below 2^-14; Range's max - min, twice
  the largest |d|, overflows. **d** itself overflows where |x| + |mean| does.
- L1, L3, L-infinity, Top-10 and Range are otherwise free of the scale: dividing by a power of two
  changes no bit until something is subnormal.

What is not predicted is the luck of a draw: on which side of 1 % an error near 1 % falls, whether a
sum or a maximum near the limit overflows (at scale 2^15 the largest |x| is 17 below it), whether
the mean of two values is a multiple of q (of n = 2 it is in half of all cases).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import models
from lpnorm.arrays import ORDERS, Accumulate
from lpnorm.experiments.pictures import RAISED, SKY, VERMILLION
from lpnorm.experiments.report import Claim, Finding, Options, Result
from lpnorm.experiments.runs import Task, norm_named
from lpnorm.experiments.verdicts import above, below, interval
from lpnorm.norms import as_norm, gaussian_constant

NORMS = {"L2": "2", "L1": "1", "L3": "3", "L∞": "inf", "Top-10": "top10", "Range": "range"}
ACCUMULATORS = [(d, o) for d in ("float32", "float16") for o in ORDERS]
SCALES = list(range(-24, 16))  # exponents of two
SIZES = list(range(1, 21))
TOLERANCE = 0.01
U, Q, OVERFLOW = 2.0**-11, 2.0**-24, 65520.0
LARGEST = 1.999
MISSED = 0.05  # the share of cells that may be predicted wrongly


# --- measured ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells(Task):
    """All cells of one accumulator and order, for every norm: the errors as nested lists."""

    accumulate: str = "float32"
    order: str = "pairwise_mean"
    largest_size: int = 20

    def train(self, checkpoint: Path) -> dict[str, Any]:
        accumulate = Accumulate(self.accumulate, self.order)
        errors: dict[str, Any] = {name: [] for name in NORMS}
        for size in SIZES[: self.largest_size]:
            z = _truncated(np.random.default_rng([self.seed, size]), 2**size)
            rows = {name: np.zeros(len(SCALES)) for name in NORMS}
            for i, exponent in enumerate(SCALES):
                x = (z * 2.0**exponent).astype("float16")
                for name, error in _errors(x, accumulate).items():
                    rows[name][i] = error
            for name in NORMS:
                errors[name].append([None if np.isnan(e) else float(e) for e in rows[name]])
        return errors


def _truncated(rng: np.random.Generator, n: int) -> np.ndarray:
    """Gaussian values within +-LARGEST in groups of n: shape (16 or fewer groups, n)."""
    groups = min(16, max(1, 2**14 // n))
    z = rng.standard_normal(2 * groups * n + 64)
    return z[abs(z) < LARGEST][: groups * n].reshape(groups, n)


def _errors(x: np.ndarray, accumulate: Accumulate) -> dict[str, float]:
    """For every norm the relative error of x_hat, the median over the rows of x; NaN if undefined.

    Infinite where the output is not finite. A row of equal values has no x_hat.
    """
    n, layer_norm = x.shape[1], models.implementation().layer_norm
    exact = x.astype("float64")
    exact -= exact.mean(axis=1, keepdims=True)
    defined = exact.any(axis=1)
    found = {}
    with np.errstate(all="ignore"):
        for name, p in NORMS.items():
            norm = norm_named(p)
            if name == "Top-10" and n < 10:
                found[name] = math.nan
                continue
            x_hat, _ = layer_norm(x, None, None, norm, eps=0.0, accumulate=accumulate)
            c = gaussian_constant(norm, n)
            want = exact / as_norm(norm).scale(exact, c, 0.0, Accumulate("float64"))
            error = np.sqrt(
                ((x_hat.astype("float64") - want) ** 2).mean(axis=1) / (want**2).mean(axis=1)
            )
            error = np.where(np.isfinite(error), error, np.inf)[defined]
            found[name] = float(np.median(error)) if error.size else math.nan
    return found


# --- predicted --------------------------------------------------------------------------------


def predicted_error(name: str, dtype: str, order: str, exponent: int, size: int) -> float:
    """The relative error of x_hat to expect in a cell, by the arithmetic in the module."""
    scale, n = 2.0**exponent, 2**size
    half = dtype == "float16"
    z = _quantiles()
    spread = scale * math.sqrt(float((z * z).mean()))  # the deviation of x
    of_mean = spread / math.sqrt(n)
    if half and order != "pairwise_mean" and spread * math.sqrt(n) > OVERFLOW:
        return math.inf
    if name == "Top-10" and n < 10:
        return math.nan
    shift = min(of_mean, Q / math.sqrt(12))
    if half and order == "pairwise_mean":
        shift += min(of_mean, 0.4 * Q)
    d = abs(z) * scale
    top = float(np.quantile(d, 1 - 1 / (n + 1)))  # the largest of n
    if (top + of_mean) ** (2 if name == "L2" else 1) > OVERFLOW:
        return math.inf
    value, exact = _statistic(name, d, top, n, half, order)
    c = gaussian_constant(norm_named(NORMS[name]), n)
    if value == 0 or value == math.inf:
        return math.inf
    rounded = Q / math.sqrt(12) / (2 * value**2 if name == "L2" else c * value) if half else 0.0
    return math.hypot(exact / value - 1, shift / spread, rounded, U)


def _statistic(
    name: str, d: np.ndarray, top: float, n: int, half: bool, order: str
) -> tuple[float, float]:
    """The statistic as computed and as it should be; d: quantiles of |d|, top: the largest of n."""
    if name == "L∞":
        return top, top
    if name == "Range":
        return (math.inf if half and 2 * top > OVERFLOW else 2 * top), 2 * top
    if name == "Top-10":
        ten = d[d >= np.quantile(d, max(0.0, 1 - 10 / n))]
        return _mean(ten, min(n, 10), half, order), float(ten.mean())
    if name == "L1":
        return _mean(d, n, half, order), float(d.mean())
    if name == "L3":
        cubes = (d / top).clip(max=1) ** 3
        return top * _mean(cubes, n, half, order) ** (1 / 3), top * float(cubes.mean()) ** (1 / 3)
    exact = d[d <= top] ** 2
    with np.errstate(over="ignore"):
        squares = exact.astype("float16").astype("float64")
    return math.sqrt(_mean(squares, n, half, order)), math.sqrt(float(exact.mean()))


def _mean(terms: np.ndarray, n: int, half: bool, order: str) -> float:
    """What the mean of n terms of one sign, of which `terms` are the quantiles, comes out as."""
    mean = float(terms.mean())
    if not half or order == "pairwise_mean":
        lost = 0.4 * Q if half and mean < 2.0**-13 else 0.0
        return max(mean - lost, 0.0)
    if order == "pairwise":
        return math.inf if n * mean > OVERFLOW else mean
    return _one_after_another(terms, n) / n


def _one_after_another(terms: np.ndarray, n: int) -> float:
    """The float16 sum of n terms added one after another: binade by binade, on average."""
    total, left = float(terms.mean()), n - 1.0
    while left > 0 and 0 < total < math.inf:
        exponent = max(math.floor(math.log2(total)), -14)
        grid, end = 2.0 ** (exponent - 10), 2.0 ** (exponent + 1)
        step = float((grid * np.round(terms / grid)).mean())
        if step == 0:
            break
        steps = min(left, math.ceil((end - total) / step))
        total, left = total + steps * step, left - steps
        total = total if total <= OVERFLOW else math.inf
    return total


@functools.cache
def _quantiles() -> np.ndarray:
    """Quantiles of the truncated Gaussian: 4,000 of them, sorted."""
    from statistics import NormalDist

    gaussian = NormalDist()
    low = gaussian.cdf(-LARGEST)
    levels = low + (1 - 2 * low) * (np.arange(4000) + 0.5) / 4000
    return np.array([gaussian.inv_cdf(level) for level in levels])


# --- the claim ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictions(Task):
    """What the arithmetic says of the same cells: `predicted_error`, for every norm."""

    accumulate: str = "float32"
    order: str = "pairwise_mean"
    largest_size: int = 20

    def train(self, checkpoint: Path) -> dict[str, Any]:
        return {
            name: [
                [predicted_error(name, self.accumulate, self.order, e, size) for e in SCALES]
                for size in SIZES[: self.largest_size]
            ]
            for name in NORMS
        }


def measure(options: Options) -> Result:
    largest = 12 if options.quick else SIZES[-1]
    common: list[dict[str, Any]] = [
        {"accumulate": dtype, "order": order, "largest_size": largest}
        for dtype, order in ACCUMULATORS
    ]
    cells = {each: options.tasks(Cells, **c) for each, c in zip(ACCUMULATORS, common, strict=True)}
    theory = {each: Predictions(**c) for each, c in zip(ACCUMULATORS, common, strict=True)}
    found = options.train([*theory.values(), *(task for tasks in cells.values() for task in tasks)])
    figures: dict[str, Any] = {"scales": SCALES, "sizes": SIZES[:largest], "cells": {}}
    for (dtype, order), tasks in cells.items():
        for name in NORMS:
            predicted = found[theory[dtype, order]][name]
            measured = [found[task][name] for task in tasks]
            holds = [_holds_at(seed) for seed in measured]
            figures["cells"][f"{name}, {dtype}, {order}"] = {
                "measured": measured[0],  # drawn is the first seed
                "predicted": predicted,
                "holds_at": [e for e in SCALES if all(e in seed for seed in holds)],
                "widths": [len(seed) for seed in holds],
                "disagreements": [_disagreements(seed, predicted) for seed in measured],
            }
    return Result(_findings(figures), figures, vars(cells["float32", "pairwise_mean"][0]))


def _holds(error: float | None) -> bool | None:
    return None if error is None or math.isnan(error) else error <= TOLERANCE


def _holds_at(measured: list[list[float | None]]) -> list[int]:
    """The scales (exponents) at which every group size from 2^4 on holds."""
    columns = zip(SCALES, zip(*measured[3:], strict=True), strict=True)
    return [e for e, column in columns if all(_holds(error) is not False for error in column)]


def _disagreements(measured: Any, predicted: Any) -> dict[str, int]:
    """Cells in which prediction and measurement differ, by kind."""
    right = [[_holds(error) for error in row] for row in predicted]
    count = dict.fromkeys(("cells", *KINDS), 0)
    for i, row in enumerate(measured):
        for j, error in enumerate(row):
            if _holds(error) is None or right[i][j] is None:
                continue
            count["cells"] += 1
            if _holds(error) == right[i][j]:
                continue
            around = [right[a][j] for a in (i - 1, i + 1) if 0 <= a < len(right)]
            around += [right[i][b] for b in (j - 1, j + 1) if 0 <= b < len(row)]
            near = TOLERANCE / 4 <= predicted[i][j] <= 4 * TOLERANCE
            kind = KINDS[0] if near else KINDS[1] if (not right[i][j]) in around else KINDS[2]
            count[kind] += 1
    return count


KINDS = ("within a factor of 4 of 1 %", "next to a predicted border", "elsewhere")


def _findings(figures: dict[str, Any]) -> list[Finding]:
    cells = figures["cells"]

    def span(key: str) -> str:
        holds = cells[key]["holds_at"]
        return f"2^{holds[0]} to 2^{holds[-1]}" if holds else "nowhere"

    def wider(one: str, other: str) -> list[float]:
        """For each seed: at how many more scales (powers of two) the one holds."""
        return [a - b for a, b in zip(cells[one]["widths"], cells[other]["widths"], strict=True)]

    best, l2 = "float16, pairwise_mean", "L2, float32, pairwise_mean"
    counts = [  # for each seed, of all norms and accumulators
        {kind: sum(c[kind] for c in seed) for kind in ("cells", *KINDS)}
        for seed in zip(*(cell["disagreements"] for cell in cells.values()), strict=True)
    ]
    total = sum(c["cells"] for c in counts)
    wrong = {kind: sum(c[kind] for c in counts) for kind in KINDS}
    shares = [sum(c[kind] for kind in KINDS) / c["cells"] for c in counts]
    least = np.min([wider(f"{n}, {best}", l2) for n in ("L∞", "Top-10")], axis=0).tolist()
    return [
        Finding(
            "L2 breaks in float16 even with a float32 accumulator; L1 does not",
            f"within 1 % for n from 16 on: L2 with float32 at scales {span(l2)}, with float16 "
            f"{span(f'L2, {best}')}; L1 with float32 {span('L1, float32, pairwise_mean')}, with "
            f"float16 {span(f'L1, {best}')}",
            above(interval(wider(f"L1, {best}", l2))),
        ),
        Finding(
            "L∞ and Top-k survive in float16 too",
            f"with a float16 accumulator: L∞ {span(f'L∞, {best}')}, Top-10 "
            f"{span(f'Top-10, {best}')}, Range {span(f'Range, {best}')}, L3 {span(f'L3, {best}')}",
            above(interval(least)),
        ),
        Finding(
            "(not in the paper) L1 in float16 needs a tree of averages",
            f"L1 with a float16 accumulator holds for every n from 16 to "
            f"2^{figures['sizes'][-1]}: averages {span(f'L1, {best}')}, pairwise sum "
            f"{span('L1, float16, pairwise')}, sequential {span('L1, float16, sequential')}",
            above(interval(wider(f"L1, {best}", "L1, float16, sequential"))),
        ),
        Finding(
            f"(not in the paper) the arithmetic predicts where, but for {MISSED:.0%} of the cells",
            f"{total - sum(wrong.values()):,} of {total:,} cells as predicted; the others: "
            + "; ".join(f"{n} {kind}" for kind, n in wrong.items()),
            below(interval(shares), MISSED),
        ),
    ]


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """A panel a norm and accumulator: n across, scale up; orange breaks, blue holds (seed 0)."""
    from matplotlib.colors import ListedColormap

    figure.set_size_inches(11, 10.5)
    panels = figure.subplots(len(NORMS), len(ACCUMULATORS), sharex=True, sharey=True)
    colors = ListedColormap(["#c8c8c8", VERMILLION, SKY])
    sizes, scales = figures["sizes"], figures["scales"]
    extent = (sizes[0] - 0.5, sizes[-1] + 0.5, scales[0] - 0.5, scales[-1] + 0.5)
    for row, name in zip(panels, NORMS, strict=True):
        for axes, (dtype, order) in zip(row, ACCUMULATORS, strict=True):
            cell = figures["cells"][f"{name}, {dtype}, {order}"]
            holds = [[_code(e) for e in column] for column in cell["measured"]]
            expected = [[_code(e) for e in column] for column in cell["predicted"]]
            axes.imshow(
                np.array(holds).T, cmap=colors, vmin=0, vmax=2, aspect="auto", origin="lower",
                extent=extent, alpha=0.75,
            )  # fmt: skip
            away = [
                (n, e)
                for n, one, other in zip(sizes, holds, expected, strict=True)
                for e, a, b in zip(scales, one, other, strict=True)
                if a != b and 0 not in (a, b)
            ]
            if away:
                axes.plot(*zip(*away, strict=True), "k.", ms=1.5)
            if name == next(iter(NORMS)):
                axes.set_title(f"{dtype}\n{order}", fontsize=8, loc="center")
        row[0].set_ylabel(name, fontsize=10)
        row[0].set_yticks([-24, -14, 0, 15], ["2⁻²⁴", "2⁻¹⁴", "1", "2¹⁵"])
    ticks = [n for n in (1, 10, 20) if n <= sizes[-1]]
    panels[-1][0].set_xticks(ticks, [f"2{str(n).translate(RAISED)}" for n in ticks])
    figure.supxlabel("n, values in a group", fontsize=9)
    figure.suptitle(
        "x_hat in float16 within 1 % of float64 (blue) or not (orange), by input scale (up) and n "
        "(across),\nfor each norm and accumulator. Grey: not defined. A dot: the arithmetic "
        "predicted otherwise.",
        fontsize=9,
    )


def _code(error: Any) -> int:
    """0 undefined, 1 broken, 2 holds; from numbers or what JSON made of them."""
    holds = _holds(None if error is None else float(error))
    return 0 if holds is None else 2 if holds else 1


CLAIM = Claim(
    "half-range",
    "L1, L∞ and Top-k survive half precision where L2 breaks: at which scales and sizes.",
    measure,
    draw,
    by_default=False,
)
