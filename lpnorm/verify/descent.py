"""The checks of SGD: an optimizer over some steps, in the situations that trip one up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lpnorm.verify import weights
from lpnorm.verify.candidates.common import CannotRun, Raised
from lpnorm.verify.candidates.optimizers import DEFAULTS, Maker, NotTried
from lpnorm.verify.cases import Case, half
from lpnorm.verify.diagnosis import known
from lpnorm.verify.formula import SGD
from lpnorm.verify.reference import Arithmetic
from lpnorm.verify.report import Check, Report
from lpnorm.verify.trials import error

Array = np.ndarray
PLAIN_STEPS = "thirty steps"
WORDS = {  # what it means that this alone is wrong, where the plain steps are right
    "gradients refilled in place": "the buffer is the gradient's own memory, which the next "
    "backward overwrites",
    "the learning rate changes": "a changed learning rate is ignored, or rescales the past",
    "two groups": "a group's own settings are not used",
    "gradients that are None": "a parameter whose gradient is None moves",
}
TERMS = ("the gradient", "the gradient of the step before", "the weight", "the last step")
Steps = dict[str, Any]  # cases, none (steps without a gradient), groups, rates, in_place


def checks(
    make: Maker, asked: dict[str, Any], dtypes: tuple[str, ...] | None, report: Report
) -> Iterator[Check]:
    """Every check of an optimizer. Raises CannotRun."""
    own = make.settings()
    settings = {"lr": 0.1, **DEFAULTS, **own, **asked}
    sign = -1.0 if settings.pop("maximize") else 1.0
    takes_none = make.takes_none
    for found in _none_at_all(make):
        takes_none = False
        yield found
    tried = False
    for dtype in dtypes or ("float64", "float32"):
        alone = True  # are the plain steps right? Else what fails later may follow from them
        for name, why, steps in _scenarios(settings, dtype, takes_none, set(own)):
            found = _judge_scenario(
                make, name, why, {**steps, "sign": sign, "idle": takes_none}, dtype, report, alone
            )
            alone &= name != PLAIN_STEPS or found.status != "failed"
            tried |= found.status != "skipped"
            yield found
    if not tried:
        raise CannotRun("no scenario could be tried")


def _none_at_all(make: Maker) -> Iterator[Check]:
    """Is a parameter that has no gradient refused?"""
    ones = np.ones(2, "float32")
    if not make.takes_none:
        return
    try:
        make.start([ones, ones]).step([ones, None])
    except Raised as problem:
        try:
            make.start([ones]).step([ones])
        except Raised:
            return  # it fails anyway: that is said where values are judged
        why = "a parameter whose gradient is None is left alone: no momentum, no decay"
        words = f"it wants a gradient for every parameter ({problem})"
        yield Check("no gradient", "limited", why, words, words)


def _scenarios(
    settings: dict[str, Any], dtype: str, takes_none: bool, own: set[str]
) -> Iterator[tuple[str, str, Steps]]:
    rng = np.random.default_rng(11)

    def case(name: str, shape: tuple[int, ...], steps: int, **other: Any) -> Case:
        arrays = {"w": half(rng.standard_normal(shape)).astype(dtype)}
        arrays["gradients"] = half(rng.standard_normal((steps, *shape))).astype(dtype)
        return Case(name, "", "sgd", arrays, {**settings, **other})

    def plain(steps: int) -> list[Case]:
        named = {"a matrix": (4, 3), "another of its shape": (4, 3), "a vector": (5,)}
        return [case(name, shape, steps) for name, shape in named.items()]

    why = "thirty steps of two matrices of one shape and a vector: every formula shows here"
    yield PLAIN_STEPS, why, {"cases": plain(30)}
    why = "each backward may write into the same gradient array: nothing may keep a view of it"
    yield "gradients refilled in place", why, {"cases": plain(6), "in_place": True}
    rate = settings["lr"]
    why = "a schedule changes the learning rate of the groups"
    yield (
        "the learning rate changes",
        why,
        {"cases": plain(6), "rates": [rate] * 3 + [rate / 8] * 3},
    )
    second = {"lr": rate / 4, "weight_decay": settings["weight_decay"] + 0.25}
    second = {name: value for name, value in second.items() if name in own}
    groups = [case("a matrix", (4, 3), 6), case("in a second group", (4, 3), 6, **second)]
    why = "parameter groups have settings of their own"
    yield "two groups", why, {"cases": groups, "groups": second}
    if not takes_none:
        return
    why = "a parameter whose gradient is None is left alone: no momentum, no decay"
    yield "gradients that are None", why, {"cases": plain(6), "none": {1: {1, 2, 4}}}


def _judge_scenario(
    make: Maker,
    scenario: str,
    why: str,
    steps: Steps,
    dtype: str,
    report: Report,
    alone: bool,
) -> Check:
    """One scenario; alone: the plain steps are right, so that it says what is wrong if it is."""
    name, is_plain = f"{scenario}, {dtype}", scenario == PLAIN_STEPS
    try:
        outputs, changed = _run_sgd(make, steps)
    except NotTried as problem:
        return Check(name, "skipped", why, f"not tried: {problem}")
    except CannotRun as problem:
        if "groups" in steps:
            return Check(name, "skipped", why, f"it does not take them ({problem})")
        return Check(name, "failed", why, str(problem), str(problem))
    if changed == "decay":
        words = "the decay is added to p.grad itself, so who reads the gradient later is misled"
        return Check(name, "failed", why, words, words)
    if changed:  # as torch.optim.SGD does with nesterov and foreach
        report.notes.append("it uses the gradient's memory as scratch: p.grad is not what it was")
    arithmetic = Arithmetic(dtype, sequential=True)
    bad, errors = [], []
    for i, case in enumerate(steps["cases"]):
        skip = steps.get("none", {}).get(i, set())
        want = _wanted(case, steps.get("rates"), skip)
        limit = weights.allowed(case, arithmetic)["weights"]
        found = error(case.name, outputs[i].astype("float64"), want, limit, dtype)
        if found is not None:
            errors.append(found)
            if not found.fraction <= 1:
                bad.append((i, case, found))
    if not bad:
        return Check(name, "passed", why, str(max(errors, key=lambda e: e.fraction)))
    if "rates" in steps and _velocity(steps, outputs, arithmetic):
        report.conventions.append(
            "the learning rate is inside the buffer (velocity form): a change of it does not reach "
            "the steps before"
        )
        return Check(name, "passed", why, "the velocity form")
    detail = "; ".join(str(found) for _, _, found in bad)
    said = None
    if not {"rates", "none"} & set(steps):
        said = known([(case, {"weights": outputs[i]}) for i, case, _ in bad])
    words, compare = (said.words, said.compare) if said else ("", "")
    if not words and is_plain and len(bad) < len(steps["cases"]):
        words = f"wrong for {', '.join(case.name for _, case, _ in bad)} alone"
    elif not words and is_plain:
        words = _measured(bad[0][1], outputs[bad[0][0]])
    elif not words and alone:
        words = WORDS[scenario]
    return Check(name, "failed", why, detail, words, compare)


def _terms(case: Case, weights_: Array) -> Array | None:
    """How often a step holds each of `TERMS`, by least squares over all steps but the first; None
    if it is no such sum to 1,000 roundings of the weights.

    With b_t = m b_(t-1) + (1 - dampening) g'_t, g'_t = g_t + l w_(t-1), and w_t = w_(t-1) - lr b_t
    (`oracle.sgd`), take m times the step before from a step: the buffer is gone, and

        w_t - w_(t-1) = -lr (1 - dampening) (g_t + l w_(t-1)) + m (w_(t-1) - w_(t-2)).

    Nesterov's u_t = g'_t + m b_t in the place of b_t gives (1 + m) g'_t - m g'_(t-1), and in it
    w_(t-2) = w_(t-1) - (the last step); decay that is decoupled has terms in the same two. So

        w_t - w_(t-1) = -lr (a g_t + b g_(t-1) + c w_(t-1)) + e (w_(t-1) - w_(t-2))

    holds every form, and what is right for a, b, c and e is read off the oracle's weights.
    """
    g = case.arrays["gradients"].astype("float64")
    w = np.concatenate([case.arrays["w"].astype("float64")[None], weights_.astype("float64")])
    steps, lr = np.diff(w, axis=0), case.settings["lr"]
    columns = [-lr * g[1:], -lr * g[:-1], -lr * w[1:-1], steps[:-1]]
    matrix = np.stack([c.ravel() for c in columns], axis=1)
    found, *_ = np.linalg.lstsq(matrix, steps[1:].ravel(), rcond=None)
    left = abs(matrix @ found - steps[1:].ravel()).max()
    u = float(np.finfo(case.dtype).eps)
    return found if left <= 1e3 * u * abs(w).max() else None


def _round(value: float) -> str:
    return f"{value:.4g}" if abs(value) > 1e-5 else "0"


def _measured(case: Case, got: Array) -> str:
    """Which terms of a step do not have the weight that the right step gives them, in numbers."""
    mine, right = _terms(case, got), _terms(case, weights.expected(case)["weights"])
    if mine is None or right is None:
        return f"a step is no sum of {', '.join(TERMS)}, each so many times"
    off = abs(mine - right) > 1e-4 * (1 + abs(right))
    said = [
        f"{name} counts {_round(m)} times in a step, {_round(r)} is right"
        for name, m, r, wrong in zip(TERMS, mine, right, off, strict=True)
        if wrong
    ]
    return "; ".join(said)


def _wanted(case: Case, rates: list[float] | None, skip: set[int], velocity: bool = False) -> Array:
    """The weights after each step, the learning rate that of the step; see `weights.SGD`."""
    if rates is None and not skip:
        return weights.expected(case)["weights"]
    w, b, found, first = case.arrays["w"].astype("float64"), 0.0, [], True
    for t, gradient in enumerate(case.arrays["gradients"].astype("float64")):
        if t not in skip:
            lr = case.settings["lr"] if rates is None else rates[t]
            start = {**case.settings, "w_old": w, "b_old": b, "gradient": gradient, "first": first}
            step = SGD.run({**start, "lr": lr})
            first, w, b = False, step.w, step.b
            if velocity:  # b holds lr b: the ratio of the rates is what the past lacks
                ratio = lr / rates[t + 1] if rates and t + 1 < len(rates) else 1.0
                b = b * ratio
        found.append(w)
    return np.array(found)


def _run_sgd(make: Maker, steps: Steps) -> tuple[list[Array], str]:
    """The weights of each parameter after each step, and how gradients were changed, if at all."""
    cases: list[Case] = steps["cases"]
    idle = [np.ones((2, 2), cases[0].dtype)] if steps["idle"] else []  # never gets a gradient
    given = [case.arrays["w"] for case in cases]
    run = make.start([*given, *idle], steps.get("groups"))
    found: list[list[Array]] = [[] for _ in cases]
    changed = ""
    for t in range(len(cases[0].arrays["gradients"])):
        if "rates" in steps:
            run.set_rate(steps["rates"][t])
        gradients = [
            None
            if t in steps.get("none", {}).get(i, set())
            else case.arrays["gradients"][t] * steps["sign"]
            for i, case in enumerate(cases)
        ]
        run.step([*gradients, *(None for _ in idle)], steps.get("in_place", False))
        for i, (case, w, after) in enumerate(
            zip(cases, run.weights(), run.gradients(), strict=False)
        ):
            before = found[i][-1] if t else case.arrays["w"]
            found[i].append(w)
            given_ = gradients[i]
            if after is not None and given_ is not None and not np.array_equal(after, given_):
                decayed = given_ + case.settings["weight_decay"] * before
                changed = "decay" if np.allclose(after, decayed, rtol=1e-5) else "scratch"
    if idle and not np.array_equal(run.weights()[-1], idle[0]):
        raise CannotRun("a parameter without a gradient moves")
    return [np.array(each) for each in found], changed


def _velocity(steps: Steps, outputs: list[Array], arithmetic: Any) -> bool:
    for case, got in zip(steps["cases"], outputs, strict=True):
        want = _wanted(case, steps["rates"], set(), velocity=True)
        limit = weights.allowed(case, arithmetic)["weights"] * 8
        found = error(case.name, got.astype("float64"), want, limit, case.dtype)
        if found is not None and not found.fraction <= 1:
            return False
    return bool(steps["cases"][0].settings["momentum"])
