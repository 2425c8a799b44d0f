"""What takes long as a configuration (a training on the digits, say), and many of them at once.

A finished task is kept in ``<out>/runs/<hash>.json``, the hash being that of its configuration and
of the code that runs, so nothing is ever done twice and an interrupted `reproduce` goes on where it
was. Every task is done by `lpnorm.fast` where that is installed, and in a worker process with one
BLAS thread: the same bits with and without it, and for any number of jobs.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lpnorm import data, models, nn, training
from lpnorm.arrays import to_device
from lpnorm.decay import SGD, StepSchedule
from lpnorm.experiments import sources, workers
from lpnorm.files import load_json, save_json
from lpnorm.norms import L2, Range, TopK, as_norm

Model = TypeVar("Model", bound=nn.Layer)


def norm_named(name: str) -> Any:
    """The p that a short name stands for: "1", "1.5", "inf", "top10", "range", ...

    Raises ValueError naming p and what is allowed.
    """
    try:
        if name == "range":
            return Range()
        if name.startswith("top"):
            return TopK(int(name[3:]))
        p = float(name)
        as_norm(p)
        return p
    except ValueError:
        raise ValueError(
            f'p must be a number >= 1, "inf", "topK" such as "top10", or "range"; got {name!r}'
        ) from None


@dataclass(frozen=True)
class Task:
    """What `train_all` does once and keeps; subclasses say what, and their fields are all of it."""

    seed: int = 0
    device: str = "cpu"

    def key(self) -> str:
        """The hash of this configuration and of the code that runs.

        Compiled or plain makes no difference to a bit; it is in the hash because what is written
        of a stored result says which of the two computed it.
        """
        about = [
            type(self).__name__,
            asdict(self),
            _code_digest(inspect.getfile(type(self))),
            models.implementation().__name__,
            np.__version__,
        ]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]

    def train(self, checkpoint: Path) -> dict[str, Any]:
        """Do it; plain numbers back. checkpoint: an .npz path (or a stem for several of them)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Training(Task):
    """A training on the digits.

    The learning rate falls to a tenth after half and after three quarters of the epochs.
    """

    epochs: int = 12
    batch: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    width: int = 16
    shift: int = 1
    dtype: str = "float32"

    def model(
        self, normalize: Any = nn.BatchNorm, wrap: Callable[[nn.Layer], nn.Layer] | None = None
    ) -> nn.Sequential:
        """The network, from this task's seed."""
        rng = np.random.default_rng([self.seed, 1])
        model = models.digits_net(normalize, wrap, self.width, rng, self.dtype)
        model.to(self.device)
        return with_fast(model)

    def fit(
        self, model: nn.Layer, sgd: SGD, checkpoint: Path | None, **settings: Any
    ) -> training.History:
        """Train a model with this task's settings; a divergence is recorded."""
        return training.train(
            model,
            self.digits(),
            sgd,
            self.epochs,
            self.batch,
            seed=self.seed,
            schedule=self.schedule(),
            augment=functools.partial(data.shift, pixels=self.shift),
            if_diverged="record",
            progress=False,
            checkpoint=checkpoint,
            **settings,
        )

    def digits(self) -> data.Dataset:
        return data.digits(self.dtype, self.device)

    def schedule(self) -> StepSchedule:
        return StepSchedule(sorted({self.epochs // 2, self.epochs * 3 // 4} - {0}))


@dataclass(frozen=True)
class Run(Training):
    """One training of `models.digits_net`.

    method "batch": batch norm in `norm`, a name for `norm_named`, or no normalization if None;
    factor multiplies its Gaussian constant (a tuple: one for each batch norm, in order). "weight",
    "bounded": weight norm or bounded weight norm in `norm`, with mean-only batch norm, gradients
    clipped at 5 and, as in the authors' networks, decay for the last layer alone.
    """

    method: str = "batch"
    norm: str | None = "2"
    constant: str | None = "paper"
    factor: float | tuple[float, ...] = 1.0

    def train(self, checkpoint: Path) -> dict[str, Any]:
        if self.method == "batch":
            model = self.model(self.normalization())
            sgd = SGD(model.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay)
            return self.fit(model, sgd, checkpoint).to_dict()
        wrapper = {"weight": nn.WeightNorm, "bounded": nn.BoundedWeightNorm}[self.method]
        p = norm_named(str(self.norm))
        model = self.model(nn.MeanOnlyBatchNorm, lambda layer: wrapper(layer, p=p))
        sgd = SGD(last_layer_decayed(model, self.weight_decay), self.lr, self.momentum)
        return self.fit(model, sgd, checkpoint, clip=5.0).to_dict()

    def normalization(self, **more: Any) -> Any:
        """channels -> the batch norm, for one network; more: arguments for each of them."""
        if self.norm is None:
            return None
        norm = as_norm(norm_named(self.norm))
        several = self.factor if isinstance(self.factor, tuple) else (self.factor,)
        made = itertools.cycle([_times(f, norm) if f != 1 else norm for f in several])
        return lambda channels: nn.BatchNorm(channels, p=next(made), constant=self.constant, **more)


def with_fast(model: Model) -> Model:
    """The model, computed by `models.implementation()` from now on: the one place that says so."""
    model.to(impl=models.implementation())
    return model


def last_layer_decayed(model: nn.Sequential, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: the last layer (its bias too) with weight decay, all else without."""
    parameters = model.parameters()  # names them as seen from the model
    last = [p for p in parameters if p.name.startswith(f"{len(model) - 1}.")]
    others = [p for p in parameters if not any(p is q for q in last)]
    return [{"params": others}, {"params": last, "weight_decay": weight_decay}]


def train_all(
    tasks: Sequence[Task], store: Path, jobs: int, progress: bool = True
) -> dict[Task, dict[str, Any]]:
    """What every task gives, from the store or else computed, `jobs` at a time.

    Shows a tqdm bar over the tasks. After Ctrl-C or a kill the finished ones are in the store, and
    trainings go on after the last epoch their checkpoint holds. workers.WorkerEnded if a worker is
    killed by somebody else.
    """
    found = {task: _stored(store, task) for task in dict.fromkeys(tasks)}
    missing = [task for task, result in found.items() if result is None]
    results = {task: result for task, result in found.items() if result is not None}
    _clean(store, results)
    if not missing:
        return results
    try:
        calls = [(task.train, (store / f"{task.key()}.npz",)) for task in missing]
        with workers.at_work(calls, jobs) as futures:
            tasks_of = dict(zip(futures, missing, strict=True))
            with training.progress_bar(len(missing), 0, "run", progress) as bar:
                for future in as_completed(futures):
                    task = tasks_of[future]
                    results[task] = future.result()
                    about = {"key": task.key(), "task": asdict(task), "result": results[task]}
                    save_json(store / f"{task.key()}.json", "run", about)
                    bar.update()
    finally:
        _clean(store, results)
    return {task: results[task] for task in found}


def _clean(store: Path, finished: Iterable[Task]) -> None:
    """Remove the checkpoints of finished tasks, and what a kill left half-written of them."""
    keys = {task.key() for task in finished}
    for path in store.glob("*"):
        stem = path.name.lstrip(".").split(".")[0].split("-")[0]
        if stem in keys and path.name != f"{stem}.json":
            path.unlink(missing_ok=True)


def final_accuracy(history: dict[str, Any]) -> float:
    """Mean test accuracy at the end, in percent; chance (10 %) if it diverged.

    The end: the last three epochs, or the last half where that is fewer (one of three).
    """
    if history["diverged"] is not None:
        return 10.0
    return 100 * float(np.mean(history["test_accuracy"][-at_the_end(history["test_accuracy"]) :]))


def at_the_end(curve: Sequence[float]) -> int:
    """How many of the epochs of a curve count as its end."""
    return max(1, min(3, len(curve) // 2))


def check_entries(state: Mapping[str, Any], names: Iterable[str]) -> None:
    """ValueError naming an entry of a watcher's state that is missing or unknown."""
    for name in sorted(set(state) ^ set(names), key=lambda name: name in state):
        raise ValueError(f"state has {'an unknown' if name in state else 'no'} entry {name!r}")


def directions(parameter: Any) -> np.ndarray:
    """Each output channel divided by its norm, (channels, n), in float64 on the CPU."""
    w = to_device(parameter.data, "cpu").astype("float64")
    rows = w.reshape(w.shape[0], -1)
    return rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))


def _times(factor: float, norm: Any) -> Any:
    """The same norm with `factor` times its Gaussian constant; not for L2, which has none."""
    if isinstance(norm, L2):
        raise ValueError("factor must be 1 for L2, which has no Gaussian constant")

    class Times(type(norm)):  # type: ignore[misc]
        def paper_constant(self, n: int) -> float:
            return factor * super().paper_constant(n)

        def exact_constant(self, n: int) -> float:
            return factor * super().exact_constant(n)

    return Times(**vars(norm))


def _stored(store: Path, task: Task) -> dict[str, Any] | None:
    try:
        found = load_json(store / f"{task.key()}.json", "run")
        return found["result"] if found["key"] == task.key() else None
    except (FileNotFoundError, ValueError, KeyError):
        return None  # not there, or damaged: train it again


@functools.cache
def _code_digest(own: str) -> str:
    """A hash of the sources a task depends on: all that its own file and this one import."""
    return sources.digest(Path(nn.__file__).parents[1], Path(__file__), Path(own))
