"""The training loop: a progress bar, a history, a clear word when the loss is not finite."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from lpnorm import nn
from lpnorm.arrays import (
    Array,
    check_array,
    check_count,
    check_function,
    check_number,
    check_shape,
    library_of,
    to_device,
)
from lpnorm.checkpoint import Checkpoint, identity
from lpnorm.data import Dataset
from lpnorm.decay import SGD, NormTrace, channel_norms
from lpnorm.files import check_writable
from lpnorm.nn.base import check_layer


@dataclass
class History:
    """What was measured, one entry an epoch (lists of Python numbers, ready for JSON).

    loss, train_accuracy: means over the epoch's batches as they were trained on; test_accuracy:
    after the epoch, with the running statistics. norms, step_sizes: for every weight that
    `nn.scale_invariant` names, the norm ||w_i|| of each output channel after the epoch and its
    effective step size lr / ||w_i||^2 (equation 3). diverged: None, or {"epoch", "step", "where"}
    of the first loss that was not finite; accuracies from then on are missing.
    """

    loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    norms: dict[str, list[list[float]]] = field(default_factory=dict)
    step_sizes: dict[str, list[list[float]]] = field(default_factory=dict)
    diverged: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class LossScale:
    """What a float16 network's loss is multiplied by, so that small gradients do not vanish.

    scale: a power of two is exact. Every gradient is divided by it again before the step, in the
    optimizer's `master` dtype if it has one. dynamic: if a gradient is not finite, the step is left
    out and the scale halved (not below 1: if that does not help, the training has diverged); after
    `growth` steps in a row it is doubled (not above 2^24). Raises TypeError or ValueError naming
    the argument.
    """

    def __init__(self, scale: float = 1024.0, dynamic: bool = False, growth: int = 200) -> None:
        self.scale = check_number("scale", scale, 2.0**-24, 2.0**24)
        self.dynamic, self.growth = bool(dynamic), check_count("growth", growth)
        self.good_steps = self.skipped = 0

    def update(self, finite: bool) -> None:
        """After a step: were all gradients finite?"""
        self.good_steps = self.good_steps + 1 if finite else 0
        self.skipped += not finite
        if not finite:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good_steps % self.growth == 0:
            self.scale = min(self.scale * 2, 2.0**24)

    def state(self) -> dict[str, np.ndarray]:
        """Scale and counts as an array, for a checkpoint."""
        return {"state": np.array([self.scale, self.good_steps, self.skipped])}

    def settings(self) -> dict[str, Any]:
        """What it was made with: the scale too, unless that changes."""
        made = {"dynamic": self.dynamic, "growth": self.growth}
        return made if self.dynamic else {"scale": self.scale, **made}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `state` returned."""
        scale, good_steps, skipped = state["state"]
        self.scale, self.good_steps, self.skipped = float(scale), int(good_steps), int(skipped)


class Diverged(ArithmeticError):
    """The loss or a parameter became NaN or Inf: at which step, and where it first appeared."""

    def __init__(self, what: str, step: int, epoch: int, where: str) -> None:
        super().__init__(f"{what} at step {step} (epoch {epoch}): {where}")
        self.what, self.step, self.epoch, self.where = what, step, epoch, where


def train(
    model: nn.Layer,
    data: Dataset,
    optimizer: SGD,
    epochs: int,
    batch: int = 64,
    seed: int = 0,
    schedule: Callable[[int], float] | None = None,
    augment: Callable[[Array, np.random.Generator], Array] | None = None,
    clip: float | None = None,
    loss_scale: LossScale | None = None,
    trace: NormTrace | None = None,
    before_step: Callable[[int, int], None] | None = None,
    after_step: Callable[[int, int], None] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    if_diverged: str = "raise",
    progress: bool = True,
) -> History:
    """Train with softmax cross-entropy; returns a `History`. Same seed, same bits.

    The order of the samples and the augmentation come from one Generator made from `seed`; an
    epoch is all full batches of `batch` samples. schedule: epoch -> factor on the learning rate,
    asked for all epochs before the first.
    augment: (x, Generator) -> x. clip: the largest norm of all gradients together (before the loss
    is scaled). loss_scale: a `LossScale`, for float16. trace: a
    NormTrace to record at the start of every step. before_step: called with (step, epoch) before
    every step, for a `NormSchedule`. after_step: the same after every step (also one that a
    dynamic loss scale skips), to measure something; if it has `state()` and `load_state(d)`, a
    dict of arrays, it is part of the checkpoint. if_diverged: "raise" Diverged,
    or "record" it in the history and stop. progress: a tqdm bar with loss, accuracy and time left,
    on the standard error.

    checkpoint: a file written after every epoch (all of it or nothing) with model, optimizer,
    random state, trace and history. Where it exists already, training goes on after the epoch it
    holds, and ends with the same bits as if it had never stopped; so after Ctrl-C or a kill the
    same call continues, also with more epochs. ValueError if it is damaged or of another training:
    another model, optimizer, data, batch, seed, clip, loss scale, trace or after_step, an
    augmentation that makes something else of the first samples (it is called once for that), a
    schedule that gave other factors. Functions for step_scale and after_step are known by their
    names. That device and machine are the same is up to the caller; the initial weights do not
    matter any more. A checkpoint of lpnorm 0.1.0 is refused.

    Raises TypeError or ValueError naming the argument before any work.
    """
    epochs, batch = check_count("epochs", epochs, 0), check_count("batch", batch)
    seed, clip = check_count("seed", seed, 0), None if clip is None else check_number("clip", clip)
    _check_model(model, data, optimizer, batch)
    functions: dict[str, Any] = {"before_step": before_step, "after_step": after_step}
    functions |= {"schedule": schedule, "augment": augment}
    _check_others(model, optimizer, functions, loss_scale, trace, if_diverged)
    factors = [1.0 if schedule is None else schedule(epoch) for epoch in range(epochs)]
    factors = [check_number("the factor from schedule", factor) for factor in factors]
    rng, history, start, kept = np.random.default_rng(seed), History(), 0, None
    steps = data.train_x.shape[0] // batch
    if checkpoint is not None:
        path = check_writable("checkpoint", checkpoint)
        scaling = None if loss_scale is None else loss_scale.settings()
        settings = {"batch": batch, "seed": seed, "clip": clip, "loss_scale": scaling}
        settings |= identity(model, data, optimizer, augment, batch, trace, before_step, after_step)
        roles = {"trace": trace, "after_step": after_step, "loss_scale": loss_scale}
        watchers = {role: w for role, w in roles.items() if hasattr(w, "load_state")}
        kept = Checkpoint(path, settings, factors, model, optimizer, rng, watchers)
        if (restored := kept.restore()) is not None:
            start, found = restored
            vars(history).update(found)
    epochs_left = range(start, epochs) if history.diverged is None else ()

    def run_step(epoch: int, step: int, x: Array, y: Array) -> tuple[float, int]:
        if before_step is not None:
            before_step(step, epoch)
        loss, hits = _step(model, optimizer, x, y, clip, loss_scale, trace, epoch, step)
        if after_step is not None:
            after_step(step, epoch)
        return loss, hits

    # what overflows is reported as a divergence, once, with its layer
    with (
        progress_bar(epochs * steps, start * steps, "step", progress) as bar,
        np.errstate(over="ignore", invalid="ignore", divide="ignore"),
    ):
        for epoch in epochs_left:
            optimizer.lr_factor = factors[epoch]
            try:
                loss, hits = _epoch(epoch, model, data, batch, rng, augment, run_step, bar)
            except Diverged as divergence:
                if if_diverged == "raise":
                    raise
                history.diverged = {
                    "epoch": epoch,
                    "step": divergence.step,
                    "where": divergence.where,
                }
            else:
                history.loss.append(loss)
                history.train_accuracy.append(hits)
                history.test_accuracy.append(accuracy(model, data.test_x, data.test_y))
                record_norms(history, model, optimizer)
                last = f"{history.test_accuracy[-1]:.1%}"
                bar.set_postfix(loss=f"{history.loss[-1]:.3f}", test=last, refresh=False)
            if kept is not None:
                kept.write(epoch + 1, history.to_dict())
            if history.diverged is not None:
                break
    return history


def clip_gradient_norm(parameters: Iterable[Any], largest: float) -> float:
    """Scale all gradients so that their common L2 norm is at most `largest`; returns the norm.

    Gradients that are None are skipped. A norm that is not finite changes nothing. Note that one
    factor for all parameters breaks the bit laws of scale-invariant weights.
    """
    check_number("largest", largest)
    having = [p for p in parameters if p.grad is not None]
    squares = [float(channel_norms(p.grad.reshape(1, -1))[0]) ** 2 for p in having]
    norm = math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.inf
    if largest < norm < math.inf:
        for parameter in having:
            scaled = parameter.grad.astype("float64")  # a copy: the gradient may be somebody's
            scaled *= largest / norm
            parameter.grad = scaled.astype(parameter.grad.dtype, copy=False)
    return norm


def _epoch(
    epoch: int,
    model: nn.Layer,
    data: Dataset,
    batch: int,
    rng: np.random.Generator,
    augment: Callable[[Array, np.random.Generator], Array] | None,
    run_step: Callable[[int, int, Array, Array], tuple[float, int]],
    bar: Any,
) -> tuple[float, float]:
    """All full batches of one shuffled epoch; the mean loss and accuracy, or Diverged."""
    count, losses, hits = data.train_x.shape[0], 0.0, 0
    order, steps = library_of(data.train_x).asarray(rng.permutation(count)), count // batch
    for i in range(steps):
        rows = order[i * batch : (i + 1) * batch]
        x, y = data.train_x[rows], data.train_y[rows]
        x = x if augment is None else augment(x, rng)
        loss, right = run_step(epoch, epoch * steps + i, x, y)
        losses, hits = losses + loss, hits + right
        bar.update()
    for parameter in model.parameters():  # after the last step no loss will tell
        if not _finite(parameter.data):
            what, step = f"parameter {parameter.name} is not finite", (epoch + 1) * steps - 1
            raise Diverged(what, step, epoch, what)
    return losses / steps, hits / (steps * batch)


def _step(
    model: nn.Layer,
    optimizer: SGD,
    x: Array,
    y: Array,
    clip: float | None,
    loss_scale: LossScale | None,
    trace: NormTrace | None,
    epoch: int,
    step: int,
) -> tuple[float, int]:
    """One step on one batch: the loss before it, and how many were right."""
    optimizer.zero_grad()
    logits, backward = model(x)
    scale = 1.0 if loss_scale is None else loss_scale.scale
    loss, dlogits = nn.softmax_cross_entropy(logits, y, scale)
    if not np.isfinite(loss):
        raise Diverged(f"the loss is {loss}", step, epoch, first_not_finite(model, x))
    backward(dlogits)
    if loss_scale is not None and loss_scale.dynamic:
        bad = [p.name for p in model.parameters() if p.grad is not None and not _finite(p.grad)]
        if bad and scale <= 1:
            what = f"the gradient of parameter {bad[0]} is not finite at loss scale {scale:g}"
            raise Diverged(what, step, epoch, what)
        loss_scale.update(finite=not bad)
        if bad:
            return loss, int((logits.argmax(axis=1) == y).sum())
    if clip is not None:
        clip_gradient_norm(model.parameters(), clip * scale)
    if trace is not None:  # here and not above: one record for each step that is taken
        trace.record()
    optimizer.loss_scale = scale
    optimizer.step()
    return loss, int((logits.argmax(axis=1) == y).sum())


def _check_model(model: nn.Layer, data: Dataset, optimizer: SGD, batch: int) -> None:
    """TypeError or ValueError unless the model can be trained on the data by the optimizer."""
    order = "the order is train(model, data, optimizer, epochs)"
    for name, given, kind in (
        ("model", model, nn.Layer),
        ("data", data, Dataset),
        ("optimizer", optimizer, SGD),
    ):
        if not isinstance(given, kind):
            wanted = f"{kind.__module__}.{kind.__qualname__}"
            raise TypeError(f"{name} must be a {wanted}, got {type(given).__name__}; {order}")
    for name, array in vars(data).items():
        check_array(f"data.{name}", array)
        if array.ndim == 0 or array.shape[0] == 0:
            raise ValueError(f"data.{name} must not be empty, got shape {tuple(array.shape)}")
    count = data.train_x.shape[0]
    if batch > count:
        raise ValueError(f"batch must be at most the {count} training samples, got {batch}")
    check_shape("data.train_y", data.train_y, (count,))
    check_shape("data.test_x", data.test_x, (data.test_x.shape[0], *data.train_x.shape[1:]))
    check_shape("data.test_y", data.test_y, data.test_x.shape[:1])
    held = {id(p) for group in optimizer.groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):  # names them as seen from the model
        raise ValueError("optimizer holds none of the model's parameters")
    for name, x, labels in (
        ("data.train_y", data.train_x, data.train_y),
        ("data.test_y", data.test_x, data.test_y),
    ):
        if labels.dtype.kind not in "iu":
            raise TypeError(f"{name} must have an integer dtype, got {labels.dtype}")
        with np.errstate(all="ignore"):
            logits, _ = model(x[:1], train=False)
        nn.softmax_cross_entropy(logits, 0 * labels[:1])  # takes logits and labels, or says why not
        if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
            span = f"from {int(labels.min())} to {int(labels.max())}"
            raise ValueError(f"{name} must be from 0 to {logits.shape[1] - 1}, got {span}")


def _check_others(
    model: nn.Layer,
    optimizer: SGD,
    functions: dict[str, Any],
    loss_scale: Any,
    trace: Any,
    if_diverged: str,
) -> None:
    for name, function in functions.items():
        check_function(name, function)
    if loss_scale is not None and not isinstance(loss_scale, LossScale):
        raise TypeError(f"loss_scale must be None or a training.LossScale, got {loss_scale!r}")
    if trace is not None:
        if not isinstance(trace, NormTrace):
            raise TypeError(f"trace must be None or a decay.NormTrace, got {trace!r}")
        own = {id(p) for p in model.parameters()}
        for name, (parameter, _) in trace.parameters.items():
            if id(parameter) not in own:
                raise ValueError(f"trace records {name!r}, which is not the model's")
            if trace.optimizer is not optimizer:
                raise ValueError("trace must be a NormTrace of the optimizer given")
            optimizer.rate(parameter)  # ValueError naming a parameter that it lacks
    if if_diverged not in ("raise", "record"):
        raise ValueError(f'if_diverged must be "raise" or "record", got {if_diverged!r}')


def accuracy(model: nn.Layer, x: Array, y: Array, batch: int = 512) -> float:
    """The fraction of x (N, ...) classified as y (N,), with the running statistics.

    TypeError or ValueError naming the argument.
    """
    check_layer("model", model)
    check_array("x", x)
    check_array("y", y)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
    check_shape("y", y, x.shape[:1])
    batch, hits = check_count("batch", batch), 0
    for start in range(0, x.shape[0], batch):
        logits, _ = model(x[start : start + batch], train=False)
        hits += int((logits.argmax(axis=1) == y[start : start + batch]).sum())
    return hits / x.shape[0]


def record_norms(history: History, model: nn.Layer, optimizer: SGD) -> None:
    """Append each scale-invariant weight's channel norms and effective step sizes, in float64."""
    check_layer("model", model)
    rates = {id(p): g["lr"] * optimizer.lr_factor for g in optimizer.groups for p in g["params"]}
    for parameter, axis in nn.scale_invariant(model):
        norms = to_device(channel_norms(parameter.data, axis), "cpu")
        history.norms.setdefault(parameter.name, []).append(norms.tolist())
        sizes = rates.get(id(parameter), 0.0) / np.maximum(norms**2, np.finfo("float64").tiny)
        history.step_sizes.setdefault(parameter.name, []).append(sizes.tolist())


def first_not_finite(model: nn.Layer, x: Array) -> str:
    """Where NaN or Inf first appears on the way from x to the logits, in words.

    Looks at x, then layer by layer at parameters and output. Leaves the model as it was.
    """
    check_layer("model", model)
    if not _finite(x):
        return "the input is not finite"
    model.parameters()  # names them as seen from the model
    paths = {id(layer): path for path, layer in model.layers()}
    found: list[str] = []

    def look(layer: nn.Layer, y: Array) -> None:
        name = f"layer {paths.get(id(layer)) or 'model'} ({type(layer).__name__})"
        own = [c for c in layer.children().values() if isinstance(c, nn.Parameter)]
        found.extend(f"parameter {p.name} is not finite" for p in own if not _finite(p.data))
        if not _finite(y):
            found.append(f"the output of {name} is not finite")

    state = model.state()
    with nn.watch(look):
        logits, _ = model(x)
    model.load_state(state)
    return found[0] if found else f"the loss of logits up to {float(abs(logits).max()):.3g}"


def _finite(x: Array) -> bool:
    return bool(library_of(x).isfinite(x).all())


def progress_bar(total: int, done: int, unit: str, progress: bool) -> Any:
    """A tqdm bar on the standard error; in a log (no terminal) a line every ten seconds."""
    from tqdm.auto import tqdm

    log = not sys.stderr.isatty() and "ipykernel" not in sys.modules  # a notebook is no log
    settings: dict[str, Any] = {"mininterval": 10.0, "file": _Lines()} if log else {}
    return tqdm(total=total, initial=done, unit=unit, disable=not progress, **settings)


class _Lines(io.TextIOBase):
    """The standard error with a new line wherever a terminal would go back to the line's start."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text.replace("\r", "\n"))

    def flush(self) -> None:
        sys.stderr.flush()
