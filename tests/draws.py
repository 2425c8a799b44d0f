"""What the tests draw: norms, shapes, values, and random upstream gradients.

Values are drawn as float16 numbers, so that they are exact in every dtype and a test can run the
code in float16 or float32 and judge it in float64 on the same numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpnorm import Range, TopK

NORMS: list[Any] = [1, 1.5, 2, 3, 64, math.inf, TopK(2), TopK(4), Range()]
SMOOTH: list[Any] = [2, 3, 64]  # differentiable wherever the deviations are not all zero
WEIGHT_NORMS: list[Any] = [1, 1.5, 2, 3, 64, math.inf]

seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, shape: tuple[int, ...], dtype: Any = "float64") -> np.ndarray:
    """Standard Gaussian values, rounded to float16 numbers: exact in every dtype."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return values.astype("float16").astype(dtype)


@st.composite
def layouts(draw: Any, least: int = 4) -> tuple[tuple[int, ...], int]:
    """(shape, channel axis) of a batch, 2-D to 5-D, at least `least` values in a channel."""
    ndim = draw(st.integers(2, 5))
    axis = draw(st.integers(-ndim, ndim - 1))
    sizes = draw(st.lists(st.integers(1, 5), min_size=ndim, max_size=ndim))
    others = [a for a in range(ndim) if a != axis % ndim]
    for a in others:
        if math.prod(sizes[o] for o in others) < least:
            sizes[a] = max(sizes[a], least)
    return tuple(sizes), axis


def any_values(shape: tuple[int, ...], largest: float = 64.0) -> st.SearchStrategy[np.ndarray]:
    """Arbitrary float16 numbers up to `largest`, with the ties, zeros and constants that
    hypothesis likes."""
    numbers = st.floats(-largest, largest, width=16, allow_subnormal=False)
    return hnp.arrays(np.float64, shape, elements=numbers)


def with_gaps(seed: int, n: int, groups: int) -> np.ndarray:
    """(groups, n) values whose deviations keep away from every kink.

    The |d| of a row are all different and none is near 0: gaps of at least 1/(4n) of the scale
    between any two and from zero, after the mean is subtracted, so that a finite difference
    with a step of 1e-6 never crosses a kink of |d|, of the maximum or of the k-th place.
    """
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < groups:
        x = rng.permutation((np.arange(n) + rng.uniform(-0.3, 0.3, n)) * rng.choice([-1, 1], n))
        d = np.abs(x - x.mean())
        gaps = np.diff(np.sort(np.concatenate([[0.0], d])))
        top_and_bottom = np.diff(np.sort(x))[[0, -1]] if n > 1 else np.ones(1)
        if n == 1 or min(gaps.min(), top_and_bottom.min()) > 1 / (4 * n):
            rows.append(x)
    return np.array(rows)


def directional(f: Any, x: np.ndarray, v: np.ndarray, h: float = 1e-6) -> float:
    """d f(x + t v) / dt at 0 by a central difference of a scalar function, in float64."""
    return (f(x + h * v) - f(x - h * v)) / (2 * h)
