# %% [markdown]
# # One backward for every norm
#
# Batch norm divides a batch by its standard deviation. Hoffer, Banner, Golan and Soudry (["Norm matters"](https://arxiv.org/abs/1803.01814), NeurIPS 2018) ask what happens if it
# divides by something else: the mean absolute value, the largest, the mean of the ten largest. Each choice needs a backward pass. You derive the one of ordinary batch norm by hand, see which part
# of it was about L2, and have **one** backward pass for all of them.
#
# **For whom.** You know calculus (partial derivatives, the chain rule) and NumPy. You need not have derived a backward pass before.
#
# **How long.** About 40 minutes of reading; the cells run in a few seconds.
#
# Equations with a plain number are the paper's; those with two, such as (2.1), belong to this notebook. A line of code that computes an equation carries its number.

# %%
# # %pip install -q "..[tutorials]"

import math

import exercises
import matplotlib.pyplot as plt
import numpy as np
import pictures
from pictures import bars, color_of

import lpnorm
from lpnorm.norms import as_norm

pictures.style()
np.set_printoptions(precision=4, suppress=True, linewidth=100)

# %% [markdown]
# ## 1. L2, by hand
#
# Take one channel of a batch, $n$ numbers $x_1, \dots, x_n$. Batch norm (without its learned scale and shift, which come in section 4) does three things: centre, measure, scale.
#
# $$ d_i = x_i - \operatorname{mean}(x), \qquad s = \sqrt{\operatorname{mean}(d^2)}, \qquad \hat x_i = d_i / s. \tag{2.1} $$
#
# Behind it stands a loss $L$. Backpropagation hands us $g_i = \partial L/\partial\hat x_i$ and asks for $\partial L/\partial x_i$, for short $dx_i$. We go backwards, one step at a time.
#
# **Through the division.** Nudge $d_j$, and two things happen: the numerator of $\hat x_j$ moves, and $s$ moves, which changes *every* $\hat x_i$. The quotient rule has a term for each:
#
# $$ \frac{\partial\hat x_i}{\partial d_j} = \underbrace{\frac{[i=j]}{s}}_{\text{numerator}} - \underbrace{\frac{d_i}{s^2}\,\frac{\partial s}{\partial d_j}}_{\text{through } s},
# \qquad \frac{\partial s}{\partial d_j} = \frac{1}{2s}\cdot\frac{2 d_j}{n} = \frac{\hat x_j}{n}. $$
#
# Multiply by $g_i$ and sum over $i$. The sum that comes with the second term is a single number, the same for every $j$; call it $T$:
#
# $$ \frac{\partial L}{\partial d_j} = \frac1s\Big(g_j - T\,\frac{\hat x_j}{n}\Big), \qquad T = \sum_i g_i\hat x_i. \tag{2.2} $$
#
# **Through the mean.** Let $q_j = \partial L/\partial d_j$. Each $d_j$ contains $x_j$ once and every $x_i$ with $-1/n$, so
#
# $$ \frac{\partial L}{\partial x_i} = q_i - \frac1n\sum_j q_j. \tag{2.3} $$
#
# In words: *the backward pass of subtracting the mean is subtracting the mean of the gradient.* Put (2.2) into (2.3). The $\hat x_j$ have mean zero, so of the second term nothing is subtracted, and with $T/n = \operatorname{mean}(g\hat x)$
#
# $$ dx = \frac{g - \operatorname{mean}(g) - \hat x\,\operatorname{mean}(g\,\hat x)}{s}. \tag{2.4} $$
#
# That is the backward pass of batch norm. Is it right? Take six numbers with mean 4 and any $g$, and compare with finite differences of $L = \sum_i g_i\hat x_i$, whose gradient with respect to $\hat x$ is $g$.

# %%
x = np.array([[3, 6, 1, 9, 4.5, 0.5]])  # one channel in one row: shape (1, n)
g = np.random.default_rng(2026).standard_normal((1, 6))


def slopes(f, z, t=1e-5):
    """Central differences at the row z (1, n) of an f that takes rows (k, n) to k numbers."""
    nudges = t * np.eye(z.size)  # row j moves coordinate j
    return (f(z + nudges) - f(z - nudges)).reshape(1, -1) / (2 * t)


def x_hat_l2(rows):
    d = rows - rows.mean(axis=1, keepdims=True)
    return d / np.sqrt((d * d).mean(axis=1, keepdims=True))  # (2.1)


x_hat, s = x_hat_l2(x), np.sqrt(x.var())
dx = (g - g.mean() - x_hat * (g * x_hat).mean()) / s  # (2.4)
print("(2.4)                ", dx[0])
print("finite differences  ", slopes(lambda rows: (g * x_hat_l2(rows)).sum(axis=1), x)[0])

# %% [markdown]
# ## 2. What of this was L2?
#
# Go through section 1 once more and look for the place where it mattered *how* $s$ measures $d$. There is one: $\partial s/\partial d_j = \hat x_j/n$. So let
#
# $$ s = \varphi(d) \tag{2.5} $$
#
# be any measure of the deviations, and keep its gradient $\nabla\varphi$ as it is. (2.2) becomes $\big(g - T\,\nabla\varphi\big)/s$, and (2.3) takes the mean off both terms, for $\nabla\varphi$ need not have mean zero:
#
# $$ \boxed{\; dx = \frac{\,g - \operatorname{mean}(g) - T\,\big(\nabla\varphi - \operatorname{mean}(\nabla\varphi)\big)}{s},
# \qquad T = \sum_i g_i\hat x_i \;} \tag{2.6} $$
#
# That is the whole backward pass, for every norm. What is left is $\nabla\varphi$, norm by norm. With $\varphi = C\cdot\text{statistic}$, where $C$ is a constant that makes $s$ the standard deviation of Gaussian data (tutorials 01 and 05):
#
# | norm | `p` in the library | statistic of $d$ | its gradient, entry $j$ |
# | --- | --- | --- | --- |
# | L1 | `1` | $\operatorname{mean}\lvert d\rvert$ | $\operatorname{sign}(d_j)/n$ |
# | L2 | `2` | $(\operatorname{mean} d^2)^{1/2}$ | $d_j/(n s)$ |
# | Lp | a number $\ge 1$, here `3` | $M = (\operatorname{mean}\lvert d\rvert^p)^{1/p}$ | $\operatorname{sign}(d_j)\,(\lvert d_j\rvert/M)^{p-1}/n$ |
# | L∞ | `math.inf` | $\max\lvert d\rvert$ | $\operatorname{sign}(d_j)$ at the largest, else 0 |
# | Top-k | `lpnorm.TopK(k)`, here `3` | mean of the $k$ largest $\lvert d\rvert$ | $\operatorname{sign}(d_j)/k$ at these, else 0 |
# | Range | `lpnorm.Range()` | $\max d - \min d$ | $1$ at the maximum, $-1$ at the minimum, else 0 |
#
# Two of them as the paper writes them:
#
# $$ s_{L_1} = C_1 \cdot \frac1n \sum_i \lvert d_i\rvert, \qquad C_1 = \sqrt{\pi/2}, \tag{5} $$
#
# $$ s_{L_\infty} = C_\infty(n) \cdot \max_i \lvert d_i\rvert, \qquad C_\infty(n) = \frac{1 + \sqrt{\pi \ln 4}}{2\sqrt{2 \ln n}}. \tag{6} $$
#
# The line of Lp needs the chain rule, outside first: $\frac1p(M^p)^{\frac1p-1}\cdot\frac1n\,p\,\lvert d_j\rvert^{p-1}\operatorname{sign}(d_j)$, and $(M^p)^{\frac1p-1} = M^{1-p}$. The others you can read off. (Where $d_j = 0$ or two values tie for the maximum there is no derivative; tutorial 05 says
# what to do there.)
#
# Here are $\varphi$ and $\nabla\varphi$ from the library's parts, and the boxed formula:

# %%
SUMS = lpnorm.Accumulate("float64")  # how the library is to add up
NORMS = {
    "L1": 1,
    "L2": 2,
    "L3": 3,
    "L∞": math.inf,
    "Top-3": lpnorm.TopK(3),
    "Range": lpnorm.Range(),
}


def phi(d, p):
    """s = C * statistic(d) of each row: (rows, n) -> (rows, 1). (5) for p = 1, (6) for math.inf."""
    return lpnorm.gaussian_constant(p, d.shape[-1]) * as_norm(p).statistic(d, SUMS)  # (2.5)


def grad_phi(d, p):
    """Its gradient, (rows, n): C h / (m a), with h of order one (tutorial 06 says why in parts)."""
    h, a = as_norm(p).direction(d, phi(d, p), SUMS)
    n = d.shape[-1]
    return lpnorm.gaussian_constant(p, n) * h / (as_norm(p).count(n) * a)


def backward(g, x, p):
    d = x - x.mean(axis=1, keepdims=True)
    s, slope = phi(d, p), grad_phi(d, p)
    T = (g * d / s).sum(axis=1, keepdims=True)
    return (g - g.mean() - T * (slope - slope.mean())) / s  # (2.6)


d = x - x.mean()
print("d =", d[0])
for name, p in NORMS.items():
    print(f"{name:6s} s = {phi(d, p).item():6.4f}   grad phi =", grad_phi(d, p)[0] + 0.0)

# %% [markdown]
# Check it by hand: the statistics are $15/6 = 2.5$ (L1), $\sqrt{51.5/6}\approx 2.930$ (L2), $34^{1/3}\approx 3.240$ (L3), $5$, $(5+3.5+3)/3\approx 3.833$ and $8.5$; then each times its $C$.

# %%
fig, axes = plt.subplots(1, 4, figsize=(11, 2.7), width_ratios=[1, 1, 1.1, 1])
bars(axes[0], x, title="a batch: x (dashed: its mean)")
axes[0].axhline(x.mean(), color="black", linestyle="--", linewidth=1)
bars(axes[1], d, title="centre: d = x − mean")
pictures.sizes(axes[2], {name: phi(d, p).item() for name, p in NORMS.items()}, "measure: s = φ(d)")
bars(axes[3], d / phi(d, 1), color_of("L1"), title="scale: d / s, here L1")
plt.show()

# %% [markdown]
# **Figure 1.** *Centre, measure, scale. The norms disagree about $s$ (the largest is 62 % above the smallest), but once you have divided they differ by a factor only: the shape of $\hat x$ is always that of $d$.*
#
# ## 3. Is it right?
#
# **Finite differences**, as in section 1, now for every norm and against the library as well. (`axis=0` says that rows are channels, `None` leaves out scale and shift, and `eps=0` a safeguard that section 4 explains.)


# %%
def library_dx(dy, x, p, eps=0.0):
    _, cache = lpnorm.batch_norm(x, None, None, p=p, axis=0, eps=eps)
    return lpnorm.batch_norm_backward(dy, cache)[0]


def x_hat_of(rows, p, eps=0.0):
    return lpnorm.batch_norm(rows, None, None, p=p, axis=0, eps=eps)[0]


print("norm    (2.6) - finite differences   (2.6) - library")
for name, p in NORMS.items():
    numerical = slopes(lambda rows, p=p: (g * x_hat_of(rows, p)).sum(axis=1), x)
    ours = backward(g, x, p)
    off = abs(ours - numerical).max(), abs(ours - library_dx(g, x, p)).max()
    print(f"{name:6s}  {off[0]:.1e}                     {off[1]:.1e}")

# %% [markdown]
# **Euler's identity**, a check without a step size. If you double all deviations, you double their measure; in general
#
# $$ \varphi(a\,d) = \lvert a\rvert\,\varphi(d), \tag{2.7} $$
#
# *homogeneous of degree 1*. It is why $\hat x$ does not depend on the unit of $x$. Differentiate both sides with respect to $a$ at $a = 1$:
#
# $$ \langle\nabla\varphi(d),\, d\rangle = \varphi(d) = s. \tag{2.8} $$
#
# A gradient that misses it is wrong.

# %%
print("norm    <grad phi, d>          s")
for name, p in NORMS.items():
    print(f"{name:6s} {(grad_phi(d, p) * d).sum():13.10f}  {phi(d, p).item():13.10f}")  # (2.8)

# %% [markdown]
# **A picture.** With two deviations only, you can draw all $d$ that have the same measure.

# %%
pictures.unit_curves({name: NORMS[name] for name in ("L1", "L2", "L3", "L∞")}, grad_phi, phi)
plt.show()

# %% [markdown]
# **Figure 2.** *Curves on which the statistic is 1, for $n = 2$ (no centring), with its gradient at eight points. The arrows are perpendicular to the curve: along it the measure does not change. On the straight sides of L1 and L∞ the gradient is
# the same everywhere; at a corner it jumps.*
#
# ## 4. The layer that networks use
#
# Two additions.
#
# **γ and β.** The output is $y = \gamma\,\hat x + \beta$ with a learned $\gamma$ and $\beta$ for each channel. If $dy$ arrives at $y$, then $g = \gamma\,dy$, and $d\gamma = \sum_i dy_i\,\hat x_i$, $d\beta = \sum_i dy_i$.
#
# **eps.** A constant channel has $s = 0$. To be safe, one divides by $\hat s$:
#
# $$ \hat s = s + \varepsilon \quad\text{(every norm but L2)}, \qquad \hat s = \sqrt{s^2 + \varepsilon} \quad\text{(L2, as in every framework)}. \tag{2.9} $$
#
# In (2.6) $s$ becomes $\hat s$ and $\nabla\varphi$ becomes $\nabla\hat s$. Adding a number leaves the gradient as it is; inside the root $\partial\hat s/\partial d_j = d_j/(n\hat s)$. The library keeps $\hat s$ in the cache of the forward pass; here with an eps large enough to be seen:

# %%
for name in ("L1", "L2", "L∞"):
    p, eps = NORMS[name], 0.5
    s = phi(d, p).item()
    _, cache = lpnorm.batch_norm(x, None, None, p=p, axis=0, eps=eps)
    s_hat = math.sqrt(s**2 + eps) if p == 2 else s + eps  # (2.9)
    print(f"{name:3s} s = {s:.4f}   (2.9): {s_hat:.4f}   cache.scale: {cache.scale.item():.4f}")

# %% [markdown]
# ## 5. What the norms do to the same gradient
#
# All norms get the same six numbers and the same $dy$ (the $g$ from above). The outlined bars show what the gradient would be if $s$ were a constant, $(g - \operatorname{mean}(g))/s$.

# %%
fig, axes = plt.subplots(3, 6, figsize=(11.5, 6), sharex=True, sharey="row")
for column, (name, p) in zip(axes.T, NORMS.items(), strict=True):
    s, slope, color = phi(d, p).item(), grad_phi(d, p), color_of(name)
    bars(column[0], d, title=f"{name}\ns = {s:.2f}")
    column[0].axhspan(-s, s, color=color, alpha=0.25, linewidth=0, zorder=0)
    bars(column[1], slope / abs(slope).max(), color)
    bars(column[2], library_dx(g, x, p), color, constant=(g - g.mean()) / s)
pictures.row_labels(axes, ["d, with the band ±s", "∇φ / its largest", "dx"])

# %% [markdown]
# **Figure 3.** *Top: the deviations and how large the norm finds them. Middle: $\nabla\varphi$, the part of the backward pass that the norm decides. Bottom: $dx$ for the same $dy$; outlined, without the term through $s$.*
#
# - **L1** gives all samples the same weight, whatever their size. **L2** weighs them by $d$, **L3** by $d^2$ (with its sign).
# - **L∞** looks at sample 4 alone. That sample takes the whole correction; the others differ from their outlines by one common shift, its mean. **Top-3** shares it among three. **Range** takes it from the two ends, and because its
#   $\nabla\varphi$ sums to zero there is no shift.
# - If $s$ were a constant, the largest sample would get a large positive gradient in every column. But moving it up also enlarges $s$, which shrinks all six $\hat x$. With that counted, its gradient is much smaller (L1), nearly zero (L2, Top-3) or
#   negative (L3, L∞, Range).
#
# What becomes of $dx$ when $p$ grows? When sample 4 moves further out? When every $x$ doubles? Write down your three answers, then move the knobs.


# %%
def turn_knobs(p, sample_4, unit):
    _, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 2.3))
    moved = unit * np.where(np.arange(6) == 3, sample_4, x)
    deviations = moved - moved.mean()
    bars(left, deviations, title="d", limit=11)
    bars(middle, phi(deviations, p) * grad_phi(deviations, p), title="s ∇φ", limit=11)
    bars(right, library_dx(g, moved, p), title="dx", limit=0.8)


knobs = {"p": [1, 1.5, 2, 4, 8, 12], "sample_4": [-2, 0, 3, 6, 9, 14], "unit": [0.5, 1, 2]}
pictures.frames(turn_knobs, {"p": 2, "sample_4": 9, "unit": 1}, **knobs)

# %% [markdown]
# ## 6. The laws
#
# (2.6) obeys three laws, whatever the norm, and each makes a test that needs no finite differences.
#
# **Law 1: $\sum_i dx_i = 0$.** Both terms have their mean taken off. (Adding a number to all $x_i$ does not change the output, so the gradient has no component in that direction.)
#
# **Law 2: $\langle dx, d\rangle = 0$ if $\varepsilon = 0$.** (Moving $x$ along $d$ changes only the unit.) With $\varepsilon$, the means drop out since the $d_i$ sum to zero, $\langle g, d\rangle = \hat s\,T$, and what is left is $T(\hat s - \langle\nabla\hat s, d\rangle)/\hat s$. By Euler's identity
# $\langle\nabla\hat s, d\rangle$ is $s$ where $\varepsilon$ is added, and $s^2/\hat s$ where it is inside the root. So
#
# $$ \langle dx, d\rangle = T\,\frac{\varepsilon}{\hat s} \;\;\text{(added)}, \qquad \langle dx, d\rangle = T\,\frac{\varepsilon}{\hat s^2} \;\;\text{(inside the root)}. \tag{2.10} $$
#
# These are exact: a test with $\varepsilon > 0$ can compare with this value.
#
# **Law 3: scaling $x$ by $a$ divides $dx$ by $\lvert a\rvert$** (same $g$, $\varepsilon = 0$). $T$ and $\nabla\varphi$ change their sign with $a$, so their product stays; only the division by $s$ notices. This is why weights that feed a normalizer get smaller gradients the larger they are, the paper's
# equation (2) and the subject of tutorial 03.

# %%
rng = np.random.default_rng(9)
x9, g9 = rng.standard_normal((2, 1, 50))
d9, eps, a = x9 - x9.mean(), 0.1, -3.7
print("         Law 1        Law 2         Law 2, eps = 0.1              Law 3")
print("norm     sum dx       <dx, d>       <dx, d>       by (2.10)        ||a| dx(a x) - dx(x)|")
for name, p in NORMS.items():
    dx = library_dx(g9, x9, p)
    y, cache = lpnorm.batch_norm(x9, None, None, p=p, axis=0, eps=eps)
    along = (lpnorm.batch_norm_backward(g9, cache)[0] * d9).sum()
    T, s_hat = (g9 * y).sum(), cache.scale.item()
    law = T * eps / (s_hat**2 if p == 2 else s_hat)  # (2.10)
    scaled = abs(abs(a) * library_dx(g9, a * x9, p) - dx).max()
    sums = f"{dx.sum():9.1e}    {(dx * d9).sum():9.1e}"
    print(f"{name:5s}  {sums}    {along:12.9f}  {law:12.9f}    {scaled:9.1e}")

# %% [markdown]
# ## 7. The whole layer, any shape
#
# Time for the full layer: random shapes, a random channel axis, γ, β and eps. An element-by-element check needs two evaluations per element. A cheaper one moves $x$, γ and β along one random direction $v$ and compares a single number,
#
# $$ \langle v_x, dx\rangle + \langle v_\gamma, d\gamma\rangle + \langle v_\beta, d\beta\rangle \;\approx\; \frac{L(\text{all} + t\,v) - L(\text{all} - t\,v)}{2t}, \qquad L = \sum dy \cdot y. \tag{2.11} $$
#
# A wrong gradient escapes only if its error happens to be orthogonal to $v$. And $dy$ must be random as well: for $dy = 1$ the true gradient is zero (Law 1), so a backward that returns zeros would pass. Tutorial 08 is about such traps.


# %%
def directional_error(x, axis, p, rng, t=1e-6):
    """|left - right| of (2.11), relative to the larger of the two."""
    channels = x.shape[axis]
    gamma, beta, v_gamma, v_beta = rng.standard_normal((4, channels))
    dy, v_x = rng.standard_normal((2, *x.shape))

    def loss(t):
        moved = x + t * v_x, gamma + t * v_gamma, beta + t * v_beta
        return (dy * lpnorm.batch_norm(*moved, p=p, axis=axis)[0]).sum()

    _, cache = lpnorm.batch_norm(x, gamma, beta, p=p, axis=axis)
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(dy, cache)
    slope = (v_x * dx).sum() + (v_gamma * dgamma).sum() + (v_beta * dbeta).sum()
    numerical = (loss(t) - loss(-t)) / (2 * t)  # (2.11)
    return abs(slope - numerical) / max(abs(slope), abs(numerical))


rng = np.random.default_rng(11)
print(f"{'shape':16s} axis" + "".join(f"{name:>9s}" for name in NORMS))
for _ in range(5):
    shape = tuple(int(size) for size in rng.integers(3, 7, size=rng.integers(2, 5)))
    axis, values = int(rng.integers(len(shape))), rng.standard_normal(shape)
    errors = [directional_error(values, axis, p, rng) for p in NORMS.values()]
    print(f"{shape!s:16s} {axis:4d}" + "".join(f"{error:9.0e}" for error in errors))

# %% [markdown]
# ## What you have now
#
# - One formula, (2.6), for every normalizer that centres, measures and scales; the norm enters as $\nabla\varphi$ only. Read `normalize_backward` in `lpnorm/batchnorm.py`: you will recognise every line.
# - Three laws, and two ways to test, always with a random $dy$.
#
# Next: [03, scale invariance](03_scale_invariance.ipynb), or [05](05_l1_linf_topk.ipynb) for constants and kinks, [06](06_float16_bit_by_bit.ipynb) for half precision, [08](08_is_my_implementation_right.ipynb) for tests.
#
# ## Exercises
#
# Each has a cell for your answer and a line that checks it (`exercises.py`). Hints are folded away.
#
# ### Exercise 1
#
# Someone proposes to mix two norms, $\varphi(d) = \tfrac12\operatorname{mean}\lvert d\rvert + \tfrac12\max\lvert d\rvert$. It is homogeneous of degree 1, so everything above applies. Write its gradient for a row `d` of shape `(1, n)` without ties and zeros.
#
# <details><summary>Hint</summary>
#
# The gradient of a sum is the sum of the gradients; both are in the table of section 2. The place of the maximum is `abs(d) == abs(d).max()`.
#
# </details>


# %%
def mixed_gradient(d):
    return None  # your answer: shape (1, n)


print(exercises.check_02_1(mixed_gradient))

# %% [markdown]
# ### Exercise 2
#
# Three students hand in an L1 backward pass (without $C$ and eps). Each has forgotten one thing. `exercises.students(g, x)` gives the three $dx$ for any `g` and `x` of shape `(1, n)`. Find out who forgot what **with the laws of section 6 alone**. The things forgotten are, in some order, `"mean of g"`,
# `"term through s"`, `"division by s"`.
#
# <details><summary>Hint</summary>
#
# Which law breaks if that term is missing? One of the mistakes breaks Law 1, one breaks Law 2, and one breaks neither: only Law 3 sees it. Try `x` and `2 * x`.
#
# </details>

# %%
forgotten = None  # your answer: {"A": ..., "B": ..., "C": ...}
print(exercises.check_02_2(forgotten))

# %% [markdown]
# ### Exercise 3
#
# Some networks leave out the centring: $\hat x = x / \varphi(x)$ (for L2 it is called RMS norm). Write its backward pass for every norm, with `phi` and `grad_phi` from above, for `g` and `x` of shape `(1, n)`. Which of the three laws remain?
#
# <details><summary>Hint</summary>
#
# Stop the derivation one step earlier. What does $d$ stand for if nothing is subtracted?
#
# </details>


# %%
def uncentred_backward(g, x, p):
    return None  # your answer: the gradient of sum(g * x / phi(x, p)), shape (1, n)


print(exercises.check_02_3(uncentred_backward))

# %% [markdown]
# ## References
#
# - E. Hoffer, R. Banner, I. Golan, D. Soudry. *Norm matters: efficient and accurate normalization schemes in deep networks.* NeurIPS 2018, [arXiv:1803.01814](https://arxiv.org/abs/1803.01814).
# - R. Banner, I. Hubara, E. Hoffer, D. Soudry. *Scalable methods for 8-bit training of neural networks.* NeurIPS 2018, [arXiv:1805.11046](https://arxiv.org/abs/1805.11046).
# - S. Ioffe, C. Szegedy. *Batch normalization: accelerating deep network training by reducing internal covariate shift.* ICML 2015, [arXiv:1502.03167](https://arxiv.org/abs/1502.03167).
