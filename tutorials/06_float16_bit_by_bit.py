# %% [markdown]
# # float16, bit by bit: where L2 breaks and L1 does not
#
# Sixteen bits a number instead of 32: half the memory, half the traffic, and on many chips several times the speed. Networks were trained
# that way before this paper, but batch norm stayed in float32: it was said to need the precision. Does it? In this notebook you look at the
# bits, find the two places where the L2 norm loses its numbers, see that L1 loses them too if you add up in the wrong order, draw the map of
# what works at which scale, predict that map, and train a network entirely in float16.
#
# The paper is Hoffer, Banner, Golan, Soudry, ["Norm matters"](https://arxiv.org/abs/1803.01814) (NeurIPS 2018); this is its claim about half
# precision, for the norm in equation (5).
#
# **For whom.** You have read tutorial 01 (what a normalizer measures); section 6 uses the backward pass of tutorial 02. You need not know anything
# about floating point.
#
# **How long.** About 50 minutes of reading; the cells run in about a minute, most of it training.
#
# Equations with a plain number are the paper's; those with two, such as (6.1), belong to this notebook. A line of code that computes an equation carries its number.

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
from lpnorm import data, decay, models, nn, training
from lpnorm.experiments import half_range
from lpnorm.experiments.half_precision import HalfRun
from lpnorm.experiments.pictures import BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from lpnorm.experiments.runs import final_accuracy

pictures.style()
quiet = functools.partial(np.errstate, all="ignore")  # here an overflow is a result

# %% [markdown]
# ## 1. Sixteen bits
#
# A float16 has one bit $S$ for the sign, five for the exponent (an integer $E$ from 0 to 31), and ten for the fraction (an integer $F$ from 0 to
# 1,023). They mean
#
# $$ v = (-1)^S\cdot\begin{cases} 2^{E-15}\,(1 + F/1024) & 1\le E\le 30,\\ 2^{-14}\cdot F/1024 & E = 0 \text{ (subnormal)},\\ \infty \text{ if } F = 0, \text{ else NaN} & E = 31.\end{cases} \tag{6.1} $$
#
# Before you run the cell: what is the largest finite number, and what the smallest above 0?


# %%
def fields(value):
    """S, E and F of a float16."""
    bits = int(np.float16(value).view("uint16"))
    return bits >> 15, bits >> 10 & 31, bits & 1023


def decode(sign, exponent, fraction):
    """The value of finite bits, in Python's float64."""
    if exponent == 0:
        return (-1) ** sign * 2.0**-14 * fraction / 1024  # (6.1)
    return (-1) ** sign * 2.0 ** (exponent - 15) * (1 + fraction / 1024)  # (6.1)


for value in (1, -2.5, 0.1, 300, 65504, 2**-14, 2**-24):
    s, e, f = fields(value)
    print(f"{value:<22} S {s}  E {e:2d}  F {f:4d}   stands for {decode(s, e, f)}")
    assert decode(s, e, f) == np.float16(value)

# %%
with quiet():
    shown = {
        "1": np.float16(1),
        "0.1": np.float16(0.1),
        "300": np.float16(300),
        "300 · 300": np.float16(300) * np.float16(300),
        "2⁻¹³": np.float16(2**-13),
        "2⁻¹³ · 2⁻¹³": np.float16(2**-13) * np.float16(2**-13),
        "the largest": np.float16(65504),
        "the smallest": np.float16(2**-24),
    }
figures.figure_06_1(shown)

# %% [markdown]
# **Figure 1.** *Eight float16 numbers and their bits (filled: 1). Right: the value they stand for. 0.1 is not among the float16 numbers; its nearest neighbour is taken. The two products in orange are
# what this notebook is about: 90,000 is above the largest number and becomes infinity, $2^{-26}$ is below the smallest and becomes 0.*

# %% [markdown]
# ## 2. How far apart
#
# Between 1 and 2 there are 1,024 numbers; between 1,024 and 2,048 there are 1,024 as well, so there the neighbours are 1 apart. Above 2,048 float16
# has no odd integers. There are so few of them that we can draw them all: 31,743 finite positive numbers.

# %%
every = np.arange(1, 0x7C00, dtype="uint16").view("float16")  # all finite positive ones, in order
gap = np.spacing(every[:-1]).astype("float64")
figures.figure_06_2(every, gap)
print(f"{len(every):,} numbers from {every[0]} to {every[-1]}")

# %% [markdown]
# **Figure 2.** *Left: the distance between neighbours doubles with every power of two; below $2^{-14}$ it stays $q = 2^{-24}$. Right: so rounding costs at most $u = 2^{-11}$, a twentieth of a percent, anywhere from $2^{-14}$ to 65,504, and
# up to everything below.*
#
# Arithmetic takes the exact result and rounds it to the nearest number. So for $+$, $-$, $\times$, $\div$ and $\sqrt{\ }$
#
# $$ \mathrm{fl}(a\circ b) = (a\circ b)(1+\delta),\quad \lvert\delta\rvert\le u = 2^{-11}, \qquad\text{if } 2^{-14}\le\lvert a\circ b\rvert < 65{,}520, \tag{6.2} $$
#
# with an absolute error of up to $q/2 = 2^{-25}$ below that range, and $\infty$ above it. Is that true of NumPy? Exact products of two float16 numbers fit in a float64, so we can look:

# %%
a, b = np.random.default_rng(0).choice(every, (2, 500_000))
with quiet():
    got, exact = a * b, a.astype("float64") * b.astype("float64")
inside = (exact >= 2.0**-14) & (exact < 65520)
delta = abs(got[inside] / exact[inside] - 1)  # (6.2)
print(
    f"inside the range: {inside.mean():.0%} of the products, largest delta = {delta.max() * 2**11:.4f} u"
)
below = exact < 2.0**-14
print(f"below it: largest error {abs(got[below] - exact[below]).max() * 2**24:.4f} q")
print(f"above it: all infinite? {np.isinf(got[exact >= 65520]).all()}")

# %% [markdown]
# A twentieth of a percent does not hurt a normalizer. What hurts is leaving the range. Its ends are 30 powers of two apart, subnormals not counted. That
# sounds like a lot. What takes half of it away at one stroke?

# %% [markdown]
# ## 3. Squaring
#
# L2 and L1 measure the deviations $d_i = x_i - \mu$ by
#
# $$ s_{L_2} = \Big(\frac1n\sum_i d_i^2\Big)^{1/2}, \tag{6.3} $$
#
# $$ s_{L_1} = C_1\cdot\frac1n\sum_i\lvert d_i\rvert, \qquad C_1 = \sqrt{\pi/2}. \tag{5} $$
#
# A square doubles the exponent. So $d^2$ leaves the range from $\lvert d\rvert = 256$ on ($2^8$ squared is $2^{16}$), loses bits as soon as it is subnormal ($\lvert d\rvert < 2^{-7}$), and is 0 below about $2^{-12.5}$.
# $\lvert d\rvert$ has none of these troubles: it clears one bit. Take every float16 there is, square it, take the root: what comes back?

# %%
with quiet():
    back = np.sqrt(every * every)  # float16 throughout
    error = abs(back.astype("float64") / every.astype("float64") - 1)
infinite, zero = np.isinf(back), back == 0
fine = ~infinite & (error < 0.01)
figures.figure_06_3(error, every, infinite, zero)
print(f"d*d is 0 up to        d = {every[zero].max():.3e} = 2^{math.log2(every[zero].max()):.2f}")
print(
    f"within 1 % always from d = {every[~fine & ~infinite].max():.3e} = 2^{math.log2(every[~fine & ~infinite].max()):.2f}"
)
print(f"d*d is infinite from  d = {every[infinite].min()}")
print(
    f"of all {len(every):,} numbers {np.mean(zero | infinite):.0%} are lost and {1 - np.mean(fine):.0%} are not within 1 %"
)

# %% [markdown]
# **Figure 3.** *Square and root of every positive float16 number; a dot is a number that does not come back as it was. From $2^{-7}$ to $2^8$ there is no dot: the square is rounded, but the root halves its error and rounds it away. Further left the square is subnormal, and the error
# grows by a factor of 4 per power of two. In the orange regions nothing is left.*
#
# Here is what a batch norm makes of this. Eight samples, multiplied by a scale; everything in float16, the sums in float32 so that nothing but the squares can be at fault. Batch norm should not feel the scale at all (tutorial
# 01, Figure 6), so all bars of a colour should be alike.


# %%
z = np.random.default_rng(1).standard_normal((1, 8))


def x_hat(rows, p, accumulate="float32", constant="paper"):
    """Batch norm of each row without eps, in the dtype of rows: (batches, n) -> (batches, n)."""
    with quiet():
        return lpnorm.batch_norm(
            rows, None, None, p=p, axis=0, eps=0.0, constant=constant, accumulate=accumulate
        )


def bars(ax, exponent):
    rows = (z * 2.0**exponent).astype("float16")
    both = {p: x_hat(rows, p) for p in (1, 2)}
    outputs = {f"L{p}: s = {cache.scale.item():.3g}": y[0] for p, (y, cache) in both.items()}
    figures.two_bars(ax, outputs, f"scale $2^{{{exponent}}}$")


fig, axes = plt.subplots(1, 4, figsize=(11.5, 3), sharey=True)
for ax, exponent in zip(axes, (-14, -12, 0, 8), strict=True):
    bars(ax, exponent)
axes[0].set_ylabel("output")
plt.show()

# %% [markdown]
# **Figure 4.** *The same batch at four scales under L1 (blue) and L2 (orange). A cross: infinite or not a number. At $2^{-14}$ the squares are 0, and L2 divides by 0. At $2^{-12}$ they are 0, 1 or 2 times $q$,
# and the output has the right signs and the wrong size. At $2^8$ one square is infinite, hence $s$ too, and all outputs are 0: no infinity is left for you to notice, the layer has only become constant. L1 gives the same picture everywhere.*
#
# Look for the ends yourself:


# %%
def show_scale(exponent):
    _, ax = plt.subplots(figsize=(5, 3))
    bars(ax, exponent)


pictures.frames(show_scale, {"exponent": 0}, exponent=range(-22, 15, 2))

# %% [markdown]
# ## 4. Adding up
#
# So L1 is safe? It has no square, but it has a sum. On paper a sum is a sum. In float16 there are several, because each addition rounds, and
# the library makes you say which one you mean. `lpnorm.Accumulate(dtype, order)` has three orders:
#
# - `"sequential"`: $((a_0 + a_1) + a_2) + \dots$, one after another, as in a loop;
# - `"pairwise"`: a tree, halves onto halves;
# - `"pairwise_mean"`: the same tree with $\tfrac a2 + \tfrac b2$ instead of $a + b$.
#
# Add up ones. What do you expect at $n = 4{,}096$?

# %%
Accumulate = lpnorm.Accumulate
ORDERS = {"sequential": PURPLE, "pairwise": ORANGE, "pairwise_mean": GREEN}
print("   n        " + "".join(f"{order:>15}" for order in ORDERS) + "    mean of n ones")
for n in (1024, 2048, 4096, 65_536, 131_072):
    ones = np.ones((1, n), "float16")
    with quiet():
        means = [Accumulate("float16", order).average(ones).item() for order in ORDERS]
    print(f"{n:9,}   " + "".join(f"{mean:15.4g}" for mean in means))

# %% [markdown]
# **One after another stalls.** While the sum is between $2^e$ and $2^{e+1}$ its neighbours are $g = 2^{e-10}$ apart. A term $t$ that is smaller than half of that is rounded away,
#
# $$ \mathrm{fl}(S + t) = S \qquad\text{if } t < \tfrac12\,2^{e-10},\quad 2^e\le S < 2^{e+1}, \tag{6.4} $$
#
# which is certain once $S \ge 2^{12}\,t$. With ones it stops at 2,048: the next would be 2,049, which does not exist. (2,049 lies halfway, and a tie goes to the even neighbour.)
#
# **A tree of sums overflows.** It adds numbers of equal size, so nothing is rounded away, but the sum itself has to fit. 65,536 ones do not.
#
# **A tree of averages** does neither: no node is larger than the largest of the $a_i$. Watch all three from inside, with the absolute values of Gaussian numbers as L1 adds them. (A node of the tree is the sum of every
# $2^l$-th value, so the library gives the nodes of a level as the sums of smaller groups.)

# %%
a = abs(np.random.default_rng(2).standard_normal((1, 2**16))).astype("float16")
figures.figure_06_5(Accumulate, a, quiet)

# %% [markdown]
# **Figure 5.** *Left: the float16 sum of $\lvert z\rvert$, one after another, leaves the exact sum and then stands still. Middle: the nodes of the tree of sums, from the smallest to the largest of each level; at scale 16 (upper band) the tree reaches 65,504 and overflows (cross).
# Right: the tree of averages. The nodes come closer and closer to the mean, whatever the scale.*
#
# What does the mean lose, as the group grows?

# %%
sizes = 2 ** np.arange(1, 18)
figures.figure_06_6(Accumulate, ORDERS, quiet, sizes)

# %% [markdown]
# **Figure 6.** *The mean of $n$ float16 values, added up in float16 (median over many groups). One after another it is 1 % off between 1,024 and 2,048 values: a batch of 64 pictures of 32 by 32 pixels has 65,536 a channel. The tree of sums (broad line) is as good as the tree of averages
# until it overflows (cross). With trees the error hardly grows.*
#
# The order is not a detail of the implementation. It decides whether there is a result.

# %% [markdown]
# ## 5. The map
#
# Two ends of the range, three orders, several norms. Let us ask every combination: at which input scales ($2^{-24}$ to $2^{15}$) and for which $n$ is $\hat x$ in float16 within 1 % of float64? This is
# the library's own experiment (`lpnorm reproduce half-range` does it up to $n = 2^{20}$). Its `predicted_error` knows nothing of the measurement; it is a page of arithmetic with $u$, $q$, 65,520 and (6.4). Make your own prediction for L2 and for L1
# before you look.

# %%
LARGEST = 13  # n up to 2^13; "half-range" goes to 2^20
NORMS = ["L2", "L1", "L∞", "Top-10"]
SUMS = [
    ("float32", "pairwise_mean"),
    ("float16", "pairwise_mean"),
    ("float16", "sequential"),
    ("float16", "pairwise"),
]
scales, group_sizes = half_range.SCALES, half_range.SIZES[:LARGEST]
measured, predicted = {}, {}
for dtype, order in SUMS:
    errors = half_range.Cells(accumulate=dtype, order=order, largest_size=LARGEST).train(None)
    for name in NORMS:
        measured[name, dtype, order] = np.array(errors[name], dtype=float)
        predicted[name, dtype, order] = np.array(
            [
                [half_range.predicted_error(name, dtype, order, e, size) for e in scales]
                for size in group_sizes
            ]
        )


def holds(errors):
    """1: within 1 %, 0: not, -1: not defined."""
    return np.where(np.isnan(errors), -1, errors <= half_range.TOLERANCE)


print("scales (powers of two) at which every n from 2^4 to 2^13 holds")
print("sums       order          " + "".join(f"{name:>14}" for name in NORMS))
for dtype, order in SUMS:
    spans = []
    for name in NORMS:
        good = [
            e
            for e, column in zip(scales, holds(measured[name, dtype, order][3:]).T, strict=True)
            if column.all()
        ]
        spans.append(f"{good[0]} to {good[-1]}" if good else "none")
    print(f"{dtype}    {order:14s} " + "".join(f"{span:>14}" for span in spans))
agree = {key: holds(measured[key]) == holds(predicted[key]) for key in measured}
total = sum(a.size for a in agree.values())
print(f"predicted rightly: {sum(a.sum() for a in agree.values()) / total:.1%} of {total:,} cells")

# %%
fig, panels = plt.subplots(1, 4, figsize=(11.5, 3.2), sharex=True, sharey=True)
four = [(name, *SUMS[i]) for name in ("L2", "L1") for i in (0, 2)]
for ax, key in zip(panels, four, strict=True):
    pictures.half_map(ax, holds(measured[key]), scales, f"{key[0]}, {key[1]} sums\n{key[2]}")
panels[0].set_ylabel("scale of the input")
plt.show()

# %% [markdown]
# **Figure 7.** *Blue: $\hat x$ in float16 is within 1 % of float64. Red: it is not. L2 holds in a band, even with float32 sums. L1 holds nearly everywhere, unless the order of the sum takes away what the norm had given.*
#
# Read L2 first. The upper edge is $256$ divided by the largest $\lvert d\rvert$ of the group; the lower edge is where $d^2$ is worth a few $q$. A float32 accumulator does not help at the upper edge: the squares are infinite before they are
# added. Below it helps a little, because it keeps the mean of squares that are themselves multiples of $q$, and their rounding errors average out.
#
# Then the last panel. L1 one after another fails *at every scale* from $n = 2^{11}$ on; it does not overflow, it stalls, and no scaling of the input cures that. Here are all norms and orders, measured and as predicted; as a plain tree (`pairwise`) the sum overflows along a slanted line: scale times $n$ is what has to fit.
# The lower edge of L1 and L∞ has nothing to do with their statistics. There $x$ is a few $q$ large, and the mean, which is rounded to a multiple of $q$ or vanishes, shifts every $d$. And L∞ has no sum at all in its statistic. So why does it lose the upper corner in two of the orders? (What else is added up in a batch norm?)
#
# Where measurement and prediction differ, the error is near 1 % or the cell is next to an edge: which side it falls on is the luck of the draw.


# %%
def show_map(norm, sums):
    _, pair = plt.subplots(1, 2, figsize=(7.5, 3.2), sharey=True)
    key = (norm, *sums.split())
    pictures.half_map(pair[0], holds(measured[key]), scales, f"{norm}, {sums}\nmeasured")
    pictures.half_map(pair[1], holds(predicted[key]), scales, "predicted")


orders = [" ".join(each) for each in SUMS]
pictures.frames(show_map, {"norm": "L2", "sums": orders[0]}, norm=NORMS, sums=orders)

# %% [markdown]
# ## 6. Where the safety comes from
#
# Collect what L1 needed:
#
# 1. **No square.** Every $\lvert d_i\rvert$ is as large as $d_i$, which fits already.
# 2. **An order in which no partial result is larger than the terms**, and none so much larger than the next term that it swallows it: the tree of averages, or a wider accumulator.
# 3. **A division by $n$ that does not need $n$.** 65,536 is not a float16 number, and $1/n$ is subnormal beyond $n = 2^{14}$. The tree of averages divides as it goes.
#
# Point 1 could be had for L2 as well: divide by the largest $\lvert d\rvert$ first, so that all squares are at most 1. The library does so for every real $p$ but 2, where it squares as the textbook does, because that is the claim to
# be examined. So $p = 2.001$ is an L2 with that remedy. Does it hold?

# %%
rng = np.random.default_rng(3)
exponents = np.arange(-22, 15)
values = rng.standard_normal((16, 1024)).clip(-3.5, 3.5)  # 16 groups of 1,024
tree = Accumulate("float16", "pairwise_mean")


def error_of(got, want):
    """Relative error (root mean square), the median over the groups."""
    with quiet():
        apart = got.astype("float64") - want
        found = np.sqrt((apart**2).mean(axis=1) / (want**2).mean(axis=1))
    return np.median(np.where(np.isfinite(found), found, np.inf))


ARMS = {"L2": 2, "L2 after division by the maximum (p = 2.001)": 2.001, "L1": 1}
dy = rng.standard_normal(values.shape).astype("float16")


def both_ways(rows, p, dtype, sums):
    """x_hat and dx in a dtype."""
    y, cache = x_hat(rows.astype(dtype), p, sums)
    with quiet():
        return y, lpnorm.batch_norm_backward(dy.astype(dtype), cache)[0]


curves = {name: ([], []) for name in ARMS}
for name, p in ARMS.items():
    for exponent in exponents:
        rows = (values * 2.0**exponent).astype("float16")
        half, full = both_ways(rows, p, "float16", tree), both_ways(rows, p, "float64", None)
        for found, got, want in zip(curves[name], half, full, strict=True):
            found.append(error_of(got, want))
    good = exponents[np.array(curves[name][0]) <= 0.01]
    print(f"{name:45s} x_hat within 1 % from 2^{good[0]} to 2^{good[-1]}")
figures.figure_06_8(curves, exponents, (VERMILLION, GREEN, BLUE))

# %% [markdown]
# **Figure 8.** *Error of float16 against float64, sums in a float16 tree of averages, $n = 1{,}024$ (values at the top edge: infinite or not a number). Left: L2 that divides by the maximum holds as far as L1. Right: the backward pass.*
#
# So it is the square that breaks, not the idea of L2; the remedy costs one more pass over the data and a maximum. And a kernel that converts each value to float32 before it squares, and keeps squares and sums there, never meets the problem; that is how
# batch norm is usually run on GPUs. L1 needs neither. That is the fair version of the claim.
#
# **The backward pass.** The formula of tutorial 02, $dx = \big(g - \operatorname{mean} g - T(\nabla\varphi - \operatorname{mean}\nabla\varphi)\big)/s$, is right, and float16 cannot compute it: $\nabla\varphi$ has entries of size $1/n$, and $T$ is a sum of $n$ terms. In the first batch norm of an ImageNet network, $n = 64\cdot112\cdot112 = 802{,}816$. One number is too
# small, the other too large, and their product is harmless. So multiply the two before they meet an array. Write the gradient as $\nabla\varphi = C\,h/m$ with entries $h$ of order one (for L1 $h = \operatorname{sign} d$ and $m = n$; for the $k$ largest $m = k$; for Lp $h_j = \operatorname{sign}(d_j)\,u_j^{p-1}$ with $u = \lvert d\rvert/\max\lvert d\rvert$), and collect what does not depend on the
# sample:
#
# $$ dx = \frac{g - b - c\,h}{s}, \qquad c = \frac{C\,T}{m}, \quad b = \operatorname{mean}(g) - c\,\operatorname{mean}(h), \qquad\text{so } \lvert dx\rvert \sim \lvert dy\rvert\,/\,s. \tag{6.5} $$
#
# $b$ and $c$ are one number per channel and stay in float32. This is how the library computes it, for every dtype.

# %%
n = 64 * 112 * 112
wide = np.random.default_rng(6).standard_normal((1, n)).astype("float16")
arriving = (0.5 * wide + np.random.default_rng(7).standard_normal((1, n))).astype("float16")
y, _ = lpnorm.batch_norm(wide.astype(float), None, None, p=1, axis=0, eps=2.0**-10)
C, T = lpnorm.gaussian_constant(1, n), (arriving.astype(float) * y).sum()
for name, value in {"T": T, "C / n": C / n, "c = C T / n": C * T / n}.items():  # (6.5)
    with quiet():
        print(f"{name:12s} {value:12.5g}   as a float16: {np.float16(value):12.5g}")

# %% [markdown]
# $T$ becomes infinite and $C/n$ is 0.7 % off, in every entry of $dx$; $c$ is an ordinary number.
#
# The right panel of Figure 8 has an edge that L1 does share, by the last part of (6.5).
# For an input scale of $2^{-15}$ or less the largest gradients are themselves above 65,504, and for a small $dy$ and a large scale they get subnormal or 0. That is not an error of the normalizer: the number it has to return does not fit. But one can move gradients to where they fit.

# %%
y, cache = x_hat((values * 2.0**12).astype("float16"), 1, tree)
print("size of dx at input scale 2^12, L1, for smaller and smaller dy")
for k in (0, 4, 8, 12):
    dx, _, _ = lpnorm.batch_norm_backward(dy * np.float16(2.0**-k), cache)
    size = np.abs(dy).mean(dtype="float64") * 2.0**-k / cache.scale.mean(dtype="float64")  # (6.5)
    print(
        f"dy ~ 2^-{k:<2d}  |dy|/s = {size:.1e}   mean |dx| = {np.abs(dx).mean(dtype='float64'):.1e}   zeros: {np.mean(dx == 0):.0%}"
    )

# %% [markdown]
# ## 7. Loss scaling, and a master copy
#
# Two remedies belong to every float16 training, whatever the norm.
#
# **Loss scaling.** Multiply the loss by 1,024. By the chain rule all gradients are multiplied by 1,024, on all layers, and leave the subnormal numbers. Divide before the step. With a power of two nothing is rounded.
#
# **Master weights.** $w - \eta g$ is a sum, one after another, of very many small terms. You know what float16 does to such a sum:

# %%
for master in (None, "float32"):
    w = nn.Parameter(np.ones(1, "float16"), "w")
    sgd = decay.SGD([w], lr=2.0**-12, master=master)
    for _ in range(1000):  # 1,000 steps of -2^-12 each
        w.grad = np.ones(1, "float16")
        sgd.step()
    print(f"master={master!s:8}: w = {w.data.item():.4f}   (exact: {1 - 1000 * 2.0**-12:.4f})")

# %% [markdown]
# By (6.4) a float16 weight of 1 does not move at all by steps of $2^{-12}$: below 1 the neighbours are $2^{-11}$ apart, the step lands halfway, and the tie goes back to 1. A float32 copy collects the steps; float16 weights are made from it after each.
#
# Both are a word each. This is a training in float16: pixels, weights, activations, gradients, and every statistic of batch norm.

# %%
layer = functools.partial(
    nn.BatchNorm, p=1, accumulate="float16", dtype="float16", impl=models.implementation()
)
model = models.digits_net(layer, rng=np.random.default_rng(0), dtype="float16")
sgd = decay.SGD(model.parameters(), lr=0.1, momentum=0.9, master="float32")
scale = training.LossScale(1024, dynamic=True)
history = training.train(
    model, data.digits("float16"), sgd, epochs=3, loss_scale=scale, progress=False
)
# figures of trainings: they depend a little on the machine
print("test accuracy after each epoch: " + "  ".join(f"{a:.1%}" for a in history.test_accuracy))
print("dtypes: " + ", ".join(sorted({str(p.data.dtype) for p in model.parameters()})))

# %% [markdown]
# (`models.implementation()` is `lpnorm.fast`, compiled loops that give the same bits, where Numba is installed, and the plain code elsewhere: NumPy's float16 is slow on a CPU. `dynamic=True` halves the scale and leaves out a step if a gradient overflows.)
#
# ## 8. The digits, entirely in float16
#
# Does it train as well as float32? The paper, on ImageNet with ResNet-18: the float32 baseline ends at 33.3 % error, L1 in float16 with a float16 accumulator at 33.8, and L2 in float16 with a float32 accumulator swings between 77 and 97 and was
# stopped. Here: the digits, 4 epochs, two seeds, three arms: L2 in float32, L2 in float16 *with float32 sums*, L1 in float16 *with float16 sums*. Two settings: pixels from 0 to 1, and the same pixels from 0 to 255. `HalfRun` is one training of `lpnorm reproduce
# half-precision`, without masters here.
#
# From the map: in which setting do you expect which arm to fail? The deviations before the first batch norm are about 0.5 for pixels from 0 to 1.

# %%
TRAININGS = {
    "L2, float32": {"dtype": "float32"},
    "L2, float16, float32 sums": {"norm": "2", "accumulate": "float32"},
    "L1, float16, float16 sums": {"norm": "1", "accumulate": "float16"},
}
SETTINGS = {"natural": "pixels 0 to 1", "pixels": "pixels 0 to 255"}
trained = {
    (setting, name): [
        HalfRun(setting=setting, epochs=4, seed=seed, **chosen).train(None) for seed in (0, 1)
    ]
    for setting in SETTINGS
    for name, chosen in TRAININGS.items()
}
# figures of trainings: they depend a little on the machine
for (setting, name), runs in trained.items():
    print(
        f"{SETTINGS[setting]:16s} {name:26s}"
        + "".join(f"{final_accuracy(run):7.1f} %" for run in runs)
    )
for run in trained["pixels", "L2, float16, float32 sums"]:
    print(f"L2 at step {run['broken']['step']}: {run['broken']['where']}")

# %%
figures.figure_06_9(SETTINGS, TRAININGS, trained)

# %% [markdown]
# **Figure 9.** *Test error on 360 digits, one line a seed (dotted: chance). Left: all three arms train alike. Right: L2 in float16 is broken at its first step. Then it depends on the seed: a weight becomes infinite a few steps later and the training stops (cross), or the first layer is constant ever after and the error stays at chance. L1 in float16 does not notice the factor of 255.*
#
# **What shows here and what does not.** That L1 trains entirely in float16, sums included, shows, at both scales. That L2 in float16 fails does **not** show at natural scale: there it trains as well as float32. It has to be so; the map has L2 within 1 % from about
# $2^{-11}$ to $2^6$, and these deviations are in the middle. It fails where they reach 256, at once. On ImageNet the paper reports failure at natural scale. This library cannot repeat that, and what left the range there (squares, a sum,
# a gradient) we do not know. Two seeds show no difference between arms that train; do not look for one.
#
# `lpnorm reproduce half-precision` has five seeds, four norms, and a third setting: weights that weight decay has shrunk to $2^{-12}$ of their size. Tutorial 03 says why that should not matter to a network with batch norm, and to L1 it does not. With L2 the squares vanish: nine of its ten trainings in float16
# diverge within five steps.

# %% [markdown]
# ## What you have now
#
# - float16 is precise enough for a normalizer ($u$ is a twentieth of a percent). What it lacks is range, and a square halves the range.
# - In float16, up to $n = 2^{13}$, L2 holds for inputs of scale $2^{-11}$ to $2^6$ with a float32 accumulator and $2^{-9}$ to $2^6$ with float16; L1 holds from $2^{-18}$ and $2^{-16}$ to $2^{14}$.
# - That is true of L1 with a tree of averages. One after another its sum stalls from $n = 2^{11}$ on; as a tree of sums it overflows. Ask of any float16 claim: *added up in which order?*
# - L2 can be rescued (divide by the maximum, or square in float32). L1 needs no rescue.
# - Gradients need a scale, and weights a master copy, for the same two reasons: range, and stalled sums.
#
# Next: [07, weight norm and bounded weight norm](07_weight_norm.ipynb). How to find out whether somebody's float16 batch norm is right is in [08](08_is_my_implementation_right.ipynb).
#
# ## Exercises
#
# Each has a cell for your answer and a line that checks it (`exercises.py`). Hints are folded away.
#
# ### Exercise 1
#
# bfloat16 also has sixteen bits: eight for the exponent ($2^{E-127}$), seven for the fraction. Work out its $u$, its largest number, its smallest normal number, and the $n$ at which a sum of ones, one after another, stalls. Where does L2 break? Which of the two formats
# would you rather add up in?
#
# <details><summary>Hint</summary>
#
# As in section 1, with other numbers of bits. A sum stalls where 1 is half of the gap to the next number.
#
# </details>


# %%
u, largest, smallest_normal, stalls_at = None, None, None, None  # your answers
answer = None if u is None else (u, largest, smallest_normal, stalls_at)
print(exercises.check_06_1(answer))

# %% [markdown]
# ### Exercise 2
#
# Compensated summation (Kahan) keeps a second float16 with what the last addition rounded away, and adds it to the next term. Write it for a row of float16 values, every operation in float16, and put its curve into Figure 6. Does it cure the stall? Does it cure the overflow? What does it cost compared with a float32
# accumulator?
#
# <details><summary>Hint</summary>
#
# `new = total + term; lost = (new - total) - term`, and the next `term` is `value - lost`.
#
# </details>


# %%
def kahan(row):
    return None  # your answer: a float16


print(exercises.check_06_2(kahan))

# %% [markdown]
# ### Exercise 3
#
# In Figure 8 the backward pass of L1 ends at an input scale of $2^{-14}$. Draw the right panel again with `dy` multiplied by $2^{-10}$: which edges appear, and where? Predict them with (6.5). Then multiply that `dy` by $2^k$ before the backward pass, and `dx` by $2^{-k}$ in float64 after it. Is there one $k$ for all
# scales, and so for a network whose layers have different scales? What does `LossScale(dynamic=True)` do about it?
#
# <details><summary>Hint</summary>
#
# $dx$ is $dy$ divided by the scale of the input: where is it largest, where smallest?
#
# </details>


# %%
one_k_for_all = None  # your answer: True or False
print(exercises.check_06_3(one_k_for_all))
