"""Assignment 2: batch norm in L-infinity and Top-k, with ties."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lpnorm.grading import normalizers
from lpnorm.grading.functions import Functions
from lpnorm.grading.rubric import Assignment, Item, Question, compare, every
from lpnorm.norms import TopK
from lpnorm.verify import oracle


def _constant(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    f = functions.get("linf_constant")
    words = ""
    for n in (2, 256, *rng.integers(3, 10**6, 4).tolist()):
        right = oracle.gaussian_constant(math.inf, n)
        root = math.sqrt(2 * math.log(n))
        known = {
            "the factor 1/2 is missing": 2 * right,
            "this is 1/sqrt(2 ln n) alone: the first factor is missing": 1 / root,
            "this is the inverse of C": 1 / right,
            "log10 was used where the natural logarithm belongs": right
            * math.sqrt(math.log(n) / math.log10(n)),
            "the root of 2 ln n is missing": right / root,
            "this is sqrt(pi/2), the constant of L1": math.sqrt(math.pi / 2),
        }
        words = words or compare(f"C for n = {n}", f(n), right, known)
    yield "values", words


EDGES = "eps where it belongs, a constant channel, strided and read-only arrays"
SUMS = Item("dgamma and dbeta", 1, "the gradients of gamma and beta")
LAWS = Item("edges", 1, "a constant channel, the laws, two calls in turn", hidden=True)
ASSIGNMENT = Assignment(
    2,
    "L-infinity and Top-k, with ties",
    "02_linf_topk",
    (
        Question(
            "linf_constant",
            "linf_constant(n) -> C, a float",
            (Item("values", 2, "the paper's constant for groups of n >= 2"),),
            _constant,
        ),
        Question(
            "linf_forward",
            "linf_forward(x, gamma, beta, eps) -> (y, cache)",
            (Item("values", 2, "y of random x"), Item("edges", 1, EDGES, hidden=True)),
            normalizers.forward("linf_forward", math.inf),
        ),
        Question(
            "linf_backward",
            "linf_backward(dy, cache) -> (dx, dgamma, dbeta)",
            (
                Item("dx", 3, "dx of random x and dy"),
                SUMS,
                Item("ties", 2, "several largest values share the gradient equally"),
                LAWS,
            ),
            normalizers.backward("linf_backward", "linf_forward", math.inf, ties=True),
        ),
        Question(
            "topk_forward",
            "topk_forward(x, gamma, beta, eps, k) -> (y, cache)",
            (Item("values", 2, "y for k = 3 and k = 5"), Item("edges", 1, EDGES, hidden=True)),
            every(normalizers.forward("topk_forward", TopK(k), (k,)) for k in (3, 5)),
        ),
        Question(
            "topk_backward",
            "topk_backward(dy, cache) -> (dx, dgamma, dbeta)",
            (
                Item("dx", 3, "dx for k = 3 and k = 5"),
                SUMS,
                Item("ties", 3, "those tied at the k-th place share the places left"),
                LAWS,
            ),
            every(
                normalizers.backward("topk_backward", "topk_forward", TopK(k), (k,), ties=True)
                for k in (3, 5)
            ),
        ),
    ),
)
