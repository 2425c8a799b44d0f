"""Which weights does the network not feel the length of?"""

from __future__ import annotations

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
    followed: dict[int, Layer] = {}
    for _, layer in model.layers():
        if isinstance(layer, Sequential):
            for first, second in zip(layer.sequence, layer.sequence[1:], strict=False):
                last = -3 if isinstance(first, Conv2d) else -1
                if isinstance(second, BatchNorm) and second.axis in (1, last):
                    followed[id(first)] = first
    model.parameters()  # names every parameter as seen from this model
    found: dict[int, Parameter] = {}
    felt = set()
    for _, layer in model.layers():
        if isinstance(layer, (Linear, Conv2d)):
            if id(layer) in followed:
                found.setdefault(id(layer.weight), layer.weight)
            else:
                felt.add(id(layer.weight))
    return [(weight, 0) for key, weight in found.items() if key not in felt]
