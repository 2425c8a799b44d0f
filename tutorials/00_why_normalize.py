# %% [markdown]
# # Why normalize, and what happens at test time?
#
# A network of twenty layers multiplies twenty matrices. If each makes its input a little smaller, nothing arrives; if each makes it a little larger, everything overflows. Batch norm puts the size back after every layer. That is the simple half of the story. The other half: the size is measured on a *batch*, and at test
# time there is none. In this notebook you see both halves in pictures, before any derivation.
#
# **For whom.** You have trained a neural network before, in any framework, and know NumPy.
#
# **How long.** About 20 minutes of reading; the cells run in under a minute, nearly all of it training.
#
# Equations such as (0.1) belong to this notebook. A line of code that computes an equation carries its number.

# %%
# # %pip install -q "..[tutorials]"

import math
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: threads would only wait

import exercises
import figures
import matplotlib.pyplot as plt
import numpy as np
import pictures

from lpnorm import data, decay, nn, training
from lpnorm.experiments.pictures import BLUE, GREEN, VERMILLION

pictures.style()
digits = data.digits("float32")
print(f"{len(digits.train_x):,} digits to train with, {len(digits.test_x)} to test with")

# %% [markdown]
# ## 1. A deep net at birth
#
# Twenty layers of 64 numbers, each a random matrix and a ReLU. The entries of the matrix are Gaussian with standard deviation $c\,\sqrt{2/64}$; with $c = 1$ (He's initialization) a layer keeps the size of its input on average. With another $c$ it multiplies the size by $c$, and twenty layers by
#
# $$ c^{20}: \qquad 0.7^{20} \approx 0.0008, \qquad 1.4^{20} \approx 837. \tag{0.1} $$
#
# How large are the numbers behind each layer, for 256 digits? And how large with a batch norm behind each matrix, which subtracts the mean and divides by the standard deviation, channel by channel?


# %%
def deep(normalize, c=1.0, layers=20, width=64, seed=0):
    """A network of so many hidden layers on digits, with or without batch norm."""
    rng, parts, size = np.random.default_rng(seed), [nn.Flatten()], 64
    for _ in range(layers):
        linear = nn.Linear(size, width, rng=rng)
        linear.weight.data = (c * linear.weight.data).astype("float32")  # (0.1)
        parts += [linear, *([nn.BatchNorm(width)] if normalize else []), nn.ReLU()]
        size = width
    return nn.Sequential(*parts, nn.Linear(size, 10, rng=rng))


def size_behind_each_layer(model, x):
    found = []
    for part in model.sequence[:-1]:
        x, _ = part(x, train=True)
        if isinstance(part, nn.ReLU):
            found.append(math.sqrt(np.mean(np.square(x, dtype="float64"))))
    return found


curves = {
    (c, normalize): size_behind_each_layer(deep(normalize, c), digits.train_x[:256])
    for c in (0.7, 1.0, 1.4)
    for normalize in (False, True)
}
for (c, normalize), found in curves.items():
    print(
        f"c = {c}  {'with' if normalize else 'without':8s} batch norm: behind layer 20 {found[-1]:9.2g}"
    )

# %%
figures.figure_00_1(curves)

# %% [markdown]
# **Figure 1.** *The size of what leaves each layer. Left: it vanishes or explodes, unless $c$ is just right. Right: with batch norm the three curves lie on each other; nobody can see $c$ any more.*
#
# Tutorial 03 takes the last sentence seriously: if the output does not feel the size of a weight, what does that size do?
#
# ## 2. Does it train?
#
# Three epochs on the digits with SGD and momentum, for $c$ from 1/8 to 8.


# %%
def trained(model, epochs=3, batch=64, lr=0.05, **settings):
    sgd = decay.SGD(model.parameters(), lr=lr, momentum=0.9)
    return training.train(
        model, digits, sgd, epochs, batch, if_diverged="record", progress=False, **settings
    )


scales = [2.0**k for k in range(-3, 4)]
accuracies = {
    normalize: [
        100 * (trained(deep(normalize, c, layers=12)).test_accuracy or [0.1])[-1] for c in scales
    ]
    for normalize in (False, True)
}
# figures of trainings: they depend a little on the machine
for normalize, found in accuracies.items():
    print("with   " if normalize else "without", " ".join(f"{value:5.1f}" for value in found), "%")

# %%
_, ax = plt.subplots(figsize=(6, 3))
for normalize, color, label in ((True, BLUE, "with batch norm"), (False, VERMILLION, "without")):
    ax.semilogx(scales, accuracies[normalize], "o-", base=2, color=color, label=label)
ax.axhline(10, color="black", linestyle=":", linewidth=1)
ax.set(xlabel="c: scale of the first weights", ylabel="test accuracy (%)", ylim=(0, 100))
ax.legend()
plt.show()

# %% [markdown]
# **Figure 2.** *Test accuracy after three epochs, twelve layers (dotted: chance). Without batch norm the network trains for a narrow range of first weights. With it, for all of them, more slowly where the weights are so large that the steps are small beside them.*
#
# That is a riddle: the *output* does not feel $c$, and yet the training does, at the ends. The step that SGD takes is measured against the size of the weight. That is the effective step size of tutorial 03.
#
# ## 3. What a batch is
#
# The mean and the scale come from the other samples of the batch. So what a network says about one picture depends on which others happen to be there:

# %%
model = deep(True, layers=3)
trained(model)
one, rng = digits.test_x[:1], np.random.default_rng(0)
companies = [rng.choice(len(digits.train_x), 15, replace=False) for _ in range(200)]
logits = [model(np.concatenate([one, digits.train_x[c]]), train=True)[0][0] for c in companies]
deviation = np.std(logits, axis=0)
print(f"the ten outputs for one digit: {np.mean(logits, axis=0).round(1)}")
print(f"vary with its 15 companions by {deviation.round(1)}")

# %% [markdown]
# In training that is a kind of noise, and not always a bad one. For a test it will not do: an answer must not depend on who else asks, and there may be a single picture. So while it trains, each batch norm keeps *running statistics*, averages over the batches it has seen,
#
# $$ \text{running} \leftarrow (1-m)\,\text{running} + m\,\text{batch}, \tag{0.2} $$
#
# with a momentum $m$, 0.1 say, and in evaluation it uses these, as constants. Watch one channel:

# %%
model, seen = deep(True, layers=3), []
norm = model.sequence[2]


def after_step(step, epoch):
    batch = model.sequence[1](model.sequence[0](digits.train_x[:64], train=True)[0], train=True)[0]
    seen.append((batch[:, 0].std(), norm.running_scale[0]))  # (0.2)


trained(model, epochs=4, after_step=after_step)
_, ax = plt.subplots(figsize=(8, 2.8))
ax.plot(np.array(seen)[:, 0], color=GREEN, label="standard deviation of a batch")
ax.plot(np.array(seen)[:, 1], color=BLUE, linewidth=2, label="running scale")
ax.set(xlabel="step", title="one channel of the first batch norm", ylim=(0, None))
ax.legend()
plt.show()

# %% [markdown]
# **Figure 3.** *The deviation of one channel (always of the same 64 digits) moves as the weights in front of it do. The running scale starts at 1 and follows, some ten steps behind.*
#
# ## 4. The gap
#
# So a network has two behaviours: with the batch's statistics, as it was trained, and with the running ones, as it is used. When do they differ?
#
# - **Early**, while the running statistics still remember where they started.
# - **When the weights move fast**, because averages lag behind.
# - **When batches are small**: their statistics are noisy, the network has trained with that noise, and the averages have none of it.
#
# Train with batches of 2 to 256 and look at both accuracies on the test digits.

# %%
batches = [2, 4, 8, 16, 64, 256]
gap = {"running statistics (test)": [], "statistics of the batch (as in training)": []}
for batch in batches:
    model = deep(True, layers=3)
    history = trained(model, epochs=2, batch=batch, lr=0.05 * min(1, batch / 16))
    right = [
        model(digits.test_x[i : i + batch], train=True)[0].argmax(axis=1)
        == digits.test_y[i : i + batch]
        for i in range(0, 360, batch)
        if i + batch <= 360
    ]
    for kind, value in zip(gap, (history.test_accuracy[-1], np.mean(right)), strict=True):
        gap[kind].append(100 * value)
# figures of trainings: they depend a little on the machine
print(f"{'batch':42s}" + "".join(f"{batch:7d}" for batch in batches))
for kind, found in gap.items():
    print(f"{kind:42s}" + "".join(f"{value:7.1f}" for value in found))

# %%
_, ax = plt.subplots(figsize=(6.5, 3))
for (kind, found), color in zip(gap.items(), (BLUE, GREEN), strict=True):
    ax.semilogx(batches, found, "o-", base=2, color=color, label=kind)
ax.set(xlabel="values a channel in a batch", ylabel="test accuracy (%)", ylim=(0, 100))
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# **Figure 4.** *The two behaviours of one network, two epochs. With two samples a batch each is compared with one other (Exercise 3), and little can be learned. From four on the running ones are better company than a small batch. (At batch 256 the training has had twelve steps, and the running statistics have not arrived.)*
#
# Both ends have their cures: layer norm and weight norm (tutorials 02 and 07) need no batch at all, and a network is evaluated after its training has settled.
#
# ## What you have now
#
# - Depth multiplies sizes. A normalizer makes the size of every layer's output a constant, whatever the weights.
# - In training it measures a batch, in evaluation it uses running averages. A network has two behaviours, and a test of one says nothing about the other.
# - The output does not feel the size of the weights, the training does.
#
# Next: [01, what a normalizer measures](01_what_a_normalizer_measures.ipynb).
#
# ## Exercises
#
# Each has a cell for your answer and a line that checks it (`exercises.py`). Hints are folded away.
#
# ### Exercise 1
#
# In evaluation a batch norm is a straight line, $y = \gamma\,(z - \text{mean})/\text{scale} + \beta$ with constants, so it can be folded into the linear layer before it, $z = xW^\top + b$. Write the folded $W'$ (channels, inputs) and $b'$ (channels,).
#
# <details><summary>Hint</summary>
#
# Insert $z$, and collect what multiplies $x$.
#
# </details>


# %%
def folded(w, b, gamma, beta, mean, scale):
    return None  # your answer: (w', b')


print(exercises.check_00_1(folded))

# %% [markdown]
# ### Exercise 2
#
# With momentum $m = 0.1$, after how many batches is less than 1 % of the starting value left in the running scale? And with $m = 0.01$?
#
# <details><summary>Hint</summary>
#
# By (0.2) the share of the start is multiplied by $1 - m$ at each batch.
#
# </details>

# %%
batches_for_a_tenth, batches_for_a_hundredth = None, None  # your answers: whole numbers
answer = None if batches_for_a_tenth is None else (batches_for_a_tenth, batches_for_a_hundredth)
print(exercises.check_00_2(answer))

# %% [markdown]
# ### Exercise 3
#
# What does a batch norm give for a batch of *two* samples, $x_1 \ne x_2$ (one channel, $\gamma = 1$, $\beta = 0$, no eps)? Predict both numbers, then say what the network has learned of $x_1$.
#
# <details><summary>Hint</summary>
#
# Where does the mean of two numbers lie, and how far are they from it?
#
# </details>

# %%
larger, smaller = None, None  # your answers: y of the larger and of the smaller x
print(exercises.check_00_3(None if larger is None else (larger, smaller)))
