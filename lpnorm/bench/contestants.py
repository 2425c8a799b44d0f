"""Who is timed: forward and backward of one layer, by the book, compiled, naive, and by PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lpnorm import batchnorm
from lpnorm.arrays import FLOATS, Accumulate, Array, accumulator, view_of
from lpnorm.dispatch import Scheme
from lpnorm.norms import L2, Range, TopK, as_norm, gaussian_constant

WHO = {
    "plain": "lpnorm's plain code",
    "naive": "NumPy as one writes it down, with x.mean() and x.std()",
    "fast": "lpnorm.fast, fresh outputs",
    "reused": "lpnorm.fast's kernels, outputs reused",
    "torch": "PyTorch's own layer for L2, one written in PyTorch for L1",
}
LAYERS = ("batch_norm", "layer_norm")
EPS = 1e-5
ROOM = 14  # arrays like x that the hungriest contestants need at a time
Call = Callable[[], tuple[Array, Array, Array, Array]]


class Entry(NamedTuple):
    """A contestant with a norm; norm is a name of `norm_name`, or "" where there is none."""

    who: str
    norm: str


COPY = Entry("copy", "")
TORCH = Entry("torch", "L2")  # the one that others are compared with
TORCH_L1 = Entry("torch", "L1")


@dataclass(frozen=True)
class Problem:
    """What is to be computed: gamma and beta are one number a channel (axis 1), or, for layer norm
    over the last axis, one for each of its values."""

    shape: tuple[int, ...]
    layer: str = "batch_norm"
    dtype: str = "float32"
    accumulate: str | None = None

    def __post_init__(self) -> None:
        if self.layer not in LAYERS:
            raise ValueError(f"layer must be one of {', '.join(LAYERS)}; got {self.layer!r}")
        if len(self.shape) < 2 or min(self.shape) < 1:
            raise ValueError(f"shape must be two or more sizes of at least 1, got {self.shape}")
        if np.dtype(self.dtype) not in FLOATS:
            raise ValueError(f"dtype must be float16, float32 or float64; got {self.dtype!r}")

    @property
    def reduced(self) -> tuple[int, ...]:
        last = len(self.shape) - 1
        return (last,) if self.layer == "layer_norm" else (0, *range(2, last + 1))

    @property
    def parameter_axis(self) -> int:
        """The axis along which gamma and beta differ."""
        return len(self.shape) - 1 if self.layer == "layer_norm" else 1

    @property
    def n(self) -> int:
        return math.prod(self.shape[a] for a in self.reduced)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def room(self) -> int:
        """Bytes that timing it takes."""
        return ROOM * self.elements * np.dtype(self.dtype).itemsize

    @property
    def sums(self) -> Accumulate:
        return accumulator(np.dtype(self.dtype), self.accumulate)

    def __str__(self) -> str:
        sums = f" summed in {self.accumulate}" if self.accumulate else ""
        return f"{self.layer.replace('_', ' ')} {self.shape} {self.dtype}{sums}"

    def check(self, norms: Iterable[Any]) -> None:
        """Raises what the contestants would raise, before any work."""
        _ = self.sums
        for p in norms:
            try:
                gaussian_constant(p, self.n)
            except ValueError as error:
                raise ValueError(f"{self}: {error}") from None

    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """x, dy, gamma, beta; always the same ones."""
        rng = np.random.default_rng(2018)
        x, dy = (_normal(rng, self.shape, self.dtype) for _ in range(2))
        size = self.shape[self.parameter_axis]
        gamma, beta = 1 + 0.1 * rng.standard_normal(size), 0.1 * rng.standard_normal(size)
        return x, dy, gamma.astype(self.dtype), beta.astype(self.dtype)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    draw = np.float64 if dtype == "float64" else np.float32
    return rng.standard_normal(shape, dtype=draw).astype(dtype, copy=False)


def norm_name(p: Any) -> str:
    """L1, L2, L-infinity, L1.5, Range, Top-10."""
    if isinstance(p, Range):
        return "Range"
    if isinstance(p, TopK):
        return f"Top-{p.k}" if p.k > 1 else "L-infinity"
    return "L-infinity" if p == math.inf else f"L{p:g}"


def installed(name: str) -> ModuleType | str:
    """A module, or in one line why it is not there."""
    try:
        return import_module(name)
    except ImportError as error:
        own = str(error).startswith("lpnorm")
        return str(error) if own else f"{name} is not installed"


def lineup(problem: Problem, norms: Sequence[Any], who: Iterable[str]) -> list[Entry]:
    """Who runs: each of `who` with each norm it has; PyTorch with L2, and with L1 if that is asked.

    In float16 there is no naive one (NumPy's own float16 is plain's) and no L1 in PyTorch.
    """
    names, half = [norm_name(p) for p in norms], problem.dtype == "float16"
    chosen = [COPY]
    for each in who:
        if each == "torch":
            chosen += [TORCH, *([TORCH_L1] if "L1" in names and not half else [])]
        elif each != "naive" or not half:
            chosen += [Entry(each, name) for name in names if each != "naive" or _is_naive(name)]
    return chosen


def _is_naive(name: str) -> bool:
    return name in ("L1", "L2", "Range", "L-infinity") or name.startswith("Top")


def prepare(problem: Problem, norms: Sequence[Any], entries: Iterable[Entry]) -> dict[Entry, Call]:
    """What to call for each entry, on the same arrays; it returns y, dx, dgamma, dbeta.

    (COPY returns nothing: it copies x once, on one thread.)
    """
    known = {norm_name(p): p for p in norms} | {"L2": 2, "": None}
    arrays, makers = problem.arrays(), {"naive": _naive, "reused": _reused, "torch": _torch}
    makers |= {"copy": _copy, "plain": _public, "fast": _public}
    return {
        entry: makers[entry.who](problem, arrays, known[entry.norm], entry.who) for entry in entries
    }


def _copy(problem: Problem, arrays: Any, p: Any, who: str) -> Any:
    x = arrays[0]
    z = np.empty_like(x)
    return lambda: np.copyto(z, x)


def _public(problem: Problem, arrays: Any, p: Any, who: str) -> Call:
    """The public functions, of the book or of `lpnorm.fast`."""
    x, dy, gamma, beta = arrays
    room: Any = batchnorm if who == "plain" else import_module("lpnorm.fast")
    forward = getattr(room, problem.layer)
    backward = getattr(room, f"{problem.layer}_backward")
    given = {"p": p, "axis": problem.parameter_axis, "eps": EPS, "accumulate": problem.accumulate}

    def call() -> tuple[Array, Array, Array, Array]:
        y, cache = forward(x, gamma, beta, **given)
        return y, *backward(dy, cache)

    return call


def _reused(problem: Problem, arrays: Any, p: Any, who: str) -> Call:
    """The kernels beneath, which can write where an earlier call wrote."""
    cpu: Any = import_module("lpnorm.fast.cpu")
    x, dy, gamma, beta = arrays
    view = view_of(x, problem.reduced)
    x, dy = view.see(x), view.see(dy)
    y, dx = np.empty_like(x), np.empty_like(x)
    per_value = problem.layer == "layer_norm"
    scheme = Scheme(as_norm(p), gaussian_constant(p, view.n), EPS, problem.sums, per_value)

    def call() -> tuple[Array, Array, Array, Array]:
        out, mean, scale = cpu.forward(x, gamma, beta, scheme, out=y)
        gradients = cpu.backward(dy, x, gamma, beta, mean, scale, scheme, out=dx)
        return view.back(out), view.back(gradients[0]), *gradients[1:]

    return call


def _naive(problem: Problem, arrays: Any, p: Any, who: str) -> Call:
    """The formulas as one writes them down, whole arrays at a time, nothing reused."""
    x, dy, *parameters = arrays
    norm, axes, c = as_norm(p), problem.reduced, gaussian_constant(p, problem.n)
    others = tuple(a for a in range(x.ndim) if a != problem.parameter_axis)
    gamma, beta = (np.expand_dims(v, others) for v in parameters)
    n, k = problem.n, getattr(norm, "k", 1)
    keep: dict[str, Any] = {"axis": axes, "keepdims": True}

    def scale_and_slope(d: Array) -> tuple[Array, Array]:
        if isinstance(norm, L2):
            s = np.sqrt(np.mean(d**2, **keep) + EPS)
            return s, d / (n * s)
        if p == 1:
            return c * np.mean(abs(d), **keep) + EPS, c * np.sign(d) / n
        if isinstance(norm, Range):
            top, bottom = d == np.max(d, **keep), d == np.min(d, **keep)
            slope = top / np.sum(top, **keep) - bottom / np.sum(bottom, **keep)
            return c * np.ptp(d, **keep) + EPS, c * slope.astype(d.dtype)
        size = abs(d)
        if k == 1:
            least = np.max(size, **keep)
        else:
            rows = np.moveaxis(size, axes, range(-len(axes), 0))
            rows = rows.reshape(*rows.shape[: x.ndim - len(axes)], n)
            least = np.expand_dims(np.partition(rows, n - k)[..., n - k], axes)
        top = size >= least
        count = np.sum(top, **keep, dtype=d.dtype)
        return c * np.sum(size * top, **keep) / count + EPS, c * np.sign(d) * top / count

    def call() -> tuple[Array, Array, Array, Array]:
        d = x - x.mean(**keep)
        s, h = scale_and_slope(d)
        x_hat = d / s
        y = gamma * x_hat + beta
        g = gamma * dy
        t = np.sum(g * x_hat, **keep)
        dx = (g - g.mean(**keep) - t * (h - h.mean(**keep))) / s
        return y, dx, np.sum(dy * x_hat, axis=others), np.sum(dy, axis=others)

    return call


def _torch(problem: Problem, arrays: Any, p: Any, who: str) -> Call:
    """PyTorch's own layer (p = 2), or L1 as one writes it in PyTorch; its outputs are fresh."""
    torch: Any = import_module("torch")
    x, dy, gamma, beta = map(torch.from_numpy, arrays)
    inputs = [v.requires_grad_() for v in (x, gamma, beta)]
    functional, c = torch.nn.functional, gaussian_constant(p, problem.n)
    wide = [-1 if a == problem.parameter_axis else 1 for a in range(x.ndim)]

    def forward() -> Any:
        if p == 1:
            d = x - x.mean(problem.reduced, keepdim=True)
            s = c * d.abs().mean(problem.reduced, keepdim=True) + EPS
            return gamma.view(wide) * (d / s) + beta.view(wide)
        if problem.layer == "layer_norm":
            return functional.layer_norm(x, problem.shape[-1:], gamma, beta, EPS)
        return functional.batch_norm(x, None, None, gamma, beta, training=True, eps=EPS)

    def call() -> tuple[Any, Any, Any, Any]:
        y = forward()
        return y.detach(), *torch.autograd.grad(y, inputs, dy)

    return call
