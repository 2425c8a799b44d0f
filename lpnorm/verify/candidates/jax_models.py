"""Layers of flax, Haiku, Equinox and Keras: functions of parameters, statistics and x.

Each becomes apply(parameters, statistics, x, train) -> (y, statistics), with trees of arrays; the
gradients come from jax.vjp, or from torch's autograd for Keras on torch. One compilation serves all
calls of a shape.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lpnorm.verify.candidates.common import Array, JaxLibrary, Raised, TorchLibrary, theirs
from lpnorm.verify.candidates.models import Model, Pull
from lpnorm.verify.candidates.numpy_models import build
from lpnorm.verify.cases import Case

Apply = Callable[[Any, Any, Any, bool], tuple[Any, Any]]
Start = tuple[Apply, Any, Any, str, Any]  # apply, parameters, statistics, what it is, the layer
TRAIN = ("use_running_average", "train", "training", "is_training", "deterministic")


class TreeModel(Model):
    """A layer as a function of trees of arrays."""

    def __init__(self, start: Start, compiled: dict[Any, Any], case: Case) -> None:
        jax: Any = importlib.import_module("jax")
        self.apply, parameters, statistics, self.kind, layer = start
        self.eps = _number(layer, "epsilon", "eps")
        self.momentum = _number(layer, "momentum")
        self.compiled, self.dtype = compiled, case.dtype

        def cast(a: Any) -> Any:
            floats = hasattr(a, "dtype") and jax.numpy.issubdtype(a.dtype, jax.numpy.floating)
            return jax.numpy.asarray(a, case.dtype) if floats else a

        with JaxLibrary().scope():
            self.tree = jax.tree_util.tree_map(cast, parameters)
            self.state = jax.tree_util.tree_map(cast, statistics)

    def parameters(self) -> dict[str, Array]:
        return _named(self.tree)

    def set(self, values: Mapping[str, Array]) -> None:
        jax: Any = importlib.import_module("jax")

        names = iter(_names(self.tree))
        with JaxLibrary().scope():
            self.tree = jax.tree_util.tree_map(
                lambda a: jax.numpy.asarray(values.get(next(names), a)), self.tree
            )

    def statistics(self) -> dict[str, Array]:
        return {name: a for name, a in _named(self.state).items() if a.dtype.kind == "f"}

    def forward(self, x: Array, train: bool) -> tuple[Array, Pull]:
        library = JaxLibrary()
        with library.scope(), theirs():
            y, state = self._compiled("forward", train)(self.tree, self.state, library.to(x))
            y = library.back(y)
        before = self.state
        self.state = state if train else self.state

        def pull(dy: Array) -> tuple[Any, Mapping[str, Array]]:
            with library.scope(), theirs():
                backward = self._compiled("backward", train)
                tree, dx = backward(self.tree, before, library.to(x), library.to(dy))
                return library.back(dx), _named(tree)

        return y, pull

    def _compiled(self, what: str, train: bool) -> Any:
        """One compilation for all models that this candidate makes."""
        jax: Any = importlib.import_module("jax")

        def forward(tree: Any, state: Any, x: Any) -> Any:
            return self.apply(tree, state, x, train)

        def backward(tree: Any, state: Any, x: Any, dy: Any) -> Any:
            y, pull = jax.vjp(lambda tree, x: self.apply(tree, state, x, train)[0], tree, x)
            return pull(dy.astype(y.dtype))

        key = what, train, tuple((name, a.shape) for name, a in self.parameters().items())
        if key not in self.compiled:
            self.compiled[key] = jax.jit(forward if what == "forward" else backward)
        return self.compiled[key]


def _names(tree: Any) -> list[str]:
    jax: Any = importlib.import_module("jax")

    def word(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))

    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [".".join(map(word, path)).removesuffix(".value") for path, _ in paths]


def _named(tree: Any) -> dict[str, Array]:
    jax: Any = importlib.import_module("jax")

    leaves = jax.tree_util.tree_leaves(tree)
    return {name: np.array(a) for name, a in zip(_names(tree), leaves, strict=True)}


def _number(layer: Any, *names: str) -> float | None:
    """The first attribute of these names that is a number."""
    found = (getattr(layer, name, None) for name in names)
    return next((float(a) for a in found if isinstance(a, float)), None)


# ---- the libraries ------------------------------------------------------------------------------


def _flax(module: Any, case: Case) -> Start:
    """A flax.linen.Module, statistics in the collection batch_stats."""
    jax: Any = importlib.import_module("jax")

    taken = inspect.signature(type(module).__call__).parameters
    name = next((each for each in TRAIN if each in taken), None)
    if getattr(module, "use_running_average", None) is not None:
        module = module.clone(use_running_average=None)

    def mode(train: bool) -> dict[str, bool]:
        inverted = name in ("use_running_average", "deterministic")
        return {} if name is None else {name: train != inverted}

    def apply(parameters: Any, state: Any, x: Any, train: bool) -> tuple[Any, Any]:
        variables = {"params": parameters, **state}
        if not train or not state:
            return module.apply(variables, x, **mode(train)), state
        y, state = module.apply(variables, x, **mode(train), mutable=list(state))
        return y, state

    started = dict(module.init(jax.random.key(0), jax.numpy.asarray(case.x), **mode(True)))
    parameters = started.pop("params", {})
    return apply, parameters, started, f"flax module {type(module).__name__}", module


def _nnx(module: Any, case: Case) -> Start:
    """A flax.nnx.Module."""
    nnx: Any = importlib.import_module("flax.nnx")

    graph, parameters, state = nnx.split(module, nnx.Param, ...)

    def apply(parameters: Any, state: Any, x: Any, train: bool) -> tuple[Any, Any]:
        layer = nnx.merge(graph, parameters, state, copy=True)
        layer.train() if train else layer.eval()
        y = layer(x)
        return y, nnx.split(layer, nnx.Param, ...)[2]

    return apply, parameters, state, f"flax nnx module {type(module).__name__}", module


def _haiku(pair: Any, case: Case) -> Start:
    """What hk.transform or hk.transform_with_state gives, of a function of x (and is_training)."""
    jax: Any = importlib.import_module("jax")

    stateful = "State" in type(pair).__name__
    x, key = jax.numpy.asarray(case.x), jax.random.key(0)
    try:
        started, more = pair.init(key, x, True), True
    except TypeError:
        started, more = pair.init(key, x), False
    parameters, state = started if stateful else (started, {})

    def apply(parameters: Any, state: Any, x: Any, train: bool) -> tuple[Any, Any]:
        given = (x, train) if more else (x,)
        if stateful:
            y, state = pair.apply(parameters, state, None, *given)
            return y, state
        return pair.apply(parameters, None, *given), state

    return apply, parameters, state, "Haiku transform", None


def _equinox(made: Any, case: Case) -> Start:
    """An equinox.Module, or (layer, state) of make_with_state; over the batch by vmap."""
    equinox: Any = importlib.import_module("equinox")
    jax: Any = importlib.import_module("jax")

    layer, state = made if isinstance(made, tuple) else (made, None)
    tree, static = equinox.partition(layer, equinox.is_inexact_array)
    axis = getattr(layer, "axis_name", "batch")

    def apply(parameters: Any, state: Any, x: Any, train: bool) -> tuple[Any, Any]:
        whole = equinox.combine(parameters, static)
        whole = equinox.nn.inference_mode(whole, value=not train)
        if state is not None:
            over = {"axis_name": axis, "in_axes": (0, None), "out_axes": (0, None)}
            y, state = jax.vmap(whole, **over)(x, state)
            return y, state
        shape = getattr(whole, "shape", None)
        f = whole
        for _ in range(x.ndim - (len(shape) if shape is not None else x.ndim - 1)):
            f = jax.vmap(f)
        return f(x), state

    return apply, tree, state, f"Equinox module {type(layer).__name__}", layer


def maker(candidate: Any) -> tuple[Callable[[Case], Model], tuple[int, ...] | None]:
    """How to make a `Model` of a layer of these libraries, or of its factory.

    The libraries are those that are imported: a candidate of theirs has them imported.
    """
    compiled: dict[Any, Any] = {}
    starts = {"flax": _flax, "nnx": _nnx, "haiku": _haiku, "equinox": _equinox, "keras": _keras}

    def make(case: Case) -> Model:
        with JaxLibrary().scope() if "jax" in sys.modules else theirs(), theirs():
            made = candidate if kind_of(candidate) else build(candidate, case.gamma.size)
            kind = kind_of(made)
            if kind == "keras":
                backend = importlib.import_module("keras").backend.backend()
                if backend == "torch":
                    return KerasOnTorch(made, case)
                if backend != "jax":
                    raise Raised(f"Keras runs on {backend}: the judge takes jax and torch")
            start = starts.get(kind)
            if start is None:
                raise Raised(f"{type(made).__name__} is no layer")
            return TreeModel(start(made, case), compiled, case)

    return make, None


def kind_of(thing: Any) -> str:
    """Which of these libraries the thing is a layer of; "" for none."""
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    equinox, keras = sys.modules.get("equinox"), sys.modules.get("keras")
    if isinstance(thing, type):
        return ""
    if linen is not None and isinstance(thing, linen.Module):
        return "flax"
    if nnx is not None and isinstance(thing, nnx.Module):
        return "nnx"
    if "haiku" in sys.modules and type(thing).__name__ in ("Transformed", "TransformedWithState"):
        return "haiku"
    if equinox is not None and isinstance(
        thing[0] if isinstance(thing, tuple) and thing else thing, equinox.Module
    ):
        return "equinox"
    if keras is not None and isinstance(thing, keras.Layer):
        return "keras"
    return ""


def _last(variables: Any) -> list[str]:
    """Names without the layer's, which is another one each time."""
    return [str(v.path).rpartition("/")[2] for v in variables]


def _rebuilt(layer: Any, case: Case) -> tuple[Any, Any]:
    """A Keras layer of the case's dtype, built; and how to call it: stateless_call by names."""
    made = type(layer).from_config({**layer.get_config(), "dtype": case.dtype})
    if not made.built:
        made.build(case.x.shape)
    modes = "training" in inspect.signature(made.call).parameters

    def apply(parameters: Any, state: Any, x: Any, train: bool) -> tuple[Any, Any]:
        mode = {"training": train} if modes else {}
        names, held = _last(made.trainable_variables), _last(made.non_trainable_variables)
        given = [parameters[n] for n in names], [state[n] for n in held]  # a tree sorts its names
        y, after = made.stateless_call(*given, x, **mode)
        return y, dict(zip(held, after, strict=True))

    return made, apply


def _values(layer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    both = layer.trainable_variables, layer.non_trainable_variables
    parameters, state = (dict(zip(_last(v), (a.value for a in v), strict=True)) for v in both)
    return parameters, state


def _keras(layer: Any, case: Case) -> Start:
    """A keras.Layer on JAX."""
    made, apply = _rebuilt(layer, case)
    return apply, *_values(made), f"Keras layer {type(layer).__name__}", layer


class KerasOnTorch(Model):
    """A keras.Layer on torch, through its stateless_call and torch's autograd."""

    def __init__(self, layer: Any, case: Case) -> None:
        self.layer, self.apply = _rebuilt(layer, case)
        self.kind = f"Keras layer {type(layer).__name__}"
        self.eps, self.momentum = _number(layer, "epsilon"), _number(layer, "momentum")
        library = TorchLibrary()
        self.values, self.state = (
            {name: library.back(a) for name, a in values.items()} for values in _values(self.layer)
        )

    def parameters(self) -> dict[str, Array]:
        return self.values

    def set(self, values: Mapping[str, Array]) -> None:
        self.values = {**self.values, **values}

    def statistics(self) -> dict[str, Array]:
        return {name: a for name, a in self.state.items() if a.dtype.kind == "f"}

    def forward(self, x: Array, train: bool) -> tuple[Array, Pull]:
        torch: Any = importlib.import_module("torch")
        library = TorchLibrary()
        with theirs():
            given = {name: library.to(a).requires_grad_(True) for name, a in self.values.items()}
            state = {name: library.to(a) for name, a in self.state.items()}
            tensor = library.to(x).requires_grad_(True)
            y, after = self.apply(given, state, tensor, train)
            if train:
                self.state = {name: library.back(a) for name, a in after.items()}

        def pull(dy: Array) -> tuple[Any, Mapping[str, Array]]:
            with theirs():
                wanted, upstream = [tensor, *given.values()], library.to(dy).to(y.dtype)
                found = torch.autograd.grad(y, wanted, upstream, allow_unused=True)
            dx, *rest = (None if a is None else library.back(a) for a in found)
            return dx, {n: a for n, a in zip(given, rest, strict=True) if a is not None}

        return library.back(y), pull
