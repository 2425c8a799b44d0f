# %% [markdown]
# # Weight norm and bounded weight norm
#
# Batch norm needs a batch. With one sample, with a recurrent network, or with a model spread over many machines, that is a nuisance. Could one normalize the
# *weights* instead? Weight norm does, and it was reported to fail at the scale of ImageNet. The paper's remedy is a bound:
# leave the direction to learning and fix the length. In this notebook you derive both, backward pass included, see what each
# keeps of batch norm and what it loses, and train with them.
#
# The paper is Hoffer, Banner, Golan, Soudry, ["Norm matters"](https://arxiv.org/abs/1803.01814) (NeurIPS 2018); weight norm is from Salimans and Kingma
# ([arXiv:1602.07868](https://arxiv.org/abs/1602.07868), 2016).
#
# **For whom.** You have read tutorial 03 (scale invariance). Tutorial 02 helps with the backward pass.
#
# **How long.** About 20 minutes of reading; the cells run in under a minute.
#
# **What it needs.** Python 3.10 or later and `lpnorm` with its tutorial extras: `pip install ".[tutorials]"` in the folder of a
# checkout. Where you cannot do that beforehand (Colab), bring the checkout there, remove the first `#` in the next cell and put the
# checkout's folder in place of `..`.
#
# The paper gives these formulas no numbers; (N1), (N2), … belong to this notebook. A line of code that computes an equation
# carries its number.

# %%
# # %pip install -q "..[tutorials]"

import functools
import math
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: threads would only wait

import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import FloatLogSlider, interact

import lpnorm
from lpnorm import data, models, nn, training
from lpnorm.decay import SGD, StepSchedule, channel_norms
from lpnorm.experiments.pictures import BLUE, GREY, PURPLE, VERMILLION
from lpnorm.experiments.runs import Run, final_accuracy, last_layer_decayed
from lpnorm.experiments.verdicts import difference

plt.rc("figure", dpi=100)
plt.rc("figure.constrained_layout", use=True)
plt.rc("axes", titlesize=11, axisbelow=True)
plt.rc("axes.spines", top=False, right=False)
plt.rc("legend", frameon=False)

# %% [markdown]
# ## 1. Two formulas
#
# A weight of a layer has $N$ output channels; channel $i$ is a vector. Store a vector $v_i$ instead and use
#
# $$ w_i = g_i\,\frac{v_i}{\lVert v_i\rVert}, \qquad g_i \text{ learned: weight norm}, \tag{N1} $$
#
# $$ w_i = \rho\,\frac{v_i}{\lVert v_i\rVert}, \qquad \rho \text{ fixed: bounded weight norm}. \tag{N2} $$
#
# In both, $v_i$ has a direction that counts and a length that does not. Weight norm adds the length back as a number of its own, $g_i$, one for each channel. Bounded weight norm
# has one number for the whole layer, and it does not move. Which number? The one that keeps the layer's total size as it was at the start,
#
# $$ \rho = \frac{\lVert V\rVert_F}{\sqrt N}, \tag{N3} $$
#
# the root mean square of the channel lengths. Take a layer with 8 channels of very different lengths. What will the lengths of $w$ be?

# %%
rng = np.random.default_rng(0)
v = rng.standard_normal((8, 20)) * rng.uniform(0.3, 2, size=(8, 1))
g = np.linspace(0.5, 4, 8)

w_learned, cache_learned = lpnorm.weight_norm(v, g)  # (N1)
rho = lpnorm.bounded_norm(v)  # (N3)
w_bounded, cache_bounded = lpnorm.bounded_weight_norm(v, rho)  # (N2)

print("|v|            ", channel_norms(v).round(2))
print("g              ", g.round(2))
print("|w|, weight n. ", channel_norms(w_learned).round(2))
print("|w|, bounded   ", channel_norms(w_bounded).round(2))
print(
    f"rho = {rho:.4f}    total size: |V| = {np.linalg.norm(v):.4f}, |W| = {np.linalg.norm(w_bounded):.4f}"
)

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 2.8), sharey=True)
channels = np.arange(1, 9)
for ax, lengths, title, color in (
    (axes[0], channel_norms(v), "|v|, what is stored", GREY),
    (axes[1], channel_norms(w_learned), "|w|, weight norm: = g", BLUE),
    (axes[2], channel_norms(w_bounded), "|w|, bounded: = ρ", VERMILLION),
):
    ax.bar(channels, lengths, color=color, width=0.7)
    ax.set(title=title, xlabel="output channel", xticks=channels)
axes[1].plot(channels, g, "_", color="black", markersize=16)
axes[0].axhline(rho, color=VERMILLION, linestyle="--")
plt.show()

# %% [markdown]
# **Figure 1.** *Channel lengths. Weight norm replaces the lengths of $v$ by $g$ (black marks); bounded weight norm by their root mean square, dashed on the left.*

# %% [markdown]
# ## 2. The backward pass
#
# The layer's backward pass delivers $dw$. What are $dv$ and $dg$? Write $S = \lVert v\rVert$ and $\hat v = v/S$ for one channel. From $w = g\,\hat v$
# at once
#
# $$ dg = \langle dw,\,\hat v\rangle. \tag{N4} $$
#
# For $v$ the quotient rule gives two terms, as for batch norm: the numerator moves, and $S$ moves. With $\nabla S$ the gradient of the norm,
#
# $$ dv = \frac gS\,\big(dw - \langle dw,\,\hat v\rangle\,\nabla S\big). \tag{N5} $$
#
# For L2, $\nabla S = \hat v$, and the bracket is $dw$ with its part along $v$ removed: a projection. For bounded weight norm put $\rho$ for $g$; there is no $dg$. Check
# both the way tutorial 02 does, along a random direction:

# %%
dw = rng.standard_normal(v.shape)
move_v, move_g, t = rng.standard_normal(v.shape), rng.standard_normal(8), 1e-6


def slope(f):
    return (f(t) - f(-t)) / (2 * t)


for p in (1, 1.5, 2, 3, math.inf):
    _, cache = lpnorm.weight_norm(v, g, p=p)
    dv, dg = lpnorm.weight_norm_backward(dw, cache)  # (N4) and (N5)
    by_hand = (dv * move_v).sum() + (dg * move_g).sum()
    numerical = slope(
        lambda t, p=p: (lpnorm.weight_norm(v + t * move_v, g + t * move_g, p=p)[0] * dw).sum()
    )
    bounded = lpnorm.bounded_weight_norm(v, rho, p=p)
    dv_bounded = lpnorm.bounded_weight_norm_backward(dw, bounded[1])
    numerical_bounded = slope(
        lambda t, p=p: (lpnorm.bounded_weight_norm(v + t * move_v, rho, p=p)[0] * dw).sum()
    )
    print(
        f"p = {p:<4g}  weight norm: {by_hand:10.5f}, numerically {numerical:10.5f}     "
        f"bounded: {(dv_bounded * move_v).sum():10.5f}, numerically {numerical_bounded:10.5f}"
    )

# %% [markdown]
# ### A law
#
# Multiply $v$ by a number: $w$ stays. So the loss does not change along $v$, and its gradient has no part in that direction:
#
# $$ \langle dv, v\rangle = 0 \quad\text{for each channel, and every } p. \tag{N6} $$
#
# That is the law of scale-invariant weights of tutorial 03, here by construction and not thanks to a batch norm. And all that followed from it follows
# again: a step can only lengthen $v$, and the direction moves with the effective step size $\eta/\lVert v\rVert^2$.

# %%
for p in (1, 2, math.inf):
    _, cache = lpnorm.weight_norm(v, g, p=p)
    dv, _ = lpnorm.weight_norm_backward(dw, cache)
    print(f"p = {p:<4g} <dv, v> per channel, at most {abs((dv * v).sum(axis=1)).max():.0e}")  # (N6)

# %% [markdown]
# ## 3. A picture in the plane
#
# Two inputs, one channel: $v$ is a point of the plane, and $w$ lies on a curve, the points of norm $\rho$. Take a plain target, $L(w) = \tfrac12\lVert w - w^*\rVert^2$, so that $dw = w - w^*$. Where can $w$
# go, and which way does $-dv$ point?

# %%
target = np.array([[1.0, 1.6]])
angle = np.linspace(0, 2 * np.pi, 361)
circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)


def plane(ax, p, rho, degrees=20.0, steps=25, eta=0.3):
    """SGD on v (grey path) and the w that it means (coloured), for bounded weight norm in Lp."""
    curve, _ = lpnorm.bounded_weight_norm(circle, rho, p=p)  # (N2), each point a channel
    ax.plot(*curve.T, color=GREY, linewidth=1)
    t = math.radians(degrees)
    vector, path, image = 1.3 * np.array([[math.cos(t), math.sin(t)]]), [], []
    for _ in range(steps):
        w, cache = lpnorm.bounded_weight_norm(vector, rho, p=p)  # (N2)
        path.append(vector[0])
        image.append(w[0])
        vector = vector - eta * lpnorm.bounded_weight_norm_backward(w - target, cache)  # (N5)
    ax.plot(*np.array(path).T, "o-", color="black", markersize=3, linewidth=1, label="v")
    ax.plot(*np.array(image).T, "o", color=VERMILLION, markersize=5, label="w")
    for a, b in zip(path, image, strict=True):
        ax.plot(*np.array([a, b]).T, ":", color=VERMILLION, linewidth=0.8)
    ax.plot(*target[0], "*", color=BLUE, markersize=13, label="target w*")
    ax.set(
        aspect="equal",
        xlim=(-1.5, 2.4),
        ylim=(-1.5, 2.4),
        title=f"p = {p:g}, ρ = {rho:g}",
        xlabel="$w_1$",
    )


fig, axes = plt.subplots(1, 3, figsize=(11.5, 4), sharey=True)
for ax, p in zip(axes, (1, 2, math.inf), strict=True):
    plane(ax, p, 1.0)
axes[0].set_ylabel("$w_2$")
axes[0].legend(loc="lower left")
plt.show()

# %% [markdown]
# **Figure 2.** *Bounded weight norm in L1, L2 and L∞. The weight $w$ (orange) can only move on the grey curve. What SGD moves is $v$ (black), on the same ray; each of
# its steps is perpendicular to it, so it drifts outward. In the end $w$ is the point of the curve nearest to the target (star): a point of a side for L1, the corner for L∞, where the
# gradient of the norm jumps and $v$ goes to and fro.*
#
# The target cannot be reached: it is longer than $\rho$. In a network with a normalizer or a scale behind it that does not matter, since somebody else
# sets the length. Sliders for $p$, $\rho$ and the learning rate, where a kernel runs (a stored notebook shows nothing below the cell):


# %%
def show_plane(p, rho, eta):
    _, ax = plt.subplots(figsize=(5, 4.6))
    plane(ax, p, rho, eta=eta)
    plt.show()


_ = interact(show_plane, p=(1.0, 10.0, 0.5), rho=(0.3, 1.5, 0.1), eta=(0.1, 1.5, 0.1))

# %% [markdown]
# ## 4. Other norms
#
# With $\lVert v\rVert_p$ in (N2) and $\rho = \lVert V\rVert_p/N^{1/p}$ every channel gets the same Lp norm. But what the network feels is more like the L2 length: it says how large the outputs are for
# inputs of a given size. Do channels of equal L1 or L∞ norm have equal L2 lengths? Take a layer as it is drawn at the start, 64 channels of $3\times3\times32$.

# %%
layer = nn.Conv2d(32, 64, 3, rng=1, dtype="float64").weight.data
fig, axes = plt.subplots(1, 4, figsize=(11.5, 2.6), sharey=True)
edges = np.linspace(1.1, 2.2, 45)
axes[0].hist(channel_norms(layer), edges, color=GREY)
axes[0].set(title="as drawn", xlabel="L2 length of a channel", ylabel="channels")
for ax, (p, color) in zip(axes[1:], ((1, BLUE), (2, VERMILLION), (math.inf, PURPLE)), strict=True):
    size = lpnorm.bounded_norm(layer, p=p)  # (N3), in Lp
    w, _ = lpnorm.bounded_weight_norm(layer, size, p=p)  # (N2), in Lp
    lengths = channel_norms(w)
    ax.hist(lengths, edges, color=color)
    ax.set(title=f"p = {p:g}, ρ = {size:.3g}", xlabel="L2 length of a channel")
    print(
        f"p = {p:<4g} L2 lengths from {lengths.min():.2f} to {lengths.max():.2f}, relative spread {lengths.std() / lengths.mean():.1%}"
    )
plt.show()

# %% [markdown]
# **Figure 3.** *The L2 lengths of 64 channels before and after. Equal L1 norms mean nearly equal L2 lengths, because both measure the bulk of 288 entries. With L∞ a channel's size hangs on its
# one largest entry: the lengths are larger (the paper's $\rho$ is here the largest entry of the whole layer) and scattered.*
#
# That is the reason to expect trouble from L∞ here, as in batch norm; the paper reports that L1 works as well as L2, and L∞ visibly worse.

# %% [markdown]
# ## 5. What weight norm does not do
#
# Batch norm looks at the data. Weight norm does not. What happens if the inputs become ten times as large? Both networks below have three convolutions; the second has
# bounded weight norm, and behind it only the mean is subtracted (*mean-only batch norm*, as in the authors' networks). The bars are the standard
# deviations behind each of the three blocks, untrained.


# %%
def deviations(normalize, wrap, scale):
    """The standard deviation behind each normalization layer for digits multiplied by `scale`."""
    model = models.digits_net(normalize, wrap, rng=2)
    seen = []

    def look(layer, y):
        if isinstance(layer, (nn.BatchNorm, nn.MeanOnlyBatchNorm)):
            seen.append(float(y.std()))

    with nn.watch(look):
        model(scale * data.digits().test_x)
    return seen


def compare(row, scale):
    kinds = {
        "batch norm": (nn.BatchNorm, None),
        "bounded weight norm": (nn.MeanOnlyBatchNorm, nn.BoundedWeightNorm),
    }
    for ax, (name, kind), color in zip(row, kinds.items(), (GREY, VERMILLION), strict=True):
        values = deviations(*kind, np.float32(scale))
        ax.bar(range(1, 4), values, color=color, width=0.6)
        for block, value in enumerate(values, 1):
            ax.text(block, value, f"{value:.2g}", ha="center", va="bottom")
        ax.set(
            title=f"{name}, inputs × {scale:.3g}",
            xticks=range(1, 4),
            xlabel="block",
            ylim=(0, 1.2 * max(values)),
        )


fig, axes = plt.subplots(1, 4, figsize=(12, 2.8))
compare(axes[:2], 1)
compare(axes[2:], 10)
plt.show()

# %% [markdown]
# **Figure 4.** *How large the activations are behind each block, for digits as they are (left pair) and ten times as large (right pair; mind the axes). Batch norm gives 1 whatever comes in. With weight norm
# the scale of the input runs through the whole network.*
#
# So weight norm normalizes less. In exchange it needs no batch, costs no pass over the activations, and behaves the same in training and in testing. The slider, where a kernel runs:


# %%
def show_comparison(scale):
    _, row = plt.subplots(1, 2, figsize=(8, 2.8))
    compare(row, scale)
    plt.show()


_ = interact(show_comparison, scale=FloatLogSlider(value=1, base=10, min=-2, max=2, step=0.25))

# %% [markdown]
# ## 6. Training
#
# One training in full, so that you see the parts: `wrap` puts a weight norm around each convolution, mean-only batch norm stands behind it, the gradient is clipped at 5 and only the last
# layer is decayed, as the authors do. After every step we note the lengths of $v$ and of $w$ in the second convolution.


# %%
def train_and_watch(wrapper):
    model = models.digits_net(nn.MeanOnlyBatchNorm, wrapper, rng=3)
    sgd = SGD(last_layer_decayed(model, 1e-4), lr=0.1, momentum=0.9)
    (direction, _) = nn.scale_invariant(model)[1]  # the second convolution's v
    wrapped = [layer for _, layer in model.layers() if isinstance(layer, nn.WeightNorm)][1]
    lengths = []

    def after_step(step, epoch):
        learned = isinstance(getattr(wrapped, "weight_g", None), nn.Parameter)
        w = wrapped.weight_g.data if learned else np.full(32, float(wrapped.weight_rho))
        lengths.append((channel_norms(direction.data).mean(), w.min(), w.max()))

    history = training.train(
        model,
        data.digits(),
        sgd,
        epochs=6,
        schedule=StepSchedule([3, 4]),
        augment=functools.partial(data.shift, pixels=1),
        clip=5.0,
        after_step=after_step,
        progress=False,
    )
    return np.array(lengths), history


watched = {
    "weight norm": train_and_watch(nn.WeightNorm),
    "bounded": train_and_watch(nn.BoundedWeightNorm),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
for (name, (lengths, _)), color in zip(watched.items(), (BLUE, VERMILLION), strict=True):
    left.plot(lengths[:, 0], color=color, linewidth=2, label=name)
    right.fill_between(range(len(lengths)), lengths[:, 1], lengths[:, 2], color=color, alpha=0.35)
    right.plot(lengths[:, 1], color=color, linewidth=1)
    right.plot(lengths[:, 2], color=color, linewidth=1, label=name)
left.set(title="length of v (mean over the channels)", xlabel="step")
right.set(title="length of w (from the shortest to the longest)", xlabel="step", ylim=(0, None))
left.legend()
right.legend()
plt.show()

# %% [markdown]
# **Figure 5.** *The second convolution during training. Left: $v$ grows, as (N6) makes one expect, until the learning rate falls at step 66. Right: in weight norm the
# lengths of $w$ are learned and move; in bounded weight norm all are $\rho$, for ever.*
#
# Now the comparison, with `lpnorm reproduce`'s trainings: 6 epochs, two seeds, test accuracies.

# %%
arms = {
    "batch norm": {},
    "weight norm": {"method": "weight", "weight_decay": 1e-4},
    "bounded, L2": {"method": "bounded", "weight_decay": 1e-4},
    "bounded, L1": {"method": "bounded", "norm": "1", "weight_decay": 1e-4},
    "bounded, L∞": {"method": "bounded", "norm": "inf", "weight_decay": 1e-4},
    "none": {"norm": None},
}
found = {
    name: [final_accuracy(Run(epochs=6, seed=seed, **settings).train(None)) for seed in (0, 1)]
    for name, settings in arms.items()
}
# figures of trainings: they depend a little on the machine
print("              accuracy (seeds 0, 1)   difference from batch norm")
for name, values in found.items():
    apart = difference(values, found["batch norm"])
    print(
        f"{name:13s} {values[0]:6.1f} {values[1]:6.1f}"
        + ("" if name == "batch norm" else f"             {apart['mean']:+.1f}")
    )

# %% [markdown]
# **What shows here and what does not.** All kinds of weight norm train, without looking at a batch except for its mean. The paper's claims are about large networks:
# on ImageNet with ResNet-50 bounded weight norm ends at an error of 28.25 % against 25.97 for batch norm, and plain weight norm is quoted with 33.0; L∞
# degrades visibly. On the digits plain weight norm does not fail and L∞ does not degrade. Nor should you believe
# that bounded weight norm beats batch norm because it is ahead for two seeds: with five seeds and 12 epochs (`lpnorm reproduce bounded-weight-norm`) all arms are
# within noise. A network of three convolutions gives lengths little room to run away.

# %% [markdown]
# ## 7. A trap
#
# Initialize a layer *after* wrapping it, and in some implementations the new weights are silently overwritten by the old $v$ at the next call. Here you are told:

# %%
wrapped = nn.WeightNorm(nn.Linear(4, 3))
try:
    nn.initialize(wrapped, rng=1)
except ValueError as error:
    print(error)

# %% [markdown]
# ## What you have now
#
# - Weight norm (N1) separates length and direction of each channel; bounded weight norm (N2) also fixes the length, once for the layer.
# - The backward pass is a projection (N5): $dv$ is perpendicular to $v$, so $v$ grows and the effective step size falls, without any batch.
# - In other norms, channels of equal L1 norm have nearly equal L2 lengths; with L∞ they have not.
# - Weight norm does not react to the data. What it saves is the batch.
#
# ## Exercises
#
# ### Exercise 1
#
# Derive (N5) for $p = 1$ in full: what is $\nabla S$, and what is $dv$ for an entry $v_j = 0$? Compare with the library on a small array with a zero in it.

# %%
# Exercise 1: your code.

# %% [markdown]
# ### Exercise 2
#
# Bounded weight norm followed by an ordinary batch norm: what does $\rho$ do then? Predict, then check with `nn.Sequential(nn.BoundedWeightNorm(nn.Linear(...)), nn.BatchNorm(...))`: change $\rho$
# (the buffer `weight_rho`) and look at the output and at the gradient of $v$.

# %%
# Exercise 2: your code.

# %% [markdown]
# ### Exercise 3
#
# In section 6, does it matter that $v$ grows? Train `nn.BoundedWeightNorm` once as it is and once with every channel of every $v$ rescaled to its first length after each step (`lpnorm.decay.NormSchedule` does
# it; call its `apply` in `before_step`). Compare the losses and the effective step sizes. Which theorem of tutorial 03 tells you beforehand that the *function* right after the rescaling is unchanged?

# %%
# Exercise 3: your code.
