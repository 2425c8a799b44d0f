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
# # Assignment 3: sums in half precision
#
# float16 has 11 bits and ends at 65,504. Batch norm adds up a whole batch, easily 100,000 numbers. What a sum of float16 numbers *is* then depends on the
# order in which they are added, and on where each intermediate result is rounded. Here you write three such sums, bit by bit, and an L1 batch norm that survives them.
#
# **What you need.** Assignment 1, question 2, and NumPy. About two hours.
#
# **What to read first.** Tutorial 06 (float16 bit by bit), or section 4 of the paper.
#
# **Rules.** NumPy and the standard library. "In float16" means: every single addition, multiplication and division is rounded to float16. NumPy
# does exactly that for `a + b` with float16 arrays or scalars, but **not** in `np.sum` and `np.mean`, which add in float32. Your results are compared bit by bit.
#
# **How it is marked.** 20 points. The cell after each question shows what is right so far, in words. What is marked as hidden is tested when the assignment is graded.

# %%
import math

import numpy as np

# %% [raw]
# # BEGIN QUESTION
# name: sequential_sum

# %% [markdown]
# ## Question 1: one after another
#
# $((x_0 + x_1) + x_2) + \dots$, each sum rounded to float16. (`np.add.accumulate(x)` rounds each step, and so does a plain loop over float16 scalars.)
#
# Try it on 8,192 ones once it works. What happens, and at which value? Explain it by the spacing of float16 numbers there.

# %% [raw]
# # BEGIN SOLUTION


# %%
def sequential_sum(x):
    """The sum of x (n,), float16, added one after another in float16 -> a float16 scalar."""
    # BEGIN SOLUTION NO PROMPT
    return np.add.accumulate(x)[-1]
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("sequential_sum: every partial sum is a float16")
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

tell(3, "sequential_sum", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(3, "sequential_sum", "many values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: pairwise_sum

# %% [markdown]
# ## Question 2: folding in half
#
# Fold the array: with $h = \lfloor n/2\rfloor$, add the last $h$ values to the first $h$, in order. If $n$ is odd, the value in the middle waits and becomes the last of the new array, which has
# $n - h$ entries. Repeat until one is left. For $n = 5$: $(x_0 + x_3,\ x_1 + x_4,\ x_2)$, then $(x_0 + x_3 + x_2,\ x_1 + x_4)$, and so on.
#
# How large can the error be compared with question 1? How many roundings does each value go through?

# %% [raw]
# # BEGIN SOLUTION


# %%
def pairwise_sum(x):
    """The sum of x (n,), float16, by folding in half in float16 -> a float16 scalar."""
    # BEGIN SOLUTION NO PROMPT
    while len(x) > 1:
        half = len(x) // 2
        x = np.concatenate([x[:half] + x[len(x) - half :], x[half : len(x) - half]])
    return x[0]
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("pairwise_sum: fold until one value is left")
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

tell(3, "pairwise_sum", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(3, "pairwise_sum", "many values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: pairwise_mean

# %% [markdown]
# ## Question 3: a mean that cannot overflow
#
# A sum of 100,352 numbers near 1 does not fit into float16, but their mean does. So average instead of adding: $a/2 + b/2$ in place of $a + b$ (and not $(a+b)/2$: why?), and
# $x/2$ for the value that waits, as if its partner were 0. After $L = \lceil\log_2 n\rceil$ rounds the tree holds $2^{-L}\sum x$. Divide by $n/2^L$, a number above ½ and at most 1,
# and you have the mean: the number $n$ itself, which may not fit either, never appears. Round the quotient to float16, but not $n/2^L$ before it: NumPy would (`np.float16` over a
# Python float), so divide Python floats and round what comes out.

# %% [raw]
# # BEGIN SOLUTION


# %%
def pairwise_mean(x):
    """The mean of x (n,), float16, by a tree of averages in float16 -> a float16 scalar."""
    # BEGIN SOLUTION NO PROMPT
    n, half_of = len(x), np.float16(0.5)
    while len(x) > 1:
        x = x * half_of
        half = len(x) // 2
        x = np.concatenate([x[:half] + x[len(x) - half :], x[half : len(x) - half]])
    return np.float16(float(x[0]) / (n / 2 ** math.ceil(math.log2(n))))
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("pairwise_mean: as pairwise_sum, with a/2 + b/2; divide by n / 2**L at the end")
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

tell(3, "pairwise_mean", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(3, "pairwise_mean", "large values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: l1_statistic

# %% [markdown]
# ## Question 4: the L1 statistic, all in float16
#
# $\text{mean}\,|x - \text{mean}\,x|$, both means by your `pairwise_mean`, nothing wider than float16 anywhere. Then try the L2 statistic $\sqrt{\text{mean}\,d^2}$ in the same way
# on values of size 300. That is the paper's point.

# %% [raw]
# # BEGIN SOLUTION


# %%
def l1_statistic(x):
    """mean |x - mean x| of x (n,), float16 throughout -> a float16 scalar."""
    # BEGIN SOLUTION NO PROMPT
    return pairwise_mean(abs(x - pairwise_mean(x)))
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("l1_statistic: two means, a difference, an absolute value")
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

tell(3, "l1_statistic", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(3, "l1_statistic", "large values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: l1_forward_half

# %% [markdown]
# ## Question 5: L1 batch norm in half precision
#
# The usual compromise: arrays as large as `x` are float16 (`x`, `gamma`, `beta` come as float16, `y` must be float16), but means and the scale are *accumulated* and kept in float32. Use `x.mean(axis=0, dtype="float32")`.
# $\varepsilon$ is added to the scale before anything is rounded to float16.
#
# *Edges:* thousands of values a channel, large and small ones; a constant channel.

# %% [raw]
# # BEGIN SOLUTION


# %%
def l1_forward_half(x, gamma, beta, eps):
    """L1 batch norm: x (N, C), gamma and beta (C,), all float16 -> y (N, C) in float16, cache."""
    # BEGIN SOLUTION NO PROMPT
    mean = x.mean(axis=0, dtype="float32")
    d = (x - mean).astype("float16")
    scale = np.float32(math.sqrt(math.pi / 2)) * abs(d).mean(axis=0, dtype="float32")
    scale = scale + np.float32(eps)
    x_hat = (d / scale).astype("float16")
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("l1_forward_half: float32 for means and scale, float16 for all that is as large as x")
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

tell(3, "l1_forward_half", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(3, "l1_forward_half", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION
