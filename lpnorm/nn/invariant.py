"""Which weights does the network not feel the length of?"""

from __future__ import annotations

from collections.abc import Iterator

from lpnorm.nn.base import Layer, Parameter
from lpnorm.nn.containers import Sequential
from lpnorm.nn.linear import Conv2d, Linear
from lpnorm.nn.norm import BatchNorm


def scale_invariant(model: Layer) -> list[tuple[Parameter, int]]:
    """[(parameter, channel axis)] of the weights right before a batch norm, in their order.

    Scaling one output channel of such a weight by a > 0 changes nothing, up to eps (equation 1).
    A weight that also stands somewhere without a batch norm behind it is left out. Layer norm does
    not count: it sees all channels at once, so one channel's scale is felt.
    """
    model.parameters()  # names every parameter as seen from this model
    found: dict[int, Parameter] = {}
    felt = set()
    for layer, following in _places(model, None):
        if isinstance(layer, (Linear, Conv2d)):
            last = -3 if isinstance(layer, Conv2d) else -1
            if isinstance(following, BatchNorm) and following.axis in (1, last):
                found.setdefault(id(layer.weight), layer.weight)
            else:
                felt.add(id(layer.weight))
    return [(weight, 0) for key, weight in found.items() if key not in felt]


def _places(layer: Layer, following: Layer | None) -> Iterator[tuple[Layer, Layer | None]]:
    """Every place a layer stands in, with the layer right behind it (None: not known)."""
    yield layer, following
    if isinstance(layer, Sequential):
        for one, behind in zip(layer.sequence, [*layer.sequence[1:], None], strict=True):
            yield from _places(one, behind)
    else:
        for child in layer.children().values():
            if isinstance(child, Layer):
                yield from _places(child, None)
