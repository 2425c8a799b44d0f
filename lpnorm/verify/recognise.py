"""Which conventions does a candidate follow? Found by comparing y with every accepted formula.

eps shows where the deviations are no larger than it, so the probes are scaled down to eps, or eps
is made large where the candidate takes it as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lpnorm.verify import cases
from lpnorm.verify.candidates.common import Candidate, Raised
from lpnorm.verify.cases import Case, Layout
from lpnorm.verify.formula import row_statistic
from lpnorm.verify.reference import (
    Conventions,
    arithmetics,
    constants,
    default_place,
    expected,
    limits,
    places,
)
from lpnorm.verify.trials import seen

Array = np.ndarray
WORDS = {
    "root": "eps is inside the root of the squared scale, sqrt((C phi)^2 + eps)",
    "added": "eps is added to the scale, C phi + eps",
    "moment": "eps is added to the p-th moment, C (mean|d|^p + eps)^(1/p)",
    "statistic": "eps is added before the constant is multiplied in, C (phi + eps)",
    "floor": "eps is a floor under the scale, max(C phi, eps)",
    "none": "there is no eps",
}
CONSTANTS = {
    "paper": "the paper's Gaussian constant",
    "exact": "the exact Gaussian constant, 1 / E[statistic]",
    "later": "the constant of the authors' later code, 0.35 C_inf(n)",
    None: "no Gaussian constant (C = 1)",
}


@dataclass
class Recognised:
    """The conventions (the usual ones where none fits), and what is to be said about them."""

    conventions: Conventions
    fits: bool
    eps_used: float | None = None  # another eps than was asked for
    said: list[str] = field(default_factory=list)
    tightly: bool = True  # within the bounds of the most exact arithmetic
    other_constant: bool = False  # not the one that was asked for


def recognise(
    candidate: Candidate,
    p: Any,
    layout: Layout,
    dtype: str,
    groups: int,
    eps: float | None,
    constant: Any,
) -> Recognised:
    """eps, constant: what was asked for; None and the string "any" where nothing was."""
    n = candidate.size or cases.typical(p)
    rows = cases.gaps(n, groups)
    asked = candidate.eps if eps is None else eps
    probing = _probes(candidate, p, layout, dtype, groups, n, asked, eps is not None)
    known = constants(p) if constant == "any" else [constant]
    own = None if candidate.takes_eps else asked
    usual = Conventions(p, default_place(p), known[0], own)
    if probing is None:
        return Recognised(usual, False)
    if own is not None or candidate.takes_eps:
        # an eps that was asked for, given, or is the module's own must be used
        for constants_ in (known, _others(p, n, known)):
            formulas = _formulas(p, constants_, own != 0)
            found = best(probing, [Conventions(p, place, c, own) for c, place in formulas])
            if found is None or (constants_ != known and not found[1]):
                continue
            formula, tightly = found
            if formula.eps == 0:
                formula = replace(formula, place="none")
            said = _words(formula, constant)
            if dtype == "float64" and _single(candidate, formula, layout, rows):
                formula = replace(formula, single=True)
                said.append("eps is rounded to float32")
            return Recognised(formula, True, None, said, tightly, constants_ != known)
    for c, place in _formulas(p, known, False):  # an eps of its own
        estimate = _estimate(candidate, p, layout, dtype, groups, n, place, c)
        if place != "none" and not 0 < estimate < 1e3:
            continue
        rounded = float(f"{estimate:.3g}")
        attempts = [(rounded, False), (rounded, True), (estimate, False)]
        for eps_, single in attempts if place != "none" else [(0.0, False)]:
            tried = Conventions(p, place, c, eps_, single)
            again = _probes(candidate, p, layout, dtype, groups, n, tried.eps, False)
            fit = best(again, [tried]) if again else None
            if fit is None or (place == "none" and not fit[1]):  # eps^2 is near none in float16
                continue
            used = tried.eps if asked is not None or candidate.takes_eps else None
            said = _words(tried, constant)
            if used is None and place != "none":
                said.append(f"eps is {tried.eps:.6g}" + ", rounded to float32" * single)
            return Recognised(tried, True, used, said)
    measured = _of_few_digits(usual, candidate, layout, dtype, groups, n, asked, constant)
    return measured or Recognised(usual, False)


# How far off a constant is meant to be the right one (four digits), and is still a constant: the
# catalogue's mistakes (n - 1 for n, the constant twice or not at all) are further off, or counted
FEW_DIGITS, OTHER = 1e-4, 1e-2


def _of_few_digits(
    usual: Conventions,
    candidate: Candidate,
    layout: Layout,
    dtype: str,
    groups: int,
    n: int,
    eps: float | None,
    constant: Any,
) -> Recognised | None:
    """A constant like 1.2533, None if y is something else.

    On deviations of 2^30 eps is nothing, and y = gamma d / (C phi) + beta gives C = s / phi.
    """
    p = usual.p
    if dtype != "float64" or not isinstance(p, (int, float)) or p in (2, np.inf):
        return None
    d, s = _scale_of(candidate, layout, cases.gaps(n, groups) * 2.0**30, dtype)
    phi = row_statistic(d, p)[:, 0]
    measured = float(np.median(s / phi)) if s is not None else np.nan
    right = usual.c(n)
    off = abs(measured / right - 1)
    counted = [(n / (n - 1)) ** (sign / q) for sign in (1, -1) for q in (1, p)]  # another count
    if not 1e-12 < off <= OTHER or any(abs(measured / right / k - 1) < 1e-9 for k in counted):
        return None
    for digits in range(3, 12):  # as it was written, if it was
        if abs(round(measured, digits) / measured - 1) < 1e-14:
            measured = round(measured, digits)
            break
    same = off <= FEW_DIGITS and constant == "any"
    for place in ("added", "root", "statistic", "none"):
        estimate = float(
            f"{_estimate(candidate, p, layout, dtype, groups, n, place, measured):.3g}"
        )
        for own in [0.0] if place == "none" else [usual.eps, estimate]:
            if own is not None and not 0 <= own < 1e3:
                continue
            tried = Conventions(p, place, measured, own)
            probing = _probes(candidate, p, layout, dtype, groups, n, own, False)
            if probing is None or best(probing, [tried]) is None:
                continue
            said = [f"the constant is {measured:.8g} ({right:.8g} to more digits)"]
            if own and own != eps:
                said.append(f"eps is {own:.6g}")
            return Recognised(tried, True, said=said if same else [], other_constant=not same)
    return None


def _others(p: Any, n: int, known: list[Any]) -> list[Any]:
    """The constants that are not what was asked for."""
    place = default_place(p)
    asked = [Conventions(p, place, c).c(n) for c in known]
    return [
        c for c in constants(p) if min(abs(Conventions(p, place, c).c(n) - a) for a in asked) > 1e-9
    ]


def _single(candidate: Candidate, formula: Conventions, layout: Layout, rows: Array) -> bool:
    """Was eps rounded to float32? Seen in float64, where the deviations are as small as eps."""
    eps = 1e-5 if formula.eps is None else formula.eps
    if formula.place == "none" or eps == float(np.float32(eps)):
        return False
    power = {"root": 2, "moment": formula.p}.get(formula.place, 1)
    small = 2.0 ** np.round(np.log2(eps) / power)
    case = cases.build("probe", "", rows * small, layout, "float64", eps)
    try:
        y = candidate.run(case, False).y
    except Raised:
        return False
    fits = []
    for each in (formula, replace(formula, single=True)):
        of = seen(candidate, case)
        want = expected(of, each)
        limit = 2 * limits(of, want, each, arithmetics("float64")[-1])["y"]
        fits.append(y.shape == limit.shape and bool(np.all(abs(y - want.y) <= limit)))
    return fits == [False, True]


def _formulas(p: Any, known: list[Any], strict: bool) -> Iterator[tuple[Any, str]]:
    for place_rank in range(6):
        for c in known:
            listed = places(p, c)
            if place_rank < len(listed) and not (strict and listed[place_rank] == "none"):
                yield c, listed[place_rank]


def _words(found: Conventions, constant: Any) -> list[str]:
    said = []
    if found.place != default_place(found.p):
        said.append(WORDS[found.place])
    named = found.constant
    if named != "paper" and constant == "any" and not isinstance(named, float):
        said.append(CONSTANTS[named])
    return said


def _probes(
    candidate: Candidate,
    p: Any,
    layout: Layout,
    dtype: str,
    groups: int,
    n: int,
    eps: float | None,
    demanded: bool,
) -> list[tuple[Case, Array]] | None:
    """Cases and the candidate's y for them; None if it raises or gives another shape."""
    rows = cases.gaps(n, groups)
    plan = [(1.0, eps or 1e-5)]
    if candidate.takes_eps and not demanded:
        plan += [(1.0, 0.25), (2.0**-10, 2.0**-10), (2.0**-10, 2.0**-7)]  # the last: a floor
    elif eps:
        powers = (
            {1.0, 0.5, 1.0 / p if p not in (0, np.inf) and not hasattr(p, "k") else 1.0}
            if (isinstance(p, (int, float)))
            else {1.0, 0.5}
        )
        least = 2.0**-8 if dtype == "float16" else 2.0**-60
        plan += [(max(2.0 ** np.round(np.log2(eps**q)), least), eps) for q in sorted(powers)]
    found = []
    for scale, each in plan:
        case = cases.build("probe", "", rows * scale, layout, dtype, each)
        try:
            y = candidate.run(case, False).y
        except Raised:
            return None
        if y.shape != case.x.shape:
            return None
        found.append((seen(candidate, case), y.astype("float64")))
    return found


def best(
    probing: list[tuple[Case, Array]], formulas: list[Conventions]
) -> tuple[Conventions, bool] | None:
    """The first formula within the bounds of the most exact arithmetic, and True; else the usual
    one or else the nearest one within those of the least exact, and False; None if none is."""
    nearest: tuple[float, Conventions | None] = (np.inf, None)
    for formula in formulas:
        tight = loose = 0.0
        for case, y in probing:
            with np.errstate(all="ignore"):
                want = expected(case, formula)
                off, least = abs(y - want.y), 1e-9 * abs(want.y)
                few, many = arithmetics(case.dtype)[0], arithmetics(case.dtype)[-1]
                for_tight = np.maximum(2 * limits(case, want, formula, few)["y"], least)
                for_loose = np.maximum(4 * limits(case, want, formula, many)["y"], least)
                tight = max(tight, float(np.max(off / for_tight)))
                loose = max(loose, float(np.max(off / for_loose)))
            if not loose <= 1:
                tight = np.inf
                break
        if tight <= 1:
            return formula, True
        if formula is formulas[0] and loose <= 1:
            tight = 1.0  # loosely: the usual one if it is possible
        if tight < nearest[0]:
            nearest = (tight, formula)
    return (nearest[1], False) if nearest[1] is not None else None


def _estimate(
    candidate: Candidate,
    p: Any,
    layout: Layout,
    dtype: str,
    groups: int,
    n: int,
    place: str,
    constant: Any,
) -> float:
    """eps from y on deviations so small that only eps is left of the scale, 0 where they are the
    scale at any size; nan if it fails. beta is 0, or it hides what y has of x; a module may not let
    it be set, so the deviations are no smaller than they have to be."""
    if dtype == "float16":
        return float("nan")
    c = Conventions(p, place, constant).c(n)
    for tiny in (2.0**-40, 2.0**-52):
        d, s = _scale_of(candidate, layout, cases.gaps(n, groups) * tiny, dtype)
        if s is None:
            return float("nan")
        phi = row_statistic(d, p)[:, 0]
        if np.median(abs(s)) > 16 * c * tiny:
            break
    else:
        return 0.0
    with np.errstate(all="ignore"):  # what is left of s without phi
        eps = {
            "root": s**2 - (c * phi) ** 2,
            "moment": (s / c) ** p - phi**p if place == "moment" else s,
            "statistic": s / c - phi,
            "floor": s,
        }.get(place, s - c * phi)
    return float(np.median(eps))


def _scale_of(
    candidate: Candidate, layout: Layout, rows: Array, dtype: str
) -> tuple[Array, Array | None]:
    """The deviations of these rows, and what each row is divided by; None if it raises."""
    case = cases.build("probe", "", rows, layout, dtype, 1e-5)
    case = case.but(beta=np.zeros_like(case.beta))
    d = layout.rows(case.x.astype("float64"))
    d = d - d.mean(axis=1, keepdims=True)
    try:
        y = candidate.run(case, False).y.astype("float64")
    except Raised:
        return d, None
    if y.shape != case.x.shape:
        return d, None
    case = seen(candidate, case)
    wide = [layout.wide(a.astype("float64"), y.shape) for a in (case.gamma, case.beta)]
    x_hat = layout.rows((y - wide[1]) / wide[0])
    with np.errstate(all="ignore"):
        return d, (d * d).sum(axis=1) / (x_hat * d).sum(axis=1)
