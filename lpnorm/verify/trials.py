"""One call of a candidate on one case, and what is found by looking at it from outside."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lpnorm.verify.candidates import Candidate, Raised
from lpnorm.verify.cases import Case, Outcome
from lpnorm.verify.chosen import FOLLOWS
from lpnorm.verify.layers import LAYERS
from lpnorm.verify.reference import Arithmetic, Conventions

Array = np.ndarray


@dataclass
class Trial:
    """A case, what the candidate gave (or how it failed), and what the oracle gives."""

    case: Case
    got: Outcome | None
    raised: str = ""
    ran: bool = True  # its code did: what it gave is at fault
    modified: str = ""  # the input it changed
    reshaped: str = ""  # gradients of parameters that came with axes of length 1
    want: Outcome | None = None
    limits: dict[Arithmetic, dict[str, Array]] = field(default_factory=dict)
    variants: dict[Any, Array | None] = field(default_factory=dict)

    def outputs(self) -> list[str]:
        """The names of what the candidate gives."""
        return list(self.got or ())

    def values(self, name: str) -> tuple[Array, Array]:
        """What came and what the oracle says, in float64."""
        assert self.got is not None and self.want is not None
        return self.got[name].astype("float64"), np.asarray(self.want[name])

    def limit(self, name: str, conventions: Conventions, arithmetic: Arithmetic) -> Array:
        assert self.want is not None
        if arithmetic not in self.limits:
            of = LAYERS[self.case.layer].limits
            self.limits[arithmetic] = of(self.case, self.want, conventions, arithmetic)
        return np.broadcast_to(self.limits[arithmetic][name], self.want[name].shape)

    def run(self, conventions: Conventions, mistakes: Sequence[Any] = (), until: str = "") -> Any:
        """The formula's values for the case, with these mistakes; None where it has none."""
        lines = {name: value for m in mistakes for name, value in m.lines.items()}
        try:
            return LAYERS[self.case.layer].run(self.case, conventions, lines, self.got, until)
        except (ValueError, TypeError, IndexError, ZeroDivisionError):
            return None

    def variant(self, conventions: Conventions, mistakes: Sequence[Any], name: str) -> Array | None:
        """One output of `run`, rounded to the case's dtype; kept."""
        key = conventions, tuple(m.name for m in mistakes), name
        if key not in self.variants:
            v = self.run(conventions, mistakes, name)
            with np.errstate(all="ignore"):  # what the dtype cannot hold is infinite in both
                self.variants[key] = (
                    None
                    if v is None
                    else np.asarray(getattr(v, name)).astype(self.case.dtype).astype("float64")
                )
        return self.variants[key]


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
    before = {name: a.copy() for name, a in case.arrays.items()}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            given = candidate.run(case, backward and candidate.has_backward)
        except Raised as error:
            return Trial(case, None, str(error), error.__cause__ is None)
    # copies: it may use its arrays again
    copies = Outcome(**{k: np.array(a) for k, a in given.items()})
    trial = Trial(case, copies, modified=given.modified)
    _in_shape(trial)
    for name, a in case.arrays.items():
        if not np.array_equal(a, before[name], equal_nan=True):
            trial.modified = name
            a.setflags(write=True)
            a[...] = before[name]
    trial.case = seen(candidate, case)
    if not candidate.affine:
        assert trial.got is not None
        trial.got.pop("dgamma", None)
        trial.got.pop("dbeta", None)
    return trial


def _in_shape(trial: Trial) -> None:
    """Gradients of parameters that came with axes of length 1 too many, in the right shape."""
    reshaped = []
    for name, of in (("dgamma", "gamma"), ("dbeta", "beta")):
        a = None if trial.got is None else trial.got.get(name)
        if a is None or trial.got is None or a.shape == trial.case.arrays[of].shape:
            continue
        want = trial.case.arrays[of]
        if _without_ones(a) == _without_ones(want):
            reshaped.append(f"{name} of shape {a.shape}")
            trial.got[name] = a.reshape(want.shape)
    trial.reshaped = " and ".join(reshaped)


def _without_ones(a: Array) -> tuple[int, ...]:
    return tuple(size for size in a.shape if size != 1)


def seen(candidate: Candidate, case: Case) -> Case:
    """The case as a candidate sees it that may have no gamma or no beta."""
    if "gamma" not in case.arrays or (candidate.affine and candidate.shift):
        return case
    gamma = case.gamma if candidate.affine else np.ones_like(case.gamma)
    return case.but(gamma=gamma, beta=np.zeros_like(case.beta))


def judge(trial: Trial, conventions: Conventions) -> None:
    """Give the trial its reference."""
    if trial.want is None:
        trial.want = LAYERS[trial.case.layer].expected(trial.case, conventions)


def errors(
    trial: Trial, conventions: Conventions, arithmetic: Arithmetic, eps_asked: bool = False
) -> list[Error]:
    """The worst error of each output; a fraction above 1 is more than rounding explains.

    Values that the dtype cannot hold, or that are not defined, are not judged; nor is NaN where a
    right formula may meet 1 / s^2 (autograd's form) that the dtype cannot hold: see
    `reference.overflows`. eps_asked: the eps is the caller's wish, so y must be right even if
    1 / eps does not fit.
    """
    excused = LAYERS[trial.case.layer].excused(trial.case, conventions)
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


OF = {"dx": ("x", "dy"), "dgamma": ("gamma", "dy"), "dbeta": ("beta", "dy")}
OF |= {"dv": ("v", "dw"), "dg": ("g", "dw")}


def follows(candidate: Candidate, trial: Trial, rng: np.random.Generator | None = None) -> set[str]:
    """The gradients that are those of the candidate's own forward, right or wrong.

    In float64, by central differences along a random direction (see `chosen.FOLLOWS`).
    """
    case, found, h = trial.case, set(), 2.0**-16
    rng = np.random.default_rng(29) if rng is None else rng
    for name in trial.outputs() if case.dtype == "float64" else ():
        of, upstream = OF.get(name, ("", ""))
        got = trial.got and trial.got.get(name)
        if not of or got is None or got.shape != case.arrays[of].shape:
            continue
        if not np.all(np.isfinite(got)):  # infinity is within any fraction of itself
            continue
        u = rng.standard_normal(got.shape)
        moved = (case.but(**{of: case.arrays[of] + t * u}) for t in (h, -h))
        ends = [call(candidate, each, backward=False).got for each in moved]
        if any(end is None or not end for end in ends):
            continue
        first = [next(iter(end.values())) for end in ends if end]
        slope = float(((first[0] - first[1]) * case.arrays[upstream]).sum() / (2 * h))
        terms = abs(got * u).sum()
        if abs(float((got * u).sum()) - slope) <= FOLLOWS * max(terms, abs(slope)):
            found.add(name)
    return found


def off(got: Array, want: Array) -> float:
    """The largest difference, as a fraction of the largest value; both NaN is no difference."""
    if got.shape != want.shape:
        return np.inf
    with np.errstate(all="ignore"):
        same = (np.isnan(got) & np.isnan(want)) | (got == want)
        difference = np.where(same, 0.0, abs(got - want))
        size = np.nanmax(abs(want), initial=0.0, where=np.isfinite(want))
        off = float(np.max(difference / (size + 1e-300), initial=0.0))
    return np.inf if np.isnan(off) else off
