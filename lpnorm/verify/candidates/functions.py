"""Functions: a pair in NumPy or CuPy, a function of torch tensors or of JAX arrays."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lpnorm.verify.candidates.calling import Call
from lpnorm.verify.candidates.common import (
    Array,
    Candidate,
    JaxLibrary,
    Raised,
    TorchLibrary,
    back,
    theirs,
)
from lpnorm.verify.candidates.models import Model
from lpnorm.verify.candidates.numpy_models import ObjectModel
from lpnorm.verify.cases import Case, Outcome


class Function(Candidate):
    """A forward of x, gamma, beta, eps."""

    def __init__(self, forward: Call) -> None:
        self.forward, self.takes_eps, self.affine = (
            forward,
            forward.takes_eps,
            forward.positions >= 2,
        )
        self.taken = forward.taken


class Pair(Function):
    """forward(x, gamma, beta, eps) -> (y, cache) and backward(dy, cache) -> gradients."""

    pair = True

    def __init__(self, forward: Call, backward: Callable[..., Any] | None, library: Any) -> None:
        super().__init__(forward)
        self.backward, self.library, self.has_backward = backward, library, backward is not None
        self.changed = ""
        self.owner: Any = None  # the object with state that they are methods of
        self.kind = f"{library.name} " + ("pair" if backward else "forward alone")

    def begin(self, case: Case) -> Model | None:
        """The object they are methods of, in training and evaluation."""
        if self.owner is None:
            return None
        layer = copy.deepcopy(self.owner)
        model, call = ObjectModel(layer), replace(self.forward, function=layer.forward)

        def forward(x: Array, **mode: Any) -> Any:
            told = replace(call, keywords={**call.keywords, **mode})
            return told(x, case.gamma, case.beta, case.eps)

        model.call = forward
        return model

    def call_forward(self, case: Case) -> tuple[Array, Any]:
        """y and the cache, for checks that take forward and backward apart."""
        ours = {"x": case.x, "gamma": case.gamma, "beta": case.beta}
        with self.library.scope():
            arrays = [self.library.to(a) for a in ours.values()]
            with theirs():
                given = self.forward(*arrays, case.eps)
            if not isinstance(given, tuple):
                if self.has_backward:
                    raise Raised(f"forward must give (y, cache), it gave {type(given).__name__}")
                given = (given, None)
            if self.has_backward and len(given) != 2:
                raise Raised(f"forward must give (y, cache), it gave {len(given)} values")
            self.changed = self._changed(arrays, ours)
            return back(self.library, given[0]), given[1] if len(given) > 1 else None

    def call_backward(self, dy: Array, cache: Any) -> list[Array | None]:
        """dx, dgamma, dbeta."""
        assert self.backward is not None
        with self.library.scope():
            array = self.library.to(dy)
            with theirs():
                gradients = self.backward(array, cache)
            if gradients is None:
                raise Raised("backward must give (dx, dgamma, dbeta), it gave None")
            if not isinstance(gradients, (tuple, list)):
                gradients = (gradients,)
            self.changed = self.changed or self._changed([array], {"dy": dy})
            given = [None if a is None else back(self.library, a) for a in gradients]
        if len(given) not in (1, 3):
            raise Raised(f"backward must give (dx, dgamma, dbeta), it gave {len(given)} values")
        return [*given, None, None][:3]

    def _changed(self, arrays: list[Any], of: dict[str, Array]) -> str:
        """Which of the library's copies of our arrays was written to."""
        if self.library.to(next(iter(of.values()))) is next(iter(of.values())):
            return ""  # no copies: whoever called sees it
        return modified([self.library.back(a) for a in arrays], of)

    def run(self, case: Case, backward: bool) -> Outcome:
        y, cache = self.call_forward(case)
        if self.backward is None or not backward:
            return Outcome(y).marked(self.changed)
        return Outcome(y, *self.call_backward(case.dy, cache)).marked(self.changed)


def modified(now: list[Array], of: dict[str, Array]) -> str:
    changed = (
        name
        for a, (name, b) in zip(now, of.items(), strict=True)
        if not np.array_equal(a, b, equal_nan=True)
    )
    return next(changed, "")


class TorchFunction(Function):
    """A function of torch tensors, differentiated by autograd."""

    has_backward = True
    kind = "function of torch tensors"

    def run(self, case: Case, backward: bool) -> Outcome:
        import torch

        library = TorchLibrary()
        ours = {"x": case.x, "gamma": case.gamma, "beta": case.beta}
        inputs = [library.to(a).requires_grad_(backward) for a in ours.values()]
        with theirs():
            y = self.forward(*inputs, case.eps)
            y = y[0] if isinstance(y, tuple) else y
        changed = modified([library.back(a) for a in inputs], ours)
        if not backward:
            return Outcome(back(library, y)).marked(changed)
        wanted, upstream = inputs if self.affine else inputs[:1], library.to(case.dy)
        with theirs():
            gradients = torch.autograd.grad(y, wanted, upstream.to(y.dtype), allow_unused=True)
        given = [None if g is None else library.back(g) for g in gradients]
        return Outcome(back(library, y), *given).marked(changed)


class JaxFunction(Function):
    """A JAX function, differentiated by jax.vjp."""

    has_backward = True
    traced = True
    kind = "JAX function"

    def __init__(self, forward: Call) -> None:
        super().__init__(forward)
        self.compiled: Any = importlib.import_module("jax").jit(self._values)

    def run(self, case: Case, backward: bool) -> Outcome:
        library = JaxLibrary()
        with library.scope():
            upstream = case.dy if backward else np.zeros_like(case.x)
            arrays = [library.to(a) for a in (case.x, case.gamma, case.beta)]
            given = [*arrays, case.eps, library.to(upstream)]
            if self.compiled is not None:  # one compilation a shape, not one an operation
                try:
                    return self._outcome(self.compiled(*given))
                except Exception:  # it cannot be traced, or it does not take these arrays:
                    # the plain call tells which, and whose the error is
                    outcome = self._outcome(self._values(*given))
                    self.compiled = None
                    return outcome
            return self._outcome(self._values(*given))

    def _values(self, x: Any, gamma: Any, beta: Any, eps: Any, dy: Any) -> Any:
        import jax

        def f(*arrays: Any) -> Any:
            with theirs():
                y = self.forward(*arrays, eps)
                return y[0] if isinstance(y, tuple) else y

        with theirs():
            y, pull = jax.vjp(f, x, gamma, beta)
            gradients = pull(dy.astype(y.dtype))
        return (y, *(gradients if self.affine else gradients[:1]))

    def _outcome(self, values: Any) -> Outcome:
        return Outcome(*(JaxLibrary().back(a) for a in values))
