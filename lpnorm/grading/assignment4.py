"""Assignment 4: weight norm and bounded weight norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lpnorm.grading.functions import Functions
from lpnorm.grading.rubric import NOT_JUDGED, Assignment, Item, Question, compare, parts
from lpnorm.verify import weights
from lpnorm.verify.candidates import Candidate
from lpnorm.verify.cases import Case, Outcome
from lpnorm.verify.diagnosis import known
from lpnorm.verify.mistakes import WEIGHTS
from lpnorm.verify.reference import arithmetics
from lpnorm.verify.trials import Trial, follows

Array = np.ndarray
NORMS = (2, 1, 3, 1.5)


def _cases(rng: np.random.Generator, layer: str, norms: Sequence[float]) -> list[Case]:
    """Random v of several shapes; entries keep away from 0, where the L1 norm has a kink."""
    found = []
    for p in norms:
        for shape in ((3, 7), (5, 4), (4, 4)):
            v = rng.uniform(0.2, 2, shape) * rng.choice([-1.0, 1.0], shape) * rng.choice([0.1, 3])
            arrays = {"v": v, "dw": rng.standard_normal(shape)}
            settings = {}
            if layer == "weight_norm":
                arrays["g"] = rng.uniform(0.5, 2, shape[0]) * rng.choice([-1.0, 1.0], shape[0])
            else:
                settings["rho"] = float(rng.uniform(0.5, 4))
            found.append(Case("secret", "", layer, arrays, settings, p))
    return found


def _wrong(pairs: list[tuple[Case, dict[str, Any]]], name: str) -> str:
    """What is wrong with one output of the cases, "" if nothing is; named if it is known."""
    words = ""
    for case, got in pairs:
        want = weights.expected(case)[name]
        words = words or compare(
            f"{name}, p = {case.p}" if case.p else name, got[name], want, {}, 1
        )
        if not words:
            limit = weights.allowed(case, arithmetics("float64")[-1])[name]
            if not np.all(abs(np.asarray(got[name]) - want) <= limit):
                words = compare(f"{name}, p = {case.p}", got[name], want, {}, 0)
    if not words:
        return ""
    for outputs in (list(pairs[0][1]), [name]):  # what explains all of them, or else this one
        for p in NORMS:
            found = known(_usable(pairs, p, outputs))
            if found is not None:
                return found.words
    return words


def _usable(pairs: list[tuple[Case, dict[str, Any]]], p: float, outputs: list[str]) -> Any:
    """Cases of one norm as the judge wants them: arrays of the right shapes."""
    found = []
    for case, got in pairs:
        want = weights.expected(case)
        if case.p == p and all(np.shape(got[each]) == want[each].shape for each in outputs):
            found.append((case, {each: np.asarray(got[each], "float64") for each in outputs}))
    return found


def _forward(name: str, layer: str) -> Any:
    bounded = layer == "bounded_weight_norm"

    def judge(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        f, pairs, changed = functions.get(name, keep=(1,)), [], False
        for case in _cases(rng, layer, NORMS if bounded else (2,)):
            v = case.arrays["v"].copy()
            w, _ = parts(f(v, *_second(case)), "w", "cache")
            pairs.append((case, {"w": w}))
            changed |= v.tobytes() != case.arrays["v"].tobytes()
        words = _wrong(pairs, "w")
        yield "values", words or ("v is changed: it must stay as it was" if changed else "")

    return judge


def _second(case: Case) -> tuple[Any, ...]:
    if case.layer == "weight_norm":
        return (case.arrays["g"].copy(),)
    return (case.settings["rho"], case.p)


def _backward(name: str, of: str, layer: str, outputs: tuple[str, ...]) -> Any:
    """A judge of gradients; with a forward that is wrong, of those of that forward."""
    bounded = layer == "bounded_weight_norm"

    def judge(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        f, b = functions.get(of, keep=(1,)), functions.get(name)

        def run(case: Case) -> dict[str, Any]:
            w, cache = parts(f(case.arrays["v"].copy(), *_second(case)), "w", "cache")
            given = b(case.arrays["dw"].copy(), cache)
            gradients = (given,) if bounded else parts(given, *outputs)
            return {"w": w, **dict(zip(outputs, gradients, strict=True))}

        pairs = [(case, run(case)) for case in _cases(rng, layer, NORMS if bounded else (2,))]
        stands = bool(_wrong(pairs, "w"))
        for output in outputs:
            if not stands:
                yield output, _wrong(pairs, output)
            else:
                yield (
                    output,
                    next(filter(None, (_own(f, *pair, output, rng) for pair in pairs)), ""),
                )
        if not bounded:
            return
        if stands or _wrong(pairs, "dv"):
            yield "edges", f"{NOT_JUDGED}: w or dv is wrong"
            return
        yield "edges", next(filter(None, (_at_zero(run, p, rng) for p in (1, 1.5, 3))), "")

    return judge


def _own(
    f: Callable[..., Any],
    case: Case,
    got: dict[str, Any],
    output: str,
    rng: np.random.Generator,
) -> str:
    """Is a gradient that of this (wrong) forward?"""
    v, rest = case.arrays["v"], _second(case)
    right = weights.expected(case)["w"]
    if np.shape(got["w"]) != v.shape or np.corrcoef(got["w"].ravel(), right.ravel())[0, 1] < 0.8:
        return "the forward is too far off for its gradient to be judged"
    at = v if output == "dv" else rest[0]
    if np.shape(got[output]) != np.shape(at):
        return f"{output} has shape {np.shape(got[output])}, {np.shape(at)} expected"
    trial = Trial(case, Outcome(**{output: np.asarray(got[output], "float64")}))
    if output in follows(_Forward(f), trial, rng):
        return ""
    return f"{output} is not the derivative of this forward (which is wrong itself)"


class _Forward(Candidate):
    """A student's forward, as the judge calls one."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f

    def run(self, case: Case, backward: bool) -> Outcome:
        return Outcome(w=np.asarray(self.f(case.arrays["v"].copy(), *_second(case))[0]))


def _at_zero(run: Callable[[Case], dict[str, Any]], p: float, rng: Any) -> str:
    """Weights that are exactly 0: sign(0) = 0, and no NaN."""
    v = rng.choice([-2.0, -1.0, 1.0, 3.0], (3, 6))
    v[:, 1] = v[1, 4] = 0
    arrays = {"v": v, "dw": rng.standard_normal(v.shape)}
    case = Case("zeros", "", "bounded_weight_norm", arrays, {"rho": 1.5}, p)
    return compare(f"dv with zeros in v, p = {p}", run(case)["dv"], weights.expected(case)["dv"])


def _rho(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f = functions.get("bounded_norm")
    words = ""
    for case in _cases(rng, "bounded_weight_norm", NORMS):
        wrong = {
            mistake.diagnosis: weights.values(case, mistake.lines)["bounded_norm"]
            for mistake in WEIGHTS
            if set(mistake.lines) == {"bounded_norm"} and mistake.applies(case.layer, case.p)
        }
        want = weights.expected(case)["bounded_norm"]
        words = words or compare(f"p = {case.p}", f(case.arrays["v"].copy(), case.p), want, wrong)
    yield "values", words


ASSIGNMENT = Assignment(
    4,
    "Weight norm and bounded weight norm",
    "04_weight_norm",
    (
        Question(
            "weight_norm",
            "weight_norm(v, g) -> (w, cache)",
            (Item("values", 3, "w of random v and g"),),
            _forward("weight_norm", "weight_norm"),
        ),
        Question(
            "weight_norm_backward",
            "weight_norm_backward(dw, cache) -> (dv, dg)",
            (Item("dv", 3, "the gradient of v"), Item("dg", 2, "the gradient of g")),
            _backward("weight_norm_backward", "weight_norm", "weight_norm", ("dv", "dg")),
        ),
        Question(
            "bounded_norm",
            "bounded_norm(v, p) -> rho, a float",
            (Item("values", 2, "rho for p = 1, 1.5, 2 and 3"),),
            _rho,
        ),
        Question(
            "bounded_weight_norm",
            "bounded_weight_norm(v, rho, p) -> (w, cache)",
            (Item("values", 3, "w for p = 1, 1.5, 2 and 3"),),
            _forward("bounded_weight_norm", "bounded_weight_norm"),
        ),
        Question(
            "bounded_weight_norm_backward",
            "bounded_weight_norm_backward(dw, cache) -> dv",
            (
                Item("dv", 4, "the gradient of v for p = 1, 1.5, 2 and 3"),
                Item("edges", 1, "weights that are exactly 0", hidden=True),
            ),
            _backward(
                "bounded_weight_norm_backward",
                "bounded_weight_norm",
                "bounded_weight_norm",
                ("dv",),
            ),
        ),
    ),
)
