"""One training on the digits as a configuration, and many of them at once.

A finished run is kept in ``<out>/runs/<hash>.json``, the hash being that of its configuration and
of the code that trains, so no run is ever trained twice and an interrupted `reproduce` goes on
where it was. Every run is trained in a worker process with one BLAS thread: the same bits for
any number of jobs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import data, models, nn, training
from lpnorm.decay import SGD, StepSchedule
from lpnorm.files import atomic
from lpnorm.norms import Range, TopK, as_norm


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


# the 97.5 % quantiles of Student's t, by degrees of freedom
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


@dataclass(frozen=True)
class Run:
    """One training of `models.digits_net` on the digits.

    norm: a name for `norm_named`, or None for no normalization; factor multiplies its Gaussian
    constant. The learning rate falls to a tenth after half and after three quarters of the epochs.
    """

    norm: str | None = "2"
    constant: str | None = "paper"
    factor: float = 1.0
    epochs: int = 12
    seed: int = 0
    batch: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    width: int = 16
    shift: int = 1
    dtype: str = "float32"
    device: str = "cpu"

    def key(self) -> str:
        """The hash of this configuration and of the code that trains."""
        text = json.dumps([asdict(self), _code_digest(), np.__version__], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def train_run(run: Run) -> dict[str, Any]:
    """Train one configuration; returns its history as plain numbers."""
    rng = np.random.default_rng([run.seed, 1])
    model = models.digits_net(_normalization(run), run.width, rng, run.dtype)
    model.to(run.device)
    digits = data.digits(run.dtype, run.device)
    sgd = SGD(model.parameters(), run.lr, run.momentum, weight_decay=run.weight_decay)
    with np.errstate(over="ignore", invalid="ignore"):  # a run may diverge; the history says so
        history = training.train(
            model,
            digits,
            sgd,
            run.epochs,
            run.batch,
            seed=run.seed,
            schedule=StepSchedule(sorted({run.epochs // 2, run.epochs * 3 // 4} - {0})),
            augment=functools.partial(data.shift, pixels=run.shift),
            if_diverged="record",
            progress=False,
        )
    return history.to_dict()


def train_all(
    runs: Sequence[Run], store: Path, jobs: int, progress: bool = True
) -> dict[Run, dict[str, Any]]:
    """The history of every run, from the store or else trained, `jobs` at a time.

    Shows a tqdm bar over the runs. After Ctrl-C the finished ones are in the store.
    """
    from tqdm.auto import tqdm

    found = {run: _stored(store, run) for run in dict.fromkeys(runs)}
    missing = [run for run, history in found.items() if history is None]
    results = {run: history for run, history in found.items() if history is not None}
    if not missing:
        return results
    # spawned workers read these when they import NumPy
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(threads)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(missing)), context, _die_silently)
    try:
        futures = {pool.submit(train_run, run): run for run in missing}
        bar = tqdm(total=len(missing), unit="run", disable=not progress, desc="training")
        with bar:
            for future in as_completed(futures):
                run = futures[future]
                results[run] = future.result()
                with atomic(store / f"{run.key()}.json") as path:
                    record = {"run": asdict(run), "history": results[run]}
                    path.write_text(json.dumps(record))
                bar.set_postfix(norm=run.norm, seed=run.seed)
                bar.update()
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return {run: results[run] for run in found}


def _die_silently() -> None:
    """In a worker: Ctrl-C ends it at once, without a traceback; the parent tells the person."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def final_accuracy(history: dict[str, Any]) -> float:
    """Mean test accuracy of the last three epochs, in percent; chance (10 %) if it diverged."""
    if history["diverged"] is not None:
        return 10.0
    return 100 * float(np.mean(history["test_accuracy"][-3:]))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation (0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The mean of the paired differences (same seeds) and half its 95 % interval (Student's t)."""
    pairs = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, spread = mean_and_spread(pairs)
    if len(pairs) < 2:
        return mean, math.inf
    quantile = STUDENT.get(len(pairs) - 1, 2.0)
    return mean, quantile * spread / math.sqrt(len(pairs))


def _normalization(run: Run) -> Any:
    if run.norm is None:
        return None
    norm = as_norm(norm_named(run.norm))
    if run.factor != 1:
        norm = _times(run.factor, norm)
    return lambda channels: nn.BatchNorm(channels, p=norm, constant=run.constant)


def _times(factor: float, norm: Any) -> Any:
    """The same norm with `factor` times its Gaussian constant."""

    class Times(type(norm)):  # type: ignore[misc]
        def paper_constant(self, n: int) -> float:
            return factor * super().paper_constant(n)

    return Times(**vars(norm))


def _stored(store: Path, run: Run) -> dict[str, Any] | None:
    path = store / f"{run.key()}.json"
    try:
        return json.loads(path.read_text())["history"] if path.exists() else None
    except (ValueError, KeyError, TypeError):
        return None  # damaged: train it again


@functools.cache
def _code_digest() -> str:
    """A hash of the sources a training run depends on."""
    package = Path(nn.__file__).parent.parent
    digest = hashlib.sha256()
    rooms = (
        "arrays",
        "norms",
        "batchnorm",
        "weightnorm",
        "decay",
        "nn",
        "models",
        "data",
        "training",
    )
    for path in [*sorted(package.rglob("*.py")), Path(__file__)]:
        if (
            path == Path(__file__)
            or path.relative_to(package).parts[0].removesuffix(".py") in rooms
        ):
            digest.update(path.read_bytes())
    return digest.hexdigest()
