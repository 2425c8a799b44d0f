"""Who is timed over a training step: lpnorm plain and compiled, and PyTorch; whole, and by layers.

By layers: every layer that the step meets, on an input of the shape that it meets there, is timed
by itself, forward and backward, in the same way for all; one that occurs five times counts five
times. A view (`Flatten`) takes no time and is left out.
"""

from __future__ import annotations

import copy
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from lpnorm import models, nn, plain
from lpnorm.arrays import Array
from lpnorm.decay import SGD

WHO = {
    "plain": "lpnorm's plain code",
    "fast": "lpnorm.fast",
    "torch": "PyTorch, the same network with the same weights",
}
MODELS: dict[str, Callable[[], nn.Sequential]] = {
    "resnet20": models.resnet,
    "vgg11": functools.partial(models.vgg11, width=16),  # a quarter
}
BATCH, QUICK_BATCH = 128, 32
OPTIMIZER: Any = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
CHECKED = 3  # losses of this many steps must agree
TOLERANCE = 2e-3
"""Relative. Where rounding in float32 puts a unit on the other side of its ReLU, later losses feel
it: measured 1e-5 and less with a batch of 4 or more, 1e-3 with 2. Without momentum they change by
6e-2 and more. (Weight decay, which normalized weights hardly feel, is below that: a test in float64
compares the weights after the steps.)"""
ROOM = 4  # times all layers' outputs: what the hungriest step keeps, and the arrays of the parts

STEP = "whole step"
ADD, LOSS, UPDATE = "residual add", "loss", "optimizer"
KINDS: dict[type, str] = {
    nn.BatchNorm: "batch norm",
    nn.ReLU: "ReLU",
    nn.MaxPool2d: "max pool",
    nn.GlobalAvgPool2d: "global pool",
    nn.Linear: "linear",
}
ORDER = ("convolution 3x3", "convolution 1x1", "batch norm", "ReLU", "max pool", ADD, "global pool",
         "linear", LOSS, UPDATE)  # fmt: skip
Call = Callable[[], Any]


class Disagree(RuntimeError):
    """Contestants do not compute the same: their times are not to be compared."""


class Part(NamedTuple):
    """What is timed by itself; parts that are equal take equally long.

    needs_dx: False for the network's first layer, whose dx PyTorch does not compute (lpnorm does).
    """

    kind: str
    x: tuple[int, ...] = ()
    y: tuple[int, ...] = ()
    parameters: tuple[tuple[int, ...], ...] = ()
    needs_dx: bool = True


@dataclass(frozen=True)
class Training:
    """A network and how many images a step takes."""

    model: str
    batch: int = BATCH

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch}, float32"

    @property
    def room(self) -> int:
        """Bytes that timing it takes."""
        values = sum(math.prod(part.y) for part, _ in layers(self.network("plain"), _images(2)))
        return ROOM * 4 * values // 2 * self.batch

    def network(self, who: str) -> nn.Sequential:
        """Always with the same weights."""
        network = MODELS[self.model]()
        network.to(impl=_implementation(who))
        return network

    def step(self, who: str) -> Call:
        """One training step, on the same images every time; it returns the loss before."""
        images, labels = _images(self.batch), _labels(self.batch)
        if who == "torch":
            return _torch_step(to_torch(self.network("plain")), images, labels)
        network, impl = self.network(who), _implementation(who)
        optimizer = SGD(network.parameters(), **OPTIMIZER)

        def step() -> float:
            optimizer.zero_grad()
            logits, backward = network(images)
            loss, dlogits = nn.softmax_cross_entropy(logits, labels, impl=impl)
            backward(dlogits)
            optimizer.step()
            return loss

        return step

    def losses(self, who: Iterable[str]) -> dict[str, list[float]]:
        """Everyone's first losses, and the plain code's.

        Raises Disagree if they differ by more than TOLERANCE from the plain code's.
        """
        found: dict[str, list[float]] = {}
        for each in dict.fromkeys(["plain", *who]):
            step = self.step(each)
            found[each] = [step() for _ in range(CHECKED)]
            for loss, want in zip(found[each], found["plain"], strict=True):
                if not abs(loss - want) <= TOLERANCE * abs(want):
                    told = (", ".join(f"{v:.6g}" for v in found[w]) for w in (each, "plain"))
                    first = f"the losses of the first {CHECKED} steps are {next(told)} for {each}"
                    raise Disagree(f"{self}: {first}, {next(told)} for plain")
        return found

    def parts(self, who: Iterable[str]) -> tuple[dict[tuple[Part, str], Call], Counter[Part]]:
        """What to call for each part and contestant, on the same arrays; how often it occurs."""
        rng, calls = np.random.default_rng(2018), {}
        plain_network = self.network("plain")
        found = layers(plain_network, _images(self.batch))
        learned = [p.data for p in plain_network.parameters()]
        whole = Part(UPDATE, parameters=tuple(p.shape for p in learned))
        logits = found[-1][0].y
        counts = Counter([part for part, _ in found] + [Part(LOSS, logits), whole])
        for part, layer in dict(found).items():
            x, dy = (rng.standard_normal(shape, np.float32) for shape in (part.x, part.y))
            for each in who:
                if each == "torch":
                    calls[part, each] = _torch_layer(to_torch(layer), x, dy, part.needs_dx)
                else:
                    calls[part, each] = _own_layer(layer, _implementation(each), x, dy)
        z, labels = rng.standard_normal(logits, np.float32), _labels(self.batch)
        gradients = [1e-3 * rng.standard_normal(p.shape, np.float32) for p in learned]
        for each in who:
            if each == "torch":
                calls[Part(LOSS, logits), each] = _torch_loss(z, labels)
                calls[whole, each] = _torch_update(to_torch(plain_network), gradients)
            else:
                loss = functools.partial(nn.softmax_cross_entropy, impl=_implementation(each))
                calls[Part(LOSS, logits), each] = functools.partial(loss, z, labels)
                calls[whole, each] = _own_update(self.network(each), gradients)
        return calls, counts


def _implementation(who: str) -> Any:
    return import_module("lpnorm.fast") if who == "fast" else plain


def _images(batch: int) -> Array:
    return np.random.default_rng(0).standard_normal((batch, 3, 32, 32), np.float32)


def _labels(batch: int) -> Array:
    return np.random.default_rng(1).integers(0, 10, batch)


def layers(network: nn.Layer, images: Array) -> list[tuple[Part, nn.Layer]]:
    """Every layer that a step meets, in order, as a part."""
    found: list[tuple[Part, nn.Layer]] = []

    def meet(layer: nn.Layer, x: Array) -> Array:
        if isinstance(layer, nn.Sequential):
            for each in layer.sequence:
                x = meet(each, x)
            return x
        if isinstance(layer, nn.Residual):
            y = meet(layer.body, x)
            if layer.shortcut is not None:
                meet(layer.shortcut, x)
            # x + x, and back dy + dy: an empty body gives back what it is given
            found.append((Part(ADD, y.shape, y.shape), nn.Residual(nn.Sequential())))
            return y
        y, _ = layer(x)
        if not isinstance(layer, nn.Flatten):
            shapes = tuple(p.data.shape for p in layer.parameters())
            found.append((Part(_kind(layer), x.shape, y.shape, shapes, x is not images), layer))
        return y

    meet(network, images)
    return found


def _kind(layer: nn.Layer) -> str:
    if isinstance(layer, nn.Conv2d):
        return "convolution {}x{}".format(*layer.windows.kernel)
    return KINDS[type(layer)]


def _own_layer(layer: nn.Layer, impl: Any, x: Array, dy: Array) -> Call:
    layer = copy.deepcopy(layer).to(impl=impl)
    learned = layer.parameters()

    def call() -> None:
        for parameter in learned:
            parameter.grad = None
        _, backward = layer(x)
        backward(dy)

    return call


def _own_update(network: nn.Layer, gradients: list[Array]) -> Call:
    learned = network.parameters()
    optimizer = SGD(learned, **OPTIMIZER)

    def call() -> None:
        for parameter, gradient in zip(learned, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    return call


# --- PyTorch -------------------------------------------------------------------------------------


def to_torch(layer: nn.Layer) -> Any:
    """The same layer in PyTorch, with copies of its parameters."""
    t: Any = import_module("torch.nn")
    if isinstance(layer, nn.Sequential):
        return t.Sequential(*map(to_torch, layer.sequence))
    if isinstance(layer, nn.Residual):
        shortcut = t.Identity() if layer.shortcut is None else to_torch(layer.shortcut)
        return _torch_residual(to_torch(layer.body), shortcut)
    if isinstance(layer, nn.Conv2d):
        (outputs, inputs, *kernel), w = layer.weight.data.shape, layer.windows
        made = t.Conv2d(inputs, outputs, kernel, w.stride, w.padding, bias=layer.bias is not None)
        return _with(made, weight=layer.weight, bias=layer.bias)
    if isinstance(layer, nn.Linear):
        outputs, inputs = layer.weight.data.shape
        made = t.Linear(inputs, outputs, bias=layer.bias is not None)
        return _with(made, weight=layer.weight, bias=layer.bias)
    if isinstance(layer, nn.BatchNorm):
        made = t.BatchNorm2d(len(layer.running_mean), layer.arguments["eps"], layer.momentum)
        return _with(made, weight=layer.gamma, bias=layer.beta)
    if isinstance(layer, nn.MaxPool2d):
        return t.MaxPool2d(layer.windows.kernel, layer.windows.stride, layer.windows.padding)
    if isinstance(layer, nn.GlobalAvgPool2d):
        return t.Sequential(t.AdaptiveAvgPool2d(1), t.Flatten())
    return {nn.ReLU: t.ReLU, nn.Flatten: t.Flatten}[type(layer)]()


def _with(module: Any, **parameters: nn.Parameter | None) -> Any:
    torch: Any = import_module("torch")
    for name, parameter in parameters.items():
        if parameter is not None:
            value = torch.from_numpy(parameter.data.copy())
            setattr(module, name, torch.nn.Parameter(value))
    return module


def _torch_residual(body: Any, shortcut: Any) -> Any:
    torch: Any = import_module("torch")

    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x: Any) -> Any:
            return self.body(x) + self.shortcut(x)

    return Residual()


def _torch_step(network: Any, images: Array, labels: Array) -> Call:
    torch: Any = import_module("torch")
    x, target = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(network.parameters(), **OPTIMIZER)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), target)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _torch_layer(layer: Any, x: Array, dy: Array, needs_dx: bool) -> Call:
    torch: Any = import_module("torch")
    given, gradient = torch.from_numpy(x), torch.from_numpy(dy)
    inputs = [*([given.requires_grad_()] if needs_dx else []), *layer.parameters()]
    return lambda: torch.autograd.grad(layer(given), inputs, gradient)


def _torch_loss(logits: Array, labels: Array) -> Call:
    torch: Any = import_module("torch")
    z, target = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)
    return lambda: torch.autograd.grad(torch.nn.functional.cross_entropy(z, target), z)


def _torch_update(network: Any, gradients: list[Array]) -> Call:
    torch: Any = import_module("torch")
    learned = list(network.parameters())
    given = [torch.from_numpy(gradient) for gradient in gradients]
    optimizer = torch.optim.SGD(learned, **OPTIMIZER)

    def call() -> None:
        for parameter, gradient in zip(learned, given, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    return call
