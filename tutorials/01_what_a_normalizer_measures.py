# %% [markdown]
# # What a normalizer measures
#
# A normalizer subtracts the mean of a batch and divides by *how wide the batch is*. Batch norm says how wide with the
# standard deviation. Is that the only number that could say it? What does another number see, and what does
# it overlook? In this notebook you measure the same batches with six rulers, find out where the constants
# $\sqrt{\pi/2}$ and $C_\infty(n)$ of the paper come from, and see what the choice costs in noise and in
# robustness.
#
# The paper is Hoffer, Banner, Golan, Soudry, ["Norm matters"](https://arxiv.org/abs/1803.01814) (NeurIPS 2018).
#
# **For whom.** You know what a mean, a standard deviation and a Gaussian are, and some NumPy. No deep learning is needed yet;
# tutorial 02 goes on with gradients.
#
# **How long.** About 20 minutes of reading; the cells run in a few seconds.
#
# **What it needs.** Python 3.10 or later and `lpnorm` with its tutorial extras: `pip install ".[tutorials]"` in the folder of a
# checkout. Where you cannot do that beforehand (Colab), bring the checkout there, remove the first `#` in the next cell and put the
# checkout's folder in place of `..`.
#
# Equations with a plain number, such as (5), are the paper's; those with an N belong to this notebook. A line of
# code that computes an equation carries its number.

# %%
# # %pip install -q "..[tutorials]"

import math

import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import FloatLogSlider, interact

import lpnorm
from lpnorm import data, models, nn
from lpnorm.experiments.pictures import BLUE, GREEN, GREY, PURPLE, VERMILLION, look

plt.rc("figure", dpi=100)
plt.rc("figure.constrained_layout", use=True)
plt.rc("axes", titlesize=11, axisbelow=True)
plt.rc("axes.spines", top=False, right=False)
plt.rc("legend", frameon=False)

NORMS = {"L1": 1, "L2": 2, "L4": 4, "L∞": math.inf}
NORMS |= {"Top-3": lpnorm.TopK(3), "Range": lpnorm.Range()}
COLOR = {name: look(name)["color"] for name in NORMS}

# %% [markdown]
# ## 1. Six rulers, one batch
#
# Here is a batch of $n = 8$ numbers. First its centre is taken away:
#
# $$ d_i = x_i - \frac1n\sum_j x_j. \tag{N1} $$
#
# The $d_i$ are the *deviations*. Now say with one number how large they are. Some candidates:
#
# | name | statistic of $d$ | in words |
# | --- | --- | --- |
# | L1 | $\operatorname{mean}\lvert d\rvert$ | the average distance from the centre |
# | L2 | $(\operatorname{mean} d^2)^{1/2}$ | the standard deviation |
# | Lp | $(\operatorname{mean}\lvert d\rvert^p)^{1/p}$, any real $p\ge1$ | between and beyond these two |
# | L∞ | $\max\lvert d\rvert$ | the farthest value |
# | Top-k | mean of the $k$ largest $\lvert d\rvert$ | the $k$ farthest values |
# | Range | $\max d - \min d$ | from one end to the other |
#
# Before you run the cell: which will be the smallest, and which the largest? With `constant=None` the library gives the
# plain statistic. It keeps what it divided by in `cache.scale`, and takes several batches at once, one in each row (`axis=0`).


# %%
def measure(rows, p, constant="paper"):
    """What batch norm divides each row by: (batches, n) -> (batches,)."""
    _, cache = lpnorm.batch_norm(rows, None, None, p=p, axis=0, eps=0.0, constant=constant)
    return cache.scale


x = np.array([[2.0, 3.5, 1.0, 4.0, 2.5, 9.0, 0.5, 1.5]])
d = x - x.mean()  # (N1)
for name, p in NORMS.items():
    print(f"{name:5s}  {measure(x, p, constant=None).item():.3f}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3), width_ratios=[3, 2])
numbers = np.arange(1, 9)
left.bar(numbers, d[0], color=GREY, width=0.7)
left.axhline(0, color="black", linewidth=0.8)
for name in ("L1", "L2", "L4", "L∞"):
    left.axhline(measure(x, NORMS[name], None).item(), color=COLOR[name], linewidth=1.5)
    left.text(9.1, measure(x, NORMS[name], None).item(), name, color=COLOR[name], va="center")
left.set(
    title="deviations d, and four statistics as heights",
    xlabel="sample",
    xticks=numbers,
    xlim=(0.3, 9),
)
share = np.abs(d[0])[:, None] ** np.array([1, 2, 4, 16])
share /= share.sum(axis=0)
bottom = np.zeros(4)
for i in range(8):
    color = COLOR["Range"] if i == 5 else "white"
    right.bar(range(4), share[i], bottom=bottom, color=color, edgecolor="black", width=0.7)
    bottom += share[i]
right.set_xticks(range(4), ["p = 1", "p = 2", "p = 4", "p = 16"])
right.set(title="whose say is it? share of $|d_i|^p$ in the sum", yticks=[0, 0.5, 1])
right.text(3, 0.5, "sample\n6", ha="center", va="center")
plt.show()

# %% [markdown]
# **Figure 1.** *Left: the batch without its mean, and what four rulers find. Right: how the sum $\sum_i\lvert d_i\rvert^p$ is made up, one box for each
# sample. For $p = 1$ sample 6 (blue) has less than half of the say, for $p = 4$ nearly all of it. L∞ is the end of that road.*
#
# The order L1 ≤ L2 ≤ L4 ≤ L∞ is no accident: for a mean, a larger $p$ never gives a smaller number. So the rulers do not
# agree even about a harmless batch. To compare them they need a common unit.

# %% [markdown]
# ## 2. A common unit: the Gaussian constant
#
# What should stay the same when you exchange the ruler? The paper's answer: for Gaussian data, $s$ should be the standard deviation.
# So each statistic is multiplied by a constant $C$ with
#
# $$ s = C\cdot\text{statistic}(d), \qquad C = \frac{1}{\mathbb E\,[\text{statistic}(z)]},\quad z\sim\mathcal N(0, 1). \tag{N2} $$
#
# For L1 you can do it with pencil and paper:
#
# $$ \mathbb E\lvert z\rvert = \frac{2}{\sqrt{2\pi}}\int_0^\infty z\,e^{-z^2/2}\,dz = \sqrt{\frac2\pi}
# \qquad\Longrightarrow\qquad s_{L_1} = C_1\cdot\operatorname{mean}\lvert d\rvert,\quad C_1 = \sqrt{\frac\pi2}. \tag{5} $$
#
# For any $p$ the integral is a Gamma function:
#
# $$ C_p = \Big(\mathbb E\lvert z\rvert^p\Big)^{-1/p} = \bigg(\frac{2^{p/2}\,\Gamma\big(\tfrac{p+1}2\big)}{\sqrt\pi}\bigg)^{-1/p}. \tag{N3} $$
#
# Does the library use these numbers? And do a million Gaussian numbers confirm them?

# %%
z = np.random.default_rng(0).standard_normal((1, 1_000_000))
print("p        library's C   by formula   1 / statistic of a million numbers")
for p in (1, 1.5, 2, 3, 4, 8):
    if p == 1:
        formula = math.sqrt(math.pi / 2)  # (5)
    else:
        formula = (2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)) ** (-1 / p)  # (N3)
    library = lpnorm.gaussian_constant(p, z.size)
    sampled = 1 / measure(z, p, constant=None).item()  # (N2)
    print(f"{p:<8g} {library:.4f}        {formula:.4f}       {sampled:.3f}")

# %% [markdown]
# Where in the Gaussian does each $p$ look? The statistic is an integral of $\lvert z\rvert^p$ times the density. The next picture shows that
# product, scaled to area 1: the higher it is, the more the values there count.

# %%
fig, ax = plt.subplots(figsize=(9, 3))
t = np.linspace(0, 6, 601)
density = np.exp(-(t**2) / 2)
ax.fill_between(t, density / np.trapezoid(density, t), color="#eeeeee", label="the density itself")
for p, style in ((1, "-"), (2, "-"), (4, "-"), (8, "--")):
    color = look(f"L{p}")["color"]
    product = t**p * density
    ax.plot(
        t,
        product / np.trapezoid(product, t),
        color=color,
        linestyle=style,
        linewidth=2,
        label=f"p = {p}",
    )
    ax.plot(math.sqrt(p), 0, "^", color=color, clip_on=False, markersize=8)
ax.set(xlabel="|z|", ylabel="weight", xlim=(0, 6), ylim=(0, None))
ax.legend()
plt.show()

# %% [markdown]
# **Figure 2.** *Where an Lp norm looks in a Gaussian. The peak (triangle) is at $\lvert z\rvert = \sqrt p$. L1 looks at ordinary values, L8 at
# values near 2.8, of which one in two hundred is larger.*

# %% [markdown]
# ## 3. The largest of n
#
# L∞ has no such integral. The largest of $n$ numbers depends on $n$: look further, find something more extreme. How does it
# grow? The probability that all $n$ stay below $t$ is $\operatorname{erf}(t/\sqrt2)^n$, so
#
# $$ \mathbb E\big[\max_i\lvert z_i\rvert\big] = \int_0^\infty 1 - \operatorname{erf}\!\big(t/\sqrt2\big)^n\,dt. \tag{N4} $$
#
# For large $n$ it grows like $\sqrt{2\ln n}$, very slowly. The paper takes that growth and puts a factor in front:
#
# $$ s_{L_\infty} = C_\infty(n)\cdot\max_i\lvert d_i\rvert, \qquad C_\infty(n) = \frac{1 + \sqrt{\pi\ln 4}}{2\sqrt{2\ln n}}. \tag{6} $$
#
# The library has both: `constant="paper"` is (6), `constant="exact"` is 1 divided by (N4). Do they agree?

# %%
print("     n   E max|z|   times paper's C   times exact C")
for n in (16, 256, 4096, 65_536):
    t = np.linspace(0, 12, 12_001)
    below = np.array([math.erf(value / math.sqrt(2)) for value in t])
    expected = np.trapezoid(1 - below**n, t)  # (N4)
    paper = (1 + math.sqrt(math.pi * math.log(4))) / (2 * math.sqrt(2 * math.log(n)))  # (6)
    assert math.isclose(paper, lpnorm.gaussian_constant(math.inf, n))
    exact = lpnorm.gaussian_constant(math.inf, n, "exact")
    print(f"{n:6,}   {expected:8.4f}   {paper * expected:15.3f}   {exact * expected:13.4f}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
rng = np.random.default_rng(1)
for n, shade in ((16, "#f2c6de"), (256, "#dc8fbc"), (4096, "#a34a83")):
    largest = measure(rng.standard_normal((2000, n)), math.inf, constant=None)
    left.hist(largest, np.linspace(0.8, 5.5, 60), density=True, color=shade, label=f"n = {n:,}")
left.set(title="the largest |d| of n Gaussian values", xlabel="max |d|", yticks=[])
left.legend(title="2,000 batches each")
sizes = 2 ** np.arange(4, 21, 2)
for name, p in {
    "L1": 1,
    "L∞": math.inf,
    "Top-10": lpnorm.TopK(10),
    "Range": lpnorm.Range(),
}.items():
    ratio = [
        lpnorm.gaussian_constant(p, int(n)) / lpnorm.gaussian_constant(p, int(n), "exact")
        for n in sizes
    ]
    right.plot(sizes, ratio, markersize=4, **look(name))
    right.text(sizes[-1] * 1.5, ratio[-1], name, color=look(name)["color"], va="center")
right.axhline(1, color="black", linestyle=":", linewidth=1)
right.set(
    xscale="log",
    xlabel="n",
    ylim=(0, 2),
    title="s for Gaussian values with deviation 1, paper's constants",
)
plt.show()

# %% [markdown]
# **Figure 3.** *Left: the largest value moves outward as the batch grows, and its spread hardly shrinks. Right: what the papers' constants make of a
# Gaussian with standard deviation 1. L1 is right. L∞ follows the growth in $n$ but comes out 36 to 47 % too large, Range 50 to 85 %; and one constant for every $k$ cannot fit
# Top-10.*
#
# So the paper's L∞ batch norm does not have outputs of deviation 1 but of about 0.7. Does that hurt? Tutorial 05 trains networks
# with both constants to find out. (Everything else in this notebook uses the exact ones.)

# %% [markdown]
# ## 4. How noisy is each ruler?
#
# Now all rulers say 1 on average. But a batch is a sample. Take 2,000 batches of $n$ Gaussian numbers: how much does $s$ differ from
# one batch to the next? That noise goes into every output of the layer. Which ruler do you expect to be the steadiest?

# %%
sizes = [16, 64, 256, 1024]
print("relative spread of s (%)   " + "".join(f"n = {n:<7,}" for n in sizes))
spread = {}
for name, p in NORMS.items():
    rng = np.random.default_rng(2)  # the same batches for every norm
    measured = [measure(rng.standard_normal((2000, n)), p, "exact") for n in sizes]
    spread[name] = [float(s.std() / s.mean()) for s in measured]
    print(f"{name:24s}   " + "".join(f"{100 * value:<11.1f}" for value in spread[name]))

# %%
fig, ax = plt.subplots(figsize=(8, 3.2))
for name, values in spread.items():
    ax.loglog(sizes, values, label=name, markersize=5, **look(name))
ax.loglog(sizes, 1 / np.sqrt(2 * np.array(sizes)), "k:", label=r"$1/\sqrt{2n}$")
ax.set(xlabel="n, values in the batch", ylabel="relative spread of s")
ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
ax.set_yticks([0.02, 0.05, 0.1, 0.2], ["2 %", "5 %", "10 %", "20 %"])
ax.minorticks_off()
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# **Figure 4.** *The noise of each ruler. Both axes are logarithmic. L2 falls like $1/\sqrt{2n}$, and L1 is at most 7 % above it: it gives up almost nothing. L∞,
# Top-3 and Range listen to a few values only and average nothing away: their lines bend to the horizontal.*
#
# This is one reason to expect trouble from L∞ and none from L1. The paper's figures agree: on ImageNet with ResNet-18, L1 trains
# like L2 and L∞ ends 2.5 points worse. (On the small digits of this library no difference can be measured; see tutorial 05.)

# %% [markdown]
# ## 5. One outlier
#
# Now the opposite question. One value of the batch is far off, perhaps by a mistake in the data. How much does $s$ change,
# and with it the output of *every other* sample?

# %%
rng = np.random.default_rng(3)
batch = rng.standard_normal(64)
outlier = np.linspace(0, 20, 81)
rows = np.repeat(batch[None, :], outlier.size, axis=0)
rows[:, 0] = outlier  # each row: the same batch, sample 1 moved out

fig, ax = plt.subplots(figsize=(8, 3.2))
for name, p in NORMS.items():
    s = measure(rows, p, "exact")
    ax.plot(outlier, s / s[0], color=COLOR[name], linewidth=2)
    ax.text(20.3, (s / s[0])[-1], name, color=COLOR[name], va="center")
    at_10, at_20 = s[40] / s[0], s[80] / s[0]
    print(f"{name:5s}  an outlier at 10 multiplies s by {at_10:.2f}, at 20 by {at_20:.2f}")
ax.set(
    xlabel="where the outlier is",
    ylabel="s, relative to no outlier",
    title="one outlier among n = 64",
)
plt.show()

# %% [markdown]
# **Figure 5.** *How one value among 64 changes the measure of all. In L1 every value has the weight $1/n$, and $s$ grows slowly. L∞ is the outlier: at 20 it makes
# $s$ almost six times as large, and all other outputs six times smaller.*
#
# Now put the three quantities together: the norm $p$, the size $n$ of the batch, and the scale of the input. The band is $\pm s$.
# Which of the three changes the *picture*, and which changes only its numbers?


# %%
def band(ax, p, n, scale):
    """n Gaussian values with one outlier, as bars, and the band of plus and minus s."""
    values = np.random.default_rng(4).standard_normal((1, n))
    values[0, n // 3] = 5.0
    values *= scale
    s = measure(values, p, "exact").item()
    ax.bar(np.arange(n), (values - values.mean())[0], color=GREY, width=1.0 if n > 40 else 0.8)
    ax.axhspan(-s, s, color=BLUE, alpha=0.25, linewidth=0)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set(
        ylim=(-6 * scale, 6 * scale),
        xticks=[],
        title=f"p = {p:g}, n = {n}, scale {scale:.3g}\ns = {s:.3g}",
    )


fig, axes = plt.subplots(1, 4, figsize=(11, 3))
for ax, stop in zip(
    axes, [(1, 16, 1.0), (8, 16, 1.0), (8, 128, 1.0), (8, 128, 100.0)], strict=True
):
    band(ax, *stop)
plt.show()

# %% [markdown]
# **Figure 6.** *One change at a time, from left to right. A larger $p$ widens the band, because the outlier counts more. A larger batch makes it narrower again. The
# scale of the input changes the numbers on the axis and nothing else: $s(a\,d) = \lvert a\rvert\,s(d)$ for every norm, so $\hat x = d/s$ stays the same. All
# of tutorial 03 follows from this one line.*
#
# Where a kernel runs, the next cell has three sliders. (A stored notebook shows nothing below it.)


# %%
def show_band(p, n, scale):
    _, ax = plt.subplots(figsize=(7, 3))
    band(ax, p, n, scale)
    plt.show()


scale_slider = FloatLogSlider(value=1, base=10, min=-2, max=2, step=0.5)
_ = interact(show_band, p=(1.0, 16.0, 0.5), n=(6, 256), scale=scale_slider)

# %% [markdown]
# ## 6. Data that is not Gaussian
#
# The constants are made for Gaussian data. What do the rulers say about other shapes with the same standard deviation 1, and about what really
# arrives at the first batch norm of a network? For the latter we take the first convolution of the library's
# network, with untrained weights, on 256 handwritten digits: 16 channels with $256\cdot 8\cdot 8 = 16{,}384$ values each.

# %%
rng = np.random.default_rng(5)
n = 16_384
shapes = {
    "uniform": rng.uniform(-math.sqrt(3), math.sqrt(3), n),
    "Gaussian": rng.standard_normal(n),
    "Laplace": rng.laplace(scale=1 / math.sqrt(2), size=n),
}
seen = []
with nn.watch(lambda layer, y: seen.append(y)):
    models.digits_net(rng=6)(data.digits().test_x[:256])
channels = np.moveaxis(seen[0], 1, 0).reshape(16, -1).astype("float64")  # the convolution's output
assert channels.shape == (16, n)

print("s / standard deviation " + "".join(f"{name:>9s}" for name in NORMS))
for name, values in shapes.items():
    row = [measure(values[None, :], p, "exact").item() / values.std() for p in NORMS.values()]
    print(f"{name:23s}" + "".join(f"{value:9.2f}" for value in row))
ratios = {name: measure(channels, p, "exact") / channels.std(axis=1) for name, p in NORMS.items()}
for text, pick in (("digits, lowest channel", np.min), ("digits, highest channel", np.max)):
    print(f"{text:23s}" + "".join(f"{pick(ratio):9.2f}" for ratio in ratios.values()))

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), width_ratios=[1, 1])
edges = np.linspace(-4, 4, 81)
standard = (channels - channels.mean(axis=1, keepdims=True)) / channels.std(axis=1, keepdims=True)
for row, color in zip(standard, (BLUE, VERMILLION, GREEN, PURPLE), strict=False):
    left.hist(row, edges, histtype="step", density=True, color=color, linewidth=1.3)
left.plot(edges, np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi), "k:", label="Gaussian")
left.set(
    title="four channels behind the first convolution",
    xlabel="d / standard deviation",
    ylim=(0, 1.5),
    yticks=[],
)
left.legend()
for column, (name, ratio) in enumerate(ratios.items()):
    right.plot(np.full(16, column), ratio, linestyle="none", alpha=0.5, markersize=6, **look(name))
right.axhline(1, color="black", linestyle=":", linewidth=1)
right.set_xticks(range(len(NORMS)), list(NORMS))
right.set(
    title="what each norm finds (one dot a channel)",
    ylabel="s / standard deviation",
    ylim=(0, None),
)
plt.show()

# %% [markdown]
# **Figure 7.** *Left: real inputs of a batch norm are far from Gaussian; wherever the picture is background the convolution gives the same value, and that is the peak. Right: so the norms disagree
# about real channels, by a factor that differs from channel to channel.*
#
# Is that bad? A constant factor on $\hat x$ is something the layer's learned $\gamma$ can undo. What matters is that $s$ follows the scale of the
# data, and that each of the rulers does. Calibration for Gaussian data is a convention for where training starts, not a law.

# %% [markdown]
# ## What you have now
#
# - A normalizer divides by a statistic that is proportional to the scale of the data. There are many; a larger $p$ listens more to the extremes.
# - $C$ makes them agree on Gaussian data: (5) and (N3) exactly, (6) up to a factor of 1.4 to 1.5. `constant="exact"` has the right factor.
# - L1 is nearly as steady as L2 and cares less about an outlier. L∞, Top-k and Range are noisy and follow outliers.
# - Real activations are not Gaussian, and need not be.
#
# Next: [02, one backward pass for every norm](02_one_backward_for_every_norm.ipynb).
#
# ## Exercises
#
# ### Exercise 1
#
# For uniform data on $[-\sqrt3, \sqrt3]$ (standard deviation 1) work out $s_{L_1}$ in the limit of large $n$ by hand, with $C_1$ from (5). The table of section 6 has the answer to
# two digits. Then do the same for Laplace data.

# %%
# Exercise 1: your numbers, to compare with the table.

# %% [markdown]
# ### Exercise 2
#
# L1 is 7 % noisier than L2 for Gaussian data (section 4). Is there a distribution for which L1 is the *steadier* one? Repeat the table of section 4 with
# `rng.laplace` and explain what you see with Figure 2.

# %%
# Exercise 2: your code.

# %% [markdown]
# ### Exercise 3
#
# As $p$ grows, the Lp norm of a fixed batch tends to its L∞ norm. Does $C_p$ from (N3) tend to $C_\infty(n)$? Compute `lpnorm.gaussian_constant(p, 256)` for $p$ up
# to 200 and compare with `lpnorm.gaussian_constant(math.inf, 256, "exact")`. What does that mean for L64 batch norm on 256 values: is $s$ near 1 for
# Gaussian data? Measure it, and say which of the two limits ($p\to\infty$, $n\to\infty$) the formula (N3) has taken first.

# %%
# Exercise 3: your code.
