"""The probes: small arrays, each made to show one kind of mistake.

A probe is made as rows (groups, n), one row a group that is normalized together, and laid out in
an array of any number of axes. Values are rounded to the dtype tried, so that the oracle gets
exactly the numbers the candidate gets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lpnorm.verify.formula import from_rows, rows_of

Array = np.ndarray
GROUPS = 3
OUTPUTS = ("y", "dx", "dgamma", "dbeta")


@dataclass(frozen=True)
class Layout:
    """How rows lie in an array of `ndim` axes: channels on `axis`, or `axis` normalized over.

    sizes: how long the axes are that are normalized over, where that is not free.
    """

    layer: str
    ndim: int
    axis: Any
    sizes: tuple[int, ...] | None = None

    @property
    def reduced(self) -> tuple[int, ...]:
        named = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        named = tuple(sorted(a % self.ndim for a in named))
        return self._others(named) if self.layer == "batch_norm" else named

    @property
    def affine(self) -> tuple[int, ...]:
        """The axes gamma and beta have."""
        return self._others(self.reduced) if self.layer == "batch_norm" else self.reduced

    def _others(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a for a in range(self.ndim) if a not in axes)

    def shape(self, groups: int, n: int) -> tuple[int, ...]:
        sizes = [0] * self.ndim
        for axes, count in ((self._others(self.reduced), groups), (self.reduced, n)):
            fixed = self.sizes if axes == self.reduced and self.sizes else ()
            free = math.prod(fixed) != count or len(fixed) != len(axes)
            for a, size in zip(axes, _factors(count, len(axes)) if free else fixed, strict=True):
                sizes[a] = size
        return tuple(sizes)

    def array(self, rows: Array) -> Array:
        return np.asarray(from_rows(rows, self.shape(*rows.shape), self.reduced))

    def rows(self, array: Array) -> Array:
        return np.asarray(rows_of(array, self.reduced))

    def wide(self, parameter: Array, shape: tuple[int, ...]) -> Array:
        """gamma or beta with x's number of axes, to broadcast against it."""
        return parameter.reshape([s if a in self.affine else 1 for a, s in enumerate(shape)])


def _factors(n: int, count: int) -> list[int]:
    """n as a product of `count` sizes, as different from each other as its factors allow."""
    sizes, factor, found = [1] * count, 2, []
    while n > 1:
        while n % factor == 0:
            found.append(factor)
            n //= factor
        factor += 1
    for each in reversed(found):
        sizes[sizes.index(min(sizes))] *= each
    return sizes


@dataclass(frozen=True)
class Case:
    """One probe: a name, why it is tried, the arrays, all of one dtype, and what it is run with.

    arrays: x, gamma, beta, dy (batch and layer norm); v, dw and g (weight norm); w and gradients
    (SGD: one a step). settings: eps; rho (bounded weight norm); those of SGD. p: of a weight norm;
    a normalizer's is in its conventions. flags: what it shows, for who decides by it.
    """

    name: str
    why: str
    layer: str
    arrays: dict[str, Array]
    settings: dict[str, Any] = field(default_factory=dict)
    p: Any = None
    layout: Any = None  # a normalizer's Layout
    flags: frozenset[str] = frozenset()

    @property
    def x(self) -> Array:
        return self.arrays["x"]

    @property
    def gamma(self) -> Array:
        return self.arrays["gamma"]

    @property
    def beta(self) -> Array:
        return self.arrays["beta"]

    @property
    def dy(self) -> Array:
        return self.arrays["dy"]

    @property
    def eps(self) -> float:
        return float(self.settings["eps"])

    @property
    def dtype(self) -> str:
        return str(next(iter(self.arrays.values())).dtype)

    @property
    def n(self) -> int:
        """The values that are normalized together."""
        if self.layout is None:
            return int(self.arrays["v"][0].size)
        return math.prod(self.x.shape[a] for a in self.layout.reduced)

    def but(self, **changed: Any) -> Case:
        """The case with other arrays or settings."""
        arrays = {name: changed.pop(name, a) for name, a in self.arrays.items()}
        return replace(self, arrays=arrays, settings={**self.settings, **changed})


class Outcome(dict[str, Any]):
    """What one call gave, NumPy arrays by name; as an attribute, None for what is not there.

    modified: the input it changed, where that is not to be seen in the array itself.
    """

    modified = ""

    def __init__(self, *outputs: Array | None, **named: Array | None) -> None:
        given = {**dict(zip(OUTPUTS, outputs, strict=False)), **named}
        super().__init__({name: a for name, a in given.items() if a is not None})

    def marked(self, modified: str) -> Outcome:
        self.modified = modified
        return self

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def build(
    name: str,
    why: str,
    rows: Array,
    layout: Layout,
    dtype: str,
    eps: float,
    seed: int = 0,
    flags: str = "",
) -> Case:
    """A case of these rows with random gamma (of both signs), beta and upstream gradient.

    The upstream gradient must be random: for dy = 1 or dy = y the gradient of a normalizer is 0.
    """
    rng = np.random.default_rng([seed, *rows.shape])
    x = layout.array(rows).astype(dtype)
    shape = tuple(x.shape[a] for a in layout.affine)
    gamma = half(rng.uniform(0.5, 2.0, shape) * np.where(rng.permuted(_alternate(shape)), -1, 1))
    beta, dy = half(rng.uniform(-2, 2, shape)), half(rng.standard_normal(x.shape))
    arrays = {"x": x, "gamma": gamma, "beta": beta, "dy": dy}
    arrays = {key: a.astype(dtype) for key, a in arrays.items()}
    kinds = frozenset(flags.split())
    return Case(name, why, layout.layer, arrays, {"eps": eps}, layout=layout, flags=kinds)


def _alternate(shape: tuple[int, ...]) -> Array:
    return (np.arange(math.prod(shape)) % 2 == 1).reshape(shape)


def half(values: Array) -> Array:
    """Rounded to float16 numbers, which are exact in every dtype; float64."""
    return np.asarray(values).astype("float16").astype("float64")


def gaps(n: int, groups: int = GROUPS, seed: int = 0) -> Array:
    """(groups, n) values of deviation about 1 that keep away from every kink of every norm.

    After the mean is taken off, the sizes |d| differ from each other and from 0 by at least
    1 / (4 n) of their scale, so that no rounding makes a tie; the largest |d| is negative in every
    other row, so that a forgotten absolute value shows.
    """
    rng = np.random.default_rng([seed, n])
    rows: list[Array] = []
    while len(rows) < groups:
        x = (np.arange(n) + 0.5 + rng.uniform(-0.3, 0.3, n)) * rng.choice([-1.0, 1.0], n)
        x = half(rng.permutation(x) * (1.7 / n))
        d = x - x.mean()
        apart = np.diff(np.sort(np.concatenate([[0.0], abs(d)])))
        ends = np.diff(np.sort(x))[[0, -1]] if n > 1 else np.ones(1)
        if n > 2 and (min(apart.min(), ends.min()) < 1.7 / (4 * n * n)):
            continue
        negative = d[np.argmax(abs(d))] < 0
        rows.append(x if negative == (len(rows) % 2 == 0) else -x)
    return np.array(rows)


def tied(p: Any) -> Array:
    """Rows of small whole numbers with mean exactly 0: ties at every place, zeros for L1.

    Half of each row is +-3 and half +-1 (0 for the second row), in an irregular order. n is a power
    of two above 2 k, so the ties are at the last place whatever k is, and every sum is exact.
    """
    n = 8
    while n <= 2 * getattr(p, "k", 1):
        n *= 2
    rng = np.random.default_rng(n)
    big, small = np.resize([3.0, -3.0], n // 2), np.resize([1.0, -1.0], n // 2)
    zeros = np.where(np.arange(n // 2) < n // 4, 0.0, small)
    few = np.where(np.arange(n // 2) < 2, big, 0.5 * big / 1.5)
    return np.array(
        [rng.permutation(np.concatenate(r)) for r in ((big, small), (big, zeros))]
        + [rng.permutation(np.concatenate((few, zeros)))]
    )


def least(p: Any) -> int:
    """The smallest group the norm has a value for."""
    return int(getattr(p, "k", 1))


def typical(p: Any) -> int:
    """The n of most probes: 40, or enough for a large k."""
    k = least(p)
    return 40 if k < 30 else 8 * math.ceil(k / 6)


def is_order_statistic(p: Any) -> bool:
    return hasattr(p, "k") or type(p).__name__ == "Range" or p == math.inf
