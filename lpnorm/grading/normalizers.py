"""Questions about a normalizer's forward and backward: judged by `lpnorm.verify`.

The points come from cases that nobody can know beforehand, drawn from the seed and compared with
the oracle under the convention that was asked for. The words come from `lpnorm.verify.check`, whose
further checks (ties, constant channels, laws, manners) are the item "edges".

A backward is judged on its own: where the forward is wrong, dx and dgamma are right if they are
those of that forward, so that one mistake costs its points once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lpnorm.grading.functions import Functions, Unusable
from lpnorm.grading.rubric import NOT_JUDGED, Judge
from lpnorm.verify import Report, cases, check
from lpnorm.verify.candidates import Candidate, adapt
from lpnorm.verify.reference import Conventions, arithmetics, default_place
from lpnorm.verify.trials import call, errors, follows, judge

LAYOUT = cases.Layout("batch_norm", 2, 1)  # x: (N, C), channels on axis 1
OUTPUTS = ("y", "dx", "dgamma", "dbeta")
LEAST = {"float64": 0.0, "float16": 2.0**-10}  # eps where it should not matter
EPS = [2.0**-9, 0.25]  # eps where it does
USUAL = ("sign(0) = 0", "ties share equally")


def forward(name: str, p: Any, extra: tuple[Any, ...] = (), dtype: str = "float64") -> Judge:
    """A judge for name(x, gamma, beta, eps, *extra) -> (y, cache): items "values" and "edges"."""

    def question(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        pair = _pair(functions, name, None, extra)
        _try(pair, dtype)
        candidate = adapt(pair, {}, "numpy")
        wrong = _against_the_oracle(candidate, p, rng, dtype, [LEAST[dtype]])
        if "y" in wrong:
            report = check_it(pair, p, dtype, True)
            yield "values", _say(report, wrong["y"]) if report.diagnoses else wrong["y"]
            yield "edges", f"{NOT_JUDGED}: the values are wrong"
            return
        yield "values", ""
        more = _against_the_oracle(candidate, p, rng, dtype, EPS)
        yield "edges", _edges(check_it(pair, p, dtype, False), *more.values())

    return question


def backward(name: str, of: str, p: Any, extra: tuple[Any, ...] = (), ties: bool = False) -> Judge:
    """A judge for name(dy, cache) -> (dx, dgamma, dbeta), cache from `of`: items "dx", "dgamma and
    dbeta" and "edges"; ties: and "ties"."""

    def question(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        pair = _pair(functions, of, name, extra)
        _try(pair)
        candidate = adapt(pair, {}, "numpy")
        wrong = _against_the_oracle(candidate, p, rng, "float64", [0.0])
        own = _against_its_forward(candidate, rng) if "y" in wrong else wrong
        report = check_it(pair, p, "float64", True) if own else None
        for item, outputs in (("dx", ("dx",)), ("dgamma and dbeta", ("dgamma", "dbeta"))):
            bad = [output for output in outputs if output in own]
            said = own[bad[0]] if bad else ""
            if bad and report is not None and "y" not in wrong:
                said = _say(_only(report, bad), said)
            yield item, said
        more = _against_the_oracle(candidate, p, rng, "float64", EPS)
        stands = f"{of} is wrong" if "y" in wrong or "y" in more else ""
        stands = stands or ("dx is wrong" if "dx" in own else "")
        full = check_it(pair, p, "float64", False)
        if ties:
            said = f"{NOT_JUDGED}: {stands}" if stands else _ties(full, candidate, p, rng)
            yield "ties", said
            stands = stands or ("ties are wrong" if said else "")
        stands = stands or ("another gradient is wrong" if own else "")
        yield "edges", f"{NOT_JUDGED}: {stands}" if stands else _edges(full, *more.values())

    return question


def _ties(report: Report, candidate: Candidate, p: Any, rng: np.random.Generator) -> str:
    """What is wrong where values are tied: they must share, and share equally."""
    for failed in report.failures:
        if failed.check.startswith("ties"):
            return failed.diagnosis or failed.detail
    for convention in report.conventions:
        if "tied" in convention:
            return f"{convention}: they are asked to share equally"
    rows = rng.permuted(cases.tied(p), axis=1) * rng.choice([0.25, 2.0])
    case = cases.build("ties", "", rows, LAYOUT, "float64", 2.0**-9, int(rng.integers(2**31)))
    return next(iter(_errors(candidate, case, p, "float64").values()), "")


def check_it(pair: Any, p: Any, dtype: str, quick: bool) -> Report:
    """The judge's report. quick: up to the first failure."""
    return check(
        pair, p=p, constant="paper", dtype=dtype, ndim=2, backend="numpy", first_failure=quick
    )


def _pair(functions: Functions, forward: str, backward: str | None, extra: tuple[Any, ...]) -> Any:
    f = functions.get(forward, keep=(1,))

    def both(x: Any, gamma: Any, beta: Any, eps: Any) -> Any:
        return f(x, gamma, beta, eps, *extra)

    def alone(x: Any, gamma: Any, beta: Any, eps: Any) -> Any:
        given = both(x, gamma, beta, eps)
        if not isinstance(given, tuple) or len(given) != 2:
            raise Unusable(f"it must return (y, cache), got {type(given).__name__}")
        return given

    return alone if backward is None else (alone, functions.get(backward))


def _try(pair: Any, dtype: str = "float64") -> None:
    """One plain call: what fails here fails everywhere, and is said once. Raises Raised."""
    x = cases.gaps(12, 2, 1).T.astype(dtype)
    dy = np.resize([1.0, 0.5, -2.0], x.shape).astype(dtype)
    f, b = pair if isinstance(pair, tuple) else (pair, None)
    _, cache = f(x, np.ones(2, dtype), np.zeros(2, dtype), 2.0**-9)
    if b is not None:
        b(dy, cache)


def _against_the_oracle(
    candidate: Candidate, p: Any, rng: np.random.Generator, dtype: str, epses: list[float]
) -> dict[str, str]:
    """What is wrong with each output in random cases: name -> words."""
    wrong: dict[str, str] = {}
    for eps in epses:
        for n in (7, 12, 33):
            seed = int(rng.integers(2**31))
            rows = cases.gaps(n, cases.GROUPS, seed) * rng.choice([0.5, 2.0, 4.0])
            case = cases.build("secret", "", rows, LAYOUT, dtype, eps, seed)
            for name, words in _errors(candidate, case, p, dtype).items():
                wrong.setdefault(name, words)
    return wrong


def _errors(candidate: Candidate, case: cases.Case, p: Any, dtype: str) -> dict[str, str]:
    trial = call(candidate, case)
    if trial.got is None:
        return dict.fromkeys(OUTPUTS, f"it raised {trial.raised}")
    meant = Conventions(p, default_place(p), "paper", None)
    judge(trial, meant)
    sums = [each for each in arithmetics(dtype) if each.accumulate != "float16"]
    found = errors(trial, meant, sums[-1])
    wrong = {error.name: str(error) for error in found if not error.fraction <= 1}
    if candidate.has_backward:
        missing = [name for name in OUTPUTS if name not in trial.outputs()]
        wrong |= {name: f"{name} is missing" for name in missing}
    return wrong


def _against_its_forward(candidate: Candidate, rng: np.random.Generator) -> dict[str, str]:
    """The same for gradients of a forward that is wrong: are they that forward's?

    See `lpnorm.verify.trials.follows`. A forward that has little to do with the right one (a
    correlation below 0.9 in some channel) earns nothing.
    """
    seed = int(rng.integers(2**31))
    rows = cases.gaps(12, cases.GROUPS, seed)
    case = cases.build("own", "", rows, LAYOUT, "float64", 2.0**-9, seed)
    trial = call(candidate, case)
    names = OUTPUTS[1:]
    if trial.got is None:
        return dict.fromkeys(names, f"it raised {trial.raised}")
    got = trial.got
    if got.y.shape != case.x.shape:
        return dict.fromkeys(names, f"y has shape {got.y.shape}, {case.x.shape} expected")
    x_hat = (got.y - case.beta) / case.gamma
    if any(np.corrcoef(a, b)[0, 1] < 0.9 for a, b in zip(x_hat.T, case.x.T, strict=True)):
        return dict.fromkeys(names, "the forward is too far off for its gradient to be judged")
    fit = follows(candidate, trial, rng)
    words = {
        "dx": "dx is not the derivative of this forward (which is wrong itself)",
        "dgamma": "dgamma does not fit this forward (which is wrong itself)",
        "dbeta": "dbeta does not fit this forward (which is wrong itself)",
    }
    if got.dx is None or got.dx.shape != case.x.shape:
        words["dx"] = "dx is missing or has the wrong shape"
    return {name: said for name, said in words.items() if name not in fit}


def _only(report: Report, outputs: list[str]) -> Report:
    """The report, without diagnoses that are about another output alone."""
    others = {"dx", "dgamma", "dbeta"} - set(outputs)
    kept = [
        c for c in report.checks if not any(c.diagnosis.startswith(f"{other} ") for other in others)
    ]
    return Report(report.layer, report.p, report.candidate, kept, ran=report.ran)


def _say(report: Report, otherwise: str) -> str:
    """What the judge says is wrong, in its words."""
    if report.diagnoses:
        return report.diagnoses[0]
    if report.failures:
        return report.failures[0].detail.split("; ")[0]
    return otherwise


def _edges(report: Report, *more: str) -> str:
    if not report.ok:
        return _say(report, "")
    others = [c for c in report.conventions if c not in USUAL]
    if others:
        return f"another convention than asked for: {others[0]}"
    return next((words for words in more if words), "")
