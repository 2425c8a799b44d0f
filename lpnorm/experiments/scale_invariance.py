"""Equations (1) to (3) and the laws that follow from them, measured for every norm.

The network is Linear(64, 32), batch norm (eps = 0), ReLU, Linear(32, 10) in float64 on 256 digits;
w is the first weight, L the cross-entropy as a function of w alone, per output channel i.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import data, models, nn
from lpnorm.arrays import to_device
from lpnorm.decay import SGD
from lpnorm.experiments.pictures import fixed_ticks, log_axis, look, title
from lpnorm.experiments.report import Claim, Finding, Options, Result
from lpnorm.experiments.runs import Task, norm_named, with_fast
from lpnorm.experiments.verdicts import above, below, interval

NORMS = ["1", "1.5", "2", "3", "inf", "top10", "range"]
ETAS = [2.0**-k for k in range(0, 9)]
SCALES = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
STEPS = 30
A = 3.7  # not a power of two, so equation (1) holds to rounding only


class Network:
    """The loss and its gradient as a function of the first weight (32, 64)."""

    def __init__(self, norm: str, seed: int, device: str) -> None:
        digits = data.digits("float64", device)
        self.x = digits.train_x[:256].reshape(256, -1)
        self.labels = digits.train_y[:256]
        rng = np.random.default_rng([seed, 2])
        self.model = with_fast(models.exact_net(norm_named(norm), rng))
        self.model.to(device)
        self.parameter = self.model.parameters()[0]
        self.start = self.parameter.data

    def loss_and_gradient(self, w: Any) -> tuple[float, Any, Any]:
        """L(w), its gradient, and what the batch norm puts out."""
        self.parameter.data, self.parameter.grad = w, None
        outputs = []
        with nn.watch(lambda layer, y: outputs.append(y)):
            logits, backward = self.model(self.x)
        loss, dlogits = nn.softmax_cross_entropy(logits, self.labels)
        backward(dlogits)
        return loss, self.parameter.grad, outputs[1]

    def descend(self, w: Any, lr: float, weight_decay: float) -> Any:
        """w after STEPS steps of SGD with momentum."""
        parameter = nn.Parameter(w, "w")
        sgd = SGD([parameter], lr, momentum=0.9, weight_decay=weight_decay)
        for _ in range(STEPS):
            parameter.grad = self.loss_and_gradient(parameter.data)[1]
            sgd.step()
        return parameter.data


@dataclass(frozen=True)
class Laws(Task):
    """Every law for one norm, from one seed."""

    norm: str = "2"

    def train(self, checkpoint: Path) -> dict[str, Any]:
        return measure_one(self.norm, self.seed, self.device)


WORST = ("output_error", "gradient_error", "orthogonality", "growth_error", "bits_differing")


def measure(options: Options) -> Result:
    tasks = {norm: options.tasks(Laws, norm=norm) for norm in NORMS}
    results = options.train([task for each in tasks.values() for task in each])
    found = {norm: [results[task] for task in each] for norm, each in tasks.items()}
    figures: dict[str, Any] = {"etas": ETAS, "scales": SCALES, "a": A, "steps": STEPS, "norms": {}}
    for norm, seeds in found.items():
        figures["norms"][norm] = {
            **{key: max(seed[key] for seed in seeds) for key in WORST},
            **{key: seeds[0][key] for key in ("direction_errors", "gradient_norms", "angles")},
            "slope": float(np.mean([seed["slope"] for seed in seeds])),
        }
    by_seed = list(zip(*found.values(), strict=True))  # for each seed the norms
    figures["worst"] = {key: [max(f[key] for f in seed) for seed in by_seed] for key in WORST}
    figures["slopes"] = [min(f["slope"] for f in seed) for seed in by_seed]
    configuration = {"norms": NORMS, "batch": 256, "layers": [64, 32, 10], "dtype": "float64"}
    return Result(_findings(figures), figures, configuration)


def _findings(figures: dict[str, Any]) -> list[Finding]:
    worst = {key: max(values) for key, values in figures["worst"].items()}
    slopes = [f["slope"] for f in figures["norms"].values()]

    def small(key: str, bound: float) -> str:
        return below(interval(figures["worst"][key]), bound)

    either = np.max([figures["worst"][key] for key in ("gradient_error", "orthogonality")], axis=0)
    bits = "every bit of w/a agrees"
    if worst["bits_differing"]:
        bits = f"{worst['bits_differing']} values of w/a differ"
    return [
        Finding(
            "(1) BN(|w| ŵ x) = BN(ŵ x)",
            f"outputs differ by at most {worst['output_error']:.1e}",
            small("output_error", 1e-11),
        ),
        Finding(
            "(2) the gradient shrinks as 1/|w|",
            f"relative error {worst['gradient_error']:.1e}; <w, grad L> = 0 to "
            f"{worst['orthogonality']:.1e}",
            below(interval(either.tolist()), 1e-9),
        ),
        Finding(
            "(3) the direction moves by lr/|w|² times the gradient at ŵ, up to O(lr²)",
            f"the error falls with lr to the power {min(slopes):.2f} to {max(slopes):.2f}",
            above(interval(figures["slopes"]), 1.9),
        ),
        Finding(
            "|w₊|² = |w|² + lr² |grad L|²",
            f"relative error {worst['growth_error']:.1e}",
            small("growth_error", 1e-12),
        ),
        Finding(
            "norm, decay and learning rate are one knob: w → aw, lr → a² lr, decay → decay/a²",
            f"{figures['steps']} steps with momentum and decay, a = 8: {bits}",
            small("bits_differing", 1),
        ),
    ]


def measure_one(norm: str, seed: int, device: str) -> dict[str, Any]:
    """What every law is off by for one norm, and the curves of the picture."""
    network = Network(norm, seed, device)
    host = lambda x: to_device(x, "cpu")  # noqa: E731
    w = network.start
    w_hat = w / _lengths(w)
    _, grad, y = network.loss_and_gradient(w)
    _, grad_hat, _ = network.loss_and_gradient(w_hat)
    _, grad_a, y_a = network.loss_and_gradient(A * w)
    tangent = grad_hat - _dots(w_hat, grad_hat) * w_hat  # (I - ŵŵᵀ) grad L(ŵ)
    errors, eta_hat = [], 1 / float(host(_lengths(grad_hat)).max())
    for eta in ETAS:  # equation (3), lr chosen so that lr/|w|² |grad L(ŵ)| is eta at most
        after = w - eta * eta_hat * _lengths(w) ** 2 * grad
        predicted = w_hat - eta * eta_hat * tangent  # lr / |w|² = eta * eta_hat
        errors.append(float(host(_lengths(after / _lengths(after) - predicted)).max()))
    grown = _dots(w - grad, w - grad)
    norms, angles = [], []
    for scale in SCALES:
        _, g, _ = network.loss_and_gradient(scale * w)
        norms.append(float(host(_lengths(g)).mean()))
        moved = scale * w - 0.1 * g
        cosine = _dots(moved, w) / (_lengths(moved) * _lengths(w))
        angles.append(float(np.arccos(np.minimum(host(cosine), 1.0)).mean()))
    ends = [network.descend(a * w, 0.1 * a * a, 0.01 / (a * a)) / a for a in (1.0, 8.0)]
    return {
        "output_error": float(host(abs(y_a - y)).max()),
        "gradient_error": float(host(abs(A * grad_a - grad)).max() / host(abs(grad)).max()),
        "orthogonality": float(
            host(abs(_dots(w, grad))).max() / host(_lengths(w) * _lengths(grad)).max()
        ),
        "growth_error": float(host(abs(grown - _dots(w, w) - _dots(grad, grad)) / grown).max()),
        "direction_errors": errors,
        "slope": float(np.polyfit(np.log(ETAS[3:]), np.log(errors[3:]), 1)[0]),
        "gradient_norms": norms,
        "angles": angles,
        "bits_differing": int((ends[0] != ends[1]).sum()),
    }


def _dots(a: Any, b: Any) -> Any:
    return (a * b).sum(axis=1, keepdims=True)


def _lengths(w: Any) -> Any:
    return _dots(w, w) ** 0.5


def draw(figure: Any, figures: dict[str, Any]) -> None:
    left, middle, right = figure.subplots(1, 3)
    scales, etas = np.array(figures["scales"]), np.array(figures["etas"])
    for i, (norm, f) in enumerate(figures["norms"].items()):
        style = {"ls": "none", "mfc": "none", "ms": 19 - 2.6 * i}  # they lie on one another: nest
        style |= look(norm)
        gradients, angles = np.array(f["gradient_norms"]), np.array(f["angles"])
        left.loglog(scales, gradients / gradients[2], label=title(norm), **style)
        middle.loglog(etas, f["direction_errors"], **style)
        right.loglog(0.1 / scales**2, angles / angles[2], **style)
    law = {"color": "k", "ls": ":", "lw": 1}
    left.loglog(scales, 1 / scales, label="the law", **law)
    anchor = figures["norms"]["2"]["direction_errors"][-1] / etas[-1] ** 2
    middle.loglog(etas, anchor * etas**2, **law)
    right.loglog(0.1 / scales**2, 1 / scales**2, **law)
    left.set(title="(2) the gradient shrinks as 1/|w|", xlabel="weight norm (relative)")
    left.set_ylabel("gradient norm (relative)")
    middle.set(title="(3) predicts the new direction to O(lr²)", xlabel="lr/|w|² (relative)")
    middle.set_ylabel("error of the predicted direction")
    right.set(title="the angle of a step follows lr/|w|²", xlabel="effective step size lr/|w|²")
    right.set_ylabel("angle turned (relative)")
    for axes in (left, middle, right):
        log_axis(axes.xaxis)
        log_axis(axes.yaxis)
    fixed_ticks(left.xaxis, scales)
    fixed_ticks(left.yaxis, 1 / scales)
    figure.legend(loc="outside lower center", ncols=8)


CLAIM = Claim(
    "scale-invariance",
    "With normalization only the direction of a weight matters; lr/|w|² is its step size.",
    measure,
    draw,
)
