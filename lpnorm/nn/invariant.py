"""Which weights does the network not feel the length of?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lpnorm.nn.base import Layer, Parameter, check_layer
from lpnorm.nn.containers import Sequential
from lpnorm.nn.linear import Conv2d, Linear
from lpnorm.nn.norm import BatchNorm
from lpnorm.nn.weightnorm import WeightNorm


def scale_invariant(model: Layer) -> list[tuple[Parameter, int]]:
    """[(parameter, channel axis)] of the weights right before a batch norm, and every weight
    norm's v, in their order; each is marked by its `invariant_axis`, all others by None.

    Scaling one output channel of such a weight by a > 0 changes nothing, up to eps (equation 1).
    A weight that also stands somewhere without a batch norm behind it is left out. Layer norm does
    not count: it sees all channels at once, so one channel's scale is felt.
    """
    check_layer("model", model)
    for parameter in model.parameters():  # which also names them as seen from this model
        parameter.invariant_axis = None
    found: dict[int, tuple[Any, int]] = {}
    felt = set()
    for layer, following in _places(model, None):
        invariant = _invariant_in(layer, following)
        for child in layer.children().values():
            if id(child) in invariant:
                found.setdefault(id(child), (child, invariant[id(child)]))
            elif isinstance(child, Parameter):
                felt.add(id(child))
    pairs = [pair for key, pair in found.items() if key not in felt]
    for parameter, axis in pairs:
        parameter.invariant_axis, parameter.invariant_name = axis, parameter.name
    return pairs


def _invariant_in(layer: Layer, following: Layer | None) -> dict[int, int]:
    """id of a parameter of this layer -> its channel axis, for those that are scale-invariant."""
    if isinstance(layer, WeightNorm):
        return {id(v): layer.axis for v in layer.directions()}
    last = -3 if isinstance(layer, Conv2d) else -1
    before_norm = isinstance(following, BatchNorm) and following.axis in (1, last)
    return {id(layer.weight): 0} if before_norm and isinstance(layer, (Linear, Conv2d)) else {}


def _places(layer: Layer, following: Layer | None) -> Iterator[tuple[Layer, Layer | None]]:
    """Every place a layer stands in, with the layer right behind it (None: not known)."""
    yield layer, following
    if isinstance(layer, Sequential):
        for one, behind in zip(layer.sequence, [*layer.sequence[1:], None], strict=False):
            yield from _places(one, behind)
    else:
        for child in layer.children().values():
            if isinstance(child, Layer):
                yield from _places(child, None)
