# %% [markdown]
# # One backward for every norm
#
# Batch norm divides a batch by its standard deviation. Hoffer, Banner, Golan and Soudry
# (["Norm matters"](https://arxiv.org/abs/1803.01814), NeurIPS 2018) ask what happens if it
# divides by something else: the mean absolute value, the largest absolute value, the mean of the
# ten largest. Each choice needs a backward pass. In this notebook you derive **one** backward pass that
# serves all of them, and you check every step with numbers before you take the next.
#
# **For whom.** You know calculus (partial derivatives, the chain rule) and NumPy. You need not
# have derived a backward pass before.
#
# **How long.** About 30 minutes of reading; the cells run in a few seconds.
#
# **What it needs.** Python 3.10 or later and `lpnorm` with its tutorial extras; how to get them stands in the next cell.
#
# **At the end** you can write down the gradient of any normalizer of the form "centre, measure,
# scale", say which laws it must obey, and write a test that a wrong gradient does not pass.

# %% [markdown]
# ## What you need
#
# Python 3.10 or later and the package `lpnorm` with its tutorial extras. From the folder of a checkout:
#
#     pip install ".[tutorials]"
#
# Where you cannot do that beforehand, remove the `#` in front of `%pip` in the next cell and run it first. Its `..` is the folder
# of the checkout, seen from the notebook; on Colab, bring the checkout there first and write its folder instead.
#
# Two kinds of numbers label the equations. Plain ones, such as **(5)** and **(6)**, are the paper's own, as numbered on the
# authors' poster; **(N1)**, **(N2)**, … belong to this notebook. A line of code that
# computes an equation carries the same number in a comment.

# %%
# # %pip install -q "..[tutorials]"

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import FloatLogSlider, interact

import lpnorm
from lpnorm.experiments.pictures import GREY, look
from lpnorm.norms import as_norm

for package in (lpnorm, np, matplotlib):
    print(f"{package.__name__:10s} {package.__version__}")

# %% [markdown]
# The next cell sets the looks of the pictures and fixes the six norms that appear all the way
# through: a name, what the library calls it (`p`), and a colour (the Okabe–Ito palette, which
# colour-blind readers can tell apart).

# %%
plt.rc("figure", dpi=100)
plt.rc("figure.constrained_layout", use=True)
plt.rc("axes", titlesize=11, axisbelow=True)
plt.rc("axes.spines", top=False, right=False)
plt.rc("legend", frameon=False)
np.set_printoptions(precision=4, suppress=True, linewidth=100)

SUMS = lpnorm.Accumulate("float64")  # how the library is to add up: in float64

NORMS = {"L1": 1, "L2": 2, "L3": 3, "L∞": math.inf}
NORMS |= {"Top-3": lpnorm.TopK(3), "Range": lpnorm.Range()}
COLOR = {name: look(name)["color"] for name in NORMS}


def bars(ax, values, color, **style):
    """One bar per sample, numbered from 1, with a line at zero."""
    numbers = np.arange(1, values.size + 1)
    ax.bar(numbers, values.ravel(), color=color, width=0.7, **style)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(numbers)


# %% [markdown]
# ## 1. What a normalizer does: centre, measure, scale
#
# Take one channel of a batch: $n$ numbers $x_1, \dots, x_n$. A normalizer does three things.
#
# $$
# \underbrace{d_i = x_i - \operatorname{mean}(x)}_{\text{centre}} \qquad
# \underbrace{s = \varphi(d)}_{\text{measure}} \qquad
# \underbrace{\hat x_i = d_i / s}_{\text{scale}}
# \tag{N1}
# $$
#
# The $d_i$ are the *deviations*. The function $\varphi$ turns all of them into one number $s$ that says
# how large they are. Ordinary batch norm takes the standard deviation. The norms of this notebook are
#
# | norm | `p` in the library | statistic of $d$ | constant $C$ | where it is from |
# | --- | --- | --- | --- | --- |
# | L1 | `1` | $\operatorname{mean}\lvert d\rvert$ | $\sqrt{\pi/2}$ | equation (5) |
# | L2 | `2` | $(\operatorname{mean} d^2)^{1/2}$ | $1$ | batch norm (Ioffe & Szegedy 2015) |
# | Lp | a real number $\ge 1$, here `3` | $(\operatorname{mean}\lvert d\rvert^p)^{1/p}$ | $C_p$ | the paper |
# | L∞ | `math.inf` | $\max\lvert d\rvert$ | $C_\infty(n)$ | equation (6) |
# | Top-k | `lpnorm.TopK(k)`, here $k = 3$ | mean of the $k$ largest $\lvert d\rvert$ | $C_\infty(n)$ | the paper |
# | Range | `lpnorm.Range()` | $\max d - \min d$ | $1/\sqrt{2\ln n}$ | Banner et al. 2018, "8-bit training" |
#
# and $\varphi(d) = C \cdot \text{statistic}(d)$. Written out for two of them:
#
# $$ s_{L_1} = C_1 \cdot \frac1n \sum_i \lvert d_i\rvert, \qquad C_1 = \sqrt{\pi/2} \tag{5} $$
#
# $$ s_{L_\infty} = C_\infty(n) \cdot \max_i \lvert d_i\rvert, \qquad
#    C_\infty(n) = \frac{1 + \sqrt{\pi \ln 4}}{2\sqrt{2 \ln n}} \tag{6} $$
#
# $C$ is there to make $s$ an estimate of the standard deviation when the $x_i$ are Gaussian (how good a one, you will see
# in a moment). For the derivation its value does not matter: $C$ does not depend on $d$ and only comes along as a factor.
#
# The library keeps one channel in one **row**, so a batch of $n$ numbers is an array of shape
# `(1, n)`, and several rows are several independent channels. Here is $\varphi$, from the library's parts:


# %%
def phi(d, p):
    """s = C * statistic(d) for each row of d: shape (rows, n) -> (rows, 1)."""
    C = lpnorm.gaussian_constant(p, d.shape[-1])
    statistic = as_norm(p).statistic(d, SUMS)
    return C * statistic  # (5) for p = 1, (6) for p = math.inf


# %% [markdown]
# How near is $s$ to the standard deviation? Draw Gaussian rows with standard deviation 1 and average their $s$. Beside it
# stands the paper's $C$ divided by the library's `constant="exact"`, which is 1 / (expected statistic).

# %%
rows = np.random.default_rng(3).standard_normal((200, 4096))

print("             n = 4,096            n = 802,816")
print("norm    mean s   C / C exact   C / C exact")
C_of = lpnorm.gaussian_constant
for name, p in NORMS.items():
    small, large = (C_of(p, n) / C_of(p, n, "exact") for n in (4096, 802_816))
    print(f"{name:5s}   {phi(rows, p).mean():6.3f}   {small:11.3f}   {large:11.3f}")

# %% [markdown]
# For L1, L2 and Lp, $s$ is right when $n$ is large. The statistics of L∞, Top-k and Range grow with $n$, like $\sqrt{2\ln n}$, and
# the papers' constants follow that growth, but not with the right factor: $s$ comes out too large here, and as $n$ grows the ratio
# tends to $(1 + \sqrt{\pi\ln 4})/2 \approx 1.54$ (L∞, Top-k) and to 2 (Range), not to 1. `constant="exact"` has the right
# factor. We keep the papers' constants, the library's default.

# %% [markdown]
# All six have one property in common, and the whole notebook rests on it. If you double all
# deviations, you double their measure. In general, for every number $a$,
#
# $$ \varphi(a\,d) = \lvert a\rvert\,\varphi(d). \tag{N2} $$
#
# This is called *homogeneous of degree 1*. It is why $\hat x$ does not change when you change
# the unit of $x$. Try it with $a = -2.5$:

# %%
rng = np.random.default_rng(1)
d = rng.standard_normal((1, 8))
a = -2.5

print("norm    phi(a d) / phi(d)")
for name, p in NORMS.items():
    print(f"{name:5s}   {(phi(a * d, p) / phi(d, p)).item():.12f}")  # (N2)

# %% [markdown]
# ## 2. A batch small enough to do by hand
#
# Take six numbers with mean 4:
#
# $$ x = (3,\; 6,\; 1,\; 9,\; 4.5,\; 0.5), \qquad d = (-1,\; 2,\; -3,\; 5,\; 0.5,\; -3.5). $$
#
# Work out each statistic with pencil and paper:
#
# - L1: $(1 + 2 + 3 + 5 + 0.5 + 3.5)/6 = 15/6 = 2.5$
# - L2: $\sqrt{(1 + 4 + 9 + 25 + 0.25 + 12.25)/6} = \sqrt{51.5/6} \approx 2.930$
# - L3: $\big((1 + 8 + 27 + 125 + 0.125 + 42.875)/6\big)^{1/3} = 34^{1/3} \approx 3.240$
# - L∞: $5$
# - Top-3: $(5 + 3.5 + 3)/3 \approx 3.833$
# - Range: $5 - (-3.5) = 8.5$
#
# The library should agree:

# %%
x = np.array([[3, 6, 1, 9, 4.5, 0.5]])
d = x - x.mean()  # (N1), centre
n = x.size

print("d =", d[0])
print("norm   statistic       C   s = C * statistic")
for name, p in NORMS.items():
    statistic = as_norm(p).statistic(d, SUMS).item()
    C = lpnorm.gaussian_constant(p, n)
    print(f"{name:5s}  {statistic:9.4f}  {C:6.4f}  {phi(d, p).item():9.4f}")


# %% [markdown]
# `lpnorm.batch_norm` does all three steps. The argument `axis=0` says that the rows are
# the channels; `gamma` and `beta` are `None` because a learned scale and shift come only in section 6; `eps=0` leaves
# out the small number that protects against division by zero, also until section 6.


# %%
def x_hat_of(x, p, eps=0.0):
    y, _ = lpnorm.batch_norm(x, None, None, p=p, axis=0, eps=eps)
    return y


fig, axes = plt.subplots(1, 4, figsize=(11, 2.7), width_ratios=[1, 1, 1.1, 1])
bars(axes[0], x, GREY)
axes[0].axhline(x.mean(), color="black", linestyle="--", linewidth=1)
axes[0].set(title="a batch: x (dashed: its mean)", xlabel="sample")
bars(axes[1], d, GREY)
axes[1].set(title="centre: d = x − mean", xlabel="sample")
sizes = [phi(d, p).item() for p in NORMS.values()]
axes[2].barh(list(NORMS), sizes, color=list(COLOR.values()), height=0.7)
for row, size in enumerate(sizes):
    axes[2].text(size + 0.1, row, f"{size:.2f}", va="center")
axes[2].invert_yaxis()
axes[2].set(title="measure: s = φ(d)", xlim=(0, 5.6), xlabel="s")
bars(axes[3], x_hat_of(x, 1), COLOR["L1"])
axes[3].set(title="scale: d / s, here L1", xlabel="sample")
plt.show()


# %% [markdown]
# **Figure 1.** *Centre, measure, scale. The first, second and fourth panels show the six samples.
# The third shows how large each norm finds the same deviations: the norms disagree
# about $s$ (the largest is 62 % above the smallest), but once you have divided, they differ by a factor only. The shape of
# $\hat x$ is always that of $d$.*
#
# So the forward pass hardly shows which norm you chose. The backward pass shows it clearly, as you will see in Figure 5.

# %% [markdown]
# ## 3. The gradient of the statistic
#
# The backward pass needs to know how $s$ reacts when one deviation changes:
# $\partial\varphi/\partial d_j$ for each $j$. The vector of these $n$ numbers is the gradient
# $\nabla\varphi$. Take the norms one at a time (without the factor $C$).
#
# **L1.** In $\frac1n\sum_i\lvert d_i\rvert$ only the term $i = j$ contains $d_j$, and the slope of
# $\lvert d_j\rvert$ is $+1$ or $-1$: the derivative is $\operatorname{sign}(d_j)/n$.
#
# **Lp.** Let $M = \big(\frac1n\sum_i\lvert d_i\rvert^p\big)^{1/p}$. The chain rule, outside
# first, gives
#
# $$ \frac{\partial M}{\partial d_j}
#  = \frac1p\Big(\frac1n\sum_i\lvert d_i\rvert^p\Big)^{\frac1p-1} \cdot \frac1n\, p\,\lvert d_j\rvert^{p-1}\operatorname{sign}(d_j)
#  = \frac1n \operatorname{sign}(d_j)\Big(\frac{\lvert d_j\rvert}{M}\Big)^{p-1}. $$
#
# The middle factor was $(M^p)^{1/p - 1} = M^{1-p}$. For $p = 2$ this is $d_j/(nM)$, and for $p = 1$ it is the line above.
#
# **L∞.** Only the largest $\lvert d_j\rvert$ counts: $\operatorname{sign}(d_j)$ there, and 0 for all others.
#
# **Top-k.** $\operatorname{sign}(d_j)/k$ for the $k$ largest $\lvert d_j\rvert$, 0 for the others.
#
# **Range.** $+1$ at the maximum, $-1$ at the minimum, 0 elsewhere.
#
# (At a *kink*, where $d_j = 0$ or two candidates for the maximum tie, there is no derivative. Section 8
# is about those points.)
#
# Every line has the same form: numbers of order one, divided by how many samples are counted. So write
#
# $$ \nabla\varphi = \frac{C}{m}\,h \tag{N3} $$
#
# | norm | $m$ | $h_j$ |
# | --- | --- | --- |
# | L1 | $n$ | $\operatorname{sign}(d_j)$ |
# | L2 | $n$ | $d_j / s$ |
# | Lp | $n\,(M/\max\lvert d\rvert)^{p-1}$ | $\operatorname{sign}(d_j)\,u_j^{p-1}$ with $u_j = \lvert d_j\rvert/\max\lvert d\rvert$ |
# | L∞ | $1$ | $\operatorname{sign}(d_j)$ at the largest $\lvert d_j\rvert$, else 0 |
# | Top-k | $k$ | $\operatorname{sign}(d_j)$ at the $k$ largest, else 0 |
# | Range | $1$ | $1$ at the maximum, $-1$ at the minimum, else 0 |
#
# Why does Lp divide by $\max\lvert d\rvert$ and not by $M$, as in its derivation? Because $(\lvert d_j\rvert/M)^{p-1}$ can be
# as large as $n^{(p-1)/p}$ (all of $d$ in one sample), more than half precision can hold when $n$ and $p$ are large. So $h$ is kept at
# most 1, and $m$ makes up for it: as $p$ goes from 1 to $\infty$, it goes from the $n$ of L1 to the 1 of L∞.
#
# The library keeps $m$ in two factors: `count` is how many samples share the gradient ($n$, $k$ or 1), and `direction` returns
# $h$ together with what is left of $m$, which is 1 except for Lp.


# %%
def h_and_m(d, p):
    """The two parts of the gradient, (N3): h (rows, n), and m, a number or one for each row."""
    h, rest = as_norm(p).direction(d, phi(d, p), SUMS)
    return h, as_norm(p).count(d.shape[-1]) * rest


def grad_phi(d, p):
    """The gradient of phi at each row of d."""
    h, m = h_and_m(d, p)
    return lpnorm.gaussian_constant(p, d.shape[-1]) * h / m  # (N3)


print("d =", d[0])
for name, p in NORMS.items():
    h, m = h_and_m(d, p)
    print(f"{name:5s}  m = {np.asarray(m).item():<5.4g}  h =", h[0] + 0.0)  # + 0.0: no -0


# %% [markdown]
# ### Check: finite differences
#
# How do you check a derivative without deriving it a second time? Move one coordinate a
# little to both sides and see what the function does:
#
# $$ \frac{\partial\varphi}{\partial d_j} \approx \frac{\varphi(d + t\,e_j) - \varphi(d - t\,e_j)}{2t}, $$
#
# where $e_j$ has a 1 at place $j$ and zeros elsewhere. The error shrinks like $t^2$, until rounding takes over; in float64,
# $t = 10^{-5}$ is a good compromise. Since rows are independent, one call evaluates all nudges: row $j$ of
# `z + t * np.eye(n)` is $z$ with coordinate $j$ moved.


# %%
def numerical_gradient(f, z, t=1e-5):
    """Central differences at the row z (1, n) of an f that takes rows (k, n) to k numbers."""
    nudges = t * np.eye(z.size)
    return (f(z + nudges) - f(z - nudges)).reshape(1, -1) / (2 * t)


print("L1, formula:            ", grad_phi(d, 1)[0])
print("L1, finite differences: ", numerical_gradient(lambda rows: phi(rows, 1), d)[0])
print()
print("norm    largest difference")
for name, p in NORMS.items():
    numerical = numerical_gradient(lambda rows, p=p: phi(rows, p), d)
    print(f"{name:5s}   {abs(grad_phi(d, p) - numerical).max():.1e}")

# %% [markdown]
# ### Check: Euler's identity
#
# Homogeneity gives a second check, one without a step size. Differentiate $\varphi(a\,d) = a\,\varphi(d)$
# with respect to $a$. On the left the chain rule gives $\sum_j d_j\,\partial_j\varphi(a\,d)$, on the
# right it is $\varphi(d)$. Now set $a = 1$:
#
# $$ \langle\nabla\varphi(d),\, d\rangle = \varphi(d) = s. \tag{N4} $$
#
# This is Euler's identity. A gradient that misses it is wrong. (The converse does not hold: passing it is no proof.)

# %%
print("norm    <grad phi, d>          s")
for name, p in NORMS.items():
    print(f"{name:5s}   {(grad_phi(d, p) * d).sum():13.10f}  {phi(d, p).item():13.10f}")  # (N4)

# %% [markdown]
# ### Picture
#
# With two deviations only, you can draw all $d$ that have the same measure: the curve on which
# the statistic is 1.

# %%
angle = np.linspace(0, 2 * np.pi, 721)
circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (721, 2): each row is a pair (d1, d2)

fig, axes = plt.subplots(1, 4, figsize=(11, 3.1), sharex=True, sharey=True)
for ax, name in zip(axes, ["L1", "L2", "L3", "L∞"], strict=True):
    norm = as_norm(NORMS[name])
    curve = circle / norm.statistic(circle, SUMS)  # scaled onto statistic = 1, thanks to (N2)
    ax.plot(*curve.T, color=COLOR[name], linewidth=2)
    for degrees in (25, 65, 115, 155, 205, 245, 295, 335):
        point = curve[2 * degrees : 2 * degrees + 1]
        h, rest = norm.direction(point, norm.statistic(point, SUMS), SUMS)
        m = norm.count(2) * rest
        ax.annotate("", (point + h / m)[0], point[0], arrowprops={"arrowstyle": "->", "lw": 1.4})
        ax.plot(*point[0], "o", color="black", markersize=4)
    ax.set(title=name, xlabel="$d_1$", aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
axes[0].set_ylabel("$d_2$")
plt.show()


# %% [markdown]
# **Figure 2.** *Curves on which the statistic is 1, for $n = 2$ (no centring), with its gradient
# at eight points. The arrows are perpendicular to the curve: along the curve the measure does not change. On the
# straight sides of L1 and L∞ the gradient is the same everywhere; for L1 only the signs matter, for
# L∞ only one coordinate. At a corner it jumps from one arrow to another: those are the kinks.*

# %% [markdown]
# ## 4. The chain rule through $\hat x = d / s$
#
# Now the backward pass proper. Somewhere behind the normalizer stands a loss $L$. Backpropagation
# hands us the gradient with respect to the output,
#
# $$ g_i = \frac{\partial L}{\partial \hat x_i}, $$
#
# and asks for the gradient with respect to the input. We go backwards: first through the
# scaling, then through the centring.
#
# If you nudge $d_j$, two things happen. The numerator of $\hat x_j$ moves. And $s$ moves, which
# changes **every** $\hat x_i$. The quotient rule has one term for each:
#
# $$ \frac{\partial\hat x_i}{\partial d_j}
#   = \underbrace{\frac{[i = j]}{s}}_{\text{numerator}}
#   - \underbrace{\frac{d_i}{s^2}\,\frac{\partial\varphi}{\partial d_j}}_{\text{through } s}
#   = \frac1s\Big([i = j] - \hat x_i\,\frac{\partial\varphi}{\partial d_j}\Big), $$
#
# where $[i = j]$ is 1 if $i = j$ and 0 otherwise. These $n \times n$ numbers are the *Jacobian*
# of the scaling step. Here it is by the formula, and its difference from finite differences:


# %%
def jacobian(d, p):
    s = phi(d, p)
    return (np.eye(d.size) - (d / s).T @ grad_phi(d, p)) / s


def numerical_jacobian(d, p, t=1e-5):
    nudges = t * np.eye(d.size)
    up, down = d + nudges, d - nudges
    return ((up / phi(up, p) - down / phi(down, p)) / (2 * t)).T  # row i, column j


print("norm    largest difference")
for name, p in NORMS.items():
    print(f"{name:5s}   {abs(jacobian(d, p) - numerical_jacobian(d, p)).max():.1e}")

# %%
fig, axes = plt.subplots(1, 6, figsize=(11, 2.5), sharey=True)
for ax, (name, p) in zip(axes, NORMS.items(), strict=True):
    image = ax.imshow(phi(d, p) * jacobian(d, p), cmap="PuOr", vmin=-1, vmax=1)
    ax.set(title=name, xlabel="j", xticks=range(6), yticks=range(6))
    ax.set_xticklabels(range(1, 7))
    ax.set_yticklabels(range(1, 7))
axes[0].set_ylabel("i")
fig.colorbar(image, ax=axes, shrink=0.8)
plt.show()

# %% [markdown]
# **Figure 3.** *The Jacobian of $d \mapsto d/s$ (times $s$) for the six-number batch: how much $\hat x_i$ (row)
# reacts to $d_j$ (column); the colour is $s\,\partial\hat x_i/\partial d_j$. Without the term through $s$ each would be 1 on the diagonal and 0
# elsewhere. That term adds column $j$ wherever $d_j$ has a say in $s$: in all columns for L1, L2 and L3, in
# one for L∞ (sample 4), in three for Top-3 (3, 4 and 6), in two for Range (4 and 6). Along
# a row of L1 the entries have the same size, only the sign changes (diagonal aside); L2's matrix is symmetric; row 4 of
# L∞ is zero, because $\hat x_4 = 1/C$ whatever you do to the other samples (as long as sample 4 stays the largest).*
#
# We never build that matrix in practice. The chain rule sums over its rows,
#
# $$ \frac{\partial L}{\partial d_j} = \sum_i g_i\,\frac{\partial\hat x_i}{\partial d_j}
#   = \frac1s\Big(g_j - \sum_i g_i\hat x_i\;\frac{\partial\varphi}{\partial d_j}\Big), $$
#
# and the sum over $i$ is a single number, the same for every $j$. Call it $T$:
#
# $$ \frac{\partial L}{\partial d} = \frac{g - T\,\nabla\varphi}{s}, \qquad T = \sum_i g_i\hat x_i. \tag{N5} $$
#
# To check it we need a loss. Any $g$ will do, so draw one at random and take $L = \sum_i g_i\hat x_i$, whose gradient
# with respect to $\hat x$ is exactly $g$. (Why at random? Section 10.)

# %%
g = np.random.default_rng(2026).standard_normal((1, 6))
print("g =", g[0])

print("norm         T   largest difference")
for name, p in NORMS.items():
    s = phi(d, p)
    T = (g * d / s).sum()
    dL_dd = (g - T * grad_phi(d, p)) / s  # (N5)
    numerical = numerical_gradient(lambda rows, p=p: (g * rows / phi(rows, p)).sum(axis=1), d)
    print(f"{name:5s}  {T:7.4f}   {abs(dL_dd - numerical).max():.1e}")

# %% [markdown]
# ## 5. Through the mean
#
# One step is left: from $d$ back to $x$. Let $q_j = \partial L/\partial d_j$ be what we have
# so far. Since $d_j = x_j - \frac1n\sum_i x_i$,
#
# $$ \frac{\partial d_j}{\partial x_i} = [i = j] - \frac1n
# \qquad\Longrightarrow\qquad
# \frac{\partial L}{\partial x_i} = \sum_j q_j\Big([i = j] - \frac1n\Big) = q_i - \operatorname{mean}(q). \tag{N6} $$
#
# In words: *the backward pass of subtracting the mean is subtracting the mean of the gradient.* The
# check uses a loss on $d$ alone, $L = \sum_j q_j d_j$ with random $q$.

# %%
q = np.random.default_rng(5).standard_normal((1, 6))


def loss_on_d(rows):
    return (q * (rows - rows.mean(axis=1, keepdims=True))).sum(axis=1)


print("q                   ", q[0])
print("q - mean(q)         ", (q - q.mean())[0])  # (N6)
print("finite differences  ", numerical_gradient(loss_on_d, x)[0])

# %% [markdown]
# ## 6. Putting it together
#
# Insert (N5) into (N6). That is the whole backward pass:
#
# $$ \boxed{\; dx = \frac{\,g - \operatorname{mean}(g) - T\,\big(\nabla\varphi - \operatorname{mean}(\nabla\varphi)\big)}{s},
# \qquad T = \sum_i g_i\hat x_i \;} \tag{N7} $$
#
# where $dx$ is the usual short name for $\partial L/\partial x$. The norm enters in one place only, as $\nabla\varphi$. Everything
# else is the same for all.
#
# Two additions make it the layer that networks use.
#
# **γ and β.** The output is $y = \gamma\,\hat x + \beta$ with a learned $\gamma$ and $\beta$ for each channel. If $dy$ is
# the gradient that arrives at $y$, then $g = \gamma\,dy$, and the parameters get $d\gamma = \sum_i dy_i\,\hat x_i$ and
# $d\beta = \sum_i dy_i$.
#
# **eps.** A constant channel has $s = 0$. To be safe, one divides by $\hat s$ instead of $s$:
#
# $$ \hat s = s + \varepsilon \quad\text{(every norm but L2)}, \qquad
#    \hat s = \sqrt{s^2 + \varepsilon} \quad\text{(L2, as in every framework)}. \tag{N8} $$
#
# Then $s$ in (N7) becomes $\hat s$. Adding a number leaves $\nabla\varphi$ as it is, and inside the root
# $\partial\hat s/\partial d_j = d_j/(n\hat s)$, so in the table $h_j = d_j/\hat s$ for L2. That is all. The library keeps $\hat s$ in the cache of the
# forward pass, as `cache.scale`; here with an eps large enough to be seen:

# %%
eps = 0.5
for name in ("L1", "L2", "L∞"):
    p = NORMS[name]
    s = phi(d, p).item()
    _, cache = lpnorm.batch_norm(x, None, None, p=p, axis=0, eps=eps)
    s_hat = math.sqrt(s**2 + eps) if p == 2 else s + eps  # (N8)
    print(f"{name:3s} s = {s:.4f}   (N8): {s_hat:.4f}   cache.scale: {cache.scale.item():.4f}")


# %% [markdown]
# Now check the boxed formula against finite differences of the whole forward pass, and against the library, at first with
# $\varepsilon = 0$ and without γ and β. (Sections 9 and 11 check those.)


# %%
def dx_plain(g, x, p):
    d = x - x.mean()  # (N1)
    s, grad = phi(d, p), grad_phi(d, p)
    T = (g * d / s).sum()
    return (g - g.mean() - T * (grad - grad.mean())) / s  # (N7)


def library_dx(dy, x, p, eps=0.0):
    _, cache = lpnorm.batch_norm(x, None, None, p=p, axis=0, eps=eps)
    dx, _, _ = lpnorm.batch_norm_backward(dy, cache)
    return dx


print("norm    (N7) - finite differences   (N7) - library")
for name, p in NORMS.items():
    dx = dx_plain(g, x, p)
    numerical = numerical_gradient(lambda rows, p=p: (g * x_hat_of(rows, p)).sum(axis=1), x)
    to_numerical, to_library = abs(dx - numerical).max(), abs(dx - library_dx(g, x, p)).max()
    print(f"{name:5s}   {to_numerical:.1e}                     {to_library:.1e}")


# %% [markdown]
# ### The same formula for half precision
#
# Formula (N7) is right, and in float16 it fails. A float16 number has 11 significant bits and a short range: the
# largest is 65,504, the smallest with full precision is $2^{-14} \approx 6 \cdot 10^{-5}$. Below that
# numbers are *subnormal*: they lie on a fixed grid of step $2^{-24} \approx 6\cdot10^{-8}$ and lose digits, down to zero.
#
# The first batch norm of an ImageNet network, with 64 pictures at 112 × 112, has $n = 64 \cdot 112 \cdot 112 = 802{,}816$ values
# in a channel. So $\nabla\varphi$ has entries of size $1/n$, and $T$ is a sum of $n$ terms. One number is too
# small for float16, the other too large, and yet their product is harmless.
#
# The cure is to multiply the two numbers *before* they meet an array. With (N3), $T\,\nabla\varphi = (C\,T/m)\,h$. Collect
# what does not depend on the sample:
#
# $$ dx = \frac{g - b - c\,h}{\hat s}, \qquad c = \frac{C\,T}{m}, \qquad b = \operatorname{mean}(g) - c\,\operatorname{mean}(h). \tag{N9} $$
#
# $b$ and $c$ are one number per channel and can stay in float32. The arrays $g$ and $h$ have entries
# that float16 holds well: $\lvert h\rvert$ is at most 1, and at most $\sqrt n$ (here 896) for L2. This is how the library computes it, for every dtype. First, see that (N9) *is* (N7):


# %%
def dx_scaled(g, x, p):
    d = x - x.mean()
    s = phi(d, p)
    h, m = h_and_m(d, p)
    c = lpnorm.gaussian_constant(p, d.size) * (g * d / s).sum() / m
    b = g.mean() - c * h.mean()
    return (g - b - c * h) / s  # (N9)


for name, p in NORMS.items():
    print(f"{name:5s}  (N9) - (N7): {abs(dx_scaled(g, x, p) - dx_plain(g, x, p)).max():.1e}")

# %% [markdown]
# Now the large batch, with L1. We make $g$ partly similar to $\hat x$, so that
# the terms of $T$ do not cancel. The reference is the library's result in float64 *for the same float16 numbers*.

# %%
rng = np.random.default_rng(6)
N = 64 * 112 * 112
x16 = rng.standard_normal((1, N)).astype(np.float16)
g16 = (0.5 * x16 + rng.standard_normal((1, N))).astype(np.float16)
eps = 2.0**-10  # a float16 channel needs an eps that is not itself subnormal

y, cache = lpnorm.batch_norm(x16.astype(float), None, None, p=1, axis=0, eps=eps)
reference, _, _ = lpnorm.batch_norm_backward(g16.astype(float), cache)
C1 = lpnorm.gaussian_constant(1, N)
T = (g16.astype(float) * y).sum()
c = C1 * T / N
h, _ = h_and_m(x16 - x16.mean(dtype=float), 1)
values = {"T": T, "C/n": C1 / N, "c = C T / n": c, "b": g16.mean(dtype=float) - c * h.mean()}

with np.errstate(over="ignore"):  # the overflow is what we want to see
    print("quantity          exact      as a float16")
    for name, value in values.items():
        print(f"{name:12s}  {value:12.5g}  {np.float16(value):12.5g}")

# %% [markdown]
# $T$ is about 400,000 and becomes infinite. $C/n$ survives as 26 steps of the subnormal grid,
# which is 0.7 % off. The combination $c = CT/n$ is an ordinary number. Now the whole of $dx$, three ways, and
# as a yardstick the exact result rounded to float16:

# %%
# float16 arrays, float32 sums
x_hat16, cache16 = lpnorm.batch_norm(x16, None, None, p=1, axis=0, eps=eps)
s16 = cache16.scale
grad16 = (C1 / N * h).astype(np.float16)  # (N3) in float16: subnormal
T32 = (g16 * x_hat16).sum(dtype=np.float32)
mean_g, mean_grad = g16.mean(dtype=np.float32), grad16.mean(dtype=np.float32)

with np.errstate(over="ignore", invalid="ignore"):
    plain = (g16 - mean_g - np.float16(T32) * (grad16 - mean_grad)) / s16  # (N7), T in float16
    plain_T32 = (g16 - mean_g - T32 * (grad16 - mean_grad)) / s16  # (N7), T in float32
scaled, _, _ = lpnorm.batch_norm_backward(g16, cache16)  # (N9): the library

results = {
    "(N7), T in float16": plain.astype(np.float16),
    "(N7), T in float32": plain_T32.astype(np.float16),
    "(N9), the library": scaled,
    "reference, rounded": reference.astype(np.float16),
}
for name, dx in results.items():
    finite = np.isfinite(dx).mean()
    error = f"{np.sqrt(np.mean((dx - reference) ** 2)):.1e}" if finite == 1 else "-"
    print(f"{name:20s} finite entries: {finite:4.0%}   root mean square error: {error}")
print(f"\nroot mean square of dx: {np.sqrt(np.mean(reference**2)):.2f}")

# %%
fig, ax = plt.subplots(figsize=(10, 2.6))
edges = [1e-9, 2**-25, 2**-14, 65504, 1e8]
labels = ["zero", "subnormal: digits are lost", "float16: 11 significant bits", "infinity"]
shades = ["#d9d9d9", "#fbe6c5", "#dceefb", "#d9d9d9"]
for low, high, label, shade in zip(edges[:-1], edges[1:], labels, shades, strict=True):
    ax.axvspan(low, high, color=shade)
    ax.text(math.sqrt(low * high), 0.93, label, ha="center", va="top", fontsize=9)
for label, value, height, name in [
    ("$C/n$", C1 / N, 0.55, "L2"),
    ("$T$", T, 0.55, "L2"),
    ("$b$", abs(values["b"]), 0.3, "L1"),
    ("$c$", c, 0.3, "L1"),
    ("$h$", 1, 0.55, "L1"),
]:
    ax.plot([value, value], [0, height], color=COLOR[name], linewidth=2)
    ax.plot(value, height, "o", color=COLOR[name])
    ax.text(value, height + 0.06, label, ha="center", fontsize=12, color=COLOR[name])
ax.set(xscale="log", xlim=(1e-9, 1e8), ylim=(0, 1), yticks=[], xlabel="size of the number")
ax.set_title(f"L1 batch norm with n = {N:,}: which numbers fit into float16?")
ax.spines["left"].set_visible(False)
plt.show()

# %% [markdown]
# **Figure 4.** *Where the numbers of the backward pass lie. The two numbers that (N7) multiplies into arrays, $C/n$ and $T$
# (orange), fall into the two bad zones at the ends. In (N9) they have been combined into $c$; $c$ and $h$ (blue) lie where float16 is
# at its best. $b$ is small because $g$ and $h$ have means near zero; it stays in float32, like $c$.*
#
# With $T$ in float16 nothing of $dx$ survives. With $T$ in float32 it is finite, but the 0.7 % error of $C/n$ is in every
# entry, and for $n$ beyond 42 million $C/n$ would round to zero and the term would vanish without a word. The scaled form stays within a
# factor of two of the last line, the error of rounding the exact result to float16, which nothing can beat.

# %% [markdown]
# ## 7. What the norms do to the same gradient
#
# Back to the batch of six. All norms get the same $x$ and the same $dy$ (the $g$ from above). The outlined bars show what the
# gradient would be if $s$ were a constant, $(g - \operatorname{mean}(g))/s$.

# %%
fig, axes = plt.subplots(3, 6, figsize=(11.5, 6), sharex=True, sharey="row")
for column, (name, p) in enumerate(NORMS.items()):
    s = phi(d, p)
    h, m = h_and_m(d, p)
    top, middle, bottom = axes[:, column]
    bars(top, d, GREY)
    top.axhspan(-s.item(), s.item(), color=COLOR[name], alpha=0.25, linewidth=0, zorder=0)
    top.set_ylim(-5.6, 5.6)
    top.set_title(f"{name}\ns = {s.item():.2f}", fontweight="bold")
    bars(middle, h, COLOR[name])
    bars(bottom, library_dx(g, x, p), COLOR[name])
    bars(bottom, (g - g.mean()) / s, "none", edgecolor="black", linewidth=1.1)
    bottom.set_xlabel("sample")
for ax, label in zip(axes[:, 0], ["d, with the band ±s", "h(d)", "dx"], strict=True):
    ax.set_ylabel(label)
fig.align_ylabels()
plt.show()


# %% [markdown]
# **Figure 5.** *Top: the deviations (the same in every column) and how large the norm finds them. Middle: $h$, the part of the
# backward pass that the norm decides (for L3 relative to its largest). Bottom: $dx$ for the same $dy$; outlined, the value without the term through $s$.*
#
# What to see, from left to right:
#
# - **L1** gives all samples the same weight, whatever their size. **L2** weighs them by $d$, **L3** by
#   $d^2$ (with its sign): the higher $p$, the more the large deviations count.
# - **L∞** looks at sample 4 alone. That sample takes the whole correction; the others differ from their outlines by one
#   common shift, the mean of that correction. **Top-3** shares it among three samples. **Range** takes it from the two ends, and because
#   its $h$ sums to zero there is no shift: samples 1, 2, 3 and 5 keep their outlines exactly.
# - If $s$ were a constant, the largest sample (number 4) would get a large positive gradient in every column. But moving it up also enlarges
#   $s$, which shrinks all six $\hat x$. With that counted, its gradient is much smaller (L1), nearly zero (L2, Top-3) or negative (L3, L∞, Range).

# %% [markdown]
# ### Three knobs
#
# What becomes of $dx$ when $p$ grows? When sample 4 moves further out? When the whole batch is measured in another unit, so that
# every $x$ doubles? Write down your three answers first. The picture shows one stop on the way of each.


# %%
def three_knobs(row, p=2.0, sample_4=9.0, unit=1.0):
    """d, h and dx of the batch of six into the three axes of a row, for a real p."""
    moved = unit * np.where(np.arange(6) == 3, sample_4, x)
    deviations = moved - moved.mean()  # (N1), centre
    h, _ = h_and_m(deviations, p)  # (N3)
    for ax, values, limit in zip(
        row, (deviations, h, library_dx(g, moved, p)), (11, 2.5, 0.8), strict=True
    ):
        bars(ax, values, COLOR["L2"])
        ax.set_ylim(-limit, limit)
    row[0].set_ylabel(
        f"p = {p:g}\nsample 4 at {sample_4:g}\nunit × {unit:.3g}", rotation=0, labelpad=45
    )


def columns(row):
    for ax, title in zip(row, ["d", "h(d)", "dx"], strict=True):
        ax.set_title(title)


fig, axes = plt.subplots(4, 3, figsize=(10, 6.5), sharex=True)
stops = [{}, {"p": 8.0}, {"sample_4": 14.0}, {"unit": 2.0}]
for row, stop in zip(axes, stops, strict=True):
    three_knobs(row, **stop)
columns(axes[0])
fig.align_ylabels()
plt.show()


# %% [markdown]
# **Figure 6.** *First row: L2 and the batch as it was. Then one change at a time, all rows with the same axes. With $p = 8$ nearly all of $h$ is
# in sample 4. Moving sample 4 out enlarges $s$, so most of $dx$ shrinks. In another unit $d$ doubles, $h$ stays
# as it was, and $dx$ is halved: that is law 3 of section 9.*
#
# Where a kernel runs, the next cell gives you the three knobs as sliders (a stored notebook shows nothing below it).


# %%
def turn_knobs(p, sample_4, unit):
    _, row = plt.subplots(1, 3, figsize=(10, 2.4))
    three_knobs(row, p, sample_4, unit)
    columns(row)
    plt.show()


unit_slider = FloatLogSlider(value=1, base=2, min=-1, max=1, step=0.25)
_ = interact(turn_knobs, p=(1.0, 12.0, 0.5), sample_4=(-2.0, 15.0, 0.5), unit=unit_slider)

# %% [markdown]
# ## 8. Kinks: ties and zeros
#
# $\lvert d_j\rvert$ has no derivative at $d_j = 0$, and $\max\lvert d\rvert$ has none where two samples tie for the maximum. In
# float16 and with clipped or quantized data both happen often. Which value should a backward pass return?
#
# All our $\varphi$ are convex functions, and convex functions have *subgradients*: a vector $v$ is a
# subgradient at $d$ if the plane through $(d, \varphi(d))$ with slope $v$ never lies above the function,
#
# $$ \varphi(d + u) \;\ge\; \varphi(d) + \langle v, u\rangle \quad\text{for all } u. \tag{N10} $$
#
# The set of them is the *subdifferential*. Where $\varphi$ is smooth it contains the gradient and nothing else. At
# a corner of Figure 2 it contains the arrows from both sides **and everything on the straight line between their tips**.
#
# - **Zeros.** For $\lvert d_j\rvert$ at 0 every slope from $-1$ to $1$ is a subgradient. The library takes $\operatorname{sign}(0) = 0$, the only
#   choice that treats $x$ and $-x$ alike.
# - **Ties.** The library lets the tied samples *share equally*: with two samples tied for the maximum, each gets ½ of
#   its sign.
#
# Two other choices are seen in practice. *Full value for each* tied sample is no subgradient at all. *The first index takes all* is one, but
# then the result depends on the order of the samples. Test (N10) with random directions $u$, on a batch where samples 4 and 6 tie:

# %%
x_tie = np.array([[3, 5.5, 1, 9, 6.5, -1]])
d_tie = x_tie - x_tie.mean()
p = math.inf
C = lpnorm.gaussian_constant(p, 6)
h_shared, _ = h_and_m(d_tie, p)


def h_first_index(d):
    """The first sample that attains the maximum takes all."""
    j = abs(d).argmax()
    return np.sign(d[0, j]) * np.eye(d.size)[[j]]


choices = {
    "shared (library)": h_shared,
    "first index": h_first_index(d_tie),
    "full value each": np.array([[0, 0, 0, 1.0, 0, -1]]),
}

print("d =", d_tie[0])
u = np.random.default_rng(8).standard_normal((10_000, 6))
for name, h in choices.items():
    slack = phi(d_tie + u, p) - phi(d_tie, p) - C * u @ h.T  # (N10): must never be negative
    euler = (C * h * d_tie).sum() / phi(d_tie, p).item()  # (N4): must be 1
    print(f"{name:17s} h = {h[0] + 0.0}   slack >= {slack.min():8.1e}   <C h, d> / s = {euler:.0f}")

# %% [markdown]
# The slack is the left side of (N10) minus the right side. For sharing and for the first index it is never negative, up to
# rounding. The full value fails the inequality, and Euler's identity by a factor of two. Now the order of the
# samples. Swap samples 4 and 6, compute $h$, and swap the answer back. For the shared rule nothing changes;
# "the first index" now chooses the other sample.

# %%
swap = [0, 1, 2, 5, 4, 3]
h_swapped, _ = h_and_m(d_tie[:, swap], p)
h_first_swapped = h_first_index(d_tie[:, swap])
print("             as given                        swapped and swapped back")
print("shared      ", h_shared[0] + 0.0, "   ", h_swapped[0, swap] + 0.0)
print("first index ", h_first_index(d_tie)[0] + 0.0, "         ", h_first_swapped[0, swap] + 0.0)

# %% [markdown]
# What does that mean for the loss? Move sample 4 through the tie and watch.

# %%
t = np.linspace(-2, 2, 401)
rows = np.repeat(x_tie, t.size, axis=0)
rows[:, 3] += t  # each row: the batch with sample 4 moved by t
loss = (g * x_hat_of(rows, p)).sum(axis=1)
slope = library_dx(np.repeat(g, t.size, axis=0), rows, p)[:, 3]
shared = library_dx(g, x_tie, p)[0, 3]
before, after = (library_dx(g, x_tie + nudge * np.eye(6)[3], p)[0, 3] for nudge in (-1e-9, 1e-9))

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
left.plot(t, loss, color=COLOR["L∞"], linewidth=2.5, label="loss, L∞")
near = np.array([-1.1, 1.1])
middle = loss[t.size // 2]
dashed = {"color": "black", "linewidth": 1, "linestyle": "--"}
left.plot(near, middle + before * near, label="slopes before and after", **dashed)
left.plot(near, middle + after * near, **dashed)
left.plot(near, middle + shared * near, ":", color=COLOR["L1"], linewidth=2, label="library")
left.plot(0, middle, "o", color="black")
left.set(xlabel="t: how far sample 4 is moved", ylabel="loss", title="the loss has a kink")
left.legend(loc="lower center")
right.plot(t[t < 0], slope[t < 0], color=COLOR["L∞"], linewidth=2.5)
right.plot(t[t > 0], slope[t > 0], color=COLOR["L∞"], linewidth=2.5)
right.vlines(0, before, after, color=COLOR["L∞"], linewidth=6, alpha=0.3)
right.plot(0, shared, "o", color=COLOR["L1"], markersize=8)
right.text(0.15, shared, "the library: shared", va="center", color=COLOR["L1"])
right.text(-1.9, before - 0.06, "sample 6 is the largest")
right.text(0.35, after - 0.06, "sample 4 is the largest")
right.set(xlabel="t: how far sample 4 is moved", ylabel="dx of sample 4", ylim=(after - 0.1, None))
right.set_title("its slope jumps; the pale bar is allowed")
plt.show()
print(f"slope before {before:.4f}, after {after:.4f}: mean {(before + after) / 2:.4f}")
print(f"library {shared:.4f}")

# %% [markdown]
# **Figure 7.** *Left: the loss when sample 4 crosses the tie with sample 6. Its slope changes abruptly; the library's
# slope (dotted) lies between the two. Right: $dx_4$ along the same path. At the tie every value on the pale bar is allowed,
# and sharing takes the middle.*
#
# The bar is straight for a reason: by (N7), $dx$ depends on $\nabla\varphi$ linearly (plus a constant), so a
# subgradient halfway between two others gives a $dx$ halfway between two others. Here is the test for that, for all six entries
# at once: the shared $dx$ must be the mean of what you get when you break the tie one way and the other.

# %%
nudge = 1e-9 * np.eye(6)[3]
dx_before, dx_after = library_dx(g, x_tie - nudge, p), library_dx(g, x_tie + nudge, p)
print("sample 6 wins  ", dx_before[0])
print("sample 4 wins  ", dx_after[0])
print("their mean     ", ((dx_before + dx_after) / 2)[0])
print("library        ", library_dx(g, x_tie, p)[0])

# %% [markdown]
# The same test works for a zero. In the next batch sample 3 lies exactly on the mean. Under L1 its $h$ is $-1$ a little below the mean, $+1$ a
# little above, and $\operatorname{sign}(0) = 0$ is the middle. An implementation that stores only the bit `d > 0` would return the first line at the
# zero: still a subgradient, but then $x$ and $-x$ are no longer treated alike.

# %%
x_zero = np.array([[3, 6, 4, 9, 1.5, 0.5]])
nudge = 1e-9 * np.eye(6)[2]
dx_below, dx_above = library_dx(g, x_zero - nudge, 1), library_dx(g, x_zero + nudge, 1)
print("d =", (x_zero - x_zero.mean())[0])
print("sample 3 below ", dx_below[0])
print("sample 3 above ", dx_above[0])
print("their mean     ", ((dx_below + dx_above) / 2)[0])
print("library        ", library_dx(g, x_zero, 1)[0])

# %% [markdown]
# **For your own tests.** At a kink do not compare with finite differences. With *three* samples tied for the maximum, moving one of them up
# raises $\max\lvert d\rvert$ and moving it down does not, so the central difference is ½ (times its sign) for each of the three. Together that
# is no subgradient: Euler's identity gives 3/2. The equal share is ⅓ each. So keep test data away from kinks, and test the kinks by
# membership, as above.

# %% [markdown]
# ## 9. The laws
#
# Formula (N7) obeys three laws, whatever the norm. Each follows in a line or two, and each
# makes a test that needs no finite differences.
#
# **Law 1: $\sum_i dx_i = 0$.** Both $g$ and $\nabla\varphi$ appear with their mean taken off. (Reason: adding a number to
# all $x_i$ does not change the output, so the gradient has no component in that direction.)
#
# **Law 2: $\langle dx, d\rangle = 0$ if $\varepsilon = 0$.** (Reason: moving $x$ along $d$ changes
# only the unit, so not the output.) With $\varepsilon$ the output does change a bit. The $d_i$ sum to zero, so the means drop out, and what is left is
#
# $$ \langle dx, d\rangle = \frac{\langle g, d\rangle - T\,\langle\nabla\hat s, d\rangle}{\hat s}
#    = T\,\frac{\hat s - \langle\nabla\hat s, d\rangle}{\hat s}, $$
#
# where $\nabla\hat s$ is the gradient of what we divide by, and $\langle g, d\rangle = \hat s\,T$. If $\varepsilon$ is added to $s$, Euler's identity
# (N4) gives $\langle\nabla\hat s, d\rangle = s$. If it is inside the root, $\langle\nabla\hat s, d\rangle = \sum_i d_i^2/(n\hat s) = s^2/\hat s$. So
#
# $$ \langle dx, d\rangle = T\,\frac{\varepsilon}{\hat s} \;\;\text{(added)}, \qquad
#    \langle dx, d\rangle = T\,\frac{\varepsilon}{\hat s^2} \;\;\text{(inside the root)}. \tag{N11} $$
#
# These are exact, not approximations. A test with $\varepsilon > 0$ need not allow for it: it can compare with this value.
#
# **Law 3: scaling $x$ by $a$ divides $dx$ by $\lvert a\rvert$** (for the same $g$, and $\varepsilon = 0$). In (N7), $g$ stays. For
# $a < 0$, $T$ and $\nabla\varphi$ both change their sign, so their product stays too. Only the division by $s$ notices $a$. This is
# why weights that feed a normalizer get smaller gradients the larger they are, the paper's equation (2).

# %%
rng = np.random.default_rng(9)
x9, g9 = rng.standard_normal((1, 50)), rng.standard_normal((1, 50))
d9 = x9 - x9.mean()
eps, a = 0.1, -3.7

print("         Law 1        Law 2         Law 2, eps = 0.1              Law 3")
print("norm     sum dx       <dx, d>       <dx, d>       by (N11)        ||a| dx(a x) - dx(x)|")
for name, p in NORMS.items():
    dx = library_dx(g9, x9, p)
    y, cache = lpnorm.batch_norm(x9, None, None, p=p, axis=0, eps=eps)
    dx_eps, _, _ = lpnorm.batch_norm_backward(g9, cache)
    T, s_hat = (g9 * y).sum(), cache.scale.item()
    by_law = T * eps / (s_hat**2 if p == 2 else s_hat)  # (N11)
    scaled = abs(abs(a) * library_dx(g9, a * x9, p) - dx).max()
    print(
        f"{name:5s}  {dx.sum():9.1e}    {(dx * d9).sum():9.1e}    "
        f"{(dx_eps * d9).sum():12.9f}  {by_law:12.9f}    {scaled:9.1e}"
    )

# %%
sweep = 10.0 ** np.arange(-8, 1)
factors = 10.0 ** np.arange(-3, 4)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3))
styles = {  # they lie on one another
    "L1": {"markersize": 5},
    "L2": {"markersize": 10, "markerfacecolor": "none"},
    "L∞": {"markersize": 6},
}
for name, style in styles.items():
    style = {"linestyle": "none", "label": name} | look(name) | style
    p = NORMS[name]
    measured, law = [], []
    for eps in sweep:
        y, cache = lpnorm.batch_norm(x9, None, None, p=p, axis=0, eps=eps)
        dx_eps, _, _ = lpnorm.batch_norm_backward(g9, cache)
        s_hat = cache.scale.item()
        measured.append(abs((dx_eps * d9).sum()))
        law.append(abs((g9 * y).sum()) * eps / (s_hat**2 if p == 2 else s_hat))  # (N11)
    left.loglog(sweep, law, color=COLOR[name], linewidth=1.2)
    left.loglog(sweep, measured, **style)
    sizes = [np.linalg.norm(library_dx(g9, a * x9, p)) for a in factors]
    right.loglog(factors, sizes[3] / factors, color=COLOR[name], linewidth=1.2)
    right.loglog(factors, sizes, **style)
left.set(xlabel="eps", ylabel="|⟨dx, d⟩|", title="Law 2: small with eps, and known exactly")
right.set(
    xlabel="a: x is scaled by a", ylabel="length of dx", title="Law 3: inversely proportional"
)
left.legend()
right.legend()
plt.show()

# %% [markdown]
# **Figure 8.** *Laws 2 and 3, measured (markers) and predicted (lines). Left: $\langle dx, d\rangle$ is zero but for eps, and (N11) gives
# the value at every eps, also where eps is as large as $s$. Right: over six decades the gradient shrinks exactly as the input grows.*

# %% [markdown]
# ## 10. A trap: the test that passes `return zeros`
#
# You now have a backward pass and finite differences to test it with. One choice is left: the upstream gradient
# $dy$ of the test. The convenient choices are `dy = np.ones_like(y)` (the loss is `y.sum()`) and `dy = 2 * y`
# (the loss is `(y**2).sum()`). Look at what the right answer is for them, next to a random $dy$:

# %%
rng = np.random.default_rng(10)
x10 = rng.standard_normal((1, 64))
random_dy = rng.standard_normal((1, 64))


def own_power(y, p):
    """The dy of the loss sum |y|**p."""
    return p * np.sign(y) * abs(y) ** (p - 1)


largest = {}
print("largest |dx|   dy = 1          sum |y|^p       random dy")
for name in ("L1", "L2", "L3"):
    p = NORMS[name]
    y = x_hat_of(x10, p, eps=1e-5)
    upstream = [np.ones_like(y), own_power(y, p), random_dy]
    largest[name] = [abs(library_dx(dy, x10, p, eps=1e-5)).max() for dy in upstream]
    print(f"{name:12s}   " + "         ".join(f"{value:.1e}" for value in largest[name]))


# %% [markdown]
# For `dy = 1` the true gradient is zero: $\hat x$ sums to zero whatever $x$ is, so the loss is a constant. For a loss
# $\sum\lvert y\rvert^p$ with the *normalizer's own* $p$ it is zero too, but for eps: the normalizer just made $\operatorname{mean}\lvert\hat x\rvert^p$
# a constant. For L2 that is the popular `(y**2).sum()`. A test with such a $dy$ compares zero with zero,
# at any sensible tolerance for `dy = 1`, and at the tolerance of $10^{-3}$ that is common in float32 for the other.
#
# So give three candidates to the test: the library, a function that returns zeros, and a common mistake (shown here **to be caught**, not
# to be used): the scale treated as a constant, `(g - mean(g)) / s`, which is what you get when the scale is *detached*.


# %%
def dx_zeros(dy, x, p, eps):
    return np.zeros_like(x)


def dx_detached(dy, x, p, eps):
    """WRONG on purpose: treats s as a constant, so the term with T is missing."""
    _, cache = lpnorm.batch_norm(x, None, None, p=p, axis=0, eps=eps)
    return (dy - dy.mean(axis=1, keepdims=True)) / cache.scale


def passes(candidate, dy, p, tolerance=1e-3):
    numerical = numerical_gradient(lambda rows: (dy * x_hat_of(rows, p, eps=1e-5)).sum(axis=1), x10)
    return abs(candidate(dy, x10, p, 1e-5) - numerical).max() < tolerance


y = x_hat_of(x10, 2, eps=1e-5)
upstream = [np.ones_like(y), 2 * y, random_dy]
print("L2              dy = 1   dy = 2y   random dy")
for name, candidate in {"library": library_dx, "zeros": dx_zeros, "detached": dx_detached}.items():
    verdicts = ["pass" if passes(candidate, dy, 2) else "FAIL" for dy in upstream]
    print(f"{name:12s}    {verdicts[0]:6s}   {verdicts[1]:7s}   {verdicts[2]}")

# %%
fig, ax = plt.subplots(figsize=(8, 2.9))
choices_of_dy = ["dy = 1", "dy of $\\sum|y|^p$", "random dy"]
for row, name in enumerate(largest):
    ax.plot(largest[name], [row] * 3, color=GREY, linewidth=0.8, zorder=1)
    for value, marker, label in zip(largest[name], "osD", choices_of_dy, strict=True):
        color = COLOR["L1"] if marker == "D" else COLOR["L2"]
        ax.plot(value, row, marker, color=color, markersize=8, label=label if row == 0 else None)
ax.axvline(1e-3, color="black", linestyle="--", linewidth=1)
ax.text(1.3e-3, -0.52, "tolerance of the test", va="center")
ax.set(
    xscale="log",
    yticks=range(3),
    yticklabels=list(largest),
    ylim=(2.4, -0.8),
    xlabel="largest |dx|, the number the test looks at",
)
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()


# %% [markdown]
# **Figure 9.** *The size of the true gradient for three choices of dy. Left of the dashed line `return zeros` passes. Only a random dy
# puts the test where something can fail.*
#
# The rule: **test a normalizer's backward with a random dy.**

# %% [markdown]
# ## 11. The whole library, all norms, any shape
#
# Time for the full layer: random shapes, a random channel axis, γ, β and eps. An element-by-element check needs two
# evaluations per element. There is a cheaper one. Choose a random direction $v$ (for $x$, γ and β together), move everything along it at once, and compare
# one number:
#
# $$ \langle v_x, dx\rangle + \langle v_\gamma, d\gamma\rangle + \langle v_\beta, d\beta\rangle
#   \;\approx\; \frac{L(\text{all} + t\,v) - L(\text{all} - t\,v)}{2t}, \qquad L = \sum dy \cdot y. $$
#
# Two evaluations, whatever the size. A wrong gradient escapes only if its error happens to be orthogonal to $v$, which
# for a random $v$ practically never happens.
#
# Kinks first: the values must not come near one within a step. The next cell measures how close they are (the smallest
# $\lvert d\rvert$, and the smallest gap between two $\lvert d\rvert$ or two $d$ in a channel) and prints it as "room": it must stay well above
# the step, which is about $10^{-6}$ times the size of $v$.


# %%
def room_before_kinks(x, axis):
    """The smallest distance to a zero or a tie, over all channels."""
    rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    d = rows - rows.mean(axis=1, keepdims=True)
    size = np.sort(abs(d), axis=1)
    return min(size.min(), np.diff(size, axis=1).min(), np.diff(np.sort(d, axis=1), axis=1).min())


def directional_error(x, axis, p, rng, t=1e-6):
    """|<v, gradient> - finite difference|, relative to the larger of the two."""
    channels = x.shape[axis]
    gamma, beta = rng.standard_normal((2, channels))
    dy, v_x = rng.standard_normal((2, *x.shape))
    v_gamma, v_beta = rng.standard_normal((2, channels))

    def loss(t):
        moved = x + t * v_x, gamma + t * v_gamma, beta + t * v_beta
        return (dy * lpnorm.batch_norm(*moved, p=p, axis=axis)[0]).sum()

    _, cache = lpnorm.batch_norm(x, gamma, beta, p=p, axis=axis)
    dx, dgamma, dbeta = lpnorm.batch_norm_backward(dy, cache)
    slope = (v_x * dx).sum() + (v_gamma * dgamma).sum() + (v_beta * dbeta).sum()
    numerical = (loss(t) - loss(-t)) / (2 * t)
    return abs(slope - numerical) / max(abs(slope), abs(numerical))


rng = np.random.default_rng(11)
worst = 0.0
print(f"{'shape':16s} axis   room    " + "".join(f"{name:>9s}" for name in NORMS))
for _ in range(6):
    shape = tuple(int(size) for size in rng.integers(3, 7, size=rng.integers(2, 5)))
    axis = int(rng.integers(len(shape)))
    x11 = rng.standard_normal(shape)
    errors = [directional_error(x11, axis, p, rng) for p in NORMS.values()]
    worst = max(worst, *errors)
    row = "".join(f"{error:9.0e}" for error in errors)
    print(f"{shape!s:16s} {axis:4d}   {room_before_kinks(x11, axis):.0e}  {row}")
print(f"\nworst relative error: {worst:.1e}")

# %% [markdown]
# ### A test without a tolerance
#
# "Small" depends on the problem. A *slope* does not. Compare the loss with its first-order prediction,
#
# $$ R(t) = \big\lvert L(x + t\,v) - L(x) - t\,\langle v, dx\rangle\big\rvert. \tag{N12} $$
#
# Taylor's theorem says: if $dx$ is right, what remains is of second order, $R(t) \sim t^2$. If $dx$ is wrong, a first-order
# part remains, $R(t) \sim t$. On doubly logarithmic axes these are lines with slope 2 and slope 1. No tolerance is needed: look at the slope.

# %%
rng = np.random.default_rng(17)
v = rng.uniform(-1, 1, size=(1, 6))
t = 10.0 ** np.arange(-5, -0.9, 0.5)  # at most 0.1: the batch of section 2 meets no kink on the way


def remainder(candidate, p):
    """(N12) for each t, on the batch of section 2."""
    slope = (v * candidate(g, x, p, 0.0)).sum()
    loss = (g * x_hat_of(x + t[:, None] * v, p)).sum(axis=1)
    return abs(loss - (g * x_hat_of(x, p)).sum() - t * slope)  # (N12)


fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), sharey=True)
print("slope of the remainder    library   scale detached (wrong)")
for name, p in NORMS.items():
    fitted = []
    for ax, candidate in ((left, library_dx), (right, dx_detached)):
        R = remainder(candidate, p)
        ax.loglog(t, R, markersize=5, linewidth=1.2, label=name, **look(name))
        fitted.append(np.polyfit(np.log(t), np.log(R), 1)[0])
    print(f"{name:22s}    {fitted[0]:6.2f}    {fitted[1]:6.2f}")
left.loglog(t, 0.5 * t**2, color="black", linestyle="--", linewidth=1)
right.loglog(t, 3 * t, color="black", linestyle="--", linewidth=1)
left.set(title="the library", xlabel="step t")
right.set(title="scale detached (wrong)", xlabel="step t")
left.text(2e-4, 2e-7, "slope 2", ha="center")
right.text(2e-4, 3e-3, "slope 1", ha="center")
left.set_ylabel("Taylor remainder R(t)")
left.legend(ncols=2, loc="lower right")
plt.show()


# %% [markdown]
# **Figure 10.** *The Taylor remainder for the right gradient (left) and for the one that treats $s$ as a constant (right). Divide $t$ by 10: the
# left curves fall by 100, the right ones by 10. Dashed: lines of slope 2 and slope 1.*
#
# The detached version has the right shape and sums to zero (Law 1), so it looks plausible. The slope gives it away at once.

# %% [markdown]
# ## What you have now
#
# - One formula, (N7), for every normalizer that centres, measures and scales; the norm enters as $\nabla\varphi$ only.
# - Its scaled form, (N9), with $b$ and $c$ in float32, which half precision can hold as long as $c\,h$ itself fits (for L∞ one entry carries all of $c$). It is what `lpnorm.batch_norm_backward` computes:
#   read `normalize_backward` in `lpnorm/batchnorm.py`; you will recognise every line.
# - What to do at kinks: share equally, and test by membership.
# - Three laws, and two ways to test (directional differences, Taylor slopes), always with a random $dy$.
#
# ## Exercises
#
# Each has a cell for your answer and a cell that checks it. The checks run without an error while the answer is empty.
#
# ### Exercise 1: a norm of your own
#
# Someone proposes to mix two norms:
#
# $$ \varphi(d) = \tfrac12\operatorname{mean}\lvert d\rvert + \tfrac12\max\lvert d\rvert. $$
#
# It is homogeneous of degree 1, so everything above applies. Write its gradient for a row `d` of shape `(1, n)` without ties and zeros.
#
# <details><summary>Hint</summary>
#
# The gradient of a sum is the sum of the gradients; both are in the table of section 3. Mind the two different $m$. The place of the maximum
# is `abs(d) == abs(d).max()`.
#
# </details>


# %%
def mixed_gradient(d):
    """The gradient of (mean |d| + max |d|) / 2, shape (1, n)."""
    return None  # your answer


# %%
def check_exercise_1(answer):
    d = np.random.default_rng(101).standard_normal((1, 9))
    got = answer(d)
    if got is None:
        return "Exercise 1: not answered yet."
    if np.shape(got) != d.shape:
        return f"Exercise 1: the shape should be {d.shape}, yours is {np.shape(got)}."

    def mixed(rows):
        return (abs(rows).mean(axis=1) + abs(rows).max(axis=1)) / 2

    wanted, euler = numerical_gradient(mixed, d), (got * d).sum() / mixed(d).item()
    wrong = np.flatnonzero(abs(got - wanted)[0] > 1e-6)
    if wrong.size:
        return (
            f"Exercise 1: not yet; wrong at {wrong.tolist()}, and <answer, d> / phi = {euler:.3f}."
        )
    return "Exercise 1: correct."


print(check_exercise_1(mixed_gradient))


# %% [markdown]
# ### Exercise 2: three wrong backward passes
#
# Three students hand in an L1 backward pass. Each has forgotten one thing. Find out who forgot what **with the laws of section 9
# alone** (you may call the three functions, but do not compare them with the library or with finite differences).
# The things forgotten are, in some order: `"mean of g"`, `"term through s"`, `"division by s"`.
#
# <details><summary>Hint</summary>
#
# Which law breaks if that term is missing? One of the mistakes breaks Law 1, one breaks Law 2, and one breaks neither: only Law 3 sees it.
# Call each function with random `g` and `x` of shape `(1, n)`, and with `2 * x`.
#
# </details>


# %%
def _parts(g, x):
    d = x - x.mean()
    s, grad = phi(d, 1), grad_phi(d, 1)
    return s, (g * d / s).sum() * (grad - grad.mean())


def student_A(g, x):
    s, _ = _parts(g, x)
    return (g - g.mean()) / s


def student_B(g, x):
    _, through_s = _parts(g, x)
    return g - g.mean() - through_s


def student_C(g, x):
    s, through_s = _parts(g, x)
    return (g - through_s) / s


# %%
# Your experiments go here. Try not to read the three functions: call them.
forgotten = {"A": None, "B": None, "C": None}  # your answer


# %%
def check_exercise_2(answer):
    if any(value is None for value in answer.values()):
        return "Exercise 2: not answered yet."
    rng = np.random.default_rng(102)
    x, g = rng.standard_normal((2, 1, 9))
    d = x - x.mean()
    right = 0
    for name, student in {"A": student_A, "B": student_B, "C": student_C}.items():
        dx = student(g, x)
        if abs(dx.sum()) > 1e-9:
            found = "mean of g"
        elif abs((dx * d).sum()) > 1e-9:
            found = "term through s"
        else:
            found = "division by s"
        right += answer[name] == found
    return f"Exercise 2: {right} of 3 correct."


print(check_exercise_2(forgotten))


# %% [markdown]
# ### Exercise 3: a normalizer that does not centre
#
# Some networks leave out the centring: $\hat x = x / \varphi(x)$ (for L2 it is called RMS norm). Write its backward pass for every norm,
# with `phi` and `grad_phi` from above, for `g` and `x` of shape `(1, n)`.
#
# Then think: which of the three laws remain? (The check prints the answer when yours is correct.)
#
# <details><summary>Hint</summary>
#
# Stop the derivation one section earlier. What does $d$ stand for if nothing is subtracted?
#
# </details>


# %%
def uncentred_backward(g, x, p):
    """The gradient of sum(g * x / phi(x)) with respect to x, shape (1, n)."""
    return None  # your answer


# %%
def check_exercise_3(answer):
    rng = np.random.default_rng(103)
    x, g = rng.standard_normal((2, 1, 9))
    x += 0.5
    for name, p in NORMS.items():
        got = answer(g, x, p)
        if got is None:
            return "Exercise 3: not answered yet."
        wanted = numerical_gradient(lambda rows, p=p: (g * rows / phi(rows, p)).sum(axis=1), x)
        if np.shape(got) != x.shape or abs(got - wanted).max() > 1e-6:
            return f"Exercise 3: not yet; for {name} your gradient differs from finite differences."
    return (
        "Exercise 3: correct. Laws 2 (as <dx, x> = 0) and 3 remain. Law 1 is gone: "
        "adding a number to all x does change the output now."
    )


print(check_exercise_3(uncentred_backward))

# %% [markdown]
# ## References
#
# - E. Hoffer, R. Banner, I. Golan, D. Soudry. *Norm matters: efficient and accurate normalization schemes in deep networks.* NeurIPS
#   2018, [arXiv:1803.01814](https://arxiv.org/abs/1803.01814).
# - R. Banner, I. Hubara, E. Hoffer, D. Soudry. *Scalable methods for 8-bit training of neural networks.* NeurIPS 2018,
#   [arXiv:1805.11046](https://arxiv.org/abs/1805.11046).
# - S. Ioffe, C. Szegedy. *Batch normalization: accelerating deep network training by reducing internal covariate shift.* ICML 2015,
#   [arXiv:1502.03167](https://arxiv.org/abs/1502.03167).
