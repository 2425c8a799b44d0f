"""Which values belong to a group: x seen as (outer, groups, inner), or gathered into rows.

Batch norm with channels on axis 1 sees (N, C, H, W) as (N, C, H W); channels last are
(N H W, C, 1), layer norm is (1, groups, n). The n = outer * inner values of a group run over outer,
then inner: the logical order of the reduced axes, whatever the memory layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lpnorm.arrays.libraries import Array, library_of


@dataclass(frozen=True)
class View:
    """How an array of this shape is seen as (outer, groups, inner), by `view_of`.

    order: the axes of x in the order in which the view has them. gathered: the groups are not
    adjacent in memory, so that seeing x this way copies it.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    sizes: tuple[int, int, int]
    gathered: bool

    @property
    def n(self) -> int:
        """How many values a group has."""
        return self.sizes[0] * self.sizes[2]

    def see(self, x: Array) -> Array:
        """x, of the view's shape, as (outer, groups, inner); copied if its strides ask for it."""
        return x.transpose(self.order).reshape(self.sizes)

    def back(self, seen: Array) -> Array:
        """The inverse of `see`: an array of the view's shape, without a copy unless gathered."""
        x = seen.reshape([self.shape[a] for a in self.order])
        x = x.transpose([self.order.index(a) for a in range(len(self.order))])
        return library_of(x).ascontiguousarray(x) if self.gathered else x


def view_of(x: Array, reduced: tuple[int, ...]) -> View:
    """The view whose groups are the entries of x's kept axes, `reduced` (sorted) the others.

    The axes keep the order they have in memory if the kept ones are adjacent there and the reduced
    ones in their logical order (so an (N, C, H, W) view of channels-last memory is not copied),
    else the logical one if the kept ones are adjacent there; else each group is gathered,
    (1, groups, n). Axes of length 1 are nowhere in the way.
    """
    kept = tuple(a for a in range(x.ndim) if a not in reduced)
    ones = [a for a in range(x.ndim) if x.shape[a] == 1]
    logical = [a for a in range(x.ndim) if x.shape[a] > 1]
    memory = sorted(logical, key=lambda a: -abs(x.strides[a]))
    for order in (memory, logical):
        groups = [a for a in order if a in kept]
        values = [a for a in order if a in reduced]
        start = order.index(groups[0]) if groups else 0
        adjacent = order[start : start + len(groups)] == groups
        if adjacent and groups == sorted(groups) and values == sorted(values):
            end = start + len(groups)
            parts = (order[:start], groups, order[end:])
            sizes = [math.prod(x.shape[a] for a in part) for part in parts]
            return View(x.shape, (*ones, *order), (sizes[0], sizes[1], sizes[2]), False)
    sizes = [math.prod(x.shape[a] for a in part) for part in (kept, reduced)]
    return View(x.shape, kept + reduced, (1, sizes[0], sizes[1]), True)


def to_rows(x: Array, reduced: tuple[int, ...]) -> Array:
    """x with the axes `reduced` gathered into one last axis: shape (groups, n).

    The order within a row is the logical (C) order of those axes, whatever the memory layout.
    """
    kept = tuple(a for a in range(x.ndim) if a not in reduced)
    n = math.prod(x.shape[a] for a in reduced)
    return x.transpose(kept + reduced).reshape(-1, n)


def from_rows(rows: Array, shape: tuple[int, ...], reduced: tuple[int, ...]) -> Array:
    """The inverse of `to_rows`: a contiguous array of the given shape."""
    order = tuple(a for a in range(len(shape)) if a not in reduced) + reduced
    x = rows.reshape([shape[a] for a in order])
    back = [order.index(a) for a in range(len(shape))]
    return library_of(rows).ascontiguousarray(x.transpose(back))


def column(rows: Array) -> Array:
    """A vector with one entry per group as a column, to broadcast against rows: (g,) -> (g, 1)."""
    return rows.reshape(-1, 1)
