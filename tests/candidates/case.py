"""A candidate, what it is judged as, and what is wrong with it; what many candidates need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

C1 = math.sqrt(math.pi / 2)


@dataclass(frozen=True)
class Case:
    """arguments: for `check`. why: one sentence on what is wrong, "" for a right one. said: words
    that the first diagnosis must have."""

    name: str
    candidate: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    said: str = ""

    def __str__(self) -> str:
        return self.name


def c_inf(n: int) -> float:
    """The paper's constant of L-infinity and Top-k."""
    if n == 1:
        return 1.0
    return 0.5 * (1 + math.sqrt(math.pi * math.log(4))) / math.sqrt(2 * math.log(n))


def c_range(n: int) -> float:
    return 1.0 if n == 1 else 1 / math.sqrt(2 * math.log(n))


def c_p(p: float) -> float:
    return (2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)) ** (-1 / p)


def axes_of(x):
    """Everything but the channels, which are axis 1."""
    return (0, *range(2, x.ndim))


def wide(v, x):
    """A vector (C,) shaped to broadcast against x (N, C, ...)."""
    return v.reshape(1, -1, *(1,) * (x.ndim - 2))


def pair(o):
    return o.forward, o.backward
