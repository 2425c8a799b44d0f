"""The backend for NumPy arrays: what the compiled loops take, how work is cut and who does it.

The loops take L1, L2, L-infinity, Top-k and Range with trees of sums or of averages. The rest goes
to the book's own functions: a real p (NumPy's power and a compiler's differ in the last bit), the
order "sequential", a k that is a large part of the values (NumPy's selection is faster there), mean
and scale wider than the accumulator, and arrays that are not NumPy's own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from lpnorm import batchnorm, threads
from lpnorm.arrays import Accumulate, Array, accumulator
from lpnorm.dispatch import Backend, Scheme
from lpnorm.fast import loops, memory
from lpnorm.fast.compiled import entry
from lpnorm.fast.lanes import WIDTH, leaves, place
from lpnorm.norms import L1, L2, Norm, Range, TopK

NARROW, SHORT = 64, 8  # a group of fewer values, or in runs of fewer: groups are put side by side
SHARE = threads.WORTH // 4  # values a thread
LONG = 128  # runs of fewer values are put one behind another: each costs a look
KINDS: dict[type, int] = {L1: loops.L1, L2: loops.L2, TopK: loops.TOP, Range: loops.RANGE}
LIKE = {"float16": np.uint16(0), "float32": np.float32(0), "float64": np.float64(0)}
NAME = {np.dtype(name): name for name in LIKE}  # NumPy makes dtype.name anew each time


def forward(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    scheme: Scheme,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """`lpnorm.batchnorm.forward`, bit for bit.

    out: y goes there if it can: a C-contiguous
    array like x, written to by the loops (not where groups are put side by side first)."""
    if not _covers(x, scheme):
        return batchnorm.forward(x, gamma, beta, scheme)
    run = _Run(x, scheme.accumulate)
    y = run.room(out)
    mean, scale = np.empty(run.groups, run.wide), np.empty(run.groups, run.wide)
    affine = run.parameter(gamma, 1, scheme), run.parameter(beta, -0.0, scheme)
    kind, k = _kind(scheme.norm)
    constant, eps = (float(run.sums.dtype.type(c)) for c in (scheme.constant, scheme.eps))
    fixed = scheme.per_value, kind, k, constant, eps, run.weights
    run.over_groups(loops.forward, [run.stored(x), y], *affine, mean, scale, *fixed, k=k)
    return run.back(y), *(v.astype(run.sums.dtype, copy=False) for v in (mean, scale))


def backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    scheme: Scheme,
    out: Array | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """`lpnorm.batchnorm.backward`, bit for bit. out: dx goes there, as for `forward`."""
    wide = np.promote_types(mean.dtype, scale.dtype)
    if (
        not (_covers(x, scheme) and is_plain(dy))
        or wide.itemsize > scheme.accumulate.dtype.itemsize
    ):
        return batchnorm.backward(dy, x, gamma, beta, mean, scale, scheme)
    run = _Run(x, scheme.accumulate)
    dx, seen = run.room(out), [run.stored(dy), run.stored(x)]
    mean, scale = (np.array(v, run.wide) for v in (mean, scale))
    affine = not (gamma is None and beta is None)
    along = affine and not scheme.per_value
    dgamma, dbeta = (np.empty(run.groups if along else 0, run.wide) for _ in range(2))
    kind, k = _kind(scheme.norm)
    constant = float(run.sums.dtype.type(scheme.constant))
    exact = 2 ** (np.finfo(run.sums.dtype).nmant + 1)
    fixed = scheme.per_value, along, kind, k, constant, exact, run.weights
    of_gamma = run.parameter(gamma, 1, scheme)
    run.over_groups(loops.backward, [*seen, dx], of_gamma, mean, scale, dgamma, dbeta, *fixed, k=k)
    if affine and scheme.per_value:
        columns = _Run(_columns(x), scheme.accumulate)
        dgamma, dbeta = (np.empty(columns.groups, run.wide) for _ in range(2))
        seen = [columns.stored(_columns(dy)), columns.stored(columns.x)]
        results = mean, scale, dgamma, dbeta, run.weights
        columns.over_groups(loops.affine_sums, seen, *results)
    gradients = (None if v is None else d for v, d in ((gamma, dgamma), (beta, dbeta)))
    return run.back(dx), *(
        None if d is None else d.astype(run.sums.dtype, copy=False) for d in gradients
    )


def inference(
    x: Array, gamma: Array | None, beta: Array | None, mean: Array, scale: Array
) -> Array:
    """`lpnorm.batchnorm.inference`, bit for bit."""
    if not is_plain(x):
        return batchnorm.inference(x, gamma, beta, mean, scale)
    widest = np.promote_types(accumulator(x.dtype).dtype, np.result_type(mean, scale))
    run, constants = _Run(x, Accumulate(widest)), Scheme(None, 1.0, 0.0, Accumulate(widest))
    y = run.room()
    affine = run.parameter(gamma, 1, constants), run.parameter(beta, -0.0, constants)
    statistics = (np.array(v, run.wide) for v in (mean, scale))
    run.over_groups(loops.inference, [run.stored(x), y], *affine, *statistics)
    return run.back(y)


LOOPS = Backend(forward, backward, inference)


def is_plain(x: Array) -> bool:
    """Is it an array of NumPy's own in the machine's byte order, which loops can read?"""
    return type(x) in (np.ndarray, np.memmap) and x.dtype.isnative


def _covers(x: Array, scheme: Scheme) -> bool:
    known = scheme.norm is None or type(scheme.norm) in KINDS
    if isinstance(scheme.norm, TopK):
        k, n = scheme.norm.k, x.shape[0] * x.shape[2]
        known = k == 1 or k <= n // 32 or (k <= 32 and k <= n // 4)
    return is_plain(x) and known and scheme.accumulate.order != "sequential"


def _kind(norm: Norm | None) -> tuple[int, int]:
    """The number of a norm in `loops`, and k."""
    return (loops.NONE if norm is None else KINDS[type(norm)]), getattr(norm, "k", 1)


def _columns(x: Array) -> Array:
    """x (outer, groups, inner) with the values of groups as the groups, and groups as values."""
    outer, groups, inner = x.shape
    if inner == 1:
        return x.reshape(1, outer, groups)
    return x.transpose(1, 0, 2).reshape(groups, outer * inner, 1)


class _Run:
    """One call: arrays as the loops take them, and the work cut into parts.

    The loops see C-contiguous arrays, float16 as its bits. Where a group has few values, or they
    lie in short runs, groups are put side by side first, (n, groups, 1), to be summed many at a
    time; runs that are not long are put one behind another, group by group (`loops.joined`).
    """

    def __init__(self, x: Array, sums: Accumulate) -> None:
        outer, self.groups, inner = x.shape
        self.x, self.sums, self.dtype = x, sums, x.dtype
        self.wide = np.dtype(np.float64 if sums.dtype == np.float64 else np.float32)
        self.n = outer * inner
        self.turned = inner > 1 and (self.n < NARROW or inner < SHORT)
        self.joined = outer > 1 and SHORT <= inner < LONG and not self.turned
        self.shape = (self.n, self.groups, 1) if self.turned else x.shape
        # means, sums: a tree of averages (1/2) or of sums (1)?
        self.weights = (
            self.wide.type(1 if sums.order == "pairwise" else 0.5),
            self.wide.type(0.5 if sums.order == "pairwise_mean" else 1),
            float(np.finfo(sums.dtype).max),
        )

    def stored(self, x: Array) -> Array:
        """x as the loops read it."""
        if self.turned:
            x = x.transpose(0, 2, 1).reshape(self.shape)
        x = np.require(x, requirements=["C", "ALIGNED"])
        return x.view(np.uint16) if x.dtype == np.float16 else x

    def room(self, out: Array | None = None) -> Array:
        """Where a result goes: out, if the loops can write there."""
        if out is not None and not self.turned:
            return self.stored(out)
        return memory.empty(self.shape, np.uint16 if self.dtype == np.float16 else self.dtype)

    def back(self, y: Array) -> Array:
        """A result as the caller knows it."""
        y = y.view(self.dtype)
        if not self.turned:
            return y
        outer, groups, inner = self.x.shape
        return np.ascontiguousarray(y.reshape(outer, inner, groups).transpose(0, 2, 1))

    def parameter(self, v: Array | None, default: float, scheme: Scheme) -> Array:
        """gamma or beta in the dtype that is computed in. Times 1 and plus -0 change nothing."""
        if v is not None:
            return np.array(v, self.wide)  # a copy: read-only arrays are another type to Numba
        return np.full(self.n if scheme.per_value else self.groups, default, self.wide)

    def over_groups(
        self, function: entry, arrays: list[Array], *arguments: Any, k: int = 1
    ) -> None:
        """function(*places, *arguments, tree, like, scratch, groups) for all groups, in parts."""
        side_by_side = self.shape[2] == 1
        most = self.groups // NARROW if side_by_side else self.groups  # runs of few are slow then
        share = threads.share(min(most, self.x.size // SHARE))
        size = -(-self.groups // share)
        units = min(size, WIDTH) if side_by_side else 1
        size = -(-size // units) * units
        starts, lengths, lanes, rows = leaves(self.n, units)
        tree = place(starts), place(lengths), lanes, rows, self.n
        stored = np.dtype(np.uint16 if self.dtype == np.float16 else self.dtype)
        joined = self.n if self.joined else 0
        shapes = loops.scratch_shapes(len(starts) // rows, units, k, joined, stored)
        name, sums = NAME[self.dtype], NAME[self.sums.dtype]
        like, version = (LIKE[name], LIKE[sums], self.wide.type(0)), f"{name} summed in {sums}"
        places = [place(x) for x in arrays]

        def part(first: int, held: Any = (arrays, starts, lengths)) -> None:
            """held: whose places are given must live until this part is done."""
            scratch = [np.empty(shape, dtype or self.wide) for shape, dtype in shapes]
            groups = first, min(first + size, self.groups), units
            own = tuple(map(place, scratch))
            function(version, *places, *arguments, tree, like, own, groups)

        threads.run([partial(part, first) for first in range(0, self.groups, size)])
