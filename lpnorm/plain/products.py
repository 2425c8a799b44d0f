"""Linear and Conv2d: matrix products, and the parts that the work is cut into.

**The definition.** BLAS may add up in another order for another shape and another number of
threads, so the shapes of the products belong to what is defined here, for any number of threads and
for `lpnorm.fast` too. A batch is cut into PARTS runs of samples (fewer, but two, of small images),
as evenly as can be, and each part into chunks, whose copies have about CHUNK values in all (more if
that were fewer than LEAST positions). Each chunk is multiplied by itself, with BLAS on one thread;
the partial sums of dw are added chunk after chunk, then part after part. Parts are computed on
threads (`lpnorm.threads`). float16 is multiplied and added up in float32 and rounded once. On
another library than NumPy a batch is one chunk.

What is promised: with `threadpoolctl` (extra "fast") the same bits for any number of threads;
without it BLAS cannot be told to use one thread, so for one setting of OPENBLAS_NUM_THREADS (or
what your BLAS reads), and with 1 the same bits as with it. Another BLAS, or another processor, may
give others.

**Convolution as a product.** The textbook way makes every output position a *column* of the C kh kw
values that its window sees; with the columns of a chunk in a matrix, y = w columns, and going back

    dw = dy columns^T        and       dcolumns = w^T dy, each sent to where it was read from.

With stride 1 fewer copies do: *gather* only the taps b of a row of the kernel, C kw values a
position, multiply all kh rows a of the kernel with that, and *fold* what they give: y[i] is the sum
of T_a[i + a - p], with T_a = sum over c, b of w[:, c, a, b] x[c, :, j + b - p]. That is kw copies
of x instead of kh kw, and sums over whole rows, which lie one behind another in memory.

Going back with stride 1, put y's definition y[i] = sum_a w[a] x[i + a - p] (one space axis is
enough) into the sums:

    dx[r]  = sum_a w[a] dy[r - a + p]      = sum_a' w[k-1-a'] dy[r + a' - (k-1-p)],   a' = k-1-a,
    dw[b]  = sum_i dy[i] x[i + b - p]      = sum_r x[r] dy[r + b' - (k-1-p)],         b' = k-1-b.

So dx is a convolution too, of dy with the turned kernel and padding k-1-p; and dw, along the rows,
the product of the very values gathered for it with x, whose kh taps down the columns are gathered
(whole rows again). Nothing is scattered, and the backward needs x alone, not its columns, which are
k^2 times as large.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lpnorm import threads
from lpnorm.arrays import Array, accumulator, library_of
from lpnorm.plain.windows import Windows

PARTS = 8
LEAST = 512  # positions of a chunk: a product of fewer takes little longer
CHUNK = 2**17  # values: half a megabyte in float32, so that a second-level cache holds them
_windows = functools.lru_cache(Windows)  # few geometries, at every step
Gradients = tuple[Array, Array, Array | None]


def conv2d(
    x: Array, w: Array, bias: Array | None, windows: Windows
) -> tuple[Array, Callable[[Array], Gradients]]:
    """Cross-correlation of x (N, C, H, W) with w (O, C, kh, kw): y (N, O, H', W') and its backward.

    y[n, o, i, j] = bias[o] + sum over c, a, b of w[o, c, a, b] * x[n, c, i*stride + a - padding,
    j*stride + b - padding], zero outside. All arrays have one dtype; bias is (O,) or None. The
    backward gives dx, dw and dbias = sum of dy over all but the channels (None without a bias).
    """
    plan = Plan(x.shape, w, windows, ordered)
    y = library_of(x).empty(plan.out, x.dtype)
    in_parts(lambda *parts: correlate(x, y, plan, *parts), plan, 1)
    if bias is not None:
        y += bias[:, None, None]

    def backward(dy: Array) -> Gradients:
        dbias, empty = None if bias is None else sum_of_channels(dy), library_of(x).empty
        return *convolution_backward(dy, x, w, windows, empty, ordered, turned, scattered), dbias

    return y, backward


def convolution_backward(
    dy: Array,
    x: Array,
    w: Array,
    windows: Windows,
    empty: Any,
    ordered: Any,
    turned: Any,
    scattered: Any,
) -> tuple[Array, Array]:
    """dx and dw, the parts by these functions, in arrays that `empty` and `ordered` make."""
    (kh, kw), (above, left) = windows.kernel, windows.padding
    outputs, inputs = w.shape[:2]
    if windows.stride == (1, 1) and above < kh and left < kw:
        around = _windows(windows.owner, windows.kernel, 1, (kh - 1 - above, kw - 1 - left))
        plan = Plan(dy.shape, w[:, :, ::-1, ::-1].swapaxes(0, 1), around, ordered)
        down = _windows(windows.owner, (kh, 1), 1, (above, 0))  # for x
        dx = empty(x.shape, x.dtype)
        sums = empty((plan.parts, outputs * kw, inputs * kh), plan.matrix.dtype)
        in_parts(lambda *parts: turned(dy, x, dx, sums, plan, down, *parts), plan, 2)
        dw = _sum(sums).reshape(outputs, kw, inputs, kh)[:, ::-1].transpose(0, 2, 3, 1)
    else:
        plan = Plan(x.shape, w, windows, ordered, fold=False)
        dx = empty(x.shape, plan.matrix.dtype)
        sums = empty((plan.parts, inputs * kh * kw, outputs), plan.matrix.dtype)
        in_parts(lambda *parts: scattered(dy, x, dx, sums, plan, *parts), plan, 2)
        dx = dx.astype(x.dtype, copy=False)
        dw = _sum(sums).reshape(inputs, kh, kw, outputs).transpose(3, 0, 1, 2)
    return dx, ordered(dw, w.dtype)


class Plan:
    """How a convolution of x of this shape is computed, and how the batch is cut.

    seen: the windows whose taps are gathered: with stride 1 (unless fold is False) a row of the
    kernel, to give `rows` by `across` positions; the kernel's `folded` rows are added up after the
    product, `above` of them before the first. Otherwise all taps, and one row. matrix: w for that
    product, in the dtype that is multiplied in, as `ordered` makes it. parts: how many; most:
    samples of a chunk. out: the shape of y."""

    def __init__(
        self, shape: tuple[int, ...], w: Array, windows: Windows, ordered: Any, fold: bool = True
    ) -> None:
        n, outputs = shape[0], w.shape[0]
        self.out = n, outputs, *windows.over(shape)
        (kh, kw), (above, left) = windows.kernel, windows.padding
        self.seen, self.folded, self.above = windows, 1, 0
        if windows.stride == (1, 1) and fold:
            self.seen = _windows(windows.owner, (1, kw), 1, (0, left))
            self.folded, self.above = kh, above
            w = w.transpose(2, 0, 1, 3)
        self.rows, self.across = self.seen.over(shape)
        matrix = ordered(w, accumulator(w.dtype).dtype)
        self.matrix = matrix.reshape(outputs * self.folded, -1)
        self.length = self.rows * self.across  # positions of a sample
        self.samples, self.parts, self.most = n, 1, n
        if library_of(w) is np:
            self.parts = min(n, PARTS, max(2, n * self.length // (2 * LEAST)))
            size = sum(self.matrix.shape) * self.length
            self.most = max(1, CHUNK // size, LEAST // self.length)

    def chunks(self, part: int) -> list[tuple[int, int]]:
        """The chunks of a part, even as parts are: (first sample, last + 1)."""
        first, last = threads.cut(self.samples, self.parts)[part]
        count = -(-(last - first) // self.most)
        return [(first + a, first + b) for a, b in threads.cut(last - first, count)]


def ordered(w: Array, dtype: Any) -> Array:
    """A copy of w, (a, b, c, d), in whatever order it lies, one value behind another."""
    return w.astype(dtype, order="C")


def correlate(x: Array, y: Array, plan: Plan, first: int, last: int) -> None:
    """y of parts first ... last - 1."""
    for part in range(first, last):
        for at, to in plan.chunks(part):
            _fold(plan.matrix @ gather(x[at:to], plan.seen, plan.matrix.dtype), y[at:to], plan)


def turned(
    dy: Array, x: Array, dx: Array, sums: Array, plan: Plan, down: Windows, first: int, last: int
) -> None:
    """dx of parts first ... last - 1 and their shares of dw, (O kw, C kh) each, with stride 1."""
    for part in range(first, last):
        dw = sums[part]
        for i, (at, to) in enumerate(plan.chunks(part)):
            columns = gather(dy[at:to], plan.seen, dw.dtype)
            _fold(plan.matrix @ columns, dx[at:to], plan)
            share = columns @ gather(x[at:to], down, dw.dtype).T
            dw[...] = dw + share if i else share


def scattered(
    dy: Array, x: Array, dx: Array, sums: Array, plan: Plan, first: int, last: int
) -> None:
    """dx, in the dtype that is computed in, of some parts and their shares of dw^T."""
    xp = library_of(x)
    back = xp.ascontiguousarray(plan.matrix.T)
    for part in range(first, last):
        dw = sums[part]
        for i, (at, to) in enumerate(plan.chunks(part)):
            rows = xp.empty((dy.shape[1], to - at, *dy.shape[2:]), dw.dtype)
            rows[...] = dy[at:to].swapaxes(0, 1)  # aligned too: NumPy's product feels it
            rows = rows.reshape(dy.shape[1], -1)
            share = gather(x[at:to], plan.seen, dw.dtype) @ rows.T
            dw[...] = dw + share if i else share
            shape = x.shape[1], *plan.seen.kernel, to - at, plan.rows, plan.across
            taps = (back @ rows).reshape(shape).transpose(1, 2, 3, 0, 4, 5)
            dx[at:to] = 0
            plan.seen.scatter(taps, dx[at:to])


def gather(x: Array, windows: Windows, dtype: Any) -> Array:
    """What windows see of x (N, C, H, W): (C kh kw, N H' W'), zero outside."""
    taps = windows.view(x).transpose(3, 0, 1, 2, 4, 5)
    columns = library_of(x).empty(taps.shape, dtype)
    columns[...] = taps
    return columns.reshape(x.shape[1] * windows.taps, -1)


def _fold(sums: Array, y: Array, plan: Plan) -> None:
    """y[n, o, i] = the sum over a of sums[a, o, n, i + a - above], where there is such a row."""
    n, outputs, height, across = y.shape
    sums = sums.reshape(plan.folded, outputs, n, plan.rows, across)
    total = library_of(y).zeros(y.shape, sums.dtype)
    for a in range(plan.folded):
        shift = a - plan.above
        first, last = max(0, -shift), min(height, plan.rows - shift)
        if first < last:
            rows = sums[a, :, :, first + shift : last + shift]
            total[:, :, first:last] += rows.swapaxes(0, 1)
    y[...] = total


def _sum(parts: Array) -> Array:
    """The sum of the parts, one after the other, in the place of the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def in_parts(part: Callable[..., None], plan: Plan, products: int) -> None:
    """part(first, last) for runs of all parts of a plan."""
    multiply(part, plan.parts, products * plan.samples * plan.matrix.size * plan.length)


def multiply(part: Callable[[int, int], None], pieces: int, work: float) -> None:
    """Pieces on threads, with BLAS on one; on this thread alone if BLAS cannot be told so.

    work: products of two numbers, of which 32 take as long as an operation on a value.
    """
    with threads.one_blas_thread:
        threads.each(part, pieces, work / 32 if threads.one_blas_thread else 0)


def linear(x: Array, w: Array, bias: Array | None) -> tuple[Array, Callable[[Array], Gradients]]:
    """y = x w^T + bias for x (N, I), w (O, I), bias (O,) or None: y (N, O), and its backward.

    dx = dy w, dw = dy^T x, dbias = sum of dy over the batch (None without a bias).
    """
    y = matmul(x, w.T)
    if bias is not None:
        y += bias

    def backward(dy: Array) -> Gradients:
        dbias = None if bias is None else sum_of_channels(dy)
        return matmul(dy, w), matmul(dy.T, x), dbias

    return y, backward


def matmul(a: Array, b: Array) -> Array:
    """a @ b for matrices; float16 is summed in float32 and rounded once, as tensor cores do.

    The longer side of a large product is cut into PARTS, the axis that is summed over never is.
    """
    xp, out = library_of(a), (a.shape[0], b.shape[1])
    if xp is not np:
        wide = accumulator(a.dtype).dtype
        return (a.astype(wide, copy=False) @ b.astype(wide, copy=False)).astype(a.dtype, copy=False)
    y = np.empty(out, a.dtype)
    wide = accumulator(a.dtype).dtype
    a, b = a.astype(wide, copy=False), b.astype(wide, copy=False)
    tall = out[0] >= out[1]

    work = a.shape[0] * a.shape[1] * b.shape[1]
    pieces = threads.cut(max(out), PARTS if work >= 2**24 else 1)

    def part(first: int, last: int) -> None:
        for at, to in pieces[first:last]:
            if tall:
                y[at:to] = a[at:to] @ b
            else:
                y[:, at:to] = a @ b[:, at:to]

    multiply(part, len(pieces), work)
    return y


def sum_of_channels(dy: Array) -> Array:
    """The sum of dy over all axes but the second, as `lpnorm.arrays.Accumulate` adds up."""
    rows = dy.swapaxes(0, 1).reshape(dy.shape[1], -1)
    return accumulator(dy.dtype).total(rows)[:, 0].astype(dy.dtype, copy=False)
