"""Weight norm, bounded weight norm and SGD: a candidate is run on the cases of `vectors`.

Candidates. Weight norms: (forward, backward) with forward(v, g) -> (w, cache) and backward(dw,
cache) -> (dv, dg), or forward(v, rho) and backward -> dv (parameters called p and axis get what
`check` was given); a forward alone; a function of torch tensors or JAX arrays; a torch module, or a
factory channels -> module, whose weight is parametrized (torch.nn.utils.parametrizations). SGD: a
factory parameters -> optimizer with step(), for parameters (.data, .grad) of torch or of
`lpnorm.nn`; it is held to the settings that `check` names, and for the others to its own.

The values are judged by `vectors_check`: the oracle, and the bounds and mistakes of `weights`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lpnorm.nn import Parameter
from lpnorm.verify import vectors, weights
from lpnorm.verify.candidates import LIBRARIES, CannotRun, Raised, theirs, uses
from lpnorm.verify.cases import half
from lpnorm.verify.report import Check, Report
from lpnorm.verify.trials import error
from lpnorm.verify.variants import run
from lpnorm.verify.vectors import Vector
from lpnorm.verify.vectors_check import Arithmetic, _judge_steps
from lpnorm.verify.weights import SGD, WeightCase

Array = np.ndarray
Outputs = dict[str, Array]
DEFAULTS = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}
DEFAULTS |= {"decoupled": False, "maximize": False}


# ---- weight norms ------------------------------------------------------------------------------


def weight_checks(
    candidate: Any,
    layer: str,
    p: Any,
    dtypes: tuple[str, ...] | None,
    axis: int,
    backend: str | None,
    report: Report,
) -> Iterator[Check]:
    """Every check of a weight norm. Raises CannotRun."""
    found = _weight_candidate(candidate, layer, p, axis, backend)
    for library in ("torch", "jax"):  # v.norm(dim=1) names no library: does it take tensors?
        if found[0].startswith("NumPy") and backend is None and library in sys.modules:
            try:
                probe = dtypes[0] if dtypes else "float64"
                found[1](next(vectors.plan([layer], ["2"], [probe])).case)
                break
            except Raised:
                found = _weight_candidate(candidate, layer, p, axis, library)
    report.candidate, call, shape = found
    norm = next((name for name, known in vectors.NORMS.items() if known == p), None)
    if norm is None or norm in ("top10", "range"):
        known = ", ".join(n for n in vectors.NORMS if n not in ("top10", "range"))
        raise ValueError(f"p of a weight norm must be one of {known} here, got {p!r}")
    pairs: list[tuple[Vector, Outputs]] = []
    for dtype in dtypes or ("float64", "float32", "float16"):
        try:
            planned = list(vectors.plan([layer], [norm], [dtype]))
            planned = [_reshaped(v, shape) for v in planned if shape is None or v.id.endswith("es")]
            if dtype != "float16" or dtypes is not None:  # asked for float16, it must not square
                planned += _extreme(planned)
            pairs += [(vector, call(vector.case)) for vector in planned]
        except Raised as problem:
            if dtypes is not None or dtype == "float64":
                raise
            report.notes.append(f"it does not take {dtype}: {problem}")
    yield from _judge_steps(pairs, report)
    yield from _weight_laws(pairs, call)


def _reshaped(vector: Vector, shape: tuple[int, ...] | None) -> Vector:
    """The case with a module's own weight shape."""
    if shape is None:
        return vector
    rng, dtype = np.random.default_rng(7), vector.case.dtype
    arrays = {"v": half(rng.standard_normal(shape)), "dw": half(rng.standard_normal(shape))}
    if "g" in vector.inputs:
        arrays["g"] = half(rng.uniform(0.5, 2, shape[0]))
    arrays = {name: a.astype(dtype) for name, a in arrays.items()}
    case: Any = vector.case
    return replace(vector, case=replace(case, arrays=arrays))


def _extreme(planned: list[Vector]) -> list[Vector]:
    """The first case with weights whose squares float16 cannot hold."""
    first, found = planned[0], []
    for name, factor in (("squares that vanish", 2.0**-10), ("squares that overflow", 2.0**8)):
        case: Any = first.case
        v = (case.arrays["v"].astype("float64") * factor).astype(case.dtype)
        why = f"weights times {factor:g}: the norm must not square them unscaled in float16"
        case = replace(case, name=name, why=why, arrays={**case.arrays, "v": v})
        name = first.id.rsplit("/", 1)[0] + "/" + name.replace(" ", "-")
        found.append(replace(first, id=name, case=case, flags=()))
    return found


def _weight_candidate(
    candidate: Any, layer: str, p: Any, axis: int, backend: str | None
) -> tuple[str, Callable[[Any], Outputs], tuple[int, ...] | None]:
    """Its kind, how to run a case, and a module's weight shape."""
    torch = sys.modules.get("torch")
    if torch is not None and not isinstance(candidate, (tuple, list)):
        if not isinstance(candidate, torch.nn.Module) and _takes(candidate) == 1:
            with theirs():
                candidate = candidate(4)
        if isinstance(candidate, torch.nn.Module):
            _, v = _parametrized(candidate)
            run_module = functools.partial(_run_module, candidate)
            return f"torch module {type(candidate).__name__}", run_module, tuple(v.shape)
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
    name = backend or uses(forward)
    keywords = {"p": p, "axis": axis}
    fixed = forward.keywords if isinstance(forward, functools.partial) else {}
    named = {n: v for n, v in keywords.items() if n in _names(forward) and n not in fixed}
    forward = functools.partial(forward, **named)
    library = LIBRARIES[name]()
    if backward is None and name in ("torch", "jax"):
        runner = functools.partial(_run_traced, name, library, forward, axis)
        return f"{library.name} function", runner, None
    runner = functools.partial(_run_pair, library, forward, backward, axis)
    return f"{library.name} " + ("pair" if backward else "forward alone"), runner, None


def _takes(candidate: Any) -> int:
    """How many arguments without a default; 0 if that is not to be known."""
    try:
        parameters = inspect.signature(candidate).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(q.default is q.empty and q.kind not in (2, 4) for q in parameters)


def _names(f: Any) -> set[str]:
    try:
        return set(inspect.signature(f).parameters)
    except (TypeError, ValueError):
        return set()


def _inputs(case: WeightCase, axis: int) -> tuple[Array, Any, Array]:
    """v and dw with the channels on `axis`, and g or rho."""
    v, dw = (np.moveaxis(case.arrays[name], 0, axis) for name in ("v", "dw"))
    return v.copy(), case.arrays["g"].copy() if "g" in case.arrays else case.settings["rho"], dw


def _named(case: WeightCase, w: Array, gradients: Any, axis: int) -> Outputs:
    """The outputs by name, the channels back on axis 0."""
    names = ["dv", "dg"] if case.layer == "weight_norm" else ["dv"]
    gradients = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
    found = {"w": np.moveaxis(w, axis, 0)}
    for name, each in zip(names, gradients, strict=False):
        if each is not None:
            found[name] = np.moveaxis(each, axis, 0) if name == "dv" else each.reshape(-1)
    for name, each in found.items():
        wanted = (len(case.arrays["v"]),) if name == "dg" else case.arrays["v"].shape
        if each.shape != wanted:
            raise Raised(f"{name} has shape {each.shape}, not {wanted}")
    return found


def _run_pair(library: Any, forward: Any, backward: Any, axis: int, case: WeightCase) -> Outputs:
    v, factor, dw = _inputs(case, axis)
    given = [library.to(v), library.to(factor) if isinstance(factor, np.ndarray) else factor]
    before = [a.copy() if hasattr(a, "copy") else a for a in given]
    with theirs():
        result = forward(*given)
        w, cache = result if isinstance(result, tuple) else (result, None)
        gradients: Any = () if backward is None else backward(library.to(dw), cache)
        gradients = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
        both = [(library.back(a), library.back(b)) for a, b in zip(given, before, strict=True)]
        if not all(np.array_equal(a, b) for a, b in both):
            raise Changed("it changes the arrays it is given")
        found = [library.back(a) for a in gradients]
        w = library.back(w)
    return _named(case, w, found, axis)


class Changed(CannotRun):
    """Its inputs were modified."""


def _run_traced(name: str, library: Any, forward: Any, axis: int, case: WeightCase) -> Outputs:
    """A function of torch tensors or JAX arrays, its gradients by autograd or jax.vjp."""
    v, factor, dw = _inputs(case, axis)
    learned = isinstance(factor, np.ndarray)
    with library.scope(), theirs():
        given = [library.to(v), *([library.to(factor)] if learned else [])]
        rest = () if learned else (factor,)
        if name == "torch":
            torch = importlib.import_module("torch")
            given = [a.requires_grad_(True) for a in given]
            w = forward(*given, *rest)
            gradients = torch.autograd.grad(w, given, library.to(dw).to(w.dtype))
        else:
            jax = importlib.import_module("jax")
            w, pull = jax.vjp(lambda *a: forward(*a, *rest), *given)
            gradients = pull(library.to(dw).astype(w.dtype))
        return _named(case, library.back(w), [library.back(a) for a in gradients], axis)


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


def _run_module(module: Any, case: WeightCase) -> Outputs:
    import copy

    import torch

    with theirs():
        # the older form keeps w, which is computed, as an attribute, and tensors that are computed
        # cannot be copied: it is computed anew below
        computed = {
            id(t): t.detach().clone()
            for t in vars(module).values()
            if isinstance(t, torch.Tensor) and not t.is_leaf
        }
        module = copy.deepcopy(module, computed).to(getattr(torch, case.dtype))
        g, v = _parametrized(module)
        with torch.no_grad():
            v.copy_(torch.from_numpy(case.arrays["v"]))
            g.copy_(torch.from_numpy(case.arrays["g"]).reshape(g.shape))
        for hook in module._forward_pre_hooks.values():
            hook(module, ())
        w = module.weight
        gradients = torch.autograd.grad(w, [v, g], torch.from_numpy(case.arrays["dw"]))
        return _named(case, w.detach().numpy(), [a.numpy() for a in gradients], 0)


def _weight_laws(
    pairs: list[tuple[Vector, Outputs]], call: Callable[[Any], Outputs]
) -> Iterator[Check]:
    vector, first = pairs[0]
    case: Any = vector.case
    u = float(np.finfo(case.dtype).eps)
    n = case.arrays["v"][0].size
    if "dv" in first:
        dv, v = (a.reshape(len(a), -1).astype("float64") for a in (first["dv"], case.arrays["v"]))
        off = float((abs((dv * v).sum(axis=1)) / (abs(dv) * abs(v)).sum(axis=1)).max())
        why = "w does not change when v is scaled, so the gradient is orthogonal to v"
        yield _law("<dv, v>", why, off, 8 * (n + 4) * u, "dv is not orthogonal to v")
    double = replace(case, arrays={**case.arrays, "v": 2 * case.arrays["v"]})
    off = float(abs(call(double)["w"].astype("float64") - first["w"]).max())
    size = float(abs(first["w"]).max())
    why = "w depends on the direction of v alone: twice v gives the same w"
    yield _law("scale invariance", why, off / size, 8 * (n + 4) * u, "w changes with the size of v")
    v = case.arrays["v"].copy()
    v[0] = 0
    why = "a weight vector of zeros has no direction: an error, or 0, but no NaN that spreads"
    try:
        w = call(replace(case, arrays={**case.arrays, "v": v}))["w"]
        if not np.all(np.isfinite(w)):
            words = "a weight vector of zeros gives NaN"
            yield Check("zero vector", "limited", why, words, words)
    except Raised as problem:
        yield Check("zero vector", "skipped", why, f"it refuses it ({problem})")
    again = call(case)
    same = all(np.array_equal(first[k], again[k], equal_nan=True) for k in first)
    why = "the same input must give the same bits"
    words = "two calls with the same arrays give different values"
    yield Check("same bits twice", "passed" if same else "failed", why, "" if same else words)


def _law(name: str, why: str, off: float, bound: float, words: str) -> Check:
    detail = f"off by {off:.2g}, {off / bound:.2g} of its bound"
    if off <= bound:
        return Check(name, "passed", why, detail)
    return Check(name, "failed", why, detail, words)


# ---- SGD ---------------------------------------------------------------------------------------


def sgd_checks(
    candidate: Any, asked: dict[str, Any], dtypes: tuple[str, ...] | None, report: Report
) -> Iterator[Check]:
    """Every check of an optimizer. Raises CannotRun."""
    if not callable(candidate):
        raise CannotRun("a candidate for sgd is a function parameters -> optimizer")
    make = _maker(candidate)
    report.candidate = f"{make.kind} optimizer factory"
    own = make.settings()
    yield from _none_at_all(make)
    settings = {"lr": 0.1, **DEFAULTS, **own, **asked}
    make.sign = -1.0 if settings.pop("maximize") else 1.0
    for dtype in dtypes or ("float64", "float32"):
        alone = True  # are the plain steps right? Else what fails later may follow from them
        for name, why, steps in _scenarios(settings, dtype, make.takes_none):
            found = _judge_scenario(make, name, why, steps, dtype, report, alone)
            alone &= name != PLAIN_STEPS or found.status != "failed"
            yield found


def _none_at_all(make: _Maker) -> Iterator[Check]:
    """Is a parameter that has no gradient refused?"""
    one, idle = make.parameter(np.ones(2)), make.parameter(np.ones(2))
    optimizer = make.optimizer([one, idle])
    make.set_grad(one, np.ones(2), False)
    try:
        with theirs():
            optimizer.step()
    except Raised as problem:
        alone = make.optimizer([one])
        try:
            with theirs():
                alone.step()
        except Raised:
            return  # it fails anyway: that is said where values are judged
        make.takes_none = False
        why = "a parameter whose gradient is None is left alone: no momentum, no decay"
        words = f"it wants a gradient for every parameter ({problem})"
        yield Check("no gradient", "limited", why, words, words)


class _Maker:
    """Parameters of one library, and the optimizer a factory makes for them."""

    takes_none = True  # parameters without a gradient
    sign = 1.0  # -1 if it maximizes: then it gets the gradients of the cases negated

    def __init__(self, factory: Any, kind: str) -> None:
        self.factory, self.kind = factory, kind

    def parameter(self, w: Array) -> Any:
        if self.kind == "torch":
            torch = importlib.import_module("torch")
            return torch.nn.Parameter(torch.from_numpy(w.copy()))
        return Parameter(w.copy(), f"p{id(w)}")

    def set_grad(self, parameter: Any, gradient: Array | None, in_place: bool) -> None:
        if gradient is None:
            parameter.grad = None
        elif in_place and parameter.grad is not None:
            parameter.grad[...] = self._to(gradient)
        else:
            parameter.grad = self._to(gradient)

    def _to(self, gradient: Array) -> Any:
        if self.kind == "torch":
            return importlib.import_module("torch").from_numpy(gradient.copy())
        return gradient.copy()

    def read(self, a: Any) -> Array:
        return np.array(a.detach().numpy() if self.kind == "torch" else a)

    def optimizer(self, parameters: Any) -> Any:
        with theirs():
            return self.factory(parameters)

    def settings(self) -> dict[str, Any]:
        """What the optimizer says of itself in its first group."""
        optimizer = self.optimizer([self.parameter(np.ones(2))])
        groups = _groups(optimizer)
        return {k: groups[0][k] for k in ("lr", *DEFAULTS) if groups and k in groups[0]}


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    for name in ("param_groups", "groups"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    return []


def _set_rate(optimizer: Any, rate: float) -> None:
    """In every group; without groups, in the attribute that holds it. Raises NotTried."""
    groups = _groups(optimizer)
    for group in groups:
        group["lr"] = rate
    name = next((n for n in ("lr", "learning_rate") if hasattr(optimizer, n)), None)
    if not groups and name is None:
        raise NotTried("it has neither param_groups nor an attribute lr to set")
    if not groups:
        setattr(optimizer, str(name), rate)


class NotTried(CannotRun):
    """What a check needs is not there; that is no fault."""


def _maker(factory: Any) -> _Maker:
    """For the parameters this factory takes: those of lpnorm.nn, or else torch's."""
    first: CannotRun | None = None
    for kind in ("lpnorm", "torch") if uses(factory) != "torch" else ("torch",):
        if kind == "torch" and "torch" not in sys.modules and uses(factory) != "torch":
            continue
        made = _Maker(factory, kind)
        try:
            made.optimizer([made.parameter(np.ones(2))])
            return made
        except CannotRun as problem:
            first = first or problem
    raise first or CannotRun("the factory takes neither torch's nor lpnorm.nn's parameters")


Steps = dict[str, Any]  # cases, gradients (None where there is none), groups, rates, in_place


def _scenarios(
    settings: dict[str, Any], dtype: str, takes_none: bool
) -> Iterator[tuple[str, str, Steps]]:
    rng = np.random.default_rng(11)

    def case(name: str, shape: tuple[int, ...], steps: int, **other: Any) -> WeightCase:
        arrays = {"w": half(rng.standard_normal(shape)).astype(dtype)}
        arrays["gradients"] = half(rng.standard_normal((steps, *shape))).astype(dtype)
        return WeightCase(name, "", "sgd", None, arrays, {**settings, **other})

    def plain(steps: int) -> list[WeightCase]:
        named = {"a matrix": (4, 3), "another of its shape": (4, 3), "a vector": (5,)}
        return [case(name, shape, steps) for name, shape in named.items()]

    why = "thirty steps of two matrices of one shape and a vector: every formula shows here"
    yield PLAIN_STEPS, why, {"cases": plain(30)}
    why = "each backward may write into the same gradient array: nothing may keep a view of it"
    yield "gradients refilled in place", why, {"cases": plain(6), "in_place": True}
    rate = settings["lr"]
    why = "a schedule changes the learning rate of the groups"
    yield (
        "the learning rate changes",
        why,
        {"cases": plain(6), "rates": [rate] * 3 + [rate / 8] * 3},
    )
    second = {"lr": rate / 4, "weight_decay": settings["weight_decay"] + 0.25}
    groups = [case("a matrix", (4, 3), 6), case("in a second group", (4, 3), 6, **second)]
    why = "parameter groups have settings of their own"
    yield "two groups", why, {"cases": groups, "groups": second}
    if not takes_none:
        return
    why = "a parameter whose gradient is None is left alone: no momentum, no decay"
    yield "gradients that are None", why, {"cases": plain(6), "none": {1: {1, 2, 4}}}


def _judge_scenario(
    make: _Maker,
    scenario: str,
    why: str,
    steps: Steps,
    dtype: str,
    report: Report,
    alone: bool,
) -> Check:
    """One scenario; alone: the plain steps are right, so that it says what is wrong if it is."""
    name, is_plain = f"{scenario}, {dtype}", scenario == PLAIN_STEPS
    try:
        outputs, changed = _run_sgd(make, steps)
    except NotTried as problem:
        return Check(name, "skipped", why, f"not tried: {problem}")
    except CannotRun as problem:
        if "groups" in steps:
            return Check(name, "skipped", why, f"it does not take them ({problem})")
        return Check(name, "failed", why, str(problem), str(problem))
    if changed == "decay":
        words = "the decay is added to p.grad itself, so who reads the gradient later is misled"
        return Check(name, "failed", why, words, words)
    if changed:  # as torch.optim.SGD does with nesterov and foreach
        report.notes.append("it uses the gradient's memory as scratch: p.grad is not what it was")
    arithmetic = Arithmetic(dtype, sequential=True)
    bad, errors = [], []
    for i, case in enumerate(steps["cases"]):
        skip = steps.get("none", {}).get(i, set())
        want = _wanted(case, steps.get("rates"), skip)
        limit = weights.allowed(case, arithmetic)["weights"]
        found = error(case.name, outputs[i].astype("float64"), want, limit, dtype)
        if found is not None:
            errors.append(found)
            if not found.fraction <= 1:
                bad.append((i, case, found))
    if not bad:
        return Check(name, "passed", why, str(max(errors, key=lambda e: e.fraction)))
    if "rates" in steps and _velocity(steps, outputs, arithmetic):
        report.conventions.append(
            "the learning rate is inside the buffer (velocity form): a change of it does not reach "
            "the steps before"
        )
        return Check(name, "passed", why, "the velocity form")
    detail = "; ".join(str(found) for _, _, found in bad)
    said = None
    if not {"rates", "none"} & set(steps):
        said = weights.diagnose([(case, {"weights": outputs[i]}) for i, case, _ in bad])
    words, compare = (said.words, said.compare) if said else ("", "")
    if not words and is_plain and len(bad) < len(steps["cases"]):
        words = f"wrong for {', '.join(case.name for _, case, _ in bad)} alone"
    elif not words and is_plain:
        words = _measured(bad[0][1], outputs[bad[0][0]])
    elif not words and alone:
        words = WORDS[scenario]
    return Check(name, "failed", why, detail, words, compare)


PLAIN_STEPS = "thirty steps"
WORDS = {  # what it means that this alone is wrong, where the plain steps are right
    "gradients refilled in place": "the buffer is the gradient's own memory, which the next "
    "backward overwrites",
    "the learning rate changes": "a changed learning rate is ignored, or rescales the past",
    "two groups": "a group's own settings are not used",
    "gradients that are None": "a parameter whose gradient is None moves",
}
TERMS = ("the gradient", "the gradient of the step before", "the weight", "the last step")


def _terms(case: WeightCase, weights_: Array) -> Array | None:
    """How often a step holds each of `TERMS`, by least squares over all steps but the first; None
    if it is no such sum to 1,000 roundings of the weights.

    With b_t = m b_(t-1) + (1 - dampening) g'_t, g'_t = g_t + l w_(t-1), and w_t = w_(t-1) - lr b_t
    (`oracle.sgd`), take m times the step before from a step: the buffer is gone, and

        w_t - w_(t-1) = -lr (1 - dampening) (g_t + l w_(t-1)) + m (w_(t-1) - w_(t-2)).

    Nesterov's u_t = g'_t + m b_t in the place of b_t gives (1 + m) g'_t - m g'_(t-1), and in it
    w_(t-2) = w_(t-1) - (the last step); decay that is decoupled has terms in the same two. So

        w_t - w_(t-1) = -lr (a g_t + b g_(t-1) + c w_(t-1)) + e (w_(t-1) - w_(t-2))

    holds every form, and what is right for a, b, c and e is read off the oracle's weights.
    """
    g = case.arrays["gradients"].astype("float64")
    w = np.concatenate([case.arrays["w"].astype("float64")[None], weights_.astype("float64")])
    steps, lr = np.diff(w, axis=0), case.settings["lr"]
    columns = [-lr * g[1:], -lr * g[:-1], -lr * w[1:-1], steps[:-1]]
    matrix = np.stack([c.ravel() for c in columns], axis=1)
    found, *_ = np.linalg.lstsq(matrix, steps[1:].ravel(), rcond=None)
    left = abs(matrix @ found - steps[1:].ravel()).max()
    u = float(np.finfo(case.dtype).eps)
    return found if left <= 1e3 * u * abs(w).max() else None


def _round(value: float) -> str:
    return f"{value:.4g}" if abs(value) > 1e-5 else "0"


def _measured(case: WeightCase, got: Array) -> str:
    """Which terms of a step do not have the weight that the right step gives them, in numbers."""
    mine, right = _terms(case, got), _terms(case, weights.expected(case)["weights"])
    if mine is None or right is None:
        return ""
    off = abs(mine - right) > 1e-4 * (1 + abs(right))
    said = [
        f"{name} counts {_round(m)} times in a step, {_round(r)} is right"
        for name, m, r, wrong in zip(TERMS, mine, right, off, strict=True)
        if wrong
    ]
    return "; ".join(said)


def _run_sgd(make: _Maker, steps: Steps) -> tuple[list[Array], str]:
    """The weights of each parameter after each step, and how gradients were changed, if at all."""
    cases: list[WeightCase] = steps["cases"]
    parameters = [make.parameter(case.arrays["w"]) for case in cases]
    idle = make.parameter(np.ones((2, 2), cases[0].dtype))  # never gets a gradient
    given: Any = [*parameters, idle] if make.takes_none else parameters
    if "groups" in steps:
        first = [parameters[0], idle] if make.takes_none else parameters[:1]
        given = [{"params": first}, {"params": parameters[1:], **steps["groups"]}]
    optimizer = make.optimizer(given)
    found: list[list[Array]] = [[] for _ in cases]
    changed = ""
    for t in range(len(cases[0].arrays["gradients"])):
        if "rates" in steps:
            _set_rate(optimizer, steps["rates"][t])
        for i, (parameter, case) in enumerate(zip(parameters, cases, strict=True)):
            none = t in steps.get("none", {}).get(i, set())
            gradient = None if none else case.arrays["gradients"][t] * make.sign
            make.set_grad(parameter, gradient, steps.get("in_place", False))
        with theirs():
            optimizer.step()
        for i, (parameter, case) in enumerate(zip(parameters, cases, strict=True)):
            found[i].append(make.read(parameter.data))
            if parameter.grad is not None:
                after = make.read(parameter.grad)
                given_ = case.arrays["gradients"][t] * make.sign
                if not np.array_equal(after, given_):
                    before = found[i][-2] if t else case.arrays["w"]
                    decayed = given_ + case.settings["weight_decay"] * before
                    changed = "decay" if np.allclose(after, decayed, rtol=1e-5) else "scratch"
    if not np.array_equal(make.read(idle.data), np.ones((2, 2))):
        raise CannotRun("a parameter without a gradient moves")
    return [np.array(each) for each in found], changed


def _wanted(
    case: WeightCase, rates: list[float] | None, skip: set[int], velocity: bool = False
) -> Array:
    """The weights after each step, the learning rate that of the step; see `weights.SGD`."""
    if rates is None and not skip:
        return weights.expected(case)["weights"]
    w, b, found, first = case.arrays["w"].astype("float64"), 0.0, [], True
    for t, gradient in enumerate(case.arrays["gradients"].astype("float64")):
        if t not in skip:
            lr = case.settings["lr"] if rates is None else rates[t]
            start = {**case.settings, "w_old": w, "b_old": b, "gradient": gradient, "first": first}
            step = run(SGD, {**start, "lr": lr})
            first, w, b = False, step.w, step.b
            if velocity:  # b holds lr b: the ratio of the rates is what the past lacks
                ratio = lr / rates[t + 1] if rates and t + 1 < len(rates) else 1.0
                b = b * ratio
        found.append(w)
    return np.array(found)


def _velocity(steps: Steps, outputs: list[Array], arithmetic: Any) -> bool:
    for case, got in zip(steps["cases"], outputs, strict=True):
        want = _wanted(case, steps["rates"], set(), velocity=True)
        limit = weights.allowed(case, arithmetic)["weights"] * 8
        found = error(case.name, got.astype("float64"), want, limit, case.dtype)
        if found is not None and not found.fraction <= 1:
            return False
    return bool(steps["cases"][0].settings["momentum"])
