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
# # Assignment 4: weight norm and bounded weight norm
#
# Batch norm makes the length of a weight irrelevant by normalizing what comes out of the layer. Weight norm does so at the weight itself, with no batch:
# $w_i = g_i\,v_i/\|v_i\|$. It was reported to fail on large problems. *Bounded* weight norm (Hoffer et al.) fixes all the lengths at one number $\rho$ for the layer, and works.
#
# **What you need.** Assignment 1: the gradient of a norm. About two hours.
#
# **What to read first.** Tutorial 07, or section 5 of the paper.
#
# **Rules.** NumPy and the standard library. `v` has shape (N, n): N output channels, one a row. Nothing you are given is changed. $\|\cdot\|_p$ is here the plain norm,
# $\big(\sum_j|v_j|^p\big)^{1/p}$: a sum, no mean, and no Gaussian constant. No row of `v` is all zeros.
#
# **How it is marked.** 18 points. The cell after each question shows what is right so far, in words. A backward that is right for a forward that is wrong keeps its points.

# %%
import numpy as np

# %% [raw]
# # BEGIN QUESTION
# name: weight_norm

# %% [markdown]
# ## Question 1: weight norm
#
# $w_i = g_i\,v_i/\|v_i\|_2$ for each channel $i$, with a learned number $g_i$ for each. `g` has shape (N,).

# %% [raw]
# # BEGIN SOLUTION


# %%
def weight_norm(v, g):
    """w_i = g_i v_i / ||v_i||_2: v (N, n), g (N,) -> w (N, n), cache."""
    # BEGIN SOLUTION NO PROMPT
    norm = np.sqrt((v * v).sum(axis=1, keepdims=True))
    v_hat = v / norm
    return g[:, None] * v_hat, (v_hat, norm, g)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("weight_norm: one norm for each row of v")
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

tell(4, "weight_norm", "values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: weight_norm_backward

# %% [markdown]
# ## Question 2: its gradient
#
# Derive, for one channel with $S = \|v\|_2$ and $\hat v = v/S$,
#
# $$dg = \langle dw, \hat v\rangle,\qquad dv = \frac gS\,\big(dw - \langle dw,\hat v\rangle\,\hat v\big).$$
#
# What is left of $dw$ in $dv$, geometrically? Show that $\langle dv, v\rangle = 0$: the weight only ever turns, and every step of SGD makes it longer.

# %% [raw]
# # BEGIN SOLUTION


# %%
def weight_norm_backward(dw, cache):
    """Gradients of weight_norm: dw (N, n) and its cache -> dv (N, n), dg (N,)."""
    # BEGIN SOLUTION NO PROMPT
    v_hat, norm, g = cache
    dg = (dw * v_hat).sum(axis=1)
    dv = g[:, None] / norm * (dw - dg[:, None] * v_hat)
    return dv, dg
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("weight_norm_backward: dg first, it appears in dv")
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

tell(4, "weight_norm_backward", "dv", globals())

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(4, "weight_norm_backward", "dg", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: bounded_norm

# %% [markdown]
# ## Question 3: the bound
#
# $\rho = \|V\|_p/N^{1/p}$ for the whole matrix $V$ with its $N$ channels, taken once, at initialization. For $p = 2$ it is the Frobenius norm over $\sqrt N$. Convince yourself that all channels having norm $\rho$ gives
# the same $\|V\|_p$ as before. $p \ge 1$ is a real number.

# %% [raw]
# # BEGIN SOLUTION


# %%
def bounded_norm(v, p):
    """rho = ||V||_p / N^(1/p) for v (N, n) and a real p >= 1 -> a float."""
    # BEGIN SOLUTION NO PROMPT
    return float(((abs(v) ** p).sum() / len(v)) ** (1 / p))
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("bounded_norm: one number for the whole layer")
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

tell(4, "bounded_norm", "values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: bounded_weight_norm

# %% [markdown]
# ## Question 4: bounded weight norm
#
# $w_i = \rho\,v_i/\|v_i\|_p$, the same fixed $\rho$ for every channel.

# %% [raw]
# # BEGIN SOLUTION


# %%
def bounded_weight_norm(v, rho, p):
    """w_i = rho v_i / ||v_i||_p: v (N, n), rho > 0, a real p >= 1 -> w (N, n), cache."""
    # BEGIN SOLUTION NO PROMPT
    norm = (abs(v) ** p).sum(axis=1, keepdims=True) ** (1 / p)
    return rho * v / norm, (v, norm, rho, p)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("bounded_weight_norm: as weight_norm, with rho and the p-norm")
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

tell(4, "bounded_weight_norm", "values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: bounded_weight_norm_backward

# %% [markdown]
# ## Question 5: its gradient
#
# $\rho$ is a constant and has no gradient. Write $h = \nabla\|v\|_p$. What is $h_j$? (For $p = 2$ it must be $\hat v_j$; for $p = 1$ take $\operatorname{sign}(0) = 0$.) Then
#
# $$dv = \frac\rho S\,\big(dw - \langle dw,\hat v\rangle\,h\big),\qquad S = \|v\|_p,\quad \hat v = v/S.$$
#
# Is $\langle dv, v\rangle$ still 0? *Edges:* weights that are exactly 0.

# %% [raw]
# # BEGIN SOLUTION


# %%
def bounded_weight_norm_backward(dw, cache):
    """Gradient of bounded_weight_norm: dw (N, n) and its cache -> dv (N, n)."""
    # BEGIN SOLUTION NO PROMPT
    v, norm, rho, p = cache
    along = (dw * v / norm).sum(axis=1, keepdims=True)
    h = np.sign(v) * (abs(v) / norm) ** (p - 1)
    return rho / norm * (dw - along * h)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("bounded_weight_norm_backward: the gradient of the p-norm first")
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

tell(4, "bounded_weight_norm_backward", "dv", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(4, "bounded_weight_norm_backward", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION
