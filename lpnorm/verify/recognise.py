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
from lpnorm.verify.chosen import FEW_DIGITS, LEAST, LOOSE, OTHER_CONSTANT, TIGHT
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
    ask = _Ask(candidate, p, layout, dtype, groups)
    asked = candidate.eps if eps is None else eps
    probing = ask.probes(asked, eps is not None)
    known = constants(p) if constant == "any" else [constant]
    own = None if candidate.takes_eps else asked
    usual = Conventions(p, default_place(p), known[0], own)
    if probing is None:
        return Recognised(usual, False)
    if own is not None or candidate.takes_eps:
        # an eps that was asked for, given, or is the module's own must be used
        for constants_ in (known, _others(p, ask.n, known)):
            formulas = _formulas(p, constants_, own != 0)
            found = best(probing, [Conventions(p, place, c, own) for c, place in formulas])
            if found is None or (constants_ != known and not found[1]):
                continue
            formula, tightly = found
            if formula.eps == 0:
                formula = replace(formula, place="none")
            said = _words(formula, constant)
            if dtype == "float64" and ask.rounds_eps(formula):
                formula = replace(formula, single=True)
                said.append("eps is rounded to float32")
            return Recognised(formula, True, None, said, tightly, constants_ != known)
    for c, place in _formulas(p, known, False):  # an eps of its own
        for tried in ask.own_eps(place, c):
            again = ask.probes(tried.eps, False)
            fit = best(again, [tried]) if again else None
            if fit is None or (place == "none" and not fit[1]):  # eps^2 is near none in float16
                continue
            used = tried.eps if asked is not None or candidate.takes_eps else None
            said = _words(tried, constant)
            if used is None and place != "none":
                said.append(f"eps is {tried.eps:.6g}" + ", rounded to float32" * tried.single)
            return Recognised(tried, True, used, said)
    return _of_few_digits(ask, usual, asked, constant) or Recognised(usual, False)


def _of_few_digits(
    ask: _Ask, usual: Conventions, eps: float | None, constant: Any
) -> Recognised | None:
    """A constant like 1.2533, None if y is something else.

    On deviations of 2^30 eps is nothing, and y = gamma d / (C phi) + beta gives C = s / phi. The
    catalogue's mistakes (the constant twice or not at all) are further off, n - 1 for n is counted.
    """
    p, n = usual.p, ask.n
    if ask.dtype != "float64" or not isinstance(p, (int, float)) or p in (2, np.inf):
        return None
    phi, s = ask.scale(2.0**30)
    measured = float(np.median(s / phi)) if s is not None else np.nan
    right = usual.c(n)
    off = abs(measured / right - 1)
    counted = [(n / (n - 1)) ** (sign / q) for sign in (1, -1) for q in (1, p)]  # another count
    if not 1e-12 < off <= OTHER_CONSTANT or any(
        abs(measured / right / k - 1) < 1e-9 for k in counted
    ):
        return None
    for digits in range(3, 12):  # as it was written, if it was
        if abs(round(measured, digits) / measured - 1) < 1e-14:
            measured = round(measured, digits)
            break
    same = off <= FEW_DIGITS and constant == "any"
    for place in ("added", "root", "statistic", "none"):
        usually = [] if place == "none" else [Conventions(p, place, measured, usual.eps)]
        for tried in [*usually, *ask.own_eps(place, measured)]:
            probing = ask.probes(tried.eps, False)
            if probing is None or best(probing, [tried]) is None:
                continue
            said = [f"the constant is {measured:.8g} ({right:.8g} to more digits)"]
            if tried.eps and tried.eps != eps:
                said.append(f"eps is {tried.eps:.6g}")
            return Recognised(tried, True, said=said if same else [], other_constant=not same)
    return None


def _others(p: Any, n: int, known: list[Any]) -> list[Any]:
    """The constants that are not what was asked for."""
    place = default_place(p)
    asked = [Conventions(p, place, c).c(n) for c in known]
    return [
        c for c in constants(p) if min(abs(Conventions(p, place, c).c(n) - a) for a in asked) > 1e-9
    ]


@dataclass(frozen=True)
class _Ask:
    """Asks a candidate for y, on random rows of some size."""

    candidate: Candidate
    p: Any
    layout: Layout
    dtype: str
    groups: int

    @property
    def n(self) -> int:
        return self.candidate.size or cases.typical(self.p)

    def y(self, size: float, eps: float, shift: bool = True) -> tuple[Case, Array] | None:
        """A case of rows times size, as the candidate sees it, and its y; None if it raises or
        gives another shape. shift False: beta is 0."""
        rows = cases.gaps(self.n, self.groups) * size
        case = cases.build("probe", "", rows, self.layout, self.dtype, eps)
        case = case if shift else case.but(beta=np.zeros_like(case.beta))
        try:
            y = self.candidate.run(case, False).y
        except Raised:
            return None
        if y is None or y.shape != case.x.shape:
            return None
        return seen(self.candidate, case), y.astype("float64")

    def probes(self, eps: float | None, demanded: bool) -> list[tuple[Case, Array]] | None:
        """Cases in which the place and size of eps show; None if one of them is refused."""
        p, plan = self.p, [(1.0, eps or 1e-5)]
        if self.candidate.takes_eps and not demanded:  # the last: a floor
            plan += [(1.0, 0.25), (2.0**-10, 2.0**-10), (2.0**-10, 2.0**-7)]
        elif eps:
            finite = isinstance(p, (int, float)) and np.isfinite(p)
            least = 2.0**-8 if self.dtype == "float16" else 2.0**-60
            for power in sorted({1.0, 0.5, 1.0 / p if finite else 1.0}):
                plan.append((max(2.0 ** np.round(np.log2(eps**power)), least), eps))
        found = []
        for size, each in plan:
            if (one := self.y(size, each)) is None:
                return None
            found.append(one)
        return found

    def scale(self, size: float) -> tuple[Array, Array | None]:
        """phi of each row, and what the row is divided by; None if it raises.

        beta is 0, or it hides what y has of x."""
        d = cases.gaps(self.n, self.groups) * size
        d = d - d.mean(axis=1, keepdims=True)
        phi = row_statistic(d, self.p)[:, 0]
        if (one := self.y(size, 1e-5, shift=False)) is None:
            return phi, None
        case, y = one
        wide = [self.layout.wide(a.astype("float64"), y.shape) for a in (case.gamma, case.beta)]
        x_hat = self.layout.rows((y - wide[1]) / wide[0])
        with np.errstate(all="ignore"):
            return phi, (d * d).sum(axis=1) / (x_hat * d).sum(axis=1)

    def own_eps(self, place: str, constant: Any) -> Iterator[Conventions]:
        """With an eps of its own: as it was written (three digits), in float32, or as it is."""
        p = self.p
        if place == "none":
            yield Conventions(p, place, constant, 0.0)
            return
        estimate = self._estimate(place, constant)
        if 0 < estimate < 1e3:
            rounded = float(f"{estimate:.3g}")
            yield Conventions(p, place, constant, rounded)
            yield Conventions(p, place, constant, rounded, single=True)
            yield Conventions(p, place, constant, estimate)

    def _estimate(self, place: str, constant: Any) -> float:
        """eps from y on deviations so small that only eps is left of the scale, 0 where they are
        the scale at any size; nan if it fails. A module may not let beta be set, so the deviations
        are no smaller than they have to be."""
        if self.dtype == "float16":
            return float("nan")
        p, c = self.p, Conventions(self.p, place, constant).c(self.n)
        for tiny in (2.0**-40, 2.0**-52):
            phi, s = self.scale(tiny)
            if s is None:
                return float("nan")
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

    def rounds_eps(self, formula: Conventions) -> bool:
        """Was eps rounded to float32? Seen where the deviations are as small as eps."""
        eps = 1e-5 if formula.eps is None else formula.eps
        if formula.place == "none" or eps == float(np.float32(eps)):
            return False
        power = {"root": 2, "moment": formula.p}.get(formula.place, 1)
        if (one := self.y(2.0 ** np.round(np.log2(eps) / power), eps)) is None:
            return False
        case, y = one
        fits = []
        for each in (formula, replace(formula, single=True)):
            want = expected(case, each)
            limit = TIGHT * limits(case, want, each, arithmetics("float64")[-1])["y"]
            fits.append(bool(np.all(abs(y - want.y) <= limit)))
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
                off, least = abs(y - want.y), LEAST * abs(want.y)
                few, many = arithmetics(case.dtype)[0], arithmetics(case.dtype)[-1]
                for_tight = np.maximum(TIGHT * limits(case, want, formula, few)["y"], least)
                for_loose = np.maximum(LOOSE * limits(case, want, formula, many)["y"], least)
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
