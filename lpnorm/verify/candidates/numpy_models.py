"""Layers as plain objects: NumPy classes of courses, and this library's own.

Such an object has forward (or can be called) and backward. Parameters are arrays in attributes (or
in a dict params), or objects with .data and .grad; gradients come back from backward, or lie beside
the parameters (dgamma, grad_gamma, gamma_grad, grads["gamma"]). Training is an argument of forward
(train, training, is_training, mode), an attribute of these names, or the methods train and eval.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lpnorm.verify.candidates.common import Array, CannotRun, Raised, theirs
from lpnorm.verify.candidates.models import BETA, GAMMA, Model, Pull
from lpnorm.verify.cases import Case

SWITCHES = ("train", "training", "is_training", "mode")
STORES = ("grads", "gradients")


class ObjectModel(Model):
    """An object with forward and backward."""

    by_hand = True

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.kind = f"NumPy object {type(layer).__name__}"
        self.has_backward = callable(getattr(layer, "backward", None)) or _own(layer)
        self.call: Callable[..., Any] = layer.forward if hasattr(layer, "forward") else layer
        try:
            taken = inspect.signature(self.call).parameters
        except (TypeError, ValueError):
            taken = {}  # type: ignore[assignment]
        self.switch = next((name for name in SWITCHES if name in taken), None)
        more = getattr(layer, "arguments", {}) if _own(layer) else {}
        value = getattr(layer, "eps", getattr(layer, "epsilon", more.get("eps")))
        self.eps = float(value) if isinstance(value, float) else None
        momentum = getattr(layer, "momentum", None)
        self.momentum = float(momentum) if isinstance(momentum, float) else None

    def _arrays(self) -> dict[str, Any]:
        """Arrays by name, in attributes and in dicts that are attributes; with .data, that."""
        found: dict[str, Any] = {}
        for name, value in vars(self.layer).items() if hasattr(self.layer, "__dict__") else ():
            if isinstance(value, dict):
                found |= {f"{name}.{key}": each for key, each in value.items()}
            else:
                found[name] = value
        return {
            name: value
            for name, value in found.items()
            if isinstance(value, np.ndarray) or isinstance(getattr(value, "data", None), np.ndarray)
        }

    def parameters(self) -> dict[str, Array]:
        named = {
            name: value if isinstance(value, np.ndarray) else value.data
            for name, value in self._arrays().items()
        }
        last = {name: name.rpartition(".")[2].lower() for name in named}
        return {
            name: a
            for name, a in named.items()
            if last[name] in GAMMA + BETA and not name.startswith(("grad", "d"))
        }

    def set(self, values: Mapping[str, Array]) -> None:
        for name, each in values.items():
            store, _, key = name.rpartition(".")
            held = getattr(self.layer, store)[key] if store else getattr(self.layer, key)
            if not isinstance(held, np.ndarray):
                held.data = each.copy()
            elif store:
                getattr(self.layer, store)[key] = each.copy()
            else:
                setattr(self.layer, key, each.copy())

    def clear(self) -> None:
        for held in self._arrays().values():
            if isinstance(getattr(held, "grad", None), np.ndarray):
                held.grad = np.zeros_like(held.grad)

    def _mode(self, train: bool) -> dict[str, Any]:
        """Switch training on or off; what forward has to be told."""
        if self.switch is not None:
            return {self.switch: ("train" if train else "test") if self.switch == "mode" else train}
        for name in SWITCHES[:3]:
            held = getattr(self.layer, name, None)
            if isinstance(held, (bool, np.bool_)):
                setattr(self.layer, name, train)
            elif callable(held) and name == "train":
                held() if train else self.layer.eval()
        return {}

    def forward(self, x: Array, train: bool) -> tuple[Array, Pull]:
        layer = self.layer
        with theirs():
            given = self.call(x, **self._mode(train))
        y, cache = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        if not isinstance(y, np.ndarray):
            raise Raised(f"forward must give an array, it gave {type(y).__name__}")

        def pull(dy: Array) -> tuple[Any, Mapping[str, Array]]:
            with theirs():
                if callable(cache):
                    found = cache(dy)
                elif cache is not None and required(layer.backward) > 1:
                    found = layer.backward(dy, cache)
                else:
                    found = layer.backward(dy)
            several = found if isinstance(found, tuple) else (found,)
            names = _ordered(self.parameters())
            gradients = dict(zip(names, several[1:], strict=False))
            return several[0], gradients or self._gradients(names)

        return y, pull

    def _gradients(self, names: list[str]) -> dict[str, Array]:
        """The gradients that lie beside the parameters."""
        held, found = self._arrays(), {}
        last = {name.rpartition(".")[2]: a for name, a in held.items()}
        for name in names:
            key, value = name.rpartition(".")[2], held[name]
            if not isinstance(value, np.ndarray):
                found[name] = getattr(value, "grad", None)
                continue
            stored = [held.get(f"{store}.{key}") for store in STORES]
            beside = [last.get(f.format(key)) for f in ("d{}", "grad_{}", "{}_grad", "d_{}")]
            found[name] = next((a for a in (*stored, *beside) if a is not None), None)
        return {name: a for name, a in found.items() if a is not None}

    def statistics(self) -> dict[str, Array]:
        known = self.parameters()
        return {
            name: np.array(a, "float64") for name, a in self._numbers().items() if name not in known
        }

    def _numbers(self) -> dict[str, Any]:
        """Arrays and plain numbers: an average may begin as 0.0."""
        found = dict(vars(self.layer)) if hasattr(self.layer, "__dict__") else {}
        for name in [name for name, value in found.items() if isinstance(value, dict)]:
            found |= {f"{name}.{key}": each for key, each in found.pop(name).items()}
        kinds = (np.ndarray, np.floating, float)
        return {
            name: a
            for name, a in found.items()
            if isinstance(a, kinds) and np.asarray(a).dtype.kind == "f"
        }


def _ordered(parameters: Mapping[str, Array]) -> list[str]:
    """gamma, then beta."""
    last = {name: name.rpartition(".")[2].lower() for name in parameters}
    return [n for known in (GAMMA, BETA) for n in parameters if last[n] in known]


def _own(layer: Any) -> bool:
    """A layer of lpnorm.nn: its forward gives y and the backward."""
    return any(base.__module__.startswith("lpnorm.nn") for base in type(layer).__mro__)


def required(f: Any) -> int:
    """How many positional arguments without a default; many if that is not to be known."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return 9
    return sum(q.default is q.empty and q.kind < q.VAR_POSITIONAL for q in parameters)


def is_layer(thing: Any) -> bool:
    """An object that is a layer: forward takes x alone (and perhaps whether it is training)."""
    if isinstance(thing, type):
        return False
    forward = getattr(thing, "forward", None)
    if not callable(forward) or not (callable(getattr(thing, "backward", None)) or _own(thing)):
        return False
    try:
        taken = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return False
    plain = [q for q in taken if q.kind < q.VAR_POSITIONAL and q.name not in SWITCHES]
    return len([q for q in plain if q.default is q.empty]) == 1


def has_state(thing: Any) -> bool:
    """Does it know training from evaluation?"""
    try:
        taken = set(inspect.signature(thing.forward).parameters)
    except (TypeError, ValueError, AttributeError):
        return False
    attributes = [getattr(thing, name, None) for name in SWITCHES]
    return bool(taken & set(SWITCHES)) or any(
        isinstance(a, (bool, np.bool_)) or callable(a) for a in attributes
    )


def object_maker(candidate: Any) -> tuple[Callable[[Case], Model], tuple[int, ...] | None]:
    """How to make a `Model` of an object, a class or a factory channels -> object."""
    if not callable(candidate) or is_layer(candidate):
        model = ObjectModel(candidate)
        own = list(model.parameters().values())

        def same(case: Case) -> Model:
            with theirs():  # what it holds may not let itself be copied
                return ObjectModel(copy.deepcopy(candidate))

        return same, (tuple(own[0].shape) if own else None)

    def made(case: Case) -> Model:
        layer = build(candidate, case.gamma.size, case.dtype)
        held = dict(getattr(layer, "__dict__", {}))
        for name, a in held.items() if case.dtype == "float64" else ():
            if isinstance(a, np.ndarray) and a.dtype == np.float32:  # so that digits show
                setattr(layer, name, a.astype("float64"))
        return ObjectModel(layer)

    if required(candidate):
        return made, None
    own = list(ObjectModel(build(candidate, 0)).parameters().values())  # it has one size
    return made, (tuple(own[0].shape) if own else None)


def build(factory: Any, channels: int, dtype: str = "float64") -> Any:
    """What a class or factory gives for so many channels. Raises CannotRun."""
    wants = required(factory)
    if wants > 1:
        raise CannotRun(
            f"{getattr(factory, '__name__', factory)} wants {wants} arguments: give "
            "a function channels -> layer"
        )
    try:
        taken = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        taken = {}  # type: ignore[assignment]
    module = str(getattr(factory, "__module__", ""))
    keywords = {"dtype": dtype} if "dtype" in taken and module.startswith("lpnorm.") else {}
    with theirs():
        return factory(channels, **keywords) if wants else factory(**keywords)
