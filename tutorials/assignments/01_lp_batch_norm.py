# %% [raw]
# # ASSIGNMENT CONFIG
# init_cell: true
# export_cell: false
# check_all_cell: true
# show_question_points: true
# generate: true
# tests:
#   ok_format: true

# %% [markdown]
# # Assignment 1: Lp batch norm, forward and backward
#
# Batch norm divides the deviations of a channel by their standard deviation, the L2 norm. Hoffer, Banner, Golan and Soudry
# (["Norm matters"](https://arxiv.org/abs/1803.01814), NeurIPS 2018) ask why it should be that norm. Here you write batch norm in the L1
# norm and then in any Lp norm, and derive its backward pass by hand.
#
# **What you need.** Partial derivatives, the chain rule, NumPy. No deep-learning framework. About three hours.
#
# **What to read first.** Tutorial 01 (what a normalizer measures) and tutorial 02 (one backward for every norm), or section 3 of the paper.
#
# **Rules.** Your functions get NumPy arrays and may use NumPy and the standard library, nothing else. They must not change
# the arrays they are given. Work with the notation below; all sums and means run over the $n$ samples of one channel.
#
# $$\mu = \tfrac1n\sum_i x_i,\qquad d = x - \mu,\qquad s = C_p\,\Big(\tfrac1n\sum_i |d_i|^p\Big)^{1/p},\qquad
#   \hat s = s + \varepsilon,\qquad \hat x = d/\hat s,\qquad y = \gamma\hat x + \beta$$
#
# **How it is marked.** 22 points. The cell after each question shows what is right so far, in words. Items called *edges* are tested when
# the assignment is graded: think of them yourself. A backward that is right for a forward that is wrong keeps its points.

# %%
import math

import numpy as np

# %% [raw]
# # BEGIN QUESTION
# name: gaussian_constant

# %% [markdown]
# ## Question 1: the Gaussian constant
#
# For Gaussian values of standard deviation $\sigma$ the L1 norm is not $\sigma$ but $\sqrt{2/\pi}\,\sigma$. The constant $C_p$ repairs that: it makes
# $\mathbb E[s] = \sigma$ for large $n$, so that exchanging the norm does not change the size of the activations. With $z$ standard Gaussian,
#
# $$C_p = \big(\mathbb E|z|^p\big)^{-1/p},\qquad \mathbb E|z|^p = \frac{2^{p/2}\,\Gamma\!\big(\frac{p+1}2\big)}{\sqrt\pi}.$$
#
# Write `gaussian_constant(p)` for a real $p \ge 1$. (`math.gamma` is $\Gamma$.) Check by hand that $C_2 = 1$ and $C_1 = \sqrt{\pi/2}$.

# %% [raw]
# # BEGIN SOLUTION


# %%
def gaussian_constant(p):
    """C_p, a Python float, for a real p >= 1."""
    # BEGIN SOLUTION NO PROMPT
    moment = 2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)
    return moment ** (-1 / p)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("gaussian_constant: compute E|z|^p, then its power -1/p")
    """  # END PROMPT


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "gaussian_constant", "values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: l1_forward

# %% [markdown]
# ## Question 2: the forward pass in L1
#
# Equation (5) of the paper: $s = C_1\cdot\tfrac1n\sum_i|d_i|$. The array `x` has shape (N, C), a sample a row and a channel a column;
# `gamma` and `beta` have shape (C,). Return `y` and a `cache`: whatever your backward pass will need, in any form you like.
#
# *Edges:* $\varepsilon$ is added to the scale, not hidden in a root. A channel whose values are all equal must give $y = \beta$. `x` may be read-only or a
# transposed view.

# %% [raw]
# # BEGIN SOLUTION


# %%
def l1_forward(x, gamma, beta, eps):
    """L1 batch norm: x (N, C), gamma and beta (C,), eps a number -> y (N, C), cache."""
    # BEGIN SOLUTION NO PROMPT
    d = x - x.mean(axis=0)
    scale = gaussian_constant(1) * abs(d).mean(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("l1_forward: centre each column, measure it, divide, then gamma and beta")
    """  # END PROMPT


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 4
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "l1_forward", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "l1_forward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: l1_backward

# %% [markdown]
# ## Question 3: the backward pass in L1
#
# You get `dy`, the gradient of the loss with respect to `y`, and must return those with respect to `x`, `gamma` and `beta`. Derive them on paper
# before you program. Some help:
#
# 1. $\beta$ and $\gamma$ are easy: $y = \gamma\hat x + \beta$.
# 2. What reaches $\hat x$ is $g = \gamma\,dy$. Each $\hat x_i = d_i/\hat s$ depends on $d_i$ directly, and through $\hat s$ on *every* $d_j$. Write
#    $h_j = \partial\hat s/\partial d_j$ and show that $\partial L/\partial d_j = \big(g_j - h_j\sum_i g_i\hat x_i\big)/\hat s$.
# 3. What is $h_j$ for L1? Take $\operatorname{sign}(0) = 0$.
# 4. $d = x - \mu$, and $\mu$ depends on every $x_i$ as well.
#
# Two laws to test yourself with: $\sum_i dx_i = 0$ always, and for $\varepsilon = 0$ also $\sum_i dx_i\,d_i = 0$. Why?

# %% [raw]
# # BEGIN SOLUTION


# %%
def l1_backward(dy, cache):
    """Gradients of l1_forward: dy (N, C) and its cache -> dx (N, C), dgamma (C,), dbeta (C,)."""
    # BEGIN SOLUTION NO PROMPT
    x_hat, d, scale, gamma = cache
    g = gamma * dy
    h = gaussian_constant(1) * np.sign(d) / len(d)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("l1_backward: dbeta and dgamma first, then dx as derived on paper")
    """  # END PROMPT


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 4
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "l1_backward", "dx", globals())

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "l1_backward", "dgamma and dbeta", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "l1_backward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: lp_forward

# %% [markdown]
# ## Question 4: any p, forward
#
# Now $s = C_p\,(\text{mean}\,|d|^p)^{1/p}$ for a real $p > 1$, given as the last argument. $\varepsilon$ is again added to $s$.

# %% [raw]
# # BEGIN SOLUTION


# %%
def lp_forward(x, gamma, beta, eps, p):
    """Lp batch norm: as l1_forward, with a real p > 1 -> y (N, C), cache."""
    # BEGIN SOLUTION NO PROMPT
    d = x - x.mean(axis=0)
    norm = (abs(d) ** p).mean(axis=0) ** (1 / p)
    scale = gaussian_constant(p) * norm + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, norm, scale, gamma, p)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("lp_forward: as l1_forward, with the p-th root of the mean of |d|^p")
    """  # END PROMPT


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "lp_forward", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "lp_forward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: lp_backward

# %% [markdown]
# ## Question 5: any p, backward
#
# The formula of question 3 stays; only $h_j = \partial\hat s/\partial d_j$ is another. Show first that
#
# $$\frac{\partial}{\partial d_j}\Big(\tfrac1n\sum_i|d_i|^p\Big)^{1/p} = \frac{\operatorname{sign}(d_j)}n\,\Big(\frac{|d_j|}{M}\Big)^{p-1},
#   \qquad M = \Big(\tfrac1n\sum_i|d_i|^p\Big)^{1/p}.$$
#
# *Edges:* a deviation of exactly 0 and a constant channel ($M = 0$) must not give NaN. Is your power of a negative number one?

# %% [raw]
# # BEGIN SOLUTION


# %%
def lp_backward(dy, cache):
    """Gradients of lp_forward: dy (N, C) and its cache -> dx (N, C), dgamma (C,), dbeta (C,)."""
    # BEGIN SOLUTION NO PROMPT
    x_hat, d, norm, scale, gamma, p = cache
    g = gamma * dy
    ratio = abs(d) / np.where(norm > 0, norm, 1.0)
    h = gaussian_constant(p) * np.sign(d) * ratio ** (p - 1) / len(d)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("lp_backward: l1_backward with another h")
    """  # END PROMPT


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 3
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "lp_backward", "dx", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "lp_backward", "dgamma and dbeta", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(1, "lp_backward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION
