"""Laws every normalizer obeys, whatever its norm (`manners` has those of an implementation).

They need no reference values: a wrong formula breaks one of them in a way that says what is wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from lpnorm.verify import cases, chosen
from lpnorm.verify.bounds import with_eps
from lpnorm.verify.candidates.common import Raised
from lpnorm.verify.cases import Case
from lpnorm.verify.formula import row_statistic
from lpnorm.verify.reference import Arithmetic, arithmetics
from lpnorm.verify.report import Check
from lpnorm.verify.takes import Subject
from lpnorm.verify.trials import Trial, call, judge

Array = np.ndarray
Step = Callable[[Subject], Iterator[Check]]


def checks(j: Subject) -> Iterator[Check]:
    """Every law on the widest dtype."""
    yield from run(j, (_taylor, _sums, _scaling, _independence, _permutation, _nan))


def run(j: Subject, steps: Iterable[Step]) -> Iterator[Check]:
    """One after the other; one that raises fails."""
    for step in steps:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                yield from step(j)
        except Raised as error:
            words = f"it raised {error}"
            yield Check(step.__name__[1:], "failed", str(step.__doc__), words, words)


def attempt(j: Subject, case: Case) -> Trial:
    trial = call(j.candidate, case)
    if trial.got is None:
        raise Raised(trial.raised)
    judge(trial, j.conventions)
    return trial


def case_of(j: Subject, scale: float = 1.0, offset: float = 0.0, eps: float | None = None) -> Case:
    rows = cases.gaps(j.n(), j.groups) * scale + offset
    dtype = j.dtype
    return cases.build("laws", "", rows, j.layouts[0], dtype, eps or j.eps(dtype), seed=7)


def _loosest(j: Subject) -> Arithmetic:
    return arithmetics(j.dtype)[-2 if j.dtype != "float16" else -1]


def limit_of(j: Subject, trial: Trial, name: str) -> Array:
    return trial.limit(name, j.conventions, _loosest(j))


def as64(a: Any) -> Array:
    return np.asarray(a).astype("float64")


def compare(
    name: str,
    why: str,
    got: Array,
    want: Array,
    limit: Array,
    words: str,
    general: bool = True,
) -> Check:
    if got.shape != want.shape:
        detail = f"shape {got.shape} instead of {want.shape}"
        return Check(name, "failed", why, detail, words, general=general)
    off = abs(got - want)
    fraction = np.where(off > 0, off / np.maximum(limit, 1e-300), 0.0)
    worst = float(np.max(np.where(np.isnan(off), np.inf, fraction), initial=0.0))
    if worst <= 1:
        return Check(name, "passed", why, f"holds to {worst:.2g} of its bound")
    detail = f"off by {np.nanmax(off, initial=0.0):.3g}, {worst:.2g} of its bound"
    return Check(name, "failed", why, detail, words, general=general)


def _taylor(j: Subject) -> Iterator[Check]:
    """The remainder of f(x + hv) - f(x) - h <dx, v> must fall as h squared: that needs no
    tolerance and no reference, only the candidate's own forward."""
    if not j.candidate.has_backward or j.dtype != "float64":
        return
    why = str(_taylor.__doc__).replace("\n    ", " ")
    case = case_of(j)
    trial = attempt(j, case)
    dx = trial.got.dx if trial.got else None
    if dx is None or dx.shape != case.x.shape:
        return
    v = cases.half(np.random.default_rng(3).standard_normal(case.x.shape))
    h0 = 1.7 / (16 * j.n() ** 2) / abs(v).max() * 2

    def remainder(h: float) -> float:
        moved = call(j.candidate, case.but(x=case.x + h * v), backward=False)
        if moved.got is None:
            raise Raised(moved.raised)
        change = as64(moved.got.y) - as64(trial.got.y if trial.got else 0)
        return abs(float((change * case.dy).sum() - h * (as64(dx) * v).sum()))

    steps = [h0, h0 / 4, h0 / 16]
    sizes = [remainder(h) for h in steps]
    noise = chosen.TAYLOR_NOISE * float(abs(as64(trial.got.y if trial.got else 0) * case.dy).sum())
    pairs = [(a, b) for a, b in pairwise(sizes) if b > noise]
    if sizes[0] <= 4 * noise:
        yield Check("Taylor remainder", "passed", why, "no remainder beyond rounding")
        return
    slopes = [np.log(a / b) / np.log(4) for a, b in pairs]
    slope = float(slopes[0]) if slopes else 2.0
    if slope > chosen.TAYLOR_SLOPE:
        yield Check("Taylor remainder", "passed", why, f"slope {slope:.2f} (2 is right)")
    else:
        words = f"dx is not the derivative of this forward (slope {slope:.2f}, 2 is right)"
        yield Check("Taylor remainder", "failed", why, words, words, general=True)


def _sums(j: Subject) -> Iterator[Check]:
    """Sum dx = 0, and <dx, d> is what Euler's theorem says."""
    if not j.candidate.has_backward:
        return
    trial = attempt(j, case_of(j, eps=None))
    got = trial.got
    if got is None or got.dx is None or got.dx.shape != trial.case.x.shape:
        return
    layout, case = trial.case.layout, trial.case
    dx, limit = layout.rows(as64(got.dx)), layout.rows(limit_of(j, trial, "dx"))
    why = "y does not change when a constant is added to x, so the gradient sums to 0"
    words = "dx does not sum to 0: a term that comes through the mean is missing or wrong"
    zero = np.zeros(len(dx))
    yield compare("sum of dx", why, dx.sum(axis=1), zero, limit.sum(axis=1), words)
    d = layout.rows(as64(case.x))
    d = d - d.mean(axis=1, keepdims=True)
    g = layout.rows(layout.wide(as64(case.gamma), case.x.shape) * as64(case.dy))
    phi = row_statistic(d, j.p)
    c, eps = j.conventions.c(d.shape[1]), j.conventions.eps_of(case)
    s, slope = with_eps(phi, j.p, eps, c, j.conventions.eps_place)
    want = ((g * d / s).sum(axis=1, keepdims=True) * (1 - slope * phi / s))[:, 0]
    why = "x_hat does not change when d is scaled, so dx has no part along d but eps's"
    words = "<dx, d> is not 0 (but for eps): the term that comes through the scale is wrong"
    slack = (limit * abs(d)).sum(axis=1) + chosen.EULER * abs(g).sum(axis=1)
    yield compare("<dx, d>", why, (dx * d).sum(axis=1), want, slack, words)


def _scaling(j: Subject) -> Iterator[Check]:
    """x to a x + b: y keeps its values up to the sign of a, dx is divided by a."""
    why = "a normalizer undoes x to a x + b up to the sign of a; then dx is divided by a"
    a, b = -4.0, 2.0
    place = j.conventions.place
    power = {"root": 2, "moment": j.p}.get(place, 1)
    free = j.candidate.takes_eps and j.settings.eps is None
    first = 1.0 if free or j.dtype == "float16" else 2.0**20
    eps = j.eps(j.dtype)
    one, other = case_of(j, first), case_of(j, first * a, b * first)
    if free:
        other = other.but(eps=eps * abs(a) ** power)
    other = other.but(dy=-other.dy)
    x_hats, dxs, limits = [], [], []
    for case in (one, other):
        trial = attempt(j, case)
        assert trial.got is not None and trial.want is not None
        beta = case.layout.wide(as64(trial.case.beta), case.x.shape)
        if trial.got.y.shape != case.x.shape:
            return
        x_hats.append(as64(trial.got.y) - beta)
        dxs.append(trial.got.dx)
        limits.append((limit_of(j, trial, "y"), limit_of(j, trial, "dx")))
    # what eps does to values of this size, where it could not be scaled along
    left = 0.0 if free else chosen.SHIFTED * (j.conventions.eps_of(one) ** (1 / power) / first)
    slack = limits[0][0] + limits[1][0] + left * abs(x_hats[0])
    words = "y changes when x is scaled and shifted"
    yield compare("scale and shift", why, -x_hats[1], x_hats[0], slack, words)
    if dxs[0] is not None and dxs[0].shape == one.x.shape:
        slack = limits[0][1] / abs(a) + limits[1][1] + left * abs(as64(dxs[0])).max() / abs(a)
        words = "dx is not divided by a when x is multiplied by a"
        yield compare("1/a law", why, as64(dxs[1]), as64(dxs[0]) / a, slack, words)


def _independence(j: Subject) -> Iterator[Check]:
    """What is in one group must not change another."""
    if j.groups < 2:
        return
    why = "the groups (channels, or samples in layer norm) are independent of each other"
    case = case_of(j)
    layout = case.layout
    rows, dy = layout.rows(case.x).copy(), layout.rows(case.dy).copy()
    rows[0] = rows[0][::-1] * 3 + 5
    dy[0] = -2 * dy[0]
    changed = case.but(x=layout.array(rows), dy=layout.array(dy))
    one, other = attempt(j, case), attempt(j, changed)
    words = "changing one channel (sample, in layer norm) changes the others: wrong axes"
    for name in ("y", "dx"):
        a, b = getattr(one.got, name), getattr(other.got, name)
        if a is None or a.shape != case.x.shape or b.shape != case.x.shape:
            continue
        limit = layout.rows(2 * limit_of(j, one, name))[1:]
        pair = layout.rows(as64(b))[1:], layout.rows(as64(a))[1:]
        yield compare(f"independent groups, {name}", why, *pair, limit, words)


def _permutation(j: Subject) -> Iterator[Check]:
    """Permuting the values of the groups permutes y and dx."""
    why = "no value of a group is special: permuting x and dy permutes y and dx"
    case = case_of(j)
    layout = case.layout
    rng = np.random.default_rng(5)
    if j.layer == "layer_norm":  # there gamma and beta go with the values
        order = rng.permutation(len(layout.rows(case.x)))
        moved = [layout.array(layout.rows(a)[order]) for a in (case.x, case.dy)]
    else:
        order = rng.permutation(layout.rows(case.x).shape[1])
        moved = [layout.array(layout.rows(a)[:, order]) for a in (case.x, case.dy)]
    one, other = attempt(j, case), attempt(j, case.but(x=moved[0], dy=moved[1]))
    for name in ("y", "dx"):
        a, b = getattr(one.got, name), getattr(other.got, name)
        if a is None or a.shape != case.x.shape or b.shape != case.x.shape:
            continue
        limit, a, b = (
            layout.rows(2 * limit_of(j, one, name)),
            layout.rows(as64(a)),
            layout.rows(as64(b)),
        )
        a, limit = (q[order] if j.layer == "layer_norm" else q[:, order] for q in (a, limit))
        words = f"{name} depends on the order of the values"
        yield compare(f"permutation, {name}", why, b, a, limit, words)


def _nan(j: Subject) -> Iterator[Check]:
    """NaN in must be NaN out in that channel, or a broken network trains on."""
    why = "NaN in must be NaN out in that channel: a NaN that is hidden trains on unseen"
    case = case_of(j)
    rows = case.layout.rows(case.x).copy()
    rows[0, 0] = np.nan
    trial = call(j.candidate, case.but(x=case.layout.array(rows)), backward=False)
    if trial.got is None:
        yield Check("NaN", "skipped", why, f"it refuses NaN ({trial.raised})")
        return
    if trial.got.y.shape != case.x.shape:
        return
    found = np.isfinite(case.layout.rows(as64(trial.got.y)))
    if np.any(found[0]):
        words = "NaN in x is hidden: y is finite in that channel (sample, in layer norm)"
        known = not all(f.general for f in j.report.failures) or j.values_wrong
        yield Check("NaN", "failed", why, words, words, general=known)
        return
    if not np.all(found[1:]):
        j.report.notes.append("NaN in one channel (sample, in layer norm) spreads to the others")
    yield Check("NaN", "passed", why, "NaN in, NaN out")
