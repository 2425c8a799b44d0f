"""Batch norm in other norms: do they train as well as L2?"""

from __future__ import annotations

from typing import Any

from lpnorm.experiments.pictures import error_curves, error_dots, look
from lpnorm.experiments.report import (
    Claim,
    Finding,
    Options,
    Result,
    accuracy_text,
    summary,
)
from lpnorm.experiments.runs import final_accuracy
from lpnorm.experiments.verdicts import as_well_as, difference, difference_text, worse

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


def measure(options: Options) -> Result:
    arms = {name: options.trainings(norm=norm) for name, norm in ARMS.items()}
    histories = options.train([run for runs in arms.values() for run in runs])
    finals = {name: [final_accuracy(histories[r]) for r in runs] for name, runs in arms.items()}
    figures: dict[str, Any] = {
        "arms": {n: summary([histories[r] for r in runs], finals[n]) for n, runs in arms.items()},
        "difference_from_L2": {n: difference(finals[n], finals["L2"]) for n in ARMS if n != "L2"},
    }
    configuration = vars(arms["L2"][0]) | {"norm": ARMS}
    return Result(_findings(figures), figures, configuration)


def _findings(figures: dict[str, Any]) -> list[Finding]:
    arms, differences = figures["arms"], figures["difference_from_L2"]
    said = {
        "L1": ("L1 as well as L2: the same curve (ResNet-18, ImageNet)", as_well_as),
        "Top-10": ("Top-10 as well as L2: the same curve", as_well_as),
        "L∞": ("L∞ worse than L2, by 2.5 points (error 36.0 against 33.5 %)", worse),
        "L1.5": ("(no figure there) L1.5 as well as L2", as_well_as),
        "L3": ("(no figure there) L3 as well as L2", as_well_as),
        "Range": ("(no figure there) Range as well as L2", as_well_as),
        "none": ("(no figure there) without normalization worse than L2", worse),
    }
    return [
        Finding(
            paper,
            f"{accuracy_text(arms[name])} against {accuracy_text(arms['L2'])} %; "
            + difference_text(differences[name]),
            judge(differences[name]),
        )
        for name, (paper, judge) in said.items()
    ]


def draw(figure: Any, figures: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    arms = figures["arms"]
    looks = {name: look(name) for name in arms}
    error_curves(left, arms, looks)
    error_dots(right, arms, looks)


CLAIM = Claim("norms", "L1, Top-k and other norms can replace L2 in batch norm.", measure, draw)
