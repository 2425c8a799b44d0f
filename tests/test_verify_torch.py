"""The judge on torch modules, their running statistics, functions of tensors, and JAX functions."""

import functools
import math

import pytest

import lpnorm
from lpnorm import verify

torch = pytest.importorskip("torch")
C1 = math.sqrt(math.pi / 2)


def c_inf(n):
    return (1 + math.sqrt(math.pi * math.log(4))) / 2 / math.sqrt(2 * math.log(n))


class BatchNorm(torch.nn.Module):
    """L1, L-infinity or Top-k batch norm by autograd; the keywords change its conventions."""

    def __init__(self, channels, p=1, eps=1e-5, momentum=0.1, holds="scale", **mistakes):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(channels))
        self.bias = torch.nn.Parameter(torch.zeros(channels))
        self.p, self.eps, self.momentum, self.holds = p, eps, momentum, holds
        self.mistakes = mistakes
        self.register_buffer("running_mean", torch.zeros(channels))
        start = torch.zeros if mistakes.get("from_zero") else torch.ones
        self.register_buffer("running_scale", start(channels))

    def forward(self, x):
        axes = [0, *range(2, x.ndim)]
        wide = [1, -1, *[1] * (x.ndim - 2)]
        training = self.training or self.mistakes.get("batch_in_evaluation")
        if not training:
            r = self.running_scale
            decode = {
                "scale": lambda: r,
                "reciprocal": lambda: 1 / r,
                "variance": lambda: torch.sqrt(r) + self.eps,
            }
            scale = r if self.mistakes.get("misread") else decode[self.holds]()
            return self._y(x - self.running_mean.view(wide), scale, wide)
        mean = x.mean(axes)
        d = x - mean.view(wide)
        size, n = d.abs(), x.numel() // x.shape[1]
        if self.p == 1:
            plain = C1 * size.mean(axes)
        elif self.p == math.inf:
            plain = c_inf(n) * size.amax(axes)
        else:
            rows = size.transpose(0, 1).flatten(1)
            plain = c_inf(n) * rows.topk(self.p.k, 1).values.mean(1)
        scale = plain + self.eps
        if self.training or self.mistakes.get("updates_in_evaluation"):
            self._update(mean.detach(), plain.detach())
        return self._y(d, scale, wide)

    def _update(self, mean, plain):
        held = {
            "scale": plain + self.eps,
            "reciprocal": 1 / (plain + self.eps),
            "variance": plain**2,
        }[self.holds]
        new = 1 - self.momentum if self.mistakes.get("reversed") else self.momentum
        self.running_mean.mul_(1 - new).add_(new * mean)
        if self.mistakes.get("scale_reversed"):
            new = 1 - new
        if not self.mistakes.get("scale_forgotten"):
            self.running_scale.mul_(1 - new).add_(new * held)

    def _y(self, d, scale, wide):
        return self.weight.view(wide) * d / scale.view(wide) + self.bias.view(wide)


NORMS = [1, math.inf, lpnorm.TopK(3)]


def make(**settings):
    return lambda channels: BatchNorm(channels, **settings)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_batch_norm(rank):
    module = getattr(torch.nn, f"BatchNorm{rank}d")
    for candidate in (module, module(5), functools.partial(module, eps=1e-3, momentum=0.3)):
        report = verify.check(candidate, p=2)
        assert report.verdict == (
            "correct under these conventions: running_var holds the unbiased variance"
        ), report
    for settings in ({"momentum": None}, {"affine": False}, {"track_running_stats": False}):
        report = verify.check(functools.partial(module, **settings), p=2)
        assert report.ok, report


def test_torch_layer_norm():
    for candidate in (torch.nn.LayerNorm, torch.nn.LayerNorm(7)):
        assert verify.check(candidate, "layer_norm", p=2).ok


@pytest.mark.parametrize("p", NORMS, ids=str)
def test_modules_in_other_norms(p):
    report = verify.check(make(p=p), p=p, dtype=("float64", "float32"))
    assert report.ok, report
    assert not [words for words in report.conventions if "tied" not in words], report


def test_the_layer_of_the_papers_authors():
    """PAPER.md section 6: each departure is named."""
    candidate = make(holds="reciprocal", reversed=True, from_zero=True)
    report = verify.check(candidate, dtype=("float64", "float32"))
    assert report.ok, report
    said = " ".join(report.conventions)
    for words in ("share of the old value", "reciprocal of the scale", "starts at 0"):
        assert words in said, report
    report = verify.check(make(eps=0.0))
    assert report.ok and "there is no eps" in report.verdict, report
    report = verify.check(candidate, momentum="new", running="scale", dtype="float64")
    assert "momentum is reversed" in str(report) and "scale was asked for" in str(report)


@pytest.mark.parametrize(
    ("mistakes", "words"),
    [
        ({"batch_in_evaluation": True}, "evaluation mode uses the statistics of the batch"),
        ({"scale_forgotten": True}, "is never updated in training"),
        ({"scale_reversed": True}, "use momentum in different ways"),
        ({"holds": "reciprocal", "misread": True}, "divides by running_scale itself"),
        ({"updates_in_evaluation": True, "batch_in_evaluation": True}, "evaluation changes"),
    ],
)
def test_mistakes_of_the_modes(mistakes, words):
    report = verify.check(make(**mistakes), dtype="float64")
    assert not report.ok and any(words in d for d in report.diagnoses), report


def l1(x, gamma, beta, eps):
    d = x - x.mean(0)
    return gamma * d / (C1 * d.abs().mean(0) + eps) + beta


def test_functions_of_tensors():
    assert verify.check(l1, backend="torch").ok
    assert verify.check(l1).ok  # names no library; torch is loaded
    report = verify.check(lambda x, gamma, beta, eps: l1(x.detach(), gamma, beta, eps) + 0 * x)
    assert not report.ok, report


def jax_batch_norm(p):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def forward(x, gamma, beta, eps):
        d = x - x.mean(0)
        if p == 2:
            s = jnp.sqrt(x.var(0) + eps)
        elif p == 1:
            s = C1 * jnp.abs(d).mean(0) + eps
        elif p == math.inf:
            s = c_inf(len(x)) * jnp.abs(d).max(0) + eps
        else:
            s = c_inf(len(x)) * jax.lax.top_k(jnp.abs(d).T, p.k)[0].mean(1) + eps
        return gamma * d / s + beta

    return forward


@pytest.mark.slow
@pytest.mark.parametrize("p", [2, *NORMS], ids=str)
def test_jax_functions(p):
    report = verify.check(jax_batch_norm(p), p=p)
    assert report.ok, report


def test_a_right_and_a_wrong_jax_function():
    """In one dtype and with two axes: JAX compiles every shape anew."""
    asked = {"p": 1, "dtype": "float32", "ndim": 2}
    report = verify.check(jax_batch_norm(1), **asked)
    assert report.ok, report
    report = verify.check(jax_batch_norm(2), first_failure=True, **asked)
    assert report.verdict == "wrong", report
