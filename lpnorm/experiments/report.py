"""What every claim writes: findings in words, a JSON file with every figure, and a picture."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import __version__
from lpnorm.experiments.runs import Run, Task, mean_and_spread, train_all
from lpnorm.files import atomic

YES, NO, NOISE = "yes", "no", "within noise"


@dataclass(frozen=True)
class Options:
    """How much to do and where to put it; see `lpnorm reproduce --help`."""

    out: Path
    seeds: int = 5
    epochs: int = 12
    jobs: int = 2
    device: str = "cpu"
    progress: bool = True
    quick: bool = False

    def trainings(self, kind: Any = Run, **settings: Any) -> list[Any]:
        """The same configuration with every seed."""
        common = {"epochs": self.epochs, "device": self.device, **settings}
        return [kind(seed=seed, **common) for seed in range(self.seeds)]

    def train(self, runs: Sequence[Task]) -> dict[Any, dict[str, Any]]:
        return train_all(runs, self.out / "runs", self.jobs, self.progress)


@dataclass(frozen=True)
class Finding:
    """One line of the closing table: what the paper says, what was measured, whether it shows."""

    paper: str
    measured: str
    shows: str  # YES, NO or NOISE


@dataclass(frozen=True)
class Result:
    """findings for the table; figures: everything measured, ready for JSON."""

    findings: list[Finding]
    figures: dict[str, Any]
    configuration: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: `measure` does the work, `draw` makes the picture from the figures.

    by_default: whether `lpnorm reproduce` measures it without being asked by name.
    """

    name: str
    says: str
    measure: Callable[[Options], Result]
    draw: Callable[[Any, dict[str, Any]], None]  # (matplotlib figure, figures)
    by_default: bool = True


POINT = 0.5  # what counts as "as well as", in points of accuracy
LEGEND = (
    "± after an accuracy: standard deviation over the seeds; after a difference (same seeds): half "
    "its 95 % interval. Better or worse: the interval leaves out 0. As well as: all of it is above "
    f"-{POINT} points."
)


def compare(difference: dict[str, float]) -> str:
    """Is a difference positive? YES, NO, or NOISE where its 95 % interval holds zero."""
    mean, half = difference.values()
    return NOISE if abs(mean) <= half else YES if mean > 0 else NO


def worse(difference: dict[str, float]) -> str:
    """Is a difference negative? The same the other way round."""
    return compare(difference | {"mean": -difference["mean"]})


def as_well_as(difference: dict[str, float]) -> str:
    """YES if the whole 95 % interval is above -POINT, NO if all of it is below, else NOISE."""
    mean, half = difference.values()
    return YES if mean - half >= -POINT else NO if mean + half < -POINT else NOISE


def accuracy_text(arm: dict[str, Any]) -> str:
    """For the table: "98.69 ± 0.62"."""
    return f"{arm['mean']:.2f} ± {arm['spread']:.2f}"


def difference_text(difference: dict[str, float]) -> str:
    """For the table: "difference -0.07 ± 0.88"."""
    half = difference["half_95"]
    return f"difference {difference['mean']:+.2f} ± " + (f"{half:.2f}" if half < math.inf else "?")


def summary(histories: Sequence[dict[str, Any]], finals: Sequence[float]) -> dict[str, Any]:
    """An arm for the JSON file and the pictures: its curves, its final accuracies, their spread."""
    mean, spread = mean_and_spread(finals)
    return {
        "final_percent": list(finals),
        "mean": mean,
        "spread": spread,
        "test_accuracy": [history["test_accuracy"] for history in histories],
        "loss": [history["loss"] for history in histories],
        "diverged": [history["diverged"] for history in histories],
    }


def error_curves(axes: Any, arms: dict[str, Any], colors: dict[str, str]) -> None:
    """Test error after each epoch, the mean over the seeds that finished, one line an arm."""
    for name, arm in arms.items():
        length = max(len(curve) for curve in arm["test_accuracy"])
        finished = [curve for curve in arm["test_accuracy"] if len(curve) == length]
        if length:
            error = np.maximum(100 * (1 - np.mean(finished, axis=0)), 0.1)
            axes.plot(range(1, length + 1), error, color=colors[name], label=name)
    error_axis(axes, "y")
    axes.set(title="test error after each epoch, mean over seeds", xlabel="epoch")
    axes.legend(ncols=2)


def reproduce(claim: Claim, options: Options, command: str) -> Result:
    """Measure a claim and write <claim>.json and, where matplotlib is installed, <claim>.png."""
    result = claim.measure(options)
    record = {
        "claim": claim.name,
        "says": claim.says,
        "how_to_read": LEGEND,
        "findings": [asdict(finding) for finding in result.findings],
        "configuration": result.configuration,
        "seeds": list(range(options.seeds)),
        "command": command,
        "versions": versions(),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "figures": result.figures,
    }
    with atomic(options.out / f"{claim.name}.json") as path:
        path.write_text(json.dumps(_plain(record), indent=1, allow_nan=False) + "\n")
    if have_matplotlib():
        draw(claim, result.figures, options.out / f"{claim.name}.png")
    return result


def draw(claim: Claim, figures: dict[str, Any], path: Path) -> None:
    """The picture of a claim from its figures alone (also from a JSON file read back)."""
    import matplotlib

    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        claim.draw(figure, figures)
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")


def error_axis(axes: Any, which: str) -> None:
    """A logarithmic axis ("x" or "y") for errors in percent, with readable ticks."""
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set(**{f"{which}scale": "log", f"{which}label": "test error (%)"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(_fixed(ticks))
    axis.set_minor_locator(_fixed([]))
    axis.set_major_formatter("{x:g}")


def error_dots(axes: Any, arms: dict[str, Any], colors: dict[str, str]) -> None:
    """One row an arm: the seeds' final test errors as dots, their mean and spread."""
    for i, (name, arm) in enumerate(arms.items()):
        error = np.maximum(100 - np.array(arm["final_percent"], dtype=float), 0.1)
        axes.plot(error, np.full(error.size, i), "o", color=colors[name], ms=3, alpha=0.5)
        low = min(arm["spread"], 0.999 * (100 - arm["mean"]))
        bar = {"fmt": "o", "color": colors[name], "capsize": 3, "ms": 7}
        axes.errorbar(100 - arm["mean"], i, xerr=[[low], [arm["spread"]]], **bar)
    error_axis(axes, "x")
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.set(title="last three epochs: seeds, mean ± spread", xlim=(0.1, 110))


def _fixed(ticks: list[float]) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator(ticks)


def have_matplotlib() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def table(results: dict[str, Result], width: int = 100) -> str:
    """The closing table: claim, what the paper reports, what was measured, whether it shows."""
    from tabulate import tabulate

    rows = [
        [name if i == 0 else "", finding.paper, finding.measured, finding.shows]
        for name, result in results.items()
        for i, finding in enumerate(result.findings)
    ]
    claim, shows = (20, 12) if width >= 80 else (11, 7)
    text = max(12, (width - claim - shows - 13) // 2)
    utf = (sys.stdout.encoding or "").lower().startswith("utf")
    return tabulate(
        rows,
        headers=["claim", "the paper", "measured here", "shows here?"],
        tablefmt="simple_grid" if utf else "grid",
        maxcolwidths=[claim, text, text, shows],
        maxheadercolwidths=[claim, text, text, shows],
    )


def versions() -> dict[str, str]:
    return {
        "lpnorm": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
    }


def _plain(value: Any) -> Any:
    """Strict JSON: numbers that are not finite become strings, arrays lists."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
