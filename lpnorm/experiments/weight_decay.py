"""Weight decay under normalization steers the effective step size and nothing else.

Four arms, as in the paper's figure: decay on (everything decayed); off (the last layer keeps its
decay, its bias too); off with each channel's step corrected by equation (4); off with the norms
of the first arm imposed and, in place of dividing the learning rate of those weights by 10, the
norm multiplied by the square root of 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import nn
from lpnorm.decay import SGD, NormSchedule, NormTrace, StepSizeCorrection
from lpnorm.experiments.pictures import DASHES, error_dots, log_axis, look, whole_epochs
from lpnorm.experiments.report import Claim, Finding, Options, Result, accuracy_text, summary
from lpnorm.experiments.runs import (
    Training,
    check_entries,
    directions,
    final_accuracy,
    last_layer_decayed,
)
from lpnorm.experiments.verdicts import (
    HALF,
    as_well_as,
    below,
    difference,
    difference_text,
    interval,
    worse,
)

ARMS = ["decay", "no decay", "corrected", "norm schedule"]
PAPER = {"decay": 90.56, "no decay": 89.33, "corrected": 90.53, "norm schedule": 90.22}
DECAYS = {"the paper's decay 5e-4": 5e-4, "ten times as much": 5e-3}


@dataclass(frozen=True)
class Study(Training):
    """All four arms with one seed, since the last two need the norms of the first."""

    def train(self, checkpoint: Path) -> dict[str, Any]:
        decayed: NormTrace | None = None
        results = {}
        for arm in ARMS:
            results[arm], trace = self._train_arm(arm, decayed, checkpoint)
            decayed = decayed or trace
        return results

    def _train_arm(
        self, arm: str, decayed: NormTrace | None, checkpoint: Path
    ) -> tuple[dict[str, Any], NormTrace]:
        model = self.model()
        invariant = nn.scale_invariant(model)
        steps = 1437 // self.batch
        schedule, settings = self.schedule(), {}
        if arm == "decay":
            sgd = SGD(model.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay)
        else:
            groups = last_layer_decayed(model, self.weight_decay)
            sgd = SGD(groups, self.lr, self.momentum)
        if arm == "corrected" and decayed is not None:
            for group in sgd.groups:
                group["step_scale"] = StepSizeCorrection(decayed, invariant)
        if arm == "norm schedule" and decayed is not None:
            imposed = NormSchedule(invariant, decayed)
            fixed = {id(parameter) for parameter, _ in invariant}
            for group in sgd.groups:  # these weights keep the first learning rate throughout
                group["step_scale"] = lambda p: 1 / sgd.lr_factor if id(p) in fixed else 1.0

            def impose(step: int, epoch: int) -> None:
                """The norm the first arm has at this step, times sqrt(10) for each drop.

                Before the step, so that no epoch is evaluated with the running statistics of
                another norm.
                """
                imposed.apply(step, schedule(epoch) ** -0.5)

            settings["before_step"] = impose
        trace = NormTrace(invariant, sgd)
        turns = Turns(invariant)
        stem = checkpoint.with_name(f"{checkpoint.stem}-{ARMS.index(arm)}.npz")
        history = self.fit(model, sgd, stem, trace=trace, after_step=turns, **settings)
        source = decayed if arm == "corrected" and decayed is not None else trace
        sizes = []
        for name in trace.norms:
            # the scheduled rate is in the trace; the norm schedule keeps the first one throughout
            rates = np.array([self.lr] if arm == "norm schedule" else trace.rates[name])[:, None]
            sizes.append(rates / np.array(source.norms[name][: len(trace.norms[name])]) ** 2)
        return {
            **history.to_dict(),
            "norm": per_epoch(np.hstack(list(trace.norms.values())), steps),
            "step_size": per_epoch(np.hstack(sizes), steps),
            "angle": per_epoch(np.array(turns.angles)[:, None], steps),
        }, trace


def per_epoch(values: np.ndarray, steps: int) -> list[float]:
    """The geometric mean over the channels and over the steps of each epoch."""
    logs = np.log(values)
    return [float(np.exp(logs[i : i + steps].mean())) for i in range(0, len(logs), steps)]


class Turns:
    """How far the channels of the invariant weights turn in a step: called after every step."""

    def __init__(self, invariant: list[tuple[Any, int]]) -> None:
        self.invariant = invariant
        self.before = [directions(p) for p, _ in invariant]
        self.angles: list[float] = []  # the mean over the channels, in radians

    def __call__(self, step: int, epoch: int) -> None:
        now = [directions(p) for p, _ in self.invariant]
        moves = [a - b for a, b in zip(self.before, now, strict=True)]
        chords = np.concatenate([np.sqrt((move**2).sum(axis=1)) for move in moves])
        self.angles.append(float((2 * np.arcsin(np.minimum(chords / 2, 1))).mean()))
        self.before = now

    def state(self) -> dict[str, np.ndarray]:
        return {"angles": np.array(self.angles)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `state` returned; the weights are those of that moment already."""
        check_entries(state, ["angles"])
        self.angles = state["angles"].tolist()
        self.before = [directions(p) for p, _ in self.invariant]


def measure(options: Options) -> Result:
    studies = {name: options.trainings(Study, weight_decay=decay) for name, decay in DECAYS.items()}
    results = options.train([task for tasks in studies.values() for task in tasks])
    figures: dict[str, Any] = {"decays": {}}
    for name, tasks in studies.items():
        mine = [results[task] for task in tasks]
        arms: dict[str, Any] = {}
        for arm in ARMS:
            final = [final_accuracy(result[arm]) for result in mine]
            # how far the steps are from those of the arm with decay, as a factor of 1 or more
            apart = {
                key: [
                    np.abs(np.log(np.array(result[arm][key]) / np.array(result["decay"][key])))
                    for result in mine
                ]
                for key in ("step_size", "angle")
            }
            arms[arm] = {
                **summary([result[arm] for result in mine], final),
                **{
                    key: np.mean([result[arm][key] for result in mine], axis=0)
                    for key in ("norm", "step_size", "angle")
                },
                **{f"{key}_apart": float(np.exp(np.mean(a))) for key, a in apart.items()},
                "log_angle_apart": [float(np.mean(each)) for each in apart["angle"]],
            }
        without = arms["no decay"]["log_angle_apart"]
        left = np.array(arms["corrected"]["log_angle_apart"]) / without
        decayed = arms["decay"]["final_percent"]
        figures["decays"][name] = {
            "arms": arms,
            "difference_from_decay": {
                arm: difference(arms[arm]["final_percent"], decayed) for arm in ARMS[1:]
            },
            "left": left,  # for each seed, of the (logarithmic) difference of the angles
        }
    configuration = vars(next(iter(studies.values()))[0]) | {"weight_decay": DECAYS}
    return Result(_findings(figures), figures, configuration)


def _findings(figures: dict[str, Any]) -> list[Finding]:
    findings = []
    for name, decay in figures["decays"].items():
        arms, differences = decay["arms"], decay["difference_from_decay"]
        said = {
            "no decay": (f"worse without decay: {PAPER['no decay']} against", worse),
            "corrected": (f"corrected as well as decay: {PAPER['corrected']} against", as_well_as),
            "norm schedule": (
                f"norm schedule as well: {PAPER['norm schedule']} against",
                as_well_as,
            ),
        }
        for arm, (paper, judge) in said.items():
            findings.append(
                Finding(
                    f"{paper} {PAPER['decay']} % (VGG11, CIFAR-10)",
                    f"{name}: {accuracy_text(arms[arm])} against {accuracy_text(arms['decay'])} %; "
                    + difference_text(differences[arm]),
                    judge(differences[arm]),
                )
            )
        sizes = {arm: arms[arm]["step_size_apart"] for arm in ARMS[1:]}
        angles = {arm: arms[arm]["angle_apart"] for arm in ARMS[1:]}
        text = ", ".join(f"{arm} {sizes[arm]:.3f} ({angles[arm]:.2f})" for arm in ARMS[1:])
        findings.append(
            Finding(
                "because the correction makes the steps those of the run with decay",
                f"{name}: factor between the effective step sizes (and between the angles turned "
                f"in a step) and those with decay: {text}; {np.mean(decay['left']):.0%} of the "
                "difference in angle is left",
                below(interval(decay["left"]), HALF),
            )
        )
    return findings


def draw(figure: Any, figures: dict[str, Any]) -> None:
    figure.set_size_inches(14, 7)
    panels = figure.subplots(2, 4, width_ratios=[1, 1, 1, 1.1])
    looks = {arm: look(arm) for arm in ARMS}
    titles = {
        "norm": "norm of a channel",
        "step_size": "effective step size",
        "angle": "angle turned in a step (degrees)",
    }
    for row, (name, decay) in zip(panels, figures["decays"].items(), strict=True):
        for axes, (key, title) in zip(row, titles.items(), strict=False):
            for arm, values in decay["arms"].items():
                y = np.degrees(values[key]) if key == "angle" else values[key]
                style = looks[arm] | {"ls": DASHES.get(arm, "-"), "lw": 2, "ms": 4}
                axes.semilogy(range(1, len(y) + 1), y, label=arm, **style)
            axes.set_title(title)
            whole_epochs(axes)
            log_axis(axes.yaxis)
        row[0].set_ylabel(name)
        error_dots(row[3], decay["arms"], looks)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


CLAIM = Claim(
    "weight-decay",
    "Weight decay under normalization steers the effective step size and can be replaced.",
    measure,
    draw,
)
