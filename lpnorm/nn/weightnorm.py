"""Wrappers that compute a layer's weights by weight norm or bounded weight norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpnorm import weightnorm
from lpnorm.arrays import Array, accumulator, check_axes, library_of, one_axis, short
from lpnorm.nn.base import Backward, Layer, Parameter, check_layer


class _Computed:
    """Stands where a Parameter stood in the wrapped layer: its weight, computed at every call."""

    def __init__(self, data: Array) -> None:
        self.data = data
        self.grad: Array | None = None

    add_grad = Parameter.add_grad


class WeightNorm(Layer):
    """Wraps a layer so that its weights are w_i = g_i v_i / ||v_i||_p, with v and g learned.

    layer: any layer with weights (out, in, ...); p: a real number >= 1 or math.inf; axis: the
    output channels; weights: the names of the layer's Parameters to normalize. The layer keeps its
    initialization: v starts as the weight, g as its channel norms. The parameters are named
    "<weight>_v" and "<weight>_g"; everything else the layer has (a bias) stays "layer.<name>".
    A weight shared with another layer is no longer shared. Initializing the layer again raises
    ValueError; `unwrap()` bakes the weights back. impl: None (`lpnorm.plain`) or a module with the
    same functions; the wrapped layer has its own. See `lpnorm.weight_norm` for the mathematics.
    """

    functions: tuple[str, ...] = ("weight_norm", "weight_norm_backward")

    def __init__(
        self,
        layer: Layer,
        p: Any = 2,
        axis: int = 0,
        weights: Sequence[str] = ("weight",),
        impl: Any = None,
    ) -> None:
        self.impl = self.check_impl(impl)
        check_layer(f"{type(self).__name__}: layer", layer)
        if isinstance(weights, str) or not all(isinstance(name, str) for name in weights):
            raise TypeError(f"weights must be a tuple of names, got {short(weights)}")
        self.layer, self.p, self.weights = layer, p, tuple(weights)
        if not self.weights or len(set(self.weights)) < len(self.weights):
            raise ValueError(f"weights must name at least one Parameter, each once, got {weights}")
        for name in self.weights:
            if not isinstance(getattr(layer, name, None), Parameter):
                raise ValueError(
                    f"{type(self).__name__}: {type(layer).__name__} has no Parameter {name!r} "
                    f"to normalize; it has {', '.join(self._names()) or 'none'}"
                )
        for name in self.weights:
            weight = getattr(layer, name)
            self.axis = check_axes(one_axis(axis), weight.data.ndim)[0]
            setattr(self, f"{name}_v", Parameter(weight.data))
            self._start(name, weight.data)
        for name in self.weights:  # the layer is changed once nothing can fail any more
            setattr(layer, name, _Computed(getattr(layer, name).data))

    def _names(self) -> list[str]:
        return [k for k, v in self.layer.children().items() if isinstance(v, Parameter)]

    def directions(self) -> list[Parameter]:
        """The v of every wrapped weight: the parameters whose length is not felt."""
        return [getattr(self, f"{name}_v") for name in self.weights]

    def _start(self, name: str, v: Array) -> None:
        """Learned g_i = ||v_i||_p, so that w = v to begin with."""
        ones = library_of(v).ones(v.shape[self.axis], v.dtype)
        _, cache = weightnorm.weight_norm(v, ones, self.p, self.axis)
        setattr(self, f"{name}_g", Parameter(cache.size[:, 0].astype(v.dtype)))

    def _compute(self, name: str) -> tuple[Array, Any]:
        """w, and dw -> None, which adds to the gradients of v and g."""
        v, g = getattr(self, f"{name}_v"), getattr(self, f"{name}_g")
        w, cache = self.impl.weight_norm(v.data, g.data, self.p, self.axis)

        def backward(dw: Array) -> None:
            dv, dg = self.impl.weight_norm_backward(dw, cache)
            v.add_grad(dv, fresh=True)
            g.add_grad(dg)

        return w, backward

    def forward(self, x: Array, train: bool) -> tuple[Array, Backward]:
        computed = [getattr(self.layer, name) for name in self.weights]
        backwards = []
        for name, weight in zip(self.weights, computed, strict=True):
            weight.data, weight_backward = self._compute(name)
            backwards.append(weight_backward)
        y, layer_backward = self.layer(x, train)

        def backward(dy: Array) -> Array:
            dx = layer_backward(dy)
            for weight, weight_backward in zip(computed, backwards, strict=True):
                dw, weight.grad = weight.grad, None
                weight_backward(dw)
            return dx

        return y, backward

    def unwrap(self) -> Layer:
        """The wrapped layer with its present weights as ordinary Parameters again."""
        for name in self.weights:
            setattr(self.layer, name, Parameter(self._compute(name)[0]))
        return self.layer


class BoundedWeightNorm(WeightNorm):
    """Wraps a layer so that its weights are w_i = rho v_i / ||v_i||_p, with rho fixed.

    rho = ||V||_p / N^(1/p) at initialization, kept as the buffer "<weight>_rho"; v is the only
    thing learned. The channels start with the directions the layer had and one common norm. All
    else as for `WeightNorm`; see `lpnorm.bounded_weight_norm` for the mathematics.
    """

    functions = ("bounded_weight_norm", "bounded_weight_norm_backward")

    def _start(self, name: str, v: Array) -> None:
        rho = weightnorm.bounded_norm(v, self.p, self.axis)
        setattr(self, f"{name}_rho", np.full((), rho, accumulator(v.dtype).dtype))
        self.buffers = (*self.buffers, f"{name}_rho")

    def _compute(self, name: str) -> tuple[Array, Any]:
        v, rho = getattr(self, f"{name}_v"), float(getattr(self, f"{name}_rho"))
        w, cache = self.impl.bounded_weight_norm(v.data, rho, self.p, self.axis)

        def backward(dw: Array) -> None:
            v.add_grad(self.impl.bounded_weight_norm_backward(dw, cache))

        return w, backward
