"""Bounded weight norm comes close to batch norm; with L-infinity it degrades."""

from __future__ import annotations

from typing import Any

from lpnorm.experiments.report import (
    Claim,
    Finding,
    Options,
    Result,
    as_well_as,
    compare,
    error_curves,
    error_dots,
)
from lpnorm.experiments.runs import difference, final_accuracy, mean_and_spread

ARMS: dict[str, dict[str, Any]] = {
    "batch norm": {},
    "weight norm": {"method": "weight", "weight_decay": 1e-4},
    "bounded, L2": {"method": "bounded", "weight_decay": 1e-4},
    "bounded, L1": {"method": "bounded", "norm": "1", "weight_decay": 1e-4},
    "bounded, L∞": {"method": "bounded", "norm": "inf", "weight_decay": 1e-4},
}
POINT = 1.0  # "close": the paper's own gap is 2.3 points on ImageNet


def measure(options: Options) -> Result:
    arms = {name: options.trainings(**settings) for name, settings in ARMS.items()}
    histories = options.train([run for runs in arms.values() for run in runs])
    figures: dict[str, Any] = {"arms": {}}
    finals = {}
    for name, runs in arms.items():
        mine = [histories[run] for run in runs]
        finals[name] = [final_accuracy(history) for history in mine]
        mean, spread = mean_and_spread(finals[name])
        figures["arms"][name] = {
            "final_percent": finals[name],
            "mean": mean,
            "spread": spread,
            "test_accuracy": [history["test_accuracy"] for history in mine],
            "loss": [history["loss"] for history in mine],
            "diverged": [history["diverged"] for history in mine],
        }
    figures["differences"] = {
        "bounded L2 - batch norm": difference(finals["bounded, L2"], finals["batch norm"]),
        "bounded L2 - weight norm": difference(finals["bounded, L2"], finals["weight norm"]),
        "bounded L1 - bounded L2": difference(finals["bounded, L1"], finals["bounded, L2"]),
        "bounded L∞ - bounded L2": difference(finals["bounded, L∞"], finals["bounded, L2"]),
    }
    configuration = vars(arms["batch norm"][0]) | {"arms": ARMS, "clip": 5.0}
    return Result(_findings(figures), figures, configuration)


def _findings(figures: dict[str, Any]) -> list[Finding]:
    differences = figures["differences"]

    def measured(one: str, other: str, key: str) -> str:
        first, second = figures["arms"][one], figures["arms"][other]
        mean, half = differences[key]
        return (
            f"{first['mean']:.2f} ± {first['spread']:.2f} against {second['mean']:.2f} ± "
            f"{second['spread']:.2f} %; difference {mean:+.2f} ± {half:.2f}"
        )

    close = differences["bounded L2 - batch norm"]
    better = differences["bounded L2 - weight norm"]
    same = differences["bounded L1 - bounded L2"]
    worse = differences["bounded L∞ - bounded L2"]
    return [
        Finding(
            "bounded weight norm close to batch norm (ResNet-50, ImageNet: error 28.25 "
            "against 25.97 %)",
            measured("bounded, L2", "batch norm", "bounded L2 - batch norm"),
            as_well_as(close, POINT),
        ),
        Finding(
            "better than weight norm (33.0 %, a quoted figure)",
            measured("bounded, L2", "weight norm", "bounded L2 - weight norm"),
            compare(*better),
        ),
        Finding(
            "L1 works as well as L2",
            measured("bounded, L1", "bounded, L2", "bounded L1 - bounded L2"),
            as_well_as(same, POINT),
        ),
        Finding(
            "L∞ degrades visibly",
            measured("bounded, L∞", "bounded, L2", "bounded L∞ - bounded L2"),
            compare(-worse[0], worse[1]),
        ),
    ]


def draw(figure: Any, figures: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    colors = {name: f"C{i}" for i, name in enumerate(figures["arms"])}
    error_curves(left, figures["arms"], colors)
    error_dots(right, figures["arms"], colors)


CLAIM = Claim(
    "bounded-weight-norm",
    "A weight norm with a bounded total works where plain weight norm fails.",
    measure,
    draw,
)
