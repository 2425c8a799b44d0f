"""Assignment 5: SGD with decay, the effective step size, and its correction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lpnorm.grading.functions import Functions, Unusable
from lpnorm.grading.rubric import NOT_JUDGED, Assignment, Item, Question, compare, parts
from lpnorm.verify import oracle, weights
from lpnorm.verify.cases import Case
from lpnorm.verify.diagnosis import known

Array = np.ndarray


PLANS = (  # item, momentum, decay
    ("decay", 0.0, 0.0),
    ("decay", 0.0, 0.1),
    ("momentum", 0.9, 0.0),
    ("momentum", 0.9, 0.1),
    ("momentum", 0.5, 0.02),
)


def _sgd(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f = functions.get("sgd_step")
    pairs: dict[str, list[tuple[Case, dict[str, Array]]]] = {}
    changed = False
    for item, momentum, decay in PLANS:
        case = _run(rng, momentum, decay)
        w, b = case.arrays["w"], None
        steps = []
        for g in case.arrays["gradients"]:
            given = [a if a is None else np.array(a) for a in (w, g, b)]
            before = repr(given)
            w, b = parts(f(*given, case.settings["lr"], momentum, decay), "w", "b")
            changed |= repr(given) != before
            if np.shape(w) != g.shape or (np.shape(b) != g.shape and momentum):
                raise Unusable(f"w has shape {np.shape(w)} and b {np.shape(b)}, not {g.shape}")
            steps.append(np.asarray(w, "float64"))
        pairs.setdefault(item, []).append((case, {"weights": np.array(steps)}))
    wrong = {item: _wrong(each) for item, each in pairs.items()}
    yield from wrong.items()
    if any(wrong.values()):
        yield "edges", f"{NOT_JUDGED}: the values are wrong"
    else:
        yield "edges", "an array it was given is changed: return new ones" if changed else ""


def _run(rng: np.random.Generator, momentum: float, decay: float) -> Case:
    """Four steps with random gradients."""
    arrays = {"w": rng.standard_normal((3, 4)), "gradients": rng.standard_normal((4, 3, 4))}
    settings = {"lr": float(rng.uniform(0.05, 0.5)), "momentum": momentum, "dampening": 0.0}
    settings |= {"nesterov": False, "weight_decay": decay, "decoupled": False}
    return Case("secret", "", "sgd", arrays, settings)


def _wrong(pairs: list[tuple[Case, dict[str, Array]]]) -> str:
    for case, got in pairs:
        s = case.settings
        name = f"with momentum {s['momentum']} and decay {s['weight_decay']} w [step, row, column]"
        if words := compare(name, got["weights"], weights.expected(case)["weights"]):
            said = known(pairs) or known([(case, got)])
            return said.words if said else words
    return ""


def _norms(w: Array) -> Array:
    return np.sqrt((w * w).sum(axis=1))


def _draw(rng: np.random.Generator) -> tuple[Array, float]:
    w = rng.standard_normal((5, 6)) * rng.uniform(0.2, 4, (5, 1))
    return w, float(rng.uniform(0.01, 0.5))


def _effective(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f, words = functions.get("effective_step_size"), ""
    for _ in range(3):
        w, lr = _draw(rng)
        norms = _norms(w)
        known = {
            "the norm is not squared: the gradient shrinks with it, and so does the angle": lr
            / norms,
            "multiplied by the squared norm instead of divided": lr * norms**2,
            "one norm for all of w, not one for each channel": lr / (w * w).sum(),
            "the learning rate is missing": 1 / norms**2,
            "this is a mean of squares, not a sum": lr / (w * w).mean(axis=1),
        }
        words = words or compare("the step sizes", f(w.copy(), lr), lr / norms**2, known)
        down = (w * w).sum(axis=0)
        if words and np.shape(f(w.copy(), lr)) == down.shape:
            words = "the norms are taken over axis 0: a channel is a row of w"
    yield "values", words


def _corrected(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f, words = functions.get("corrected_step"), ""
    for _ in range(3):
        w, lr = _draw(rng)
        g, target, decay = rng.standard_normal(w.shape), rng.uniform(0.3, 3, 5), 0.1
        ratio = (_norms(w) / target) ** 2

        def step(factor: Any, w: Array = w, g: Array = g, lr: float = lr) -> Array:
            return np.asarray(w - lr * np.reshape(factor, (-1, 1)) * g)

        factor = 1 / (1 - lr * decay)
        known = {
            "the factor 1/(1 - lr weight_decay) is missing": step(ratio),
            "1 - lr weight_decay is multiplied in instead of divided by": step(ratio / factor),
            "the factor is 1/(1 - weight_decay): the learning rate is missing in it": step(
                ratio / (1 - decay)
            ),
            "the ratio of the norms is upside down": step(factor / ratio),
            "the ratio of the norms is not squared": step(factor * np.sqrt(ratio)),
            "the step is not corrected at all": step(np.ones(5)),
            "the ratio of the norms is missing": step(np.full(5, factor)),
            "the weights are decayed as well: the correction replaces the decay": step(
                factor * ratio, (1 - lr * decay) * w
            ),
            "the step is added": step(-factor * ratio),
        }
        got = f(w.copy(), g.copy(), lr, decay, target.copy())
        words = words or compare("w", got, step(factor * ratio), known)
    yield "values", words
    if words:
        yield "run", f"{NOT_JUDGED}: the values are wrong"
        return
    yield "run", _follows(f, rng)


def _follows(f: Any, rng: np.random.Generator) -> str:
    """40 steps on a scale-invariant loss: the directions must be those of the run with decay."""
    n, lr, decay = 6, 0.05, 0.05
    start, matrix = rng.standard_normal((3, n)), rng.standard_normal((n, n))

    def gradient(w: Array) -> Array:
        """Of sum_i u_i^T M u_i with u_i = w_i / ||w_i||: orthogonal to w, and 1/||w|| in size."""
        size = _norms(w)[:, None]
        u = w / size
        slope = u @ (matrix + matrix.T)
        return np.asarray((slope - (slope * u).sum(axis=1, keepdims=True) * u) / size)

    decayed, w = start, start.copy()
    for step in range(40):
        w = np.asarray(f(w.copy(), gradient(w), lr, decay, _norms(decayed)), "float64")
        decayed = oracle.sgd(decayed, [gradient(decayed)], lr, weight_decay=decay)[0]
        if w.shape != start.shape or not np.all(np.isfinite(w)):
            return f"after {step + 1} steps of a run w has NaN or another shape"
    off = abs(w / _norms(w)[:, None] - decayed / _norms(decayed)[:, None]).max()
    if off <= 1e-10:  # measured: 1e-14; without the factor 1/(1 - lr decay): 1e-3
        return ""
    return f"after 40 steps the directions differ from those of the run with decay by {off:.2g}"


def _imposed(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f, words = functions.get("impose_norms"), ""
    for _ in range(3):
        w, _ = _draw(rng)
        target = rng.uniform(0.3, 3, 5)
        norms = _norms(w)
        known = {
            "w is multiplied by the norms but not divided by its own": w * target[:, None],
            "the ratio of the norms is upside down": w * (norms / target)[:, None],
            "one norm for all of w, not one for each channel": w
            * (target / np.sqrt((w * w).sum()))[:, None],
            "the ratio of the norms is squared": w * ((target / norms) ** 2)[:, None],
            "w is only divided by its norm": w / norms[:, None],
        }
        got = f(w.copy(), target.copy())
        words = words or compare("w", got, w * (target / norms)[:, None], known)
    yield "values", words


ASSIGNMENT = Assignment(
    5,
    "SGD with decay, and the step-size correction",
    "05_sgd_decay",
    (
        Question(
            "sgd_step",
            "sgd_step(w, g, b, lr, momentum, weight_decay) -> (w, b)",
            (
                Item("decay", 2, "four steps without momentum, with and without decay"),
                Item("momentum", 3, "four steps with momentum, with and without decay"),
                Item("edges", 1, "new arrays: nothing that was given is changed", hidden=True),
            ),
            _sgd,
        ),
        Question(
            "effective_step_size",
            "effective_step_size(w, lr) -> (N,)",
            (Item("values", 3, "one number for each channel"),),
            _effective,
        ),
        Question(
            "corrected_step",
            "corrected_step(w, g, lr, weight_decay, norms) -> w",
            (
                Item("values", 4, "one step"),
                Item("run", 2, "40 steps have the directions of the run with decay", hidden=True),
            ),
            _corrected,
        ),
        Question(
            "impose_norms",
            "impose_norms(w, norms) -> w",
            (Item("values", 3, "the norms are imposed, the directions kept"),),
            _imposed,
        ),
    ),
)
