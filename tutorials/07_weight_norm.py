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
# **How long.** About 40 minutes of reading; the cells run in under a minute.
#
# The paper gives these formulas no numbers; (7.1), (7.2), … belong to this notebook. A line of code that computes an equation
# carries its number.

# %%
# # %pip install -q "..[tutorials]"

import functools
import math
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: threads would only wait

import exercises
import figures
import matplotlib.pyplot as plt
import numpy as np
import pictures

import lpnorm
from lpnorm import data, models, nn, training
from lpnorm.decay import SGD, StepSchedule, channel_norms
from lpnorm.experiments.pictures import BLUE, GREY, PURPLE, VERMILLION
from lpnorm.experiments.runs import Run, final_accuracy, last_layer_decayed
from lpnorm.experiments.verdicts import difference

pictures.style()

# %% [markdown]
# ## 1. Two formulas
#
# A weight of a layer has $N$ output channels; channel $i$ is a vector. Store a vector $v_i$ instead and use
#
# $$ w_i = g_i\,\frac{v_i}{\lVert v_i\rVert}, \qquad g_i \text{ learned: weight norm}, \tag{7.1} $$
#
# $$ w_i = \rho\,\frac{v_i}{\lVert v_i\rVert}, \qquad \rho \text{ fixed: bounded weight norm}. \tag{7.2} $$
#
# In both, $v_i$ has a direction that counts and a length that does not. Weight norm adds the length back as a number of its own, $g_i$, one for each channel. Bounded weight norm
# has one number for the whole layer, and it does not move. Which number? The one that keeps the layer's total size as it was at the start,
#
# $$ \rho = \frac{\lVert V\rVert_F}{\sqrt N}, \tag{7.3} $$
#
# the root mean square of the channel lengths. Take a layer with 8 channels of very different lengths. What will the lengths of $w$ be?

# %%
rng = np.random.default_rng(0)
v = rng.standard_normal((8, 20)) * rng.uniform(0.3, 2, size=(8, 1))
g = np.linspace(0.5, 4, 8)

w_learned, cache_learned = lpnorm.weight_norm(v, g)  # (7.1)
rho = lpnorm.bounded_norm(v)  # (7.3)
w_bounded, cache_bounded = lpnorm.bounded_weight_norm(v, rho)  # (7.2)

print("|v|            ", channel_norms(v).round(2))
print("g              ", g.round(2))
print("|w|, weight n. ", channel_norms(w_learned).round(2))
print("|w|, bounded   ", channel_norms(w_bounded).round(2))
print(
    f"rho = {rho:.4f}    total size: |V| = {np.linalg.norm(v):.4f}, |W| = {np.linalg.norm(w_bounded):.4f}"
)

# %%
figures.figure_07_1(g, rho, v, w_bounded, w_learned)

# %% [markdown]
# **Figure 1.** *Channel lengths. Weight norm replaces the lengths of $v$ by $g$ (black marks); bounded weight norm by their root mean square, dashed on the left.*

# %% [markdown]
# ## 2. The backward pass
#
# The layer's backward pass delivers $dw$. What are $dv$ and $dg$? Write $S = \lVert v\rVert$ and $\hat v = v/S$ for one channel. From $w = g\,\hat v$
# at once
#
# $$ dg = \langle dw,\,\hat v\rangle. \tag{7.4} $$
#
# For $v$ the quotient rule gives two terms, as for batch norm: the numerator moves, and $S$ moves. With $\nabla S$ the gradient of the norm,
#
# $$ dv = \frac gS\,\big(dw - \langle dw,\,\hat v\rangle\,\nabla S\big). \tag{7.5} $$
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
    dv, dg = lpnorm.weight_norm_backward(dw, cache)  # (7.4) and (7.5)
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
# $$ \langle dv, v\rangle = 0 \quad\text{for each channel, and every } p. \tag{7.6} $$
#
# That is the law of scale-invariant weights of tutorial 03, here by construction and not thanks to a batch norm. And all that followed from it follows
# again: a step can only lengthen $v$, and the direction moves with the effective step size $\eta/\lVert v\rVert^2$.

# %%
for p in (1, 2, math.inf):
    _, cache = lpnorm.weight_norm(v, g, p=p)
    dv, _ = lpnorm.weight_norm_backward(dw, cache)
    print(
        f"p = {p:<4g} <dv, v> per channel, at most {abs((dv * v).sum(axis=1)).max():.0e}"
    )  # (7.6)

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
    curve, _ = lpnorm.bounded_weight_norm(circle, rho, p=p)  # (7.2), each point a channel
    t = math.radians(degrees)
    vector, path, image = 1.3 * np.array([[math.cos(t), math.sin(t)]]), [], []
    for _ in range(steps):
        w, cache = lpnorm.bounded_weight_norm(vector, rho, p=p)  # (7.2)
        path.append(vector[0])
        image.append(w[0])
        vector = vector - eta * lpnorm.bounded_weight_norm_backward(w - target, cache)  # (7.5)
    figures.plane(ax, curve, path, image, target[0], f"p = {p:g}, ρ = {rho:g}")


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
# sets the length. Sliders for $p$, $\rho$ and the learning rate, each moved by itself:


# %%
def show_plane(p, rho, eta):
    _, ax = plt.subplots(figsize=(5, 4.6))
    plane(ax, p, rho, eta=eta)


knobs = {"p": [1, 1.5, 2, 3, 5, 10], "rho": [0.4, 0.7, 1.0, 1.3], "eta": [0.1, 0.3, 0.8, 1.5]}
pictures.frames(show_plane, {"p": 2, "rho": 1.0, "eta": 0.3}, **knobs)

# %% [markdown]
# ## 4. Other norms
#
# With $\lVert v\rVert_p$ in (7.2) and $\rho = \lVert V\rVert_p/N^{1/p}$ every channel gets the same Lp norm. But what the network feels is more like the L2 length: it says how large the outputs are for
# inputs of a given size. Do channels of equal L1 or L∞ norm have equal L2 lengths? Take a layer as it is drawn at the start, 64 channels of $3\times3\times32$.

# %%
layer = nn.Conv2d(32, 64, 3, rng=1, dtype="float64").weight.data
fig, axes = plt.subplots(1, 4, figsize=(11.5, 2.6), sharey=True)
edges = np.linspace(1.1, 2.2, 45)
axes[0].hist(channel_norms(layer), edges, color=GREY)
axes[0].set(title="as drawn", xlabel="L2 length of a channel", ylabel="channels")
for ax, (p, color) in zip(axes[1:], ((1, BLUE), (2, VERMILLION), (math.inf, PURPLE)), strict=True):
    size = lpnorm.bounded_norm(layer, p=p)  # (7.3), in Lp
    w, _ = lpnorm.bounded_weight_norm(layer, size, p=p)  # (7.2), in Lp
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
        figures.blocks(ax, values, color, f"{name}, inputs × {scale:.3g}")


fig, axes = plt.subplots(1, 4, figsize=(12, 2.8))
compare(axes[:2], 1)
compare(axes[2:], 10)
plt.show()

# %% [markdown]
# **Figure 4.** *How large the activations are behind each block, for digits as they are (left pair) and ten times as large (right pair; mind the axes). Batch norm gives 1 whatever comes in. With weight norm
# the scale of the input runs through the whole network.*
#
# So weight norm normalizes less. In exchange it needs no batch, costs no pass over the activations, and behaves the same in training and in testing. Move the scale of the input:


# %%
def show_comparison(scale):
    _, row = plt.subplots(1, 2, figsize=(8, 2.8))
    compare(row, scale)


pictures.frames(show_comparison, {"scale": 1}, scale=[0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100])

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
figures.figure_07_5(watched)

# %% [markdown]
# **Figure 5.** *The second convolution during training. Left: $v$ grows, as (7.6) makes one expect, until the learning rate falls at step 66. Right: in weight norm the
# lengths of $w$ are learned and move; in bounded weight norm all are $\rho$, for ever.*
#
# Now the norms of the weights against each other, with `lpnorm reproduce`'s trainings: the same decay (of the last layer alone) and clipping for all, 6 epochs, two seeds, test accuracies.

# %%
arms = {
    "weight norm": {"method": "weight"},
    "bounded, L2": {"method": "bounded"},
    "bounded, L1": {"method": "bounded", "norm": "1"},
    "bounded, L∞": {"method": "bounded", "norm": "inf"},
}
found = {
    name: [
        final_accuracy(Run(epochs=6, seed=seed, weight_decay=1e-4, **settings).train(None))
        for seed in (0, 1)
    ]
    for name, settings in arms.items()
}
# figures of trainings: they depend a little on the machine
print("              accuracy (seeds 0, 1)   difference from weight norm")
for name, values in found.items():
    apart = difference(values, found["weight norm"])
    more = "" if name == "weight norm" else f"             {apart['mean']:+.1f}"
    print(f"{name:13s} {values[0]:6.1f} {values[1]:6.1f}{more}")

# %% [markdown]
# **What shows here and what does not.** All kinds of weight norm train, without looking at a batch except for its mean. The paper's claims are about large networks:
# on ImageNet with ResNet-50 bounded weight norm ends at an error of 28.25 % against 25.97 for batch norm, and plain weight norm is quoted with 33.0; L∞
# degrades visibly. On the digits plain weight norm does not fail and L∞ does not degrade. (Batch norm is not in the list: the authors train it without clipping and decay all of its weights, so a difference could come from either. `lpnorm reproduce bounded-weight-norm` has that comparison, with five seeds and 12 epochs; all arms are
# within noise.) A network of three convolutions gives lengths little room to run away.

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
# ## 8. What became of this
#
# The paper is of 2018. Four things that it prepared are ordinary today, and you have all the tools to read them.
#
# **Layer norm and RMS norm.** Transformers normalize each sample (token) over its own features (Ba et al. 2016): the same centre, measure, scale over another axis, so the same backward pass. RMS norm (Zhang & Sennrich 2019) leaves out the centring. Then one step of the derivation falls away, and with it one term:
#
# $$ dx_{\text{layer}} = \frac{g - \operatorname{mean}(g) - T\,(\nabla\varphi - \operatorname{mean}\nabla\varphi)}{s}, \qquad dx_{\text{RMS}} = \frac{g - T\,\nabla\varphi}{s}. \tag{7.7} $$
#
# Which laws does each keep? Both are scale-invariant: $\langle dx, d\rangle = 0$ (for RMS norm $\langle dx, x\rangle = 0$). The sum of $dx$ is 0 for layer norm and not for RMS norm, since adding a number to all $x$ changes its output. And the weights behind which they stand: batch norm makes every *channel* of a weight scale-invariant, layer and RMS norm only
# the *matrix* as a whole (tutorial 03, Exercise 3).

# %%
x, g = np.random.default_rng(0).standard_normal((2, 4, 8)) + 0.5
_, cache = lpnorm.layer_norm(x, None, None, p=2, axis=-1, eps=0.0)
layer, _, _ = lpnorm.layer_norm_backward(g, cache)
s = np.sqrt((x * x).mean(axis=1, keepdims=True))
rms = (g - x / s * (g * x / s).mean(axis=1, keepdims=True)) / s  # (7.7), grad phi = x / (n s)
d = x - x.mean(axis=1, keepdims=True)
print(
    f"layer norm  sum of dx {abs(layer.sum(axis=1)).max():.1e}   <dx, d> {abs((layer * d).sum(axis=1)).max():.1e}"
)
print(
    f"RMS norm    sum of dx {abs(rms.sum(axis=1)).max():.1e}   <dx, x> {abs((rms * x).sum(axis=1)).max():.1e}"
)

# %% [markdown]
# **Decoupled decay.** Because decay sets the effective step size, it matters through which part of the optimizer it goes. In Adam the coupled decay is divided by the gradient's own size and loses its meaning; AdamW (Loshchilov & Hutter 2019) shortens the weight directly. Equilibrium of norm and angle, tutorial 04's (4.6), has been worked out for AdamW too
# (Kosson et al. 2024), and explains why its weights rotate alike in all layers.
#
# **bfloat16** has the range of float32 and fewer digits than float16. Squares no longer overflow, so one reason for L1 is gone, and the other one, sums that stall, is worse: at 256 instead of 2,048. Statistics are kept in float32 in practice.
#
# **Normalized weights.** Bounding the norm of a weight instead of decaying it has come back: the weights of nGPT (Loshchilov et al. 2025) and of EDM2 (Karras et al. 2024) are put back to a fixed length after each step, which is the imposed norm of tutorial 04, section 5.

# %% [markdown]
# ## What you have now
#
# - Weight norm (7.1) separates length and direction of each channel; bounded weight norm (7.2) also fixes the length, once for the layer.
# - The backward pass is a projection (7.5): $dv$ is perpendicular to $v$, so $v$ grows and the effective step size falls, without any batch.
# - In other norms, channels of equal L1 norm have nearly equal L2 lengths; with L∞ they have not.
# - Weight norm does not react to the data. What it saves is the batch.
#
# ## Exercises
#
# Each has a cell for your answer and a line that checks it (`exercises.py`). Hints are folded away.
#
# ### Exercise 1
#
# Derive (7.5) for $p = 1$ in full: what is $\nabla S$, and what is $dv$ for an entry $v_j = 0$? Write $dv$ for rows: $dw$ and $v$ of shape $(N, n)$, $g$ of shape $(N,)$.
#
# <details><summary>Hint</summary>
#
# $S = \sum\lvert v_j\rvert$; `np.sign(0)` is 0.
#
# </details>


# %%
def l1_backward(dw, v, g):
    return None  # your answer: dv


print(exercises.check_07_1(l1_backward))

# %% [markdown]
# ### Exercise 2
#
# Bounded weight norm followed by an ordinary batch norm: what does $\rho$ do then? Predict by which factors the output and the gradient of $v$ change when $\rho$ is doubled, then try it with `nn.Sequential(nn.BoundedWeightNorm(nn.Linear(...)), nn.BatchNorm(..., eps=0.0))` (the buffer
# `weight_rho`).
#
# <details><summary>Hint</summary>
#
# What does the batch norm's backward pass divide by? And (7.5) multiplies by?
#
# </details>


# %%
output_times, gradient_times = None, None  # your answers
print(exercises.check_07_2(None if output_times is None else (output_times, gradient_times)))

# %% [markdown]
# ### Exercise 3
#
# In section 6, does it matter that $v$ grows? Train `nn.BoundedWeightNorm` once as it is and once with every channel of every $v$ rescaled to its first length after each step (`lpnorm.decay.NormSchedule` does
# it; call its `apply` in `before_step`). Compare losses and effective step sizes. Does the rescaling itself change the function? Does it change the effective step size of the next step?
#
# <details><summary>Hint</summary>
#
# Which theorem of tutorial 03 tells you the first beforehand?
#
# </details>


# %%
changes_function, changes_step = None, None  # your answers: True or False
print(exercises.check_07_3(None if changes_function is None else (changes_function, changes_step)))

# %% [markdown]
# ## References
#
# - T. Salimans, D. P. Kingma. *Weight normalization.* NeurIPS 2016, [arXiv:1602.07868](https://arxiv.org/abs/1602.07868).
# - J. L. Ba, J. R. Kiros, G. E. Hinton. *Layer normalization.* 2016, [arXiv:1607.06450](https://arxiv.org/abs/1607.06450).
# - B. Zhang, R. Sennrich. *Root mean square layer normalization.* NeurIPS 2019, [arXiv:1910.07467](https://arxiv.org/abs/1910.07467).
# - I. Loshchilov, F. Hutter. *Decoupled weight decay regularization.* ICLR 2019, [arXiv:1711.05101](https://arxiv.org/abs/1711.05101).
# - A. Kosson, B. Messmer, M. Jaggi. *Rotational equilibrium: how weight decay balances learning across neural networks.* ICML 2024, [arXiv:2305.17212](https://arxiv.org/abs/2305.17212).
# - T. Karras, M. Aittala, J. Lehtinen, J. Hellsten, T. Aila, S. Laine. *Analyzing and improving the training dynamics of diffusion models* (EDM2). CVPR 2024, [arXiv:2312.02696](https://arxiv.org/abs/2312.02696).
# - I. Loshchilov, C.-P. Hsieh, S. Sun, B. Ginsburg. *nGPT: normalized transformer with representation learning on the hypersphere.* ICLR 2025, [arXiv:2410.01131](https://arxiv.org/abs/2410.01131).
