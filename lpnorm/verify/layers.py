"""The layers, a row each: the formula, and what a right candidate may give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm.verify import reference, weights
from lpnorm.verify.cases import Case, Outcome
from lpnorm.verify.formula import NORM, SGD, WEIGHT, Formula, Value
from lpnorm.verify.reference import Arithmetic, Conventions

Array = np.ndarray


@dataclass(frozen=True)
class Layer:
    """formula: its lines. expected: the oracle's outputs for a case under conventions. limits: the
    largest errors that rounding explains, in an arithmetic. excused: where NaN and infinity may be.
    run: the formula's values for a case, some lines replaced, beside what a candidate gave, up to a
    line ("": all)."""

    formula: Formula
    expected: Callable[[Case, Conventions], Outcome]
    limits: Callable[[Case, Outcome, Conventions, Arithmetic], dict[str, Array]]
    excused: Callable[[Case, Conventions], dict[str, Array]]
    run: Callable[[Case, Conventions, Mapping[str, Value], Any, str], Any]


def _run_norm(
    case: Case, conventions: Conventions, lines: Mapping[str, Value], got: Any, until: str
) -> Any:
    return NORM.run({**reference.given(case, conventions), "own": got}, lines, until)


def _nothing(case: Case, conventions: Conventions) -> dict[str, Array]:
    return {}


def _limits(
    case: Case, want: Outcome, conventions: Conventions, arithmetic: Arithmetic
) -> dict[str, Array]:
    return weights.allowed(case, arithmetic)


_NORM = Layer(NORM, reference.expected, reference.limits, reference.overflows, _run_norm)
_WEIGHT = Layer(WEIGHT, weights.expected, _limits, _nothing, weights.run)
LAYERS = {
    "batch_norm": _NORM,
    "layer_norm": _NORM,
    "weight_norm": _WEIGHT,
    "bounded_weight_norm": _WEIGHT,
    "sgd": Layer(SGD, weights.expected, _limits, _nothing, weights.run),
}
