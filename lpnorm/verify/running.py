"""Running statistics over several batches: which averages a layer collects in training.

What a statistic holds and what momentum means are conventions: each is compared, batch after batch,
with every quantity it may hold and every meaning of momentum,

    new = old + f (batch - old),    f = momentum, 1 - momentum, 1 / t, m / (1 - (1 - m)^t),

t batches so far; the last is the average from 0 divided by its weights' sum (bias-corrected).
Statistics are what changes in training. `evaluation` then follows what is done with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm.verify import cases, chosen, evaluation
from lpnorm.verify.bounds import with_eps
from lpnorm.verify.candidates.common import Raised
from lpnorm.verify.candidates.models import LayerCandidate, Model
from lpnorm.verify.formula import row_statistic
from lpnorm.verify.report import Check
from lpnorm.verify.takes import Subject

Array = np.ndarray
HOLDS = {  # quantity: (what was asked for as `running`, in words)
    "scale": ("scale", "the scale, eps included"),
    "deviation": ("scale", "the scale without eps"),
    "statistic": ("scale", "the statistic without the Gaussian constant C"),
    "unbiased deviation": ("scale", "the unbiased standard deviation"),
    "variance": ("variance", "the biased variance (the square of the scale without eps)"),
    "unbiased variance": ("variance", "the unbiased variance"),
    "variance with eps": ("variance", "the variance plus eps"),
    "squared scale": ("variance", "the square of the scale, eps included"),
    "reciprocal": ("reciprocal", "the reciprocal of the scale, averaged as a reciprocal"),
    "plain reciprocal": ("reciprocal", "the reciprocal of the scale without eps"),
}
WHY = "evaluation must use averages that were collected in training, in one convention throughout"
BATCHES = 4
NAMES = ("run", "mov", "mean", "var", "std", "avg", "average", "scale")  # of what is a statistic


def checks(judge: Subject) -> Iterator[Check]:
    """Running statistics, and evaluation with them; nothing for what has no state."""
    if judge.layer != "batch_norm":
        return
    try:
        training = Training(judge)
        if training.model is not None:
            yield from training.checks()
    except Raised as error:
        words = f"it raised {error}"
        yield Check("running statistics", "failed", WHY, words, words)


@dataclass
class Held:
    """What a statistic holds, and how it is averaged: "new", "kept", "cumulative", "corrected",
    "seeded" or "share", f then being the share of a new batch."""

    quantity: str
    meaning: str
    f: float | None = None


class Training:
    """One layer over some batches."""

    def __init__(self, judge: Subject) -> None:
        self.judge, self.layout, self.dtype = judge, judge.layouts[0], judge.dtype
        self.u, self.batches = float(np.finfo(self.dtype).eps) / 2, BATCHES
        self.case = self.batch(0)
        model = judge.candidate.begin(self.case)
        self.model: Model = model
        self.names: list[str] = []
        if model is not None:
            first = model.statistics()
            self.names = [q for q, a in first.items() if a.size in (1, judge.groups)]
            self.plain = set(model.plain)

    @property
    def eps(self) -> float:
        return self.judge.conventions.eps or self.judge.eps(self.dtype)

    def batch(self, i: int) -> cases.Case:
        n = max(8, cases.least(self.judge.p))
        rows = cases.gaps(n, self.judge.groups, seed=i) * 2.0 ** (i % 3) + i
        return cases.build("running", WHY, rows, self.layout, self.dtype, self.eps)

    def held(self) -> dict[str, Array]:
        """The statistics as they are now, one number a channel."""
        found = self.model.statistics()
        return {
            q: np.broadcast_to(np.asarray(found[q], "float64").ravel(), self.judge.groups)
            for q in self.names
            if q in found and found[q].size in (1, self.judge.groups)
        }

    def quantities(self, x: Array) -> dict[str, Array]:
        """What a statistic may hold of this batch, one number a channel."""
        rows = self.layout.rows(x.astype("float64"))
        n, conventions = rows.shape[1], self.judge.conventions
        eps = 0.0 if conventions.place == "none" else self.eps
        d = rows - rows.mean(axis=1, keepdims=True)
        phi = row_statistic(d, self.judge.p)
        c = conventions.c(n)
        s = with_eps(phi, self.judge.p, eps, c, conventions.eps_place)[0][:, 0]
        plain = c * phi[:, 0]
        more = n / (n - 1)
        return {
            "mean": rows.mean(axis=1),
            "scale": s,
            "deviation": plain,
            "unbiased deviation": plain * math.sqrt(more),
            "variance": plain**2,
            "unbiased variance": plain**2 * more,
            "variance with eps": plain**2 + eps,
            "squared scale": s**2,
            "reciprocal": 1 / s,
            "plain reciprocal": 1 / plain,
            "statistic": phi[:, 0],
        }

    # ---- the checks ----

    def checks(self) -> Iterator[Check]:
        self._unset()
        yield from self._before()
        seen, batches = [self.held()], []
        for i in range(1, BATCHES + 1):
            x = self.batch(i).x
            self.model.forward(x, True)
            batches.append(self.quantities(x))
            seen.append(self.held())
        moved = {q for q in self.names if any(not np.array_equal(v[q], seen[0][q]) for v in seen)}
        sizes = {q: a.size for q, a in self.model.statistics().items()}
        self.names = [  # what changes; also what a library keeps as state, or what is called so
            q
            for q in self.names
            if q in moved
            or (not self.model.by_hand and q not in self.plain)
            or (sizes.get(q) == self.judge.groups and _called(q))
        ]
        self.names = [  # but no counter: that is the same for every channel
            q
            for q in self.names
            if q not in moved or self.judge.groups == 1 or any(np.ptp(v[q]) for v in seen)
        ]
        if not self.names:
            self.judge.report.notes.append("it has no running statistics")
            return
        if names := " and ".join(q for q in self.model.attached() if q in self.names):
            words = (
                f"{names}: not detached from the graph, so every batch keeps all those before it "
                "in memory"
            )
            yield Check("running statistics, detached", "failed", WHY, words, words)
        held: dict[str, Held] = {}
        for name in self.names:
            found = self._recognise([b[name] for b in seen], batches)
            if isinstance(found, str):
                words, known = f"{name} {found}", self.judge.values_wrong
                at = f"running statistics, {name}"
                yield Check(at, "failed", WHY, words, words, general=known)
                continue
            held[name] = found
        said = list(self._said(held, seen[0]))
        yield from said
        unknown = len(held) < len(self.names) or any(check.status == "failed" for check in said)
        yield from evaluation.checks(self, held, seen[-1], unknown)
        yield from self._lost()

    def _unset(self) -> None:
        """What is uninitialised memory until somebody sets it."""
        of = self.judge.candidate
        names = of.unset(self.case) if isinstance(of, LayerCandidate) else ()
        if names:
            words = f"{' and '.join(names)}: uninitialised memory until somebody sets it"
            self.judge.report.conventions.append(words)

    def _before(self) -> Iterator[Check]:
        """Evaluation before any training: with whatever the statistics start as, but no NaN."""
        why = "a layer may be evaluated before its first training step: no NaN there"
        fresh = self.judge.candidate.begin(self.case)
        try:
            y, _ = fresh.forward(self.batch(9).x, False)
        except Raised:
            return  # it refuses, loudly; after training it may not
        if not np.all(np.isfinite(y)):
            words = "evaluation before the first training step gives NaN or infinity"
            yield Check("evaluation before training", "failed", why, words, words)

    def _lost(self) -> Iterator[Check]:
        """Statistics that no saved state has; what one value a channel leaves in them."""
        plain = [name for name in self.names if name in self.plain]
        if plain:
            words = f"{' and '.join(plain)}: no buffer, so state_dict() and .to() leave it out"
            yield Check("statistics are buffers", "limited", WHY, words, words)
        shape = [1] * self.layout.ndim
        shape[self.layout.axis % self.layout.ndim] = self.judge.groups
        poisoned = self.batch(3).x.copy()
        poisoned.reshape(-1)[0] = np.inf
        for x, what in (
            (self.batch(3).x[:0], "an empty batch"),
            (np.ones(shape), "one value a channel (n = 1)"),
            (poisoned, "infinity in x"),
        ):
            try:
                self.model = self.judge.candidate.begin(self.case)
                self.model.forward(self.batch(1).x, True)
                before = self.held()
                self.model.forward(x.astype(self.dtype), True)
            except Raised:
                continue  # it refuses, as it may
            after = self.held()
            names = [q for q, v in after.items() if not np.all(np.isfinite(v))]
            names = [q for q in names if np.all(np.isfinite(before[q]))]
            words = f"{what} makes {' and '.join(names)} NaN for good"
            if names and x is poisoned:  # as torch's do
                self.judge.report.notes.append(words)
            elif names:
                yield Check(f"statistics after {what}", "limited", WHY, words, words)

    # ---- what is held, and how ----

    def _recognise(self, values: list[Array], batches: list[dict[str, Array]]) -> Held | str:
        """What it holds, or in words what is wrong."""
        momentum = self.model.momentum
        meanings: list[tuple[str, Callable[[int], float], float | None]] = []
        if momentum is not None:
            meanings.append(("new", lambda t: momentum, momentum))
            meanings.append(("kept", lambda t: 1 - momentum, 1 - momentum))
        meanings.append(("cumulative", lambda t: 1 / t, None))
        n, quantities = max(8, cases.least(self.judge.p)), list(batches[0])
        follows = [
            (self._off(values, [b[q] for b in batches], f, n), Held(q, meaning, share))
            for q in quantities
            for meaning, f, share in meanings
        ]
        nearest = min(off for off, _ in follows)
        if nearest <= 1:  # in float16 several fit: the first that is about as near as the nearest
            return next(each for off, each in follows if off <= max(2 * nearest, 0.02))
        for q in quantities:
            if (found := self._of_its_own(values, [b[q] for b in batches], q, n)) is not None:
                return found
        return self._wrong(values, batches, n)

    def _of_its_own(self, values: list[Array], of: list[Array], q: str, n: int) -> Held | None:
        """An average from 0 divided by the sum of its weights, or one that starts at the first
        batch: both hold that after one batch, and f of the second tells m, 1 / (2 - m) or m."""
        with np.errstate(all="ignore"):
            f2 = float(np.median((values[2] - values[1]) / (of[1] - values[1])))
        m = 2 - 1 / f2 if f2 else 0.0
        if 0 < m < 1 and self._off(values, of, lambda t: m / (1 - (1 - m) ** t), n) <= 1:
            return Held(q, "corrected", m)
        if 0 < f2 < 1 and self._off(values, of, lambda t: 1.0 if t == 1 else f2, n) <= 1:
            return Held(q, "seeded", f2)
        return None

    def _wrong(self, values: list[Array], batches: list[dict[str, Array]], n: int) -> Held | str:
        momentum, quantities = self.model.momentum, list(batches[0])
        if all(np.array_equal(v, values[0]) for v in values):
            return "is never updated in training"
        if all(np.array_equal(v, values[1]) for v in values[1:]):
            return "is updated by the first batch only"
        for q in quantities:
            if all(np.allclose(v, b[q]) for v, b in zip(values[1:], batches, strict=True)):
                return f"is not averaged: it holds the last batch's {q}"
        c = self.judge.conventions.c(n)
        if momentum is not None and c != 1:
            steps = zip(values, values[1:], batches, strict=False)
            moved = [(o + momentum * (b["statistic"] - o), w) for o, w, b in steps]
            if all(np.allclose(c * a, w) for a, w in moved):
                return "is multiplied by C at every batch, the old average with it"
            if all(np.allclose(a, w, rtol=1e-4) for a, w in moved):
                return "averages the statistic without the Gaussian constant C"
        for q in quantities:
            with np.errstate(all="ignore"):
                f0 = float(np.median((values[1] - values[0]) / (batches[0][q] - values[0])))
            of = [b[q] for b in batches]
            if 0 < f0 < 1 and self._off(values, of, lambda t, f0=f0: f0, n) <= 1:
                if momentum is None:
                    return Held(q, "share", f0)
                words = f"a new batch has the share {f0:.4g} in it: momentum is {momentum:g}"
                return f"is averaged with another momentum: {words}"
        for q in quantities:
            if self._off(values, [b[q] for b in batches], lambda t: 1 / (t + 1), n) <= 1:
                return f"counts its start as a batch: the {q} has the share 1 / (t + 1), not 1 / t"
        for q in quantities:
            total = values[0] + np.cumsum([b[q] * (momentum or 1) for b in batches], axis=0)
            if np.allclose(total, values[1:]):
                return f"only adds up: the old {q} is not faded out"
        for q in quantities:
            # new - old = f (k batch - old): f and f k by least squares
            past = np.concatenate(values[:-1])
            matrix = np.stack([-past, np.concatenate([b[q] for b in batches])], axis=1)
            target = np.concatenate(values[1:]) - past
            (f, fk), *_ = np.linalg.lstsq(matrix, target, rcond=None)
            left = abs(matrix @ [f, fk] - target).max()
            if 0 < f < 1 and left <= 1e3 * self.u * abs(matrix).max():
                words = HOLDS.get(q, ("", "the mean"))[1]
                return f"averages {fk / f:.6g} times {words}"
        return "is no running average of the mean, variance, scale or reciprocal scale"

    def _off(self, values: list[Array], of: list[Array], f: Any, n: int) -> float:
        """How far from this average, as a fraction of what rounding explains."""
        worst = 0.0
        for t, (old, new, batch) in enumerate(zip(values, values[1:], of, strict=False), 1):
            slack = (
                chosen.RUNNING
                * (n + chosen.RUNNING_ROUNDINGS)
                * self.u
                * (abs(old) + abs(batch) * 8 + 1)
            )
            off = abs(old + f(t) * (batch - old) - new) / slack
            worst = max(worst, float(np.max(np.where(np.isnan(off), np.inf, off))))
        return worst

    def _said(self, held: dict[str, Held], first: dict[str, Array]) -> Iterator[Check]:
        judge = self.judge
        said = judge.report.conventions
        meanings = {h.meaning: h for h in held.values() if h.meaning != "corrected"}
        shares = {(h.meaning, round(h.f or 0, 6)) for h in held.values()}
        if len({each for each in shares if each[0] != "corrected"}) > 1:
            words = "the running statistics use momentum in different ways: " + ", ".join(
                f"{name} takes the share {each.f:.4g} of a batch"
                if each.f
                else f"{name} is the plain average"
                for name, each in held.items()
            )
            yield Check("running statistics", "failed", WHY, words, words)
            return
        means = [name for name, each in held.items() if each.quantity == "mean"]
        if len(means) == len(held) > 1:  # Haiku keeps each of its averages twice
            words = f"{means[1]} holds the mean, as {means[0]} does"
            yield Check(f"running statistics, {means[1]}", "failed", WHY, words, words)
            return
        for name, each in held.items():
            asked = judge.settings.running
            kind, words = HOLDS.get(each.quantity, ("mean", "the mean"))
            if judge.conventions.place == "none":
                words = words.removesuffix(", eps included")
            if asked is not None and kind not in (asked, "mean"):
                text = f"{name} holds {words}; {asked} was asked for"
                yield Check(f"running statistics, {name}", "failed", WHY, text, text)
                continue
            if each.meaning == "corrected":
                said.append(f"{name} holds {words}, bias-corrected: divided by 1 - (1 - m)^t")
            elif each.quantity not in ("mean", "scale") or (
                each.quantity == "scale" and "var" in name
            ):
                said.append(f"{name} holds {words}")
            start = 0.0 if each.quantity == "mean" else 1.0
            if each.meaning not in ("corrected", "seeded") and not np.all(first[name] == start):
                said.append(f"{name} starts at {first[name][0]:g}")
            yield Check(f"running statistics, {name}", "passed", WHY, f"holds {words}")
        for meaning, each in meanings.items():
            text = {
                "kept": f"momentum = {self.model.momentum} is the share of the old value that is "
                "kept (PyTorch's is the share of the new batch)",
                "cumulative": "running statistics are plain averages over all batches",
                "seeded": "running statistics start at the first batch and take a new share "
                f"{each.f or 0:.4g} of each later one",
                "share": f"running statistics take a new share {each.f or 0:.4g} of each batch",
                "new": "",
            }[meaning]
            if judge.settings.momentum is not None and judge.settings.momentum != meaning:
                text = f"momentum is reversed: {text or 'it is the share of the new batch'}"
                yield Check("momentum", "failed", WHY, text, text)
            elif text:
                said.append(text)


def _called(name: str) -> bool:
    return any(part in name.lower() for part in NAMES)
