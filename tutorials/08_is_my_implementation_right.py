# %% [markdown]
# # Is my implementation right?
#
# You have written a batch norm. Its outputs look plausible, the network trains, the gradient check passes. Is it right? In this notebook you plant mistakes in a
# correct layer and see which of the usual tests notice. Then you hand the layer to a judge, `lpnorm check`, learn to read what it says, and do the same for a layer in PyTorch.
#
# The layer is L1 batch norm, equation (5) of Hoffer, Banner, Golan, Soudry, ["Norm matters"](https://arxiv.org/abs/1803.01814) (NeurIPS 2018). The judge knows batch and layer norm in any norm, and also weight norms and SGD.
#
# **For whom.** You have read tutorial 02 (one backward pass for every norm), or you have an implementation of your own and want to know. Section 7 is for people who use PyTorch; nothing else needs it.
#
# **How long.** About 50 minutes of reading; the cells run in less than a minute.
#
# Equations with a plain number are the paper's; those with two, such as (8.1), belong to this notebook. A line of code that computes an equation carries its number.

# %%
# # %pip install -q "..[tutorials]"

import inspect
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: threads would only wait

import exercises
import figures
import numpy as np
import pictures

import lpnorm
from lpnorm import data, decay, models, nn, training, verify

try:
    import torch
except ImportError:
    torch = None

pictures.style()

# %% [markdown]
# ## 1. The layer in the dock
#
# Here it is, as somebody might have written it after tutorial 02. For each channel, over its $n$ values:
#
# $$ d_i = x_i - \operatorname{mean}(x), \tag{8.1} $$
#
# $$ s = C_1\operatorname{mean}\lvert d\rvert + \varepsilon, \qquad C_1 = \sqrt{\pi/2}, \tag{5} $$
#
# $$ \hat x_i = d_i/s, \qquad y_i = \gamma\,\hat x_i + \beta. \tag{8.2} $$
#
# And backward, with $g = \gamma\,dy$ and the gradient of the scale $h_i = \partial s/\partial d_i$:
#
# $$ h_i = \frac{C_1}{n}\operatorname{sign}(d_i), \tag{8.3} $$
#
# $$ T = \sum_i g_i\hat x_i, \tag{8.4} $$
#
# $$ dx_i = \frac{g_i - \operatorname{mean}(g) - T\,(h_i - \operatorname{mean}(h))}{s}. \tag{8.5} $$

# %%
C1 = math.sqrt(math.pi / 2)


def forward(x, gamma, beta, eps):
    """L1 batch norm of (N, C) or (N, C, ...): y, and what the backward needs."""
    axes = (0, *range(2, x.ndim))  # all but the channels
    n = math.prod(x.shape[axis] for axis in axes)
    one_a_channel = (1, -1) + (1,) * (x.ndim - 2)
    gamma, beta = gamma.reshape(one_a_channel), beta.reshape(one_a_channel)
    d = x - x.mean(axis=axes, keepdims=True)  # (8.1)
    s = C1 * abs(d).mean(axis=axes, keepdims=True) + eps  # (5)
    x_hat = d / s  # (8.2)
    return gamma * x_hat + beta, (axes, n, gamma, d, s, x_hat)


def backward(dy, cache):
    """dx, dgamma, dbeta."""
    axes, n, gamma, d, s, x_hat = cache
    mean = lambda a: a.mean(axis=axes, keepdims=True)  # noqa: E731
    g = gamma * dy
    h = C1 / n * np.sign(d)  # (8.3)
    T = (g * x_hat).sum(axis=axes, keepdims=True)  # (8.4)
    dx = (g - mean(g) - T * (h - mean(h))) / s  # (8.5)
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


# %% [markdown]
# Now the mistakes. Each is one replacement in the text of these two functions, so you can read off what is wrong; `plant` makes the replacement and gives the two functions back. Such mistakes are not made up for the occasion: every one of them is easy to make.

# %%
HEADER = "import math\n\nimport numpy as np\n\nC1 = math.sqrt(math.pi / 2)\n\n\n"
RIGHT = HEADER + inspect.getsource(forward) + "\n\n" + inspect.getsource(backward)


def plant(old, new, text=RIGHT):
    """(forward, backward) with one piece of their text replaced."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    names = {}
    exec(text.replace(old, new), names)
    return names["forward"], names["backward"]


PLANTED = {
    "mean(g) forgotten": ("g - mean(g) - T", "g - T"),
    "mean(h) forgotten": ("T * (h - mean(h))", "T * h"),
    "scale taken as constant": (" - T * (h - mean(h))", ""),
    "gamma forgotten in T": ("T = (g * x_hat)", "T = (dy * x_hat)"),
    "C forgotten in h": ("h = C1 / n", "h = 1 / n"),
    "h with the wrong sign": ("- T *", "+ T *"),
    "eps forgotten": ("keepdims=True) + eps", "keepdims=True)"),
    "dbeta a mean": ("dy.sum(axis=axes)\n", "dy.mean(axis=axes)\n"),
    "x centred in place": (
        "d = x - x.mean(axis=axes, keepdims=True)",
        "x -= x.mean(axis=axes, keepdims=True); d = x",
    ),
    "sign(0) = 1": ("np.sign(d)", "np.where(d >= 0, 1.0, -1.0)"),
}
for name, (old, new) in PLANTED.items():
    plant(old, new)
    print(f"{name:26s} {old!r:28} -> {new!r}")

# %% [markdown]
# ## 2. Tests that a wrong layer passes
#
# **"It trains."** Take the mistake *scale taken as constant*: the whole term with $T$ is missing from $dx$. That is half of what makes the backward pass of batch norm what it is. Put it behind three convolutions and train on the digits. What do you expect?

# %%
planted_forward, planted_backward = plant(*PLANTED["scale taken as constant"])


def planted_batch_norm(x, gamma, beta, axis, p, eps, constant, accumulate):
    """The library's forward; the cache of ours, for the backward."""
    y, cache = lpnorm.batch_norm(x, gamma, beta, p, axis, eps, constant, accumulate)
    _, mine = planted_forward(x, gamma, beta, eps)
    return y, SimpleNamespace(mean=cache.mean, scale=cache.scale, mine=mine)


WRONG = SimpleNamespace(
    batch_norm=planted_batch_norm,
    batch_norm_backward=lambda dy, cache: planted_backward(dy, cache.mine),
    batch_norm_inference=lpnorm.batch_norm_inference,
)


def trained(implementation, seed):
    layer = lambda channels: nn.BatchNorm(channels, p=1, impl=implementation)  # noqa: E731
    model = models.digits_net(layer, rng=np.random.default_rng(seed))
    sgd = decay.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    history = training.train(model, data.digits(), sgd, epochs=5, seed=seed, progress=False)
    return 100 * np.array(history.test_accuracy)


curves = {
    name: [trained(impl, seed) for seed in (0, 1, 2)]
    for name, impl in (("right", None), ("wrong", WRONG))
}
# figures of trainings: they depend a little on the machine
for name, runs in curves.items():
    print(f"{name}: test accuracy after 5 epochs " + "  ".join(f"{run[-1]:.1f} %" for run in runs))

# %% [markdown]
# **"The gradient check passes."** It depends on the gradient that comes in. Three choices are popular: a loss that is the sum of the outputs ($dy = 1$); for a norm $p$, the sum of $\lvert y\rvert^p$ (for L1, $dy = \operatorname{sign} y$); random numbers. We compare some backward passes with finite differences under each. One of the candidates is a joke: it
# returns zeros.

# %%
rng = np.random.default_rng(0)
x, v = rng.standard_normal((2, 16, 1))  # one channel of 16 values, and a direction
gamma, beta = np.ones(1), np.zeros(1)
upstream = {
    "dy = 1": np.ones_like(x),
    "dy = sign(y)": np.sign(forward(x, gamma, beta, 0.0)[0]),
    "dy random": rng.standard_normal(x.shape),
}
zeros = (forward, lambda dy, cache: (np.zeros_like(dy), None, None))
CANDIDATES = {"right": (forward, backward), "returns zeros": zeros}
for name in ("mean(h) forgotten", "C forgotten in h", "scale taken as constant"):
    CANDIDATES[name] = plant(*PLANTED[name])


def derivative(function, dy, step=1e-6):
    """Of sum(dy y) in the direction v, by central differences."""
    up, down = (function(x + a * v, gamma, beta, 0.0)[0] for a in (step, -step))
    return ((up - down) * dy).sum() / (2 * step)


found = {}
print("derivative in one direction: by differences / by the backward pass")
for name, (f, b) in CANDIDATES.items():
    row = []
    for which, dy in upstream.items():
        by_hand = (b(dy, f(x, gamma, beta, 0.0)[1])[0] * v).sum()
        numerical = derivative(f, dy)
        found[name, which] = abs(by_hand - numerical)
        row.append(
            f"{numerical + 0.0:7.4f} / {by_hand + 0.0:7.4f} "
            + ("passes" if found[name, which] < 1e-6 else "FAILS ")
        )
    print(f"{name:24s} " + "   ".join(row))

# %%
figures.figure_08_1(CANDIDATES, curves, found, upstream)

# %% [markdown]
# **Figure 1.** *Left: three seeds each. One of the wrong ones starts late; at the end nothing tells them apart. Right: the gradient check. With $dy = 1$ every candidate passes, the one that returns zeros included: adding the outputs of a batch norm gives a constant. $\sum\lvert y\rvert$ is constant too, under L1, and
# zeros pass again. Only the random $dy$ finds all four.*
#
# So a useful test needs a random upstream gradient, a $\gamma$ that is not 1 and a $\beta$ that is not 0, more than one channel, several shapes, an $\varepsilon$ large enough to see, zeros and ties in the data, constant channels, magnitudes far from 1, float16. Once you have all that, the next question is the
# error bound. An error of 1e-6 is a mistake in float64, and for float32 it may be as good as it gets. Writing this down once is what the judge is for.

# %% [markdown]
# ## 3. The judge
#
# `lpnorm.verify.check` takes the pair of functions and says what it found.

# %%
report = verify.check((forward, backward), p=1)
print("ok:     ", report.ok)
print("verdict:", report.verdict)
print("checks: ", len(report.checks), "of which failed:", len(report.failures))

# %% [markdown]
# There are five verdicts.
#
# | verdict | means | `report.ok` | exit status of `lpnorm check` |
# | --- | --- | --- | --- |
# | correct | every check passed, in the library's conventions | yes | 0 |
# | correct under these conventions: ... | every check passed, and somewhere a choice was made that others make differently | yes | 0 |
# | correct, with limits: ... | the values are right, but not everywhere, or they come in another way than a user would expect: `report.limits` says how | yes (with `strict=True` no) | 0 (with `--strict` 1) |
# | wrong | a check failed | no | 1 |
# | could not run | it raised, returned no arrays, or took none of the shapes | no | 2 |
#
# Ours is correct under a convention: for float16 input NumPy's `mean` rounds its result to float16, and so does everything after it here. The library keeps means and sums in float32. That is a choice you should know about (tutorial 06 says what it costs), not a mistake.
#
# What has been tried? Every check has a name, a reason, and what came out. Here are all of them, without the dtype in the name:


# %%
def short(check):
    """The name of a check without the dtype."""
    name, _, dtype = check.check.rpartition(", ")
    return name if dtype.startswith("float") else check.check


def outcome(report):
    """Each check's name and whether it passed in every dtype."""
    found = {}
    for check in report.checks:
        found[short(check)] = found.get(short(check), True) and check.status != "failed"
    return found


reasons = {}
for check in report.checks:
    reasons.setdefault(short(check), check.tried)
for name, reason in reasons.items():
    print(f"{name:30s} {reason if len(reason) < 100 else reason[:97] + '...'}")

# %% [markdown]
# ## 4. Reading a report
#
# Now the layer in which $\operatorname{mean}(g)$ was forgotten. `print(report)` shows it all, in 80 columns. Read it from the top; the text below goes through it.

# %%
report = verify.check(plant(*PLANTED["mean(g) forgotten"]), p=1)
# figures at the level of rounding: they depend a little on the machine
print(report)

# %% [markdown]
# - **Verdict**, and under it the diagnoses, what is wrong with the forward first, then the most frequent. The judge has a catalogue of mistakes: the right formulas with a line replaced. Where one of them reproduces the candidate's numbers, it is named. The first line here names ours.
# - **WRONG**, for each check that failed. *tried*: what was done and why. *found*: how far off. The error is given in units of its *bound* (how far rounding alone could have taken a correct layer; 1 is the limit) and of *ulps* (steps of the last bit). An error of $10^{12}$ bounds is no rounding. *means*: the diagnosis. *right*: the line of mathematics
#   as it should read; compare it with yours.
# - *also wrong in* lists the other checks that failed with the same diagnosis. Do not count them: it is one mistake seen from many sides.
# - Some of them need no reference. *Taylor remainder* uses your forward pass only, *sum of dx* a law: $y$ does not change when a constant is added to $x$, so $\sum_i dx_i = 0$. If they fail, no convention can be the excuse.
# - **What passed** helps as much. Here $\langle dx, d\rangle$ holds, the law for the term through the *scale*; so that term is right, and the fault is with the mean.
#
# The Taylor remainder deserves a picture. Let $f(x) = \sum dy\,y$. If $dx$ is its derivative, then
#
# $$ R(t) = \big\lvert f(x + t\,v) - f(x) - t\,\langle dx, v\rangle\big\rvert = O(t^2), \tag{8.6} $$
#
# and if it is not, $R(t) = O(t)$. No tolerance is needed, only the slope.

# %%
dy = upstream["dy random"]
steps = 2.0 ** -np.arange(2, 24)


def remainder(pair, t):
    """R(t) of a (forward, backward)."""
    f, b = pair
    y, cache = f(x, gamma, beta, 1e-5)
    moved, _ = f(x + t * v, gamma, beta, 1e-5)
    return abs(((moved - y) * dy).sum() - t * (b(dy, cache)[0] * v).sum())  # (8.6)


figures.figure_08_2(PLANTED, backward, forward, plant, remainder, steps)

# %% [markdown]
# **Figure 2.** *The remainder of a right and two wrong gradients. The right one falls with $t^2$ down to the level of rounding; the wrong ones with $t$ as soon as that is the larger part. The judge measures the slope.*

# %% [markdown]
# ## 5. Which check sees what
#
# Now all ten mistakes. Before you run the cell: which of them will be seen by nearly every check, and which by one or two? Is any of them not a mistake?

# %%
reports = {"none": verify.check((forward, backward), p=1)}
for name, (old, new) in PLANTED.items():
    reports[name] = verify.check(plant(old, new), p=1)
for name, report in reports.items():
    first = report.diagnoses[0] if report.diagnoses else report.verdict
    print(
        f"{name:26s} {'ok   ' if report.ok else 'WRONG'}  {first if len(first) < 110 else first[:107] + '...'}"
    )

# %%
names = list(dict.fromkeys(name for report in reports.values() for name in outcome(report)))
grid = np.array(
    [[outcome(report).get(name, True) for name in names] for report in reports.values()]
)
figures.figure_08_3(grid, names, reports)

# %% [markdown]
# **Figure 3.** *Rows: planted mistakes. Columns: checks (in all dtypes together). Red: the check fails.*
#
# A diagnosis is the entry of the catalogue that gives the candidate's numbers, alone or with a second one; where none does, it is a number: how often a term is there, by which factor the scale is off. Read it together with *tried* and *found*.
#
# A term that is wrong in $dx$ shows nearly everywhere. Two rows are nearly empty, and such mistakes are the ones that survive in practice. *eps forgotten* shows only where $s$ is hardly larger than $\varepsilon$: so the judge first asks, with deviations as small as that, which $\varepsilon$ a candidate uses, says at once that this one uses none (the column *eps*), and judges the rest by that. *x centred in place* returns the right numbers and destroys the caller's array; only a check that looks for that, or hands over a read-only array, can
# see it. The columns without red wait for other mistakes: channels that are mixed up, a state that is kept between calls, memory that is laid out in another way.
#
# The last row has no red at all. With $\operatorname{sign}(0) = 1$ the result differs only where a $d_i$ is exactly 0, where $\lvert d\rvert$ has no derivative, and 1 is as good a choice as 0 there (any number from $-1$ to 1 is a *subgradient*). So the verdict is *correct under these conventions*.

# %% [markdown]
# ## 6. Conventions
#
# Where people differ without being wrong, the judge recognises what a candidate does, names it, and goes on judging by it. A famous case is where $\varepsilon$ goes: added to $s$, or inside a root as in L2,
#
# $$ s = \sqrt{\phi^2 + \varepsilon}, \qquad \phi = C_1\operatorname{mean}\lvert d\rvert, \qquad h_i = \frac{\partial s}{\partial d_i} = \frac\phi s\cdot\frac{C_1}n\operatorname{sign}(d_i). \tag{8.7} $$
#
# Both the forward and the backward must follow. So we plant two replacements, and then, as a test of the judge, only the first.

# %%
inside = RIGHT.replace(
    "s = C1 * abs(d).mean(axis=axes, keepdims=True) + eps  # (5)",
    "phi = C1 * abs(d).mean(axis=axes, keepdims=True)\n    s = np.sqrt(phi**2 + eps)",
)
half = plant("np.sqrt(phi**2 + eps)", "np.sqrt(phi**2 + eps)", inside)  # the forward only
both = plant(
    "h = C1 / n * np.sign(d)", "h = C1 * mean(abs(d)) / s * C1 / n * np.sign(d)", inside
)  # (8.7)
for name, pair in (("forward and backward", both), ("forward only", half)):
    print(f"{name}:\n    {verify.check(pair, p=1).verdict}")

# %% [markdown]
# What if you need one convention, because your layer has to agree with somebody else's? Then demand it, and what was a convention becomes a failure. `eps` and `constant` can be demanded for every candidate; what `momentum` means and what the running statistics hold, for modules that have them (section 7).

# %%
no_constant = plant("C1 = math.sqrt(math.pi / 2)", "C1 = 1.0")
print("not asked for: ", verify.check(no_constant, p=1).verdict)
report = verify.check(no_constant, p=1, constant="paper")
print("asked for:     ", report.verdict)
for diagnosis in report.diagnoses[:1]:
    print("               ", diagnosis)

# %% [markdown]
# ## 7. PyTorch
#
# In PyTorch you write the forward pass only; autograd does the rest. Can the gradient be wrong then? Yes: autograd differentiates what you wrote, not what you meant. And a layer that collects running statistics has a second way of being wrong, in evaluation mode.

# %%
# needs torch
if torch is None:
    print("torch is not installed: pip install torch")
else:

    class L1BatchNorm(torch.nn.Module):
        def __init__(self, channels, eps=1e-5, momentum=0.1):
            super().__init__()
            self.eps, self.momentum = eps, momentum
            self.weight = torch.nn.Parameter(torch.ones(channels))
            self.bias = torch.nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_scale", torch.ones(channels))

        def statistics(self, x, axes):
            mean = x.mean(axes, keepdim=True)
            return mean, C1 * (x - mean).abs().mean(axes, keepdim=True) + self.eps  # (5)

        def average(self, running, batch):
            running += self.momentum * (batch.flatten() - running)

        def stored_scale(self):
            return self.running_scale

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.ndim - 2)
            if self.training:
                mean, scale = self.statistics(x, (0, *range(2, x.ndim)))
                with torch.no_grad():
                    self.average(self.running_mean, mean)
                    self.average(self.running_scale, scale)
            else:
                mean, scale = self.running_mean.reshape(shape), self.stored_scale().reshape(shape)
            return self.weight.reshape(shape) * (x - mean) / scale + self.bias.reshape(shape)

    class Detached(L1BatchNorm):
        """The statistics are computed without a graph, perhaps to save memory."""

        def statistics(self, x, axes):
            with torch.no_grad():
                return super().statistics(x, axes)

    class KerasMomentum(L1BatchNorm):
        """momentum is the share of the OLD value that is kept."""

        def average(self, running, batch):
            running += (1 - self.momentum) * (batch.flatten() - running)

    class RootInEvaluation(L1BatchNorm):
        """Evaluation mode copied from an L2 layer, which stores a variance."""

        def stored_scale(self):
            return (self.running_scale + self.eps).sqrt()

    for module in (L1BatchNorm, Detached, RootInEvaluation):
        report = verify.check(module, p=1)
        print(f"{module.__name__}: {report.verdict}")
        for diagnosis in report.diagnoses:
            print(f"    - {diagnosis}")

# %% [markdown]
# A class is built by the judge for as many channels as it likes; a module that exists already works too, and so does a function of tensors or a `torch.autograd.Function` with a backward of its own.
#
# Look at *Detached*: every training with it would run, and its output is right to the last bit. *RootInEvaluation* is right in training mode, forward and backward; only evaluation is wrong. The judge watches the running statistics over several batches, finds out what they hold, and then tries every way in which evaluation might turn them into a scale.
#
# The third kind of disagreement is about momentum. In PyTorch it is the share of the new batch (0.1), in Keras the share of the old value that is kept (0.99):

# %%
# needs torch
if torch is None:
    print("torch is not installed: pip install torch")
else:
    for momentum in (None, "new"):
        report = verify.check(
            lambda channels: KerasMomentum(channels, momentum=0.9), p=1, momentum=momentum
        )
        print(f"momentum={momentum!r}: {report.verdict}")
        for diagnosis in report.diagnoses:
            print(f"    - {diagnosis}")
    report = verify.check(torch.nn.BatchNorm2d, p=2)
    print(f"torch.nn.BatchNorm2d, p = 2: {report.verdict}")
    report = verify.check(torch.nn.BatchNorm2d, p=1)
    print(f"torch.nn.BatchNorm2d, p = 1: {report.verdict}")
    print(f"    - {report.diagnoses[0]}")

# %% [markdown]
# PyTorch's own batch norm is correct, under one convention: its running variance is the unbiased one (divided by $n - 1$) though it normalizes with the biased one. Asked for L1, it is recognised as L2.

# %% [markdown]
# ## 8. On the command line, and in your tests
#
# `lpnorm check FILE:forward,backward` does the same for a file, in a process of its own: a candidate may hang, crash or print, and the judge survives. A file can hold a pair of functions, a module class, or just functions named `forward` and `backward`. We write three files and look at the first lines and at the exit status.

# %%
FILES = {
    "right.py": RIGHT,
    "wrong.py": RIGHT.replace(*PLANTED["C forgotten in h"]),
    "hangs.py": RIGHT.replace("    g = gamma * dy", "    while True:\n        pass"),
}


def command(*arguments):
    """Run `lpnorm check` in a folder with the files; shows the first lines it prints."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        line = [sys.executable, "-m", "lpnorm.cli", "check", *arguments]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, encoding="utf-8")
        written = Path(folder, "report.json")
        result = json.loads(written.read_text(encoding="utf-8")) if written.exists() else None
    print("$ lpnorm check", *arguments)
    print("\n".join((done.stdout + done.stderr).splitlines()[:5]))
    print(f"exit status {done.returncode}\n")
    return result


command("right.py:forward,backward", "--p", "1")
command("wrong.py:forward,backward", "--p", "1", "--dtype", "float64", "--json", "report.json")
command("hangs.py:forward,backward", "--timeout", "5")
_ = command("nowhere.py:forward,backward")

# %% [markdown]
# (Here the first five lines of each.) The exit status makes it a line of a build script; `--json FILE` writes the same report for programs. In a test suite use `assert_correct`, whose message is the whole report:


# %%
def test_my_batch_norm():
    verify.assert_correct((forward, backward), p=1)


test_my_batch_norm()
try:
    verify.assert_correct(plant(*PLANTED["dbeta a mean"]), p=1)
except AssertionError as error:
    # figures at the level of rounding: they depend a little on the machine
    print("\n".join(str(error).splitlines()[:16]))

# %% [markdown]
# ## 9. Plant your own
#
# A judge should be judged. What is the smallest mistake it notices? Here we multiply $dx$ by $1 + \delta$ and look at float64 and float32 apart.

# %%
print("dx times 1 + delta     float64    float32")
for power in (-3, -5, -7, -9, -11, -13, -15):
    candidate = plant("return dx,", f"return dx * (1 + 1e{power}),")
    seen = [
        "-" if verify.check(candidate, p=1, dtype=t).ok else "seen" for t in ("float64", "float32")
    ]
    print(f"delta = 1e{power:<13d} {seen[0]:10s} {seen[1]}")

# %% [markdown]
# That is how close the bounds are to rounding itself. What lies below them no test can tell from an honest rounding error.
#
# Move through the mistakes:


# %%
def show_mistake(name):
    report = reports[name]
    failed = [check for check, passed in outcome(report).items() if not passed]
    lines = [f"{name}: {report.verdict}", *("    " + words for words in report.diagnoses)]
    lines.append(f"{len(failed)} of {len(names)} kinds of check failed: " + ", ".join(failed))
    return "\n".join(lines)


pictures.frames(show_mistake, {"name": next(iter(reports))}, name=list(reports))

# %% [markdown]
# ## What you have now
#
# - Training is no test of a gradient, and a gradient check with $dy = 1$ is none for a normalizer. Take a random upstream gradient.
# - `verify.check(candidate, p=...)` in Python, `lpnorm check FILE:NAME` on the command line, `verify.assert_correct` in a test.
# - Verdict, diagnoses, *tried / found / means / right*, what passed: read them in that order.
# - A convention is not a mistake; demand it if you need it.
# - Autograd does not protect you from `no_grad`, from momentum the wrong way round, or from evaluation mode.
#
# This is the last of the notebooks along *your own implementation*. If you have skipped some, [06](06_float16_bit_by_bit.ipynb) explains the float16 remarks of the reports.
#
# ## Exercises
#
# Each has a cell for your answer and a line that checks it (`exercises.py`). Hints are folded away.
#
# ### Exercise 1
#
# Plant a mistake that the judge does not see: `plant(old, new)` with a verdict of *correct*, although the layer is wrong for some input. (What does the judge not vary? Sizes? The order of calls?) Give the pair and an x for which its output is wrong, of shape $(N, C)$ or with more axes.
#
# <details><summary>Hint</summary>
#
# The judge tries some sizes, and not others.
#
# </details>


# %%
unseen, x_where_it_is_wrong = None, None  # your answers: (forward, backward) and an array
print(exercises.check_08_1(None if unseen is None else (unseen, x_where_it_is_wrong)))

# %% [markdown]
# ### Exercise 2
#
# Write L∞ batch norm, forward and backward (tutorial 02, section 2, has the gradient; tutorial 05, section 2, the ties): $s = C_\infty(n)\max\lvert d\rvert + \varepsilon$ with `lpnorm.gaussian_constant(math.inf, n)`. Give the whole gradient to the *first* of several tied values, as `argmax` does. Which verdict do you get, and do you agree with it? Then give each of the tied values the *full*
# gradient.
#
# <details><summary>Hint</summary>
#
# `argmax` along the rows of a channel, `np.put_along_axis` for $h$.
#
# </details>


# %%
linf_pair = None  # your answer: (forward, backward)
print(exercises.check_08_2(linf_pair))

# %% [markdown]
# ### Exercise 3
#
# Two mistakes at once: plant two of the list, in places of your choice, into one pair (`plant(old, new, text)` takes a text that has one already). Does the judge name both? With how many at once does it lose the thread, and why does it matter whether they change one output or several ($y$, $dx$, $d\gamma$, $d\beta$)?
#
# <details><summary>Hint</summary>
#
# `RIGHT.replace(old, new)` is a text with one mistake.
#
# </details>


# %%
two_mistakes = None  # your answer: (forward, backward)
print(exercises.check_08_3(two_mistakes))
