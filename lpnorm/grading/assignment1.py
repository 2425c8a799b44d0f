"""Assignment 1: batch norm in the L1 norm and in any Lp norm, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lpnorm.grading import normalizers
from lpnorm.grading.functions import Functions
from lpnorm.grading.rubric import Assignment, Item, Question, compare, every
from lpnorm.verify import oracle


def _constant(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f = functions.get("gaussian_constant")
    words = ""
    for p in (3.0, 1.0, 2.0, *rng.uniform(1.1, 9.0, 3).tolist()):
        right = oracle.gaussian_constant(p, 1000)
        moment = right**-p
        known = {
            "this is E|z|^p; C is its power -1/p": moment,
            "this is (E|z|^p)^(1/p), the inverse of C: a norm that is too large needs a small C": (
                1 / right
            ),
            "the root is missing: C = (E|z|^p)^(-1/p)": 1 / moment,
            "this is the constant of p = 1": math.sqrt(math.pi / 2),
            "1/sqrt(pi) is missing in E|z|^p": (moment * math.sqrt(math.pi)) ** (-1 / p),
        }
        words = words or compare(f"C for p = {p:.4g}", f(p), right, known)
    yield "values", words


EDGES = "eps where it belongs, a constant channel, one value, strided and read-only arrays"
ASSIGNMENT = Assignment(
    1,
    "Lp batch norm, forward and backward",
    "01_lp_batch_norm",
    (
        Question(
            "gaussian_constant",
            "gaussian_constant(p) -> C_p, a float",
            (Item("values", 2, "C_p for real p from 1 up"),),
            _constant,
        ),
        Question(
            "l1_forward",
            "l1_forward(x, gamma, beta, eps) -> (y, cache)",
            (Item("values", 4, "y of random x"), Item("edges", 1, EDGES, hidden=True)),
            normalizers.forward("l1_forward", 1),
        ),
        Question(
            "l1_backward",
            "l1_backward(dy, cache) -> (dx, dgamma, dbeta)",
            (
                Item("dx", 4, "dx of random x and dy"),
                Item("dgamma and dbeta", 2, "the gradients of gamma and beta"),
                Item("edges", 1, "sign(0) = 0, a constant channel, the laws", hidden=True),
            ),
            normalizers.backward("l1_backward", "l1_forward", 1),
        ),
        Question(
            "lp_forward",
            "lp_forward(x, gamma, beta, eps, p) -> (y, cache)",
            (Item("values", 2, "y for p = 3 and p = 1.5"), Item("edges", 1, EDGES, hidden=True)),
            every(normalizers.forward("lp_forward", p, (p,)) for p in (3.0, 1.5)),
        ),
        Question(
            "lp_backward",
            "lp_backward(dy, cache) -> (dx, dgamma, dbeta)",
            (
                Item("dx", 3, "dx for p = 3 and p = 1.5"),
                Item("dgamma and dbeta", 1, "the gradients of gamma and beta"),
                Item("edges", 1, "d = 0, a constant channel, the laws", hidden=True),
            ),
            every(normalizers.backward("lp_backward", "lp_forward", p, (p,)) for p in (3.0, 1.5)),
        ),
    ),
)
