"""Assignment 6: a network with an L1 batch norm, its gradients, and its training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from lpnorm.batchnorm import batch_norm, batch_norm_backward
from lpnorm.data import digits
from lpnorm.grading.functions import Functions
from lpnorm.grading.rubric import NOT_JUDGED, Assignment, Item, Question, compare, parts
from lpnorm.verify.cases import gaps

Array = np.ndarray
EPS = 1e-5
CLOSE = 1e-9  # a few hundred roundings of float64, and no more
ASKED = (0.80, 0.92)  # of the test digits; the solution reaches 0.96 to 0.98
NAMES = ("dW1", "dgamma", "dbeta", "dW2", "db2")


def _draw(rng: np.random.Generator) -> tuple[Array, ...]:
    """x and parameters of a small network; the batch norm's input keeps away from its kinks."""
    n, inputs, hidden, outputs = 12, 5, 4, 3
    first = rng.standard_normal((hidden, inputs))
    z = gaps(n, hidden, int(rng.integers(2**31))).T  # (n, hidden), wanted as x W1^T
    x = np.concatenate([rng.standard_normal((n, inputs - hidden)), np.zeros((n, hidden))], axis=1)
    part = first[:, inputs - hidden :]
    x[:, inputs - hidden :] = np.linalg.solve(part, (z - x @ first.T).T).T
    gamma = rng.uniform(0.5, 2, hidden) * rng.choice([-1.0, 1.0], hidden)
    beta, second = rng.standard_normal(hidden), rng.standard_normal((outputs, hidden))
    return first, gamma, beta, second, rng.standard_normal(outputs), x


def _forward(w1: Array, gamma: Array, beta: Array, w2: Array, b2: Array, x: Array) -> Any:
    y, cache = batch_norm(x @ w1.T, gamma, beta, p=1, eps=EPS)
    a = np.maximum(y, 0)
    return a @ w2.T + b2, (x, y, a, cache)


def _gradients(dlogits: Array, w2: Array, cache: Any, **lines: Any) -> dict[str, Array]:
    """The right gradients, or with some lines replaced."""
    x, y, a, of_norm = cache
    da = dlogits @ w2
    dy = lines.get("dy", da * (y > 0))
    dz, dgamma, dbeta = batch_norm_backward(np.ascontiguousarray(dy), of_norm)
    dz = lines.get("dz", dz)
    assert dz is not None
    found = (dz.T @ x, dgamma, dbeta, dlogits.T @ a, dlogits.sum(axis=0))
    return {n: np.asarray(a) for n, a in zip(NAMES, found, strict=True)}


def _network_forward(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f, words = functions.get("network_forward", keep=(1,)), ""
    for _ in range(3):
        given = _draw(rng)
        w1, gamma, beta, w2, b2, x = given
        got, _ = parts(f(*(a.copy() for a in given)), "logits", "cache")
        y, cache = batch_norm(x @ w1.T, gamma, beta, p=1, eps=EPS)
        a = np.maximum(y, 0)
        plain = (x @ w1.T - (x @ w1.T).mean(axis=0)) / (cache.scale - EPS) * np.sqrt(2 / np.pi)
        known = {
            "the ReLU is missing": y @ w2.T + b2,
            "the last bias is missing": a @ w2.T,
            "a ReLU stands behind the logits": np.maximum(a @ w2.T + b2, 0),
            "the ReLU stands before the batch norm": batch_norm(
                np.maximum(x @ w1.T, 0), gamma, beta, p=1, eps=EPS
            )[0]
            @ w2.T
            + b2,
            "this is the L2 batch norm": np.maximum(
                batch_norm(x @ w1.T, gamma, beta, p=2, eps=EPS)[0], 0
            )
            @ w2.T
            + b2,
            "the Gaussian constant is missing from the batch norm": np.maximum(
                gamma * plain * np.pi / 2 + beta, 0
            )
            @ w2.T
            + b2,
            "there is no batch norm": np.maximum(x @ w1.T, 0) @ w2.T + b2,
        }
        words = words or compare("logits", got, _forward(*given)[0], known, CLOSE)
    yield "values", words


def _loss(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f = functions.get("loss_and_gradient")
    loss_words = gradient_words = large = ""
    for scale in (1.0, 3.0, 2000.0):
        logits, labels = rng.standard_normal((7, 4)) * scale, rng.integers(0, 4, 7)
        loss, dlogits = parts(f(logits.copy(), labels.copy()), "loss", "dlogits")
        shifted = logits - logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        hot = np.eye(4)[labels]
        each = (total - shifted)[np.arange(7), labels]
        right = (np.exp(shifted - total) - hot) / 7
        known = {
            "this is the sum over the samples, not the mean": each.sum(),
            "the sign is wrong: the loss is -log of the probability": -each.mean(),
            "the logarithm is to base 2": each.mean() / np.log(2),
        }
        of_gradient = {
            "the mean over the samples is missing: divide by n": right * 7,
            "the sign is wrong": -right,
            "the labels are missing: this is the softmax / n": right + hot / 7,
            "this is the softmax less the labels, divided by the number of classes": right * 7 / 4,
        }
        wrong = (
            compare("the loss", loss, each.mean(), known, CLOSE),
            compare("dlogits", dlogits, right, of_gradient, CLOSE),
        )
        if scale > 100:
            large = wrong[0] or wrong[1]
        else:
            loss_words, gradient_words = loss_words or wrong[0], gradient_words or wrong[1]
    yield "loss", loss_words
    yield "dlogits", gradient_words
    stands = loss_words or gradient_words
    yield "large logits", f"{NOT_JUDGED}: the values are wrong" if stands else large


def _network_backward(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f = functions.get("network_forward", keep=(1,))
    b = functions.get("network_backward")
    found: dict[str, str] = {}
    for _ in range(3):
        given = _draw(rng)
        dlogits = rng.standard_normal((len(given[5]), len(given[4])))
        _, own = parts(f(*(a.copy() for a in given)), "logits", "cache")
        got = dict(zip(NAMES, parts(b(dlogits.copy(), own), *NAMES), strict=True))
        _, cache = _forward(*given)
        right = _gradients(dlogits, given[3], cache)
        _, y, _, of_norm = cache
        da = dlogits @ given[3]
        dy = da * (y > 0)
        g = given[1] * dy
        variants = {
            "the ReLU's derivative is missing: a gradient passes only where y > 0": {"dy": da},
            "the batch norm was passed by: dz must come from l1_backward": {"dz": dy},
            "the gradient through mean and scale of the batch norm is missing": {
                "dz": g / of_norm.scale
            },
            "the gradient through the scale of the batch norm is missing": {
                "dz": (g - g.mean(axis=0)) / of_norm.scale
            },
        }
        wrong_ones = {
            words: _gradients(dlogits, given[3], cache, **lines)
            for words, lines in variants.items()
        }
        n = len(dlogits)
        for name in NAMES:
            known = {words: each[name] for words, each in wrong_ones.items()}
            known["divided by n once too often (dlogits has that already)"] = right[name] / n
            if not found.get(name):
                found[name] = compare(name, got[name], right[name], known, CLOSE)
    yield "dW2 and db2", found["dW2"] or found["db2"]
    yield "dgamma and dbeta", found["dgamma"] or found["dbeta"]
    yield "dW1", found["dW1"]


@lru_cache
def _digits() -> tuple[Array, Array, Array, Array]:
    data = digits("float64")
    flat = [x.reshape(len(x), -1) for x in (data.train_x, data.test_x)]
    return flat[0], data.train_y, flat[1], data.test_y


def _train(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """The trained network is run here, on digits it has not seen.

    Pixels and classes are in another order each time, so that no weights can be brought along.
    """
    x, labels, test_x, test_labels = _digits()
    pixels, classes = rng.permutation(64), rng.permutation(10)
    f = functions.get("train")
    given = f(x[:, pixels].copy(), classes[labels], int(rng.integers(1000)))
    w1, gamma, beta, w2, b2, mean, scale = (
        np.asarray(a, "float64")
        for a in parts(given, "W1", "gamma", "beta", "W2", "b2", "mean", "scale")
    )
    hidden = len(gamma) if gamma.ndim == 1 else 0
    shapes = ((hidden, 64), (hidden,), (hidden,), (10, hidden), (10,), (hidden,), (hidden,))
    words = ""
    for a, shape, name in zip(
        (w1, gamma, beta, w2, b2, mean, scale),
        shapes,
        ("W1", "gamma", "beta", "W2", "b2", "mean", "scale"),
        strict=True,
    ):
        if a.shape != shape:
            words = words or f"{name} has shape {a.shape}, {shape} expected"
        elif not np.all(np.isfinite(a)):
            words = words or f"{name} is not finite: the training diverged"
    if words or hidden > 512:
        words = words or f"{hidden} hidden units, at most 512 are allowed"
        yield "learns", words
        yield "well", f"{NOT_JUDGED}: it does not learn"
        return

    def accuracy(mean: Array, scale: Array) -> float:
        y = gamma * (test_x[:, pixels] @ w1.T - mean) / scale + beta
        logits = np.maximum(y, 0) @ w2.T + b2
        return float((logits.argmax(axis=1) == classes[test_labels]).mean())

    reached = accuracy(mean, scale)
    z = x[:, pixels] @ w1.T
    own = z.mean(axis=0), np.sqrt(np.pi / 2) * abs(z - z.mean(axis=0)).mean(axis=0) + EPS
    better = accuracy(*own)
    said = f"{reached:.0%} of the digits it has not seen are right, {{:.0%}} are asked for"
    if better > reached + 0.05:
        said += (
            f"; with the mean and scale of the whole training set it would be {better:.0%}: "
            "those that came back do not belong to these weights"
        )
    for item, asked in zip(("learns", "well"), ASKED, strict=True):
        yield item, "" if reached >= asked else said.format(asked)


ASSIGNMENT = Assignment(
    6,
    "Train a network with what you wrote",
    "06_train",
    (
        Question(
            "network_forward",
            "network_forward(W1, gamma, beta, W2, b2, x) -> (logits, cache)",
            (Item("values", 3, "the logits of a random network"),),
            _network_forward,
        ),
        Question(
            "loss_and_gradient",
            "loss_and_gradient(logits, labels) -> (loss, dlogits)",
            (
                Item("loss", 2, "the mean cross-entropy"),
                Item("dlogits", 2, "its gradient"),
                Item("large logits", 1, "no overflow for logits in the thousands", hidden=True),
            ),
            _loss,
        ),
        Question(
            "network_backward",
            "network_backward(dlogits, cache) -> (dW1, dgamma, dbeta, dW2, db2)",
            (
                Item("dW2 and db2", 2, "the last layer"),
                Item("dgamma and dbeta", 2, "through the ReLU"),
                Item("dW1", 3, "through the batch norm"),
            ),
            _network_backward,
        ),
        Question(
            "train",
            "train(x, labels, seed) -> (W1, gamma, beta, W2, b2, mean, scale)",
            (
                Item("learns", 4, "80 % of digits it has not seen"),
                Item("well", 2, "92 % of them"),
            ),
            _train,
        ),
    ),
    seconds=60.0,
)
