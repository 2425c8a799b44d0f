"""The checks of batch norm and layer norm, one after another, each saying what it tried and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lpnorm.verify import cases, laws, running, ties
from lpnorm.verify.candidates import Candidate, CannotRun, JaxFunction
from lpnorm.verify.cases import Case, Layout
from lpnorm.verify.diagnosis import Diagnosis, diagnose, explains
from lpnorm.verify.mistakes import NO_CONSTANT
from lpnorm.verify.recognise import CONSTANTS, Recognised, recognise
from lpnorm.verify.reference import Arithmetic, arithmetics
from lpnorm.verify.report import Check, Report
from lpnorm.verify.trials import Error, Trial, call, errors, judge, overflows

DTYPES = ("float64", "float32", "float16")
RANKS = {"batch_norm": (4, 2, 3, 5), "layer_norm": (2, 3, 4)}
EPS = {"float64": 1e-5, "float32": 1e-5, "float16": 2.0**-10}


@dataclass(frozen=True)
class Settings:
    """What was asked for. eps None, constant "any": nothing, so recognise it."""

    layer: str
    p: Any
    axis: Any
    eps: float | None
    constant: Any
    dtypes: tuple[str, ...] | None  # None: those it takes
    ndim: tuple[int, ...] | None
    momentum: str | None = None  # "new" or "kept"
    running: str | None = None  # "scale", "variance" or "reciprocal"


class NormChecks:
    """A candidate under judgement: which dtypes and shapes it takes, and its conventions."""

    said: tuple[Diagnosis, ...] = ()  # the known mistakes found so far
    repeats = True  # two calls give the same
    values_wrong = False  # known, or wrong in random values: hints and laws say no more
    modified: tuple[str, ...] = ()  # inputs that were written to

    def __init__(self, candidate: Candidate, settings: Settings, report: Report) -> None:
        self.candidate, self.settings, self.report = candidate, settings, report
        self.p, self.layer = settings.p, settings.layer
        # layer norm has its groups on several axes: 6 = 3 x 2, so that none of three has length 1
        self.groups = candidate.groups or (6 if self.layer == "layer_norm" else cases.GROUPS)
        self.dtypes: list[str] = []
        self.layouts: list[Layout] = []
        self.refused: dict[str, str] = {}
        self._find_what_it_takes()
        self.dtype = self.dtypes[0]
        self.recognised: Recognised = recognise(
            candidate,
            self.p,
            self.layouts[0],
            self.dtype,
            self.groups,
            settings.eps,
            settings.constant,
        )
        self.conventions = self.recognised.conventions

    # ---- what it takes ----

    def _layout(self, ndim: int) -> Layout:
        return Layout(self.layer, ndim, self.settings.axis)

    def _find_what_it_takes(self) -> None:
        """Fill dtypes, layouts and refused by trying. Raises CannotRun if nothing works."""
        first, asked = "", self.settings.dtypes
        axes = self.settings.axis if isinstance(self.settings.axis, tuple) else ()
        for ndim in self.settings.ndim or RANKS[self.layer]:
            if ndim <= len(axes) or any(not -ndim <= a < ndim for a in axes):
                continue
            for dtype in asked or DTYPES:
                trial = self.run("random", 1.0, dtype, self._layout(ndim))
                if trial.got is not None:
                    self.layouts.append(self._layout(ndim))
                    break
                first = first or trial.raised
        if not self.layouts:
            raise CannotRun(f"it raised {first}" if first else "no shape fits axis")
        for dtype in asked or DTYPES:
            trial = self.run("random", 1.0, dtype, self.layouts[0])
            if trial.got is not None:
                self.dtypes.append(dtype)
            else:
                self.refused[dtype] = trial.raised

    def eps(self, dtype: str) -> float:
        if self.candidate.eps is not None:
            return self.candidate.eps
        return EPS[dtype] if self.settings.eps is None else self.settings.eps

    # ---- making cases and running them ----

    def n(self, wanted: int | None = None) -> int:
        return self.candidate.size or wanted or cases.typical(self.p)

    def run(
        self,
        name: str,
        scale: float,
        dtype: str,
        layout: Layout,
        n: int | None = None,
        offset: float = 0.0,
        eps: float | None = None,
        why: str = "",
    ) -> Trial:
        rows = cases.gaps(self.n(n), self.groups) * scale + offset
        eps = self.eps(dtype) if eps is None else eps
        return call(self.candidate, cases.build(name, why, rows, layout, dtype, eps))

    def value_cases(self, dtype: str) -> Iterator[Case]:
        """The cases whose values are judged against the oracle."""
        p, layout, eps = self.p, self.layouts[0], self.eps(dtype)

        def made(name: str, why: str, rows: Any, layout: Layout = layout, eps: float = eps) -> Case:
            return cases.build(name, why, rows, layout, dtype, eps)

        rows = cases.gaps(self.n(), self.groups)
        why = "random values, upstream gradient and parameters: every formula shows here"
        yield made("random values", why, rows)
        for other in self.layouts[1:]:
            spread = rows
            if self.layer == "layer_norm" and other.ndim > 3:
                spread = cases.gaps(self.n(), 3 * 2 ** (other.ndim - 2))
            yield made(f"random values, {other.ndim} axes", why, spread, other)
        if dtype != "float16":
            why = "a mean as large as the deviations: x in the place of d shows"
            yield made("shifted values", why, rows + 0.5)
        if self.candidate.takes_eps and self.settings.eps is None:
            why = "eps = 0.25: in the right place, and the same one in the backward?"
            yield made("large eps", why, rows, eps=0.25)
        yield made(
            "offset",
            "a mean far above the deviations: a variance as E[x^2] - E[x]^2 loses all digits",
            rows + (8.0 if dtype == "float16" else 1000.0),
        )
        large, small = self._magnitudes(dtype)
        yield made(
            "large magnitude",
            "large values that the plain formula can still hold: nothing may overflow",
            rows * large,
        )
        yield made(
            "small magnitude",
            "deviations as small as eps: eps decides, also in the gradient",
            rows * small,
        )
        cheap = dtype == self.dtype or not isinstance(self.candidate, JaxFunction)
        if self.candidate.size is None and cheap:
            for n in (2, 3, 5):
                if n >= cases.least(p):
                    why = "tiny groups: n and n - 1 differ most, and ties are certain"
                    yield made(f"tiny groups, n = {n}", why, cases.gaps(n, self.groups))
        if self.candidate.affine and dtype == self.dtype:
            why = "gamma of 0 and of both signs: a backward that divides by gamma shows"
            case = made("gamma with zeros", why, rows)
            gamma = case.gamma.copy()
            gamma.reshape(-1)[::2] = 0
            yield varied(case, gamma=gamma)
        if self.candidate.size is None and dtype == self.dtype and cheap:
            why = "10,007 values a group (a prime): wrong counts, and values left out, show"
            rng = np.random.default_rng(77)
            yield made("10,007 values", why, cases.half(rng.standard_normal((self.groups, 10_007))))
        if dtype != "float64" and self.candidate.size is None:
            why = "4,096 values a group: how are sums accumulated?"
            rng = np.random.default_rng(4096)
            yield made("many values", why, cases.half(rng.standard_normal((self.groups, 4096))))
        if self.conventions.place != "none":
            n = self.n()
            level = np.resize([1.5, 0.0, -3.0], self.groups)[:, None]
            why = "a constant channel: y must be beta, and no gradient may be NaN"
            constant = np.broadcast_to(level, (self.groups, n)).copy()
            yield made("constant channels", why, constant)
            if self.groups > 1:
                constant[0] = cases.gaps(n, 1)[0]
                yield made("one channel of many varies", why, constant)
        one = cases.least(p) == 1 and self.candidate.size is None and dtype == self.dtype
        if one and self.conventions.place != "none":
            why = "one value a group: d = 0, so y = beta and dx = 0"
            yield made("n = 1", why, np.array([[1.0], [-2.0], [0.5]])[np.arange(self.groups) % 3])

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

    # ---- the checks ----

    def checks(self) -> Iterator[Check]:
        """Every check, cheapest and most telling first."""
        yield from self._asked_for()
        yield from laws.same_bits(self)
        for dtype in self.dtypes:
            yield from self.values(dtype)
        yield from ties.checks(self)
        yield from laws.checks(self)
        yield from running.checks(self)

    def _asked_for(self) -> Iterator[Check]:
        why = "what was asked for by name must be there"
        for dtype, raised in self.refused.items():
            if self.settings.dtypes is not None:
                yield Check(f"takes {dtype}", "failed", why, f"it raised {raised}")
            else:
                self.report.notes.append(f"it does not take {dtype} ({raised})")
        takes = sorted(layout.ndim for layout in self.layouts)
        if len(takes) < len(RANKS[self.layer]) and self.settings.ndim is None:
            words = " or ".join(map(str, takes))
            self.report.notes.append(f"it takes arrays of {words} axes")
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
            yield Check("eps", "failed", "eps must be the one asked for", words, words)
        if self.recognised.other_constant:
            why = "the constant must be the one asked for"
            constant, wanted = self.conventions.constant, self.settings.constant
            compare = ""
            if isinstance(constant, float):
                named = self.settings.constant
                named = "paper" if named == "any" else named
                right = replace(self.conventions, constant=named).c(self.n())
                words = f"the constant is {constant:.8g}, {right:.8g} is right"
            else:
                words = f"{CONSTANTS[constant]} is used; {CONSTANTS[wanted]} was asked for"
            if constant is None:
                words, compare = NO_CONSTANT.diagnosis, NO_CONSTANT.compare
            yield Check("constant", "failed", why, words, words, compare)
        self.report.conventions += self.recognised.said

    def values(self, dtype: str) -> Iterator[Check]:
        """y and the gradients of every value case in one dtype, against the oracle."""
        trials = [call(self.candidate, case) for case in self.value_cases(dtype)]
        for trial in trials:
            if trial.got is not None:
                judge(trial, self.conventions)
        arithmetic, found = self.best_arithmetic(dtype, trials)
        self._say_arithmetic(dtype, arithmetic, trials)
        if arithmetic.accumulate == "float16":
            yield from self._sums_in_float16()
        said = self._diagnoses(trials, found)
        for trial in trials:
            name, why = f"{trial.case.name}, {dtype}", trial.case.why
            if trial.got is None:
                yield self._raised(trial, name)
                continue
            if trial.modified and trial.modified not in self.modified:
                self.modified += (trial.modified,)
                manners = "a caller's arrays must stay as they were"
                words = f"{trial.modified} is modified: a caller's array must stay as it was"
                yield Check(f"inputs unmodified, {name}", "failed", manners, words, words)
            if trial.reshaped and trial.case.name == "random values":
                manners = "a gradient must have its parameter's shape, or an optimizer spreads it"
                words = f"it gives {trial.reshaped} for a parameter of {trial.case.gamma.shape}"
                yield Check("shapes of the gradients", "limited", manners, words, words)
            worst = found[id(trial)]
            if not _fails(worst):
                top = max(worst, key=lambda e: e.fraction)
                yield Check(name, "passed", why, str(top))
                continue
            if self._undefined_constant(trial):
                continue
            detail = "; ".join(str(e) for e in worst if not e.fraction <= 1)
            one = said.get(id(trial))
            if one is None and not self.values_wrong and self._cancels(trial, worst):
                yield Check(name, "limited", why, detail, ONE_PASS)
                continue
            hint = "" if one or self.values_wrong else _hint(trial.case.name)
            one = one or Diagnosis(hint)
            yield Check(name, "failed", why, detail, one.words, one.compare, general=bool(hint))

    def _diagnoses(
        self, trials: list[Trial], found: dict[int, list[Error]]
    ) -> dict[int, Diagnosis]:
        """What is wrong in each failing trial: one diagnosis for as many as possible.

        First what was found in another dtype, then one for all the telling trials, then one for
        those that these do not explain.
        """
        left = [t for t in trials if id(t) in found and _fails(found[id(t)])]
        said: dict[int, Diagnosis] = {}
        shapes = [t for t in left if any(e.shape for e in found[id(t)])]
        for trial in shapes:
            words = "; ".join(e.shape for e in found[id(trial)] if e.shape)
            said[id(trial)] = Diagnosis(words)
        left = [t for t in left if t not in shapes]
        if not self.repeats:  # other numbers at every call: there is nothing to compare
            return said
        for search in range(3):
            if not left or (search and not any(_usual(t) for t in left)):
                break  # what a found mistake leaves over in odd cases follows from it
            one = None if search else self._known(left, found)
            telling = _telling(left)
            one = one or self.diagnosis(telling, found)
            if one is None and search == 0 and len(telling) > 1:
                telling = telling[:1]
                one = self.diagnosis(telling, found)
            if one is None:
                self.values_wrong |= any(t.case.name == "random values" for t in left)
                break
            if one.known and one not in self.said:
                self.said = (*self.said, one)
            for trial in list(left):
                if trial in telling or explains(one, trial, _wrong(found[id(trial)])):
                    said[id(trial)] = one
                    left.remove(trial)
        self.values_wrong |= bool(said)
        return said

    def _known(self, left: list[Trial], found: dict[int, list[Error]]) -> Diagnosis | None:
        """A diagnosis of another dtype that explains the telling trials here too."""
        for one in self.said:
            if all(explains(one, t, _wrong(found[id(t)])) for t in _telling(left)):
                return one
        return None

    def diagnosis(
        self, trials: list[Trial], found: dict[int, list[Error]], closely: float = 1.0
    ) -> Diagnosis | None:
        once = list(dict.fromkeys(name for t in trials for name in _wrong(found[id(t)])))
        fits = self.recognised.fits and self.recognised.tightly
        return diagnose(trials, self.layer, self.conventions, fits, once, closely)

    def errors(self, trial: Trial, arithmetic: Arithmetic) -> list[Error]:
        return errors(trial, self.conventions, arithmetic, self.settings.eps is not None)

    def best_arithmetic(
        self, dtype: str, trials: list[Trial]
    ) -> tuple[Arithmetic, dict[int, list[Error]]]:
        """The most exact arithmetic that explains most trials, and the errors under it."""
        best: tuple[int, Arithmetic, dict[int, list[Error]]] | None = None
        ran = [t for t in trials if t.got is not None]
        for arithmetic in arithmetics(dtype):
            found = {id(t): self.errors(t, arithmetic) for t in ran}
            count = sum(_fails(each) for each in found.values())
            if best is None or count < best[0]:
                best = (count, arithmetic, found)
            if count == 0:
                break
        assert best is not None
        if best[1].accumulate == dtype and dtype == "float16":
            # float16 sums explain much. A candidate that equals a known mistake far more closely
            # than such sums could make it is that mistake.
            usual = arithmetics(dtype)[0]
            found = {id(t): self.errors(t, usual) for t in ran}
            telling = _telling([t for t in ran if _fails(found[id(t)])])
            known = (all(explains(d, t, closely=0.1) for t in telling) for d in self.said)
            if any(known) or self.diagnosis(telling, found, closely=0.1):
                return usual, found
        return best[1], best[2]

    def _say_arithmetic(self, dtype: str, arithmetic: Arithmetic, trials: list[Trial]) -> None:
        if arithmetic.accumulate == "float16":
            self.report.conventions.append("statistics and sums are kept in float16")
        if arithmetic.folded:
            self.report.notes.append(
                f"in {dtype} y is computed as a x + b, which loses digits where the mean is large"
            )
        lost = [name for t in trials if t.want is not None for name in self._lost(t)]
        if lost:
            names = " and ".join(name for name in ("y", "dx", "dgamma") if name in lost)
            self.report.notes.append(
                f"in {dtype} {names} is NaN or infinite where the scale is very small "
                "(1 / s^2 does not fit): take a larger eps there"
            )
        for trial in trials[:1]:
            y = getattr(trial.got, "y", None)
            if y is not None and str(y.dtype) != dtype:
                self.report.notes.append(f"{dtype} in, {y.dtype} out")

    def _sums_in_float16(self) -> Iterator[Check]:
        """Where do sums overflow that are kept in float16?"""
        if not self.layouts:  # files of results: it cannot be called
            return
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
        for name, where in overflows(trial, self.conventions).items():
            got = getattr(trial.got, name)
            if name == "y" and self.settings.eps is not None:
                continue
            if got is not None and got.shape == where.shape and not np.all(np.isfinite(got[where])):
                yield name

    def _cancels(self, trial: Trial, found: list[Error]) -> bool:
        """Is it right but for what E[x^2] - E[x]^2 loses?

        With r = mean / deviation, E[x^2] = (1 + r^2) var and E[x]^2 = r^2 var. A mean of squares
        has the relative error of the mean of squares that the bound allows for, so the difference
        has (1 + 2 r^2) times the error of the variance, at most; less than twice (1 + r^2). Half of
        it goes into the scale, as half of the variance's does. From r = 4 on, where that is much.
        """
        if self.p != 2:
            return False
        rows = trial.case.layout.rows(trial.case.x.astype("float64"))
        if not np.all(rows.std(axis=1)):
            return False
        r = abs(rows.mean(axis=1)) / rows.std(axis=1)
        more = 2 * (1 + float(r.max()) ** 2)
        return r.max() > 4 and all(e.fraction <= more for e in found)

    def _undefined_constant(self, trial: Trial) -> bool:
        """n = 1: the paper's constants divide by ln 1 = 0; NaN there is a convention."""
        if not (trial.case.name == "n = 1" and cases.is_order_statistic(self.p)):
            return False
        words = "n = 1: C is not defined there (ln 1 = 0) and the result is NaN"
        if self.conventions.constant in ("paper", "exact", "later") and np.all(
            np.isnan(getattr(trial.got, "y", np.zeros(1)))
        ):
            if words not in self.report.conventions:
                self.report.conventions.append(words)
            return True
        return False

    def _raised(self, trial: Trial, name: str) -> Check:
        words = f"it raised {trial.raised}"
        if trial.case.name == "n = 1":
            alone = call(self.candidate, trial.case, backward=False)
            if alone.got is None:
                self.report.notes.append(f"it refuses n = 1 ({trial.raised})")
                return Check(name, "skipped", trial.case.why, "it refuses n = 1")
            if self.candidate.pair:
                words = f"its forward takes n = 1, but its backward raised {trial.raised}"
        return Check(name, "failed", trial.case.why, words, words, general=self.values_wrong)


def _fails(found: list[Error]) -> bool:
    return any(not e.fraction <= 1 for e in found)


def _wrong(found: list[Error]) -> list[str]:
    return [e.name for e in found if not e.fraction <= 1]


ONE_PASS = (
    "digits are lost as in a variance computed as E[x^2] - E[x]^2: where the mean is r times the "
    "deviation about r^2 u / 2 of y, a thousandth from r = 180 on in float32 (u = 6e-8) and from "
    "4 million on in float64"
)
USUAL = (
    "random values",
    "shifted values",
    "large eps",
    "small magnitude",
    "tiny groups, n = 3",
    "tiny groups, n = 5",
)


def _usual(trial: Trial) -> bool:
    return trial.case.name in USUAL


def _telling(failing: list[Trial]) -> list[Trial]:
    """Of the failing trials those that tell mistakes apart (n = 2 does not: n - 1 = 1)."""
    axes = [t for t in failing if t.case.name.startswith("random values, ")]
    return [t for t in failing if _usual(t)] or axes or failing[:1]


HINTS = {
    "random values, ": "wrong only in some arrays of more or fewer axes: look at the axes that are "
    "reduced, and at what counts the values",
    "offset": "wrong only where the mean is far above the deviations: digits cancel, as in a "
    "variance computed as E[x^2] - E[x]^2",
    "large": "wrong only for large values: something overflows, or is clipped",
    "small": "wrong only where the deviations are as small as eps: look at the place of eps in the "
    "gradient, at underflow, and for clipping",
    "tiny": "wrong only in tiny groups: ties are certain there, and a count may be off by one",
    "10,007": "wrong only in large groups: a count, or values that are left out",
    "gamma": "wrong only where gamma is 0: something is divided by gamma",
    "many": "wrong only in large groups: sums lose digits, or the count does",
    "constant": "wrong only where all values of a group are equal: look for a division by 0",
    "one channel": "wrong only where one group varies and others are constant: the groups mix, or "
    "something is divided by 0",
    "n = 1": "wrong only for groups of one value",
}


def _hint(name: str) -> str:
    return next((words for start, words in HINTS.items() if name.startswith(start)), "")


def varied(case: Case, **arrays: Any) -> Case:
    """The case with other arrays."""
    return replace(case, **arrays)
