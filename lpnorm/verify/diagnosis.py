"""What is wrong? A candidate's numbers compared with every known mistake, then with factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm.verify import variants
from lpnorm.verify.mistakes import CATALOGUE, Mistake
from lpnorm.verify.reference import Conventions, constants, default_place, places
from lpnorm.verify.trials import Trial

Array = np.ndarray
# How closely a mistake must give a candidate's numbers, as a fraction of the largest of them, and
# of its own distance from the reference: the nearest one that passes both is named.
CLOSE = {"float64": 1e-8, "float32": 5e-4, "float16": 6e-2}
EXPLAINS = 0.2
FORWARD_LINES = {"axes", "n", "mu", "d", "phi", "C", "s", "x_hat", "y"}
SAME = {"float64": 1e-7, "float32": 1e-4, "float16": 1e-2}  # how far a factor may vary


@dataclass(frozen=True)
class Diagnosis:
    """In words, with the line to compare with; mistake: the catalogue's name, if it is in there.

    known: what the outputs were found to be, as (output or None for all, mistake, conventions).
    """

    words: str
    compare: str = ""
    mistake: str = ""
    known: tuple[tuple[str | None, Mistake, Conventions], ...] = ()


def given(trial: Trial, conventions: Conventions) -> dict[str, Any]:
    """What `variants.NORM` starts from, in float64."""
    case, layout = trial.case, trial.case.layout
    shape, eps = case.x.shape, conventions.eps_of(case)
    return {
        "x": case.x.astype("float64"),
        "dy": case.dy.astype("float64"),
        "gamma": layout.wide(case.gamma.astype("float64"), shape),
        "beta": layout.wide(case.beta.astype("float64"), shape),
        "reduced": layout.reduced,
        "unaffine": tuple(a for a in range(len(shape)) if a not in layout.affine),
        "p": conventions.p,
        "k": getattr(conventions.p, "k", 1),
        "eps": eps,
        "place": conventions.eps_place,
        "constant": conventions.c(layout.rows(case.x).shape[1])
        if conventions.constant == "later" or isinstance(conventions.constant, float)
        else conventions.constant,
    }


def diagnose(
    trials: Sequence[Trial],
    layer: str,
    conventions: Conventions,
    recognised: bool,
    wrong: Sequence[str],
    closely: float = 1.0,
) -> Diagnosis | None:
    """The known mistake that gives the numbers of all these trials; None if there is none.

    wrong: the outputs that are. recognised: whether y is right under the conventions; if not,
    mistakes in the forward are tried under every convention. All outputs together first; then y
    alone if it is wrong, for the gradients follow from it; else each wrong gradient on its own.
    closely: below 1, only a mistake that is so much closer than `CLOSE`.
    """
    trials = [t for t in trials if t.got is not None and t.want is not None]
    if not trials:
        return None
    everything = [m for m in CATALOGUE if m.applies(layer, conventions.p)]
    if "y" in wrong:
        everything = [m for m in everything if FORWARD_LINES & set(m.lines)]
    spread = [conventions] if recognised else _conventions(conventions)
    whole = _nearest(trials, spread, everything, None, closely)
    if whole is not None or closely < 1:
        return whole
    lost = [n for n in wrong if any(not np.all(np.isfinite(t.values(n)[0])) for t in trials)]
    if lost:
        what = " and ".join(lost)
        return Diagnosis(f"{what}: NaN or infinity where a finite number belongs")
    found = []
    for name in ["y"] if "y" in wrong else wrong:
        one = _nearest(trials, spread, everything, name, closely)
        words = _factor(trials, conventions, name) if one is None else ""
        found += [one] if one is not None else [Diagnosis(words, _line(name))] if words else []
    parts = list({d.words: d for d in found}.values())
    if len(parts) < 2:
        return parts[0] if parts else None
    return Diagnosis(
        "; and ".join(d.words for d in parts),
        ";  ".join(dict.fromkeys(d.compare for d in parts)),
        "",
        tuple(each for d in parts for each in d.known),
    )


def _nearest(
    trials: Sequence[Trial],
    spread: Sequence[Conventions],
    mistakes: Sequence[Mistake],
    only: str | None,
    closely: float,
) -> Diagnosis | None:
    """The nearest of the mistakes that explain the trials, under the first convention with any."""
    for meant in spread:
        best: tuple[float, Mistake | None] = (np.inf, None)
        for mistake in mistakes:
            distance = _distance(trials, meant, mistake, only)
            if distance < 0.5 * best[0] and distance <= closely * CLOSE[trials[0].case.dtype]:
                best = (distance, mistake)
        if best[1] is not None:
            one = best[1]
            return Diagnosis(one.diagnosis, one.compare, one.name, ((only, one, meant),))
    return None


def explains(
    said: Diagnosis, trial: Trial, wrong: Sequence[str] = (), closely: float = 1.0
) -> bool:
    """Does this diagnosis give the numbers of another trial too? wrong: its wrong outputs."""
    names = [only for only, _, _ in said.known]
    if not names or (None not in names and "y" not in names and set(wrong) - set(names)):
        return False
    close = closely * CLOSE[trial.case.dtype]
    return all(
        _distance([trial], meant, mistake, only) <= close
        for only, mistake, meant in said.known
        if only is None or only in wrong
    )


def _conventions(usual: Conventions) -> list[Conventions]:
    eps = usual.eps
    found = [usual]
    for c in constants(usual.p):
        for place in [default_place(usual.p), *places(usual.p, c)]:
            each = Conventions(usual.p, place, c, eps)
            if each not in found:
                found.append(each)
    return found


def _line(name: str) -> str:
    return variants.text(variants.NORM, name)


def _off(got: Array, want: Array) -> float:
    """The largest difference, as a fraction of the largest value; both NaN is no difference."""
    if got.shape != want.shape:
        return np.inf
    with np.errstate(all="ignore"):
        same = (np.isnan(got) & np.isnan(want)) | (got == want)
        difference = np.where(same, 0.0, abs(got - want))
        size = np.nanmax(abs(want), initial=0.0, where=np.isfinite(want))
        off = float(np.max(difference / (size + 1e-300), initial=0.0))
    return np.inf if np.isnan(off) else off


def _values(trial: Trial, conventions: Conventions, mistake: Mistake) -> dict[str, Array] | None:
    """What the mistake gives for this trial, rounded to its dtype; None if it has no value."""
    key = conventions, mistake.name
    if key not in trial.variants:
        try:
            v = variants.run(variants.NORM, given(trial, conventions), mistake.lines)
            with np.errstate(all="ignore"):  # what the dtype cannot hold is infinite in both
                trial.variants[key] = {
                    name: np.asarray(getattr(v, name)).astype(trial.case.dtype).astype("float64")
                    for name in trial.outputs()
                }
        except (ValueError, TypeError, IndexError, ZeroDivisionError):
            trial.variants[key] = None
    return trial.variants[key]


def _distance(
    trials: Sequence[Trial], conventions: Conventions, mistake: Mistake, only: str | None
) -> float:
    """How far the mistake is from the candidate; inf unless it explains what is wrong."""
    worst, moved = 0.0, 0.0
    for trial in trials:
        values = _values(trial, conventions, mistake)
        if values is None:
            return np.inf
        for name in [only] if only else trial.outputs():
            (got, want), value = trial.values(name), values[name]
            if np.all(np.isnan(value)) and not np.all(np.isnan(got)):
                return np.inf
            value = value.reshape(want.shape) if value.size == want.size else value
            worst = max(worst, _off(got, value))
            if worst > CLOSE[trial.case.dtype]:
                return np.inf
            moved = max(moved, _off(want, value))
    return worst if worst <= EXPLAINS * moved else np.inf


def _factor(trials: Sequence[Trial], conventions: Conventions, name: str) -> str:
    """The factor, if the output is one number (or one a group) times what it should be.

    Only where the bound is narrow, and never a factor that rounds to 1: that says nothing.
    """
    trial = max(trials, key=lambda t: getattr(t.want, name).size)
    got, want = trial.values(name)
    if got.shape != want.shape or not np.all(np.isfinite(got)) or not np.any(want):
        return ""
    close = SAME[trial.case.dtype]
    if not np.any(got):
        return f"{name} is zero everywhere"
    for narrow in ("float16", "float32"):
        fits = np.finfo(narrow).eps >= 8 * np.finfo(trial.case.dtype).eps
        few = fits and np.array_equal(got, got.astype(narrow).astype("float64"))
        if few and _off(got, want) < 64 * np.finfo(narrow).eps and np.ptp(got):
            return f"{name} has only the digits of {narrow}: something is computed in {narrow}"
    usable = abs(want) > 1e-3 * abs(want).max()
    for limits in list(trial.limits.values())[:1]:
        usable &= limits[name] <= 0.1 * close * abs(want)
    if usable.sum() < 2:
        return ""
    got, want = np.where(usable, got, 0.0), np.where(usable, want, 0.0)
    ratio = got[usable] / want[usable]
    if np.ptp(ratio) <= close * abs(ratio).max():
        factor = float(np.median(ratio))
        if abs(factor - 1) < 5e-3:
            return ""
        return f"{name} is {factor:.6g} times what it should be{_named(factor, trial, conventions)}"
    off = (got - want)[usable]
    if np.ptp(off) <= close * abs(want).max() and abs(off).max() > 10 * close * abs(want).max():
        return f"{name} is off by the same amount everywhere, {np.median(off):.6g}"
    most = abs(got).max()
    clipped = (abs(got) == most) & (abs(want) > (1 + 10 * close) * most)
    if clipped.any() and np.all(clipped | (abs(got - want) <= close * most)):
        return f"{name} is clipped at {most:g}"
    v = variants.run(variants.NORM, given(trial, conventions))
    per_group = {
        "gamma": v.gamma,
        "1 / gamma": 1 / v.gamma,
        "the scale s": v.s,
        "1 / s": 1 / v.s,
        "s^2": v.s**2,
    }
    for words, factor in per_group.items():
        try:
            times = want * factor if name in ("y", "dx") else want * np.reshape(factor, want.shape)
        except ValueError:
            continue
        if _off(got, times) <= close and _off(want, times) > 10 * close:
            return f"{name} is what it should be times {words}"
    return ""


def _named(factor: float, trial: Trial, conventions: Conventions) -> str:
    n = trial.case.layout.rows(trial.case.x).shape[1]
    c, k = conventions.c(n), getattr(conventions.p, "k", 1)
    known = {
        "n": n,
        "1 / n": 1 / n,
        "n / (n - 1)": n / max(n - 1, 1),
        "(n - 1) / n": (n - 1) / n,
        "C": c,
        "1 / C": 1 / c,
        "C^2": c * c,
        "k": k,
        "1 / k": 1 / k,
    }
    close = SAME[trial.case.dtype]
    for words, value in known.items():
        if value not in (1, 0) and abs(abs(factor) - value) <= close * value:
            return f" ({'-' if factor < 0 else ''}{words})"
    return ""
