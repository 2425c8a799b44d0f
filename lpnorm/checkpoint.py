"""A training on disk: which training it is, where it stands, and whether it may go on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import nn
from lpnorm.arrays import Array, is_array, library_of, to_device
from lpnorm.data import Dataset
from lpnorm.decay import SGD
from lpnorm.files import load_arrays, save_arrays

CURVES = ("loss", "train_accuracy", "test_accuracy")


@dataclass
class Checkpoint:
    """The file of a training (see `lpnorm.training.train`): written after every epoch, read once.

    settings: what makes it this training, by name (see `identity`); factors: the schedule's, epoch
    by epoch; watchers: role -> what else has `state()` and `load_state(d)`.
    """

    path: Path
    settings: dict[str, Any]
    factors: list[float]
    model: nn.Layer
    optimizer: SGD
    rng: np.random.Generator
    watchers: dict[str, Any]

    def write(self, epoch: int, history: dict[str, Any]) -> None:
        """Write the state after `epoch` epochs, all of it or nothing."""
        parts = {"model": self.model.state(), "momentum": self.optimizer.state()}
        parts |= {role: watcher.state() for role, watcher in self.watchers.items()}
        arrays = {
            f"{part}/{name}": to_device(array, "cpu")
            for part, state in parts.items()
            for name, array in state.items()
        }
        about = {
            "settings": self.settings,
            "factors": self.factors[:epoch],
            "epoch": epoch,
            "steps": self.optimizer.t,
            "rng": self.rng.bit_generator.state,
            "history": history,
            "arrays": {name: _kind(array) for name, array in arrays.items()},
        }
        text = np.frombuffer(json.dumps(about).encode(), "uint8")
        save_arrays(self.path, "checkpoint", {"about": text, **arrays})

    def restore(self) -> tuple[int, dict[str, Any]] | None:
        """Put everything back; the number of epochs done and the history, or None without a file.

        ValueError naming the file and what is damaged, missing or of another training; model and
        optimizer are then as they were.
        """
        if not self.path.exists():
            return None
        arrays = load_arrays(self.path, "checkpoint")
        try:
            about = json.loads(arrays.pop("about").tobytes())
            self._check(about, arrays)
            self._put_back(about, arrays)
        except (KeyError, TypeError, ValueError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"checkpoint {self.path}: {what}") from error
        return about["epoch"], about["history"]

    def _check(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """ValueError unless this training, and nothing else, left this state."""
        theirs, ours = about["settings"], json.loads(json.dumps(self.settings))
        other = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
        if other:
            here, there = ({name: its.get(name) for name in other[:4]} for its in (ours, theirs))
            more = f" ({len(other)} such settings)" if len(other) > 4 else ""
            raise ValueError(f"it is of a training with {there}, not {here}{more}")
        epoch, history = about["epoch"], about["history"]
        if epoch > len(self.factors):
            raise ValueError(f"it holds {epoch} epochs, and epochs is {len(self.factors)}")
        for i, (factor, own) in enumerate(zip(about["factors"], self.factors, strict=False)):
            if factor != own:
                raise ValueError(
                    f"it is of a training whose schedule gives {factor} in epoch {i}, not {own}"
                )
        if about["arrays"] != {name: _kind(array) for name, array in arrays.items()}:
            other = sorted(set(about["arrays"]) ^ set(arrays)) or ["of another shape"]
            raise ValueError(f"its arrays are not those it was written with ({other[0]})")
        finished = epoch - (history["diverged"] is not None)
        if {len(history[curve]) for curve in CURVES} != {finished}:
            raise ValueError(f"its history is not one of {finished} epochs")
        buffers = {name for name in arrays if name.startswith("momentum/")}
        if about["steps"] and not buffers and any(g["momentum"] for g in self.optimizer.groups):
            raise ValueError("it has no momentum")
        for name, array in arrays.items():
            if name.startswith("trace/") and len(array) < about["steps"]:
                raise ValueError(f"{name} has {len(array)} records for {about['steps']} steps")
        finite = {f"model/{p.name}" for p in self.model.parameters()}  # statistics may overflow
        for name in sorted(finite | buffers) if history["diverged"] is None else ():
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} is not finite, but no divergence is recorded")

    def _put_back(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        parts: dict[str, dict[str, Any]] = {"model": {}, "momentum": {}}
        parts |= {role: {} for role in self.watchers}
        for key, array in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = array
        before = self.model.state(), self.optimizer.state(), self.optimizer.t
        try:
            self.model.load_state(parts["model"])
            library = library_of(self.model.parameters()[0].data)
            momentum = {name: library.asarray(a) for name, a in parts["momentum"].items()}
            self.optimizer.load_state(momentum, about["steps"])
            for role, watcher in self.watchers.items():
                watcher.load_state(parts[role])
            self.rng.bit_generator.state = about["rng"]
        except BaseException:
            self.model.load_state(before[0])
            self.optimizer.load_state(*before[1:])
            raise


def identity(
    model: nn.Layer,
    data: Dataset,
    optimizer: SGD,
    augment: Callable[[Array, np.random.Generator], Array] | None,
    batch: int,
    trace: Any,
    before_step: Any,
    after_step: Any,
) -> dict[str, Any]:
    """What makes a training this one and no other: name -> a value that JSON can hold.

    The model by its layers, with all that they were made with, and the shapes of its parameters;
    the data by their bytes; the augmentation by what it makes of the first samples; functions
    (step_scale, before_step, after_step) by their names. Not the initial weights, nor device and
    machine.
    """
    found: dict[str, Any] = {}
    for path, layer in model.layers():
        place = f"model.{path}".rstrip(".")
        found[place] = type(layer).__qualname__
        for name, value in vars(layer).items():
            about = _kind(value.data) if isinstance(value, nn.Parameter) else _described(value)
            if about is not None and name != "impl" and name[0] != "_":  # an impl has the same bits
                found[f"{place}.{name}"] = about
    for name, array in vars(data).items():
        found[f"data.{name}"] = f"{_kind(array)}, {_digest(array)}"
    found["master"] = _described(optimizer.master)
    for i, group in enumerate(optimizer.groups):
        for name, value in group.items():
            about = [p.name for p in value] if name == "params" else _described(value)
            found[f"group {i}: {name}"] = about
    found["augment"] = None
    if augment is not None:
        rng = np.random.default_rng(0)
        x = augment(data.train_x[: min(batch, 8)].copy(), rng)
        found["augment"] = f"{_kind(x)}, {_digest(x)}, {rng.random()} drawn next"
    found["trace"] = None if trace is None else list(trace.norms)
    for name, function in (("before_step", before_step), ("after_step", after_step)):
        found[name] = None if function is None else _called(function)
    return found


def _described(value: Any, depth: int = 3) -> Any:
    """A value as JSON can hold it, the same in every process; None for what is no setting."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.dtype)):
        return str(value)
    if value is None or is_array(value) or isinstance(value, (nn.Layer, nn.Parameter)):
        return None
    if isinstance(value, (list, tuple)):
        each_one = [_described(each, depth) for each in value]
        return None if None in each_one else each_one
    if callable(getattr(value, "state", None)):  # a NormTrace
        return _digest(*value.state().values())
    if isinstance(value, functools.partial):
        value = {"function": value.func, "arguments": value.args, **value.keywords}
    own = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    if hasattr(value, "__qualname__") or not depth:  # a function, a class; or deep enough
        own = {}
    found = {"": _called(value)}
    for name, each in own.items():
        if isinstance(name, str) and name != "t" and not name.startswith("_"):
            found[name] = _described(each, depth - 1)
    found = {name: each for name, each in found.items() if each is not None}
    return found if len(found) > 1 else found[""]


def _called(value: Any) -> str:
    """The name of a function or class, or of an object's class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {tuple(array.shape)}"


def _digest(*arrays: Array) -> str:
    """The start of the SHA-256 of the arrays' bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(to_device(array, "cpu")).reshape(-1).data)
    return f"SHA-256 {digest.hexdigest()[:16]}"
