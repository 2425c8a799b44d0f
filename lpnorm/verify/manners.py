"""Manners every implementation should have: memory is the caller's, and a call is its own.

Other layouts of the arrays, the same bits twice, results and caches that stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lpnorm.verify.candidates.functions import Pair
from lpnorm.verify.candidates.models import LayerCandidate
from lpnorm.verify.laws import Array, as64, attempt, case_of, compare, limit_of, run
from lpnorm.verify.report import Check
from lpnorm.verify.takes import Subject
from lpnorm.verify.trials import call

NAMES = ("y", "dx", "dgamma", "dbeta")
ADD_UP = "dgamma and dbeta add up over calls of backward: set them to zero in between"


def checks(j: Subject) -> Iterator[Check]:
    """Every one on the widest dtype. (`same_bits` goes before all.)"""
    yield from run(j, (_layouts, _results_stay, _caches, _one_object))


def same_bits(j: Subject) -> Iterator[Check]:
    """Two calls with the same arrays give the same bits."""
    why = "two calls with the same arrays must give the same bits: nothing random, no state"
    case = case_of(j, 1 / 3, 0.1)  # no sum is exact, so that the order of the terms shows
    one = call(j.candidate, case)
    call(j.candidate, case_of(j, 3.0, 1.0))
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


def _layouts(j: Subject) -> Iterator[Check]:
    """Non-contiguous and read-only arrays, and nothing modified."""
    case = case_of(j)
    one = attempt(j, case)

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
            want, got = as64(getattr(one.got, output)), as64(getattr(trial.got, output))
            limit = 2 * limit_of(j, one, output)
            if limit.shape != want.shape:
                continue
            words = f"{output} depends on the memory layout"
            check = compare(name, why, got, want, limit, words, not j.repeats or j.values_wrong)
            if check.status == "failed":
                yield check
                break
        else:
            yield Check(name, "passed", why, "the same values")
    why = "a caller's arrays must stay as they were"
    for each in (one, call(j.candidate, case_of(j, 2.0))):
        if each.modified:
            words = f"{each.modified} is modified: a caller's array must stay as it was"
            yield Check("inputs unmodified", "failed", why, words, words)
            return
    yield Check("inputs unmodified", "passed", why, "they do")


def _results_stay(j: Subject) -> Iterator[Check]:
    """What a call gave must not change when it is called again."""
    why = "what a call gave must not change when it is called again"
    one, other = case_of(j), case_of(j, 2.0, 1.0)
    given = j.candidate.run(one, j.candidate.has_backward)
    arrays = {name: getattr(given, name) for name in NAMES}
    before = {name: np.array(a) for name, a in arrays.items() if a is not None}
    j.candidate.run(other, j.candidate.has_backward)
    for name, a in before.items():
        if not np.array_equal(arrays[name], a, equal_nan=True):
            words = f"a later call changes the {name} of an earlier one: they are one array"
            yield Check("results stay", "failed", why, words, words)
            return
    yield Check("results stay", "passed", why, "they do")


def _caches(j: Subject) -> Iterator[Check]:
    """A cache belongs to its call: two forwards, then their backwards, each twice."""
    c = j.candidate
    if not isinstance(c, Pair) or not c.has_backward or not j.repeats:
        return
    why = "a cache belongs to its call: two forwards, then both backwards, each twice"
    one, other = case_of(j), case_of(j, 2.0, 1.0)
    alone = attempt(j, one)
    _, cache = c.call_forward(one)
    c.call_forward(other)
    found = [c.call_backward(one.dy, cache) for _ in range(2)]
    words = "a backward gives something else after another forward, or when called again"
    wants = [getattr(alone.got, name) for name in ("dx", "dgamma", "dbeta")]

    def are(gradients: list[Array | None], times: int) -> bool:
        """Is each what it was alone, those of the parameters so many times?"""
        each = zip(gradients, wants, (1, times, times), strict=True)
        return all(want is None or _same(got, k * as64(want)) for got, want, k in each)

    first, again = found
    if are(first, 1) and are(again, 2) and wants[1] is not None:
        yield Check("caches", "limited", why, "the second call gives twice as much", ADD_UP)
        return
    if not (are(first, 1) and are(again, 1)):
        known = bool(j.modified) or j.values_wrong
        yield Check("caches", "failed", why, "not the same values", words, general=known)
        return
    yield Check("caches", "passed", why, "they are")


def _one_object(j: Subject) -> Iterator[Check]:
    """A step of a layer is its own: one object's second step gives what a fresh one's gives."""
    c = j.candidate
    if not isinstance(c, LayerCandidate) or not c.has_backward or not j.repeats:
        return
    one, other = case_of(j), case_of(j, 2.0, 1.0)
    model = c.begin(one)
    if not model.by_hand:  # a library's own autograd keeps what a backward needs
        return
    why = "one object's second step gives what a fresh one's gives"
    before, want = attempt(j, one).got, attempt(j, other).got
    c.step(model, one, True)
    model.clear()
    got = c.step(model, other, True)
    differ = [n for n in NAMES if not _same(getattr(got, n), getattr(want, n))]
    sums = [n for n in differ if n in ("dgamma", "dbeta") and _added(n, before, want, got)]
    if not differ:
        yield Check("one object", "passed", why, "it does")
    elif sums == differ:
        yield Check("one object", "limited", why, "it gives the sum of both", ADD_UP)
    else:
        words = f"a second step with the same object gives another {differ[0]}: something of the "
        words += "first is kept"
        known = bool(j.modified) or j.values_wrong
        yield Check("one object", "failed", why, "not the same values", words, general=known)


def _same(got: Any, want: Any) -> bool:
    return want is None or np.array_equal(as64(got).ravel(), as64(want).ravel(), equal_nan=True)


def _added(name: str, before: Any, want: Any, got: Any) -> bool:
    return _same(getattr(got, name), getattr(before, name) + getattr(want, name))
