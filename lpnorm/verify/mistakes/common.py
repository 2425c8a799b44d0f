"""What a known mistake is, and the layers and norms to which one applies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lpnorm.verify.formula import NORM, Formula, Value


@dataclass(frozen=True)
class Mistake:
    """A known mistake: its name, what to say, the lines it replaces, and where it applies."""

    name: str
    diagnosis: str
    lines: dict[str, Value]
    applies: Callable[[str, Any], bool]  # of layer and p
    formula: Formula = NORM

    @property
    def compare(self) -> str:
        """The lines of mathematics the mistake departs from, as they should read."""
        return self.formula.text(*self.lines)


def always(layer: str, p: Any) -> bool:
    return True


def finite(layer: str, p: Any) -> bool:
    return isinstance(p, (int, float)) and math.isfinite(p)


def all_but(*excluded: Any) -> Callable[[str, Any], bool]:
    return lambda layer, p: p not in excluded


def only(*included: Any) -> Callable[[str, Any], bool]:
    return lambda layer, p: p in included


def lp(layer: str, p: Any) -> bool:
    return finite(layer, p) and p not in (1, 2)


def top(layer: str, p: Any) -> bool:
    return getattr(p, "k", 1) > 1


def ordered(layer: str, p: Any) -> bool:
    return hasattr(p, "k") or is_range(p) or p == math.inf


def batch(layer: str, p: Any) -> bool:
    return layer == "batch_norm"


def layer_norm(layer: str, p: Any) -> bool:
    return layer == "layer_norm"


def off_centre(layer: str, p: Any) -> bool:
    return p != 2 and not is_range(p)


def is_range(p: Any) -> bool:
    return type(p).__name__ == "Range"
