"""Laws every normalizer obeys, whatever its norm, and manners every implementation should have.

They need no reference values: a wrong formula breaks one of them in a way that says what is wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from lpnorm.verify import cases, chosen
from lpnorm.verify.bounds import with_eps
from lpnorm.verify.candidates.common import Raised
from lpnorm.verify.candidates.functions import Pair
from lpnorm.verify.cases import Case
from lpnorm.verify.formula import row_statistic
from lpnorm.verify.reference import Arithmetic, arithmetics
from lpnorm.verify.report import Check
from lpnorm.verify.takes import Subject
from lpnorm.verify.trials import Trial, call, judge

Array = np.ndarray


def checks(j: Subject) -> Iterator[Check]:
    """Every law on the widest dtype; a law that raises fails. (`same_bits` goes before all.)"""
    steps: list[Callable[[Subject], Iterator[Check]]] = [
        _taylor,
        _sums,
        _scaling,
        _independence,
        _permutation,
        _layouts,
        _results_stay,
        _caches,
        _nan,
    ]
    for step in steps:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                yield from step(j)
        except Raised as error:
            words = f"it raised {error}"
            yield Check(step.__name__[1:], "failed", str(step.__doc__), words, words)


def _try(j: Subject, case: Case) -> Trial:
    trial = call(j.candidate, case)
    if trial.got is None:
        raise Raised(trial.raised)
    judge(trial, j.conventions)
    return trial


def _case(j: Subject, scale: float = 1.0, offset: float = 0.0, eps: float | None = None) -> Case:
    rows = cases.gaps(j.n(), j.groups) * scale + offset
    dtype = j.dtype
    return cases.build("laws", "", rows, j.layouts[0], dtype, eps or j.eps(dtype), seed=7)


def _loosest(j: Subject) -> Arithmetic:
    return arithmetics(j.dtype)[-2 if j.dtype != "float16" else -1]


def _limit(j: Subject, trial: Trial, name: str) -> Array:
    return trial.limit(name, j.conventions, _loosest(j))


def _f(a: Any) -> Array:
    return np.asarray(a).astype("float64")


def _compare(
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
    case = _case(j)
    trial = _try(j, case)
    dx = trial.got.dx if trial.got else None
    if dx is None or dx.shape != case.x.shape:
        return
    v = cases.half(np.random.default_rng(3).standard_normal(case.x.shape))
    h0 = 1.7 / (16 * j.n() ** 2) / abs(v).max() * 2

    def remainder(h: float) -> float:
        moved = call(j.candidate, case.but(x=case.x + h * v), backward=False)
        if moved.got is None:
            raise Raised(moved.raised)
        change = _f(moved.got.y) - _f(trial.got.y if trial.got else 0)
        return abs(float((change * case.dy).sum() - h * (_f(dx) * v).sum()))

    steps = [h0, h0 / 4, h0 / 16]
    sizes = [remainder(h) for h in steps]
    noise = chosen.TAYLOR_NOISE * float(abs(_f(trial.got.y if trial.got else 0) * case.dy).sum())
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
    trial = _try(j, _case(j, eps=None))
    got = trial.got
    if got is None or got.dx is None or got.dx.shape != trial.case.x.shape:
        return
    layout, case = trial.case.layout, trial.case
    dx, limit = layout.rows(_f(got.dx)), layout.rows(_limit(j, trial, "dx"))
    why = "y does not change when a constant is added to x, so the gradient sums to 0"
    words = "dx does not sum to 0: a term that comes through the mean is missing or wrong"
    zero = np.zeros(len(dx))
    yield _compare("sum of dx", why, dx.sum(axis=1), zero, limit.sum(axis=1), words)
    d = layout.rows(_f(case.x))
    d = d - d.mean(axis=1, keepdims=True)
    g = layout.rows(layout.wide(_f(case.gamma), case.x.shape) * _f(case.dy))
    phi = row_statistic(d, j.p)
    c, eps = j.conventions.c(d.shape[1]), j.conventions.eps_of(case)
    s, slope = with_eps(phi, j.p, eps, c, j.conventions.eps_place)
    want = ((g * d / s).sum(axis=1, keepdims=True) * (1 - slope * phi / s))[:, 0]
    why = "x_hat does not change when d is scaled, so dx has no part along d but eps's"
    words = "<dx, d> is not 0 (but for eps): the term that comes through the scale is wrong"
    slack = (limit * abs(d)).sum(axis=1) + chosen.EULER * abs(g).sum(axis=1)
    yield _compare("<dx, d>", why, (dx * d).sum(axis=1), want, slack, words)


def _scaling(j: Subject) -> Iterator[Check]:
    """x to a x + b: y keeps its values up to the sign of a, dx is divided by a."""
    why = "a normalizer undoes x to a x + b up to the sign of a; then dx is divided by a"
    a, b = -4.0, 2.0
    place = j.conventions.place
    power = {"root": 2, "moment": j.p}.get(place, 1)
    free = j.candidate.takes_eps and j.settings.eps is None
    first = 1.0 if free or j.dtype == "float16" else 2.0**20
    eps = j.eps(j.dtype)
    one, other = _case(j, first), _case(j, first * a, b * first)
    if free:
        other = other.but(eps=eps * abs(a) ** power)
    other = other.but(dy=-other.dy)
    x_hats, dxs, limits = [], [], []
    for case in (one, other):
        trial = _try(j, case)
        assert trial.got is not None and trial.want is not None
        beta = case.layout.wide(_f(trial.case.beta), case.x.shape)
        if trial.got.y.shape != case.x.shape:
            return
        x_hats.append(_f(trial.got.y) - beta)
        dxs.append(trial.got.dx)
        limits.append((_limit(j, trial, "y"), _limit(j, trial, "dx")))
    # what eps does to values of this size, where it could not be scaled along
    left = 0.0 if free else chosen.SHIFTED * (j.conventions.eps_of(one) ** (1 / power) / first)
    slack = limits[0][0] + limits[1][0] + left * abs(x_hats[0])
    words = "y changes when x is scaled and shifted"
    yield _compare("scale and shift", why, -x_hats[1], x_hats[0], slack, words)
    if dxs[0] is not None and dxs[0].shape == one.x.shape:
        slack = limits[0][1] / abs(a) + limits[1][1] + left * abs(_f(dxs[0])).max() / abs(a)
        words = "dx is not divided by a when x is multiplied by a"
        yield _compare("1/a law", why, _f(dxs[1]), _f(dxs[0]) / a, slack, words)


def _independence(j: Subject) -> Iterator[Check]:
    """What is in one group must not change another."""
    if j.groups < 2:
        return
    why = "the groups (channels, or samples in layer norm) are independent of each other"
    case = _case(j)
    layout = case.layout
    rows, dy = layout.rows(case.x).copy(), layout.rows(case.dy).copy()
    rows[0] = rows[0][::-1] * 3 + 5
    dy[0] = -2 * dy[0]
    changed = case.but(x=layout.array(rows), dy=layout.array(dy))
    one, other = _try(j, case), _try(j, changed)
    words = "changing one channel (sample, in layer norm) changes the others: wrong axes"
    for name in ("y", "dx"):
        a, b = getattr(one.got, name), getattr(other.got, name)
        if a is None or a.shape != case.x.shape or b.shape != case.x.shape:
            continue
        limit = layout.rows(2 * _limit(j, one, name))[1:]
        pair = layout.rows(_f(b))[1:], layout.rows(_f(a))[1:]
        yield _compare(f"independent groups, {name}", why, *pair, limit, words)


def _permutation(j: Subject) -> Iterator[Check]:
    """Permuting the values of the groups permutes y and dx."""
    why = "no value of a group is special: permuting x and dy permutes y and dx"
    case = _case(j)
    layout = case.layout
    rng = np.random.default_rng(5)
    if j.layer == "layer_norm":  # there gamma and beta go with the values
        order = rng.permutation(len(layout.rows(case.x)))
        moved = [layout.array(layout.rows(a)[order]) for a in (case.x, case.dy)]
    else:
        order = rng.permutation(layout.rows(case.x).shape[1])
        moved = [layout.array(layout.rows(a)[:, order]) for a in (case.x, case.dy)]
    one, other = _try(j, case), _try(j, case.but(x=moved[0], dy=moved[1]))
    for name in ("y", "dx"):
        a, b = getattr(one.got, name), getattr(other.got, name)
        if a is None or a.shape != case.x.shape or b.shape != case.x.shape:
            continue
        limit, a, b = layout.rows(2 * _limit(j, one, name)), layout.rows(_f(a)), layout.rows(_f(b))
        a, limit = (q[order] if j.layer == "layer_norm" else q[:, order] for q in (a, limit))
        words = f"{name} depends on the order of the values"
        yield _compare(f"permutation, {name}", why, b, a, limit, words)


def _layouts(j: Subject) -> Iterator[Check]:
    """Non-contiguous and read-only arrays, and nothing modified."""
    case = _case(j)
    one = _try(j, case)

    def strided(a: Array) -> Array:
        return np.ascontiguousarray(a.T).T if a.ndim > 1 else np.repeat(a, 2)[::2]

    def reverse(a: Array) -> Array:
        return np.ascontiguousarray(a[::-1])[::-1]

    def locked(a: Array) -> Array:
        a = a.copy()
        a.setflags(write=False)
        return a

    made = {
        "non-contiguous arrays": (strided, "how an array lies in memory must not matter"),
        "negative strides": (reverse, "how an array lies in memory must not matter"),
        "read-only arrays": (locked, "a caller's array must not be written to"),
        "dy laid out otherwise than x": (
            lambda a: strided(a) if a is case.dy else a.copy(),
            "how an array lies in memory must not matter: dy often lies as the layer above likes",
        ),
    }
    for name, (f, why) in made.items():
        arrays: dict[str, Any] = {
            key: f(getattr(case, key)) for key in ("x", "gamma", "beta", "dy")
        }
        trial = call(j.candidate, case.but(**arrays))
        if trial.got is None:
            words = f"it refuses {name} ({trial.raised})"
            # what writes to its inputs is told so; a refusal is loud, and leaves right values right
            status = "failed" if j.modified else "limited"
            yield Check(name, status, why, words, words, general=bool(j.modified))
            continue
        for output in trial.outputs():
            want, got = _f(getattr(one.got, output)), _f(getattr(trial.got, output))
            limit = 2 * _limit(j, one, output)
            if limit.shape != want.shape:
                continue
            words = f"{output} depends on the memory layout"
            check = _compare(name, why, got, want, limit, words, not j.repeats or j.values_wrong)
            if check.status == "failed":
                yield check
                break
        else:
            yield Check(name, "passed", why, "the same values")
    why = "a caller's arrays must stay as they were"
    for each in (one, call(j.candidate, _case(j, 2.0))):
        if each.modified:
            words = f"{each.modified} is modified: a caller's array must stay as it was"
            yield Check("inputs unmodified", "failed", why, words, words)
            return
    yield Check("inputs unmodified", "passed", why, "they do")


def same_bits(j: Subject) -> Iterator[Check]:
    """Two calls with the same arrays give the same bits."""
    why = "two calls with the same arrays must give the same bits: nothing random, no state"
    case = _case(j, 1 / 3, 0.1)  # no sum is exact, so that the order of the terms shows
    one = call(j.candidate, case)
    call(j.candidate, _case(j, 3.0, 1.0))
    for other in (call(j.candidate, case) for _ in range(4)):
        if one.got is None or other.got is None:
            return  # it raises: that comes up where values are judged
        for name in one.outputs():
            a, b = getattr(one.got, name), getattr(other.got, name)
            if a.shape != b.shape or not np.array_equal(a, b, equal_nan=True):
                j.repeats = False
                words = f"{name} differs between two calls with the same arrays"
                yield Check("same bits twice", "failed", why, words, words)
                return
    yield Check("same bits twice", "passed", why, "they do")


def _results_stay(j: Subject) -> Iterator[Check]:
    """What a call gave must not change when it is called again."""
    why = "what a call gave must not change when it is called again"
    one, other = _case(j), _case(j, 2.0, 1.0)
    given = j.candidate.run(one, j.candidate.has_backward)
    arrays = {name: getattr(given, name) for name in ("y", "dx", "dgamma", "dbeta")}
    before = {name: np.array(a) for name, a in arrays.items() if a is not None}
    j.candidate.run(other, j.candidate.has_backward)
    for name, a in before.items():
        if not np.array_equal(arrays[name], a, equal_nan=True):
            words = f"a later call changes the {name} of an earlier one: they are one array"
            yield Check("results stay", "failed", why, words, words)
            return
    yield Check("results stay", "passed", why, "they do")


def _nan(j: Subject) -> Iterator[Check]:
    """NaN in must be NaN out in that channel, or a broken network trains on."""
    why = "NaN in must be NaN out in that channel: a NaN that is hidden trains on unseen"
    case = _case(j)
    rows = case.layout.rows(case.x).copy()
    rows[0, 0] = np.nan
    trial = call(j.candidate, case.but(x=case.layout.array(rows)), backward=False)
    if trial.got is None:
        yield Check("NaN", "skipped", why, f"it refuses NaN ({trial.raised})")
        return
    if trial.got.y.shape != case.x.shape:
        return
    found = np.isfinite(case.layout.rows(_f(trial.got.y)))
    if np.any(found[0]):
        words = "NaN in x is hidden: y is finite in that channel (sample, in layer norm)"
        known = not all(f.general for f in j.report.failures) or j.values_wrong
        yield Check("NaN", "failed", why, words, words, general=known)
        return
    if not np.all(found[1:]):
        j.report.notes.append("NaN in one channel (sample, in layer norm) spreads to the others")
    yield Check("NaN", "passed", why, "NaN in, NaN out")


def _caches(j: Subject) -> Iterator[Check]:
    """A cache belongs to its call: two forwards, then their backwards, each twice."""
    c = j.candidate
    if not isinstance(c, Pair) or not c.has_backward or not j.repeats:
        return
    why = "a cache belongs to its call: two forwards, then both backwards, each twice"
    one, other = _case(j), _case(j, 2.0, 1.0)
    alone = _try(j, one)
    _, cache = c.call_forward(one)
    c.call_forward(other)
    found = [c.call_backward(one.dy, cache) for _ in range(2)]
    words = "a backward gives something else after another forward, or when called again"
    wants = [getattr(alone.got, name) for name in ("dx", "dgamma", "dbeta")]

    def are(gradients: list[Array | None], times: float) -> Iterator[bool]:
        """Is each what it was alone, those of the parameters so many times?"""
        for factor, want, got in zip((1, times, times), wants, gradients, strict=True):
            if want is not None:
                one, other = _f(got).ravel(), factor * _f(want).ravel()  # shapes were judged before
                yield np.array_equal(one, other, equal_nan=True)

    first, again = found
    if all(are(first, 1)) and all(are(again, 2)) and wants[1] is not None:
        words = "dgamma and dbeta add up over calls of backward: set them to zero in between"
        yield Check("caches", "limited", why, "the second call gives twice as much", words)
        return
    if not (all(are(first, 1)) and all(are(again, 1))):
        known = bool(j.modified) or j.values_wrong
        yield Check("caches", "failed", why, "not the same values", words, general=known)
        return
    yield Check("caches", "passed", why, "they are")
