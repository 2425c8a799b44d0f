"""Normalizers one rounding at a time: Python loops over numpy scalars, written from the docstrings.

Nothing here is an array operation: a row is a list of `numpy.float16` (or wider) scalars, and every
line that computes does one operation on two of them. Where the operands' dtypes differ (a float16
value and a float32 mean) the operation is done in the wider one and then rounded to the dtype of
what it gives. tests/test_half.py compares the library with this bit for bit.

The one exception is a power: NumPy's scalar and array loops for it need not round alike, so `power`
goes through an array of one element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm import Range, TopK

Scalar = Any  # numpy.float16, numpy.float32 or numpy.float64
Row = list[Scalar]


# --- sums -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """`lpnorm.Accumulate`, from its docstring: dtype is the scalar type, order one of four."""

    dtype: Any
    order: str | None = None

    def tree(self, row: Row, halved: bool) -> Scalar:
        """Fold the row in half until one is left: element i + n - h is added to element i < h."""
        values = [self.dtype(v) for v in row]
        half = self.dtype(0.5)
        self.note(values)
        while (n := len(values)) > 1:
            h = n // 2
            if halved:
                folded = [values[i] * half + values[i + n - h] * half for i in range(h)]
                waiting = [v * half for v in values[h : n - h]]
                self.note([v * half for v in values])
            else:
                folded = [values[i] + values[i + n - h] for i in range(h)]
                waiting = values[h : n - h]
            values = folded + waiting
            self.note(values)
        return values[0]

    def one_after_another(self, row: Row) -> Scalar:
        total = self.dtype(row[0])
        self.note([total])
        for v in row[1:]:
            total = total + self.dtype(v)
            self.note([total])
        return total

    def note(self, values: Row) -> None:
        """Told every node of every sum; a subclass may listen."""

    def total(self, row: Row) -> Scalar:
        if self.order == "sequential":
            return self.one_after_another(row)
        if self.order == "pairwise_mean":
            return self.times_power_of_two(self.tree(row, halved=True), levels(len(row)))
        return self.tree(row, halved=False)

    def average(self, row: Row) -> Scalar:
        """2^-L times the sum, divided by n / 2^L, at most the largest number if that is finite."""
        n, level = len(row), levels(len(row))
        if self.order in (None, "pairwise_mean"):
            scaled = self.tree(row, halved=True)
        else:
            scaled = self.times_power_of_two(self.total(row), -level)
        self.note([scaled])
        mean = self.dtype(np.float64(scaled) / (n / 2**level))  # n / 2^L is exact in float64
        if np.isinf(mean) and np.isfinite(scaled):
            return np.copysign(np.finfo(self.dtype).max, mean)
        return mean

    def over(self, row: Row, count: int) -> Scalar:
        """The mean where count is n; otherwise the sum divided by count."""
        return self.average(row) if count == len(row) else self.total(row) / self.dtype(count)

    def times_power_of_two(self, value: Scalar, exponent: int) -> Scalar:
        """value 2^exponent, rounded once, whether or not 2^exponent itself fits the dtype."""
        return np.ldexp(value, exponent)


def levels(n: int) -> int:
    """ceil(log2 n)."""
    return (n - 1).bit_length()


# --- scalars --------------------------------------------------------------------------------------


def power(base: Scalar, exponent: float) -> Scalar:
    """base^exponent rounded to base's dtype, by NumPy's array loop."""
    return (np.array([base]) ** exponent)[0]


def largest(row: Row) -> Scalar:
    """max with NaN winning."""
    top = row[0]
    for v in row[1:]:
        if np.isnan(v) or v > top:
            top = v
        if np.isnan(top):
            break
    return top


def sign(v: Scalar) -> Scalar:
    """-1, 0, 1 or NaN, in v's dtype."""
    kind = type(v)
    return v if np.isnan(v) else kind(int(v > 0) - int(v < 0))


# --- the norms ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Power:
    """A real p, computed after division by the maximum."""

    p: float


def plain(p: Any) -> Any:
    """TopK, Range, Power, or one of the two with formulas of their own, 1 and 2."""
    if p == math.inf:
        return TopK(1)
    return p if isinstance(p, (TopK, Range, Power)) or p in (1, 2) else Power(p)


def fractions(d: Row) -> tuple[Row, Scalar]:
    """u = |d| / max |d| in d's dtype (0 for a row of zeros), and the maximum."""
    peak = largest([abs(v) for v in d])
    kind = type(d[0])
    return [kind(0) if peak == 0 else abs(v) / peak for v in d], peak


def top(d: Row, k: int) -> Row:
    """The k largest |d|, in the order their sum takes them: ascending."""
    return sorted((abs(v) for v in d), key=lambda v: (bool(np.isnan(v)), float(v)))[-k:]


def statistic(p: Any, d: Row, sums: Sums) -> Scalar:
    p = plain(p)
    if isinstance(p, TopK):
        return sums.average(top(d, p.k))
    if isinstance(p, Range):
        return sums.dtype(largest(d)) + sums.dtype(largest([-v for v in d]))
    if p == 1:
        return sums.average([abs(v) for v in d])
    if p == 2:
        return np.sqrt(sums.average([v * v for v in d]))
    u, peak = fractions(d)
    return sums.dtype(peak) * power(sums.average([power(v, p.p) for v in u]), 1 / p.p)


def scale(p: Any, d: Row, constant: float, eps: float, sums: Sums) -> Scalar:
    if p == 2:
        square = sums.average([v * v for v in d])
        return np.sqrt(square + sums.dtype(eps))
    return sums.dtype(constant) * statistic(p, d, sums) + sums.dtype(eps)


def direction(p: Any, d: Row, s: Scalar, sums: Sums) -> tuple[Row, Scalar, int]:
    """h, a and m of the gradient C h / (m a) of the scale s."""
    p, kind, acc = plain(p), type(d[0]), sums.dtype
    one = acc(1)
    if isinstance(p, TopK):
        magnitudes = [abs(v) for v in d]
        last = top(d, p.k)[0]
        above = sum(bool(v > last) for v in magnitudes)
        tied = sum(bool(v == last) for v in magnitudes)
        share = acc((p.k - above) / max(tied, 1))
        h = [
            acc(sign(v)) * (one if m > last else share if m == last else acc(0))
            for v, m in zip(d, magnitudes, strict=True)
        ]
        return h, one, p.k
    if isinstance(p, Range):
        high, low = largest(d), -largest([-v for v in d])
        ups, downs = sum(bool(v == high) for v in d), sum(bool(v == low) for v in d)
        up, down = acc(1 / max(ups, 1)), acc(1 / max(downs, 1))
        h = [(up if v == high else acc(0)) - (down if v == low else acc(0)) for v in d]
        return h, one, 1
    if p == 1:
        return [sign(v) for v in d], one, len(d)
    if p == 2:
        return [kind(v / s) for v in d], one, len(d)
    u, _ = fractions(d)
    mean = power(sums.average([power(v, p.p) for v in u]), 1 / p.p)
    h = [sign(v) * power(w, p.p - 1) for v, w in zip(d, u, strict=True)]
    return h, power(one if mean == 0 else mean, p.p - 1), len(d)


# --- centre, measure, scale -----------------------------------------------------------------------


@dataclass
class Normalized:
    x_hat: Row
    d: Row
    mean: Scalar
    s: Scalar


def normalize(x: Row, p: Any, constant: float, eps: float, sums: Sums) -> Normalized:
    kind = type(x[0])
    mean = sums.average(x)
    d = [kind(v - mean) for v in x]
    s = scale(p, d, constant, eps, sums)
    return Normalized([kind(v / s) for v in d], d, mean, s)


def normalize_backward(g: Row, row: Normalized, p: Any, constant: float, sums: Sums) -> Row:
    """dx = (g - b - c h) / s_hat, c = C (T / m) / a, b = mean(g) - c mean(h)."""
    kind, acc = type(g[0]), sums.dtype
    h, a, m = direction(p, row.d, row.s, sums)
    products = [u * v for u, v in zip(g, row.x_hat, strict=True)]
    c = acc(constant) * sums.over(products, m) / a
    b = sums.average(g) - c * sums.average(h)
    return [kind(kind(kind(v - b) - kind(c * w)) / row.s) for v, w in zip(g, h, strict=True)]


def affine(x_hat: Row, gamma: Iterable[Any] | None, beta: Iterable[Any] | None) -> Row:
    kind, y = type(x_hat[0]), x_hat
    if gamma is not None:
        y = [kind(k * v) for k, v in zip(gamma, y, strict=True)]
    if beta is not None:
        y = [kind(v + k) for k, v in zip(beta, y, strict=True)]
    return y


# --- arrays in, arrays out: rows are the logical (C) order of the reduced axes --------------------


def rows_of(x: np.ndarray, reduced: tuple[int, ...]) -> list[Row]:
    """The groups of x, each a list of scalars."""
    kept = [a for a in range(x.ndim) if a not in reduced]
    moved = x.transpose(kept + list(reduced))
    flat = moved.reshape(math.prod(moved.shape[: len(kept)]), -1)
    return [list(row) for row in flat]


def array_of(rows: list[Row], shape: tuple[int, ...], reduced: tuple[int, ...]) -> np.ndarray:
    kept = [a for a in range(len(shape)) if a not in reduced]
    order = kept + list(reduced)
    moved = np.array(rows).reshape([shape[a] for a in order])
    return moved.transpose(np.argsort(order))


@dataclass
class Norm:
    """Batch norm (`layer` False: axes are reduced, gamma is one number a row) or layer norm
    (gamma has one number for each place in a row), forward and then backward."""

    p: Any
    constant: float
    eps: float
    sums: Sums
    reduced: tuple[int, ...]
    layer: bool = False

    def forward(self, x: np.ndarray, gamma: Any, beta: Any) -> np.ndarray:
        self.gamma, self.beta, self.shape = gamma, beta, x.shape
        self.rows = [
            normalize(row, self.p, self.constant, self.eps, self.sums)
            for row in rows_of(x, self.reduced)
        ]
        y = [
            affine(row.x_hat, self.spread(gamma, i), self.spread(beta, i))
            for i, row in enumerate(self.rows)
        ]
        self.mean = np.array([row.mean for row in self.rows])
        self.scale = np.array([row.s for row in self.rows])
        return array_of(y, x.shape, self.reduced)

    def spread(self, values: np.ndarray | None, i: int) -> Row | None:
        """gamma or beta along row i."""
        if values is None:
            return None
        if self.layer:
            return list(values.ravel())
        return [values[i]] * len(self.rows[i].d)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray, Any, Any]:
        kind = dy.dtype.type
        dys = rows_of(dy, self.reduced)
        dx = []
        for i, (row, up) in enumerate(zip(self.rows, dys, strict=True)):
            gamma = self.spread(self.gamma, i)
            g = up if gamma is None else [kind(k * v) for k, v in zip(gamma, up, strict=True)]
            dx.append(normalize_backward(g, row, self.p, self.constant, self.sums))
        products = [
            [u * v for u, v in zip(up, row.x_hat, strict=True)]
            for row, up in zip(self.rows, dys, strict=True)
        ]
        dgamma = self.parameter_gradient(self.gamma, products)
        dbeta = self.parameter_gradient(self.beta, dys)
        return array_of(dx, self.shape, self.reduced), dgamma, dbeta

    def kept(self, values: np.ndarray) -> np.ndarray:
        """One number a row, in float64, to go with x."""
        shape = [1 if a in self.reduced else size for a, size in enumerate(self.shape)]
        return values.reshape(shape).astype("float64")

    def wide(self, values: np.ndarray) -> np.ndarray:
        """gamma or beta, in float64, to go with x."""
        shape = [s if (a in self.reduced) == self.layer else 1 for a, s in enumerate(self.shape)]
        return values.reshape(shape).astype("float64")

    def summed(self) -> tuple[int, ...]:
        """The axes that the gradients of gamma and beta are summed over."""
        return tuple(a for a in range(len(self.shape)) if (a in self.reduced) != self.layer)

    def parameter_gradient(self, like: np.ndarray | None, rows: list[Row]) -> Any:
        if like is None:
            return None
        if self.layer:
            rows = [list(column) for column in zip(*rows, strict=True)]
        sums = [like.dtype.type(self.sums.total(row)) for row in rows]
        return np.array(sums).reshape(like.shape)


def inference(
    x: np.ndarray, gamma: Any, beta: Any, mean: np.ndarray, s: np.ndarray, reduced: tuple[int, ...]
) -> np.ndarray:
    kind, out = x.dtype.type, []
    for i, row in enumerate(rows_of(x, reduced)):
        x_hat = [kind(kind(v - mean[i]) / s[i]) for v in row]
        n = len(row)
        g, b = (None if k is None else [k[i]] * n for k in (gamma, beta))
        out.append(affine(x_hat, g, b))
    return array_of(out, x.shape, reduced)


# --- weight norm ----------------------------------------------------------------------------------


@dataclass
class WeightNorm:
    """w = g v / ||v||; factor: g, one number a row, or rho for all."""

    p: Any
    sums: Sums
    reduced: tuple[int, ...]

    def forward(self, v: np.ndarray, factor: Any) -> np.ndarray:
        kind, acc = v.dtype.type, self.sums.dtype
        self.shape, self.v = v.shape, rows_of(v, self.reduced)
        n = len(self.v[0])
        self.root = float(n) ** (1 / self.p)
        self.bounded = not isinstance(factor, np.ndarray)
        self.factor = [acc(factor)] * len(self.v) if self.bounded else list(factor)
        self.norm = Power(2.0) if self.p == 2 else self.p  # L2 of weights is scaled by its maximum
        self.size = [statistic(self.norm, row, self.sums) * acc(self.root) for row in self.v]
        self.step = [f / size for f, size in zip(self.factor, self.size, strict=True)]
        w = [
            [kind(value * step) for value in row]
            for row, step in zip(self.v, self.step, strict=True)
        ]
        return array_of(w, v.shape, self.reduced)

    def backward(self, dw: np.ndarray) -> tuple[np.ndarray, Any]:
        kind, acc = dw.dtype.type, self.sums.dtype
        dv, dg = [], []
        for i, up in enumerate(rows_of(dw, self.reduced)):
            row, size = self.v[i], self.size[i]
            h, a, m = direction(self.norm, row, size / acc(self.root), self.sums)
            v_hat = [kind(value / size) for value in row]
            inner = self.sums.total([u * w for u, w in zip(up, v_hat, strict=True)])
            c = inner * acc(self.root / m) / a
            dv.append(
                [kind(kind(u - kind(c * w)) * self.step[i]) for u, w in zip(up, h, strict=True)]
            )
            dg.append(type(self.factor[i])(inner))
        return array_of(dv, self.shape, self.reduced), None if self.bounded else np.array(dg)
