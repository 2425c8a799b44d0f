"""ReLU and pools as compiled loops, and what `convolution` shares with them.

Arrays come as places (see `lanes.array_at`), float16 as its bits. `like` holds numbers that stand for
the dtype of the arrays and for the one that is computed in. `windows` is (kernel, stride, padding and
H', W'), each a pair (height, width). A plane is the H W values of one channel of one sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lpnorm.fast.compiled import entry, inner
from lpnorm.fast.lanes import array_at, narrow, widen

VECTOR = 16  # values that are moved, or compared, at a time


@inner
def flat(place: Any, like: Any) -> Any:
    """The array at a place, as one row."""
    size = 1
    for side in place[1]:
        size *= side
    return array_at((place[0], (size,)), like)


@inner
def seen(size: int, tap: int, stride: int, padding: int, count: int) -> Any:
    """The first and last + 1 of `count` windows whose tap is inside an axis of this size."""
    first = min(count, max(0, -((tap - padding) // stride)))
    return first, max(first, min(count, (size - 1 + padding - tap) // stride + 1))


# --- VECTOR values at once --------------------------------------------------------------------


def vector_at(context: Any, builder: Any, kind: Any, array: Any, i: Any) -> Any:
    """A pointer to VECTOR values of an array, from i on."""
    data = context.make_array(kind)(context, builder, array).data
    values = ir.VectorType(context.get_value_type(kind.dtype), VECTOR)
    return builder.bitcast(builder.gep(data, [i]), values.as_pointer())


def _above_zero(context: Any, builder: Any, dtype: Any, values: Any) -> Any:
    """Where values are above 0; float16 by its bits: above those of 0, up to those of infinity."""
    if dtype != types.uint16:
        return builder.fcmp_ordered(">", values, ir.Constant(values.type, None))
    largest = ir.Constant(values.type, [0x7C00] * VECTOR)
    positive = builder.icmp_signed(">", values, ir.Constant(values.type, None))
    return builder.and_(positive, builder.icmp_signed("<=", values, largest))


def _below(context: Any, builder: Any, dtype: Any, values: Any) -> Any:
    """Where values are 0 or less: all but those above, and NaN."""
    if dtype != types.uint16:
        return builder.fcmp_ordered("<=", values, ir.Constant(values.type, None))
    zero = ir.Constant(values.type, None)
    negative = builder.icmp_unsigned("<=", values, ir.Constant(values.type, [0xFC00] * VECTOR))
    negative = builder.and_(negative, builder.icmp_signed("<", values, zero))
    return builder.or_(negative, builder.icmp_unsigned("==", values, zero))


@intrinsic
def relu_vector(context: Any, x: Any, y: Any, i: Any) -> Any:
    """y = relu(x) for VECTOR values from i on; one bit each, the first the lowest: was x > 0?"""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y, i = arguments
        size = kind.dtype.bitwidth // 8
        values = builder.load(vector_at(context, builder, kind, x, i), align=size)
        zero = ir.Constant(values.type, None)
        result = builder.select(_below(context, builder, kind.dtype, values), zero, values)
        builder.store(result, vector_at(context, builder, kind, y, i), align=size)
        above = _above_zero(context, builder, kind.dtype, values)
        return builder.bitcast(above, ir.IntType(VECTOR))

    kind = x
    return types.uint16(x, y, types.intp), build


@intrinsic
def pass_vector(context: Any, dy: Any, dx: Any, i: Any, bits: Any) -> Any:
    """dx = dy where a bit of `relu_vector` is set, else 0."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        dy, dx, i, bits = arguments
        size = kind.dtype.bitwidth // 8
        values = builder.load(vector_at(context, builder, kind, dy, i), align=size)
        passed = builder.bitcast(bits, ir.VectorType(ir.IntType(1), VECTOR))
        result = builder.select(passed, values, ir.Constant(values.type, None))
        builder.store(result, vector_at(context, builder, kind, dx, i), align=size)
        return context.get_dummy_value()

    kind = dy
    return types.void(dy, dx, types.intp, types.uint16), build


# --- pointwise --------------------------------------------------------------------------------


@entry
def relu(x: Any, y: Any, bits: Any, first: int, last: int, like: Any) -> None:
    """y and the bits of values first ... last - 1, first a multiple of VECTOR."""
    xs, ys, passed = flat(x, like[0]), flat(y, like[0]), flat(bits, np.uint16(0))
    end = first + (last - first) // VECTOR * VECTOR
    for i in range(first, end, VECTOR):
        passed[i // VECTOR] = relu_vector(xs, ys, i)
    if end < last:
        word = 0
        for i in range(end, last):
            v = widen(xs[i])
            word |= int(v > 0) << (i - end)
            ys[i] = 0 if v <= 0 else xs[i]
        passed[end // VECTOR] = word


@entry
def relu_backward(dy: Any, dx: Any, bits: Any, first: int, last: int, like: Any) -> None:
    """dx of values first ... last - 1, first a multiple of VECTOR."""
    dys, dxs, passed = flat(dy, like[0]), flat(dx, like[0]), flat(bits, np.uint16(0))
    end = first + (last - first) // VECTOR * VECTOR
    for i in range(first, end, VECTOR):
        pass_vector(dys, dxs, i, passed[i // VECTOR])
    for i in range(end, last):
        dxs[i] = dys[i] if (passed[end // VECTOR] >> (i - end)) & 1 else 0


# --- max pool ---------------------------------------------------------------------------------


@entry
def max_pool(x: Any, y: Any, winner: Any, first: int, last: int, windows: Any, like: Any) -> None:
    """y, and which tap it is, of planes first ... last - 1. like: dtypes of x and winner."""
    (kh, kw), (down, right), (above, left), (rows, across) = windows
    _, _, height, width = x[1]
    xs, ys, taps = flat(x, like[0]), flat(y, like[0]), flat(winner, like[1])
    least = narrow(np.float64(-np.inf), like[0])
    for p in range(first, last):
        for i in range(rows):
            a0, a1 = taps_inside(height, i * down - above, kh)
            to = (p * rows + i) * across
            for j in range(across):
                b0, b1 = taps_inside(width, j * right - left, kw)
                best, winning, winner_tap = widen(least), least, 0
                for a in range(a0, a1):
                    at = (p * height + i * down - above + a) * width + j * right - left
                    for b in range(b0, b1):
                        v = widen(xs[at + b])
                        if v > best or (v != v and best == best):  # the first NaN
                            best, winning, winner_tap = v, xs[at + b], a * kw + b
                ys[to + j], taps[to + j] = winning, winner_tap


@inner
def taps_inside(size: int, start: int, kernel: int) -> Any:
    """The first tap and the last + 1 of a window from `start` on that are inside an axis."""
    return max(0, -start), min(kernel, size - start)


@entry
def max_pool_backward(
    dy: Any, dx: Any, winner: Any, first: int, last: int, windows: Any, like: Any
) -> None:
    """dx, in the dtype that is computed in, of planes first ... last - 1; it begins as zeros."""
    (kh, kw), (down, right), (above, left), (rows, across) = windows
    _, _, height, width = dx[1]
    dys, dxs, taps = flat(dy, like[0]), flat(dx, like[2]), flat(winner, like[1])
    for p in range(first, last):
        if down >= kh and right >= kw:  # windows share no value: in any order
            for i in range(rows):
                own = (p * rows + i) * across
                for j in range(across):
                    a, b = taps[own + j] // kw, taps[own + j] % kw
                    row, column = i * down + a - above, j * right + b - left
                    if 0 <= row < height and 0 <= column < width:
                        dxs[(p * height + row) * width + column] = widen(dys[own + j])
        else:
            for a in range(kh):
                i0, i1 = seen(height, a, down, above, rows)
                for b in range(kw):
                    j0, j1 = seen(width, b, right, left, across)
                    for i in range(i0, i1):
                        own = (p * rows + i) * across
                        at = (p * height + i * down + a - above) * width + b - left
                        for j in range(j0, j1):
                            if taps[own + j] == a * kw + b:
                                dxs[at + j * right] += widen(dys[own + j])
