"""Leaves, lanes and the tree: how a sum comes out with the bits of `lpnorm.arrays.Accumulate`.

**The tree.** `Accumulate` folds a row of n values in half, ("element i + n - h is added to element
i", h = floor(n/2)), then the ceil(n/2) values that are left, and so on. With the sizes
s_0 = n, s_1 = ceil(n/2), s_2 = ceil(s_1/2), ... element j after K folds is the sum over all

    j + (a sum of some of s_1 ... s_K)

and what is added first differs by s_1, what is added last by s_K. It never adds neighbours. So cut
the row into 2^K **leaves** of s_K neighbouring values, **lanes**, one leaf for each subset of
s_1 ... s_K, beginning at the sum of that subset: adding two leaves is adding two arrays, element by
element, which a processor does 8 or 16 at a time without changing the order of a single sum. Leaves
are taken in the order in which a binary counter runs through the subsets (s_1 the lowest bit): one
that is complete waits on a **stack**, as a carry does, until its partner is. In the end s_K lanes
are left and are folded as the book folds them.

Only at the end of a leaf can lanes be missing (a value "that waits" has no partner): they count as
-0, which changes nothing that it is added to, and the one that waits is still multiplied by
`weight` (1/2 in a tree of averages, 1 in a tree of sums).

ROWS leaves are taken together as a **block**, with the lowest bit of the counter outermost: of
four, the first and the third differ by s_1 and so do the second and the fourth.

**Units.** Where the values of several groups alternate in memory (channels last), a lane is not
one value but one of each of `units` groups: the same loops over units times as many values.

**Dtypes.** Values are computed in float32, or in float64 if one of x's dtype and the accumulator's
is float64, and rounded after each operation to the grid of the dtype that the book gives it: for
+ - * / and the square root that is the same as computing in that dtype (Figueroa: a format of more
than 2p + 1 digits between does no harm). Numba has no float16 on the CPU: such arrays come as their
bits, uint16. `like` is a number that stands for a dtype: uint16 for float16.
"""

from __future__ import annotations

import ctypes
import math
import platform
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, overload

from lpnorm.fast.compiled import inner

WIDTH = 1024  # values of a leaf: 4 KB in float32, so that a block stays in the first-level cache
ROWS = 4  # leaves of a block


@lru_cache(maxsize=256)
def leaves(n: int, units: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Where leaves begin and how many lanes they have, in the order of the blocks; lanes, rows."""
    sizes = [n]
    while sizes[-1] > 1 and sizes[-1] * units > WIDTH:
        sizes.append(-(-sizes[-1] // 2))
    starts, lengths = np.zeros(1, np.int64), np.array([sizes[-1]])
    for small, large in zip(sizes[:0:-1], sizes[-2::-1], strict=True):  # from s_K to s_1
        starts = np.stack([starts, starts + small], axis=-1)  # the lower bit runs faster
        lengths = np.minimum(np.stack([lengths, lengths], axis=-1), large - starts).clip(0)
        starts, lengths = starts.reshape(-1), lengths.reshape(-1)
    rows = min(ROWS, len(starts))
    order = np.arange(len(starts))
    for bit in range(rows.bit_length() - 1):  # turn the order of the bits within a block
        other = rows.bit_length() - 2 - bit
        if bit < other:
            differ = (order >> bit ^ order >> other) & 1
            order = order ^ (differ << bit | differ << other)
    return starts[order], lengths[order], sizes[-1], rows


# --- rounding to a dtype's grid ---------------------------------------------------------------


def grid(v: Any, like: Any) -> Any:
    """v, a float32 or float64, rounded to the dtype that `like` stands for, in v's own dtype."""
    narrow = np.float16 if isinstance(like, np.uint16) else type(like)
    return type(v)(narrow(v))


def _hardware() -> bool:
    """Does this processor convert to float16 and back itself? (x86 since 2013, 64-bit Arm.)"""
    if getattr(config, "CPU_NAME", None) or getattr(config, "CPU_FEATURES", None):  # for another
        return False
    return bool(llvm.get_host_cpu_features().get("f16c")) or platform.machine() in (
        "arm64",
        "aarch64",
    )


def _conversion(name: str, result: Any, given: Any, build: Any) -> Any:
    """An intrinsic of one argument, `given` -> `result`, whose code `build` makes."""

    def typed(context: Any, v: Any) -> Any:
        return result(given), lambda context, builder, signature, v: build(builder, v[0])

    typed.__name__ = name
    return intrinsic(typed)


_HALF, _SINGLE, _BITS = ir.HalfType(), ir.FloatType(), ir.IntType(16)
_half_of = _conversion(
    "_half_of", types.float32, types.float32, lambda b, v: b.fpext(b.fptrunc(v, _HALF), _SINGLE)
)
_bits_of = _conversion(
    "_bits_of", types.uint16, types.float32, lambda b, v: b.bitcast(b.fptrunc(v, _HALF), _BITS)
)
_of_bits = _conversion(
    "_of_bits", types.float32, types.uint16, lambda b, v: b.fpext(b.bitcast(v, _HALF), _SINGLE)
)


@overload(grid, strict=False)
def _grid(v: Any, like: Any) -> Any:
    if like == types.uint16 and v == types.float64:
        return _half_of_double
    if like == types.uint16:
        return (lambda v, like: _half_of(v)) if _hardware() else _half_of_single
    if like == types.float32 and v == types.float64:
        return lambda v, like: np.float64(np.float32(v))
    return lambda v, like: v


def _half_of_single(v: Any, like: Any) -> Any:
    # Bits below the 10 that float16 has are rounded off by integer addition, ties to even; where
    # float16 is subnormal, by adding 1/2, whose last bit is worth 2^-24.
    bits = np.float32(v).view(np.uint32)
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    odd = np.uint32((size >> np.uint32(13)) & np.uint32(1))
    up = np.uint32(np.uint32(size + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000))
    finite = np.uint32(up if up < np.uint32(0x47800000) else np.uint32(0x7F800000))  # 2^16: inf
    normal = np.uint32(finite if size <= np.uint32(0x7F800000) else size)  # NaN stays
    small = np.float32(
        np.float32(np.uint32(size).view(np.float32) + np.float32(0.5)) - np.float32(0.5)
    )
    tiny = np.float32(small).view(np.uint32)
    result = np.uint32(tiny if size < np.uint32(0x38800000) else normal)  # 2^-14
    return np.uint32(result | np.uint32(bits & np.uint32(0x80000000))).view(np.float32)


def _half_of_double(v: Any, like: Any) -> Any:
    bits = np.float64(v).view(np.uint64)
    size = np.uint64(bits & np.uint64(0x7FFFFFFFFFFFFFFF))
    odd = np.uint64((size >> np.uint64(42)) & np.uint64(1))
    up = np.uint64(np.uint64(size + np.uint64(0x1FFFFFFFFFF) + odd) & np.uint64(0xFFFFFC0000000000))
    infinite = np.uint64(0x7FF0000000000000)
    finite = np.uint64(up if up < np.uint64(0x40F0000000000000) else infinite)
    normal = np.uint64(finite if size <= infinite else size)
    half = np.float64(2.0**28)  # its last bit is worth 2^-24
    small = np.float64(np.float64(np.uint64(size).view(np.float64) + half) - half)
    tiny = np.float64(small).view(np.uint64)
    result = np.uint64(tiny if size < np.uint64(0x3F10000000000000) else normal)
    return np.uint64(result | np.uint64(bits & np.uint64(0x8000000000000000))).view(np.float64)


def widen(v: Any) -> Any:
    """A value as it is stored, to compute with: float16 bits as a float32, others as they are."""
    return np.float32(v.view(np.float16)) if isinstance(v, np.uint16) else v


@overload(widen, strict=False)
def _widen(v: Any) -> Any:
    if v != types.uint16:
        return lambda v: v
    if _hardware():
        return lambda v: _of_bits(v)

    def half(v: Any) -> Any:
        size = np.uint32(v & np.uint32(0x7FFF))
        fraction = np.float32(np.int32(size)) * np.float32(2.0**-24)  # subnormals
        normal = np.uint32(np.uint32(size << np.uint32(13)) + np.uint32(112 << 23))
        whole = np.uint32(normal if size < np.uint32(0x7C00) else normal + np.uint32(112 << 23))
        tiny = np.float32(fraction).view(np.uint32)
        result = np.uint32(tiny if size < np.uint32(0x0400) else whole)
        sign = np.uint32(np.uint32(v & np.uint32(0x8000)) << np.uint32(16))
        return np.uint32(result | sign).view(np.float32)

    return half


def narrow(v: Any, like: Any) -> Any:
    """A number on the grid of `like`'s dtype, as it is stored: `widen` backwards."""
    return np.float16(v).view(np.uint16) if isinstance(like, np.uint16) else type(like)(v)


@overload(narrow, strict=False)
def _narrow(v: Any, like: Any) -> Any:
    if like != types.uint16:
        return lambda v, like: v  # the store converts, which is exact
    if _hardware():
        return lambda v, like: _bits_of(np.float32(v))

    def half(v: Any, like: Any) -> Any:
        bits = np.float32(v).view(np.uint32)
        size = np.uint32(bits & np.uint32(0x7FFFFFFF))
        fraction = np.uint32(np.int32(np.uint32(size).view(np.float32) * np.float32(2.0**24)))
        normal = np.uint32((size - np.uint32(112 << 23)) >> np.uint32(13))
        whole = np.uint32(normal if size < np.uint32(0x47800000) else np.uint32(0x7C00))
        number = np.uint32(fraction if size < np.uint32(0x38800000) else whole)
        result = np.uint32(number if size <= np.uint32(0x7F800000) else np.uint32(0x7E00))
        return np.uint16(result | np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)))

    return half


# --- values of a view (outer, groups, inner) to and from a row of lanes -----------------------

Place = tuple[int, tuple[int, ...]]


def place(x: np.ndarray) -> Place:
    """Where a C-contiguous array is, (address, shape), for `array_at`: x has to outlive its use."""
    return x.ctypes.data, x.shape


def array_at(place: Any, like: Any) -> Any:
    """The array at a place, without an owner, of the dtype that `like` is of.

    A slice of an array that has an owner counts as a reference to it, and counting safely among
    threads takes longer than what is done with a row of lanes. It makes read-only arrays, which are
    another type to Numba, the same as others, too.
    """
    address, shape = place
    memory = (ctypes.c_byte * (math.prod(shape) * like.itemsize)).from_address(address)
    return np.frombuffer(memory, like.dtype).reshape(shape)


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uintp), build


@overload(array_at, strict=False)
def _array_at(place: Any, like: Any) -> Any:
    dtype = like
    return lambda place, like: numba.carray(_pointer(place[0]), place[1], dtype)


# Here x is (its values in memory's order, groups, inner, which group is first), as `seen_at` makes
# it: slicing a flat array is cheaper.


@inner
def seen_at(place: Any, like: Any) -> Any:
    """The array (outer, groups, inner) at a place."""
    size = place[1][0] * place[1][1] * place[1][2]
    return array_at((place[0], (size,)), like), place[1][1], place[1][2], 0


@inner
def chunk(x: Any, group: int, units: int, start: int, most: int) -> Any:
    """Where value `start` of a group is, how many lanes from there on, at most so many, lie evenly
    in memory, and in how many runs, each `groups` values after the one before.
    """
    _, groups, inner_size, skipped = x
    group -= skipped
    if inner_size == 1:
        return start * groups + group, most, 1 if units == groups else most
    outer = start // inner_size
    begin = start - outer * inner_size
    return (outer * groups + group) * inner_size + begin, min(most, inner_size - begin), 1


@inner
def load(x: Any, group: int, units: int, start: int, count: int, row: Any) -> None:
    """Values start ... start + count - 1 of `units` groups, unit by unit, into the row."""
    values, groups, inner_size, _ = x
    at, lanes, runs = chunk(x, group, units, start, count)
    done = 0
    while done < count:
        lanes = min(lanes, count - done)
        size = lanes * units // runs
        for i in range(runs):
            source = values[at + i * groups : at + i * groups + size]
            target = row[done * units + i * size : done * units + (i + 1) * size]
            for q in range(size):
                target[q] = widen(source[q])
        done += lanes
        at += lanes + (groups - 1) * inner_size
        lanes = inner_size


LINE = 64  # bytes that come from memory together


def touch(x: Any, i: Any) -> None:
    """Ask for the line of memory that x[i] is in, and do not wait for it."""


@intrinsic
def _prefetch(context: Any, x: Any, i: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(x, types.intp), build


@overload(touch, strict=False)
def _touch(x: Any, i: Any) -> Any:
    return lambda x, i: _prefetch(x, i)


@inner
def ask(x: Any, group: int, units: int, start: int, count: int) -> None:
    """Ask for the memory of these values before it is needed. A leaf or two is too short for the
    processor to see a pattern, and without this it waits for memory half of the time.
    """
    values, groups, inner_size, _ = x
    at, lanes, runs = chunk(x, group, units, start, count)
    step = LINE // values.itemsize
    done = 0
    while done < count:
        lanes = min(lanes, count - done)
        for i in range(runs):
            first = at + i * groups
            for q in range(first, first + lanes * units // runs, step):
                touch(values, q)
        done += lanes
        at += lanes + (groups - 1) * inner_size
        lanes = inner_size


@inner
def spread(
    values: Any, per_value: bool, group: int, units: int, start: int, count: int, row: Any
) -> None:
    """What lanes start ... start + count - 1 are multiplied by, say: a number for each group, or
    (per_value) one for each of a group's values.
    """
    if per_value and units == 1:
        own = values[start : start + count]
        for i in range(own.size):
            row[i] = own[i]
    elif units == 1:
        fill(row[:count], values[group])
    elif per_value:
        for i in range(count):
            fill(row[i * units : (i + 1) * units], values[start + i])
    else:
        own = values[group : group + units]
        for i in range(count):
            part = row[i * units : (i + 1) * units]
            for j in range(own.size):
                part[j] = own[j]


@inner
def fill(row: Any, value: Any) -> None:
    for q in range(row.size):
        row[q] = value


# --- the tree ---------------------------------------------------------------------------------


@inner
def node(a: Any, b: Any, weight: Any, like: Any) -> Any:
    """Two partners; `like` stands for the accumulator's dtype."""
    return grid(grid(a * weight, like) + grid(b * weight, like), like)


@inner
def fold(row: Any, n: int, units: int, weight: Any, a: Any) -> None:
    """Fold n lanes in half until one is left, as `Accumulate` does; a: the accumulator."""
    while n > 1:
        half = n // 2
        front, back = row[: half * units], row[(n - half) * units : n * units]
        for q in range(front.size):
            front[q] = node(front[q], back[q], weight, a)
        n -= half
        if n > half:  # the middle one waits
            waits = row[half * units : n * units]
            for q in range(waits.size):
                waits[q] = grid(waits[q] * weight, a)


@inner
def push(row: Any, t: int, stack: Any, weight: Any, a: Any) -> None:
    """The t-th block, folded into one row, onto the stack: add it to those that wait for it."""
    level = 0
    while (t >> level) & 1:
        waiting = stack[level, : row.size]
        for q in range(row.size):
            row[q] = node(waiting[q], row[q], weight, a)
        level += 1
    top = stack[level, : row.size]
    for q in range(row.size):
        top[q] = row[q]


@inner
def roots(stack: Any, blocks: int, lanes: int, units: int, weight: Any, a: Any) -> Any:
    """The tree's roots, one a unit, once all blocks are in it."""
    row = stack[levels_of(blocks)]
    fold(row, lanes, units, weight, a)
    return row[:units]


@inner
def levels_of(n: int) -> int:
    """ceil(log2 n): how often a row of n is folded."""
    levels = 0
    while (1 << levels) < n:
        levels += 1
    return levels


@inner
def total(root: Any, n: int, weight: Any, a: Any) -> Any:
    """`Accumulate.total` of n values from the root of a tree of sums or (1/2) of averages."""
    if weight == 1:
        return np.float64(root)
    return grid(np.float64(root) * np.float64(1 << levels_of(n)), a)


@inner
def average(root: Any, n: int, weight: Any, largest: float, a: Any) -> Any:
    """`Accumulate.average` from the root; largest: the largest number of its dtype."""
    power = np.float64(1 << levels_of(n))
    exact: Any = np.float64(root)
    if weight == 1:
        exact = grid(exact / power, a)
    quotient: Any = exact / (np.float64(n) / power)
    if abs(exact) <= largest:
        quotient = min(max(quotient, -largest), largest)
    return grid(quotient, a)
