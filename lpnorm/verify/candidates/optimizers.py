"""Candidates for SGD: optimizers of torch, lpnorm.nn and plain classes, of optax, and of Keras.

A factory parameters -> optimizer with step(), for parameters with .data and .grad (torch's, or
those of lpnorm.nn); an optax.GradientTransformation; a keras.optimizers.Optimizer.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lpnorm.nn import Parameter
from lpnorm.verify.candidates.calling import uses
from lpnorm.verify.candidates.common import Array, CannotRun, JaxLibrary, theirs

DEFAULTS = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}
DEFAULTS |= {"decoupled": False, "maximize": False}
Gradients = Sequence[Array | None]


class NotTried(CannotRun):
    """What a check needs is not there; that is no fault."""


class Run:
    """An optimizer at work. weights and gradients: as they are after the steps so far."""

    def step(self, gradients: Gradients, in_place: bool = False) -> None:
        raise NotImplementedError

    def weights(self) -> list[Array]:
        raise NotImplementedError

    def gradients(self) -> list[Array | None]:
        raise NotImplementedError

    def set_rate(self, rate: float) -> None:
        """Raises NotTried where it cannot be set."""
        raise NotImplementedError


class Maker:
    """How to put an optimizer to work on some weights. settings: what it says of itself."""

    kind = ""
    takes_none = True  # weights without a gradient

    def start(self, weights: Sequence[Array], second: dict[str, Any] | None = None) -> Run:
        """second: the settings of a second group, of all weights but the first."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        return {}


# ---- step() on parameters that hold .data and .grad ----------------------------------------------


class _Steps(Run):
    def __init__(self, maker: _Factory, weights: Sequence[Array], second: Any) -> None:
        self.torch = maker.kind == "torch"
        self.parameters = [self._parameter(w) for w in weights]
        given: Any = self.parameters
        if second is not None:
            if "lr" not in second:
                raise NotTried("it has no groups of parameters with a learning rate of their own")
            given = [{"params": given[:1]}, {"params": given[1:], **second}]
        with theirs():
            self.optimizer = maker.factory(given)

    def _parameter(self, w: Array) -> Any:
        if self.torch:
            torch = importlib.import_module("torch")
            return torch.nn.Parameter(torch.from_numpy(w.copy()))
        return Parameter(w.copy(), f"p{id(w)}")

    def _to(self, gradient: Array) -> Any:
        if self.torch:
            return importlib.import_module("torch").from_numpy(gradient.copy())
        return gradient.copy()

    def _read(self, a: Any) -> Array:
        return np.array(a.detach().numpy() if self.torch else a)

    def step(self, gradients: Gradients, in_place: bool = False) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None:
                parameter.grad = None
            elif in_place and parameter.grad is not None:
                parameter.grad[...] = self._to(gradient)
            else:
                parameter.grad = self._to(gradient)
        with theirs():
            self.optimizer.step()

    def weights(self) -> list[Array]:
        return [self._read(q.data) for q in self.parameters]

    def gradients(self) -> list[Array | None]:
        return [None if q.grad is None else self._read(q.grad) for q in self.parameters]

    def set_rate(self, rate: float) -> None:
        """In every group; without groups, in the attribute that holds it."""
        groups = _groups(self.optimizer)
        for group in groups:
            group["lr"] = rate
        name = next((n for n in ("lr", "learning_rate") if hasattr(self.optimizer, n)), None)
        if not groups and name is None:
            raise NotTried("it has neither param_groups nor an attribute lr to set")
        if not groups:
            setattr(self.optimizer, str(name), rate)


class _Factory(Maker):
    def __init__(self, factory: Any, kind: str) -> None:
        self.factory, self.kind = factory, kind

    def start(self, weights: Sequence[Array], second: dict[str, Any] | None = None) -> Run:
        return _Steps(self, weights, second)

    def settings(self) -> dict[str, Any]:
        """Of the first group."""
        groups = _groups(_Steps(self, [np.ones(2)], None).optimizer)
        return {k: groups[0][k] for k in ("lr", *DEFAULTS) if groups and k in groups[0]}


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    for name in ("param_groups", "groups"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    return []


# ---- optax --------------------------------------------------------------------------------------


class _Updates(Run):
    def __init__(self, transformation: Any, weights: Sequence[Array]) -> None:
        self.transformation = transformation
        with JaxLibrary().scope(), theirs():
            self.held = [JaxLibrary().to(w) for w in weights]
            self.state = transformation.init(self.held)

    def step(self, gradients: Gradients, in_place: bool = False) -> None:
        optax = importlib.import_module("optax")
        with JaxLibrary().scope(), theirs():
            given = [JaxLibrary().to(np.asarray(g)) for g in gradients]
            updates, self.state = self.transformation.update(given, self.state, self.held)
            self.held = optax.apply_updates(self.held, updates)

    def weights(self) -> list[Array]:
        return [np.array(w) for w in self.held]

    def gradients(self) -> list[Array | None]:
        return [None for _ in self.held]

    def set_rate(self, rate: float) -> None:
        for state in self.state if isinstance(self.state, tuple) else ():
            held = getattr(state, "hyperparams", state if isinstance(state, dict) else {})
            if "learning_rate" in held:
                held["learning_rate"] = np.asarray(rate, np.asarray(held["learning_rate"]).dtype)
                return
        raise NotTried("its learning rate is fixed: optax.inject_hyperparams lets it change")


class _Optax(Maker):
    kind, takes_none = "optax", False

    def __init__(self, transformation: Any) -> None:
        self.transformation = transformation

    def start(self, weights: Sequence[Array], second: dict[str, Any] | None = None) -> Run:
        if second is not None:
            raise NotTried("a transformation has no groups")
        return _Updates(self.transformation, weights)


# ---- Keras --------------------------------------------------------------------------------------


class _Applies(Run):
    def __init__(self, optimizer: Any, weights: Sequence[Array]) -> None:
        self.keras = importlib.import_module("keras")
        with theirs():
            self.optimizer = optimizer.from_config(optimizer.get_config())
            self.held = [self.keras.Variable(w, dtype=str(w.dtype)) for w in weights]
            self.optimizer.build(self.held)

    def step(self, gradients: Gradients, in_place: bool = False) -> None:
        with theirs():
            given = [self.keras.ops.convert_to_tensor(np.array(g)) for g in gradients]
            self.optimizer.apply(given, self.held)

    def weights(self) -> list[Array]:
        return [np.array(self.keras.ops.convert_to_numpy(w.value)) for w in self.held]

    def gradients(self) -> list[Array | None]:
        return [None for _ in self.held]

    def set_rate(self, rate: float) -> None:
        self.optimizer.learning_rate = rate


class _Keras(Maker):
    kind, takes_none = "Keras", False

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def start(self, weights: Sequence[Array], second: dict[str, Any] | None = None) -> Run:
        if second is not None:
            raise NotTried("a Keras optimizer has no groups")
        if weights[0].dtype == np.float64:
            raise NotTried("Keras keeps the learning rate in float32")
        return _Applies(self.optimizer, weights)

    def settings(self) -> dict[str, Any]:
        """Its weight decay is decoupled."""
        config = self.optimizer.get_config()
        own = {"lr": float(config["learning_rate"]), "momentum": config.get("momentum", 0.0)}
        own["nesterov"] = config.get("nesterov", False)
        return own | {"weight_decay": config.get("weight_decay") or 0.0, "decoupled": True}


def maker(candidate: Any, asked: Mapping[str, Any]) -> Maker:
    """For what was given; a class gets the settings asked for that it takes by name. Raises
    CannotRun, with the error of the attempt that got furthest."""
    keras = sys.modules.get("keras")
    if inspect.isclass(candidate):
        with contextlib.suppress(TypeError, ValueError):  # a builtin has no signature
            taken = inspect.signature(candidate).parameters
            own = {name: value for name, value in asked.items() if name in taken}
            candidate = functools.partial(candidate, **own)
    if hasattr(candidate, "init") and hasattr(candidate, "update"):
        return _Optax(candidate)
    if keras is not None and isinstance(candidate, keras.optimizers.Optimizer):
        return _Keras(candidate)
    if not callable(candidate):
        raise CannotRun(
            f"{type(candidate).__name__} is no candidate for sgd: give a function parameters -> "
            "optimizer, an optax transformation or a Keras optimizer"
        )
    first: CannotRun | None = None
    for kind in ("lpnorm", "torch") if uses(candidate) != "torch" else ("torch",):
        if kind == "torch" and "torch" not in sys.modules and uses(candidate) != "torch":
            continue
        made = _Factory(candidate, kind)
        try:
            made.start([np.ones(2)])
            return made
        except CannotRun as problem:
            first = first or problem
    raise first or CannotRun("the factory takes neither torch's nor lpnorm.nn's parameters")
