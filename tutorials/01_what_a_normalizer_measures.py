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
# **How long.** About 25 minutes of reading; the cells run in a few seconds.
#
# Equations with a plain number, such as (5), are the paper's; those with two, such as (1.3), belong to this notebook. A line of
# code that computes an equation carries its number.

# %%
# # %pip install -q "..[tutorials]"

import math

import exercises
import figures
import matplotlib.pyplot as plt
import numpy as np
import pictures

import lpnorm
from lpnorm import data, models, nn
from lpnorm.experiments.pictures import look

pictures.style()

NORMS = {"L1": 1, "L2": 2, "L4": 4, "L∞": math.inf}
NORMS |= {"Top-3": lpnorm.TopK(3), "Range": lpnorm.Range()}
COLOR = {name: look(name)["color"] for name in NORMS}

# %% [markdown]
# ## 1. Six rulers, one batch
#
# Here is a batch of $n = 8$ numbers. First its centre is taken away:
#
# $$ d_i = x_i - \frac1n\sum_j x_j. \tag{1.1} $$
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
d = x - x.mean()  # (1.1)
for name, p in NORMS.items():
    print(f"{name:5s}  {measure(x, p, constant=None).item():.3f}")

# %%
figures.figure_01_1(COLOR, NORMS, d, measure, x)

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
# $$ s = C\cdot\text{statistic}(d), \qquad C = \frac{1}{\mathbb E\,[\text{statistic}(z)]},\quad z\sim\mathcal N(0, 1). \tag{1.2} $$
#
# For L1 you can do it with pencil and paper:
#
# $$ \mathbb E\lvert z\rvert = \frac{2}{\sqrt{2\pi}}\int_0^\infty z\,e^{-z^2/2}\,dz = \sqrt{\frac2\pi}
# \qquad\Longrightarrow\qquad s_{L_1} = C_1\cdot\operatorname{mean}\lvert d\rvert,\quad C_1 = \sqrt{\frac\pi2}. \tag{5} $$
#
# For any $p$ the integral is a Gamma function:
#
# $$ C_p = \Big(\mathbb E\lvert z\rvert^p\Big)^{-1/p} = \bigg(\frac{2^{p/2}\,\Gamma\big(\tfrac{p+1}2\big)}{\sqrt\pi}\bigg)^{-1/p}. \tag{1.3} $$
#
# Does the library use these numbers? And do a million Gaussian numbers confirm them?

# %%
z = np.random.default_rng(0).standard_normal((1, 1_000_000))
print("p        library's C   by formula   1 / statistic of a million numbers")
for p in (1, 1.5, 2, 3, 4, 8):
    if p == 1:
        formula = math.sqrt(math.pi / 2)  # (5)
    else:
        formula = (2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)) ** (-1 / p)  # (1.3)
    library = lpnorm.gaussian_constant(p, z.size)
    sampled = 1 / measure(z, p, constant=None).item()  # (1.2)
    print(f"{p:<8g} {library:.4f}        {formula:.4f}       {sampled:.3f}")

# %% [markdown]
# Where in the Gaussian does each $p$ look? The statistic is an integral of $\lvert z\rvert^p$ times the density. The next picture shows that
# product, scaled to area 1: the higher it is, the more the values there count.

# %%
figures.figure_01_2()

# %% [markdown]
# **Figure 2.** *Where an Lp norm looks in a Gaussian. The peak (triangle) is at $\lvert z\rvert = \sqrt p$. L1 looks at ordinary values, L8 at
# values near 2.8, of which one in two hundred is larger.*

# %% [markdown]
# ## 3. The largest of n
#
# L∞ has no such integral. The largest of $n$ numbers depends on $n$: look further, find something more extreme. How does it
# grow? The probability that all $n$ stay below $t$ is $\operatorname{erf}(t/\sqrt2)^n$, so
#
# $$ \mathbb E\big[\max_i\lvert z_i\rvert\big] = \int_0^\infty 1 - \operatorname{erf}\!\big(t/\sqrt2\big)^n\,dt. \tag{1.4} $$
#
# For large $n$ it grows like $\sqrt{2\ln n}$, very slowly. The paper takes that growth and puts a factor in front:
#
# $$ s_{L_\infty} = C_\infty(n)\cdot\max_i\lvert d_i\rvert, \qquad C_\infty(n) = \frac{1 + \sqrt{\pi\ln 4}}{2\sqrt{2\ln n}}. \tag{6} $$
#
# The library has both: `constant="paper"` is (6), `constant="exact"` is 1 divided by (1.4). Do they agree?

# %%
print("     n   E max|z|   times paper's C   times exact C")
for n in (16, 256, 4096, 65_536):
    t = np.linspace(0, 12, 12_001)
    below = np.array([math.erf(value / math.sqrt(2)) for value in t])
    expected = np.trapezoid(1 - below**n, t)  # (1.4)
    paper = (1 + math.sqrt(math.pi * math.log(4))) / (2 * math.sqrt(2 * math.log(n)))  # (6)
    assert math.isclose(paper, lpnorm.gaussian_constant(math.inf, n))
    exact = lpnorm.gaussian_constant(math.inf, n, "exact")
    print(f"{n:6,}   {expected:8.4f}   {paper * expected:15.3f}   {exact * expected:13.4f}")

# %%
figures.figure_01_3(measure)

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
figures.figure_01_4(sizes, spread)

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

figures.figure_01_5(COLOR, NORMS, measure, outlier, rows)

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
    title = f"p = {p:g}, n = {n}, scale {scale:.3g}\ns = {s:.3g}"
    figures.band(ax, (values - values.mean())[0], s, 6 * scale, title)


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
# Three sliders; each is moved by itself, from the third panel on:


# %%
def show_band(p, n, scale):
    _, ax = plt.subplots(figsize=(7, 3))
    band(ax, p, n, scale)


knobs = {"p": [1, 2, 4, 8, 12, 16], "n": [6, 16, 64, 128, 256], "scale": [0.01, 0.1, 1, 10, 100]}
pictures.frames(show_band, {"p": 8, "n": 128, "scale": 1}, **knobs)

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
figures.figure_01_7(NORMS, channels, ratios)

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
# - $C$ makes them agree on Gaussian data: (5) and (1.3) exactly, (6) up to a factor of 1.4 to 1.5. `constant="exact"` has the right factor.
# - L1 is nearly as steady as L2 and cares less about an outlier. L∞, Top-k and Range are noisy and follow outliers.
# - Real activations are not Gaussian, and need not be.
#
# Next: [02, one backward pass for every norm](02_one_backward_for_every_norm.ipynb).
#
# ## Exercises
#
# Each has a cell for your answer and a line that checks it (`exercises.py`). Hints are folded away.
#
# ### Exercise 1
#
# Work out $s_{L_1}$ in the limit of large $n$ by hand, with $C_1$ from (5), for uniform data on $[-\sqrt3, \sqrt3]$ and for Laplace data, both of standard deviation 1. The table of section 6 has the
# answers to two digits; give four.
#
# <details><summary>Hint</summary>
#
# $s = C_1\,\mathbb E\lvert x\rvert$. The Laplace density with standard deviation 1 is $\tfrac1{2b}e^{-\lvert x\rvert/b}$ with $b = 1/\sqrt2$.
#
# </details>


# %%
s_uniform, s_laplace = None, None  # your answers
print(exercises.check_01_1(None if s_uniform is None else (s_uniform, s_laplace)))

# %% [markdown]
# ### Exercise 2
#
# L1 is 7 % noisier than L2 for Gaussian data (section 4). Is there a distribution for which L1 is the *steadier* one? Write a function that draws from it; explain what you see with Figure 2.
#
# <details><summary>Hint</summary>
#
# Which of the two looks at the square of an outlier?
#
# </details>


# %%
def draw(rng, shape):
    return None  # your answer: rng.something(size=shape)


print(exercises.check_01_2(draw))

# %% [markdown]
# ### Exercise 3
#
# As $p$ grows, the Lp norm of a fixed batch tends to its L∞ norm. Does $C_p$ from (1.3) tend to $C_\infty(n)$? Compute `lpnorm.gaussian_constant(p, 256)` for $p$ up
# to 200 and compare with `lpnorm.gaussian_constant(math.inf, 256, "exact")`. What does that mean for L64 batch norm on 256 values: how large is $s$ on average for
# Gaussian data? Which of the two limits ($p\to\infty$, $n\to\infty$) has (1.3) taken first?
#
# <details><summary>Hint</summary>
#
# Draw a few thousand batches of 256 and take the mean of the scales that `measure` gives for $p = 64$.
#
# </details>


# %%
average_s = None  # your answer
print(exercises.check_01_3(average_s))
