"""The checks of weight norm and bounded weight norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lpnorm.verify import chosen, kinks
from lpnorm.verify.candidates.common import Candidate, Raised
from lpnorm.verify.cases import Case, Outcome, half
from lpnorm.verify.reference import Conventions
from lpnorm.verify.report import Check, Report
from lpnorm.verify.takes import DTYPES
from lpnorm.verify.trials import Trial, call, follows
from lpnorm.verify.values import Values
from lpnorm.verify.weights import weight_cases

Array = np.ndarray


class WeightChecks(Values):
    """Every check of a weight norm. dtypes: those it must take; None: those it takes."""

    def __init__(
        self,
        candidate: Candidate,
        layer: str,
        p: Any,
        dtypes: Sequence[str] | None,
        report: Report,
    ) -> None:
        super().__init__(Conventions(p, "none"), report)
        self.candidate, self.layer, self.p, self.dtypes = candidate, layer, p, dtypes
        self.rules: set[str] = set()

    def checks(self) -> Iterator[Check]:
        """Raises CannotRun where it does not take a case at all."""
        if another := getattr(self.candidate, "another", ""):
            why = "the channels must be those that were asked for"
            yield Check("axis", "failed", why, another, another)
            return
        for dtype in self.dtypes or DTYPES:
            cases = self._cases(dtype)
            trial = call(self.candidate, cases[0])
            if trial.got is None:
                if self.dtypes is not None or dtype == DTYPES[0]:
                    raise Raised(trial.raised)
                self.report.notes.append(f"it does not take {dtype}: {trial.raised}")
                continue
            trials = [trial, *(call(self.candidate, case) for case in cases[1:])]
            yield from self.values(trials)
            yield from weight_kinks(self, trials)
        self.report.conventions += kinks.said_of(self.rules)
        yield from self._laws(self._cases((self.dtypes or DTYPES)[0])[0])

    def follows(self, trial: Trial) -> set[str]:
        return follows(self.candidate, trial)

    def _cases(self, dtype: str) -> list[Case]:
        planned = list(weight_cases(self.layer, self.p, dtype))
        if self.candidate.shape is not None:
            planned = [self._own_shape(c) for c in planned if "telling" in c.flags]
        if dtype != "float16" or self.dtypes is not None:  # asked for, it must not square
            planned += self._extreme(planned[0])
        return planned

    def _own_shape(self, case: Case) -> Case:
        """The case with a module's own weight shape."""
        shape = self.candidate.shape or ()
        rng = np.random.default_rng(7)
        arrays = {"v": half(rng.standard_normal(shape)), "dw": half(rng.standard_normal(shape))}
        if "g" in case.arrays:
            arrays["g"] = half(rng.uniform(0.5, 2, shape[0]))
        arrays = {name: a.astype(case.dtype) for name, a in arrays.items()}
        return replace(case, arrays=arrays)

    def _extreme(self, case: Case) -> Iterator[Case]:
        """Weights whose squares float16 cannot hold."""
        for name, factor in (("squares that vanish", 2.0**-10), ("squares that overflow", 2.0**8)):
            v = (case.arrays["v"].astype("float64") * factor).astype(case.dtype)
            why = f"weights times {factor:g}: the norm must not square them unscaled in float16"
            yield replace(case, name=name, why=why, flags=frozenset()).but(v=v)

    def _laws(self, case: Case) -> Iterator[Check]:
        first = call(self.candidate, case).got
        if first is None or first.w.shape != case.arrays["v"].shape:
            return
        u, n = float(np.finfo(case.dtype).eps), case.n
        bound = chosen.WEIGHT_LAWS * (n + chosen.WEIGHT_ROUNDINGS) * u
        v = case.arrays["v"]
        if first.dv is not None and first.dv.shape == v.shape:
            dv, rows = (a.reshape(len(a), -1).astype("float64") for a in (first.dv, v))
            off = float((abs((dv * rows).sum(axis=1)) / (abs(dv) * abs(rows)).sum(axis=1)).max())
            why = "w does not change when v is scaled, so the gradient is orthogonal to v"
            yield _law("<dv, v>", why, off, bound, "dv is not orthogonal to v")
        why = "w depends on the direction of v alone: twice v gives the same w"
        twice = call(self.candidate, case.but(v=2 * v), backward=False).got
        if twice is not None:
            off = float(abs(twice.w.astype("float64") - first.w).max() / abs(first.w).max())
            words = "w changes with the size of v"
            yield _law("scale invariance", why, off, bound, words)
        why = "a weight vector of zeros has no direction: an error, or 0, but no NaN that spreads"
        zeros = v.copy()
        zeros[0] = 0
        trial = call(self.candidate, case.but(v=zeros), backward=False)
        if trial.got is None:
            yield Check("zero vector", "skipped", why, f"it refuses it ({trial.raised})")
        elif not np.all(np.isfinite(trial.got.w)):
            words = "a weight vector of zeros gives NaN"
            yield Check("zero vector", "limited", why, words, words)
        again = call(self.candidate, case).got or Outcome()
        same = all(np.array_equal(first[k], again[k], equal_nan=True) for k in first if k in again)
        why = "the same input must give the same bits"
        words = "two calls with the same arrays give different values"
        yield Check("same bits twice", "passed" if same else "failed", why, "" if same else words)


def weight_kinks(of: Any, trials: Sequence[Trial], name_of: Any = None) -> Iterator[Check]:
    """dv at ties and zeros; the rules that it follows are added to of.rules."""
    for trial in trials:
        if "ties" in trial.case.flags and trial.got is not None and trial.got.dv is not None:
            name = name_of(trial.case) if name_of else f"{trial.case.name}, {trial.case.dtype}"
            check, rules = kinks.weight_membership(trial.case, trial.got, f"{name}, membership")
            of.rules |= rules
            yield check


def _law(name: str, why: str, off: float, bound: float, words: str) -> Check:
    detail = f"off by {off:.2g}, {off / bound:.2g} of its bound"
    if off <= bound:
        return Check(name, "passed", why, detail)
    return Check(name, "failed", why, detail, words, general=True)
