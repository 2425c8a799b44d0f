"""One call of a candidate on one case, and what is found by looking at it from outside."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lpnorm.verify.candidates import Candidate, Outcome, Raised
from lpnorm.verify.cases import Case
from lpnorm.verify.reference import Arithmetic, Conventions, expected, limits, scale

Array = np.ndarray
OUTPUTS = ("y", "dx", "dgamma", "dbeta")


@dataclass
class Trial:
    """A case, what the candidate gave (or how it failed), and what the oracle gives."""

    case: Case
    got: Outcome | None
    raised: str = ""
    modified: str = ""  # the input it changed
    reshaped: str = ""  # gradients of parameters that came with axes of length 1
    want: Outcome | None = None
    limits: dict[Arithmetic, dict[str, Array]] = field(default_factory=dict)
    variants: dict[Any, dict[str, Array] | None] = field(default_factory=dict)  # see `diagnosis`

    def outputs(self) -> list[str]:
        """The names of what the candidate gives."""
        return [name for name in OUTPUTS if getattr(self.got, name, None) is not None]

    def values(self, name: str) -> tuple[Array, Array]:
        """What came and what the oracle says, in float64."""
        return getattr(self.got, name).astype("float64"), np.asarray(getattr(self.want, name))

    def limit(self, name: str, conventions: Conventions, arithmetic: Arithmetic) -> Array:
        if arithmetic not in self.limits:
            assert self.want is not None
            self.limits[arithmetic] = limits(self.case, self.want, conventions, arithmetic)
        return self.limits[arithmetic][name]


@dataclass(frozen=True)
class Error:
    """The worst error of one output: as a fraction of its bound, in ulps, and where."""

    name: str
    fraction: float
    size: float = 0.0
    ulps: float = 0.0
    where: str = ""
    shape: str = ""

    def __str__(self) -> str:
        if self.shape:
            return self.shape
        return (
            f"{self.name} off by {self.size:.2g} = {_short(self.fraction)} of its bound, "
            f"{_short(self.ulps)} ulps{self.where}"
        )


def _short(value: float) -> str:
    if not np.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    return f"{value:.2g}" if value < 100 else f"{value:.1e}" if value >= 1e4 else f"{value:.0f}"


def call(candidate: Candidate, case: Case, backward: bool = True) -> Trial:
    """Run the candidate on a case. What it raises is kept in words; its warnings are not ours."""
    given = {"x": case.x, "gamma": case.gamma, "beta": case.beta, "dy": case.dy}
    before = {name: a.copy() for name, a in given.items()}
    dy = case.dy if backward and candidate.has_backward else None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            got = candidate.run(case.x, case.gamma, case.beta, case.eps, dy)
        except Raised as error:
            return Trial(case, None, str(error))
    arrays: list[Any] = [getattr(got, name) for name in OUTPUTS]
    copies: list[Any] = [None if a is None else np.array(a) for a in arrays]
    reshaped = []
    for i, name in ((2, "dgamma"), (3, "dbeta")):
        a, shape = copies[i], case.gamma.shape
        if a is not None and a.shape != shape and _without_ones(a) == _without_ones(case.gamma):
            reshaped.append(f"{name} of shape {a.shape}")
            copies[i] = a.reshape(shape)
    got = Outcome(*copies, modified=got.modified)
    trial = Trial(case, got, modified=got.modified)  # with copies: it may use its arrays again
    trial.reshaped = " and ".join(reshaped)
    for name, a in given.items():
        if not np.array_equal(a, before[name], equal_nan=True):
            trial.modified = name
            a.setflags(write=True)
            a[...] = before[name]
    trial.case = seen(candidate, case)
    if not candidate.affine:
        trial.got = Outcome(got.y, got.dx)
    return trial


def _without_ones(a: Array) -> tuple[int, ...]:
    return tuple(size for size in a.shape if size != 1)


def seen(candidate: Candidate, case: Case) -> Case:
    """The case as a candidate sees it that may have no gamma or no beta."""
    if candidate.affine and candidate.shift:
        return case
    gamma = case.gamma if candidate.affine else np.ones_like(case.gamma)
    return replace(case, gamma=gamma, beta=np.zeros_like(case.beta))


def judge(trial: Trial, conventions: Conventions) -> None:
    """Give the trial its reference."""
    if trial.want is None:
        trial.want = expected(trial.case, conventions)


def errors(
    trial: Trial, conventions: Conventions, arithmetic: Arithmetic, eps_asked: bool = False
) -> list[Error]:
    """The worst error of each output; a fraction above 1 is more than rounding explains.

    Values that the dtype cannot hold, or that are not defined, are not judged; nor is NaN where a
    right formula may meet 1 / s^2 (autograd's form) that the dtype cannot hold: see `overflows`.
    eps_asked: the eps is the caller's wish, so y must be right even if 1 / eps does not fit.
    """
    excused = overflows(trial, conventions)
    if eps_asked:
        excused.pop("y", None)
    found = []
    for name in trial.outputs():
        got, want = trial.values(name)
        limit = trial.limit(name, conventions, arithmetic) if got.shape == want.shape else want
        one = error(name, got, want, limit, trial.case.dtype, excused.get(name))
        found += [one] if one is not None else []
    return found


def error(
    name: str, got: Array, want: Array, limit: Array, dtype: str, excused: Array | None = None
) -> Error | None:
    """The worst error of one output, limit the bounds; excused: where NaN and infinity may be.

    None for an empty array.
    """
    if got.shape != want.shape:
        text = f"{name} has shape {got.shape}, {want.shape} expected"
        return Error(name, np.inf, shape=text)
    if not want.size:
        return None
    largest = float(np.finfo(dtype).max)
    with np.errstate(all="ignore"):
        judged = np.isfinite(want) & (abs(want) + limit < 0.5 * largest)
        judged |= np.isfinite(want) & np.isnan(limit)  # a limit that is NaN excuses nothing
        size = np.where(judged, abs(got - want), 0.0)
        fraction = np.where(size > 0, size / limit, 0.0)
    lost = judged & ~np.isfinite(got)
    if excused is not None:
        fraction = np.where(lost & excused, 0.0, fraction)
        lost &= ~excused
    fraction = np.where(lost, np.inf, fraction)
    worst = int(np.argmax(fraction))
    ulp = float(np.spacing(np.abs(want.ravel()[worst]).astype(dtype)))
    top = float(fraction.ravel()[worst])
    at = np.unravel_index(worst, want.shape)
    where = ""
    if top > 1:
        index = ", ".join(str(int(i)) for i in at)
        where = f" ({got.ravel()[worst]:.6g} instead of {want.ravel()[worst]:.6g} at [{index}])"
    with np.errstate(all="ignore"):
        off = float(abs(got - want).ravel()[worst])
    if top == 0 and not np.isfinite(off):  # excused, or not to be judged
        off = 0.0
    return Error(name, top, off, off / ulp if ulp else 0.0, where)


def overflows(trial: Trial, conventions: Conventions) -> dict[str, Array]:
    """Where 1 / s (y) or 1 / s^2 (gradients) is beyond the dtype, in the outputs' shapes."""
    case, layout = trial.case, trial.case.layout
    if case.dtype != "float16" or trial.want is None:
        return {}
    rows = layout.rows(case.x.astype("float64"))
    s = np.broadcast_to(scale(rows, conventions, conventions.eps_of(case)), rows.shape)
    most = float(np.finfo(case.dtype).max) / 4
    with np.errstate(all="ignore"):
        y, dx = layout.array(1 / s > most), layout.array(1 / s**2 > most)
    summed = tuple(a for a in range(case.x.ndim) if a not in layout.affine)
    return {"y": y, "dx": dx, "dgamma": np.asarray(dx.any(axis=summed))}
