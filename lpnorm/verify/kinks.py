"""Ties and zeros: there the norm has a kink, and any element of the subdifferential is right.

From dx the candidate's gradient of the scale is read back: with g = gamma dy, T = sum(g x_hat),

    h - mean(h) = (g - mean(g) - s dx) / T,

and mean(h) follows from the entries that are not in doubt. The probes are small whole numbers with
mean 0, so that every dtype computes d exactly. Which element was chosen is a convention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lpnorm.verify import cases, chosen, weights
from lpnorm.verify.bounds import with_eps
from lpnorm.verify.cases import Case, Outcome
from lpnorm.verify.formula import NORM, WEIGHT, row_statistic
from lpnorm.verify.reference import Conventions
from lpnorm.verify.report import Check
from lpnorm.verify.takes import Subject
from lpnorm.verify.trials import Trial, call

Array = np.ndarray
WHY = (
    "tied values and zeros: the norm has a kink there, and the gradient must lie between "
    "those of its sides (any choice, but only one share in all)"
)


def checks(judge: Subject) -> Iterator[Check]:
    """y, and membership of dx in the subdifferential, at ties; the tie rule is a convention."""
    if not judge.candidate.has_backward or judge.candidate.size is not None:
        return
    rules: set[str] = set()
    words = ""
    for dtype in judge.dtypes:
        rows = cases.tied(judge.p)
        rows = rows[np.arange(judge.groups) % 3]
        case = cases.build("ties and zeros", WHY, rows, judge.layouts[0], dtype, judge.eps(dtype))
        # an upstream gradient with a part along x makes T large, so that h can be read off dx
        sign = np.sign(case.layout.wide(case.gamma, case.x.shape))
        along = (sign * case.x / 2 + case.dy / 4).astype(dtype)
        trial = call(judge.candidate, case.but(dy=along))
        name = f"ties and zeros, {dtype}"
        if trial.got is None or trial.got.dx is None:
            yield Check(name, "failed", WHY, f"it raised {trial.raised}", "it raises at ties")
            continue
        if not judge.recognised.fits:
            yield Check(name, "skipped", WHY, "y itself is wrong")
            continue
        found, chosen = membership(judge, trial, name)
        if dtype == judge.dtype and found.status == "passed":
            rules = chosen
        if found.status == "failed":  # the same words in every dtype; none where a cause is known
            words = words or found.diagnosis
            found = replace(found, diagnosis=words, general=judge.values_wrong)
        yield found
    judge.report.conventions += said_of(rules)


def membership(of: Any, trial: Trial, name: str) -> tuple[Check, set[str]]:
    """Is dx in the subdifferential in every row? And the tie rules it follows."""
    rows = trial.case.layout.rows(trial.case.x)
    found = [_row(of.conventions, trial, i) for i in range(len(rows))]
    wrong = [words for ok, words in found if not ok]
    if wrong:
        return Check(name, "failed", WHY, wrong[0], wrong[0], NORM.text("h")), set()
    rules = {words for _, words in found if words}
    return Check(name, "passed", WHY, ", ".join(sorted(rules)) or "one gradient"), rules


def said_of(rules: set[str]) -> list[str]:
    """What is to be said about the tie rules: nothing about the usual ones."""
    usual = {"ties share equally", "sign(0) = 0"}
    if len(rules - usual) > 1:
        return ["tied values share unequally"]
    return sorted(rules - usual)


def _row(conventions: Conventions, trial: Trial, i: int) -> tuple[bool, str]:
    """Is row i of dx in the subdifferential? And the rule it follows, or what is wrong."""
    case, p, layout = trial.case, conventions.p, trial.case.layout
    wide = layout.wide(case.gamma.astype("float64"), case.x.shape)
    g = layout.rows(wide * case.dy.astype("float64"))[i]
    d = layout.rows(case.x.astype("float64"))[i]
    assert trial.got is not None and trial.got.dx is not None
    dx = layout.rows(trial.got.dx.astype("float64"))[i]
    n, size = d.size, abs(d)
    phi = row_statistic(d[None, :], p)
    c, eps = conventions.c(n), conventions.eps_of(case)
    scale, slopes = with_eps(phi, p, eps, c, conventions.eps_place)
    s, slope = float(scale[0, 0]), float(np.ravel(slopes)[0])
    total = float((g * d).sum() / s)
    if abs(total) < 1e-2 * abs(g).max() or not np.all(np.isfinite(dx)):
        ok = bool(np.all(np.isfinite(dx)))
        return ok, "" if ok else f"dx is {dx[~np.isfinite(dx)][0]} at a tie or zero"
    w = (g - g.mean() - s * dx) / (total * slope)
    # every term of w rounds a few times, the sums n times at worst
    u = float(np.finfo(case.dtype).eps) / 2
    terms = 2 * abs(g).max() + abs(s * dx).max() + abs(total) * slope * 2
    slack = (n + chosen.KINK_ROUNDINGS) * u * terms / (abs(total) * slope) + chosen.KINK_LEAST
    if slack * getattr(p, "k", 1) > chosen.SHARE_IN_DOUBT:  # rounding hides which it is
        return True, ""
    if type(p).__name__ == "Range":
        return _range(w, d, slack)
    if cases.is_order_statistic(p):
        return _largest(w, d, size, getattr(p, "k", 1), slack)
    h = np.sign(d) * (size / float(phi[0, 0])) ** (p - 1) / n
    if p > 1:  # no kink: one gradient
        off = abs(w - (h - h.mean())).max()
        if off <= 2 * slack:
            return True, ""
        return False, f"the gradient of the scale is off by {off:.3g} at zeros and ties"
    zero = d == 0
    h = w + np.median((np.sign(d) / n - w)[~zero])
    if abs(h - np.sign(d) / n)[~zero].max() > 2 * slack:
        return False, "away from the zeros the gradient of the scale is not sign(d) / n"
    if not zero.any():
        return True, ""
    at = h[zero] * n
    if abs(at).max() > 1 + 4 * n * slack:
        return False, f"sign(0) was taken as {at[np.argmax(abs(at))]:.3g}, outside [-1, 1]"
    if abs(at).max() <= 4 * n * slack:
        return True, "sign(0) = 0"
    value = round(float(np.median(at)), 3)
    return True, f"sign(0) = {value:g}"


def _shares(shares: Array, slots: float, slack: float, where: str) -> tuple[bool, str]:
    """Are these shares of the tied entries >= 0, <= 1 and `slots` in all? Which rule is it?"""
    count = len(shares)
    if count > slots and slack > 0.4 * (1 - slots / count):  # rounding hides which it is
        return True, ""
    if abs(shares - 1).max() <= slack and count > slots:
        return (
            False,
            f"each of the {count} entries tied at {where} gets the full gradient: their "
            f"shares must add up to {slots:g}",
        )
    if shares.min() < -slack or shares.max() > 1 + slack:
        return (
            False,
            f"a tied entry at {where} gets {shares[abs(shares - 0.5).argmax()]:.3g} of "
            "a share, outside [0, 1]",
        )
    if abs(shares.sum() - slots) > count * slack:
        return (
            False,
            f"the entries tied at {where} get {shares.sum():.3g} shares in all, not {slots:g}",
        )
    if abs(shares - slots / count).max() <= slack:
        return True, "ties share equally"
    whole = round(slots)
    if abs(shares[:whole] - 1).max(initial=0) <= slack:
        return True, "of tied values the first in the array is taken"
    if abs(shares[count - whole :] - 1).max(initial=0) <= slack:
        return True, "of tied values the last in the array is taken"
    return True, "tied values share unequally"


def _largest(w: Array, d: Array, size: Array, k: int, slack: float) -> tuple[bool, str]:
    last = np.sort(size)[-k]
    above, tied = size > last, size == last
    rest = ~above & ~tied
    share = (w - np.median(w[rest])) * np.sign(d) * k
    slack = 2 * k * slack
    if abs(share[rest]).max() > slack:
        return False, "entries below the k-th place get a gradient through the scale"
    if above.any() and abs(share[above] - 1).max() > slack:
        return False, "an entry above the k-th place does not get its full gradient"
    if last == 0:
        return True, ""
    return _shares(share[tied], k - above.sum(), slack, "the last place")


def _range(w: Array, d: Array, slack: float) -> tuple[bool, str]:
    top, bottom = d == d.max(), d == d.min()
    share = w - np.median(w[~top & ~bottom])
    slack *= 2
    if abs(share[~top & ~bottom]).max() > slack:
        return False, "entries between minimum and maximum get a gradient through the scale"
    first = _shares(share[top], 1, slack, "the maximum")
    second = _shares(-share[bottom], 1, slack, "the minimum")
    return first if not first[0] else second


# ---- weight norms -----------------------------------------------------------------------------


def weight_membership(case: Case, got: Outcome, name: str) -> tuple[Check, set[str]]:
    """Is dv in the subdifferential where v is tied (p = inf) or 0 (p = 1)? And the rule.

    From dv the gradient of the norm is read back, h = (dw - S dv / g) / dg. Only these two norms
    have a kink; the other values of dv are judged by their bounds.
    """
    ok, words = _weights_rule(case, got)
    if not ok:
        return Check(name, "failed", WHY, words, words, WEIGHT.text("h")), set()
    return Check(name, "passed", WHY, words or "one gradient"), {words} if words else set()


def _weights_rule(case: Case, got: Outcome) -> tuple[bool, str]:
    if case.p not in (1, math.inf) or "dv" not in got or got["dv"].shape != case.arrays["v"].shape:
        return True, ""
    v = WEIGHT.run(weights.given(case))
    u = float(np.finfo(case.dtype).eps) / 2
    dv, rules = got["dv"].astype("float64"), set()
    for i in range(len(dv)):
        s, g, dg = (float(np.ravel(a[i])[0]) for a in (v.S, v.g, v.dg))
        each, dw = v.v[i].ravel(), v.dw[i].ravel()
        h = (dw - s * dv[i].ravel() / g) / dg
        slack = (each.size + chosen.KINK_ROUNDINGS) * u * (2 * abs(dw).max() + abs(dg)) / abs(dg)
        slack += chosen.KINK_LEAST
        if not np.all(np.isfinite(h)):
            return False, "dv is not finite at a tie or zero"
        if slack > chosen.SHARE_IN_DOUBT:  # rounding hides which it is
            continue
        if case.p == math.inf:
            tied = abs(each) == abs(each).max()
            ok, words = _shares((h * np.sign(each))[tied], 1, 2 * slack, "the maximum")
            if not ok:
                return ok, words
            rules.add(words)
        elif (each == 0).any():
            at = h[each == 0]
            if abs(at).max() > 1 + 2 * slack:
                return False, f"sign(0) was taken as {at[abs(at).argmax()]:.3g}, outside [-1, 1]"
            value = round(float(np.median(at)), 3)
            rules.add("sign(0) = 0" if abs(at).max() <= 2 * slack else f"sign(0) = {value:g}")
    return True, ", ".join(sorted(rules))
