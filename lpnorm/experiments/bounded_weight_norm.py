"""Bounded weight norm comes close to batch norm; with L-infinity it degrades."""

from __future__ import annotations

from typing import Any

from lpnorm.experiments.pictures import BLACK, GREY, error_curves, error_dots, look
from lpnorm.experiments.report import (
    Claim,
    Finding,
    Options,
    Result,
    accuracy_text,
    summary,
)
from lpnorm.experiments.runs import final_accuracy
from lpnorm.experiments.verdicts import as_well_as, better, difference, difference_text, worse

ARMS: dict[str, dict[str, Any]] = {
    "batch norm": {},
    "weight norm": {"method": "weight", "weight_decay": 1e-4},
    "bounded, L2": {"method": "bounded", "weight_decay": 1e-4},
    "bounded, L1": {"method": "bounded", "norm": "1", "weight_decay": 1e-4},
    "bounded, L∞": {"method": "bounded", "norm": "inf", "weight_decay": 1e-4},
}

PAIRS = {  # which arms are compared, what the paper says, and how that is judged
    ("bounded, L2", "batch norm"): (
        "bounded weight norm close to batch norm (ResNet-50, ImageNet: error 28.25 against "
        "25.97 %); here: as well as",
        as_well_as,
    ),
    ("bounded, L2", "weight norm"): ("better than weight norm (33.0 %, a quoted figure)", better),
    ("bounded, L1", "bounded, L2"): ("bounded with L1 as well as with L2", as_well_as),
    ("bounded, L∞", "bounded, L2"): ("bounded with L∞ worse than with L2, visibly", worse),
}


def measure(options: Options) -> Result:
    arms = {name: options.trainings(**settings) for name, settings in ARMS.items()}
    histories = options.train([run for runs in arms.values() for run in runs])
    finals = {name: [final_accuracy(histories[r]) for r in runs] for name, runs in arms.items()}
    figures: dict[str, Any] = {
        "arms": {n: summary([histories[r] for r in runs], finals[n]) for n, runs in arms.items()},
        "differences": {
            f"{one} - {other}": difference(finals[one], finals[other]) for one, other in PAIRS
        },
    }
    configuration = vars(arms["batch norm"][0]) | {"arms": ARMS, "clip": 5.0}
    return Result(_findings(figures), figures, configuration)


def _findings(figures: dict[str, Any]) -> list[Finding]:
    arms, findings = figures["arms"], []
    for (one, other), (paper, judge) in PAIRS.items():
        apart = figures["differences"][f"{one} - {other}"]
        measured = f"{accuracy_text(arms[one])} against {accuracy_text(arms[other])} %; "
        findings.append(Finding(paper, measured + difference_text(apart), judge(apart)))
    return findings


def draw(figure: Any, figures: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    looks = {
        name: look(settings.get("norm", "2")) for name, settings in ARMS.items()
    }  # the first three are all L2: bounded weight norm has its colour
    looks["batch norm"] |= {"color": BLACK}
    looks["weight norm"] |= {"color": GREY}
    error_curves(left, figures["arms"], looks)
    error_dots(right, figures["arms"], looks)


CLAIM = Claim(
    "bounded-weight-norm",
    "A weight norm with a bounded total works where plain weight norm fails.",
    measure,
    draw,
)
