"""The checks of batch norm and layer norm, one after another, each saying what it tried and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lpnorm.verify import cases, kinks, laws, manners, running
from lpnorm.verify.candidates.models import LayerCandidate
from lpnorm.verify.cases import Case, Layout
from lpnorm.verify.mistakes import NO_CONSTANT
from lpnorm.verify.recognise import CONSTANTS, WORDS
from lpnorm.verify.reference import Arithmetic, default_place, overflows
from lpnorm.verify.report import Check
from lpnorm.verify.takes import RANKS, Subject
from lpnorm.verify.trials import Trial, call, judge


class NormChecks(Subject):
    """Every check of a normalizer."""

    def checks(self) -> Iterator[Check]:
        """Cheapest and most telling first."""
        yield from self._asked_for()
        yield from manners.same_bits(self)
        for dtype in self.dtypes:
            yield from self.values([call(self.candidate, c) for c in self.value_cases(dtype)])
        if self.misshapen:
            return
        yield from self._far_out()
        yield from kinks.checks(self)
        yield from laws.checks(self)
        yield from manners.checks(self)
        yield from running.checks(self)

    def value_cases(self, dtype: str) -> Iterator[Case]:
        """The cases whose values are judged against the oracle."""
        p, first, eps = self.p, self.layouts[0], self.eps(dtype)

        def made(
            name: str, flags: str, why: str, rows: Any, layout: Layout = first, eps: float = eps
        ) -> Case:
            return cases.build(name, why, rows, layout, dtype, eps, flags=flags)

        free, rows = self.candidate.size is None, cases.gaps(self.n(), self.groups)
        why = "random values, upstream gradient and parameters: every formula shows here"
        yield made("random values", "telling", why, rows)
        for other in self.layouts[1:]:
            spread = rows
            if self.layer == "layer_norm" and other.ndim > 3:
                spread = cases.gaps(self.n(), 3 * 2 ** (other.ndim - 2))
            yield made(f"random values, {other.ndim} axes", "axes", why, spread, other)
        if dtype != "float16":
            why = "a mean as large as the deviations: x in the place of d shows"
            yield made("shifted values", "telling", why, rows + 0.5)
        if self.candidate.takes_eps and self.settings.eps is None:
            why = "eps = 0.25: in the right place, and the same one in the backward?"
            yield made("large eps", "telling", why, rows, eps=0.25)
        why = "a mean far above the deviations: a variance as E[x^2] - E[x]^2 loses all digits"
        far = 8.0 if dtype == "float16" else 1000.0
        yield made("offset", "offset", why, rows + far)
        large, small = self._magnitudes(dtype)
        why = "large values that the plain formula can still hold: nothing may overflow"
        yield made("large magnitude", "large", why, rows * large)
        why = "deviations as small as eps: eps decides, also in the gradient"
        yield made("small magnitude", "tiny telling", why, rows * small)
        cheap = dtype == self.dtype or not self.candidate.traced
        for n in (2, 3, 5) if free and cheap else ():
            if n >= cases.least(p):
                why = "tiny groups: n and n - 1 differ most, and ties are certain"
                flags = "small-n" + (" telling" if n > 2 else "")
                yield made(f"tiny groups, n = {n}", flags, why, cases.gaps(n, self.groups))
        if self.candidate.affine and dtype == self.dtype:
            why = "gamma of 0 and of both signs: a backward that divides by gamma shows"
            case = made("gamma with zeros", "gamma", why, rows)
            gamma = case.gamma.copy()
            gamma.reshape(-1)[::2] = 0
            yield case.but(gamma=gamma)
        if free and dtype == self.dtype and cheap:
            why = "10,007 values a group (a prime): wrong counts, and values left out, show"
            rng = np.random.default_rng(77)
            many = cases.half(rng.standard_normal((self.groups, 10_007)))
            yield made("10,007 values", "prime", why, many)
        if dtype != "float64" and free:
            why = "4,096 values a group: how are sums accumulated?"
            rng = np.random.default_rng(4096)
            many = cases.half(rng.standard_normal((self.groups, 4096)))
            yield made("many values", "many", why, many)
        if self.conventions.place != "none":
            n, level = self.n(), np.resize([1.5, 0.0, -3.0], self.groups)[:, None]
            why = "a constant channel: y must be beta, and no gradient may be NaN"
            constant = np.broadcast_to(level, (self.groups, n)).copy()
            yield made("constant channels", "constant-channel", why, constant)
            if self.groups > 1:
                constant[0] = cases.gaps(n, 1)[0]
                yield made("one channel of many varies", "mixed", why, constant)
        if (
            cases.least(p) == 1
            and free
            and dtype == self.dtype
            and self.conventions.place != "none"
        ):
            why = "one value a group: d = 0, so y = beta and dx = 0"
            one = np.array([[1.0], [-2.0], [0.5]])[np.arange(self.groups) % 3]
            yield made("n = 1", "n=1", why, one)

    def _magnitudes(self, dtype: str) -> tuple[float, float]:
        """Powers of two: as large as |d|^p still fits, and as small as eps."""
        p, largest = self.p, float(np.finfo(dtype).max)
        power = p if isinstance(p, (int, float)) and math.isfinite(p) else 1
        n = self.n()
        large = 2.0 ** math.floor(math.log2((largest / (8 * n)) ** (1 / power) / 4))
        large = min(large, 2.0**40)
        eps, place = self.conventions.eps or self.eps(dtype), self.conventions.place
        root = {"root": 2, "moment": power}.get(place, 1)
        small = 2.0 ** round(math.log2(eps) / root) if eps else 2.0**-10
        return max(large, 1.0), max(small, 2.0**-8 if dtype == "float16" else 2.0**-60)

    def _asked_for(self) -> Iterator[Check]:
        why = "what was asked for by name must be there"
        for what, raised in self.refused.items():
            if isinstance(what, int) and self.settings.ndim is not None:
                yield Check(f"takes {what} axes", "failed", why, f"it raised {raised}")
            elif isinstance(what, str) and self.settings.dtypes is not None:
                yield Check(f"takes {what}", "failed", why, f"it raised {raised}")
            elif isinstance(what, str):
                self.report.notes.append(f"it does not take {what} ({raised})")
        if self.single:
            why = "float64 is asked for its digits"
            words = "it computes in float32 inside: float64 has 7 digits, and was not tried further"
            yield Check("digits of float64", "limited", why, words, words)
        if isinstance(self.candidate, LayerCandidate):  # such a one is often made for some
            takes = sorted(layout.ndim for layout in self.layouts)
            if len(takes) < len(RANKS[self.layer]) and self.settings.ndim is None:
                words = " or ".join(map(str, takes))
                self.report.notes.append(f"it takes arrays of {words} axes")
        elif self.settings.ndim is None:
            yield from self.ranks_refused()
        used, asked = self.recognised.eps_used, self.settings.eps
        if used is not None:
            own = self.candidate.eps
            if asked is None and own is not None:
                source = f"its attribute eps says {own:g}"
            elif asked is not None:
                source = f"eps = {asked:g} was asked for"
            else:
                source = "the argument eps is ignored"
            words = f"{source}, but y is computed with eps = {used:g}"
            if self.conventions.place == "none":
                words = f"{source}, but y is computed without any eps"
            elif self.conventions.place != default_place(self.p):
                words += f": {WORDS[self.conventions.place]}"
            why = "eps must be the one asked for"
            yield Check("eps", "failed", why, words, words, forward=True)
        if self.recognised.other_constant:
            why = "the constant must be the one asked for"
            constant, wanted = self.conventions.constant, self.settings.constant
            compare = ""
            if isinstance(constant, float):
                named = "paper" if wanted == "any" else wanted
                right = replace(self.conventions, constant=named).c(self.n())
                words = f"the constant is {constant:.8g}, {right:.8g} is right"
            else:
                words = f"{CONSTANTS[constant]} is used; {CONSTANTS[wanted]} was asked for"
            if constant is None:
                words, compare = NO_CONSTANT.diagnosis, NO_CONSTANT.compare
            yield Check("constant", "failed", why, words, words, compare, forward=True)
        self.report.conventions += self.recognised.said

    # ---- what is said of a dtype ----

    def about(self, dtype: str, arithmetic: Arithmetic, trials: Sequence[Trial]) -> Iterator[Check]:
        yield from super().about(dtype, arithmetic, trials)
        if arithmetic.folded:
            self.report.notes.append(
                f"in {dtype} y loses digits where the mean is large: the mean is rounded to it, "
                "or y is computed as a x + b"
            )
        lost = [name for t in trials if t.want is not None for name in self._lost(t)]
        if lost:
            names = " and ".join(name for name in ("y", "dx", "dgamma") if name in lost)
            self.report.notes.append(
                f"in {dtype} {names} is NaN or infinite where the scale is very small "
                "(1 / s^2 does not fit): take a larger eps there"
            )
        for trial in trials[:1]:
            y = trial.got and trial.got.get("y")
            if y is not None and str(y.dtype) != dtype:
                self.report.notes.append(f"{dtype} in, {y.dtype} out")
        if arithmetic.accumulate == "float16":
            yield from self._sums_in_float16()

    def _sums_in_float16(self) -> Iterator[Check]:
        """Where do sums overflow that are kept in float16?"""
        why = "float16 ends at 65,504: a sum is beyond that long before its values are"
        size = self.groups, self.candidate.size or 4096
        rows = 100 + 16 * cases.half(np.random.default_rng(100).standard_normal(size))
        layout, eps = self.layouts[0], self.eps("float16")
        case = cases.build("sums in float16", why, rows, layout, "float16", eps)
        trial = call(self.candidate, case, backward=False)
        if trial.got is None or trial.got.y.shape != case.x.shape:
            return
        judge(trial, self.conventions)
        got, want = trial.values("y")
        if not np.median(abs(got - want)) <= 0.1:  # y is about 1; float16 sums lose 0.01 of it
            what = f"{size[1]:,} values near 100 (deviation 16)"
            lost = "beta" if np.all(np.isfinite(got)) else "NaN"
            words = f"sums are kept in float16 and overflow: {what} give {lost}"
            yield Check("sums in float16", "limited", why, words, words)

    def _lost(self, trial: Trial) -> Iterator[str]:
        """The outputs that are not finite where they are excused: see `overflows`."""
        for name, where in overflows(trial.case, self.conventions).items():
            got: Any = trial.got and trial.got.get(name)
            if name == "y" and self.settings.eps is not None:
                continue
            if got is not None and got.shape == where.shape and not np.all(np.isfinite(got[where])):
                yield name

    def _far_out(self) -> Iterator[Check]:
        """Where right formulas end: constant groups, squares of large values, inexact means."""
        if self.values_wrong:
            return
        n = self.n()
        if self.conventions.place == "none":
            level = np.broadcast_to(
                np.resize([1.5, 0.0, -3.0], self.groups)[:, None], (self.groups, n)
            )
            why = "a constant channel has no scale but eps"
            y = self._y("no eps", why, level, self.dtype)
            if y is not None and not np.all(np.isfinite(y)):
                words = "there is no eps: a constant channel gives NaN"
                yield Check("constant channels", "limited", why, words, words)
        if "float16" in self.dtypes and self.candidate.takes_eps and self.settings.eps is None:
            why = "float16 ends at 6e-8: an eps of 1e-8 vanishes in it"
            case = cases.build(
                "eps that vanishes",
                why,
                np.ones((self.groups, n)),
                self.layouts[0],
                "float16",
                1e-8,
            )
            trial = call(self.candidate, case, backward=False)
            if trial.got is not None and not np.all(np.isfinite(trial.got.y)):
                self.report.notes.append(
                    "in float16 an eps below 6e-8 vanishes: a constant channel gives NaN then"
                )
        if "float32" not in self.dtypes:
            return
        rows = cases.gaps(n, self.groups)
        why = (
            "float32 ends at 3e38: the squares of values of 1e20 are beyond it, their scale is not"
        )
        y = self._y("squares that overflow", why, rows * 2.0**67, "float32")
        usual = self._y("squares that overflow", why, rows * 2.0**30, "float32")
        if y is not None and usual is not None and not np.max(abs(y - usual)) <= 1e-2:
            what = "NaN" if np.any(np.isnan(y)) else "beta"
            self.report.notes.append(
                f"values of 1e20 give {what} in float32: their squares (powers) are beyond it"
            )
        why = "the mean of equal values may be inexact: then d is not 0, and larger than eps"
        level = np.full((self.groups, n), 1e7 / 3)
        y = self._y("constant, no binary fraction", why, level, "float32")
        if y is not None and (worst := float(np.max(abs(y)))) > 0.01:
            self.report.notes.append(
                f"a constant channel of 1e7 / 3 gives x_hat = {worst:.2g} in float32, where 0 is "
                "right: its mean is inexact, and eps far smaller than the error"
            )

    def _y(self, name: str, why: str, rows: Any, dtype: str) -> Any:
        """x_hat of such values, in rows; None where it raises."""
        case = cases.build(name, why, rows, self.layouts[0], dtype, self.eps(dtype))
        trial = call(self.candidate, case, backward=False)
        if trial.got is None or trial.got.y.shape != case.x.shape:
            return None
        of = trial.case
        wide = [of.layout.wide(a.astype("float64"), of.x.shape) for a in (of.gamma, of.beta)]
        with np.errstate(all="ignore"):
            return of.layout.rows((trial.got.y.astype("float64") - wide[1]) / wide[0])

    # ---- one value a group ----

    def undefined(self, trial: Trial) -> bool:
        """n = 1: the paper's constants divide by ln 1 = 0; NaN there is a convention."""
        return undefined_constant(self, trial)

    def raised(self, trial: Trial, name: str) -> Check:
        words = f"it raised {trial.raised}"
        if "n=1" in trial.case.flags:
            alone = call(self.candidate, trial.case, backward=False)
            if alone.got is None:
                self.report.notes.append(f"it refuses n = 1 ({trial.raised})")
                return Check(name, "skipped", trial.case.why, "it refuses n = 1")
            if self.candidate.pair:
                words = f"its forward takes n = 1, but its backward raised {trial.raised}"
        return Check(name, "failed", trial.case.why, words, words, general=self.values_wrong)


def undefined_constant(of: Any, trial: Trial) -> bool:
    """Is it n = 1 with a constant that has no value there? Then NaN is a convention."""
    y = trial.got and trial.got.get("y")
    ordered = cases.is_order_statistic(of.conventions.p)
    if not ("n=1" in trial.case.flags and ordered and y is not None):
        return False
    words = "n = 1: C is not defined there (ln 1 = 0) and the result is NaN"
    if of.conventions.constant in ("paper", "exact", "later") and np.all(np.isnan(y)):
        if words not in of.report.conventions:
            of.report.conventions.append(words)
        return True
    return False
