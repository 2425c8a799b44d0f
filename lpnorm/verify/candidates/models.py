"""Layers that hold their parameters and statistics, of any library, made to look alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lpnorm.verify.candidates.common import Array, Candidate, Raised
from lpnorm.verify.cases import Case, Outcome

GAMMA = ("weight", "gamma", "scale", "g", "w")
BETA = ("bias", "beta", "shift", "offset", "b")
Pull = Callable[[Array], tuple[Any, Mapping[str, Array]]]


class Model:
    """One layer with its state. forward gives y and what turns dy into dx and the gradients by the
    parameters' names; the statistics change in training. What foreign code raises is `Raised`.

    given: the x of the last forward, as it is afterwards. plain: statistics that a saved state
    leaves out. attached: those that hold on to the graph of the batches before.
    """

    kind = "layer"
    has_backward = True
    by_hand = False  # its backward is written by hand, so may be one for training alone
    eps: float | None = None
    momentum: float | None = None
    given: Array | None = None
    plain: Sequence[str] = ()
    uninitialised: Sequence[str] = ()

    def parameters(self) -> dict[str, Array]:
        raise NotImplementedError

    def set(self, values: Mapping[str, Array]) -> None:
        raise NotImplementedError

    def clear(self) -> None:
        """Gradients to zero where a training loop does it: in parameters that hold their own."""

    def forward(self, x: Array, train: bool) -> tuple[Array, Pull]:
        raise NotImplementedError

    def statistics(self) -> dict[str, Array]:
        return {}

    def attached(self) -> Sequence[str]:
        return ()


class LayerCandidate(Candidate):
    """A layer or what makes one: a fresh one a call, its parameters set, in training mode.

    make: a `Model` for a case (its channels, dtype and axes). fixed: the shape it was built for.
    """

    has_backward = True
    takes_eps = False

    def __init__(
        self, make: Callable[[Case], Model], fixed: tuple[int, ...] | None, probe: Case
    ) -> None:
        self.make = make
        many = None if fixed is None else math.prod(fixed)
        batch = probe.layer == "batch_norm"
        self.groups, self.size = (many, None) if batch else (None, many)
        self.shape = None if batch else fixed
        model = make(probe)
        self.kind, self.eps, self.has_backward = model.kind, model.eps, model.has_backward
        self.names = names_of(model.parameters())
        self.affine, self.shift = (name is not None for name in self.names)
        pairs = zip(("gamma", "beta"), self.names, strict=True)
        self.taken = [f"{ours} = {name}" for ours, name in pairs if name is not None]

    def begin(self, case: Case) -> Model:
        model = self.make(case)
        own, values = model.parameters(), {}
        for name, given in zip(self.names, (case.gamma, case.beta), strict=True):
            if name is not None:
                if given.size != own[name].size:
                    shape = tuple(own[name].shape)
                    raise Raised(f"a parameter has shape {shape} for {given.size} channels")
                values[name] = given.reshape(own[name].shape)
        model.set(values)
        return model

    def unset(self, case: Case) -> Sequence[str]:
        """Parameters that nobody has set in a fresh layer: memory as it was."""
        return self.make(case).uninitialised

    def run(self, case: Case, backward: bool) -> Outcome:
        return self.step(self.begin(case), case, backward)

    def step(self, model: Model, case: Case, backward: bool) -> Outcome:
        """Forward and backward of a model that has the case's parameters."""
        y, pull = model.forward(case.x, True)
        same = model.given is None or np.array_equal(model.given, case.x, equal_nan=True)
        changed = "" if same else "x"
        if not backward or not self.has_backward:
            return Outcome(y).marked(changed)
        dx, found = pull(case.dy)
        gradients = []
        for name, values in zip(self.names, (case.gamma, case.beta), strict=True):
            each = None if name is None else found.get(name)
            alike = each is not None and each.size == values.size
            gradients.append(each.reshape(values.shape) if alike and each is not None else each)
        return Outcome(y, dx, *gradients).marked(changed)


def names_of(parameters: Mapping[str, Array]) -> list[str | None]:
    """Which parameters are gamma and beta: by the last part of their names, at any depth; or by
    what they begin as, ones and zeros; or else in the order they have."""
    left = dict(parameters)
    found: list[str | None] = [None, None]
    for i, known in enumerate((GAMMA, BETA)):
        last = {name: name.replace("/", ".").rpartition(".")[2].lower() for name in left}
        for name in [n for own in known for n in left if last[n] == own][:1]:
            found[i] = name
            del left[name]
    for i, start in enumerate((1, 0)):
        like = [name for name, q in left.items() if bool((q == start).all())]
        for name in [*like, *left][:1] if found[i] is None else ():
            found[i] = name
            del left[name]
    return found
