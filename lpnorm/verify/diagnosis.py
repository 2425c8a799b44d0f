"""What is wrong? A candidate's numbers compared with every known mistake, then with factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm.verify import variants
from lpnorm.verify.mistakes import BACKWARD, FORWARD, Mistake
from lpnorm.verify.reference import Conventions, constants, default_place, places
from lpnorm.verify.trials import Trial

Array = np.ndarray
# How closely a mistake must give a candidate's numbers, as a fraction of the largest of them, and
# of its own distance from the reference: the nearest one that passes both is named.
CLOSE = {"float64": 1e-8, "float32": 5e-4, "float16": 6e-2}
EXPLAINS = 0.2
SAME = {"float64": 1e-7, "float32": 1e-4, "float16": 1e-2}  # how far a factor may vary


@dataclass(frozen=True)
class Diagnosis:
    """In words, with the line to compare with; mistake: the catalogue's name, if it is in there."""

    words: str
    compare: str = ""
    mistake: str = ""
    conventions: Conventions | None = None


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
        if conventions.constant == "later"
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
    mistakes in the forward are tried under every convention. All outputs together first, then
    each wrong one on its own. closely: below 1, only a mistake that is so much closer than `CLOSE`.
    """
    trials = [t for t in trials if t.got is not None and t.want is not None]
    if not trials:
        return None
    lost = [n for n in wrong if any(not np.all(np.isfinite(t.values(n)[0])) for t in trials)]
    names = {t.case.name for t in trials}
    everything = [m for m in (*FORWARD, *BACKWARD) if m.applies(layer, conventions.p)]
    spread = [conventions] if recognised else _conventions(conventions)
    best: tuple[float, Mistake | None] = (np.inf, None)
    for meant in spread:
        for mistake in everything:
            distance = _distance(trials, meant, mistake, None)
            if distance < 0.5 * best[0] and distance <= closely * CLOSE[trials[0].case.dtype]:
                best = (distance, mistake)
        if best[1] is not None:
            return Diagnosis(best[1].diagnosis, best[1].compare, best[1].name, meant)
    if closely < 1:
        return None
    if lost:
        where = " and ".join(sorted(names))
        what = " and ".join(lost)
        return Diagnosis(f"{what}: NaN or infinity where a finite number belongs ({where})")
    found = []
    for name in wrong:
        best = (np.inf, None)
        for meant in spread:
            for mistake in everything:
                distance = _distance(trials, meant, mistake, name)
                if distance < 0.5 * best[0]:
                    best = (distance, mistake)
            if best[1] is not None:
                break
        if best[1] is not None:
            found.append(Diagnosis(best[1].diagnosis, best[1].compare, best[1].name))
        else:
            words = _factor(trials, conventions, name)
            found += [Diagnosis(words, _line(name))] if words else []
    if not found:
        return None
    parts = list(dict.fromkeys(found))
    return Diagnosis(
        "; and ".join(d.words for d in parts),
        ";  ".join(dict.fromkeys(d.compare for d in parts)),
        parts[0].mistake if len(parts) == 1 else "",
    )


def explains(said: Diagnosis, trial: Trial) -> bool:
    """Does this diagnosis give the numbers of another trial too?"""
    if said.conventions is None:
        return False
    mistake = next(m for m in (*FORWARD, *BACKWARD) if m.name == said.mistake)
    return bool(np.isfinite(_distance([trial], said.conventions, mistake, None)))


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


def _distance(
    trials: Sequence[Trial], conventions: Conventions, mistake: Mistake, only: str | None
) -> float:
    """How far the mistake is from the candidate; inf unless it explains what is wrong."""
    worst, moved = 0.0, 0.0
    for trial in trials:
        try:
            v = variants.run(variants.NORM, given(trial, conventions), mistake.lines)
        except (ValueError, TypeError, IndexError, ZeroDivisionError):
            return np.inf
        for name in [only] if only else trial.outputs():
            got, want = trial.values(name)
            with np.errstate(all="ignore"):  # what the dtype cannot hold is infinite in both
                value = np.asarray(getattr(v, name)).astype(trial.case.dtype).astype("float64")
            if np.all(np.isnan(value)) and not np.all(np.isnan(got)):
                return np.inf
            value = value.reshape(want.shape) if value.size == want.size else value
            worst = max(worst, _off(got, value))
            moved = max(moved, _off(want, value))
            if worst > CLOSE[trial.case.dtype]:
                return np.inf
    return worst if worst <= EXPLAINS * moved else np.inf


def _factor(trials: Sequence[Trial], conventions: Conventions, name: str) -> str:
    """The factor, if the output is one number (or one a group) times what it should be."""
    trial = max(trials, key=lambda t: getattr(t.want, name).size)
    got, want = trial.values(name)
    if got.shape != want.shape or not np.all(np.isfinite(got)):
        return ""
    close = SAME[trial.case.dtype]
    if not np.any(got):
        return f"{name} is zero everywhere"
    usable = abs(want) > 1e-3 * abs(want).max()
    ratio = got[usable] / want[usable]
    if np.ptp(ratio) <= close * abs(ratio).max():
        factor = float(np.median(ratio))
        return f"{name} is {factor:.6g} times what it should be{_named(factor, trial, conventions)}"
    off = got - want
    if np.ptp(off) <= close * abs(want).max():
        return f"{name} is off by the same amount everywhere, {np.median(off):.6g}"
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
        if _off(got, times) <= close:
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
