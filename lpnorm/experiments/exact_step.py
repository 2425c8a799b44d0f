"""Equation (4) with and without its exact factor, against the run with weight decay.

Linear(64, 32), batch norm (eps = 0), ReLU, Linear(32, 10) in float64 on batches of 64 digits, SGD
without momentum; only the first weight, which is scale-invariant, is decayed. Every run sees the
same batches. What is compared is the direction of each channel of that weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import data, models, nn
from lpnorm.decay import SGD, GrowingSchedule, NormTrace, StepSizeCorrection
from lpnorm.experiments.pictures import DASHES, fixed_ticks, look, number, title
from lpnorm.experiments.report import Claim, Finding, Options, Result
from lpnorm.experiments.runs import Task, directions, norm_named, with_fast
from lpnorm.experiments.verdicts import HALF, below, interval

LR, DECAY, STEPS, BATCH = 0.05, 0.05, 200, 64
NORMS = ["2", "1", "inf", "top10", "range", "3"]
ARMS = {
    "no decay": "no correction",
    "equation (4)": "equation (4)",
    "exact": "equation (4) / (1 - lr decay)",
    "growing": "growing learning rate",
}


class Twin:
    """The network and its optimizer, started from one seed."""

    def __init__(self, norm: str, seed: int, decay: float, device: str) -> None:
        rng = np.random.default_rng([seed, 5])
        self.model = with_fast(models.exact_net(norm_named(norm), rng))
        self.model.to(device)
        self.invariant = nn.scale_invariant(self.model)
        first, *others = self.model.parameters()
        groups: list[dict[str, Any]] = [{"params": [first], "weight_decay": decay}]
        self.sgd = SGD([*groups, {"params": others}], LR)
        self.trace = NormTrace(self.invariant, self.sgd)
        self.first = first

    def descend(self, batches: list[tuple[Any, Any]]) -> np.ndarray:
        """The direction of every channel after each step: (steps, channels, 64)."""
        seen = []
        for x, y in batches:
            self.trace.record()
            self.sgd.zero_grad()
            logits, backward = self.model(x)
            backward(nn.softmax_cross_entropy(logits, y)[1])
            self.sgd.step()
            seen.append(directions(self.first))
        return np.array(seen)


def compare_arms(norm: str, seed: int, device: str, steps: int = STEPS) -> dict[str, list[float]]:
    """For each arm, the largest error of a direction after each step, against decay."""
    digits = data.digits("float64", device)
    x, rng = digits.train_x.reshape(len(digits.train_x), -1), np.random.default_rng([seed, 6])
    rows = [rng.choice(len(x), BATCH, replace=False) for _ in range(steps)]
    batches = [(x[r.tolist()], digits.train_y[r.tolist()]) for r in rows]
    decayed = Twin(norm, seed, DECAY, device)
    want = decayed.descend(batches)

    def correction(exact: bool) -> Callable[[Twin], Any]:
        return lambda twin: StepSizeCorrection(decayed.trace, twin.invariant, exact=exact)

    def growing(twin: Twin) -> Any:
        schedule = GrowingSchedule(LR, DECAY)
        return lambda p: schedule(twin.sgd.t) if p is twin.first else 1.0

    rules: dict[str, Callable[[Twin], Any]] = {
        "no decay": lambda twin: None,
        "equation (4)": correction(False),
        "exact": correction(True),
        "growing": growing,
    }
    errors = {}
    for arm, rule in rules.items():
        twin = Twin(norm, seed, 0.0, device)
        for group in twin.sgd.groups:
            group["step_scale"] = rule(twin)
        apart = np.sqrt(((twin.descend(batches) - want) ** 2).sum(axis=2)).max(axis=1)
        errors[arm] = apart.tolist()
    return errors


@dataclass(frozen=True)
class Comparison(Task):
    """Every arm against decay, for one norm and one seed."""

    norm: str = "2"

    def train(self, checkpoint: Path) -> dict[str, Any]:
        return compare_arms(self.norm, self.seed, self.device)


def measure(options: Options) -> Result:
    tasks = {norm: options.tasks(Comparison, norm=norm) for norm in NORMS}
    results = options.train([task for each in tasks.values() for task in each])
    figures: dict[str, Any] = {"norms": {}}
    for norm, each in tasks.items():
        figures["norms"][norm] = {
            arm: np.max([results[task][arm] for task in each], axis=0) for arm in ARMS
        }
    # for each seed: the worst direction of all norms and steps, and what (4) leaves of the error
    found = [[results[task] for task in seed] for seed in zip(*tasks.values(), strict=True)]
    figures["worst"] = {arm: [max(max(f[arm]) for f in seed) for seed in found] for arm in ARMS}
    figures["left"] = [
        max(max(f["equation (4)"]) / max(f["no decay"]) for f in seed) for seed in found
    ]
    configuration: dict[str, Any] = {
        "lr": LR,
        "weight_decay": DECAY,
        "steps": STEPS,
        "batch": BATCH,
    }
    configuration |= {"norms": NORMS, "dtype": "float64"}
    return Result(_findings(figures), figures, configuration)


def _findings(figures: dict[str, Any]) -> list[Finding]:
    worst = {arm: max(values) for arm, values in figures["worst"].items()}
    return [
        Finding(
            "equation (4) corrects the step to that of decay",
            f"its directions are off by {worst['equation (4)']:.1e} at most over {STEPS} steps "
            f"(without it {worst['no decay']:.1e}): at most {max(figures['left']):.0%} of the "
            "error is left",
            below(interval(figures["left"]), HALF),
        ),
        Finding(
            "(beyond the paper) with 1/(1 - lr decay) it is exact",
            f"directions off by {worst['exact']:.1e}",
            below(interval(figures["worst"]["exact"]), 1e-12),
        ),
        Finding(
            "(beyond the paper) decay equals a growing learning rate",
            f"directions off by {worst['growing']:.1e}",
            below(interval(figures["worst"]["growing"]), 1e-10),
        ),
    ]


def draw(figure: Any, figures: dict[str, Any]) -> None:
    panels = figure.subplots(1, 3, sharey=True)
    for axes, norm in zip(panels, ("2", "1", "inf"), strict=True):
        for arm, label in ARMS.items():
            error = figures["norms"][norm][arm]
            style = {"color": look(arm)["color"], "ls": DASHES.get(arm, "-"), "lw": 1.8}
            # steps are neighbours on a line: no markers
            axes.plot(range(1, len(error) + 1), error, label=label, **style)
        axes.set(title=f"{title(norm)} batch norm", xlabel="step")
    # a direction may be the same to the last bit: linear below the last bit, so that 0 has a place
    panels[0].set_yscale("symlog", linthresh=1e-17, linscale=0.5)
    panels[0].set_ylim(0, 1)
    ticks = [0, 1e-16, 1e-12, 1e-8, 1e-4, 1]
    fixed_ticks(panels[0].yaxis, ticks)
    panels[0].set_yticklabels([number(x) for x in ticks])
    panels[0].set_ylabel("largest error of a channel's direction")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


CLAIM = Claim(
    "exact-step",
    "(Beyond the paper) equation (4) is exact with a factor 1/(1 - lr decay).",
    measure,
    draw,
)
