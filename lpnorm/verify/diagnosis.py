"""What is wrong? Localised to an output, measured, then named.

The catalogue's mistakes are the right program with lines replaced, and so are two of them at once:
a name is spoken only for the outputs whose numbers it reproduces. First one mistake for everything
that is wrong; then what explains the first output (y, w), alone or two together; then each gradient
under that. What no entry explains is measured: from y follow the candidate's own mean and scale,
and a gradient is a sum of known terms (`formula.Terms`), so that least squares over all groups
gives how often it holds each. A number that differs is the diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from lpnorm.verify.cases import Case, Outcome
from lpnorm.verify.chosen import CLOSE, EXPLAINS
from lpnorm.verify.formula import Formula
from lpnorm.verify.layers import LAYERS
from lpnorm.verify.measure import OWN, fitted, measured_first, pattern, shape_of_h
from lpnorm.verify.measure_weights import channels
from lpnorm.verify.mistakes import Mistake, applying
from lpnorm.verify.reference import Conventions, constants, default_place, places
from lpnorm.verify.report import Diagnosis
from lpnorm.verify.trials import Trial, off

Array = np.ndarray
Mistakes = tuple[Mistake, ...]
NO_NORM = Conventions(None, "none")


def diagnose(
    trials: Sequence[Trial],
    conventions: Conventions,
    recognised: bool,
    wrong: Sequence[str],
    closely: float = 1.0,
    follows: Callable[[], set[str]] = set,
    right: Sequence[Trial] = (),
) -> Diagnosis | None:
    """What gives the numbers of all these trials; None if there is nothing to say.

    wrong: the outputs that are. recognised: whether the first output is right under the
    conventions; if not, single mistakes in the forward are tried under every convention. closely:
    below 1, only one known mistake that is so much closer than `CLOSE`. follows: the gradients that
    are those of the candidate's own forward: they are not wrong where that is. right: trials that
    are right, which tell apart what gives the same numbers in the others.
    """
    trials = [t for t in trials if t.got is not None and t.want is not None]
    if not trials:
        return None
    search = _Search(trials, conventions, closely, right)
    first = search.formula.outputs[0]
    spread = [conventions] if recognised else _conventions(conventions)
    pool = search.pool
    if first in wrong:
        pool = [m for m in pool if search.formula.forward & set(m.lines)]
    everything = tuple(trials[0].outputs())
    whole = search.nearest(everything, [(m,) for m in pool], spread)
    if whole is not None or closely < 1:
        return None if whole is None else search.named(whole)
    lost = [n for n in wrong if any(not np.all(np.isfinite(t.values(n)[0])) for t in trials)]
    if lost:
        what = " and ".join(lost)
        return Diagnosis(f"{what}: NaN or infinity where a finite number belongs", lost=True)
    if first in wrong:
        follow = follows()
        wrong = [n for n in wrong if n not in follow]
    found = search.explained(first, wrong, pool, spread) if first in wrong else []
    if not found:
        base = OWN if first == "y" and first in wrong else ()
        if first in wrong and search.measures:
            found = [measured_first(trials, conventions)]
        found += search.gradients([n for n in wrong if n != first], base, conventions)
    parts = list({d.words: d for d in found if d is not None and d.words}.values())
    if len(parts) < 2:
        return parts[0] if parts else None
    return Diagnosis(
        "; and ".join(d.words for d in parts),
        ";  ".join(dict.fromkeys(d.compare for d in parts if d.compare)),
        tuple(each for d in parts for each in d.known),
    )


def known(pairs: Sequence[tuple[Case, Mapping[str, Array]]]) -> Diagnosis | None:
    """What gives these outputs of weight norms or SGD, if they are not the right ones."""
    trials = []
    for case, outputs in pairs:
        got = Outcome(**{name: np.asarray(a, "float64") for name, a in outputs.items()})
        trials.append(Trial(case, got, want=LAYERS[case.layer].expected(case, NO_NORM)))
    close = CLOSE[pairs[0][0].dtype] if pairs else 0.0
    wrong = {n for t in trials for n in t.outputs() if off(*t.values(n)) > 1e-3 * close}
    order = [n for n in (trials[0].outputs() if trials else ()) if n in wrong]
    p = pairs[0][0].p if pairs else None
    return diagnose(trials, Conventions(p, "none"), True, order) if order else None


def explains(
    said: Diagnosis, trial: Trial, wrong: Sequence[str] = (), closely: float = 1.0
) -> bool:
    """Does this diagnosis give the numbers of another trial too? wrong: its wrong outputs."""
    first = trial.outputs()[0] if trial.outputs() else ""
    of = {name for names, _, _ in said.known for name in names}
    if not of or (first not in of and set(wrong) - of):
        return False
    search = _Search([trial], said.known[0][2], closely)
    return all(
        search.distance(tuple(n for n in names if n in wrong or not wrong), mistakes, meant, ())
        <= closely * CLOSE[trial.case.dtype]
        for names, mistakes, meant in said.known
    )


class _Search:
    """The catalogue against some trials. measures: whether these tell formulas apart (weight norms
    and SGD have no others)."""

    def __init__(
        self,
        trials: Sequence[Trial],
        conventions: Conventions,
        closely: float,
        right: Sequence[Trial] = (),
    ) -> None:
        case = trials[0].case
        self.right = [t for t in right if t.want is not None]
        self.measures = any({"telling", "axes"} & t.case.flags for t in trials)
        self.trials, self.conventions = trials, conventions
        self.formula: Formula = LAYERS[case.layer].formula
        self.pool = applying(self.formula, case.layer, conventions.p)
        self.close = closely * CLOSE[case.dtype]

    def named(
        self, found: tuple[tuple[str, ...], Mistakes, Conventions], base: Mistakes = ()
    ) -> Diagnosis:
        names, mistakes, meant = found
        words = "; and ".join(m.diagnosis for m in mistakes)
        compare = ";  ".join(m.compare for m in mistakes)
        return Diagnosis(words, compare, ((names, base + mistakes, meant),))

    def nearest(
        self,
        names: tuple[str, ...],
        combined: Sequence[Mistakes],
        spread: Sequence[Conventions],
        base: Mistakes = (),
    ) -> tuple[tuple[str, ...], Mistakes, Conventions] | None:
        """The nearest of these that explain the outputs on top of `base`, under the first
        convention with any. (The first listed of those that are about as near.)"""
        for meant in spread:
            best: tuple[float, Mistakes] = (np.inf, ())
            for mistakes in combined:
                distance = self.distance(names, mistakes, meant, base)
                if distance > self.close:
                    continue
                nearer = distance < 0.5 * best[0]
                alike = best[1] and not nearer and distance <= 2 * best[0] + 1e-15
                if alike and self.right:
                    nearer = self.beside(names, base + mistakes, meant) < 0.5 * self.beside(
                        names, base + best[1], meant
                    )
                if nearer:
                    best = (distance, mistakes)
            if best[1]:
                return names, best[1], meant
        return None

    def beside(self, names: tuple[str, ...], mistakes: Mistakes, meant: Conventions) -> float:
        """How far the mistakes are from the trials that are right."""
        worst = 0.0
        for trial in self.right:
            for name in (n for n in names if n in trial.outputs()):
                value = trial.variant(meant, mistakes, name)
                got = trial.values(name)[0]
                if value is None or value.size != got.size:
                    return np.inf
                worst = max(worst, off(got, value.reshape(got.shape)))
        return worst

    def explained(
        self, first: str, wrong: Sequence[str], pool: list[Mistake], spread: list[Conventions]
    ) -> list[Diagnosis | None]:
        """What gives the first output, and the gradients under it: several mistakes may give the
        same y, and that one is meant under which most gradients are explained."""
        singles: list[Mistakes] = [(m,) for m in pool]
        best: list[Diagnosis | None] = []
        most = (-1, -1)
        rest = [n for n in wrong if n != first]
        for meant, combined in [*((m, singles) for m in spread), (spread[0], _pairs(pool))]:
            near = [m for m in combined if self.distance((first,), m, meant, ()) <= self.close]
            for mistakes in near:
                gradients = list(self.gradients(rest, mistakes, meant))
                named = sum(bool(d and d.known) for d in gradients) - len(gradients)
                if not best or (named, -len(gradients)) > most:
                    most = (named, -len(gradients))
                    best = [self.named(((first,), mistakes, meant)), *gradients]
            if best:
                break
        return best

    def distance(
        self, names: tuple[str, ...], mistakes: Mistakes, meant: Conventions, base: Mistakes
    ) -> float:
        """How far the mistakes are from the candidate; inf unless they explain what is wrong.

        None at all is at no distance from what is right.
        """
        worst, moved = 0.0, 0.0
        for trial in self.trials:
            for name in names:
                got, want = trial.values(name)
                value = trial.variant(meant, base + mistakes, name)
                before = trial.variant(meant, base, name) if base else None
                if value is None:
                    return np.inf
                if np.all(np.isnan(value)) and not np.all(np.isnan(got)):
                    return np.inf
                value = value.reshape(want.shape) if value.size == want.size else value
                worst = max(worst, off(got, value))
                if worst > self.close:
                    return np.inf
                was = want if before is None or before.size != value.size else before
                was = was.reshape(value.shape)
                moved = max(moved, off(was, value))
        return worst if not mistakes or worst <= EXPLAINS * moved else np.inf

    def gradients(
        self, wrong: list[str], base: Mistakes, meant: Conventions
    ) -> Iterator[Diagnosis | None]:
        """What is wrong in each gradient beside what `base` says of them."""
        if base:
            wrong = [n for n in wrong if self.distance((n,), (), meant, base) > self.close]
        if not wrong:
            return
        taken = {line for m in base for line in m.lines}
        taken |= self.formula.forward  # the first output is right, or explained
        pool = [m for m in self.pool if not taken & set(m.lines)]
        singles: list[Mistakes] = [(m,) for m in pool]
        whole = self.nearest(tuple(wrong), singles, [meant], base)
        if whole is not None:
            yield self.named(whole, base)
            return
        for name in wrong:
            one = self.nearest((name,), singles, [meant], base)
            if one is None:
                moving = [m for m in pool if self._moves(name, m, meant, base)]
                one = self.nearest((name,), _pairs(moving), [meant], base)
            yield self.named(one, base) if one else self._measured(name, base, singles, meant)

    def _moves(self, name: str, mistake: Mistake, meant: Conventions, base: Mistakes) -> bool:
        was, now = (self.trials[0].variant(meant, m, name) for m in (base, (*base, mistake)))
        return was is not None and now is not None and off(was, now) > self.close

    def _measured(
        self, name: str, base: Mistakes, singles: list[Mistakes], meant: Conventions
    ) -> Diagnosis | None:
        """How often the output holds each of its terms, alone or beside one known mistake."""
        words = fitted(self.trials, name, base, meant) if self.measures else None
        if words:
            return Diagnosis(words, self.formula.text(name))
        for mistakes in singles if self.measures and words is None else ():
            words = fitted(self.trials, name, base + mistakes, meant)
            if words:
                told = [m.diagnosis for m in mistakes] + [words]
                lines = self.formula.text(*dict.fromkeys(k for m in mistakes for k in m.lines))
                compare = ";  ".join(filter(None, [lines, self.formula.text(name)]))
                return Diagnosis("; and ".join(told), compare)
        words = pattern(self.trials, name, meant)
        if self.measures and not words:
            words = shape_of_h(self.trials, name, base, meant)
        if self.measures and not words and name == "dv":
            words = channels(self.trials, meant)
        if self.measures and not words and name in self.formula.terms:
            terms = [text for text, _, _ in self.formula.terms[name].terms]
            words = f"{name} is no sum of {' and '.join(terms)}: something else is in it"
        return Diagnosis(words, self.formula.text(name)) if words else None


def _pairs(pool: Sequence[Mistake]) -> list[Mistakes]:
    return [(a, b) for a, b in combinations(pool, 2) if not set(a.lines) & set(b.lines)]


def _conventions(usual: Conventions) -> list[Conventions]:
    found = [usual]
    for c in constants(usual.p):
        for place in [default_place(usual.p), *places(usual.p, c)]:
            each = Conventions(usual.p, place, c, usual.eps)
            if each not in found:
                found.append(each)
    return found
