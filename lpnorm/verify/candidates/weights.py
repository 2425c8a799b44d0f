"""Candidates for weight norm and bounded weight norm.

(forward, backward) with forward(v, g) -> (w, cache) and backward(dw, cache) -> (dv, dg), or
forward(v, rho) and backward -> dv (parameters called p and axis get what `check` was given); a
forward alone; a function of torch tensors or JAX arrays; a torch module, or a factory channels ->
module, whose weight is parametrized (torch.nn.utils.parametrizations, or the older weight_norm).
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import sys
from typing import Any

import numpy as np

from lpnorm.verify.candidates.calling import uses
from lpnorm.verify.candidates.common import LIBRARIES, Array, Candidate, CannotRun, theirs
from lpnorm.verify.candidates.numpy_models import required
from lpnorm.verify.cases import Case, Outcome


def adapt_weights(
    candidate: Any, layer: str, p: Any, axis: int | tuple[()], backend: str | None
) -> Candidate:
    """The `Candidate` for what was given; axis (): one norm for all of v. Raises CannotRun."""
    torch = sys.modules.get("torch")
    if torch is not None and not isinstance(candidate, (tuple, list)):
        if not isinstance(candidate, torch.nn.Module) and required(candidate) == 1:
            with theirs():
                candidate = candidate(4)
        if isinstance(candidate, torch.nn.Module):
            return WeightModule(candidate, axis)
    if not isinstance(axis, int):
        raise CannotRun("axis = () is for torch modules: give functions a v of one channel")
    if isinstance(candidate, (tuple, list)):
        if len(candidate) != 2 or not all(map(callable, candidate)):
            raise CannotRun("a tuple must be two functions (forward, backward)")
        forward, backward = candidate
    elif hasattr(candidate, "forward"):
        forward, backward = candidate.forward, getattr(candidate, "backward", None)
    else:
        forward, backward = candidate, None
    if not callable(forward):
        raise CannotRun(f"{type(candidate).__name__} is no candidate for {layer}")
    fixed = forward.keywords if isinstance(forward, functools.partial) else {}
    try:
        named = set(inspect.signature(forward).parameters) - set(fixed)
    except (TypeError, ValueError):
        named = set()
    forward = functools.partial(
        forward, **{n: v for n, v in (("p", p), ("axis", axis)) if n in named}
    )
    name = backend or uses(forward)
    if backward is None and name in ("torch", "jax"):
        return WeightTraced(name, forward, axis)
    return WeightPair(LIBRARIES[name](), forward, backward, axis)


class _Weights(Candidate):
    axis = 0
    another = ""

    def inputs(self, case: Case) -> tuple[Array, Any, Array]:
        """v and dw with the channels on `axis`, and g or rho."""
        v, dw = (np.moveaxis(case.arrays[name], 0, self.axis) for name in ("v", "dw"))
        learned = "g" in case.arrays
        return v.copy(), case.arrays["g"].copy() if learned else case.settings["rho"], dw

    def named(self, case: Case, w: Array, gradients: Any) -> Outcome:
        """The outputs by name, the channels back on axis 0."""
        names = ["dv", "dg"] if case.layer == "weight_norm" else ["dv"]
        found = {"w": np.moveaxis(w, self.axis, 0)}
        for name, each in zip(names, gradients, strict=False):
            if each is not None:
                turned = name == "dv"
                found[name] = np.moveaxis(each, self.axis, 0) if turned else each.reshape(-1)
        return Outcome(**found)


class WeightPair(_Weights):
    """Two functions, or a forward alone."""

    def __init__(self, library: Any, forward: Any, backward: Any, axis: int) -> None:
        self.library, self.forward, self.backward, self.axis = library, forward, backward, axis
        self.has_backward = backward is not None
        self.kind = f"{library.name} " + ("pair" if backward else "forward alone")

    def run(self, case: Case, backward: bool) -> Outcome:
        v, factor, dw = self.inputs(case)
        library = self.library
        with library.scope(), theirs():
            given = [library.to(v), library.to(factor) if np.ndim(factor) else factor]
            before = [a.copy() if hasattr(a, "copy") else a for a in given]
            result = self.forward(*given)
            w, cache = result if isinstance(result, tuple) else (result, None)
            gradients: Any = ()
            if backward:
                gradients = self.backward(library.to(dw), cache)
            several = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
            pairs = zip(given, before, ("v", "g"), strict=True)
            changed = [
                n for a, b, n in pairs if not np.array_equal(library.back(a), library.back(b))
            ]
            found = [None if a is None else library.back(a) for a in several]
            result = self.named(case, library.back(w), found)
        result.modified = (changed or [""])[0]
        return result


class WeightTraced(_Weights):
    """A function of torch tensors or JAX arrays, its gradients by autograd or jax.vjp."""

    has_backward = True

    def __init__(self, name: str, forward: Any, axis: int) -> None:
        self.name, self.forward, self.axis = name, forward, axis
        self.library = LIBRARIES[name]()
        self.kind = f"{self.library.name} function"

    def run(self, case: Case, backward: bool) -> Outcome:
        v, factor, dw = self.inputs(case)
        library, learned = self.library, np.ndim(factor) > 0
        with library.scope(), theirs():
            given = [library.to(v), *([library.to(factor)] if learned else [])]
            rest = () if learned else (factor,)
            if self.name == "torch":
                torch = importlib.import_module("torch")
                given = [a.requires_grad_(True) for a in given]
                w = self.forward(*given, *rest)
                gradients = torch.autograd.grad(w, given, library.to(dw).to(w.dtype))
            else:
                jax = importlib.import_module("jax")
                w, pull = jax.vjp(lambda *a: self.forward(*a, *rest), *given)
                gradients = pull(library.to(dw).astype(w.dtype))
            return self.named(case, library.back(w), [library.back(a) for a in gradients])


class WeightModule(_Weights):
    """A torch module whose weight is normalized, along any dim.

    Its channels are on the axis on which g has more than one value; dim=None has one g, and one
    norm: a single channel. another: in words, if that is not the axis that was asked for.
    """

    has_backward = True

    def __init__(self, module: Any, axis: int | tuple[()]) -> None:
        self.module = module
        g, v = _parametrized(module)
        wide = [a for a, size in enumerate(g.shape) if size > 1]
        self.whole = not wide
        self.axis = wide[0] if wide else 0
        asked = "()" if not isinstance(axis, int) else str(axis % v.ndim)
        own = str(self.axis) if wide else "()"
        if own != asked and v.shape[self.axis] > 1:
            of = f"each index of axis {own}" if wide else "all of v together"
            self.another = f"its norms are of {of} (axis={own} asks for that), not of axis {asked}"
        size = tuple(v.shape)
        rest = size[: self.axis] + size[self.axis + 1 :]
        self.shape = (1, *size) if self.whole else (size[self.axis], *rest)
        self.kind = f"torch module {type(module).__name__}"

    def run(self, case: Case, backward: bool) -> Outcome:
        import torch

        v_, g_, dw = self.inputs(case)
        if self.whole:
            v_, dw = v_[0], dw[0]
        with theirs():
            # the older form keeps w, which is computed, as an attribute, and tensors that are
            # computed cannot be copied: it is computed anew below
            computed = {
                id(t): t.detach().clone()
                for t in vars(self.module).values()
                if isinstance(t, torch.Tensor) and not t.is_leaf
            }
            module = copy.deepcopy(self.module, computed).to(getattr(torch, case.dtype))
            g, v = _parametrized(module)
            with torch.no_grad():
                v.copy_(torch.from_numpy(np.array(v_)))
                g.copy_(torch.from_numpy(np.array(g_)).reshape(g.shape))
            for hook in module._forward_pre_hooks.values():
                hook(module, ())
            w = module.weight
            gradients = torch.autograd.grad(w, [v, g], torch.from_numpy(np.array(dw)))
            found = [a.numpy() for a in gradients]
            w = w.detach().numpy()
        if self.whole:
            w, found = w[None], [found[0][None], found[1]]
        return self.named(case, w, found)


def _parametrized(module: Any) -> tuple[Any, Any]:
    """g and v of a module's parametrized weight. Raises CannotRun."""
    try:
        both = module.parametrizations.weight
        return both.original0, both.original1
    except AttributeError:
        pass
    if hasattr(module, "weight_g"):
        return module.weight_g, module.weight_v
    raise CannotRun(f"the weight of {type(module).__name__} is not weight-normalized")
