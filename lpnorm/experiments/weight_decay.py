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
from lpnorm.arrays import to_device
from lpnorm.decay import SGD, NormSchedule, NormTrace, StepSizeCorrection
from lpnorm.experiments.report import (
    NO,
    NOISE,
    YES,
    Claim,
    Finding,
    Options,
    Result,
    accuracy_text,
    as_well_as,
    difference_text,
    error_dots,
    summary,
    worse,
)
from lpnorm.experiments.runs import Task, difference, final_accuracy, last_layer_decayed

ARMS = ["decay", "no decay", "corrected", "norm schedule"]
PAPER = {"decay": 90.56, "no decay": 89.33, "corrected": 90.53, "norm schedule": 90.22}
DECAYS = {"the paper's decay 5e-4": 5e-4, "ten times as much": 5e-3}


@dataclass(frozen=True)
class Study(Task):
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
                """The norm the first arm has at the next step, times sqrt(10) for each drop."""
                imposed.apply(step + 1, schedule((step + 1) // steps) ** -0.5)

            settings["after_step"] = impose
        trace = NormTrace(invariant, sgd)
        turns = Turns(invariant, settings.pop("after_step", None))
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

    def __init__(self, invariant: list[tuple[Any, int]], then: Any) -> None:
        self.invariant, self.then = invariant, then
        self.before = [directions(p) for p, _ in invariant]
        self.angles: list[float] = []  # the mean over the channels, in radians

    def __call__(self, step: int, epoch: int) -> None:
        now = [directions(p) for p, _ in self.invariant]
        moves = [a - b for a, b in zip(self.before, now, strict=True)]
        chords = np.concatenate([np.sqrt((move**2).sum(axis=1)) for move in moves])
        self.angles.append(float((2 * np.arcsin(np.minimum(chords / 2, 1))).mean()))
        if self.then is not None:
            self.then(step, epoch)
            now = [directions(p) for p, _ in self.invariant]
        self.before = now

    def state(self) -> dict[str, np.ndarray]:
        return {"angles": np.array(self.angles)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `state` returned; the weights are those of that moment already."""
        self.angles = state["angles"].tolist()
        self.before = [directions(p) for p, _ in self.invariant]


def directions(parameter: Any) -> np.ndarray:
    """Each output channel divided by its norm, (channels, n), in float64 on the CPU."""
    w = to_device(parameter.data, "cpu").astype("float64")
    rows = w.reshape(w.shape[0], -1)
    return rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))


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
            }
        decayed = arms["decay"]["final_percent"]
        figures["decays"][name] = {
            "arms": arms,
            "difference_from_decay": {
                arm: difference(arms[arm]["final_percent"], decayed) for arm in ARMS[1:]
            },
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
        closer = np.log(angles["corrected"]) < 0.5 * np.log(angles["no decay"])
        findings.append(
            Finding(
                "because the effective step sizes are then those of the run with decay",
                f"{name}: factor between the effective step sizes (and between the angles turned "
                f"in a step) and those with decay: {text}",
                NO if sizes["corrected"] > 1.001 else YES if closer else NOISE,
            )
        )
    return findings


def draw(figure: Any, figures: dict[str, Any]) -> None:
    figure.set_size_inches(14, 7)
    panels = figure.subplots(2, 4)
    colors = dict(zip(ARMS, ["C0", "C3", "C2", "C1"], strict=True))
    styles = dict(zip(ARMS, ["-", "-", "--", ":"], strict=True))
    titles = {
        "norm": "norm of a channel",
        "step_size": "effective step size",
        "angle": "angle turned in a step",
    }
    for row, (name, decay) in zip(panels, figures["decays"].items(), strict=True):
        for arm, values in decay["arms"].items():
            for axes, (key, title) in zip(row, titles.items(), strict=False):
                y = np.degrees(values[key]) if key == "angle" else values[key]
                epochs = range(1, len(y) + 1)
                axes.semilogy(epochs, y, color=colors[arm], ls=styles[arm], lw=2, label=arm)
                axes.set(title=title + (" (degrees)" if key == "angle" else ""), xlabel="epoch")
        row[0].set_ylabel(name)
        row[0].legend()
        error_dots(row[3], decay["arms"], colors)


CLAIM = Claim(
    "weight-decay",
    "Weight decay under normalization steers the effective step size and can be replaced.",
    measure,
    draw,
)
