# %% [markdown]
# # Scale invariance and the effective step size
#
# Multiply a weight by 10. The layer's output becomes ten times as large, and the batch norm behind it divides by ten again. So
# the network has not noticed. But something *has* changed: how far the next step of SGD will turn that weight. This notebook
# shows what a weight's length still does when the loss cannot feel it, and why "the learning rate" of a normalized network
# is not the number you typed in.
#
# The paper is Hoffer, Banner, Golan, Soudry, ["Norm matters"](https://arxiv.org/abs/1803.01814) (NeurIPS 2018); this is its section on
# scale invariance, equations (1) to (3).
#
# **For whom.** You know what SGD is and can differentiate a function of several variables. Tutorial 02 (the backward pass of batch norm) helps
# but is not needed.
#
# **How long.** About 30 minutes of reading; the cells run in about 20 seconds.
#
# Equations with a plain number are the paper's; those with two, such as (3.1), belong to this notebook. A line of code that computes an equation carries its number.

# %%
# # %pip install -q "..[tutorials]"

import math
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: threads would only wait

import exercises
import figures
import matplotlib.pyplot as plt
import numpy as np
import pictures

from lpnorm import data, models, nn, training
from lpnorm.decay import SGD, NormTrace, channel_norms
from lpnorm.experiments.pictures import BLUE, GREEN, PURPLE, VERMILLION
from lpnorm.experiments.scale_invariance import Network

pictures.style()

# %% [markdown]
# ## 1. A network that does not feel a length
#
# The object of study is as small as it can be and still real: 256 handwritten digits, a linear layer (64 → 32), batch norm,
# ReLU, a linear layer (32 → 10), cross-entropy. Everything is in float64 and batch norm has $\varepsilon = 0$, so that laws hold to
# rounding. $w$ is the first weight, one row of 64 numbers for each of the 32 channels, and $L(w)$ the loss as a function of $w$ alone.
# `Network.loss_and_gradient` returns $L$, $\nabla L$ and the output of the batch norm.

# %%
network = Network(
    "2", seed=0, device="cpu"
)  # "2": the norm; also "1", "inf", "top10", "range", ...
w = network.start
loss, grad, y = network.loss_and_gradient(w)
print(
    "w", w.shape, " loss", round(loss, 4), " gradient", grad.shape, " batch norm's output", y.shape
)

# %% [markdown]
# Write each channel as length times direction, $w = \lVert w\rVert\,\hat w$. The pre-activation is $\lVert w\rVert\,\hat w x$. A normalizer
# divides by something proportional to it, and $\lVert w\rVert$ cancels:
#
# $$ \mathrm{BN}(\lVert w\rVert\,\hat w x) = \mathrm{BN}(\hat w x). \tag{1} $$
#
# That used one property of the measure $s$, $s(a\,d) = \lvert a\rvert\,s(d)$, and every norm of this library has it. So try all of them.
# The factor is 3.7, and each channel could have its own.

# %%
for norm in ("1", "2", "3", "inf", "top10", "range"):
    each = Network(norm, seed=0, device="cpu")
    _, _, y = each.loss_and_gradient(each.start)
    _, _, y_scaled = each.loss_and_gradient(3.7 * each.start)
    print(f"{norm:6s} largest difference of the outputs: {abs(y_scaled - y).max():.0e}")  # (1)

# %% [markdown]
# ## 2. The landscape
#
# What does a loss look like that knows directions only? Take one channel, and in its 64-dimensional space the plane through $w$ and the
# direction in which the loss falls fastest. On that plane we evaluate the loss point by point, without using (1). Make a sketch first: what are its contour lines?

# %%
channel = 0
length = np.linalg.norm(w[channel])
ahead = w[channel] / length  # the first axis: along w
aside = -grad[channel] / np.linalg.norm(grad[channel])  # the second: downhill


def at(first, second):
    """Loss and gradient (in the plane) with the channel's weight at a point of the plane."""
    moved = w.copy()
    moved[channel] = first * ahead + second * aside
    loss, grad, _ = network.loss_and_gradient(moved)
    return loss, grad[channel] @ ahead, grad[channel] @ aside


grid = np.linspace(-3, 3, 40)  # an even number of points: none at 0, where w has no direction
landscape = np.array([[at(a, b)[0] for a in grid] for b in grid])

# %%
figures.figure_03_1(at, grid, landscape, length)

# %% [markdown]
# **Figure 1.** *The loss of one channel (orange dot: where training starts). Left: the contour lines are rays from the origin; the arrows are $-\nabla L$, enlarged 5 times.
# Middle: the loss around two circles is the same curve. Right: along a ray it is constant.*
#
# Two things can be read off the arrows. They are perpendicular to the ray they start from. And those on the outer circle are half as long
# as those on the inner one: the same slope *per degree* is stretched over a longer arc. The next section says both in formulas.

# %% [markdown]
# ## 3. Two laws of the gradient
#
# Equation (1) gives $L(a\,w) = L(w)$ for every $a > 0$. Differentiate this in two ways.
#
# *With respect to $w$*: the chain rule puts an $a$ on the left, $a\,\nabla L(a w) = \nabla L(w)$. With $a = 1/\lVert w\rVert$ that is the paper's
#
# $$ \frac{\partial\,\mathrm{BN}(\lVert w\rVert\,\hat wx)}{\partial(\lVert w\rVert\,\hat w)} = \frac1{\lVert w\rVert}\,\frac{\partial\,\mathrm{BN}(\hat wx)}{\partial\hat w}
# \qquad\text{so}\qquad \nabla L(w) = \frac{1}{\lVert w\rVert}\nabla L(\hat w): \tag{2} $$
#
# *the gradient shrinks as the weight grows.*
#
# *With respect to $a$*, at $a = 1$: the left side gives $\langle\nabla L(w), w\rangle$, the right side nothing,
#
# $$ \langle w, \nabla L(w)\rangle = 0: \tag{3.1} $$
#
# *the gradient never points outward or inward.* Both hold for each channel by itself.


# %%
def dots(a, b):
    return (a * b).sum(axis=1, keepdims=True)  # channel by channel


norms = np.sqrt(dots(w, w))
_, grad_hat, _ = network.loss_and_gradient(w / norms)
print(f"lengths of the channels: {norms.min():.2f} to {norms.max():.2f}")
print(f"(2)  largest difference: {abs(grad - grad_hat / norms).max():.0e}")  # (2)
cosines = dots(w, grad) / np.sqrt(dots(w, w) * dots(grad, grad))  # (3.1)
print(f"(3.1) largest cosine between w and its gradient: {abs(cosines).max():.0e}")

# %% [markdown]
# ### What it does to the length
#
# A step $w_+ = w - \eta\nabla L(w)$ is perpendicular to $w$. Pythagoras:
#
# $$ \lVert w_+\rVert^2 = \lVert w\rVert^2 + \eta^2\lVert\nabla L(w)\rVert^2. \tag{3.2} $$
#
# Without weight decay (and momentum) a scale-invariant weight can only grow. Every step, whatever the data say.

# %%
eta = 0.1
after = w - eta * grad
predicted = dots(w, w) + eta**2 * dots(grad, grad)  # (3.2)
print(f"(3.2) largest relative difference: {abs(dots(after, after) / predicted - 1).max():.0e}")

# %% [markdown]
# ## 4. The effective step size
#
# So only the direction counts, and a step turns it. By how much? Divide the step by the length and use (2):
#
# $$ \frac{w_+}{\lVert w\rVert} = \hat w - \frac{\eta}{\lVert w\rVert^2}\nabla L(\hat w). $$
#
# One factor $1/\lVert w\rVert$ comes from dividing, the other from (2). What is left is to make this a unit vector again, and by (3.2) its length differs
# from 1 in second order only. Hence
#
# $$ \hat w_+ = \hat w - \frac{\eta}{\lVert w\rVert^2}\,\big(I - \hat w\hat w^{\mathsf T}\big)\nabla L(\hat w) + O(\eta^2). \tag{3} $$
#
# (The projection $I - \hat w\hat w^{\mathsf T}$ changes nothing here, by (3.1); it is written because it stays right with other
# terms in the gradient.) The direction makes a gradient step on the unit sphere, with the learning rate
#
# $$ \eta_{\text{eff}} = \frac{\eta}{\lVert w\rVert^2}. \tag{3.3} $$
#
# That is the *effective step size*. Check the order of the error: divide $\eta$ by 2, and what (3) leaves out must fall by 4.

# %%
w_hat = w / norms
tangent = grad_hat - dots(w_hat, grad_hat) * w_hat
print("eta     error of (3)   error at twice the eta / error")
before = None
for eta in (8.0, 4.0, 2.0, 1.0, 0.5):
    after = w - eta * grad
    direction = after / np.sqrt(dots(after, after))
    first_order = w_hat - eta / norms**2 * tangent  # (3), with the step size of (3.3)
    error = np.sqrt(dots(direction - first_order, direction - first_order)).max()
    print(f"{eta:<6g}  {error:.1e}" + ("" if before is None else f"        {before / error:.2f}"))
    before = error

# %% [markdown]
# Now see it. The same learning rate from three lengths: which of the three steps turns the direction most?


# %%
def draw_step(ax, radius, eta, degrees=0.0):
    """One SGD step in the plane of Figure 1, from a given length and direction; the angle in degrees."""
    t = math.radians(degrees)
    start = radius * np.array([math.cos(t), math.sin(t)])
    end = start - eta * np.array(at(*start)[1:])
    turned = math.degrees(math.atan2(end[1], end[0]) - t)
    title = f"length {radius:.3g}, learning rate {eta:.3g}\neffective {eta / radius**2:.3g}: turned by {turned:.1f}°"
    figures.step(ax, start, end, title)


fig, axes = plt.subplots(1, 4, figsize=(12, 3.6), sharey=True)
for ax, stop in zip(axes, [(0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 16.0)], strict=True):
    draw_step(ax, *stop)
plt.show()

# %% [markdown]
# **Figure 2.** *One step of SGD seen in the plane. The first three have the same learning rate: doubling the length halves the arrow, and the same arrow
# farther out spans half the angle, so the turn is four times smaller. (The first step is so large that the tangent's bend shows.) Last: 16 times the learning rate at
# four times the length gives the angle of the first. Only $\eta/\lVert w\rVert^2$ counts.*
#
# Sliders for the length, the learning rate and the direction, each moved by itself. Which length gives the angle of a learning rate of 4?


# %%
def show_step(length, eta, direction):
    _, ax = plt.subplots(figsize=(5, 4.4))
    draw_step(ax, length, eta, direction)


knobs = {
    "length": [0.5, 0.7, 1, 1.4, 2],
    "eta": [0.25, 0.5, 1, 2, 4, 8],
    "direction": [-30, 0, 30, 60],
}
pictures.frames(show_step, {"length": 1, "eta": 1, "direction": 0}, **knobs)

# %% [markdown]
# ## 5. A training that slows itself down
#
# Put (3.2) and (3.3) together. Steps make the weight longer; a longer weight makes smaller steps. Without weight decay a constant learning rate is not
# constant at all. How strong is that in a real training? The library's convolutional network on the digits, plain SGD at a constant learning
# rate for 6 epochs, without momentum and decay. `nn.scale_invariant` knows which weights have a normalizer behind them, and
# `NormTrace` records the length of each of their channels at every step. Only those weights get the learning rate in the first column, up
# to a thousand times the usual 0.1; all other parameters keep 0.1. Which of the four trainings will fail?


# %%
def trained(lr, scale=1.0, epochs=6):
    """A training with this lr for the scale-invariant weights, which start `scale` times as long."""
    model = models.digits_net(rng=1)
    invariant = nn.scale_invariant(model)
    weights = [parameter for parameter, _ in invariant]
    for parameter in weights:
        parameter.data = scale * parameter.data
    others = [p for p in model.parameters() if p.invariant_axis is None]
    sgd = SGD([{"params": weights, "lr": lr}, {"params": others}], lr=0.1)
    trace = NormTrace(invariant, sgd)
    history = training.train(model, data.digits(), sgd, epochs, trace=trace, progress=False)
    return trace, history


def over_channels(rows):
    """The median over all channels of all weights, at each step."""
    return np.median(np.hstack(list(rows)), axis=1)


runs = {lr: trained(lr) for lr in (0.1, 1.0, 10.0, 100.0)}
# figures of trainings: they depend a little on the machine
print("         length         effective step size          test")
print("lr       first  last    first    last    ratio     accuracy")
for lr, (trace, history) in runs.items():
    length = over_channels(trace.norms.values())
    step = over_channels(trace.step_sizes(name) for name in trace.norms)  # (3.3)
    print(
        f"{lr:<7g} {length[0]:6.2f} {length[-1]:6.2f}   {step[0]:6.2f}  {step[-1]:6.2f}   {step[0] / step[-1]:6.1f}"
        f"     {history.test_accuracy[-1]:.1%}"
    )

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3))
for (lr, (trace, _)), color in zip(runs.items(), (BLUE, GREEN, VERMILLION, PURPLE), strict=True):
    length = over_channels(trace.norms.values())
    step = over_channels(trace.step_sizes(name) for name in trace.norms)  # (3.3)
    left.loglog(np.arange(1, len(length) + 1), length, color=color, linewidth=2, label=f"lr {lr:g}")
    right.loglog(np.arange(1, len(step) + 1), step, color=color, linewidth=2)
    right.plot([1, len(step)], [step[0]] * 2, ":", color=color, linewidth=1)
left.set(title="length of a channel (median)", xlabel="step", ylim=(1, 100))
left.legend(ncols=2)
right.set(title="effective step size (dotted: as it started)", xlabel="step")
plt.show()

# %% [markdown]
# **Figure 3.** *Left: without weight decay the weights only grow, the faster the larger the learning rate. Right: so the effective step size falls by itself. With the
# usual learning rate 0.1 (blue) hardly anything happens in 132 steps. With 100 (pink) the very first step throws the weights thirty times
# farther out, and from then on the effective step size is that of the blue run.*
#
# None of the four fails. The learning rates differ by a factor of 1,000, the effective step sizes at the end by less than 10.
#
# This is why a normalized network forgives a wrong learning rate: too large a one enlarges the weights until it is not too large any more. It
# is also why weight decay, which keeps the weights short, acts on the *step size*. Tutorial 04 is about that.

# %% [markdown]
# ## 6. The same training in every bit
#
# If only $\eta/\lVert w\rVert^2$ counts, then $w \to a\,w$ with $\eta \to a^2\eta$ must give the same training: the same directions, the same losses, and at each step
# exactly $a$ times the weight. (Only for that weight. $\gamma$, $\beta$ and the last layer are not scale-invariant and keep their own $\eta$.) With $a$ a power of two and $\varepsilon = 0$
# the multiplication by $a$ rounds nothing, so not just nearly: in **every bit**. `Network.descend` makes 30 steps with momentum 0.9.

# %%
for a in (8.0, 3.0):
    plain = network.descend(w, lr=0.1, weight_decay=0.0)
    scaled = network.descend(a * w, lr=0.1 * a**2, weight_decay=0.0)
    same = (
        "every bit the same"
        if (scaled / a == plain).all()
        else f"they differ by {abs(scaled / a - plain).max():.0e}"
    )
    print(f"a = {a:g}: after 30 steps, w / a against the plain run: {same}")

# %% [markdown]
# This makes a test without a tolerance, and a sharp one: an implementation that adds a bias without scaling it, clips gradients by a
# common norm, or computes $(\operatorname{mean}\lvert d\rvert^p)^{1/p}$ without dividing by the maximum first fails it.
#
# ## 7. Where it ends
#
# Three limits, so that you do not take (1) for more than it says.
#
# **eps.** Real layers have $\varepsilon > 0$. While $s$ is far above it, nothing changes; for tiny weights it wins. The next cell shortens the weight by powers of
# ten, with the usual $\varepsilon = 10^{-5}$ (inside the root for L2, added to $s$ for L1).

# %%
x = network.x
scales = 10.0 ** np.arange(-7, 1.5, 0.5)
figures.figure_03_4(scales, w, x)

# %% [markdown]
# **Figure 4.** *Multiplying the weight changes nothing over many decades. Then the output fades: for L2 where $s$ is near $\sqrt\varepsilon \approx 0.003$, for L1
# only near $\varepsilon = 0.00001$.*
#
# **Not every parameter.** Only a weight right before a normalizer is scale-invariant, and only channel by channel if the normalizer works channel by
# channel. `nn.scale_invariant` lists them. What does it leave out here, and why?

# %%
model = models.digits_net()
marked = {parameter.name for parameter, _ in nn.scale_invariant(model)}
for parameter in model.parameters():
    length = channel_norms(parameter.data.reshape(parameter.data.shape[0], -1)).mean()
    print(
        f"{parameter.name:10s} {parameter.data.shape!s:16s} {'scale-invariant' if parameter.name in marked else ''}"
    )

# %% [markdown]
# **Momentum.** The laws (3.2) and (3) are for plain SGD. With momentum the step mixes gradients of older directions, so it is no longer quite perpendicular; the bit law of
# section 6 holds all the same.
#
# ## What you have now
#
# - With a normalizer behind it, a weight's length is not felt, (1). Its gradient is perpendicular, (3.1), and shrinks with the length, (2).
# - What SGD does to the direction depends on $\eta/\lVert w\rVert^2$, (3).
# - Without decay the length only grows, (3.2), and the effective step size falls by itself.
# - $w\to aw$, $\eta\to a^2\eta$ is the same training in every bit.
#
# Next: [04, weight decay, learning rate and norm are one knob](04_one_knob.ipynb).
#
# ## Exercises
#
# Each has a cell for your answer and a line that checks it (`exercises.py`). Hints are folded away.
#
# ### Exercise 1
#
# Use (3.2) and (2) to show that $\lVert w\rVert^4$ grows by about $2\eta^2\lVert\nabla L(\hat w)\rVert^2$ in a step. If $\lVert\nabla L(\hat w)\rVert$ stayed constant, as which powers of the number of steps $t$ would
# $\lVert w\rVert$ and the effective step size go? Compare with Figure 3 on logarithmic axes.
#
# <details><summary>Hint</summary>
#
# Square (3.2), and leave out the term that is small when the step is.
#
# </details>


# %%
power_of_length, power_of_step_size = None, None  # your answers
answer = None if power_of_length is None else (power_of_length, power_of_step_size)
print(exercises.check_03_1(answer))

# %% [markdown]
# ### Exercise 2
#
# `trained(1.0)` and `trained(16.0, scale=4)` of section 5 have the same effective step sizes. Compare their losses. They agree to two or three digits but not in every bit: which
# argument of the batch norms in `models.digits_net` is to blame (give its name)? Without it the scale 4 keeps every bit. Name another scale that does.
#
# <details><summary>Hint</summary>
#
# `normalize=lambda channels: nn.BatchNorm(channels, ...=0.0)`. And what does multiplying by 4 do to a floating-point number?
#
# </details>


# %%
argument, scale = None, None  # your answers: a name and a number
print(exercises.check_03_2(None if argument is None else (argument, scale)))

# %% [markdown]
# ### Exercise 3
#
# Replace batch norm by layer norm: `lpnorm.layer_norm` on pre-activations `x @ w.T`. Multiply *one* channel of $w$ by 3.7: does the output change? Multiply *all* channels
# by 3.7: does it? Which of the laws (1), (2), (3.1), (3.2) remain, and for what "weight"?
#
# <details><summary>Hint</summary>
#
# Over which values does a layer norm take its mean and its scale?
#
# </details>


# %%
one_changes, all_changes = None, None  # your answers: True or False
print(exercises.check_03_3(None if one_changes is None else (one_changes, all_changes)))
