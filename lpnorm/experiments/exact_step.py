"""Equation (4) with and without its exact factor, against the run with weight decay.

Linear(64, 32), batch norm (eps = 0), ReLU, Linear(32, 10) in float64 on batches of 64 digits, SGD
without momentum; only the first weight, which is scale-invariant, is decayed. Every run sees the
same batches. What is compared is the direction of each channel of that weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lpnorm import data, models, nn
from lpnorm.decay import SGD, GrowingSchedule, NormTrace, StepSizeCorrection
from lpnorm.experiments.report import NO, YES, Claim, Finding, Options, Result
from lpnorm.experiments.runs import norm_named
from lpnorm.experiments.weight_decay import directions

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
        self.model = models.exact_net(norm_named(norm), rng)
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


def measure(options: Options) -> Result:
    figures: dict[str, Any] = {"norms": {}}
    for norm in NORMS:
        runs = [compare_arms(norm, seed, options.device) for seed in range(options.seeds)]
        figures["norms"][norm] = {arm: np.max([run[arm] for run in runs], axis=0) for arm in ARMS}
    worst = {arm: max(float(f[arm].max()) for f in figures["norms"].values()) for arm in ARMS}
    figures["worst"] = worst
    findings = [
        Finding(
            "equation (4) reaches the accuracy of decay",
            f"its directions are off by {worst['equation (4)']:.1e} at most over {STEPS} steps "
            f"(without it {worst['no decay']:.1e})",
            YES if worst["equation (4)"] < 0.1 * worst["no decay"] else NO,
        ),
        Finding(
            "(beyond the paper) with 1/(1 - lr decay) it is exact",
            f"directions off by {worst['exact']:.1e}",
            YES if worst["exact"] < 1e-12 else NO,
        ),
        Finding(
            "(beyond the paper) decay equals a growing learning rate",
            f"directions off by {worst['growing']:.1e}",
            YES if worst["growing"] < 1e-10 else NO,
        ),
    ]
    configuration = {"lr": LR, "weight_decay": DECAY, "steps": STEPS, "batch": BATCH}
    return Result(findings, figures, configuration | {"norms": NORMS, "dtype": "float64"})


def draw(figure: Any, figures: dict[str, Any]) -> None:
    panels = figure.subplots(1, 3, sharey=True)
    for axes, norm in zip(panels, ("2", "1", "inf"), strict=True):
        for (arm, label), color in zip(ARMS.items(), ("C3", "C0", "C2", "C1"), strict=True):
            error = np.maximum(figures["norms"][norm][arm], 1e-17)
            axes.semilogy(range(1, len(error) + 1), error, color=color, label=label)
        name = "L∞" if norm == "inf" else f"L{norm}"
        axes.set(title=f"{name} batch norm", xlabel="step")
    panels[0].set_ylabel("largest error of a channel's direction")
    panels[0].legend(loc="center right")


CLAIM = Claim(
    "exact-step",
    "(Beyond the paper) equation (4) is exact with a factor 1/(1 - lr decay).",
    measure,
    draw,
)
