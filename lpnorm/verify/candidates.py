"""Candidates: other people's implementations, made to look alike.

A candidate is a pair (forward, backward) of NumPy or CuPy functions or anything that has those two
names, a forward alone, a torch.nn.Module or a factory channels -> module, a function of torch
tensors, a torch.autograd.Function, or a JAX function. Inside, each becomes a `Candidate` that takes
and gives NumPy arrays. torch, JAX and CuPy are imported only for a candidate that uses them.

Arguments. forward gets x, then gamma, beta, and eps, as many as it takes. A parameter called eps
(or epsilon) gets eps; those called p, constant and axis get what `check` was given, unless a
functools.partial has fixed them.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray


class CannotRun(Exception):
    """The candidate cannot be judged at all; the message is one line that says why."""


class Raised(CannotRun):
    """The candidate's own code raised; the message is its exception in one line."""


@contextlib.contextmanager
def theirs() -> Iterator[None]:
    """Around every call of foreign code: what that raises becomes `Raised`. An exception that is
    not `Raised` is therefore an error of the judge, and nobody catches it."""
    try:
        yield
    except CannotRun:
        raise
    except (Exception, SystemExit) as error:
        raise Raised(line(error)) from error


def line(error: BaseException) -> str:
    """An exception in one line."""
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0][:120]}" if words else type(error).__name__


@dataclass(frozen=True)
class Outcome:
    """What one call gave, as NumPy arrays; None for what the candidate does not give."""

    y: Array
    dx: Array | None = None
    dgamma: Array | None = None
    dbeta: Array | None = None
    # the input it changed, where that is not to be seen in the array itself
    modified: str = field(default="", kw_only=True)


class Candidate:
    """How to call an implementation. `run` is all that most checks need."""

    kind = "NumPy"
    has_backward = False
    pair = False  # forward and backward are two calls, with a cache between them
    takes_eps = True
    affine = True
    shift = True  # there is a beta
    eps: float | None = None  # a module's own
    groups: int | None = None  # channels a module was built for
    size: int | None = None  # values a layer norm module was built for
    taken: Sequence[str] = ()  # what of it was taken for what

    def run(self, x: Array, gamma: Array, beta: Array, eps: float, dy: Array | None) -> Outcome:
        raise NotImplementedError


# ---- array libraries --------------------------------------------------------------------------


class _NumPy:
    name = "NumPy"

    def to(self, a: Array) -> Any:
        return a

    def back(self, a: Any) -> Array:
        if not isinstance(a, (np.ndarray, np.generic, float, int)):
            raise TypeError(f"expected an array, got {type(a).__name__}")
        return np.asarray(a)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


class _CuPy(_NumPy):
    name = "CuPy"

    def to(self, a: Array) -> Any:
        return sys.modules["cupy"].asarray(a)

    def back(self, a: Any) -> Array:
        return np.asarray(sys.modules["cupy"].asnumpy(a))


class _Torch(_NumPy):
    name = "torch"

    def to(self, a: Array) -> Any:
        import torch

        tensor = torch.from_numpy(np.array(a))  # a copy: tensors cannot be read-only
        if a.ndim > 1 and not a.flags.c_contiguous:  # lay it out as a is
            order = sorted(range(a.ndim), key=lambda i: -abs(a.strides[i]))
            inverse = [order.index(i) for i in range(a.ndim)]
            tensor = tensor.permute(order).contiguous().permute(inverse)
        return tensor

    def back(self, a: Any) -> Array:
        return np.array(a.detach().cpu().numpy())


class _Jax(_NumPy):
    name = "JAX"

    def to(self, a: Array) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(a)

    def back(self, a: Any) -> Array:
        return np.array(a)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        import jax

        enable = getattr(jax, "enable_x64", None)
        if enable is None:  # before JAX 0.8
            enable = importlib.import_module("jax.experimental").enable_x64
        result: contextlib.AbstractContextManager[Any] = enable(True)
        return result


LIBRARIES = {"numpy": _NumPy, "cupy": _CuPy, "torch": _Torch, "jax": _Jax}


def _back(library: _NumPy, a: Any) -> Array:
    """What a candidate gave, as a NumPy array."""
    with theirs():
        return library.back(a)


# ---- which library, which arguments? ----------------------------------------------------------


def uses(candidate: Any) -> str:
    """The array library the candidate's code names: "torch", "jax", "cupy" or "numpy".

    Read from the names its functions use, not guessed by calling it.
    """
    code = _code(candidate)
    if code is None:
        return "numpy"
    function, names = code
    found = [function.__globals__.get(name) for name in names]
    found += [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    origins = {
        (v.__name__ if isinstance(v, types.ModuleType) else getattr(v, "__module__", "") or "")
        for v in found
        if v is not None
    }
    roots = {str(origin).split(".")[0] for origin in origins}
    roots |= {name for name in names if name in LIBRARIES}  # imported inside the function
    own = str(getattr(function, "__module__", "")).split(".")[0]
    for library in ("torch", "jax", "cupy"):
        if library in roots or own == library:
            return library
    return _of_helpers(found)


def _of_helpers(found: list[Any], depth: int = 2) -> str:
    for v in found if depth else ():
        if isinstance(v, types.FunctionType):
            names = set(_names(v.__code__))
            for library in ("torch", "jax", "cupy"):
                for name in names:
                    value = v.__globals__.get(name)
                    origin = getattr(value, "__name__", "") if value is not None else ""
                    if isinstance(value, types.ModuleType) and origin.split(".")[0] == library:
                        return library
    return "numpy"


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _code(candidate: Any) -> tuple[types.FunctionType, set[str]] | None:
    f = candidate
    while True:
        if isinstance(f, functools.partial):
            f = f.func
        elif hasattr(f, "__wrapped__"):
            f = f.__wrapped__
        elif isinstance(f, types.MethodType):
            f = f.__func__
        else:
            break
    if not isinstance(f, types.FunctionType):
        f = vars(type(f)).get("__call__")
        if not isinstance(f, types.FunctionType):
            return None
    return f, set(_names(f.__code__))


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names that code reads and the modules it imports; attributes are no names."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"):
            yield str(instruction.argval).split(".")[0]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


@dataclass
class Call:
    """A function and how its arguments are passed: at most `positions`, the others by keyword."""

    function: Callable[..., Any]
    positions: int
    eps_name: str | None = None
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def takes_eps(self) -> bool:
        return self.eps_name is not None or self.positions >= 4

    def __call__(self, *arguments: Any) -> Any:
        """arguments: x, gamma, beta, eps."""
        given, eps = list(arguments[: self.positions]), arguments[-1]
        keywords = dict(self.keywords)
        if self.eps_name is not None:
            given = given[:3]
            keywords[self.eps_name] = eps
        return self.function(*given, **keywords)


def how_to_call(f: Callable[..., Any], settings: dict[str, Any]) -> Call:
    """How f takes x, gamma, beta, eps and the settings p, constant, axis it has names for."""
    try:
        parameters = inspect.signature(f).parameters
    except (TypeError, ValueError):  # a builtin, say: the plain protocol
        return Call(f, 4)
    fixed = f.keywords if isinstance(f, functools.partial) else {}
    by_place = [
        q
        for q in parameters.values()
        if q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD) and q.name not in fixed
    ]
    if any(q.kind == q.VAR_POSITIONAL for q in parameters.values()):
        return Call(f, 4)
    eps = next((name for name in ("eps", "epsilon") if name in parameters), None)
    keywords = {
        name: value
        for name, value in settings.items()
        if name in parameters and name not in fixed and name not in ("x", "gamma", "beta")
    }
    plain = [q for q in by_place if q.name not in keywords and q.name != eps]
    required = [q for q in plain if q.default is q.empty]
    positions = min(len(plain), max(3, len(required)))
    if eps is not None and parameters[eps].kind == inspect.Parameter.POSITIONAL_ONLY:
        return Call(f, 4, None, keywords)
    if eps is None:
        positions = min(4, len(required)) if len(required) >= 4 else positions
    return Call(f, min(positions, 3) if eps is not None else positions, eps, keywords)


# ---- the kinds --------------------------------------------------------------------------------


class Pair(Candidate):
    """forward(x, gamma, beta, eps) -> (y, cache) and backward(dy, cache) -> gradients."""

    pair = True

    def __init__(self, forward: Call, backward: Callable[..., Any] | None, library: Any) -> None:
        self.forward, self.backward, self.library = forward, backward, library
        self.has_backward = backward is not None
        self.takes_eps, self.affine = forward.takes_eps, forward.positions >= 2
        self.changed = ""
        self.kind = f"{library.name} " + ("pair" if backward else "forward alone")

    def call_forward(self, x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Any]:
        """y and the cache, for checks that take forward and backward apart."""
        with self.library.scope():
            arrays = [self.library.to(a) for a in (x, gamma, beta)]
            with theirs():
                given = self.forward(*arrays, eps)
            if not isinstance(given, tuple):
                if self.has_backward:
                    raise Raised(f"forward must give (y, cache), it gave {type(given).__name__}")
                given = (given, None)
            if self.has_backward and len(given) != 2:
                raise Raised(f"forward must give (y, cache), it gave {len(given)} values")
            self.changed = self._changed(arrays, {"x": x, "gamma": gamma, "beta": beta})
            return _back(self.library, given[0]), given[1] if len(given) > 1 else None

    def call_backward(self, dy: Array, cache: Any) -> list[Array | None]:
        """dx, dgamma, dbeta."""
        assert self.backward is not None
        with self.library.scope():
            array = self.library.to(dy)
            with theirs():
                gradients = self.backward(array, cache)
            if not isinstance(gradients, (tuple, list)):
                gradients = (gradients,)
            self.changed = self.changed or self._changed([array], {"dy": dy})
            given = [None if a is None else _back(self.library, a) for a in gradients]
        if len(given) not in (1, 3):
            raise Raised(f"backward must give (dx, dgamma, dbeta), it gave {len(given)} values")
        return [*given, None, None][:3]

    def _changed(self, arrays: list[Any], of: dict[str, Array]) -> str:
        """Which of the library's copies of our arrays was written to."""
        if self.library.to(next(iter(of.values()))) is next(iter(of.values())):
            return ""  # no copies: whoever called sees it
        return _modified([self.library.back(a) for a in arrays], of)

    def run(self, x: Array, gamma: Array, beta: Array, eps: float, dy: Array | None) -> Outcome:
        y, cache = self.call_forward(x, gamma, beta, eps)
        if self.backward is None or dy is None:
            return Outcome(y, modified=self.changed)
        return Outcome(y, *self.call_backward(dy, cache), modified=self.changed)


def _modified(now: list[Array], of: dict[str, Array]) -> str:
    changed = (
        name
        for a, (name, b) in zip(now, of.items(), strict=True)
        if not np.array_equal(a, b, equal_nan=True)
    )
    return next(changed, "")


class TorchFunction(Candidate):
    """A function of torch tensors, differentiated by autograd."""

    has_backward = True
    kind = "function of torch tensors"

    def __init__(self, forward: Call) -> None:
        self.forward, self.takes_eps, self.affine = (
            forward,
            forward.takes_eps,
            forward.positions >= 2,
        )

    def run(self, x: Array, gamma: Array, beta: Array, eps: float, dy: Array | None) -> Outcome:
        import torch

        library = _Torch()
        inputs = [library.to(a).requires_grad_(dy is not None) for a in (x, gamma, beta)]
        with theirs():
            y = self.forward(*inputs, eps)
            y = y[0] if isinstance(y, tuple) else y
        ours = {"x": x, "gamma": gamma, "beta": beta}
        changed = _modified([library.back(a) for a in inputs], ours)
        if dy is None:
            return Outcome(_back(library, y), modified=changed)
        wanted, upstream = inputs if self.affine else inputs[:1], library.to(dy)
        with theirs():
            gradients = torch.autograd.grad(y, wanted, upstream.to(y.dtype), allow_unused=True)
        given = [None if g is None else library.back(g) for g in gradients]
        return Outcome(_back(library, y), *given, modified=changed)


class JaxFunction(Candidate):
    """A JAX function, differentiated by jax.vjp."""

    has_backward = True
    kind = "JAX function"

    def __init__(self, forward: Call) -> None:
        self.forward, self.takes_eps, self.affine = (
            forward,
            forward.takes_eps,
            forward.positions >= 2,
        )
        self.compiled: Any = importlib.import_module("jax").jit(self._values)

    def run(self, x: Array, gamma: Array, beta: Array, eps: float, dy: Array | None) -> Outcome:
        library = _Jax()
        with library.scope():
            upstream = np.zeros_like(x) if dy is None else dy
            given = [*(library.to(a) for a in (x, gamma, beta)), eps, library.to(upstream)]
            if self.compiled is not None:  # one compilation a shape, not one an operation
                try:
                    return self._outcome(self.compiled(*given))
                except Exception:  # it cannot be traced, or it does not take these arrays:
                    # the plain call tells which, and whose the error is
                    outcome = self._outcome(self._values(*given))
                    self.compiled = None
                    return outcome
            return self._outcome(self._values(*given))

    def _values(self, x: Any, gamma: Any, beta: Any, eps: Any, dy: Any) -> Any:
        import jax

        def f(*arrays: Any) -> Any:
            with theirs():
                y = self.forward(*arrays, eps)
                return y[0] if isinstance(y, tuple) else y

        with theirs():
            y, pull = jax.vjp(f, x, gamma, beta)
            gradients = pull(dy.astype(y.dtype))
        return (y, *(gradients if self.affine else gradients[:1]))

    def _outcome(self, values: Any) -> Outcome:
        return Outcome(*(_Jax().back(a) for a in values))


class TorchModule(Candidate):
    """A torch.nn.Module: gradients by its autograd, in training mode, on a fresh copy a call."""

    has_backward = True
    takes_eps = False
    kind = "torch module"
    GAMMA = ("weight", "gamma", "scale", "g")
    BETA = ("bias", "beta", "shift", "b")

    def __init__(self, build: Callable[[int], Any], fixed: int | None, layer: str) -> None:
        self.build, self.layer = build, layer
        self.groups = fixed if layer == "batch_norm" else None
        self.size = fixed if layer == "layer_norm" else None
        with theirs():
            module = self._begun(build(fixed or 3), fixed or 3)
        self.kind = f"torch module {type(module).__name__}"
        eps = getattr(module, "eps", None)
        self.eps = float(eps) if isinstance(eps, (int, float)) else None
        self.names = self._names(module)
        self.affine, self.shift = (name is not None for name in self.names)
        pairs = zip(("gamma", "beta"), self.names, strict=True)
        self.taken = [f"{ours} = {name}" for ours, name in pairs if name is not None]

    def _names(self, module: Any) -> list[str | None]:
        """Which parameters are gamma and beta: by the last part of their names, at any depth; or
        by what they begin as, ones and zeros; or else in the order they have."""
        left = {name: q.detach().cpu() for name, q in module.named_parameters()}
        found: list[str | None] = [None, None]
        for i, known in enumerate((self.GAMMA, self.BETA)):
            named = [n for own in known for n in left if n.rpartition(".")[2].lower() == own]
            for name in named[:1]:
                found[i] = name
                del left[name]
        for i, start in enumerate((1, 0)):
            like = [name for name, q in left.items() if bool((q == start).all())]
            for name in [*like, *left][:1] if found[i] is None else ():
                found[i] = name
                del left[name]
        return found

    def _parameters(self, module: Any) -> list[Any]:
        """gamma and beta, None for what it has not."""
        named = dict(module.named_parameters())
        return [None if name is None else named[name] for name in self.names]

    def fresh(self, parameter: Array | None, dtype: Any, count: int = 3) -> Any:
        """A new module for this many channels (values, in layer norm), in this dtype."""
        import torch

        count = count if parameter is None else parameter.size
        with theirs():
            module = self._begun(self.build(count), count)
            return module.to(getattr(torch, np.dtype(dtype).name)).train()

    def _begun(self, module: Any, count: int) -> Any:
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
        return module.train()

    def set(self, module: Any, gamma: Array, beta: Array) -> list[Any]:
        """Give the module these parameters; returns its own (None where it has none)."""
        import torch

        own = self._parameters(module)
        with torch.no_grad():
            for parameter, values in zip(own, (gamma, beta), strict=True):
                if parameter is not None:
                    given = torch.from_numpy(np.array(values))
                    if given.numel() != parameter.numel():
                        shape = tuple(parameter.shape)
                        raise Raised(f"a parameter has shape {shape} for {values.size} channels")
                    parameter.copy_(given.reshape(parameter.shape))
        return own

    def run(self, x: Array, gamma: Array, beta: Array, eps: float, dy: Array | None) -> Outcome:
        import torch

        library = _Torch()
        module = self.fresh(gamma, x.dtype)
        own = self.set(module, gamma, beta)
        tensor = library.to(x).requires_grad_(True)
        with theirs():
            y = module(tensor)
        changed = _modified([library.back(tensor)], {"x": x})
        if dy is None:
            return Outcome(_back(library, y), modified=changed)
        wanted, upstream = [tensor, *(q for q in own if q is not None)], library.to(dy)
        with theirs():
            gradients = list(
                torch.autograd.grad(y, wanted, upstream.to(y.dtype), allow_unused=True)
            )
        dx = gradients.pop(0)
        result: list[Array | None] = [None if dx is None else library.back(dx)]
        for parameter, values in zip(own, (gamma, beta), strict=True):
            gradient = gradients.pop(0) if parameter is not None else None
            result.append(
                None if gradient is None else library.back(gradient).reshape(values.shape)
            )
        return Outcome(_back(library, y), *result, modified=changed)


# ---- which kind is it? ------------------------------------------------------------------------


def adapt(candidate: Any, layer: str, settings: dict[str, Any], backend: str | None) -> Candidate:
    """The `Candidate` for what was given. Raises CannotRun, in one line, for what is none."""
    torch = sys.modules.get("torch")
    if isinstance(candidate, (tuple, list)):
        if len(candidate) != 2 or not all(map(callable, candidate)):
            raise CannotRun("a tuple must be two functions (forward, backward)")
        library = LIBRARIES[backend or uses(candidate[0])]()
        return Pair(how_to_call(candidate[0], settings), candidate[1], library)
    if torch is not None and (made := _torch(torch, candidate, layer, settings)):
        return made
    if hasattr(candidate, "forward") and hasattr(candidate, "backward"):
        if isinstance(candidate, type):
            with theirs():
                candidate = candidate()
        library = LIBRARIES[backend or uses(candidate.forward)]()
        return Pair(how_to_call(candidate.forward, settings), candidate.backward, library)
    if hasattr(candidate, "forward") and not callable(candidate):
        candidate = candidate.forward
    if not callable(candidate):
        raise CannotRun(
            f"{type(candidate).__name__} is no candidate: give (forward, backward), something with "
            "those two names, a function, or a torch module or its factory"
        )
    name = backend or uses(candidate)
    call = how_to_call(candidate, settings)
    if name == "torch":
        return TorchFunction(call)
    if name == "jax":
        return JaxFunction(call)
    return Pair(call, None, LIBRARIES[name]())


def _torch(torch: Any, candidate: Any, layer: str, settings: dict[str, Any]) -> Candidate | None:
    """The candidate as a torch module or autograd function; None if it is neither."""
    if isinstance(candidate, torch.nn.Module):
        return TorchModule(lambda count: copy.deepcopy(candidate), _count(candidate, layer), layer)
    if isinstance(candidate, type) and issubclass(candidate, torch.nn.Module):
        return TorchModule(candidate, None, layer)
    if isinstance(candidate, type) and issubclass(candidate, torch.autograd.Function):
        function: Any = candidate
        takes = len(inspect.signature(function.forward).parameters) - 1
        return TorchFunction(Call(function.apply, takes))
    if not callable(candidate):
        return None
    try:
        parameters = inspect.signature(candidate).parameters.values()
    except (TypeError, ValueError):
        return None
    required = [q for q in parameters if q.default is q.empty and q.kind < q.VAR_POSITIONAL]
    if len(required) > 1:
        return None
    try:  # a factory takes one number and gives a module
        module = candidate(3)
    except Exception:
        return None
    return TorchModule(candidate, None, layer) if isinstance(module, torch.nn.Module) else None


def _count(module: Any, layer: str) -> int:
    """For how many channels, or values of a group, a module was built."""
    own = [q.numel() for _, q in module.named_parameters()]
    names = ("num_features", "channels", "num_channels", "features", "normalized_shape")
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
        if isinstance(value, (tuple, list)) and layer == "layer_norm":
            return int(np.prod(value))
    return int(own[0]) if own else 3
