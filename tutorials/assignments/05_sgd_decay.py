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
# # Assignment 5: SGD with decay, and the step-size correction
#
# Why does weight decay help a network whose weights have no length? With normalization behind it, a weight's norm does not change the function, but it sets how far a step
# turns the weight: the effective step size is $\eta/\|w\|^2$. Decay keeps the norm small. If that is all it does, one can leave it out and correct the step size instead. You will.
#
# **What you need.** SGD with momentum, and the chain rule. About two hours.
#
# **What to read first.** Tutorials 03 and 04, or sections 1 and 2 of the paper.
#
# **Rules.** NumPy and the standard library. `w` has shape (N, n): N output channels, one a row, each with its own norm $\|w_i\|_2$. Nothing you are given is changed: return new arrays.
#
# **How it is marked.** 18 points. The cell after each question shows what is right so far, in words. What is marked as hidden is tested when the assignment is graded.

# %%
import numpy as np

# %% [raw]
# # BEGIN QUESTION
# name: sgd_step

# %% [markdown]
# ## Question 1: one step of SGD
#
# With learning rate $\eta$, momentum $\alpha$ and decay $\lambda$, in the order in which PyTorch does it:
#
# $$g \leftarrow g + \lambda w,\qquad b \leftarrow \alpha b + g,\qquad w \leftarrow w - \eta b.$$
#
# `b` is the buffer that the previous step returned; at the first step it is `None`, and then $b = g$. Without momentum $b = g$ at every step. Return the new `w` and the new `b`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def sgd_step(w, g, b, lr, momentum, weight_decay):
    """One step: w, g (N, n), b (N, n) or None -> the new w and b."""
    # BEGIN SOLUTION NO PROMPT
    g = g + weight_decay * w
    b = g if b is None else momentum * b + g
    return w - lr * b, b
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("sgd_step: decay into the gradient, gradient into the buffer, buffer into the weight")
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

tell(5, "sgd_step", "decay", globals())

# %%
""" # BEGIN TEST CONFIG
points: 3
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(5, "sgd_step", "momentum", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(5, "sgd_step", "edges", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: effective_step_size

# %% [markdown]
# ## Question 2: the effective step size
#
# Let $L(w)$ depend on the directions $\hat w_i = w_i/\|w_i\|$ alone. Show that $\nabla L$ is orthogonal to $w_i$ and shrinks like $1/\|w_i\|$, and conclude that a step of size $\eta$
# moves the direction as a step of size $\eta/\|w_i\|^2$ would at norm 1 (equation 3 of the paper). Return that number for each channel.

# %% [raw]
# # BEGIN SOLUTION


# %%
def effective_step_size(w, lr):
    """lr / ||w_i||^2 of each channel: w (N, n) -> (N,)."""
    # BEGIN SOLUTION NO PROMPT
    return lr / (w * w).sum(axis=1)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("effective_step_size: one number for each row of w")
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

tell(5, "effective_step_size", "values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: corrected_step

# %% [markdown]
# ## Question 3: a step without decay that does what decay would
#
# A run *with* decay (no momentum) had the channel norms `norms`, $\|w_i^{WD}\|$, at the start of this step. You have your own $w$, with the same directions but other norms, and $g$ is
# the gradient at your $w$. Without decay, but with the step of each channel corrected to
#
# $$\hat\eta_i = \frac{\eta}{1 - \eta\lambda}\cdot\frac{\|w_i\|^2}{\|w_i^{WD}\|^2},\qquad w_i \leftarrow w_i - \hat\eta_i\,g_i,$$
#
# the directions stay the same *exactly*. The paper leaves out $1/(1-\eta\lambda)$ (equation 4), which is close to 1. Prove that it belongs there: write both steps for the directions
# and compare. $\lambda$ appears nowhere else: nothing is decayed.

# %% [raw]
# # BEGIN SOLUTION


# %%
def corrected_step(w, g, lr, weight_decay, norms):
    """One corrected step without decay: w, g (N, n), norms (N,) of the run with decay -> w."""
    # BEGIN SOLUTION NO PROMPT
    own = (w * w).sum(axis=1)
    rate = lr / (1 - lr * weight_decay) * own / norms**2
    return w - rate[:, None] * g
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("corrected_step: a learning rate for each channel")
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

tell(5, "corrected_step", "values", globals())

# %%
""" # BEGIN TEST CONFIG
points: 2
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(5, "corrected_step", "run", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: impose_norms

# %% [markdown]
# ## Question 4: or impose the norms
#
# The other way: train without decay at the plain learning rate, and after each step set the norm of every channel to what you want it to be, keeping its direction. That is the paper's norm schedule.

# %% [raw]
# # BEGIN SOLUTION


# %%
def impose_norms(w, norms):
    """w with the channel norms replaced: w (N, n), norms (N,) -> (N, n)."""
    # BEGIN SOLUTION NO PROMPT
    own = np.sqrt((w * w).sum(axis=1))
    return w * (norms / own)[:, None]
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("impose_norms: divide by the own norms, multiply by the others")
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

tell(5, "impose_norms", "values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION
