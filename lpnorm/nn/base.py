"""Parameter and Layer: a call returns its own backward, so nothing hides in self.

    y, backward = layer(x, train=True)
    dx = backward(dy)                     # parameter gradients add up in parameter.grad

The closure `backward` holds what it needs and stands under the forward, with the same names. A
layer may be called twice before going back, a backward may be called more than once, and
composing layers is a loop and a reversed loop (`Sequential`).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from types import ModuleType
from typing import Any

import numpy as np

from lpnorm import plain
from lpnorm.arrays import (
    Array,
    accumulator,
    check_device,
    check_dtype,
    check_gradient,
    is_array,
    library_of,
    namespace,
    not_taken,
    short,
    to_device,
)
from lpnorm.files import load_arrays, save_arrays

Backward = Callable[[Array], Array]
_watchers: list[Callable[[Layer, Array], None]] = []


class Parameter:
    """An array that is learned: .data, .grad (None until a backward adds to it) and .name.

    data: a NumPy or CuPy array, float16, float32 or float64; TypeError otherwise. name: the dotted
    path, as seen from the layer whose `parameters()` gave it; who keeps a record under a name
    (`SGD.state`, `NormTrace`) keeps the name it had then.
    invariant_axis: the channel axis along which `nn.scale_invariant` found the network not to feel
    its scale, or None; invariant_name: the path it had there.
    """

    def __init__(self, data: Array, name: str = "") -> None:
        namespace(data=data)
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {short(name)}")
        self.data = data
        self.grad: Array | None = None
        self.name = name
        self.invariant_axis: int | None = None
        self.invariant_name = ""

    def add_grad(self, grad: Array, fresh: bool = False) -> None:
        """Add to .grad; never in place: who holds an earlier .grad keeps it.

        fresh: the caller made grad, and hands it over: nobody else holds it or has a view of it, so
        a first gradient is kept as it is. Otherwise it is copied, since it may be part of dy.
        """
        if self.grad is None:
            self.grad = grad if fresh else grad.copy()
        else:
            self.grad = self.grad + grad

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={tuple(self.data.shape)}, dtype={self.data.dtype})"


class Layer:
    """Base of all layers: a subclass defines `forward` and holds Parameters, Layers and buffers.

    buffers: names of attributes that are arrays and part of the state but not learned; they are
    kept in the accumulator's dtype, for the `accumulate` given.
    functions: names of what `forward` asks `self.impl` for; impl: who computes, a module (or
    anything) with these functions: `lpnorm.plain`, or `lpnorm.fast` with the same bits.
    """

    buffers: tuple[str, ...] = ()
    accumulate: Any = None
    functions: tuple[str, ...] = ()
    impl: Any = plain

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        raise NotImplementedError

    def __call__(self, x: Array, train: bool = True) -> tuple[Array, Backward]:
        """y and the function dy -> dx. train: batch statistics (True) or the fixed ones (False).

        Raises TypeError or ValueError naming the layer and x; the backward does so for dy, which
        must have the shape and dtype of y.
        """
        kind = type(self).__name__
        namespace(**{f"{kind}: x": x})
        if x.size == 0:
            raise ValueError(f"{kind}: x must not be empty, got shape {tuple(x.shape)}")
        y, unchecked = self.forward(x, train)
        for watcher in _watchers:
            watcher(self, y)
        like, shape = library_of(y).empty(0, y.dtype), y.shape  # y itself need not live so long

        def backward(dy: Array) -> Array:
            check_gradient(f"{kind}: dy", dy, like, shape)
            return unchecked(dy)

        return y, backward

    def __getstate__(self) -> dict[str, Any]:
        """For `copy` and `pickle`, which refuse a module: its name."""
        state = vars(self).copy()
        if isinstance(self.impl, ModuleType):
            state["impl"] = self.impl.__name__
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if isinstance(self.impl, str):
            self.impl = importlib.import_module(self.impl)

    def children(self) -> dict[str, Parameter | Layer]:
        """The parameters and layers this layer holds itself, by attribute name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, (Parameter, Layer))}

    def layers(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """(dotted path, layer) of this layer and all below it, in the order they are held."""
        yield path, self
        for name, child in self.children().items():
            if isinstance(child, Layer):
                yield from child.layers(_dotted(path, name))

    def parameters(self) -> list[Parameter]:
        """All parameters at or below this layer, shared ones once, named by their dotted path."""
        named = self._named()
        for name, parameter in named.items():
            parameter.name = name
        return list(named.values())

    def _named(self) -> dict[str, Parameter]:
        """Dotted path -> parameter, without giving it that name."""
        found: dict[int, tuple[str, Parameter]] = {}
        for path, layer in self.layers():
            for name, child in layer.children().items():
                if isinstance(child, Parameter):
                    found.setdefault(id(child), (_dotted(path, name), child))
        return dict(found.values())

    def to(self, device: str | None = None, dtype: Any = None, impl: Any = None) -> Layer:
        """Move to "cpu" or "gpu" and/or convert to a float dtype, in place; returns the layer.

        Buffers (running statistics) go to the accumulator's dtype: float32 in a float16 model,
        unless its `accumulate` is float16. impl: who computes from now on, in this layer and all
        below it: `lpnorm.fast`, or `lpnorm.plain`, with which a layer begins.
        Raises ValueError or TypeError naming the argument, RuntimeError where there is no GPU;
        then nothing has been changed.
        """
        if impl is not None:
            for _, layer in self.layers():
                layer.check_impl(impl)
        if device is not None:
            check_device(device)
        if dtype is not None:
            check_dtype("dtype", dtype)
            for _, layer in self.layers():
                accumulator(dtype, layer.accumulate)

        def moved(x: Array, dtype: Any) -> Array:
            x = x if device is None else to_device(x, device)
            return x if dtype is None else x.astype(dtype)

        for _, layer in self.layers() if impl is not None else ():
            if layer.functions:
                layer.impl = impl
        for parameter in self._named().values():
            parameter.data = moved(parameter.data, dtype)
            parameter.grad = None if parameter.grad is None else moved(parameter.grad, dtype)
        for _, layer in self.layers():
            for name in layer.buffers:
                wide = None if dtype is None else accumulator(dtype, layer.accumulate).dtype
                setattr(layer, name, moved(getattr(layer, name), wide))
        return self

    def check_impl(self, impl: Any) -> Any:
        """impl, or `lpnorm.plain` for None; TypeError unless it has this layer's functions."""
        impl = plain if impl is None else impl
        for name in self.functions:
            if isinstance(impl, str) or not callable(getattr(impl, name, None)):
                raise TypeError(f"impl must be None or a module with {name}, got {short(impl)}")
        return impl

    def _places(self) -> dict[str, tuple[Any, str]]:
        """name -> (object, attribute) of every array in the state."""
        places: dict[str, tuple[Any, str]] = {n: (p, "data") for n, p in self._named().items()}
        for path, layer in self.layers():
            places.update({_dotted(path, name): (layer, name) for name in layer.buffers})
        return places

    def state(self) -> dict[str, Array]:
        """A copy of every parameter and buffer: dict of dotted name -> array."""
        return {name: getattr(*place).copy() for name, place in self._places().items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put back what `state` returned. Names, shapes and dtypes must agree exactly.

        Raises ValueError naming the first entry that is missing, unknown or different; then
        nothing has been changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict of name -> array, got {short(state)}")
        places = self._places()
        for name in places:
            if name not in state:
                raise ValueError(f"state has no entry {name!r}")
        for name, array in state.items():
            if name not in places:
                raise ValueError(f"state has an entry {name!r} that this model lacks")
            if not is_array(array):
                got = not_taken(f"state[{name!r}]", array)
                raise ValueError(f"state[{name!r}] must be an array, got {got}")
            ours = getattr(*places[name])
            for what in ("shape", "dtype"):
                if getattr(array, what) != getattr(ours, what):
                    raise ValueError(
                        f"state[{name!r}] has {what} {getattr(array, what)}, "
                        f"this model needs {getattr(ours, what)}"
                    )
        for name, (owner, attribute) in places.items():
            on_gpu = not isinstance(getattr(owner, attribute), np.ndarray)
            setattr(owner, attribute, to_device(state[name], "gpu" if on_gpu else "cpu").copy())


def save(layer: Layer, path: str | PathLike[str]) -> None:
    """Write `layer.state()` to an .npz file (no pickle) at this path, all of it or nothing.

    Raises TypeError naming layer, OSError where no file can be written.
    """
    check_layer("layer", layer)
    save_arrays(path, "model", {name: to_device(a, "cpu") for name, a in layer.state().items()})


def load(layer: Layer, path: str | PathLike[str]) -> None:
    """Read what `save` wrote into a layer of the same architecture and dtype.

    Raises FileNotFoundError, or ValueError naming the file and what is damaged, or the entry that
    is missing, unknown or of another shape or dtype; the layer is then unchanged. A file of lpnorm
    0.1.0, which has no seal, is refused: `layer.load_state(dict(numpy.load(path)))` reads it.
    """
    check_layer("layer", layer)
    load_arrays(path, "model", layer.load_state)


@contextlib.contextmanager
def watch(watcher: Callable[[Layer, Array], None]) -> Iterator[None]:
    """Inside this block watcher(layer, y) is called after every forward of every layer."""
    if not callable(watcher):
        raise TypeError(f"watcher must be a function of a layer and its y, got {short(watcher)}")
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def check_layer(name: str, layer: Any) -> None:
    """TypeError, naming the argument, unless it is a Layer."""
    if not isinstance(layer, Layer):
        raise TypeError(f"{name} must be a Layer, got {short(layer)}")


def check_input(
    layer: Layer, x: Array, like: Array, shape: tuple[int | None, ...], hint: str = ""
) -> None:
    """An error naming the layer unless x has this shape (None: any) and the dtype of `like`."""
    kind = type(layer).__name__
    wanted = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
    if x.ndim != len(shape) or any(s not in (None, t) for s, t in zip(shape, x.shape, strict=True)):
        raise ValueError(f"{kind}: x must have shape {wanted}, got {tuple(x.shape)}{hint}")
    check_input_dtype(layer, x, like)


def check_input_dtype(layer: Layer, x: Array, like: Array) -> None:
    """TypeError naming the layer unless x is an array of `like`'s library and dtype.

    The fault may be x's as well as the layer's, so it names both remedies.
    """
    kind = type(layer).__name__
    namespace(**{f"{kind}: x": x, "the layer's parameter": like})
    if x.dtype != like.dtype:
        remedies = f'pass x.astype("{like.dtype}"), or convert with layer.to(dtype="{x.dtype}")'
        raise TypeError(f"{kind}: x has dtype {x.dtype} but the layer {like.dtype}: {remedies}")


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
