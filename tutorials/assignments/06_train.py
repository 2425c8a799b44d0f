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
# # Assignment 6: train a network with what you wrote
#
# Now everything at once: a network with your L1 batch norm, its backward pass by hand, and your SGD, on 1,437 handwritten digits. No framework anywhere.
#
# $$z = xW_1^\top,\qquad y = \text{L1 batch norm}(z;\gamma,\beta),\qquad a = \max(y, 0),\qquad \text{logits} = aW_2^\top + b_2$$
#
# $W_1$ needs no bias: why not?
#
# **What you need.** Your `l1_forward` and `l1_backward` of assignment 1 and `sgd_step` of assignment 5 (copy them into the first cell of question 1). About three hours.
#
# **What to read first.** Tutorial 04 shows such a run.
#
# **Rules.** NumPy and the standard library. $\varepsilon = 10^{-5}$. Shapes: `x` (N, D), `W1` (H, D), `gamma`, `beta` (H,), `W2` (K, H), `b2` (K,), `labels` (N,) integers from 0 to K − 1.
# Nothing you are given is changed.
#
# **How it is marked.** 21 points. The cell after each question shows what is right so far, in words. Training may take 60 seconds on the grader's computer; a few are enough.

# %%
import numpy as np

# %% [raw]
# # BEGIN QUESTION
# name: network_forward

# %% [markdown]
# ## Question 1: the network
#
# First put the functions you need into the cell below, then write the network under it.

# %% [raw]
# # BEGIN SOLUTION

# %%
# Your functions of assignments 1 and 5.
# BEGIN SOLUTION NO PROMPT
C1 = np.sqrt(np.pi / 2)


def l1_forward(x, gamma, beta, eps):
    """L1 batch norm: x (N, C), gamma and beta (C,), eps a number -> y (N, C), cache."""
    d = x - x.mean(axis=0)
    scale = C1 * abs(d).mean(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)


def l1_backward(dy, cache):
    """Gradients of l1_forward: dy (N, C) and its cache -> dx (N, C), dgamma (C,), dbeta (C,)."""
    x_hat, d, scale, gamma = cache
    g = gamma * dy
    h = C1 * np.sign(d) / len(d)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)


def sgd_step(w, g, b, lr, momentum, weight_decay):
    """One step: w, g (N, n), b (N, n) or None -> the new w and b."""
    g = g + weight_decay * w
    b = g if b is None else momentum * b + g
    return w - lr * b, b


# END SOLUTION


# %%
def network_forward(W1, gamma, beta, W2, b2, x):
    """Logits (N, K) of the network for x (N, D), and a cache for network_backward."""
    # BEGIN SOLUTION NO PROMPT
    y, of_norm = l1_forward(x @ W1.T, gamma, beta, 1e-5)
    a = np.maximum(y, 0)
    return a @ W2.T + b2, (x, y, a, of_norm, W2)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("network_forward: four lines, one for each formula above")
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

tell(6, "network_forward", "values", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: loss_and_gradient

# %% [markdown]
# ## Question 2: the loss
#
# The mean over the samples of $-\log p_{\text{label}}$, $p = \operatorname{softmax}(\text{logits})$, and its gradient with respect to the logits. *Hidden:* logits in the thousands must not overflow (subtract the largest
# logit of each sample first: why is that allowed?).

# %% [raw]
# # BEGIN SOLUTION


# %%
def loss_and_gradient(logits, labels):
    """Mean cross-entropy of logits (N, K) and labels (N,) -> loss, dlogits (N, K)."""
    # BEGIN SOLUTION NO PROMPT
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    dlogits = np.exp(log_p)
    dlogits[rows, labels] -= 1
    return -log_p[rows, labels].mean(), dlogits / len(labels)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("loss_and_gradient: the gradient is softmax minus one-hot labels, over N")
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

tell(6, "loss_and_gradient", "loss", globals())

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(6, "loss_and_gradient", "dlogits", globals())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(6, "loss_and_gradient", "large logits", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: network_backward

# %% [markdown]
# ## Question 3: back through the network
#
# From `dlogits` (N, K) to all five parameters. Go backwards through the four lines of question 1. The ReLU passes a gradient on where $y > 0$.

# %% [raw]
# # BEGIN SOLUTION


# %%
def network_backward(dlogits, cache):
    """Gradients of network_forward -> dW1, dgamma, dbeta, dW2, db2, in the parameters' shapes."""
    # BEGIN SOLUTION NO PROMPT
    x, y, a, of_norm, W2 = cache
    dy = (dlogits @ W2) * (y > 0)
    dz, dgamma, dbeta = l1_backward(dy, of_norm)
    return dz.T @ x, dgamma, dbeta, dlogits.T @ a, dlogits.sum(axis=0)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("network_backward: the last layer first")
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

tell(6, "network_backward", "dW2 and db2", globals())

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(6, "network_backward", "dgamma and dbeta", globals())

# %%
""" # BEGIN TEST CONFIG
points: 3
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(6, "network_backward", "dW1", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: train

# %% [markdown]
# ## Question 4: train it
#
# `x` (1437, 64) and `labels` are digits; `seed` is for your random numbers (`np.random.default_rng(seed)`: the first weights, the order of the samples). You choose the number of hidden units (at most 512), batch,
# epochs, learning rate, momentum and decay.
#
# Return the trained parameters and, in addition, the `mean` and `scale` (H,) that the batch norm is to use for digits it has not seen: those of $z$ over the whole training set, after the last step, with $\varepsilon$
# inside `scale`. The grader runs your network on 360 other digits, with these. (Pixels and classes come in another order there, so weights cannot be brought along.) 80 % right earns 4 points, 92 % two more.

# %% [raw]
# # BEGIN SOLUTION


# %%
def train(x, labels, seed):
    """Train on x (N, 64), labels (N,) -> W1, gamma, beta, W2, b2, mean, scale."""
    # BEGIN SOLUTION NO PROMPT
    rng, hidden, batch = np.random.default_rng(seed), 64, 64
    parameters = [
        rng.standard_normal((hidden, x.shape[1])) * np.sqrt(2 / x.shape[1]),
        np.ones(hidden),
        np.zeros(hidden),
        rng.standard_normal((10, hidden)) * np.sqrt(2 / hidden),
        np.zeros(10),
    ]
    buffers = [None] * 5
    for epoch in range(20):
        order, lr = rng.permutation(len(x)), 0.1 if epoch < 15 else 0.01
        for start in range(0, len(x) - batch + 1, batch):
            chosen = order[start : start + batch]
            logits, cache = network_forward(*parameters, x[chosen])
            _, dlogits = loss_and_gradient(logits, labels[chosen])
            for i, g in enumerate(network_backward(dlogits, cache)):
                parameters[i], buffers[i] = sgd_step(parameters[i], g, buffers[i], lr, 0.9, 5e-4)
    z = x @ parameters[0].T
    mean = z.mean(axis=0)
    scale = C1 * abs(z - mean).mean(axis=0) + 1e-5
    return *parameters, mean, scale
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("train: batches in random order, forward, loss, backward, a step for each parameter")
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

tell(6, "train", "learns", globals())

# %%
""" # BEGIN TEST CONFIG
points: 2
"""  # END TEST CONFIG
from lpnorm.grading import tell

tell(6, "train", "well", globals())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION
