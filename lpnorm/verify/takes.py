"""A normalizer under judgement: which arrays it takes, and its conventions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm.verify import cases
from lpnorm.verify.candidates.common import Candidate, CannotRun
from lpnorm.verify.cases import Case, Layout
from lpnorm.verify.recognise import Recognised, recognise
from lpnorm.verify.reference import arithmetics
from lpnorm.verify.report import Check, Report
from lpnorm.verify.trials import Trial, call, follows, judge
from lpnorm.verify.values import Values

DTYPES = ("float64", "float32", "float16")
RANKS = {"batch_norm": (4, 2, 3, 5), "layer_norm": (2, 3, 4)}
EPS = {"float64": 1e-5, "float32": 1e-5, "float16": 2.0**-10}


@dataclass(frozen=True)
class Settings:
    """What was asked for. eps None, constant "any", axis None: nothing, so recognise it."""

    layer: str
    p: Any
    axis: Any
    eps: float | None
    constant: Any
    dtypes: tuple[str, ...] | None  # None: those it takes
    ndim: tuple[int, ...] | None
    momentum: str | None = None  # "new" or "kept"
    running: str | None = None  # "scale", "variance" or "reciprocal"

    def layout(self, ndim: int, sizes: tuple[int, ...] | None = None) -> Layout:
        axis = self.axis
        if axis is None and sizes is not None and len(sizes) > 1:
            axis = tuple(range(-len(sizes), 0))  # the last axes, as torch's LayerNorm
        if axis is None:
            axis = 1 if self.layer == "batch_norm" else -1
        return Layout(self.layer, ndim, axis, sizes)

    @property
    def groups(self) -> int:
        """Layer norm has them on several axes: 6 = 3 x 2, so that none of three has length 1."""
        return 6 if self.layer == "layer_norm" else cases.GROUPS

    def layouts(self, sizes: tuple[int, ...] | None = None) -> list[Layout]:
        """One for each number of axes that fits the axis. Raises CannotRun where none does."""
        found = []
        for ndim in self.ndim or RANKS[self.layer]:
            layout = self.layout(ndim, sizes)
            named = layout.axis if isinstance(layout.axis, tuple) else (layout.axis,)
            if ndim > len(named) and all(-ndim <= a < ndim for a in named):
                found.append(layout)
        if not found:
            raise CannotRun("no shape fits axis")
        return found

    def probes(self) -> list[Case]:
        """Small cases of each number of axes, for who makes a layer."""
        dtype = self.dtypes[0] if self.dtypes else "float64"
        rows = cases.gaps(cases.typical(self.p), self.groups)
        return [cases.build("probe", "", rows, q, dtype, EPS[dtype]) for q in self.layouts()]


class Subject(Values):
    """dtypes, layouts: what it takes; refused: what it raised for others, by dtype or axes; single:
    it computes float64 in float32."""

    single = False

    def __init__(self, candidate: Candidate, settings: Settings, report: Report) -> None:
        self.candidate, self.settings = candidate, settings
        self.p, self.layer = settings.p, settings.layer
        self.groups = candidate.groups or settings.groups
        self.dtypes: list[str] = []
        self.layouts: list[Layout] = []
        self.refused: dict[Any, str] = {}
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
        fits = self.recognised.fits and self.recognised.tightly
        super().__init__(self.recognised.conventions, report, fits)
        self.eps_asked = settings.eps is not None

    def _find_what_it_takes(self) -> None:
        """Fill dtypes, layouts and refused by trying. Raises CannotRun if nothing works."""
        asked, first, ran = self.settings.dtypes or DTYPES, "", ""
        for layout in self.settings.layouts(self.candidate.shape):
            raised = ""
            for dtype in asked:
                trial = self.run(dtype, layout)
                if trial.got is not None:
                    self.layouts.append(layout)
                    break
                raised = raised or trial.raised
                ran = ran or (trial.raised if trial.ran else "")
            else:
                self.refused[layout.ndim] = raised
                first = first or raised
        if not self.layouts:
            raise CannotRun(ran or f"it raised {first}")  # the attempt that got furthest
        for dtype in asked:
            trial = self.run(dtype, self.layouts[0])
            if trial.got is not None:
                self.dtypes.append(dtype)
            else:
                self.refused[dtype] = trial.raised
            if dtype == "float64" and trial.got is not None:
                self.single = _has_digits_of_float32(trial.got.get("y"))
        if self.single and "float32" in self.dtypes:  # then float64 tells no more than float32
            self.dtypes.remove("float64")

    def follows(self, trial: Trial) -> set[str]:
        return follows(self.candidate, trial)

    def eps(self, dtype: str) -> float:
        if self.candidate.eps is not None:
            return self.candidate.eps
        return EPS[dtype] if self.settings.eps is None else self.settings.eps

    def n(self) -> int:
        return self.candidate.size or cases.typical(self.p)

    def run(self, dtype: str, layout: Layout) -> Trial:
        rows = cases.gaps(self.n(), self.groups)
        return call(self.candidate, cases.build("random", "", rows, layout, dtype, self.eps(dtype)))

    def ranks_refused(self) -> Iterator[Check]:
        """It refuses some numbers of axes: does it look for the channels on another axis?

        Where all axes have one length nothing can raise for the want of a shape.
        """
        ranks = sorted(rank for rank in self.refused if isinstance(rank, int))
        why = "how many axes an array has must not matter"
        for ndim in ranks if self.layer == "batch_norm" and self.candidate.size is None else ():
            layout, name = self.settings.layout(ndim), f"takes {ndim} axes"
            rows = cases.gaps(self.groups ** (ndim - 1), self.groups)
            case = cases.build(name, why, rows, layout, self.dtype, self.eps(self.dtype))
            trial = call(self.candidate, case, backward=False)
            others = {0, 1, ndim - 1} - {layout.axis % ndim} if trial.got is not None else ()
            for other in sorted(others, reverse=True):
                moved = Trial(_on(trial.case, other), trial.got)
                judge(moved, self.conventions)
                limit = moved.limit("y", self.conventions, arithmetics(self.dtype)[-2])
                got, want = moved.values("y")
                if got.shape == want.shape and np.all(abs(got - want) <= limit):
                    where = {0: "the first axis", ndim - 1: "the last axis"}.get(other, "axis 1")
                    words = f"it takes the channels from {where}, not from axis {layout.axis}"
                    detail = f"{words}; where they have other lengths {self.refused[ndim]}"
                    yield Check(name, "failed", why, detail, words)
                    return
        for ndim in ranks if self.candidate.has_backward else ():
            layout, name = self.settings.layout(ndim), f"takes {ndim} axes"
            rows = cases.gaps(self.n(), self.groups)
            case = cases.build(name, why, rows, layout, self.dtype, self.eps(self.dtype))
            trial = call(self.candidate, case, backward=False)
            if trial.got is None:
                continue
            judge(trial, self.conventions)
            limit = trial.limit("y", self.conventions, arithmetics(self.dtype)[-2])
            got, want = trial.values("y")
            if got.shape == want.shape and np.all(abs(got - want) <= limit):
                words = f"its forward takes arrays of {ndim} axes, its backward raises "
                words += str(self.refused[ndim])
                yield Check(name, "failed", why, words, words)
                return
        if ranks:
            *most, last = map(str, ranks)
            named = ", ".join(most) + (" or " if most else "") + last
            words = f"it refuses arrays of {named} axes ({self.refused[ranks[0]]})"
            yield Check("number of axes", "limited", why, words, words)


def _has_digits_of_float32(y: Any) -> bool:
    """Random values that all are float32 numbers were computed in float32."""
    with np.errstate(all="ignore"):
        return y is not None and np.ptp(y) > 0 and np.array_equal(y, y.astype("float32"))


def _on(case: Case, axis: int) -> Case:
    """The case as it is with the channels on another axis of the same length."""
    layout = Layout(case.layer, case.x.ndim, axis)
    return Case(case.name, case.why, case.layer, case.arrays, case.settings, layout=layout)
