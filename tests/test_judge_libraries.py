"""Layers and optimizers of other libraries, as the README's table says to write them.

What is not installed is skipped. Haiku, Equinox and timm were tried by hand (dm-haiku 0.0.17,
Equinox 0.13.8, timm 1.0.31): CI does not install them.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

import lpnorm
from lpnorm.verify import check

os.environ.setdefault("KERAS_BACKEND", "jax")
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TABLE = README[README.index("| Yours | Write |") : README.index("- **What is judged**")]
WRITTEN = [code for code in re.findall(r"`(check\(.*?\))`", TABLE) if "." in code]
PARTS = {
    "flax": ("linen", "nnx"),
    "torch": (),
    "haiku": (),
    "equinox": (),
    "keras": (),
    "optax": (),
}
FAST = ("lpnorm.", "torch.", "optax.")

# the libraries' own warnings, about themselves
pytestmark = pytest.mark.filterwarnings("default")


def names_in(code):
    """The libraries that the code names, imported; skips where one is missing."""
    found = {"check": check, "lpnorm": lpnorm}
    for name, parts in PARTS.items():
        if f"{name}." in code:
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"{name} is not installed")
            found[name] = importlib.import_module(name)
            for part in parts:
                importlib.import_module(f"{name}.{part}")
    return found


def test_the_table_has_a_row_for_each():
    for name in (*PARTS, "lpnorm.nn"):
        assert any(f"{name}." in code for code in WRITTEN), name


def row(code):
    quick = code.removeprefix("check(").removeprefix("lambda parameters: ").startswith(FAST)
    return pytest.param(code, id=code[6:46], marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("code", [row(code) for code in WRITTEN])
def test_what_the_table_says_is_correct(code):
    report = eval(code, names_in(code))
    assert report.ok, str(report)
    if "batch_norm" in report.layer:
        assert len(report.taken) == 2 and any("evaluation" in c.check for c in report.checks), code


# --- layers with state in NumPy ------------------------------------------------------------------


class Norm:
    """A course's layer: parameters, statistics and gradients are attributes."""

    share, root, switch = 0.1, True, True

    def __init__(self, channels):
        self.gamma, self.beta = np.ones(channels), np.zeros(channels)
        self.running_mean, self.running_var = np.zeros(channels), np.ones(channels)
        self.training = True

    def forward(self, x):
        mean, var = x.mean(0), x.var(0)
        if self.training:
            self.running_mean = (1 - self.share) * self.running_mean + self.share * mean
            self.running_var = (1 - self.share) * self.running_var + self.share * var
        elif self.switch:
            mean, var = self.running_mean, self.running_var
        self.s = np.sqrt(var + 1e-5) if self.root or self.training else var + 1e-5
        self.x_hat = (x - mean) / self.s
        return self.gamma * self.x_hat + self.beta

    def backward(self, dy):
        g = self.gamma * dy
        self.dgamma, self.dbeta = (dy * self.x_hat).sum(0), dy.sum(0)
        if not self.training:
            return g / self.s
        return (g - g.mean(0) - self.x_hat * (g * self.x_hat).mean(0)) / self.s


class ByArgument(Norm):
    """The same, with parameters in a dict, and told by an argument."""

    def __init__(self, channels):
        super().__init__(channels)
        self.params = {"gamma": self.gamma, "beta": self.beta}
        del self.gamma, self.beta

    def forward(self, x, train=True):
        self.gamma, self.beta, self.training = *self.params.values(), train
        y = super().forward(x)
        del self.gamma, self.beta
        return y

    def backward(self, dy):
        self.gamma = self.params["gamma"]
        dx = super().backward(dy)
        del self.gamma
        return dx, self.dgamma, self.dbeta


NUMPY = {"p": 2, "ndim": 2, "dtype": "float64"}


@pytest.mark.parametrize(
    "candidate",
    [Norm, ByArgument, Norm(3), lambda c: Norm(c)],
    ids=["class", "told by an argument", "object", "factory"],
)
def test_a_numpy_layer_with_state(candidate):
    report = check(candidate, **NUMPY)
    assert report.ok, str(report)
    assert [c.status for c in report.checks if c.check == "evaluation mode"] == ["passed"]
    assert [c.status for c in report.checks if c.check == "gradient in evaluation"] == ["passed"]
    assert any("new share 0.1" in words for words in report.conventions), report.verdict


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root": False}, "divides by running_var + eps, which is not what it holds"),
        ({"switch": False}, "evaluation mode uses the statistics of the batch"),
        ({"share": 1.0}, "is not averaged: it holds the last batch's mean"),
        ({"share": 0.0}, "is never updated in training"),
    ],
)
def test_a_numpy_layer_that_is_wrong_in_evaluation(change, words):
    report = check(type("Changed", (Norm,), change), **NUMPY)
    assert report.verdict == "wrong" and any(words in d for d in report.diagnoses), str(report)


def test_the_eps_of_evaluation_is_measured():
    class Twice(Norm):
        def forward(self, x):
            y = super().forward(x)
            if self.training:
                return y
            s = np.sqrt(self.running_var + 2e-3)
            return self.gamma * (x - self.running_mean) / s + self.beta

    (words,) = check(Twice, **NUMPY).diagnoses
    assert words == "evaluation mode divides with eps = 0.002 inside the root; eps is 1e-05"


@pytest.mark.parametrize("p", [1, math.inf])
def test_the_library_s_own_layers(p):
    report = check(lambda c: lpnorm.nn.BatchNorm(c, p=p), p=p)
    assert report.verdict == "correct", str(report)


def test_a_fixed_rate_is_not_tried():
    optax = pytest.importorskip("optax")
    report = check(optax.sgd(0.1, momentum=0.9), layer="sgd", lr=0.1, momentum=0.9)
    skipped = {c.check: c.detail for c in report.checks if c.status == "skipped"}
    assert "inject_hyperparams" in skipped["the learning rate changes, float64"]
    wrong = check(optax.sgd(0.1, momentum=0.9), layer="sgd", lr=0.1, momentum=0.8)
    assert wrong.verdict == "wrong"


def test_any_dim_of_torch_s_weight_norm():
    torch = pytest.importorskip("torch")
    parametrized = torch.nn.utils.parametrizations.weight_norm
    for dim, axis in ((0, 0), (1, 1), (None, ())):
        module = parametrized(torch.nn.Linear(5, 4), dim=dim)
        assert check(module, layer="weight_norm", p=2, axis=axis).ok
        other = check(module, layer="weight_norm", p=2, axis=1 if axis == 0 else 0)
        assert f"axis={axis} asks for that" in other.diagnoses[0]
