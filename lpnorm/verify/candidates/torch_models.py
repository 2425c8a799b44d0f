"""torch modules: gradients by autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lpnorm.verify.candidates.common import Array, TorchLibrary, back, theirs
from lpnorm.verify.candidates.models import LayerCandidate, Model, Pull
from lpnorm.verify.cases import Case

NAMES = ("num_features", "channels", "num_channels", "features", "normalized_shape")


class TorchLayer(LayerCandidate):
    """A module or its factory."""

    def unset(self, case: Case) -> Sequence[str]:
        """torch can fill memory that nobody sets with NaN: then what was left as it was shows."""
        import torch

        before = torch.are_deterministic_algorithms_enabled()
        warn = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            return super().unset(case)
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn)


class TorchModel(Model):
    """A torch.nn.Module."""

    def __init__(self, module: Any, case: Case) -> None:
        import torch

        with theirs():
            module = _begun(module, case.gamma.size)
            self.module = module.to(getattr(torch, case.dtype)).train()
            for each in module.modules() if case.dtype == "float64" else ():
                for name, a in vars(each).items():  # what .to() leaves out, so that digits show
                    if isinstance(a, torch.Tensor) and a.dtype == torch.float32:
                        setattr(each, name, a.double())
        self.kind = f"torch module {type(module).__name__}"
        eps, momentum = (_number(getattr(module, name, None)) for name in ("eps", "momentum"))
        self.eps, self.momentum = eps, momentum
        buffers = dict(module.named_buffers())
        self.plain = [name for name in self._tensors() if name not in buffers]
        self.uninitialised = [
            name for name, q in module.named_parameters() if bool(torch.isnan(q).any())
        ]

    def parameters(self) -> dict[str, Array]:
        named = self.module.named_parameters()
        return {name: q.detach().cpu().numpy() for name, q in named}

    def set(self, values: Mapping[str, Array]) -> None:
        import torch

        named = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, each in values.items():
                named[name].copy_(torch.from_numpy(np.array(each)))

    def forward(self, x: Array, train: bool) -> tuple[Array, Pull]:
        import torch

        library, named = TorchLibrary(), dict(self.module.named_parameters())
        tensor = library.to(x).requires_grad_(True)
        with theirs():
            y = self.module.train(train)(tensor)
        self.given = library.back(tensor)

        def pull(dy: Array) -> tuple[Any, dict[str, Array]]:
            with theirs():
                upstream = library.to(dy).to(y.dtype)
                found = torch.autograd.grad(
                    y, [tensor, *named.values()], upstream, allow_unused=True
                )
            values = [None if a is None else library.back(a) for a in found]
            gradients = zip(named, values[1:], strict=True)
            return values[0], {name: a for name, a in gradients if a is not None}

        return back(library, y), pull

    def _tensors(self) -> dict[str, Any]:
        """The module's buffers, and tensors that it holds as plain attributes, by name."""
        import torch

        found = dict(self.module.named_buffers())
        for path, module in self.module.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                    found[f"{path}.{name}" if path else name] = value
        return {name: t for name, t in found.items() if t is not None and t.is_floating_point()}

    def statistics(self) -> dict[str, Array]:
        with theirs():
            return {name: np.array(t.detach().numpy()) for name, t in self._tensors().items()}

    def attached(self) -> Sequence[str]:
        return [name for name, t in self._tensors().items() if t.requires_grad]


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known else None


def _begun(module: Any, count: int) -> Any:
    """A lazy module has no parameters before it sees an array; evaluation changes no others."""
    import torch

    raised: list[Exception] = []
    for ndim in (4, 3, 2, 5):
        if any(map(torch.nn.parameter.is_lazy, module.parameters())):
            try:
                module.eval()(torch.zeros((2, count) + (2,) * (ndim - 2)))
            except Exception as error:
                raised.append(error)
    if len(raised) == 4:
        raise raised[0]
    return module


def torch_maker(
    candidate: Any, layer: str
) -> tuple[Callable[[Case], Model], tuple[int, ...] | None]:
    """How to make a `Model`, and the shape it was built for (None: any)."""
    import torch

    if isinstance(candidate, torch.nn.Module):

        def same(case: Case) -> Model:
            with theirs():  # what is lazy, or computed, cannot be copied: give its factory
                return TorchModel(copy.deepcopy(candidate), case)

        return same, _shape(candidate, layer)

    def made(case: Case) -> Model:
        with theirs():
            return TorchModel(candidate(case.gamma.size), case)

    with theirs():
        shapes = [_shape(candidate(count), layer) for count in (3, 5)]
    return made, shapes[0] if shapes[0] == shapes[1] and shapes[0] is not None else None


def _shape(module: Any, layer: str) -> tuple[int, ...] | None:
    """For how many channels, or which shape of a group, a module was built; None: not to be known,
    as a lazy one."""
    import torch

    for name in NAMES:
        value = getattr(module, name, None)
        if isinstance(value, int) and value > 0:
            return (value,)
        if isinstance(value, (tuple, list)) and layer == "layer_norm":
            return tuple(int(size) for size in value)
    own = [q for q in module.parameters() if not torch.nn.parameter.is_lazy(q)]
    return (int(own[0].numel()),) if own else None
