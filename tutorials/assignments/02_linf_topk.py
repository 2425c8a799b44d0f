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
# # Assignment 2: L∞ and Top-k, with ties
#
# The L∞ norm looks at one value of a channel, the largest deviation; Top-k averages the k largest. That makes the reduction for the scale short
# (good in half precision) and the backward pass strange: all but a few entries have no influence on the scale at all. And when two
# entries are equally large, which one is it?
#
# **What you need.** Assignment 1, above all its formula for the backward pass. About three hours.
#
# **What to read first.** Tutorial 02; tutorial 05, sections 2 (ties) and 3 (what the constants do).
#
# **Rules.** As in assignment 1: NumPy and the standard library, arrays (N, C) with channels on axis 1, nothing you are given is changed.
# $\varepsilon$ is added to the scale: $\hat s = s + \varepsilon$, $\hat x = d/\hat s$, $y = \gamma\hat x + \beta$, $d = x - \mu$.
#
# **How it is marked.** 23 points. The cell after each question shows what is right so far, in words. Items called *edges* are tested when the
# assignment is graded. A backward that is right for a forward that is wrong keeps its points.

# %%
import math

import numpy as np

# %% [raw]
# # BEGIN QUESTION
# name: linf_constant

# %% [markdown]
# ## Question 1: a constant that grows with n
#
# The largest of $n$ Gaussian deviations grows with $n$, so its constant must shrink. Equation (6) of the paper has
#
# $$C_\infty(n) = \frac{1 + \sqrt{\pi\ln 4}}{2}\cdot\frac{1}{\sqrt{2\ln n}}.$$
#
# Write it for $n \ge 2$; $n = 1$ gives 1. (It has the right growth but not the right factor: with it $\hat x$ has a standard deviation near 0.7. Tutorial 05 shows why
# that hurts nothing. Use the paper's all the same.)

# %% [raw]
# # BEGIN SOLUTION


# %%
def linf_constant(n):
    """The paper's constant for the largest of n deviations, a Python float; 1.0 for n = 1."""
    # BEGIN SOLUTION NO PROMPT
    if n == 1:
        return 1.0
    return (1 + math.sqrt(math.pi * math.log(4))) / 2 / math.sqrt(2 * math.log(n))
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("linf_constant: equation (6), with natural logarithms")
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

tell(2, "linf_constant", "values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: linf_forward

# %% [markdown]
# ## Question 2: L∞, forward
#
# $s = C_\infty(n)\cdot\max_i|d_i|$ for each channel. Mind the sign: the largest deviation may be a negative one.

# %% [raw]
# # BEGIN SOLUTION


# %%
def linf_forward(x, gamma, beta, eps):
    """L-infinity batch norm: x (N, C), gamma and beta (C,), eps -> y (N, C), cache."""
    # BEGIN SOLUTION NO PROMPT
    d = x - x.mean(axis=0)
    scale = linf_constant(len(x)) * abs(d).max(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("linf_forward: the largest |d| of each column, times the constant")
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

tell(2, "linf_forward", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(2, "linf_forward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: linf_backward

# %% [markdown]
# ## Question 3: L∞, backward
#
# The formula of assignment 1 stays,
#
# $$dx = \Big(g - \overline g - \Big(\sum_i g_i\hat x_i\Big)\,(h - \overline h)\Big)\Big/\hat s,\qquad g = \gamma\,dy,\quad h_j = \frac{\partial\hat s}{\partial d_j}.$$
#
# What is $h$? It is 0 for every entry but the largest. Where several are equally large the maximum has a kink. Giving each of them the full
# gradient is wrong: moving all of them by 1 moves the maximum by 1, not by their number. So their shares must add up to one. *Ties share
# equally* here: with $t$ tied entries each gets $1/t$. (Taking the first one is a gradient too, but it makes the result depend on the order of the samples.)

# %% [raw]
# # BEGIN SOLUTION


# %%
def linf_backward(dy, cache):
    """Gradients of linf_forward -> dx (N, C), dgamma (C,), dbeta (C,); ties share equally."""
    # BEGIN SOLUTION NO PROMPT
    x_hat, d, scale, gamma = cache
    g = gamma * dy
    largest = abs(d) == abs(d).max(axis=0)
    h = linf_constant(len(d)) * np.sign(d) * largest / largest.sum(axis=0)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("linf_backward: l1_backward with another h; count the ties")
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

tell(2, "linf_backward", "dx", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(2, "linf_backward", "dgamma and dbeta", globals())

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(2, "linf_backward", "ties", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(2, "linf_backward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: topk_forward

# %% [markdown]
# ## Question 4: Top-k, forward
#
# $s = C_\infty(n)$ times the mean of the $k$ largest $|d_i|$, $1 \le k \le n$. The paper uses the same constant for every $k$. `np.sort` or `np.partition` help.

# %% [raw]
# # BEGIN SOLUTION


# %%
def topk_forward(x, gamma, beta, eps, k):
    """Top-k batch norm: as linf_forward, with an integer k -> y (N, C), cache."""
    # BEGIN SOLUTION NO PROMPT
    d = x - x.mean(axis=0)
    scale = linf_constant(len(x)) * np.sort(abs(d), axis=0)[-k:].mean(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma, k)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("topk_forward: the mean of the k largest |d| of each column")
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

tell(2, "topk_forward", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(2, "topk_forward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: topk_backward

# %% [markdown]
# ## Question 5: Top-k, backward
#
# Each of the $k$ largest has $h_j = C\operatorname{sign}(d_j)/k$. At the $k$-th place there may be more entries of the same size than places left. Say 5 entries are
# larger than the rest, $k = 3$, one is larger than the other four, and those four are equal: then one place is taken and four entries share the two that are left,
# half a place each.

# %% [raw]
# # BEGIN SOLUTION


# %%
def topk_backward(dy, cache):
    """Gradients of topk_forward -> dx (N, C), dgamma (C,), dbeta (C,); ties share equally."""
    # BEGIN SOLUTION NO PROMPT
    x_hat, d, scale, gamma, k = cache
    g = gamma * dy
    last = np.sort(abs(d), axis=0)[-k]  # the size at the k-th place
    above, tied = abs(d) > last, abs(d) == last
    share = (k - above.sum(axis=0)) / tied.sum(axis=0)
    h = linf_constant(len(d)) / k * np.sign(d) * (above + share * tied)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("topk_backward: who is above the k-th place, who is tied at it, and how many places are left?")
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

tell(2, "topk_backward", "dx", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(2, "topk_backward", "dgamma and dbeta", globals())

# %%
""" # BEGIN TEST CONFIG
points: 3
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(2, "topk_backward", "ties", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(2, "topk_backward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION
