"""Training entirely in float16: which norm, with which accumulator, at which scale of its inputs?

Everything is float16: pixels, weights, activations, gradients, SGD; matrix products are summed in
float32, as tensor cores do, and the loss is multiplied by 1,024 (`training.LossScale`; not in the
last setting, where gradients are 2^12 times as large by themselves). The accumulator named is that
of batch norm (`lpnorm.Accumulate`; a dtype alone, so means are taken by a tree of averages), and
its running statistics have its dtype. The baseline is L2 in float32. Three settings:

- **natural**: pixels from 0 to 1, so the deviations before the first batch norm are near 0.5.
- **pixels**: from 0 to 255. Those deviations reach several hundred; d^2 overflows from 256 on.
- **decay**: the weights before every batch norm are 2^-12 of their natural size, where a long run
  with the decay below would have brought them. By the bit law of scale-invariant weights, w -> a w,
  lr -> a^2 lr and decay -> decay / a^2 change nothing in exact arithmetic with eps = 0, and this
  is a = 2^-12: a decay of 8,389. Only precision can make a difference. As lr = 6e-9 is no float16
  number, every float16 arm has float32 masters here.

In the first two eps is 1e-5, as the float32 baseline has it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import data, nn, training
from lpnorm.decay import SGD
from lpnorm.experiments.norms import ARMS
from lpnorm.experiments.pictures import BLACK, error_dots, look, what_dots_show
from lpnorm.experiments.report import Claim, Finding, Options, Result, accuracy_text, summary
from lpnorm.experiments.runs import Training, check_entries, final_accuracy, norm_named
from lpnorm.experiments.verdicts import FAR, as_well_as, difference, difference_text, fails

SETTINGS = ("natural", "pixels", "decay")
BASELINE = "L2 float32"
NAMES = ("L2", "L1", "L∞", "Top-10")
A = 2.0**-12  # the size of the weights in "decay"


@dataclass(frozen=True)
class HalfRun(Training):
    """One training of `models.digits_net` in a setting; norm: a name for `norm_named`."""

    setting: str = "natural"
    norm: str = "2"
    accumulate: str | None = None
    dtype: str = "float16"

    def train(self, checkpoint: Path) -> dict[str, Any]:
        decay = self.setting == "decay"
        model = self.model(
            functools.partial(
                nn.BatchNorm,
                p=norm_named(self.norm),
                eps=0.0 if decay else 1e-5,
                accumulate=self.accumulate,
                dtype=self.dtype,
            )
        )
        a = A if decay else 1.0
        parameters = model.parameters()
        invariant = [parameter for parameter, _ in nn.scale_invariant(model)]
        for parameter in invariant:
            parameter.data = parameter.data * a
        others = [p for p in parameters if not any(p is q for q in invariant)]
        scaled = {"lr": self.lr * a**2, "weight_decay": self.weight_decay / a**2}
        sgd = SGD(
            [{"params": invariant, **scaled}, {"params": others}],
            self.lr,
            self.momentum,
            weight_decay=self.weight_decay,
            master="float32" if decay else None,
        )
        first = FirstBroken(model)
        factor = 1024.0 if self.dtype == "float16" and not decay else 1.0
        scale = training.LossScale(factor)
        history = self.fit(model, sgd, checkpoint, after_step=first, loss_scale=scale)
        return history.to_dict() | {"broken": first.found()}

    def digits(self) -> data.Dataset:
        plain = super().digits()
        factor = 255 if self.setting == "pixels" else 1
        return data.Dataset(
            plain.train_x * factor, plain.train_y, plain.test_x * factor, plain.test_y
        )


class FirstBroken:
    """The first step after which a batch norm's running scale is not finite, and which layer's.

    An overflowing scale gives x_hat = 0: nothing in the loss is infinite, the layer has only
    become constant. To be called after every step; a part of the checkpoint.
    """

    def __init__(self, model: nn.Layer) -> None:
        layers = [
            (path, layer) for path, layer in model.layers() if hasattr(layer, "running_scale")
        ]
        self.layers, self.step, self.index = layers, -1, -1

    def __call__(self, step: int, epoch: int) -> None:
        if self.step < 0:
            for index, (_, layer) in enumerate(self.layers):
                if not bool((abs(layer.running_scale) < np.inf).all()):
                    self.step, self.index = step, index
                    return

    def found(self) -> dict[str, Any] | None:
        """{"step", "where"}, or None."""
        if self.step < 0:
            return None
        where = f"the running scale of layer {self.layers[self.index][0]} (BatchNorm) is not finite"
        return {"step": self.step, "where": where}

    def state(self) -> dict[str, np.ndarray]:
        return {"first": np.array([self.step, self.index])}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `state` returned."""
        check_entries(state, ["first"])
        self.step, self.index = (int(value) for value in state["first"])


def _arms(options: Options, setting: str) -> dict[str, list[Any]]:
    arms = {BASELINE: options.trainings(HalfRun, setting=setting, dtype="float32")}
    for name in NAMES:
        for accumulate in ("float32", "float16"):
            arms[f"{name} float16, {accumulate} sums"] = options.trainings(
                HalfRun, setting=setting, norm=str(ARMS[name]), accumulate=accumulate
            )
    return arms


def measure(options: Options) -> Result:
    arms = {setting: _arms(options, setting) for setting in SETTINGS}
    histories = options.train([run for a in arms.values() for runs in a.values() for run in runs])
    figures: dict[str, Any] = {}
    for setting, runs_of in arms.items():
        finals = {n: [final_accuracy(histories[r]) for r in runs] for n, runs in runs_of.items()}
        figures[setting] = {
            name: {
                **summary([histories[run] for run in runs], finals[name]),
                "broken": [histories[run]["broken"] for run in runs],
                "difference_from_float32": difference(finals[name], finals[BASELINE]),
            }
            for name, runs in runs_of.items()
        }
    return Result(_findings(figures), figures, vars(next(iter(arms.values()))[BASELINE][0]))


def _findings(figures: dict[str, Any]) -> list[Finding]:
    findings = []
    l2, l1 = "L2 float16, float32 sums", "L1 float16, float16 sums"
    said = {
        "natural": "pixels 0 to 1",
        "pixels": "pixels 0 to 255",
        "decay": f"weights shrunk by decay to 2^{int(np.log2(A))} of their size",
    }
    for setting, arms in figures.items():
        words = said[setting]
        findings.append(
            Finding(
                f"L2 in float16 fails even with float32 sums: below float32 by {FAR:g} points "
                f"({words})",
                _arm_text(arms, l2),
                fails(arms[l2]["difference_from_float32"]),
            )
        )
        judge = as_well_as(arms[l1]["difference_from_float32"])
        findings.append(
            Finding(
                f"L1 in float16 with float16 sums: 0.5 points from float32 ({words})",
                _arm_text(arms, l1),
                judge,
            )
        )
        for name in ("L∞", "Top-10"):
            key = f"{name} float16, float16 sums"
            findings.append(
                Finding(
                    f"{name} in float16 with float16 sums as well as float32 ({words})",
                    _arm_text(arms, key),
                    as_well_as(arms[key]["difference_from_float32"]),
                )
            )
    return findings


def _arm_text(arms: dict[str, Any], name: str) -> str:
    arm = arms[name]
    text = f"{accuracy_text(arm)} against {accuracy_text(arms[BASELINE])} %; "
    text += difference_text(arm["difference_from_float32"])
    broken = [b or d for b, d in zip(arm["broken"], arm["diverged"], strict=True) if b or d]
    if broken:
        first = min(broken, key=lambda each: each["step"])
        text += f"; {len(broken)} of {len(arm['broken'])} seeds, first at step {first['step']}: "
        text += first["where"]
    return text


def draw(figure: Any, figures: dict[str, Any]) -> None:
    figure.set_size_inches(11, 4.6)
    panels = figure.subplots(1, 3, sharey=True)
    titles = {
        "natural": "natural scale: pixels 0 to 1",
        "pixels": "raw pixels: 0 to 255",
        "decay": "weights decayed to 2⁻¹² of their size",
    }
    for axes, (setting, arms) in zip(panels, figures.items(), strict=False):
        looks = {n: look(n.split()[0]) for n in arms}
        looks[BASELINE] |= {"color": BLACK}
        for name in arms:
            if name.endswith("float16 sums"):
                looks[name] |= {"mfc": "none"}
        error_dots(axes, arms, looks)
        axes.set_title(titles[setting])
    figure.suptitle(what_dots_show(arms).replace("\n", " "), fontsize=10)


CLAIM = Claim(
    "half-precision",
    "L1, L∞ and Top-k train entirely in float16; L2 does not, even with a float32 accumulator.",
    measure,
    draw,
    by_default=False,
)
