"""Batch norm in other norms: do they train as well as L2?"""

from __future__ import annotations

from typing import Any

from lpnorm.experiments.report import (
    NO,
    NOISE,
    YES,
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

ARMS: dict[str, str | None] = {
    "L2": "2",
    "L1": "1",
    "L∞": "inf",
    "Top-10": "top10",
    "L1.5": "1.5",
    "L3": "3",
    "Range": "range",
    "none": None,
}
POINT = 0.5  # what counts as "as well as": the paper's curves coincide within +-0.3


def measure(options: Options) -> Result:
    arms = {name: options.trainings(norm=norm) for name, norm in ARMS.items()}
    histories = options.train([run for runs in arms.values() for run in runs])
    figures: dict[str, Any] = {"arms": {}, "difference_from_L2": {}}
    finals = {}
    for name, runs in arms.items():
        mine = [histories[run] for run in runs]
        finals[name] = [final_accuracy(h) for h in mine]
        mean, spread = mean_and_spread(finals[name])
        figures["arms"][name] = {
            "test_accuracy": [h["test_accuracy"] for h in mine],
            "loss": [h["loss"] for h in mine],
            "final_percent": finals[name],
            "mean": mean,
            "spread": spread,
            "diverged": [h["diverged"] for h in mine],
        }
        figures["difference_from_L2"][name] = difference(finals[name], finals["L2"])
    configuration = vars(arms["L2"][0]) | {"norm": ARMS}
    return Result(_findings(figures), figures, configuration)


def _findings(figures: dict[str, Any]) -> list[Finding]:
    arms, differences = figures["arms"], figures["difference_from_L2"]
    said = {
        "L1": "L1 on the same curve as L2 (ResNet-18, ImageNet)",
        "Top-10": "Top-10 on the same curve as L2",
        "L∞": "L∞ 2.5 points worse than L2 (36.0 % against 33.5 % error)",
    }
    findings = []
    for name, paper in said.items():
        mean, error = differences[name]
        measured = (
            f"{arms[name]['mean']:.2f} ± {arms[name]['spread']:.2f} % against "
            f"{arms['L2']['mean']:.2f} ± {arms['L2']['spread']:.2f} %; "
            f"difference {mean:+.2f} ± {error:.2f}"
        )
        shows = compare(-mean, error) if name == "L∞" else as_well_as((mean, error), POINT)
        findings.append(Finding(paper, measured, shows))
    others = ", ".join(f"{n} {arms[n]['mean']:.2f}" for n in ("L1.5", "L3", "Range", "none"))
    failed = sum(d is not None for d in arms["none"]["diverged"])
    note = f" ({failed} of {len(arms['none']['diverged'])} without normalization diverged)"
    verdicts = {as_well_as(differences[n], POINT) for n in ("L1.5", "L3", "Range")}
    findings.append(
        Finding(
            "other norms work as well (L1.5, L3, Range; no figure there)",
            f"{others} %" + (note if failed else ""),
            NO if NO in verdicts else NOISE if NOISE in verdicts else YES,
        )
    )
    return findings


def draw(figure: Any, figures: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    arms = figures["arms"]
    colors = {name: f"C{i}" if name != "none" else "0.5" for i, name in enumerate(arms)}
    error_curves(left, arms, colors)
    error_dots(right, arms, colors)


CLAIM = Claim("norms", "L1, Top-k and other norms can replace L2 in batch norm.", measure, draw)
