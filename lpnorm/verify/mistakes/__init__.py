"""The catalogue: mistakes people make, each the right program with lines replaced.

A candidate that is wrong is compared with every entry that applies to its layer and norm; the
entry that reproduces its numbers is the diagnosis, and the lines it replaced are what to compare
with. Values: see `lpnorm.verify.formula`. Entries that give the same numbers as another for some
norm do not apply to that norm.
"""

from __future__ import annotations

from typing import Any

from lpnorm.verify.formula import Formula
from lpnorm.verify.mistakes.backward import BACKWARD, MORE_AXES
from lpnorm.verify.mistakes.common import Mistake
from lpnorm.verify.mistakes.forward import FORWARD, NO_CONSTANT
from lpnorm.verify.mistakes.steps import DESCENT, WEIGHTS

CATALOGUE = FORWARD + BACKWARD + MORE_AXES
__all__ = ["BACKWARD", "CATALOGUE", "DESCENT", "NO_CONSTANT", "WEIGHTS", "Mistake", "applying"]


def applying(formula: Formula, layer: str, p: Any) -> list[Mistake]:
    """The entries for this layer and norm."""
    every = CATALOGUE + WEIGHTS + DESCENT
    return [m for m in every if m.formula is formula and m.applies(layer, p)]
