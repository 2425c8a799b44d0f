"""Faults of weight norms as numbers: by which norm v was divided, how often dv holds each term."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lpnorm.verify.chosen import FITS
from lpnorm.verify.reference import Conventions
from lpnorm.verify.trials import Trial


def norm_of_w(trials: Sequence[Trial], conventions: Conventions) -> str:
    """The norm by which v was divided: so many times the right one, or more by some eps."""
    own: list[float] = []
    right: list[float] = []
    close = FITS.get(trials[0].case.dtype, 0.0)
    for trial in trials:
        v = trial.run(conventions, ())
        got = trial.got and trial.got.get("w")
        if not close or v is None or got is None or got.shape != v.v.shape:
            return ""
        d, w = v.v.reshape(len(got), -1), got.astype("float64").reshape(len(got), -1)
        a = (w * d).sum(axis=1) / (d * d).sum(axis=1)
        if abs(w - a[:, None] * d).max() > 1e3 * close * abs(w).max():
            return "w is not in the direction of v in each channel"
        own += (v.g.ravel() / a).tolist()
        right += v.S.ravel().tolist()
    s, want, p = np.array(own), np.array(right), conventions.p
    ratio = s / want
    if np.ptp(ratio) <= 1e3 * close * abs(ratio).max():
        return f"the norm S is {number(float(np.median(ratio)))} times what it should be"
    for words, power in (("added to S", 1), ("added under the root of S", p)):
        more = s**power - want**power if power != math.inf else ratio
        if np.ptp(more) <= 1e5 * close * abs(more).max():
            return f"{np.median(more):.4g} is {words}, the norm: weight norm has no eps"
    i = int(abs(s - want).argmax())
    return f"the norm S is {s[i]:.6g} in a channel where {want[i]:.6g} is right"


def channels(trials: Sequence[Trial], meant: Conventions) -> str:
    """dv = (g / S) (dw - dg h) with each term so many times, another number in each channel."""
    ratios: list[list[float]] = [[], []]
    of: dict[str, list[float]] = {"S": [], "g": []}
    for trial in trials:
        v = trial.run(meant, ())
        got = None if trial.got is None else trial.got.get("dv")
        close = FITS.get(trial.case.dtype)
        if v is None or got is None or close is None or got.shape != v.v.shape:
            return ""
        wide = np.broadcast_to(v.g, v.S.shape)
        for i in range(len(got)):
            matrix = np.stack([v.dw[i].ravel(), (v.dg * v.h)[i].ravel()], axis=1)
            own = got[i].astype("float64").ravel()
            found, _, rank, _ = np.linalg.lstsq(matrix, own, rcond=None)
            if rank < 2 or abs(matrix @ found - own).max() > close * abs(own).max():
                return ""
            right = float((wide / v.S)[i].item())
            ratios[0].append(found[0] / right)
            ratios[1].append(-found[1] / right)
            of["S"].append(float(v.S[i].item()))
            of["g"].append(float(wide[i].item()))
    s, g = (np.array(of[name]) for name in ("S", "g"))
    known = {"S": s, "1 / S": 1 / s, "S^2": s * s, "1 / S^2": 1 / s**2, "g": g, "1 / g": 1 / g}
    known |= {"g / S": g / s, "S / g": s / g}
    said, both = [], np.array(ratios)
    together = np.allclose(both[0], both[1], rtol=1e-6)
    terms = ("dv",) if together else ("dw in dv", "dg h in dv")
    for term, ratio in zip(terms, both, strict=not together):
        if np.all(abs(ratio - 1) <= 1e-6):
            continue
        times = [words for words, value in known.items() if np.allclose(ratio, value, rtol=1e-6)]
        i = int(abs(ratio - 1).argmax())
        times = times or [f"{ratio[i]:.6g} times in one channel, otherwise in others,"]
        said.append(f"{term} is {times[0]}" + (" times" if times[0] in known else ""))
    return "; and ".join(f"{words} what it should be" for words in said)


def number(factor: float) -> str:
    """Six digits, or as many as tell it from 1."""
    return next(
        text for text in (f"{factor:.{n}g}" for n in (6, 9, 12, 17)) if text != "1" or factor == 1
    )
