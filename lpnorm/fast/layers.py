"""`lpnorm.plain`'s functions of images with the loops of `images`: what they take, and on what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba.core import config

from lpnorm import plain, threads
from lpnorm.arrays import Array, accumulator
from lpnorm.fast import blas, convolution, images, memory
from lpnorm.fast.cpu import LIKE, NAME, is_plain
from lpnorm.fast.lanes import place
from lpnorm.plain import products
from lpnorm.plain.products import Gradients, Plan
from lpnorm.plain.windows import Windows

Backward = Callable[[Array], Array]


def conv2d(
    x: Array, w: Array, bias: Array | None, windows: Windows
) -> tuple[Array, Callable[[Array], Gradients]]:
    """`lpnorm.plain.conv2d`, bit for bit."""
    wide = accumulator(x.dtype).dtype
    product = blas.gemm(NAME[wide])
    if product is None or not (is_plain(x) and is_plain(w)):
        return products.conv2d(x, w, bias, windows)
    plan = Plan(x.shape, w, windows, ordered)
    outputs, inputs, kh, _ = w.shape
    sides = *plan.matrix.shape, outputs, inputs * kh, plan.length, plan.out[2] * x.shape[3]
    if 1 in sides:  # of a product, here or in `convolution_backward`: NumPy's is another then
        return products.conv2d(x, w, bias, windows)
    xs, y = stored(x), memory.empty(plan.out, x.dtype)
    name = NAME[x.dtype]
    like = LIKE[name], LIKE[NAME[wide]], x.dtype == wide, *product
    version = f"{name} by {type(product[1]).__name__}"

    def forward(*parts: int) -> None:
        arrays, masks = (xs, plan.matrix, stored(y)), _masks(plan, x)
        room = _room(plan, wide, x.shape[2])
        convolution.correlate(
            version, *_places(arrays), _places(room), _windows(plan.seen, x.shape), _about(plan),
            _places(masks), _cut(plan), parts, like,
        )  # fmt: skip

    products.in_parts(forward, plan, 1)
    if bias is not None:
        y += bias[:, None, None]

    def backward(dy: Array) -> Gradients:
        dys = stored(dy)

        def turned(
            dy: Array, x: Array, dx: Array, dw: Array, plan: Plan, down: Windows, *parts: int
        ) -> None:
            arrays, masks = (dys, xs, plan.matrix, stored(dx), dw), _masks(plan, dys, down, xs)
            room = [
                *_room(plan, wide, dy.shape[2]),
                *_empty(wide, dw.shape[2] * plan.most * plan.length, dw[0].size),
            ]
            convolution.turned(
                version, *_places(arrays), _places(room), _windows(plan.seen, dy.shape),
                _windows(down, x.shape), _about(plan), _places(masks), _cut(plan),
                parts, like,
            )  # fmt: skip

        def scattered(dy: Array, x: Array, dx: Array, dw: Array, plan: Plan, *parts: int) -> None:
            matrix, masks = np.ascontiguousarray(plan.matrix.T), _masks(plan, xs)
            arrays = dys, xs, matrix, dx, dw
            room = [*_room(plan, wide, x.shape[2]), *_empty(wide, dw[0].size)]
            convolution.scattered(
                version, *_places(arrays), _places(room), _windows(plan.seen, x.shape),
                _about(plan), _places(masks), _cut(plan), parts, like,
            )  # fmt: skip

        dbias = None if bias is None else products.sum_of_channels(dy)
        return *products.convolution_backward(
            dy, x, w, windows, memory.empty, ordered, turned, scattered
        ), dbias

    return y, backward


def ordered(w: Array, dtype: Any) -> Array:
    """`products.ordered`: NumPy takes five times as long where few values lie together."""
    if w.dtype != dtype or w.dtype.itemsize == 2 or not is_plain(w) or w.ndim != 4:
        return products.ordered(w, dtype)
    size = w.dtype.itemsize
    steps = tuple(step // size for step in w.strides)
    spans = [(n - 1) * step for n, step in zip(w.shape, steps, strict=True)]
    start = -sum(min(0, span) for span in spans)
    whole = 1 + sum(abs(span) for span in spans)
    out = np.empty(w.shape, dtype)
    lowest = w.ctypes.data - start * size, (whole,)
    name = NAME[w.dtype]
    convolution.arrange(name, lowest, place(out), start, w.shape, steps, LIKE[name])
    return out


def _room(plan: Plan, wide: Any, height: int) -> list[Array]:
    """For the columns of a chunk, what they give, and the phases of a plane."""
    sizes = [side * plan.most * plan.length for side in plan.matrix.shape[::-1]]
    (down, right), across = plan.seen.stride, plan.across
    return _empty(wide, *sizes, down * right * -(-height // down) * across)


def _empty(dtype: Any, *sizes: int) -> list[Array]:
    """Rows of these sizes, in one block, each at the start of a line of the cache."""
    line = memory.LINE // dtype.itemsize
    ends = list(itertools.accumulate(-(-size // line) * line for size in sizes))
    block = memory.empty(ends[-1], dtype)
    return [block[at : at + size] for at, size in zip([0, *ends], sizes, strict=False)]


def _places(arrays: Sequence[Array]) -> Any:
    return tuple(map(place, arrays))


def _masks(plan: Plan, x: Array, down: Windows | None = None, rows: Array | None = None) -> Any:
    """What `convolution` folds by, and gathers by: see `_bits`; nothing for float16."""
    if x.dtype.itemsize == 2:
        return (NOTHING,) * 3
    folds = _bits_of_rows(plan.folded, plan.above, plan.rows, plan.out[2], plan.across)
    columns = _bits(plan.seen.kernel, plan.seen.stride, plan.seen.padding, x.shape[2:])
    if down is None or rows is None:
        return folds, columns, NOTHING
    taps = _bits(down.kernel, down.stride, down.padding, rows.shape[2:])
    return folds, columns, taps


NOTHING = np.empty(0, np.uint16)


@lru_cache(maxsize=256)
def _bits(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], shape: Any
) -> Array:
    """For each tap a bit for each window: is it inside a plane of this shape? (taps, words)

    Empty unless windows lie as values of a phase do, one behind another in rows as long.
    """
    windows = Windows("", kernel, stride, padding)
    inside = windows.view(np.ones((1, 1, *shape), bool), False)[:, :, 0, 0]
    if inside.shape[3] != -(-shape[1] // stride[1]):
        return NOTHING
    return _words(inside.reshape(windows.taps, -1))


@lru_cache(maxsize=256)
def _bits_of_rows(folded: int, above: int, rows: int, height: int, across: int) -> Array:
    """For VECTOR values of y at a time, and each row a of the kernel, a bit for each: is there a
    row i + a - above of what is folded? (words, folded)
    """
    row = np.arange(height)[:, None] + np.arange(folded) - above
    inside = np.repeat((row >= 0) & (row < rows), across, axis=0)
    return np.ascontiguousarray(_words(inside.T).T)


def _words(bits: Array) -> Array:
    """Rows of bits as words of VECTOR, the first the lowest."""
    room = np.zeros((bits.shape[0], -(-bits.shape[1] // images.VECTOR) * images.VECTOR), bool)
    room[:, : bits.shape[1]] = bits
    return np.packbits(room, axis=1, bitorder="little").view("<u2").astype(np.uint16)


def _cut(plan: Plan) -> Any:
    return plan.samples, plan.parts, plan.most


def _about(plan: Plan) -> Any:
    return plan.folded, plan.above, plan.rows, plan.across


def relu(x: Array) -> tuple[Array, Backward]:
    """`lpnorm.plain.relu`, bit for bit."""
    if not _takes(x):
        return plain.relu(x)
    dtype = x.dtype  # the backward must not hold x
    name = NAME[dtype]
    like = (LIKE[name],)
    bits = memory.empty(-(-x.size // images.VECTOR), np.uint16)

    def over(function: Any, a: Array) -> Array:
        a = stored(a)
        b = memory.empty(a.shape, a.dtype)
        places = place(a.reshape(-1)), place(b.reshape(-1)), place(bits)  # one version, any shape

        def part(first: int, last: int) -> None:
            first, last = images.VECTOR * first, min(images.VECTOR * last, a.size)
            function(name, *places, first, last, like)

        threads.each(part, bits.size, a.size)
        return b.view(dtype)

    y = over(images.relu, x)
    return y, lambda dy: over(images.relu_backward, dy)


def add(a: Array, b: Array) -> Array:
    """`lpnorm.plain.add`, bit for bit."""
    alike = is_plain(a) and is_plain(b) and a.shape == b.shape and a.dtype == b.dtype
    if not alike or not (a.flags.c_contiguous and b.flags.c_contiguous):
        return plain.add(a, b)
    y = memory.empty(a.shape, a.dtype)
    rows = a.reshape(-1), b.reshape(-1), y.reshape(-1)

    def part(first: int, last: int) -> None:
        left, right, out = (row[first:last] for row in rows)
        np.add(left, right, out=out)

    threads.each(part, a.size, 2 * a.size)
    return y


def max_pool2d(x: Array, windows: Windows) -> tuple[Array, Backward]:
    """`lpnorm.plain.max_pool2d`, bit for bit."""
    if not _takes(x):
        return plain.max_pool2d(x, windows)
    name, shape, dtype = NAME[x.dtype], x.shape, x.dtype
    across = windows.over(shape)
    about = _windows(windows, shape)
    tap = np.uint8(0) if windows.taps <= 256 else np.int32(0)
    xs, out = stored(x), (*shape[:2], *across)
    y, winner = memory.empty(out, xs.dtype), memory.empty(out, tap.dtype)
    planes = shape[0] * shape[1]

    def forward(first: int, last: int) -> None:
        (room,) = _empty(xs.dtype, across[0] * across[1])
        places = place(xs), place(y), place(winner), place(room)
        images.max_pool(f"{name} {tap.dtype}", *places, first, last, about, (LIKE[name], tap))

    threads.each(forward, planes, 8 * x.size)

    def backward(dy: Array) -> Array:
        dys, dx = stored(dy), memory.empty(shape, accumulator(dtype).dtype)
        like = LIKE[name], tap, LIKE[NAME[dx.dtype]]

        def part(first: int, last: int) -> None:
            places = place(dys), place(dx), place(winner)
            images.max_pool_backward(f"{name} {tap.dtype}", *places, first, last, about, like)

        threads.each(part, planes, 4 * dx.size)
        return dx.astype(dtype, copy=False)

    return y.view(dtype), backward


def _takes(x: Array) -> bool:
    """Vectors are the compiler's: there are none where it is told not to compile."""
    return is_plain(x) and not config.DISABLE_JIT


def stored(x: Array) -> Array:
    """x as the loops read it: C-contiguous, float16 as its bits."""
    x = np.require(x, requirements=["C", "ALIGNED"])
    return x.view(np.uint16) if x.dtype == np.float16 else x


def _windows(windows: Windows, shape: tuple[int, ...]) -> Any:
    return windows.kernel, windows.stride, windows.padding, windows.over(shape)
