"""Beyond the paper: where decay and gradients balance, the norm and the step are predictable.

Buffer undamped (PyTorch's), decay inside the gradient, momentum a. With g~ = ||w|| g the gradient
at unit norm, orthogonal to w and independent of the past, the norm settles at

    ||w||^4 = lr E||g~||^2 / ( decay (1 - a) (2 - decay lr / (1 + a)) )

and a step then turns w by arccos(1 - lr decay / (1 + a)). Without momentum the first follows from
E||w+||^2 = (1 - lr decay)^2 ||w||^2 + lr^2 E||g~||^2 / ||w||^2 = ||w||^2, and the second from
<w+, w> = (1 - lr decay) ||w||^2 with ||w+|| = ||w||.

On real data the gradients are not independent of the past: neighbouring batches pull the same way,
which with momentum adds up. `OnDigits` therefore also measures the correlation of a gradient with
the one before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import nn
from lpnorm.arrays import to_device
from lpnorm.decay import SGD, StepSchedule, channel_norms
from lpnorm.experiments.pictures import BLUE, GREEN, PURPLE, log_axis
from lpnorm.experiments.report import Claim, Finding, Options, Result
from lpnorm.experiments.runs import Task, Training, check_entries, directions
from lpnorm.experiments.verdicts import below, interval

SETTINGS = [  # lr, weight decay, momentum
    (0.1, 0.1, 0.0),
    (0.5, 0.02, 0.0),
    (1.0, 0.1, 0.0),
    (0.1, 0.02, 0.5),
    (0.1, 0.01, 0.9),
    (0.02, 0.2, 0.9),
]
ON_DIGITS = [(0.1, 0.2, 0.0), (0.1, 0.02, 0.9)]  # both shrink the norm by 2 % a step
CHANNELS, SIZE, STEPS = 16, 300, 1500
KINDS = ("squares", "fourths", "cosines", "products")  # what `Watch` records at every step
CLOSE = 0.03  # how far from theory counts as what theory predicts


def predicted(lr: float, decay: float, momentum: float, square: Any) -> tuple[Any, float]:
    """The equilibrium norm for E||g~||^2 = square, and the angle per step in radians."""
    fourth = lr * square / (decay * (1 - momentum) * (2 - decay * lr / (1 + momentum)))
    return fourth**0.25, math.acos(1 - lr * decay / (1 + momentum))


def random_gradients(
    lr: float, decay: float, momentum: float, seed: int, steps: int = STEPS
) -> dict[str, float]:
    """Norm and angle with Gaussian gradients orthogonal to w, and what is predicted."""
    rng = np.random.default_rng([seed, 4])
    norm, angle = predicted(lr, decay, momentum, SIZE - 1)
    w = rng.standard_normal((CHANNELS, SIZE))
    parameter = nn.Parameter(w * (2 * norm / math.sqrt(SIZE)), "w")  # twice the equilibrium
    sgd = SGD([parameter], lr, momentum, weight_decay=decay)
    fourths, cosines = [], []
    for step in range(steps):
        before = directions(parameter)
        g = rng.standard_normal(w.shape)
        g -= (g * before).sum(axis=1, keepdims=True) * before
        parameter.grad = g / channel_norms(parameter.data)[:, None]
        sgd.step()
        if step >= steps // 2:
            fourths.append((channel_norms(parameter.data) ** 4).mean())
            cosines.append((before * directions(parameter)).sum(axis=1).mean())
    return {
        "norm": float(np.mean(fourths)) ** 0.25,
        "predicted_norm": norm,
        "angle": math.acos(np.mean(cosines)),
        "predicted_angle": angle,
    }


@dataclass(frozen=True)
class RandomGradients(Task):
    """`random_gradients` in one setting, from one seed."""

    lr: float = 0.1
    weight_decay: float = 0.1
    momentum: float = 0.0
    steps: int = STEPS

    def train(self, checkpoint: Path) -> dict[str, Any]:
        setting = self.lr, self.weight_decay, self.momentum
        return random_gradients(*setting, self.seed, self.steps)


@dataclass(frozen=True)
class OnDigits(Training):
    """A training at a constant learning rate with only the scale-invariant weights decayed.

    Measures over the last third of its steps.
    """

    def schedule(self) -> StepSchedule:
        return StepSchedule([])

    def train(self, checkpoint: Path) -> dict[str, Any]:
        model = self.model()
        invariant = nn.scale_invariant(model)
        decayed = [parameter for parameter, _ in invariant]
        others = [p for p in model.parameters() if p.invariant_axis is None]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others}]
        watch = Watch(invariant, self.epochs * (1437 // self.batch) * 2 // 3)
        sgd = SGD(groups, self.lr, self.momentum)
        history = self.fit(model, sgd, checkpoint, after_step=watch)
        square = np.mean(watch.squares, axis=0)
        alive = square > 0  # a channel behind which no ReLU ever fires has no gradient
        norm, angle = predicted(self.lr, self.weight_decay, self.momentum, square)
        return {
            "ratio": (np.mean(watch.fourths, axis=0)[alive] ** 0.25 / norm[alive]).tolist(),
            "channels_without_gradient": int((~alive).sum()),
            "angle": math.acos(np.mean(watch.cosines)),
            "predicted_angle": angle,
            "correlation": float(np.sum(watch.products) / np.sum(watch.squares[1:])),
            "test_accuracy": history.test_accuracy,
            "diverged": history.diverged,
        }


class Watch:
    """Called after every step: gradients at unit norm, norms and turns of every channel."""

    def __init__(self, invariant: list[tuple[Any, int]], first: int) -> None:
        self.parameters, self.first = [parameter for parameter, _ in invariant], first
        self.before = self._weights()
        self.gradients: list[np.ndarray] | None = None
        self.squares: list[np.ndarray] = []  # ||g~||^2
        self.fourths: list[np.ndarray] = []  # ||w||^4
        self.cosines: list[np.ndarray] = []  # of the angle turned in a step
        self.products: list[np.ndarray] = []  # <g~, the g~ before>

    def state(self) -> dict[str, np.ndarray]:
        gradients = {f"{i}": g for i, g in enumerate(self.gradients or [])}
        return {kind: np.array(getattr(self, kind)) for kind in KINDS} | gradients

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `state` returned; the weights are those of that moment already."""
        measured = len(state.get("squares", ())) > 0  # then there is a last gradient of each
        places = [f"{i}" for i in range(len(self.parameters) if measured else 0)]
        check_entries(state, [*KINDS, *places])
        for kind in KINDS:
            setattr(self, kind, list(state[kind]))
        self.gradients = [state[place] for place in places] or None
        self.before = self._weights()

    def _weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        norms = [to_device(channel_norms(p.data), "cpu") for p in self.parameters]
        return [(directions(p), n) for p, n in zip(self.parameters, norms, strict=True)]

    def __call__(self, step: int, epoch: int) -> None:
        before, now = self.before, self._weights()
        self.before = now
        if step < self.first:
            return
        grads = [to_device(p.grad, "cpu").astype("float64") for p in self.parameters]
        unit = [  # the gradient was taken at the weights before this step
            g.reshape(g.shape[0], -1) * norm[:, None]
            for g, (_, norm) in zip(grads, before, strict=True)
        ]
        self.squares.append(np.concatenate([(u * u).sum(axis=1) for u in unit]))
        self.fourths.append(np.concatenate([norm for _, norm in before]) ** 4)
        turned = [(a * b).sum(axis=1) for (a, _), (b, _) in zip(before, now, strict=True)]
        self.cosines.append(np.concatenate(turned))
        if self.gradients is not None:
            pairs = zip(self.gradients, unit, strict=True)
            self.products.append(np.concatenate([(a * b).sum(axis=1) for a, b in pairs]))
        self.gradients = unit


def measure(options: Options) -> Result:
    def named(setting: tuple[float, float, float]) -> dict[str, float]:
        return dict(zip(("lr", "weight_decay", "momentum"), setting, strict=True))

    random = {s: options.tasks(RandomGradients, steps=STEPS, **named(s)) for s in SETTINGS}
    digits = {  # long enough to forget the start
        s: options.trainings(OnDigits, epochs=2 * options.epochs, **named(s)) for s in ON_DIGITS
    }
    every = [task for group in (random, digits) for tasks in group.values() for task in tasks]
    results = options.train(every)
    figures: dict[str, Any] = {"random": [], "digits": []}
    for setting, tasks in random.items():
        runs = [results[task] for task in tasks]
        mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        off = [
            max(abs(run[key] / run[f"predicted_{key}"] - 1) for key in ("norm", "angle"))
            for run in runs
        ]
        figures["random"].append({**named(setting), **mean, "off_by": off})
    for setting, tasks in digits.items():
        found = [results[task] for task in tasks]
        ratios = np.concatenate([result["ratio"] for result in found])
        figures["digits"].append(
            {
                **named(setting),
                "ratio": ratios,
                "median_ratio": float(np.median(ratios)),
                "quartiles": np.percentile(ratios, [25, 75]),
                "off_by": [abs(float(np.median(result["ratio"])) - 1) for result in found],
                "angle": float(np.mean([result["angle"] for result in found])),
                "predicted_angle": found[0]["predicted_angle"],
                "correlation": float(np.mean([result["correlation"] for result in found])),
            }
        )
    configuration = {"settings": SETTINGS, "on_digits": ON_DIGITS, "epochs": options.epochs}
    configuration |= {"channels": CHANNELS, "size": SIZE, "steps": STEPS}
    return Result(_findings(figures), figures, configuration)


def _findings(figures: dict[str, Any]) -> list[Finding]:
    of = figures["random"]
    norm = max(abs(f["norm"] / f["predicted_norm"] - 1) for f in of)
    angle = max(abs(f["angle"] / f["predicted_angle"] - 1) for f in of)
    worst = [max(seed) for seed in zip(*(f["off_by"] for f in of), strict=True)]
    findings = [
        Finding(
            f"(beyond the paper) within {CLOSE:.0%} of the equilibrium norm and the angle per "
            "step, random gradients",
            f"{len(of)} settings, with and without momentum: norm within {norm:.2%}, angle within "
            f"{angle:.2%} of theory",
            below(interval(worst), CLOSE),
        )
    ]
    for f in figures["digits"]:
        low, high = f["quartiles"]
        findings.append(
            Finding(
                f"(beyond the paper) the norm on the digits, momentum {f['momentum']:g}",
                f"norm over theory {f['median_ratio']:.2f} (quartiles {low:.2f} to {high:.2f}), "
                f"angle over theory {f['angle'] / f['predicted_angle']:.2f}; correlation of "
                f"gradients one step apart {f['correlation']:+.2f}",
                below(interval(f["off_by"]), CLOSE),
            )
        )
    return findings


def draw(figure: Any, figures: dict[str, Any]) -> None:
    left, middle, right = figure.subplots(1, 3)
    looks = {0.0: (BLUE, "o"), 0.5: (GREEN, "v"), 0.9: (PURPLE, "^")}
    for momentum, (color, marker) in looks.items():
        mine = [f for f in figures["random"] if f["momentum"] == momentum]
        style = {"color": color, "marker": marker, "ls": "none", "mfc": "none", "ms": 9}
        label = f"momentum {momentum:g}"
        for axes, key in ((left, "norm"), (middle, "angle")):
            x, y = np.array([[f[f"predicted_{key}"], f[key]] for f in mine]).T
            if key == "angle":
                x, y = np.degrees(x), np.degrees(y)
            axes.loglog(x, y, label=label if key == "norm" else None, **style)
    for axes, name in ((left, "norm, random gradients"), (middle, "angle per step (degrees)")):
        low, high = axes.get_xlim()
        line = "measured = predicted" if axes is left else None
        axes.plot([low, high], [low, high], "k:", lw=1, label=line)
        axes.set(title=name, xlabel="predicted", ylabel="measured")
        log_axis(axes.xaxis)
        log_axis(axes.yaxis)
    ratios = [np.array(f["ratio"]) for f in figures["digits"]]
    inner = np.percentile(np.concatenate(ratios), [1, 99])
    low, high = min(float(inner[0]), 0.98), max(float(inner[1]), 1.02)
    for f, ratio in zip(figures["digits"], ratios, strict=True):
        color = looks[f["momentum"]][0]
        inside = np.clip(ratio, low, high)  # the outermost bins hold what is beyond
        label = f"digits, momentum {f['momentum']:g}"
        right.hist(inside, np.linspace(low, high, 41), histtype="step", color=color, label=label)
    right.axvline(1, color="k", ls=":", lw=1)
    right.set(title="digits: norm over prediction", xlabel="measured / predicted")
    right.set_ylabel("channels (all seeds)")
    figure.legend(loc="outside lower center", ncols=6)


CLAIM = Claim(
    "equilibrium",
    "(Beyond the paper) decay and gradients balance at a norm and a step that theory predicts.",
    measure,
    draw,
)
