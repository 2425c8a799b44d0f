# %% [markdown]
# # Weight decay, learning rate and norm are one knob
#
# Weight decay pulls every weight toward zero, to keep the function of a network simple. That is what textbooks say. But behind a
# normalizer the length of a weight has no influence on the function (tutorial 03). So what does weight decay do there? It works: the paper reports
# 90.6 % with it and 89.3 % without on CIFAR-10. This notebook takes decay apart, replaces it by a step size, by a growing
# learning rate and by an imposed norm, and ends with an honest look at what of this shows on a small problem.
#
# The paper is Hoffer, Banner, Golan, Soudry, ["Norm matters"](https://arxiv.org/abs/1803.01814) (NeurIPS 2018); this is its section on
# weight decay, equation (4).
#
# **For whom.** You have read tutorial 03, or know that the direction of a scale-invariant weight moves with the effective step size
# $\eta/\lVert w\rVert^2$.
#
# **How long.** About 35 minutes of reading; the cells run in under a minute.
#
# Equations with a plain number are the paper's; those with two, such as (4.1), belong to this notebook. A line of code that computes an equation carries its number.

# %%
# # %pip install -q "..[tutorials]"

import math
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: threads would only wait

import exercises
import figures
import matplotlib.pyplot as plt
import numpy as np
import pictures

from lpnorm import nn
from lpnorm.decay import SGD, GrowingSchedule, NormSchedule, NormTrace, StepSizeCorrection
from lpnorm.experiments.equilibrium import predicted
from lpnorm.experiments.pictures import BLUE
from lpnorm.experiments.scale_invariance import Network
from lpnorm.experiments.weight_decay import Study

pictures.style()

# %% [markdown]
# ## 1. What decay cannot do, and what it does
#
# One step of SGD with learning rate $\eta$ and weight decay $\lambda$ is
#
# $$ w_+ = (1 - \eta\lambda)\,w - \eta\,\nabla L(w). \tag{4.1} $$
#
# The first term only shortens. Behind a normalizer $L\big((1-\eta\lambda)w\big) = L(w)$: decay by itself does not change the function at all. See for yourself, on
# the network of tutorial 03 (256 digits, linear, batch norm, ReLU, linear):

# %%
network = Network("2", seed=0, device="cpu")
w = network.start
for shrunk in (1.0, 0.9, 0.5, 0.01):
    loss, grad, _ = network.loss_and_gradient(shrunk * w)
    print(
        f"w × {shrunk:<5g}  loss {loss:.12f}   length of the gradient {np.linalg.norm(grad):8.4f}"
    )

# %% [markdown]
# The loss stays in all its digits. The gradient does not: at half the length it is twice as long, as tutorial 03 derives,
#
# $$ \nabla L(w) = \frac1{\lVert w\rVert}\,\nabla L(\hat w), \qquad \hat w = \frac{w}{\lVert w\rVert}. \tag{2} $$
#
# Decay keeps the weight
# short, and a short weight is turned more by the same learning rate. So the suspicion is: *weight decay sets the effective
# step size $\eta/\lVert w\rVert^2$, and nothing else.*
#
# To watch that, take a network whose weight has two entries, so that its whole life is a path in the plane. Inputs $x$ with two
# features, one output channel, batch norm, and as target the first feature plus noise: the best direction is to the right. Each step sees
# another 16 samples. `walk` is the training loop; it returns the weight at the start of every step.


# %%
class Walk:
    """A weight with two entries behind a batch norm, its SGD and its trace."""

    def __init__(self, lr, decay=0.0, length=1.0, degrees=120.0, p=2):
        linear = nn.Linear(2, 1, bias=False, dtype="float64")
        normalize = nn.BatchNorm(1, p=p, eps=0.0, affine=False, dtype="float64")
        self.model = nn.Sequential(linear, normalize)
        self.weight = self.model.parameters()[0]
        angle = math.radians(degrees)
        self.weight.data = length * np.array([[math.cos(angle), math.sin(angle)]])
        self.invariant = nn.scale_invariant(self.model)
        self.sgd = SGD([self.weight], lr, weight_decay=decay)  # (4.1)
        self.trace = NormTrace(self.invariant, self.sgd)

    def walk(self, steps=300, seed=0, after_step=lambda t: None):
        """The weight at the start of every step, (steps, 2). Same seed, same batches."""
        rng, path = np.random.default_rng(seed), []
        for t in range(steps):
            self.trace.record()
            path.append(self.weight.data[0])
            x = rng.standard_normal((16, 2))
            target = x[:, :1] + rng.standard_normal((16, 1))
            self.sgd.zero_grad()
            y, backward = self.model(x)
            backward((y - target) / 16)  # the gradient of the mean of (y - target)² / 2
            self.sgd.step()
            after_step(t)
        return np.array(path)


def draw_walk(ax, path, color, **style):
    ax.plot(*path.T, color=color, linewidth=1, **style)
    ax.plot(*path[0], "o", color="black", markersize=5)
    ax.set(aspect="equal", xlabel="$w_1$", xlim=(-0.8, 1.9), ylim=(-0.8, 1.4))
    ax.plot(0, 0, "+", color="black")


figures.figure_04_1(Walk, draw_walk)

# %% [markdown]
# **Figure 1.** *A weight with two entries on its way (300 steps, the same batches each time, start at the dot, best direction to the right; the titles measure the second half). Without
# decay it drifts outward for ever and its direction slowly comes to rest. With decay it settles at a distance from the origin, a shorter one for more
# decay, and there the direction keeps trembling.*
#
# Decay does not make the function simpler here. It decides *how much noise* the direction has. A knob for the step size, then. The next cell has it
# as a slider, and the decay and the first length, each moved by itself. What does ten times the learning rate change, what ten times the decay?


# %%
def show_walk(lr, decay, length):
    _, ax = plt.subplots(figsize=(5.5, 4.5))
    draw_walk(ax, Walk(lr, decay, length).walk(), BLUE)


knobs = {
    "lr": [0.03, 0.1, 0.3, 1, 3],
    "decay": [0.002, 0.006, 0.02, 0.06, 0.2],
    "length": [0.5, 1, 2],
}
pictures.frames(show_walk, {"lr": 0.3, "decay": 0.02, "length": 1}, **knobs)

# %% [markdown]
# ## 2. One knob, exactly
#
# Three numbers describe the situation: the length $\lVert w\rVert$, $\eta$ and $\lambda$. Multiply the weight by $a$. By (2) its gradient is divided by $a$, so with
#
# $$ w \to a\,w, \qquad \eta \to a^2\,\eta, \qquad \lambda \to \lambda/a^2 \tag{4.2} $$
#
# each term of (4.1) is multiplied by $a$: $\eta\lambda$ is unchanged, and $\eta\nabla L$ becomes $a^2\eta\cdot\nabla L/a$. The whole training is the same, seen
# through a magnifying glass. With momentum too. And since multiplying by a power of two rounds nothing, in every bit
# (30 steps, momentum 0.9, decay 0.01, float64, $\varepsilon = 0$):

# %%
for norm in ("2", "1", "inf", "range"):
    each = Network(norm, seed=0, device="cpu")
    plain = each.descend(each.start, lr=0.1, weight_decay=0.01)
    a = 8.0
    magnified = each.descend(a * each.start, lr=a**2 * 0.1, weight_decay=0.01 / a**2)  # (4.2)
    print(f"{norm:6s} every bit of w / a the same: {bool((magnified / a == plain).all())}")

# %% [markdown]
# So of the three numbers only two combinations matter: $\eta/\lVert w\rVert^2$ now, and $\eta\lambda$, which says how fast it changes. The length is
# not a property of the solution. It is a dial of the step size.

# %% [markdown]
# ## 3. Decay replaced by a step size
#
# If that is so, a training *without* decay should be able to imitate one *with* decay: correct each channel's step by the ratio of the squared
# lengths,
#
# $$ \hat\eta = \eta\,\frac{\lVert w\rVert^2}{\lVert w_{\mathrm{WD}}\rVert^2}, \tag{4} $$
#
# where $w_{\mathrm{WD}}$ is that channel in the training with decay, at the same step. Then both have the effective step size
# $\eta/\lVert w_{\mathrm{WD}}\rVert^2$. Is it exact? Divide (4.1) by its shortening: with decay the direction is that of
#
# $$ w_{\mathrm{WD}} - \frac{\eta}{1-\eta\lambda}\,\nabla L(w_{\mathrm{WD}}). $$
#
# The decay also makes the step itself a little larger. So for plain SGD the exact correction has one more factor,
#
# $$ \hat\eta = \frac{\eta}{1 - \eta\lambda}\,\frac{\lVert w\rVert^2}{\lVert w_{\mathrm{WD}}\rVert^2}. \tag{4.3} $$
#
# In the library `StepSizeCorrection` is (4), and (4.3) with `exact=True`. It takes the trace of the first training. Four walks over the
# same batches:


# %%
def turned_apart(path, other):
    """The angle between two walks at every step, in degrees."""
    along = path[:, 0] * other[:, 0] + path[:, 1] * other[:, 1]
    across = path[:, 0] * other[:, 1] - path[:, 1] * other[:, 0]
    return abs(np.degrees(np.arctan2(across, along)))


lr, decay = 0.3, 0.3
decayed = Walk(lr, decay)
walks = {"with decay": decayed.walk()}
for name, settings in {
    "no decay": None,
    "no decay, (4)": {"exact": False},
    "no decay, (4.3)": {"exact": True},
}.items():
    free = Walk(lr)
    if settings is not None:
        correction = StepSizeCorrection(decayed.trace, free.invariant, **settings)  # (4) or (4.3)
        free.sgd.groups[0]["step_scale"] = correction
    walks[name] = free.walk()
    apart = turned_apart(walks["with decay"], walks[name])
    print(
        f"{name:15s} from the walk with decay: {apart.mean():.1e} degrees on average, at most {apart.max():.1e}"
    )

# %%
figures.figure_04_2(walks)

# %% [markdown]
# **Figure 2.** *Left: the walk with decay (blue) and the one without decay but with corrected steps (green). Their lengths differ more and more; each pair of dots lies on one ray
# (grey). Right: the directions. Blue and green coincide; the uncorrected walk (orange) becomes quiet.*
#
# The same on digits, with a real network and three norms: linear 64 → 32, batch norm, ReLU, linear, 200 steps of plain SGD, $\eta = \lambda = 0.05$. The error is the largest distance of any channel's
# direction from the run with decay.

# %%
ARMS = {
    "no decay": "no decay",
    "equation (4)": "equation (4)",
    "exact": "(4.3), exact",
    "growing": "growing learning rate, (4.4)",
}
figures.figure_04_3(ARMS)

# %% [markdown]
# **Figure 3.** *How far each imitation is from the training with decay. Without correction the directions drift apart (orange). Equation (4) is close (sky blue), and with the
# factor $1/(1-\eta\lambda)$ the error is rounding (green). So is that of the growing learning rate (pink), which comes next.*
#
# With momentum neither form is exact, because the buffer mixes gradients taken at different lengths. The library applies the factor to the step,
# as the authors do; `on="gradient"` is there for comparison.

# %% [markdown]
# ## 4. Decay replaced by a growing learning rate
#
# Equation (4) needs a recording of the other training. It can be done without. Let $v_t = w_t/(1-\eta\lambda)^t$: the decayed weight with its shortening undone. Insert it into
# (4.1), use (2) for the gradient, and what comes out is SGD *without decay*,
#
# $$ v_{t+1} = v_t - \eta_t\,\nabla L(v_t), \qquad \eta_t = \eta\,(1-\eta\lambda)^{-(2t+1)}. \tag{4.4} $$
#
# Weight decay is an exponentially growing learning rate (Li & Arora 2020). Few people would dare to train with one.

# %%
growing = Walk(lr)
schedule = GrowingSchedule(lr, decay)  # (4.4)
growing.sgd.groups[0]["step_scale"] = lambda parameter: schedule(growing.sgd.t)
path = growing.walk(steps=60)
apart = turned_apart(walks["with decay"][:60], path)
print(
    f"after 60 steps the learning rate is {lr * schedule(59):,.0f} and |v| is {np.linalg.norm(path[-1]):,.0f};"
)
print(f"the direction differs from the walk with decay by {apart.max():.0e} degrees at most")

# %% [markdown]
# ## 5. Decay replaced by an imposed norm
#
# The third way: forget decay, and after each step set the length to what you want. A schedule that divides the learning rate by 10
# becomes one that multiplies the length by $\sqrt{10}$, since
#
# $$ \frac{\eta/10}{\lVert w\rVert^2} = \frac{\eta}{\big(\sqrt{10}\,\lVert w\rVert\big)^2}. \tag{4.5} $$
#
# `NormSchedule` does that. Two walks of 200 steps whose length is held at 1: in one the learning rate falls to a tenth at step 100, in the other the length
# grows by $\sqrt{10}$.


# %%
def held(drop_rate):
    walk = Walk(lr=0.3)
    schedule = NormSchedule(walk.invariant, {walk.weight.name: np.ones(1)})

    def after_step(t):
        late = t >= 99
        if drop_rate:
            walk.sgd.lr_factor = 0.1 if late else 1.0
            schedule.apply(t)
        else:
            schedule.apply(t, factor=math.sqrt(10) if late else 1.0)  # (4.5)

    return walk.walk(200, after_step=after_step)


by_rate, by_norm = held(True), held(False)
print(f"largest angle between the two walks: {turned_apart(by_rate, by_norm).max():.0e} degrees")

# %%
figures.figure_04_4(by_norm, by_rate)

# %% [markdown]
# **Figure 4.** *Left: one walk stays on the circle of radius 1, the other jumps to a circle of radius $\sqrt{10}$. Right: the directions are the same, and both become quiet
# at step 100. Learning rate or norm: you cannot tell from the function which one was changed.*

# %% [markdown]
# ## 6. Where the length settles
#
# In Figure 1 the walks with decay settled at some length. Which? Each step decay shortens by the factor $1-\eta\lambda$, and the gradient, perpendicular to $w$, lengthens by Pythagoras. In
# balance $\lVert w\rVert^2 = (1-\eta\lambda)^2\lVert w\rVert^2 + \eta^2\,\mathbb E\lVert\tilde g\rVert^2/\lVert w\rVert^2$, where $\tilde g$ is the gradient at length 1. Solve for the length:
#
# $$ \lVert w\rVert^4 = \frac{\eta\;\mathbb E\lVert\tilde g\rVert^2}{\lambda\,(2-\eta\lambda)}, \qquad
# \text{angle per step} = \arccos(1-\eta\lambda) \approx \sqrt{2\eta\lambda}. \tag{4.6} $$
#
# (With momentum $\alpha$: $\lVert w\rVert^4 = \eta\,\mathbb E\lVert\tilde g\rVert^2\big/\big(\lambda(1-\alpha)(2-\tfrac{\eta\lambda}{1+\alpha})\big)$ and $\arccos\big(1-\tfrac{\eta\lambda}{1+\alpha}\big)$. This goes beyond the paper.) The angle does not depend on
# the data at all! A test with gradients that are pure noise, perpendicular to $w$, from three starting lengths:


# %%
def settle(lr, decay, momentum, start, steps=600, size=300):
    """The mean length of 16 channels at every step, and the mean angle of the last steps (degrees)."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, size))
    parameter = nn.Parameter(start * w / np.linalg.norm(w, axis=1, keepdims=True), "w")
    sgd = SGD([parameter], lr, momentum, weight_decay=decay)
    lengths, cosines = [], []
    for _ in range(steps):
        w = parameter.data
        length = np.linalg.norm(w, axis=1, keepdims=True)
        noise = rng.standard_normal(w.shape)
        noise -= (noise * w).sum(axis=1, keepdims=True) * w / length**2  # perpendicular to w
        parameter.grad = noise / length  # (2)
        sgd.step()
        lengths.append(length.mean())
        new = parameter.data
        cosines.append(
            ((w * new).sum(axis=1) / (length[:, 0] * np.linalg.norm(new, axis=1))).mean()
        )
    return lengths, math.degrees(math.acos(np.mean(cosines[-200:])))


def draw_settling(ax, lr, decay, momentum):
    balance, angle = predicted(lr, decay, momentum, 299)  # (4.6)
    settled = [settle(lr, decay, momentum, start * balance) for start in (0.3, 1.5, 4.0)]
    text = f"angle {settled[-1][1]:.2f}° (theory {math.degrees(angle):.2f}°)"
    title = f"lr {lr:.3g}, decay {decay:.3g}, momentum {momentum:g}\n{text}"
    figures.settling(ax, [np.array(lengths) / balance for lengths, _ in settled], title)


fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.4), sharey=True)
for ax, stop in zip(axes, [(0.1, 0.1, 0.0), (0.01, 1.0, 0.0), (0.1, 0.01, 0.9)], strict=True):
    draw_settling(ax, *stop)
axes[0].set_ylabel("length / length by (4.6)")
plt.show()

# %% [markdown]
# **Figure 5.** *Whatever the start (three colours), the length goes to the balance of (4.6), and the angle per step is that of theory. The first two have the same product $\eta\lambda$,
# so the same angle and the same way there, although the learning rates differ tenfold. The third has the same $\eta\lambda$ up to the factor $1-\alpha$.*
#
# Long before the balance is reached the learning rate acts as we expect; after it, $\eta$ and $\lambda$ are interchangeable. Sliders, each moved by itself:


# %%
def show_settling(lr, decay, momentum):
    _, ax = plt.subplots(figsize=(6, 3.4))
    draw_settling(ax, lr, decay, momentum)


knobs = {
    "lr": [0.01, 0.03, 0.1, 0.3, 1],
    "decay": [0.01, 0.03, 0.1, 0.3],
    "momentum": [0.0, 0.5, 0.9],
}
pictures.frames(show_settling, {"lr": 0.1, "decay": 0.1, "momentum": 0.0}, **knobs)

# %% [markdown]
# ## 7. The paper's experiment on a small scale
#
# The paper trains VGG11 on CIFAR-10 in four ways: with decay (90.6 % right), without (89.3 %), without but with (4) (90.5 %), and without but with the norms of
# the first training imposed, $\times\sqrt{10}$ instead of learning rate / 10 (90.2 %). Here are the same four on the library's digits: three convolutions, momentum 0.9, 12 epochs, the learning rate
# falling at epochs 6 and 9. The decay is 5e-3, ten times the usual, so that there is something to see in so short a training. What do you expect to differ: the effective step sizes, the accuracies, or both?

# %%
with tempfile.TemporaryDirectory() as folder:
    results = {
        seed: Study(seed=seed, weight_decay=5e-3).train(Path(folder) / f"{seed}.npz")
        for seed in (0, 1)
    }
# figures of trainings: they depend a little on the machine
print("                effective step size           test accuracy (mean of the last 3 epochs)")
print("                in the last epoch             seed 0    seed 1")
for arm in results[0]:
    accuracy = [np.mean(results[seed][arm]["test_accuracy"][-3:]) for seed in results]
    print(
        f"{arm:14s}  {results[0][arm]['step_size'][-1]:.5f}                       {accuracy[0]:.1%}     {accuracy[1]:.1%}"
    )

# %%
figures.figure_04_6(results)

# %% [markdown]
# **Figure 6.** *Lengths, effective step sizes, angles and errors of the four trainings (seed 0). The lengths go four ways. The effective step size of the uncorrected training falls
# behind, in the end by a factor of three (orange, second picture); (4) and the norm schedule put it back. At the end the errors are a few mistakes among 360. (The two
# peaks of the dotted curve, at epochs 6 and 9: the norm has just been multiplied by $\sqrt{10}$, and the running statistics that the test uses have not followed yet. No such
# peak comes with learning rate / 10. The function in training is the same; the one in testing is not.)*
#
# **What shows here and what does not.** The mechanism shows: the step sizes and angles are those of the theory. Its *benefit* does not. On 360 test digits one mistake is 0.3 points, and the arms differ by one or
# two; with five seeds (`lpnorm reproduce weight-decay`) no difference can be measured either. The digits are too easy for the step size at the end to matter. The
# paper's difference of 1.2 points needs a harder problem and a longer training; what you have seen is *why* the four curves of the paper fall as they do.

# %% [markdown]
# ## What you have now
#
# - Decay changes nothing about the function of a scale-invariant weight. It sets the effective step size.
# - $w\to aw$, $\eta\to a^2\eta$, $\lambda\to\lambda/a^2$ is the same training, bit by bit, (4.2).
# - It can be replaced: by (4), exactly by (4.3), by a growing learning rate, by an imposed norm.
# - Decay and gradients balance at (4.6), where the angle per step is $\sqrt{2\eta\lambda}$ whatever the data.
#
# Next: [05, L1, L∞ and Top-k](05_l1_linf_topk.ipynb), or [07, weight norm](07_weight_norm.ipynb), which removes the length altogether.
#
# ## Exercises
#
# Each has a cell for your answer and a line that checks it (`exercises.py`). Hints are folded away.
#
# ### Exercise 1
#
# In section 3 use momentum 0.9 in both walks (`SGD(..., momentum=0.9)`). How far apart are the directions now, with (4), with (4.3), and with `on="gradient"`? Which of the
# three is best? (Answer `"(4)"`, `"(4.3)"` or `"gradient"`.)
#
# <details><summary>Hint</summary>
#
# `Walk` takes a learning rate and a decay; give it the momentum, and run the cell that prints the angles once more, with small $\eta\lambda$ (0.1 and 0.01).
#
# </details>


# %%
best = None  # your answer
print(exercises.check_04_1(best))

# %% [markdown]
# ### Exercise 2
#
# *Decoupled* decay (`SGD(..., decoupled=True)`) shortens the weight without going through the momentum buffer. Where does the length settle now? Derive it along the lines of (4.6), first without momentum, where nothing should change, and write
# it as a function of $\eta$, $\lambda$, the momentum $\alpha$ and $\mathbb E\lVert\tilde g\rVert^2$.
#
# <details><summary>Hint</summary>
#
# In the balance of $\lVert w\rVert^2$ there is now $\langle w, b\rangle$, $b$ the buffer. It has a balance of its own: write down
# $\mathbb E\langle w_{t+1}, b_t\rangle$ and $\mathbb E\lVert b\rVert^2$, the new gradient being perpendicular to $w_t$ and to the past.
#
# </details>


# %%
def settled(lr, decay, momentum, gradient_squared):
    return None  # your answer: the length


print(exercises.check_04_2(settled))

# %% [markdown]
# ### Exercise 3
#
# $\gamma$ and $\beta$ of a batch norm, and the last layer, are not scale-invariant. What does decay do to them? Look at `Study` in `lpnorm/experiments/weight_decay.py`. Which parameters of `models.digits_net()` keep their decay in the arms
# without, and why? (A list of names; `[p.name for p in models.digits_net().parameters()]` has them all.)
#
# <details><summary>Hint</summary>
#
# For which of them is decay more than a step size?
#
# </details>


# %%
keep_their_decay = None  # your answer
print(exercises.check_04_3(keep_their_decay))
