"""Candidates: other people's implementations, made to look alike.

A candidate is a pair (forward, backward) of NumPy or CuPy functions or anything that has those two
names, a forward alone, a torch.nn.Module or a factory channels -> module, a function of torch
tensors, a torch.autograd.Function, a JAX function, a layer of flax, Haiku, Equinox or Keras, or an
object with state (`numpy_models`). Inside, each becomes a `Candidate` that takes a case and gives
NumPy arrays. Libraries are imported only for a candidate that uses them.

Arguments. forward gets x, then gamma, beta, and eps, as many as it takes. A parameter called eps
(or epsilon) gets eps; those called p, constant and axis get what `check` was given, unless a
functools.partial has fixed them.
"""

from lpnorm.verify.candidates.adapt import adapt
from lpnorm.verify.candidates.calling import how_to_call, uses
from lpnorm.verify.candidates.common import (
    LIBRARIES,
    Candidate,
    CannotRun,
    Raised,
    line,
    theirs,
)
from lpnorm.verify.cases import Outcome

__all__ = [
    "LIBRARIES",
    "Candidate",
    "CannotRun",
    "Outcome",
    "Raised",
    "adapt",
    "how_to_call",
    "line",
    "theirs",
    "uses",
]
