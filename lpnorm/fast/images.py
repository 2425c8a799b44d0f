"""ReLU and pools as compiled loops, and what `convolution` shares with them.

Arrays come as places (see `lanes.array_at`), float16 as its bits. `like` holds numbers that stand
for the dtype of the arrays and for the one that is computed in. `windows` is (kernel, stride,
padding and H', W'), each a pair (height, width). A plane is the H W values of one channel of one
sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lpnorm.fast.compiled import entry, inner
from lpnorm.fast.lanes import array_at, narrow, widen

VECTOR = 16  # values that are moved, or compared, at a time
HALF = VECTOR // 2


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


def vector_at(context: Any, builder: Any, kind: Any, array: Any, i: Any, size: int = VECTOR) -> Any:
    """A pointer to VECTOR, or size, values of an array, from i on."""
    data = context.make_array(kind)(context, builder, array).data
    values = ir.VectorType(context.get_value_type(kind.dtype), size)
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
def copy_vector(context: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """b[j : j + VECTOR] = a[i : i + VECTOR], of one dtype (nothing otherwise)."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, i, b, j = arguments
        if a_kind.dtype == b_kind.dtype:
            size = a_kind.dtype.bitwidth // 8
            values = builder.load(vector_at(context, builder, a_kind, a, i), align=size)
            builder.store(values, vector_at(context, builder, b_kind, b, j), align=size)
        return context.get_dummy_value()

    a_kind, b_kind = a, b
    return types.void(a, types.intp, b, types.intp), build


@intrinsic
def even_vector(context: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """b[j : j + HALF] = a[i : i + VECTOR : 2], of one dtype (nothing otherwise)."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, i, b, j = arguments
        if a_kind.dtype == b_kind.dtype:
            size = a_kind.dtype.bitwidth // 8
            values = builder.load(vector_at(context, builder, a_kind, a, i), align=size)
            even = ir.Constant(ir.VectorType(ir.IntType(32), HALF), list(range(0, VECTOR, 2)))
            values = builder.shuffle_vector(values, values, even)
            builder.store(values, vector_at(context, builder, b_kind, b, j, HALF), align=size)
        return context.get_dummy_value()

    a_kind, b_kind = a, b
    return types.void(a, types.intp, b, types.intp), build


def _masked(builder: Any, name: str, values: Any, arguments: list[Any]) -> Any:
    """LLVM's masked load or store: lanes whose bit is not set are not touched in memory."""
    kind = "f32" if isinstance(values.element, ir.FloatType) else "f64"
    result = values if name == "load" else ir.VoidType()
    shape = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(
        builder.module, shape, f"llvm.masked.{name}.v{VECTOR}{kind}.p0"
    )
    return builder.call(function, arguments)


def _load(context: Any, builder: Any, kind: Any, array: Any, i: Any, bits: Any) -> Any:
    """VECTOR values of an array from i on where a bit is set, else 0."""
    values = ir.VectorType(context.get_value_type(kind.dtype), VECTOR)
    size = ir.Constant(ir.IntType(32), kind.dtype.bitwidth // 8)
    lanes = builder.bitcast(bits, ir.VectorType(ir.IntType(1), VECTOR))
    given = [vector_at(context, builder, kind, array, i), size, lanes, ir.Constant(values, None)]
    return _masked(builder, "load", values, given)


def _store(
    context: Any, builder: Any, kind: Any, array: Any, j: Any, bits: Any, values: Any
) -> None:
    """Values to an array from j on where a bit is set."""
    size = ir.Constant(ir.IntType(32), kind.dtype.bitwidth // 8)
    lanes = builder.bitcast(bits, ir.VectorType(ir.IntType(1), VECTOR))
    given = [values, vector_at(context, builder, kind, array, j), size, lanes]
    _masked(builder, "store", values.type, given)


@intrinsic
def copy_masked(
    context: Any, a: Any, i: Any, bits: Any, b: Any, j: Any, inside: Any
) -> Any:  # fmt: skip
    """b[j : j + VECTOR] = a[i : i + VECTOR] where a bit is set, else 0; only lanes of b that have a
    bit in inside. Of one float dtype (nothing otherwise). Other lanes need not be in a or b."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, i, bits, b, j, inside = arguments
        if a_kind.dtype == b_kind.dtype:
            loaded = _load(context, builder, a_kind, a, i, bits)
            _store(context, builder, b_kind, b, j, inside, loaded)
        return context.get_dummy_value()

    a_kind, b_kind = a, b
    return types.void(a, types.intp, types.uint16, b, types.intp, types.uint16), build


@intrinsic
def add_masked(context: Any, a: Any, i: Any, bits: Any, b: Any, j: Any) -> Any:
    """b[j : j + VECTOR] += a[i : i + VECTOR] where a bit is set. Of one float dtype (nothing
    otherwise)."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, i, bits, b, j = arguments
        if a_kind.dtype == b_kind.dtype:
            sent = _load(context, builder, a_kind, a, i, bits)
            total = builder.fadd(_load(context, builder, b_kind, b, j, bits), sent)
            _store(context, builder, b_kind, b, j, bits, total)
        return context.get_dummy_value()

    a_kind, b_kind = a, b
    return types.void(a, types.intp, types.uint16, b, types.intp), build


@intrinsic
def fold_masked(
    context: Any, a: Any, i: Any, step: Any, count: Any, masks: Any, m: Any, b: Any, j: Any,
    inside: Any,
) -> Any:  # fmt: skip
    """b[j : j + VECTOR] = 0 + a[i : ...] + a[i + step : ...] + ..., `count` of them one by one,
    each where a bit of masks[m + VECTOR t] is set; only lanes of b that have a bit in inside. One
    float dtype (nothing otherwise).
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, i, step, count, masks, m, b, j, inside = arguments
        if a_kind.dtype == b_kind.dtype:
            values = ir.VectorType(context.get_value_type(a_kind.dtype), VECTOR)
            nothing = ir.Constant(values, None)
            total = cgutils.alloca_once_value(builder, nothing)
            rows = context.make_array(masks_kind)(context, builder, masks)
            with cgutils.for_range(builder, count) as loop:
                at = builder.add(i, builder.mul(loop.index, step))
                bits = builder.load(builder.gep(rows.data, [builder.add(m, loop.index)]))
                loaded = _load(context, builder, a_kind, a, at, bits)
                builder.store(builder.fadd(builder.load(total), loaded), total)
            _store(context, builder, b_kind, b, j, inside, builder.load(total))
        return context.get_dummy_value()

    a_kind, b_kind, masks_kind = a, b, masks
    word = types.intp
    return types.void(a, word, word, word, masks, word, b, word, types.uint16), build


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


# --- what windows see -------------------------------------------------------------------------
#
# Slices, not sums of indices: an index that may be negative to the compiler costs a look each time.


@inner
def copy(a: Any, i: int, step: int, b: Any, j: int, size: int, same: bool) -> None:
    """b[j : j + size] = a[i : i + size * step : step]; same: they have one dtype."""
    if same and step == 1 and size >= VECTOR:
        for q in range(0, size - VECTOR + 1, VECTOR):
            copy_vector(a, i + q, b, j + q)
        if size % VECTOR:
            copy_vector(a, i + size - VECTOR, b, j + size - VECTOR)
        return
    done = 0
    if same and step == 2:
        while done + HALF <= size and i + 2 * done + VECTOR <= a.size:
            even_vector(a, i + 2 * done, b, j + done)
            done += HALF
    source, target = a[i + done * step : i + size * step : step], b[j + done : j + size]
    for q in range(target.size):
        target[q] = moved(source[q], target, same)


@inner
def moved(value: Any, target: Any, same: bool) -> Any:
    """A value for an array: as it is, or widened if that is of another dtype."""
    return target.dtype.type(value) if same else target.dtype.type(widen(value))


@inner
def fill(b: Any, j: int, step: int, size: int, value: Any) -> None:
    target = b[j : j + size * step : step]
    for q in range(target.size):
        target[q] = value


@inner
def inside(shape: Any, a: int, b: int, windows: Any) -> Any:
    """i0, i1, j0, j1: windows i0 ... i1 - 1 by j0 ... j1 - 1 have their tap (a, b) inside a plane;
    and where the first of the windows i0 sees it, were it inside.
    """
    _, (down, right), (above, left), (rows, across) = windows
    i0, i1 = seen(shape[2], a, down, above, rows)
    j0, j1 = seen(shape[3], b, right, left, across)
    return i0, i1, j0, j1, (i0 * down + a - above) * shape[3] + b - left


@inner
def see(
    x: Any, at: int, width: int, where: Any, windows: Any, out: Any, to: int, same: bool,
    outside: Any,
) -> None:  # fmt: skip
    """What a tap of all windows, `inside` where, sees of the plane at x[at], to out[to], H' W'
    values.
    """
    _, (down, right), _, (rows, across) = windows
    i0, i1, j0, j1, first = where
    at += first
    if i0 > 0:
        fill(out, to, 1, i0 * across, outside)
    if i1 < rows:
        fill(out, to + i1 * across, 1, (rows - i1) * across, outside)
    to += i0 * across
    if right == 1 and down == 1 and across == width:  # windows one behind another in memory:
        size = (i1 - i0) * width  # what is read beyond a row's end is overwritten
        start, end = max(0, -at), min(size, x.size - at)
        copy(x, at + start, 1, out, to + start, end - start, same)
    else:
        for i in range(i1 - i0):
            row = at + i * down * width + j0 * right
            copy(x, row, right, out, to + i * across + j0, j1 - j0, same)
    for j in range(j0):
        fill(out, to + j, across, i1 - i0, outside)
    for j in range(j1, across):
        fill(out, to + j, across, i1 - i0, outside)


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
def max_pool(
    x: Any, y: Any, winner: Any, room: Any, first: int, last: int, windows: Any, like: Any
) -> None:
    """y, and which tap it is, of planes first ... last - 1. like: dtypes of x and winner; room:
    for what a tap sees of a plane.
    """
    (kh, kw), _, _, (rows, across) = windows
    plane, size = x[1][2] * x[1][3], rows * across
    xs, ys, taps = flat(x, like[0]), flat(y, like[0]), flat(winner, like[1])
    values = flat(room, like[0])
    least, four = narrow(np.float64(-np.inf), like[0]), twos(windows)
    for p in range(first, last):
        best, which = ys[p * size : (p + 1) * size], taps[p * size : (p + 1) * size]
        if four:
            for i in range(rows):
                upper = p * plane + 2 * i * x[1][3]
                lower = upper + x[1][3]
                row = slice(i * across, (i + 1) * across)
                of_four(
                    xs[upper : upper + 2 * across],
                    xs[lower : lower + 2 * across],
                    best[row],
                    which[row],
                )
            continue
        fill(ys, p * size, 1, size, least)
        fill(taps, p * size, 1, size, 0)
        for a in range(kh):
            for b in range(kw):
                where = inside(x[1], a, b, windows)
                see(xs, p * plane, x[1][3], where, windows, values, 0, True, least)
                rank(values, best, which, type(like[1])(a * kw + b))


@inner
def twos(windows: Any) -> bool:
    """Windows of 2 by 2 side by side?"""
    kernel, stride, padding, _ = windows
    return kernel == (2, 2) and stride == (2, 2) and padding == (0, 0)


@inner
def of_four(upper: Any, lower: Any, y: Any, taps: Any) -> None:
    """A row of windows of 2 by 2: the first largest, or the first NaN, of two rows of x."""
    for j in range(y.size):
        best, tap = later(upper[2 * j], upper[2 * j + 1], 0, 1)
        other, second = later(lower[2 * j], lower[2 * j + 1], 2, 3)
        y[j], taps[j] = later(best, other, tap, second)


@inner
def later(a: Any, b: Any, tap: int, other: int) -> Any:
    """Of two values, and their taps, the first unless the later one is larger, or the first NaN."""
    v, w = widen(a), widen(b)
    wins = (w > v) | ((w != w) & (v == v))
    return (b if wins else a), (other if wins else tap)


@inner
def rank(values: Any, best: Any, which: Any, tap: Any) -> None:
    """One tap of each window: is it larger than all before it, or the first NaN?"""
    for j in range(best.size):
        v, w = widen(values[j]), widen(best[j])
        wins = (v > w) | ((v != v) & (w == w))
        best[j] = values[j] if wins else best[j]
        which[j] = tap if wins else which[j]


@entry
def max_pool_backward(
    dy: Any, dx: Any, winner: Any, first: int, last: int, windows: Any, like: Any
) -> None:
    """dx, in the dtype that is computed in, of planes first ... last - 1."""
    (kh, kw), (down, right), (above, left), (rows, across) = windows
    _, _, height, width = dx[1]
    dys, dxs, taps = flat(dy, like[0]), flat(dx, like[2]), flat(winner, like[1])
    zero, four = dxs.dtype.type(0), twos(windows)
    if not four or height != 2 * rows or width != 2 * across:
        fill(dxs, first * height * width, 1, (last - first) * height * width, 0)
    for p in range(first, last):
        if four:
            for i in range(rows):
                upper = (p * height + 2 * i) * width
                lower, own = upper + width, (p * rows + i) * across
                to_four(
                    dys[own : own + across], taps[own : own + across],
                    dxs[upper : upper + 2 * across], dxs[lower : lower + 2 * across],
                )  # fmt: skip
        elif down >= kh and right >= kw:  # windows share no value: in any order
            for i in range(rows):
                own = (p * rows + i) * across
                for j in range(across):
                    tap = np.int64(taps[own + j])
                    row, column = i * down - above, j * right - left
                    while tap >= kw:  # quicker than a division
                        row, tap = row + 1, tap - kw
                    column += tap
                    if 0 <= row < height and 0 <= column < width:
                        at = (p * height + row) * width + column
                        dxs[at] = zero + widen(dys[own + j])  # -0 becomes 0, as if it were added
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


@inner
def to_four(dy: Any, taps: Any, upper: Any, lower: Any) -> None:
    """`of_four` backwards."""
    zero = upper.dtype.type(0)
    for j in range(dy.size):
        value, tap = zero + upper.dtype.type(widen(dy[j])), taps[j]  # -0 becomes 0
        upper[2 * j] = value if tap == 0 else zero
        upper[2 * j + 1] = value if tap == 1 else zero
        lower[2 * j] = value if tap == 2 else zero
        lower[2 * j + 1] = value if tap == 3 else zero
