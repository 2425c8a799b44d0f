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

from lpnorm import __version__, models
from lpnorm.experiments import pictures
from lpnorm.experiments.runs import Run, Task, train_all
from lpnorm.experiments.verdicts import RULE, mean_and_spread
from lpnorm.files import atomic


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
        """The same training with every seed."""
        return self.tasks(kind, **{"epochs": self.epochs} | settings)

    def tasks(self, kind: Any, **settings: Any) -> list[Any]:
        """The same task with every seed."""
        return [kind(seed=seed, device=self.device, **settings) for seed in range(self.seeds)]

    def train(self, runs: Sequence[Task]) -> dict[Any, dict[str, Any]]:
        return train_all(runs, self.out / "runs", self.jobs, self.progress)


@dataclass(frozen=True)
class Finding:
    """One line of the closing table: what the paper says, what was measured, whether it shows."""

    paper: str
    measured: str
    shows: str  # YES, NO, NOISE or UNKNOWN, by the rule in `verdicts`


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


def accuracy_text(arm: dict[str, Any]) -> str:
    """For the table: "98.69 ± 0.62"; with one seed "98.69"."""
    spread = f" ± {arm['spread']:.2f}" if len(arm["final_percent"]) > 1 else ""
    return f"{arm['mean']:.2f}{spread}"


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


def reproduce(claim: Claim, options: Options, command: str) -> Result:
    """Measure a claim and write <claim>.json and, where matplotlib is installed, <claim>.png.

    The configuration in the JSON has the claim's own entries and "impl", the module that computed.
    """
    impl = models.implementation().__name__  # which says so if it is the plain code
    result = claim.measure(options)
    record = {
        "claim": claim.name,
        "says": claim.says,
        "how_to_read": RULE,
        "findings": [asdict(finding) for finding in result.findings],
        "configuration": {"impl": impl, **result.configuration},
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
    pictures.render(claim.draw, figures, path)


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
