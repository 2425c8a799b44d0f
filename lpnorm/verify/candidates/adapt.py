"""Which kind of candidate is it?"""

from __future__ import annotations

import copy
import inspect
import sys
from typing import Any

from lpnorm.verify.candidates import jax_models, numpy_models
from lpnorm.verify.candidates.calling import Call, how_to_call, uses
from lpnorm.verify.candidates.common import LIBRARIES, Candidate, CannotRun, theirs
from lpnorm.verify.candidates.functions import JaxFunction, Pair, TorchFunction
from lpnorm.verify.candidates.models import LayerCandidate
from lpnorm.verify.cases import Case


def adapt(
    candidate: Any, settings: dict[str, Any], backend: str | None, probe: Case | None = None
) -> Candidate:
    """The `Candidate` for what was given; probe: a case that it may be asked, for a layer. Raises
    CannotRun, in one line, for what is none."""
    if jax_models.kind_of(candidate):
        return _layer(candidate, "jax", probe)
    if isinstance(candidate, (tuple, list)):
        if len(candidate) != 2 or not all(map(callable, candidate)):
            raise CannotRun("a tuple must be two functions (forward, backward)")
        library = LIBRARIES[backend or uses(candidate[0])]()
        return Pair(how_to_call(candidate[0], settings), candidate[1], library)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(candidate, type):
        if issubclass(candidate, torch.nn.Module):
            return _layer(candidate, "torch", probe)
        if issubclass(candidate, torch.autograd.Function):
            function: Any = candidate
            takes = len(inspect.signature(function.forward).parameters) - 1
            return TorchFunction(Call(function.apply, takes))
    if torch is not None and isinstance(candidate, torch.nn.Module):
        return _layer(candidate, "torch", probe)
    if numpy_models.is_layer(candidate):
        return _layer(candidate, "numpy", probe)
    if kind := _makes(candidate):
        return _layer(candidate, kind, probe)
    if hasattr(candidate, "forward") and hasattr(candidate, "backward"):
        if isinstance(candidate, type) and not _static(candidate):
            candidate = numpy_models.build(candidate, 3)
        library = LIBRARIES[backend or uses(candidate.forward)]()
        both = Pair(how_to_call(candidate.forward, settings), candidate.backward, library)
        if numpy_models.has_state(candidate):
            with theirs():
                both.owner = copy.deepcopy(candidate)  # as it was before its first call
        return both
    if hasattr(candidate, "forward") and not callable(candidate):
        candidate = candidate.forward
    if not callable(candidate):
        raise CannotRun(
            f"{type(candidate).__name__} is no candidate: give (forward, backward), something with "
            "those two names, a function, or a layer or its factory"
        )
    name, call = backend or uses(candidate), how_to_call(candidate, settings)
    if name == "torch":
        return TorchFunction(call)
    if name == "jax":
        return JaxFunction(call)
    return Pair(call, None, LIBRARIES[name]())


def _layer(candidate: Any, kind: str, probe: Case | None) -> Candidate:
    assert probe is not None
    if kind == "torch":
        from lpnorm.verify.candidates.torch_models import TorchLayer, torch_maker

        return TorchLayer(*torch_maker(candidate, probe.layer), probe)
    if kind == "jax":
        made = LayerCandidate(*jax_models.maker(candidate), probe)
        made.traced = True
        return made
    return LayerCandidate(*numpy_models.object_maker(candidate), probe)


def _static(layer: type) -> bool:
    return isinstance(inspect.getattr_static(layer, "forward"), staticmethod)


def _makes(candidate: Any) -> str:
    """What a class or a factory channels -> layer makes; "" for what is none."""
    if not callable(candidate) or numpy_models.required(candidate) > 1:
        return ""
    if numpy_models.required(candidate) == 0 and not isinstance(candidate, type):
        return ""
    try:
        made = numpy_models.build(candidate, 3)
    except Exception:
        return ""
    torch = sys.modules.get("torch")
    if jax_models.kind_of(made):
        return "jax"
    if torch is not None and isinstance(made, torch.nn.Module):
        return "torch"
    return "numpy" if numpy_models.is_layer(made) else ""
