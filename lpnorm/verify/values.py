"""The values of the cases of one dtype, against the oracle: which arithmetic, what is wrong.

What is wrong is looked for in the widest dtype that fails, where bounds are narrow: in another one
a failure is explained by what was found there, or is one of that dtype (digits, or range).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lpnorm.verify.cases import Case
from lpnorm.verify.diagnosis import diagnose, explains
from lpnorm.verify.reference import Arithmetic, Conventions, arithmetics, scale
from lpnorm.verify.report import Check, Diagnosis, Report
from lpnorm.verify.trials import Error, Trial, errors, judge

Found = dict[int, list[Error]]  # by id of the trial
HINTS = {  # by flag: what it means if such cases alone are wrong
    "axes": "wrong only in some arrays of more or fewer axes: look at the axes that are reduced, "
    "and at what counts the values",
    "offset": "wrong only where the mean is far above the deviations: digits cancel, as in a "
    "variance computed as E[x^2] - E[x]^2",
    "large": "wrong only for large values: something overflows, or is clipped",
    "tiny": "wrong only where the deviations are as small as eps: look at the place of eps in the "
    "gradient, at underflow, and for clipping",
    "small-n": "wrong only in tiny groups: ties are certain there, and a count may be off by one",
    "prime": "wrong only in large groups: a count, or values that are left out",
    "gamma": "wrong only where gamma is 0: something is divided by gamma",
    "many": "wrong only in large groups: sums lose digits, or the count does",
    "mixed": "wrong only where one group varies and others are constant: the groups mix, or "
    "something is divided by 0",
    "constant-channel": "wrong only where all values of a group are equal: look for a division by "
    "0, or an eps too small for this dtype",
    "n=1": "wrong only for groups of one value",
}
ONE_PASS = (
    "digits are lost as in a variance computed as E[x^2] - E[x]^2: where the mean is r times the "
    "deviation about r^2 u / 2 of y, a thousandth from r = 180 on in float32 (u = 6e-8) and from "
    "4 million on in float64"
)


class Values:
    """The value checks of a candidate, dtype after dtype, the widest first.

    tightly: whether y is right under the conventions, within the bounds of exact sums. said: the
    known mistakes found so far. wrong: values are, so hints and laws say no more.
    """

    def __init__(self, conventions: Conventions, report: Report, tightly: bool = True) -> None:
        self.conventions, self.report, self.tightly = conventions, report, tightly
        self.said: tuple[Diagnosis, ...] = ()
        self.repeats = True  # two calls give the same
        self.values_wrong = False
        self.misshapen = False  # an output has another shape than it must: laws cannot be asked
        self.modified: tuple[str, ...] = ()  # inputs that were written to
        self.eps_asked = False
        self.passed: set[str] = set()  # names of cases that are right in the widest dtype
        self.right: list[Trial] = []  # telling trials that are
        self.widest = self.failed = ""  # dtypes: the first, and the first that is wrong

    def values(
        self, trials: Sequence[Trial], name_of: Callable[[Case], str] | None = None
    ) -> Iterator[Check]:
        """One check a trial; all of one dtype."""
        if not trials:
            return
        dtype = trials[0].case.dtype
        self.widest = self.widest or dtype
        for trial in trials:
            if trial.got is not None:
                judge(trial, self.conventions)
        arithmetic, found = self.best_arithmetic(dtype, trials)
        yield from self.about(dtype, arithmetic, trials)
        telling = (t for t in trials if "telling" in t.case.flags and id(t) in found)
        self.right = [t for t in telling if not fails(found[id(t)])]
        said = self._diagnoses(trials, found)
        if dtype == self.widest:
            self._right_in_some(trials, found)
        for trial in trials:
            case = trial.case
            name = name_of(case) if name_of else f"{case.name}, {dtype}"
            if trial.got is None:
                yield self.raised(trial, name)
                continue
            if trial.modified and trial.modified not in self.modified:
                self.modified += (trial.modified,)
                manners = "a caller's arrays must stay as they were"
                words = f"{trial.modified} is modified: a caller's array must stay as it was"
                yield Check(f"inputs unmodified, {name}", "failed", manners, words, words)
            if trial.reshaped and "telling" in case.flags and "axes" not in case.flags:
                manners = "a gradient must have its parameter's shape, or an optimizer spreads it"
                words = f"it gives {trial.reshaped} for a parameter of {case.gamma.shape}"
                yield Check("shapes of the gradients", "limited", manners, words, words)
            worst = found[id(trial)]
            if not worst:
                continue
            if not fails(worst):
                self.passed |= {case.name} if dtype == self.widest else set()
                top = max(worst, key=lambda e: e.fraction)
                yield Check(name, "passed", case.why, str(top))
            elif not self.undefined(trial):
                yield self._failed(trial, name, worst, said.get(id(trial)))

    def _right_in_some(self, trials: Sequence[Trial], found: Found) -> None:
        """Right for some numbers of axes, wrong for others: perhaps it is for the first."""
        ranks: tuple[set[int], set[int]] = set(), set()
        for trial in trials:
            if id(trial) in found and "x" in trial.case.arrays:
                wrong = fails(found[id(trial)])
                if wrong or {"telling", "axes"} & trial.case.flags:
                    ranks[wrong].add(trial.case.x.ndim)
        if (right := ranks[0] - ranks[1]) and ranks[1]:
            axes = " or ".join(map(str, sorted(right)))
            say = f"ndim={min(right)}" if len(right) == 1 else f"ndim={tuple(sorted(right))}"
            self.report.notes.append(
                f"it is right for arrays of {axes} axes: if it is for these alone, say {say}"
            )

    def _failed(self, trial: Trial, name: str, worst: list[Error], one: Diagnosis | None) -> Check:
        case = trial.case
        detail = "; ".join(str(e) for e in worst if not e.fraction <= 1)
        if one is None and not self.values_wrong and self._cancels(trial, worst):
            return Check(name, "limited", case.why, detail, ONE_PASS)
        if self._eps_vanishes(trial, worst):
            words = f"in {case.dtype} eps vanishes: a constant channel gives NaN, though not in "
            words += self.widest
            return Check(name, "limited", case.why, detail, words)
        hint = ""
        if one is None and not self.values_wrong:
            hint = next((words for flag, words in HINTS.items() if flag in case.flags), "")
            if case.dtype != self.widest and case.name in self.passed:
                hint = f"right in {self.widest}, wrong in {case.dtype}: its digits or its range do "
                hint += "not hold what is computed; " + self._narrow(worst)
        if one is not None and one.lost and "telling" not in case.flags:
            where = next((words for flag, words in HINTS.items() if flag in case.flags), "")
            one = replace(one, words="; ".join(filter(None, [one.words, where])))
        one = one or Diagnosis(hint)
        return Check(name, "failed", case.why, detail, one.words, one.compare, general=bool(hint))

    def _eps_vanishes(self, trial: Trial, worst: list[Error]) -> bool:
        """Nothing but NaN where all of a group is equal, in a narrower dtype, with its own eps."""
        case = trial.case
        here = bool({"constant-channel", "mixed", "n=1"} & case.flags) and not self.eps_asked
        lost = all(np.isinf(e.fraction) for e in worst if not e.fraction <= 1)
        return here and lost and case.dtype != self.widest and case.name in self.passed

    def _narrow(self, worst: list[Error]) -> str:
        lost = [e.name for e in worst if np.isinf(e.fraction)]
        if lost:
            return f"{' and '.join(lost)} is NaN or infinite (an eps that vanishes, an overflow)"
        return "keep sums and statistics in a wider dtype"

    # ---- what a layer may say otherwise ----

    def about(self, dtype: str, arithmetic: Arithmetic, trials: Sequence[Trial]) -> Iterator[Check]:
        """What is said of a dtype as a whole."""
        if arithmetic.accumulate == "float16":
            self.report.conventions.append("statistics and sums are kept in float16")
        yield from ()

    def raised(self, trial: Trial, name: str) -> Check:
        words = f"it raised {trial.raised}"
        return Check(name, "failed", trial.case.why, words, words, general=self.values_wrong)

    def follows(self, trial: Trial) -> set[str]:
        """The gradients that are those of the candidate's own forward."""
        return set()

    def undefined(self, trial: Trial) -> bool:
        """Is what failed something that is not defined?"""
        return False

    # ---- which arithmetic ----

    def errors(self, trial: Trial, arithmetic: Arithmetic) -> list[Error]:
        return errors(trial, self.conventions, arithmetic, self.eps_asked)

    def best_arithmetic(self, dtype: str, trials: Sequence[Trial]) -> tuple[Arithmetic, Found]:
        """The most exact arithmetic that explains most trials, and the errors under it."""
        best: tuple[int, Arithmetic, Found] | None = None
        ran = [t for t in trials if t.got is not None]
        for arithmetic in arithmetics(dtype):
            found = {id(t): self.errors(t, arithmetic) for t in ran}
            count = sum(fails(each) for each in found.values())
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
            telling = _telling([t for t in ran if fails(found[id(t)])])
            known = any(all(explains(d, t, closely=0.1) for t in telling) for d in self.said)
            if known or self._diagnosis(telling, found, closely=0.1):
                return usual, found
        return best[1], best[2]

    # ---- what is wrong ----

    def _diagnoses(self, trials: Sequence[Trial], found: Found) -> dict[int, Diagnosis]:
        """What is wrong in each failing trial: one diagnosis for as many as possible.

        First what was found in another dtype, then one for all the telling trials, then one for
        those that these do not explain.
        """
        left = [t for t in trials if id(t) in found and fails(found[id(t)])]
        said: dict[int, Diagnosis] = {}
        shapes = [t for t in left if any(e.shape for e in found[id(t)])]
        self.misshapen |= bool(shapes)
        for trial in shapes:
            words = "; ".join(e.shape for e in found[id(trial)] if e.shape)
            said[id(trial)] = Diagnosis(words)
        left = [t for t in left if t not in shapes]
        if not self.repeats:  # other numbers at every call: there is nothing to compare
            return said
        for search in range(3):
            if not left or (search and not any({"telling", "axes"} & t.case.flags for t in left)):
                break  # what a found mistake leaves over in odd cases follows from it
            one = None if search else self._known(left, found)
            telling = _telling(left)
            one = one or self._diagnosis(telling, found)
            if one is None and search == 0 and len(telling) > 1:
                telling = telling[:1]
                one = self._diagnosis(telling, found)
            if one is None:
                self.values_wrong |= any(
                    "telling" in t.case.flags and t.case.name not in self.passed for t in left
                )
                break
            if one.known and one not in self.said:
                self.said = (*self.said, one)
            for trial in list(left):
                if trial in telling or explains(one, trial, wrong_of(found[id(trial)])):
                    said[id(trial)] = one
                    left.remove(trial)
        self.values_wrong |= bool(said)
        return said

    def _known(self, left: list[Trial], found: Found) -> Diagnosis | None:
        """A diagnosis of another dtype that explains the telling trials here too."""
        for one in self.said:
            if all(explains(one, t, wrong_of(found[id(t)])) for t in _telling(left)):
                return one
        return None

    def _diagnosis(
        self, trials: list[Trial], found: Found, closely: float = 1.0
    ) -> Diagnosis | None:
        """Looked for in the widest dtype that fails; closely, where a wider one is right."""
        if not trials:
            return None
        dtype = trials[0].case.dtype
        self.failed = self.failed or dtype
        if dtype != self.failed:
            return None
        closely = closely if dtype == self.widest else 0.1 * closely
        once = list(dict.fromkeys(name for t in trials for name in wrong_of(found[id(t)])))
        of = (trials, self.conventions, self.tightly, once, closely)
        return diagnose(*of, lambda: self.follows(trials[0]), self.right)

    def _cancels(self, trial: Trial, found: list[Error]) -> bool:
        """Is it right but for what E[x^2] - E[x]^2 loses?

        With r = mean / s, s^2 = var + eps, E[x^2] is at most (1 + r^2) s^2 and E[x]^2 is r^2 s^2. A
        mean of squares has the relative error of the mean of squares that the bound allows for, so
        the difference has (1 + 2 r^2) times the error of the variance, at most; less than twice
        (1 + r^2). Half of it goes into the scale, as half of the variance's does. From r = 4 on,
        where that is much.
        """
        case = trial.case
        if self.conventions.p != 2 or "x" not in case.arrays:
            return False
        rows = case.layout.rows(case.x.astype("float64"))
        s = scale(rows, self.conventions, self.conventions.eps_of(case))[:, 0]
        r = abs(rows.mean(axis=1)) / s
        more = 2 * (1 + float(r.max()) ** 2)
        return bool(r.max() > 4 and all(e.fraction <= more for e in found))


def fails(found: list[Error]) -> bool:
    return any(not e.fraction <= 1 for e in found)


def wrong_of(found: list[Error]) -> list[str]:
    return [e.name for e in found if not e.fraction <= 1]


def _telling(failing: list[Trial]) -> list[Trial]:
    """Of the failing trials those that tell mistakes apart (n = 2 does not: n - 1 = 1)."""
    axes = [t for t in failing if "axes" in t.case.flags]
    return [t for t in failing if "telling" in t.case.flags] or axes or failing[:1]
