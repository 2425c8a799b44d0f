"""What every candidate is to the checks, and the array libraries."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lpnorm.verify.cases import Case, Outcome

Array = np.ndarray


class CannotRun(Exception):
    """The candidate cannot be judged at all; the message is one line that says why."""


class Raised(CannotRun):
    """The candidate's own code raised, and that is the cause; or, without one, it gave what it
    should not. The message is one line."""


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


class Candidate:
    """How to call an implementation. `run` is all that most checks need."""

    kind = "NumPy"
    has_backward = False
    pair = False  # forward and backward are two calls, with a cache between them
    traced = False  # every new shape is compiled: few shapes, then
    takes_eps = True
    affine = True
    shift = True  # there is a beta
    eps: float | None = None  # a module's own
    groups: int | None = None  # channels a module was built for
    size: int | None = None  # values a layer norm module was built for
    shape: tuple[int, ...] | None = None  # in which they lie; a module's weight shape
    taken: Sequence[str] = ()  # what of it was taken for what

    def run(self, case: Case, backward: bool) -> Outcome:
        raise NotImplementedError

    def begin(self, case: Case) -> Any:
        """A `models.Model` with the case's gamma and beta, to train; None for what has no state."""
        return None


# ---- array libraries --------------------------------------------------------------------------


class NumPyLibrary:
    name = "NumPy"

    def to(self, a: Array) -> Any:
        return a

    def back(self, a: Any) -> Array:
        if not isinstance(a, (np.ndarray, np.generic, float, int)):
            raise TypeError(f"expected an array, got {type(a).__name__}")
        return np.asarray(a)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


class CuPyLibrary(NumPyLibrary):
    name = "CuPy"

    def to(self, a: Array) -> Any:
        return sys.modules["cupy"].asarray(a)

    def back(self, a: Any) -> Array:
        return np.asarray(sys.modules["cupy"].asnumpy(a))


class TorchLibrary(NumPyLibrary):
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


class JaxLibrary(NumPyLibrary):
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


LIBRARIES = {
    "numpy": NumPyLibrary,
    "cupy": CuPyLibrary,
    "torch": TorchLibrary,
    "jax": JaxLibrary,
}


def back(library: NumPyLibrary, a: Any) -> Array:
    """What a candidate gave, as a NumPy array."""
    try:
        return library.back(a)
    except Exception as error:
        raise Raised(line(error)) from None  # no cause: their code ran
