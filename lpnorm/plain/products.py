"""Linear and Conv2d: matrix products, and the parts that the work is cut into.

**The definition.** BLAS may add up in another order for another shape and another number of threads,
so the shapes of the products belong to what is defined here, for any number of threads and for
`lpnorm.fast` too. A batch is cut into PARTS runs of samples, as evenly as can be, and each part into
chunks whose columns are about CHUNK values. Each chunk is multiplied by itself, with BLAS on one
thread; the partial sums of dw are added chunk after chunk, then part after part. Parts are computed
on threads (`lpnorm.threads`). float16 is multiplied and added up in float32 and rounded once. On
another library than NumPy a batch is one chunk.

What is promised: with `threadpoolctl` (extra "fast") the same bits for any number of threads;
without it BLAS cannot be told to use one thread, so for one setting of OPENBLAS_NUM_THREADS (or what
your BLAS reads), and with 1 the same bits as with it. Another BLAS, or another processor, may give
others.

**Convolution as a product.** Every output position is a *column* of the C kh kw values that its
window sees; with the columns of a chunk in a matrix, y = w columns. Let L be the positions of an
image. Going back, the textbook way is

    dw = dy columns^T        and       dcolumns = w^T dy, each sent to where it was read from.

With stride 1 there is a shorter one. Put y's definition y[i] = sum_a w[a] x[i + a - p] (all axes but
one space axis left out) into the sums:

    dx[r]  = sum_a w[a] dy[r - a + p]      = sum_a' w[k-1-a'] dy[r + a' - (k-1-p)],   a' = k-1-a,
    dw[a]  = sum_i dy[i] x[i + a - p]      = sum_r x[r] dy[r + a' - (k-1-p)].

So dx is itself a convolution, of dy with the turned kernel and padding k-1-p, and dw is the product of
the *same* columns, those of dy, with x: they are gathered once, nothing is scattered, and the backward
needs x alone, not its columns, which are k^2 times as large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lpnorm import threads
from lpnorm.arrays import Array, accumulator, library_of
from lpnorm.plain.windows import Windows

PARTS = 8
CHUNK = 2**18  # values: a megabyte in float32, what a processor's second-level cache holds
Gradients = tuple[Array, Array, Array | None]


class Loops(NamedTuple):
    """Who moves the values: two functions that make a function of one chunk.

    gather(x, windows)(first, last, columns): the columns of samples first ... last - 1 of
    x (N, C, H, W) into columns (C kh kw, last - first, H' W'), zero where the window is outside.
    scatter(dx, windows)(first, last, columns): add columns to dx where they were read from, the taps
    of a window in their order; dx (N, C, H, W) has the dtype of the columns.
    """

    gather: Callable[[Array, Windows], Callable[[int, int, Array], None]]
    scatter: Callable[[Array, Windows], Callable[[int, int, Array], None]]


def gather(x: Array, windows: Windows) -> Callable[[int, int, Array], None]:
    """`Loops.gather` in whole arrays."""

    def chunk(first: int, last: int, columns: Array) -> None:
        taps = windows.view(x[first:last]).transpose(3, 0, 1, 2, 4, 5)
        columns.reshape(taps.shape)[...] = taps

    return chunk


def scatter(dx: Array, windows: Windows) -> Callable[[int, int, Array], None]:
    """`Loops.scatter` in whole arrays."""
    across = windows.over(dx.shape)

    def chunk(first: int, last: int, columns: Array) -> None:
        taps = columns.reshape(dx.shape[1], *windows.kernel, last - first, *across)
        windows.scatter(taps.transpose(1, 2, 3, 0, 4, 5), dx[first:last])

    return chunk


ARRAYS = Loops(gather, scatter)


def conv2d(
    x: Array, w: Array, bias: Array | None, windows: Windows, loops: Loops = ARRAYS
) -> tuple[Array, Callable[[Array], Gradients]]:
    """Cross-correlation of x (N, C, H, W) with w (O, C, kh, kw): y (N, O, H', W') and its backward.

    y[n, o, i, j] = bias[o] + sum over c, a, b of w[o, c, a, b] * x[n, c, i*stride + a - padding,
    j*stride + b - padding], zero outside. All arrays have one dtype; bias is (O,) or None. The
    backward gives dx, dw and dbias = sum of dy over all but the channels (None without a bias).
    """
    y = _correlate(x, w, windows, loops)
    if bias is not None:
        y += bias[:, None, None]

    def backward(dy: Array) -> Gradients:
        (kh, kw), (above, left) = windows.kernel, windows.padding
        if windows.stride == (1, 1) and above < kh and left < kw:
            dx, dw = _turned(dy, x, w, windows, loops)
        else:
            dx, dw = _scattered(dy, x, w, windows, loops)
        dbias = None if bias is None else sum_of_channels(dy)
        return dx, dw.astype(w.dtype, copy=False), dbias

    return y, backward


def _correlate(x: Array, w: Array, windows: Windows, loops: Loops) -> Array:
    """y of `conv2d`, without its bias."""
    batch = _Batch(x, w, windows)
    y = library_of(x).empty((x.shape[0], w.shape[0], batch.length), x.dtype)
    seen = loops.gather(x, windows)

    def part(number: int, first: int, last: int) -> None:
        columns = batch.columns(first, last)
        for at, to in batch.chunks(first, last):
            own = columns(at, to)
            seen(at, to, own)
            _product(batch.w, own.transpose(1, 0, 2), y[at:to])

    batch.each(part, 1)
    return y.reshape(*y.shape[:2], *batch.across)


def _turned(
    dy: Array, x: Array, w: Array, windows: Windows, loops: Loops
) -> tuple[Array, Array]:
    """dx and dw with stride 1: both from the columns of dy."""
    (kh, kw), (above, left) = windows.kernel, windows.padding
    back = Windows(windows.owner, windows.kernel, 1, (kh - 1 - above, kw - 1 - left))
    batch = _Batch(dy, w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), back)
    channels = w.shape[1]
    rows = x.reshape(x.shape[0], channels, batch.length)
    dx = library_of(x).empty(rows.shape, x.dtype)
    sums = batch.room(len(batch.parts), batch.w.shape[1], channels)
    seen = loops.gather(dy, back)

    def part(number: int, first: int, last: int) -> None:
        columns, total = batch.columns(first, last), _Total(sums[number])
        for at, to in batch.chunks(first, last):
            own = columns(at, to)
            seen(at, to, own)
            _product(batch.w, own.transpose(1, 0, 2), dx[at:to])
            total.add(own, rows[at:to].transpose(1, 0, 2))

    batch.each(part, 2)
    dw = _sum(sums).reshape(w.shape[0], kh, kw, channels)[:, ::-1, ::-1]
    return dx.reshape(x.shape), library_of(w).ascontiguousarray(dw.transpose(0, 3, 1, 2))


def _scattered(
    dy: Array, x: Array, w: Array, windows: Windows, loops: Loops
) -> tuple[Array, Array]:
    """dx and dw with any stride: dw from the columns of x, dx from w^T dy, scattered."""
    batch = _Batch(x, w, windows)
    outputs = w.shape[0]
    rows = dy.reshape(dy.shape[0], outputs, batch.length)
    dx = library_of(x).zeros(x.shape, batch.w.dtype)
    sums = batch.room(len(batch.parts), batch.w.shape[1], outputs)
    seen, send = loops.gather(x, windows), loops.scatter(dx, windows)

    def part(number: int, first: int, last: int) -> None:
        columns, total = batch.columns(first, last), _Total(sums[number])
        for at, to in batch.chunks(first, last):
            own = columns(at, to)
            seen(at, to, own)
            values = total.add(own, rows[at:to].transpose(1, 0, 2))
            _product(batch.w.T, values, own.reshape(own.shape[0], -1))
            send(at, to, own)

    batch.each(part, 2)
    dw = library_of(w).ascontiguousarray(_sum(sums).T).reshape(w.shape)
    return dx.astype(x.dtype, copy=False), dw


class _Batch:
    """The columns of x, seen through windows, and how they are cut; w as a matrix in the dtype that
    is multiplied in."""

    def __init__(self, x: Array, w: Array, windows: Windows) -> None:
        self.x, self.xp = x, library_of(x)
        self.across = windows.over(x.shape)
        self.length = self.across[0] * self.across[1]
        wide = accumulator(x.dtype).dtype
        self.w = w.reshape(w.shape[0], -1).astype(wide, copy=False)
        n, whole = x.shape[0], self.xp is not np
        runs = threads.cut(n, 1 if whole else PARTS)
        self.parts = [(number, *run) for number, run in enumerate(runs)]
        self.size = self.w.shape[1] * self.length  # values of a sample's columns
        self.most = n if whole else max(1, CHUNK // self.size)

    def chunks(self, first: int, last: int) -> list[tuple[int, int]]:
        count = -(-(last - first) // self.most)
        return [(first + a, first + b) for a, b in threads.cut(last - first, count)]

    def room(self, *shape: int) -> Array:
        return self.xp.empty(shape, self.w.dtype)

    def columns(self, first: int, last: int) -> Callable[[int, int], Array]:
        """Room for the columns of any chunk of a part: (C kh kw, samples, H' W')."""
        most = max(to - at for at, to in self.chunks(first, last))
        room = self.room(self.size * most)

        def own(at: int, to: int) -> Array:
            return room[: self.size * (to - at)].reshape(self.w.shape[1], to - at, self.length)

        return own

    def each(self, part: Callable[..., None], products: int) -> None:
        work = products * self.x.shape[0] * self.size * self.w.shape[0] / 32
        multiply(part, self.parts, work)


class _Total:
    """The sum of columns times rows^T over the chunks of a part, in `out`."""

    def __init__(self, out: Array) -> None:
        self.out, self.empty, self.next = out, True, None

    def add(self, columns: Array, rows: Array) -> Array:
        """columns (K, samples, L), rows (M, samples, L); returns rows as (M, samples L)."""
        columns = columns.reshape(columns.shape[0], -1)
        rows = rows.astype(columns.dtype).reshape(-1, columns.shape[1])
        if self.empty:
            _product(columns, rows.T, self.out)
        else:
            if self.next is None:
                self.next = library_of(columns).empty_like(self.out)
            _product(columns, rows.T, self.next)
            self.out += self.next
        self.empty = False
        return rows


def _sum(parts: Array) -> Array:
    """The sum of the parts, one after the other, in the place of the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _product(a: Array, b: Array, out: Array) -> None:
    """out = a @ b, rounded once if out is narrower."""
    if isinstance(a, np.ndarray) and out.dtype == a.dtype:
        np.matmul(a, b, out=out)
    else:
        out[...] = a @ b


def multiply(part: Callable[..., None], pieces: list[tuple[int, ...]], work: float) -> None:
    """Every part on threads, with BLAS on one; on this thread alone if BLAS cannot be told so."""
    with threads.one_blas_thread:
        threads.each(part, pieces, work if threads.one_blas_thread else 0)


def linear(
    x: Array, w: Array, bias: Array | None
) -> tuple[Array, Callable[[Array], Gradients]]:
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

    The longer side of the product is cut into PARTS, the axis that is summed over never is.
    """
    xp, out = library_of(a), (a.shape[0], b.shape[1])
    if xp is not np:
        wide = accumulator(a.dtype).dtype
        return (a.astype(wide, copy=False) @ b.astype(wide, copy=False)).astype(a.dtype, copy=False)
    y = np.empty(out, a.dtype)
    wide = accumulator(a.dtype).dtype
    a, b = a.astype(wide, copy=False), b.astype(wide, copy=False)
    tall = out[0] >= out[1]

    def part(first: int, last: int) -> None:
        if tall:
            _product(a[first:last], b, y[first:last])
        else:
            _product(a, b[:, first:last], y[:, first:last])

    work = a.shape[0] * a.shape[1] * b.shape[1] / 32
    pieces = threads.cut(max(out), PARTS) if work >= threads.WORTH else [(0, max(out))]
    multiply(part, pieces, work)
    return y


def sum_of_channels(dy: Array) -> Array:
    """The sum of dy over all axes but the second, as `lpnorm.arrays.Accumulate` adds up."""
    rows = dy.swapaxes(0, 1).reshape(dy.shape[1], -1)
    return accumulator(dy.dtype).total(rows)[:, 0].astype(dy.dtype, copy=False)
