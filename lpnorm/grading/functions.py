"""Where a submission's functions come from, and how they fail: here, or in another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Functions(Protocol):
    """A submission: its functions by name, and the reason if none can be called any more."""

    stopped: str

    def get(self, name: str, keep: tuple[int, ...] = ()) -> Callable[..., Any]:
        """The function; calling it raises Raised. keep: entries of the tuple it returns that are
        passed back to other functions and not looked at."""


class Raised(Exception):
    """A submission's function failed; `words` say how, in one line."""

    @property
    def words(self) -> str:
        return f"it raised {type(self).__name__}: {self}".rstrip(": ")


class Unusable(Raised):
    """A function does not return what was asked for."""

    @property
    def words(self) -> str:
        return str(self)


class Missing(Raised):
    """A function is not there."""

    def __init__(self, name: str, notes: str = "") -> None:
        super().__init__(f"there is no function {name}" + (f" ({notes})" if notes else ""))

    @property
    def words(self) -> str:
        return str(self)


class Unwritten(Raised):
    """A function is still the one that was handed out."""

    @property
    def words(self) -> str:
        return f"not written yet: {self}"


class Stopped(Raised):
    """The submission's process is gone; the text says why."""

    @property
    def words(self) -> str:
        return str(self)


def exception(kind: str, text: str) -> Raised:
    """What a function raised over there, as an exception of that name here."""
    if kind == "NotImplementedError":
        return Unwritten(text or "it raises NotImplementedError")
    name = kind if kind.isidentifier() and len(kind) < 50 else "Exception"
    return type(name, (Raised,), {})(text)


class Local:
    """Functions that are already here: a notebook's own namespace, or an imported module's."""

    def __init__(self, namespace: Mapping[str, Any], notes: str = "") -> None:
        self.namespace, self.notes, self.stopped = namespace, notes, ""

    def get(self, name: str, keep: tuple[int, ...] = ()) -> Callable[..., Any]:
        found = self.namespace.get(name)

        def function(*arguments: Any) -> Any:
            if not callable(found):
                raise Missing(name, self.notes)
            try:
                return found(*arguments)
            except Raised:
                raise
            except Exception as error:
                text = (str(error).strip().splitlines() or [""])[0]
                raise exception(type(error).__name__, text) from error

        return function
