"""The training loop: a progress bar, a history, a clear word when the loss is not finite."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lpnorm import nn
from lpnorm.arrays import Array, check_count, check_shape, library_of, to_device, total
from lpnorm.data import Dataset
from lpnorm.decay import SGD


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
    if_diverged: str = "raise",
    progress: bool = True,
) -> History:
    """Train with softmax cross-entropy; returns a `History`. Same seed, same bits.

    The order of the samples and the augmentation come from one Generator made from `seed`; an
    epoch is all full batches of `batch` samples. schedule: epoch -> factor on the learning rate.
    augment: (x, Generator) -> x. if_diverged: "raise" Diverged, or "record" it in the history and
    stop. progress: a tqdm bar with loss, accuracy and time left, on the standard error.
    Raises TypeError or ValueError naming the argument before any work.
    """
    epochs, batch = check_count("epochs", epochs, 0), check_count("batch", batch)
    _check(data, optimizer, batch, seed, schedule, augment, if_diverged)
    rng = np.random.default_rng(seed)
    history, steps = History(), data.train_x.shape[0] // batch
    model.parameters()  # names the parameters as seen from the model
    # what overflows is reported as a divergence, once, with its layer
    with _bar(epochs * steps, progress) as bar, np.errstate(over="ignore", invalid="ignore"):
        for epoch in range(epochs):
            optimizer.lr_factor = 1.0 if schedule is None else schedule(epoch)
            try:
                loss, hits = _epoch(epoch, model, data, optimizer, batch, rng, augment, bar)
            except Diverged as divergence:
                if if_diverged == "raise":
                    raise
                history.diverged = {
                    "epoch": epoch,
                    "step": divergence.step,
                    "where": divergence.where,
                }
                return history
            history.loss.append(loss)
            history.train_accuracy.append(hits)
            history.test_accuracy.append(accuracy(model, data.test_x, data.test_y))
            record_norms(history, model, optimizer)
            bar.set_postfix(loss=f"{history.loss[-1]:.3f}", test=f"{history.test_accuracy[-1]:.1%}")
    return history


def _epoch(
    epoch: int,
    model: nn.Layer,
    data: Dataset,
    optimizer: SGD,
    batch: int,
    rng: np.random.Generator,
    augment: Callable[[Array, np.random.Generator], Array] | None,
    bar: Any,
) -> tuple[float, float]:
    """All full batches of one shuffled epoch; the mean loss and accuracy, or Diverged."""
    count, loss_sum, hits = data.train_x.shape[0], 0.0, 0
    order, steps = library_of(data.train_x).asarray(rng.permutation(count)), count // batch
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        x, y = data.train_x[rows], data.train_y[rows]
        x = x if augment is None else augment(x, rng)
        optimizer.zero_grad()
        logits, backward = model(x)
        loss, dlogits = nn.softmax_cross_entropy(logits, y)
        if not np.isfinite(loss):
            where = first_not_finite(model, x)
            raise Diverged(f"the loss is {loss}", epoch * steps + step, epoch, where)
        backward(dlogits)
        optimizer.step()
        loss_sum += loss
        hits += int((logits.argmax(axis=1) == y).sum())
        bar.update()
    for parameter in model.parameters():  # after the last step no loss will tell
        if not _finite(parameter.data):
            what, step = f"parameter {parameter.name} is not finite", (epoch + 1) * steps - 1
            raise Diverged(what, step, epoch, what)
    return loss_sum / steps, hits / (steps * batch)


def _check(
    data: Dataset,
    optimizer: SGD,
    batch: int,
    seed: int,
    schedule: Any,
    augment: Any,
    if_diverged: str,
) -> None:
    count = data.train_x.shape[0]
    if batch > count:
        raise ValueError(f"batch must be at most the {count} training samples, got {batch}")
    check_count("seed", seed, 0)
    check_shape("data.train_y", data.train_y, (count,))
    check_shape("data.test_y", data.test_y, data.test_x.shape[:1])
    if not isinstance(optimizer, SGD):
        raise TypeError(f"optimizer must be a lpnorm.decay.SGD, got {optimizer!r}")
    for name, function in (("schedule", schedule), ("augment", augment)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be None or a function, got {function!r}")
    if if_diverged not in ("raise", "record"):
        raise ValueError(f'if_diverged must be "raise" or "record", got {if_diverged!r}')


def accuracy(model: nn.Layer, x: Array, y: Array, batch: int = 512) -> float:
    """The fraction of x (N, ...) classified as y (N,), with the running statistics."""
    hits = 0
    for start in range(0, x.shape[0], batch):
        logits, _ = model(x[start : start + batch], train=False)
        hits += int((logits.argmax(axis=1) == y[start : start + batch]).sum())
    return hits / x.shape[0]


def record_norms(history: History, model: nn.Layer, optimizer: SGD) -> None:
    """Append each scale-invariant weight's channel norms and effective step sizes, in float64."""
    rates = {id(p): g["lr"] * optimizer.lr_factor for g in optimizer.groups for p in g["params"]}
    for parameter, axis in nn.scale_invariant(model):
        w = to_device(parameter.data, "cpu").astype("float64")
        squares = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1) ** 2
        norms = np.sqrt(total(squares, "float64")[:, 0])
        history.norms.setdefault(parameter.name, []).append(norms.tolist())
        sizes = rates.get(id(parameter), 0.0) / np.maximum(norms**2, np.finfo("float64").tiny)
        history.step_sizes.setdefault(parameter.name, []).append(sizes.tolist())


def first_not_finite(model: nn.Layer, x: Array) -> str:
    """Where NaN or Inf first appears on the way from x to the logits, in words.

    Looks at x, then layer by layer at parameters and output. Leaves the model as it was.
    """
    if not _finite(x):
        return "the input is not finite"
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


def _bar(steps: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=steps, unit="step", disable=not progress, file=sys.stderr, mininterval=0.5)
