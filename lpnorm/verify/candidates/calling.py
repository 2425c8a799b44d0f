"""Which array library a function uses, and how it takes its arguments."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lpnorm.verify.candidates.common import LIBRARIES


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


ROLES = {  # what the arguments may be called where they do not come in this order
    "x": ("x", "input", "inputs", "data"),
    "gamma": ("gamma", "weight", "scale", "g", "w"),
    "beta": ("beta", "bias", "shift", "b"),
    "eps": ("eps", "epsilon"),
}


@dataclass
class Call:
    """A function and how its arguments are passed: at most `positions`, the others by keyword."""

    function: Callable[..., Any]
    positions: int
    eps_name: str | None = None
    keywords: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # of x, gamma, beta, eps where it has them in another order

    @property
    def takes_eps(self) -> bool:
        return self.eps_name is not None or self.positions >= 4

    @property
    def taken(self) -> list[str]:
        return [f"{role} = {name}" for role, name in zip(ROLES, self.names, strict=False)]

    def __call__(self, *arguments: Any) -> Any:
        """arguments: x, gamma, beta, eps."""
        if self.names:
            return self.function(**dict(zip(self.names, arguments, strict=True)), **self.keywords)
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
    named = {role: q for q in by_place for role, own in ROLES.items() if q.name.lower() in own}
    by_name = len(named) == len(by_place) == 4 and list(named) != list(ROLES)
    if by_name and all(q.kind == q.POSITIONAL_OR_KEYWORD for q in by_place):
        return Call(f, 4, None, keywords, tuple(named[role].name for role in ROLES))
    plain = [q for q in by_place if q.name not in keywords and q.name != eps]
    required = [q for q in plain if q.default is q.empty]
    positions = min(len(plain), max(3, len(required)))
    if eps is not None and parameters[eps].kind == inspect.Parameter.POSITIONAL_ONLY:
        return Call(f, 4, None, keywords)
    if eps is None:
        positions = min(4, len(required)) if len(required) >= 4 else positions
    return Call(f, min(positions, 3) if eps is not None else positions, eps, keywords)
