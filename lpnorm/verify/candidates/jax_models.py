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
    starts = {"flax": _flax, "nnx": _nnx, "haiku": _haiku, "equinox": _equinox, "keras": None}

    def make(case: Case) -> Model:
        with JaxLibrary().scope() if "jax" in sys.modules else theirs(), theirs():
            made = candidate if kind_of(candidate) else build(candidate, case.gamma.size)
            kind = kind_of(made)
            if kind == "keras":
                return KerasModel(made if made is not candidate else _fresh(made), case)
            start = starts.get(kind)
            if start is None:
                raise Raised(f"{type(made).__name__} is no layer")
            return TreeModel(start(made, case), compiled, case)

    return make, None


def _fresh(layer: Any) -> Any:
    return type(layer).from_config(layer.get_config())


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


class KerasModel(Model):
    """A keras.Layer on the backend JAX or torch, through stateless_call."""

    def __init__(self, layer: Any, case: Case) -> None:
        keras: Any = importlib.import_module("keras")

        self.backend = keras.backend.backend()
        if self.backend not in ("jax", "torch"):
            raise Raised(
                f"Keras runs on {self.backend}: the judge takes its backends jax and torch"
            )
        config = {**layer.get_config(), "dtype": case.dtype}
        self.layer = type(layer).from_config(config)
        if not self.layer.built:
            self.layer.build(case.x.shape)
        self.library: Any = JaxLibrary() if self.backend == "jax" else TorchLibrary()
        self.kind = f"Keras layer {type(layer).__name__}"
        self.eps, self.momentum = _number(layer, "epsilon"), _number(layer, "momentum")
        self.modes = "training" in inspect.signature(layer.call).parameters
        self.values = [self.library.back(v.value) for v in self.layer.trainable_variables]
        self.state = [self.library.back(v.value) for v in self.layer.non_trainable_variables]

    def parameters(self) -> dict[str, Array]:
        return dict(zip(_last(self.layer.trainable_variables), self.values, strict=True))

    def set(self, values: Mapping[str, Array]) -> None:
        names = list(self.parameters())
        self.values = [np.array(values.get(n, a)) for n, a in zip(names, self.values, strict=True)]

    def statistics(self) -> dict[str, Array]:
        names = _last(self.layer.non_trainable_variables)
        return {n: a for n, a in zip(names, self.state, strict=True) if a.dtype.kind == "f"}

    def forward(self, x: Array, train: bool) -> tuple[Array, Pull]:
        library = self.library
        with library.scope(), theirs():
            inputs = [library.to(np.array(a)) for a in (*self.values, x)]
            if self.backend == "torch":
                inputs = [a.requires_grad_(True) for a in inputs]
            state = [library.to(np.array(a)) for a in self.state]

            def call(*given: Any) -> Any:
                mode = {"training": train} if self.modes else {}
                return self.layer.stateless_call([*given[:-1]], state, given[-1], **mode)

            y, after = call(*inputs)
            if train:
                self.state = [library.back(a) for a in after]
            names = list(self.parameters())

        def pull(dy: Array) -> tuple[Any, Mapping[str, Array]]:
            with library.scope(), theirs():
                upstream = library.to(dy)
                if self.backend == "torch":
                    torch: Any = importlib.import_module("torch")

                    found = torch.autograd.grad(y, inputs, upstream.to(y.dtype), allow_unused=True)
                else:
                    jax: Any = importlib.import_module("jax")

                    _, back = jax.vjp(lambda *given: call(*given)[0], *inputs)
                    found = back(upstream.astype(y.dtype))
                values = [None if a is None else library.back(a) for a in found]
            gradients = zip(names, values[:-1], strict=True)
            return values[-1], {n: a for n, a in gradients if a is not None}

        return library.back(y), pull
