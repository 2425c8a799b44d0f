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
from lpnorm.experiments.report import NO, YES, Claim, Finding, Options, Result
from lpnorm.experiments.runs import Task
from lpnorm.experiments.weight_decay import directions

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


def predicted(lr: float, decay: float, momentum: float, square: Any) -> tuple[Any, float]:
    """The equilibrium norm for E||g~||^2 = square, and the angle per step in radians."""
    fourth = lr * square / (decay * (1 - momentum) * (2 - decay * lr / (1 + momentum)))
    return fourth**0.25, math.acos(1 - lr * decay / (1 + momentum))


def random_gradients(lr: float, decay: float, momentum: float, seed: int) -> dict[str, float]:
    """Norm and angle with Gaussian gradients orthogonal to w, and what is predicted."""
    rng = np.random.default_rng([seed, 4])
    norm, angle = predicted(lr, decay, momentum, SIZE - 1)
    w = rng.standard_normal((CHANNELS, SIZE))
    parameter = nn.Parameter(w * (2 * norm / math.sqrt(SIZE)), "w")  # twice the equilibrium
    sgd = SGD([parameter], lr, momentum, weight_decay=decay)
    fourths, cosines = [], []
    for step in range(STEPS):
        before = directions(parameter)
        g = rng.standard_normal(w.shape)
        g -= (g * before).sum(axis=1, keepdims=True) * before
        parameter.grad = g / channel_norms(parameter.data)[:, None]
        sgd.step()
        if step >= STEPS // 2:
            fourths.append((channel_norms(parameter.data) ** 4).mean())
            cosines.append((before * directions(parameter)).sum(axis=1).mean())
    return {
        "norm": float(np.mean(fourths)) ** 0.25,
        "predicted_norm": norm,
        "angle": math.acos(np.mean(cosines)),
        "predicted_angle": angle,
    }


@dataclass(frozen=True)
class OnDigits(Task):
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
        kinds = ("squares", "fourths", "cosines", "products")
        gradients = enumerate(self.gradients or [])
        return {k: np.array(getattr(self, k)) for k in kinds} | {f"{i}": g for i, g in gradients}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `state` returned; the weights are those of that moment already."""
        for kind in ("squares", "fourths", "cosines", "products"):
            setattr(self, kind, list(state[kind]))
        last = [state[key] for key in sorted(state, key=str) if key.isdecimal()]
        self.gradients = last or None
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
    figures: dict[str, Any] = {"random": [], "digits": []}
    for lr, decay, momentum in SETTINGS:
        runs = [random_gradients(lr, decay, momentum, seed) for seed in range(options.seeds)]
        mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        setting = {"lr": lr, "weight_decay": decay, "momentum": momentum}
        figures["random"].append(setting | mean)
    tasks = {
        setting: options.trainings(
            OnDigits,
            lr=setting[0],
            weight_decay=setting[1],
            momentum=setting[2],
            epochs=2 * options.epochs,  # long enough to forget the start
        )
        for setting in ON_DIGITS
    }
    results = options.train([task for each in tasks.values() for task in each])
    for (lr, decay, momentum), mine in tasks.items():
        found = [results[task] for task in mine]
        ratios = np.concatenate([result["ratio"] for result in found])
        figures["digits"].append(
            {
                "lr": lr,
                "weight_decay": decay,
                "momentum": momentum,
                "ratio": ratios,
                "median_ratio": float(np.median(ratios)),
                "quartiles": np.percentile(ratios, [25, 75]),
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
    findings = [
        Finding(
            "(beyond the paper) the equilibrium norm and the angle per step, random gradients",
            f"{len(of)} settings, with and without momentum: norm within {norm:.2%}, angle within "
            f"{angle:.2%} of theory",
            YES if max(norm, angle) < 0.03 else NO,
        )
    ]
    for f in figures["digits"]:
        low, high = f["quartiles"]
        findings.append(
            Finding(
                f"(beyond the paper) the same on the digits, momentum {f['momentum']:g}",
                f"norm over theory {f['median_ratio']:.2f} (quartiles {low:.2f} to {high:.2f}), "
                f"angle over theory {f['angle'] / f['predicted_angle']:.2f}; correlation of "
                f"gradients one step apart {f['correlation']:+.2f}",
                YES if abs(f["median_ratio"] - 1) < 0.03 else NO,
            )
        )
    return findings


def draw(figure: Any, figures: dict[str, Any]) -> None:
    left, middle, right = figure.subplots(1, 3)
    for momentum, color in ((0.0, "C0"), (0.5, "C2"), (0.9, "C1")):
        mine = [f for f in figures["random"] if f["momentum"] == momentum]
        label = f"momentum {momentum:g}"
        x, y = [f["predicted_norm"] for f in mine], [f["norm"] for f in mine]
        left.loglog(x, y, "o", color=color, mfc="none", ms=8, label=label)
        x, y = [f["predicted_angle"] for f in mine], [f["angle"] for f in mine]
        middle.loglog(np.degrees(x), np.degrees(y), "o", color=color, mfc="none", ms=8, label=label)
    for axes, title in ((left, "norm, random gradients"), (middle, "angle per step (degrees)")):
        low, high = axes.get_xlim()
        axes.plot([low, high], [low, high], "k:", lw=1, label="measured = predicted")
        axes.set(title=title, xlabel="predicted", ylabel="measured")
        axes.legend()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    for f, color in zip(figures["digits"], ("C0", "C1"), strict=True):
        label = f"momentum {f['momentum']:g}, decay {f['weight_decay']:g}"
        ratio = np.clip(f["ratio"], 0.75, 1.35)  # the last bin holds what is beyond
        right.hist(ratio, np.linspace(0.75, 1.35, 49), histtype="step", color=color, label=label)
    right.axvline(1, color="k", ls=":", lw=1)
    right.set(title="digits: norm over prediction", xlabel="measured / predicted")
    right.set_ylabel("channels (all seeds)")
    right.legend()


CLAIM = Claim(
    "equilibrium",
    "(Beyond the paper) decay and gradients balance at a norm and a step that theory predicts.",
    measure,
    draw,
)
