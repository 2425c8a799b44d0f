"""Batch norm and layer norm as compiled loops: the book's formulas, leaf by leaf.

Each function works on a range of the groups of a view (outer, groups, inner), `units` groups at a
time (see `lpnorm.fast.lanes`). It goes over their values as often as the mathematics asks for and
keeps none of them: d and x_hat are computed again from x, mean and scale. A group's values are in
the processor's cache from the second pass on.

    forward    1  the mean          (for a maximum or a range, the extremes of x too)
               2  the statistic of d                (L1, L2, Top-k)
               3  y
    backward   1  g and g x_hat; dy and dy x_hat for beta and gamma; for L2 x_hat, which is h
               2  who is at the k-th place, and how many       (Top-k, Range)
               3  h                                 (only where its sum is no exact count of signs)
               4  dx

Each operation is followed by `grid`, which rounds to the dtype of x (`s`) or of the accumulator
(`a`), as the book does. What is one number a group (mean, scale, gamma, c, b) is spread over a row
of lanes first, a *tile*, so that the loops see arrays only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpnorm.fast.compiled import entry, inner
from lpnorm.fast.lanes import (
    ROWS,
    WIDTH,
    add_block,
    array_at,
    ask,
    average,
    fold,
    grid,
    load,
    push,
    roots,
    spread,
    store,
    total,
)

NONE, L1, L2, TOP, RANGE = range(5)  # which norm; NONE: mean and scale are constants
# which tile; LAST is the k-th largest |d| or the largest d, LEAST the smallest d
MEAN, SCALE, GAMMA, BETA, LOW, HIGH, B, C, LAST, SHARE, LEAST, LEAST_SHARE, SIGNS, NAN = range(14)
TILES, COUNTS = 14, 4


# --- elementwise: the book's lines, on a row or a block of lanes ------------------------------------


@inner
def standardize(x: Any, tiles: Any, s: Any) -> None:
    """x_hat = (x - mean) / scale, in place."""
    mean, scale = tiles[MEAN], tiles[SCALE]
    for q in range(x.size):
        x[q] = grid(grid(x[q] - mean[q], s) / scale[q], s)


@inner
def normalize(x: Any, tiles: Any, s: Any) -> None:
    """y = gamma * x_hat + beta, in place."""
    mean, scale, gamma, beta = tiles[MEAN], tiles[SCALE], tiles[GAMMA], tiles[BETA]
    for q in range(x.size):
        x_hat = grid(grid(x[q] - mean[q], s) / scale[q], s)
        x[q] = grid(grid(x_hat * gamma[q], s) + beta[q], s)


@inner
def magnitudes(x: Any, tiles: Any, squared: bool, s: Any) -> None:
    """|x - mean|, or its square, in place."""
    mean = tiles[MEAN]
    if squared:
        for q in range(x.size):
            d = grid(x[q] - mean[q], s)
            x[q] = grid(d * d, s)
    else:
        for q in range(x.size):
            x[q] = abs(grid(x[q] - mean[q], s))


@inner
def products(a: Any, b: Any, result: Any, s: Any) -> None:
    """result = a * b."""
    for q in range(result.size):
        result[q] = grid(a[q] * b[q], s)


@inner
def times(g: Any, tile: Any, s: Any) -> None:
    """g * tile, in place. (`products` with g twice is slow: the loop could not be vectorized.)"""
    for q in range(g.size):
        g[q] = grid(g[q] * tile[q], s)


@inner
def copy(a: Any, result: Any) -> None:
    for q in range(result.size):
        result[q] = a[q]


@inner
def sign(v: Any) -> Any:
    """1, 0 (of -0 too) or -1."""
    return np.float32(v > 0) - np.float32(v < 0)


@inner
def count_signs(x: Any, tiles: Any, s: Any) -> None:
    """Add sign(d) to what each lane has so far."""
    mean, signs = tiles[MEAN], tiles[SIGNS]
    for q in range(x.size):
        signs[q] += sign(grid(x[q] - mean[q], s))


@inner
def top_direction(d: Any, last: Any, share: Any) -> Any:
    """h of Top-k: sign(d) above the k-th place, its share for one that is tied there."""
    above, tied = np.float32(abs(d) > last), np.float32(abs(d) == last)
    return sign(d) * (above + tied * share)


@inner
def range_direction(d: Any, last: Any, share: Any, least: Any, least_share: Any, a: Any) -> Any:
    """h of a range: its share for each maximum, minus its share for each minimum."""
    top, bottom = np.float32(d == last), np.float32(d == least)
    return grid(top * share - bottom * least_share, a)


@inner
def directions(x: Any, tiles: Any, norm: int, s: Any, a: Any) -> None:
    """h, in place (but for L2, whose h is x_hat)."""
    mean = tiles[MEAN]
    last, share, least, least_share = tiles[LAST], tiles[SHARE], tiles[LEAST], tiles[LEAST_SHARE]
    if norm == L1:
        for q in range(x.size):
            x[q] = sign(grid(x[q] - mean[q], s))
    elif norm == TOP:
        for q in range(x.size):
            x[q] = top_direction(grid(x[q] - mean[q], s), last[q], share[q])
    else:
        for q in range(x.size):
            d = grid(x[q] - mean[q], s)
            x[q] = range_direction(d, last[q], share[q], least[q], least_share[q], a)


@inner
def gradient(g: Any, b: Any, c: Any, h: Any, scale: Any, s: Any) -> Any:
    """dx = (g - b - c h) / scale."""
    return grid(grid(grid(g - b, s) - grid(c * h, s), s) / scale, s)


@inner
def gradients(dy: Any, x: Any, tiles: Any, norm: int, s: Any, a: Any) -> None:
    """dx, in place of dy; x is destroyed."""
    mean, scale, gamma, b, c = tiles[MEAN], tiles[SCALE], tiles[GAMMA], tiles[B], tiles[C]
    if norm == NONE:
        for q in range(dy.size):
            dy[q] = grid(grid(dy[q] * gamma[q], s) / scale[q], s)
    elif norm == L1:
        for q in range(dy.size):
            h = sign(grid(x[q] - mean[q], s))
            dy[q] = gradient(grid(dy[q] * gamma[q], s), b[q], c[q], h, scale[q], s)
    elif norm == L2:
        for q in range(dy.size):
            h = grid(grid(x[q] - mean[q], s) / scale[q], s)
            dy[q] = gradient(grid(dy[q] * gamma[q], s), b[q], c[q], h, scale[q], s)
    else:
        directions(x, tiles, norm, s, a)
        for q in range(dy.size):
            dy[q] = gradient(grid(dy[q] * gamma[q], s), b[q], c[q], x[q], scale[q], s)


# --- the largest ------------------------------------------------------------------------------------


@inner
def extremes(x: Any, tiles: Any) -> None:
    """The extremes of each lane so far. A NaN changes nothing: then the mean is NaN anyway."""
    lowest(x, tiles[LOW])
    highest(x, tiles[HIGH])


@inner
def lowest(x: Any, low: Any) -> None:
    for q in range(x.size):
        low[q] = x[q] if x[q] < low[q] else low[q]


@inner
def highest(x: Any, high: Any) -> None:
    for q in range(x.size):
        high[q] = x[q] if x[q] > high[q] else high[q]


@inner
def extremes_of_lanes(tiles: Any, lanes: int, units: int) -> None:
    """The extremes of all lanes of a unit, into its first one."""
    low, high = tiles[LOW], tiles[HIGH]
    while lanes > 1:
        half = lanes // 2
        first, end = (lanes - half) * units, lanes * units
        lowest(low[first:end], low[: half * units])
        highest(high[first:end], high[: half * units])
        lanes -= half


@inner
def deviation_of_extremes(j: int, tiles: Any, mean: Any, s: Any) -> Any:
    """max d and min d of unit j. Rounding x - mean keeps the order of x: extremes stay extreme."""
    return grid(tiles[HIGH, j] - mean, s), grid(tiles[LOW, j] - mean, s)


@inner
def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers, or NaN if one of them is."""
    return a if a >= b or a != a else b


CHUNK = 64


@inner
def keep_largest(size: Any, units: int, heaps: Any, nan: Any) -> None:
    """The k largest of each unit so far, in a heap whose smallest stands first, (units, k).

    A chunk in which nothing exceeds the smallest that is kept is passed over after one look.
    """
    for start in range(0, size.size, CHUNK):
        chunk = size[start : start + CHUNK]
        if units == 1:
            limit, found = heaps[0, 0], 0
            for q in range(chunk.size):
                found += not chunk[q] <= limit
            if found == 0:
                continue
        unit = start % units
        for q in range(chunk.size):
            value = chunk[q]
            if value != value:
                nan[unit] = 1
            elif value > heaps[unit, 0]:
                replace_smallest(heaps[unit], value)
            unit += 1
            if unit == units:
                unit = 0


@inner
def replace_smallest(heap: Any, value: Any) -> None:
    i, child = 0, 1
    while child < heap.size:
        if child + 1 < heap.size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[i] = heap[child]
        i, child = child, 2 * child + 1
    heap[i] = value


# --- passes over the values of the groups g ... g + u - 1 -------------------------------------------
#
# The arguments they share: tree: starts, lengths, lanes and rows (of `leaves`), and n. like: s and
# a, numbers that stand for the dtype of x and of the accumulator. sums: the weights (1/2 in a tree
# of averages, else 1) of means and of sums, and the accumulator's largest number.


@inner
def load_block(x: Any, g: int, u: int, t: int, block: Any, tree: Any) -> None:
    """The t-th block of leaves, asking for the next one. Missing lanes hold anything."""
    starts, lengths, _, rows, _ = tree
    for r in range(rows):
        i = t * rows + r
        if i + rows < len(starts):
            ask(x, g, u, starts[i + rows], lengths[i + rows])
        load(x, g, u, starts[i], lengths[i], present(block, r, u, t, tree))


@inner
def present(block: Any, r: int, u: int, t: int, tree: Any) -> Any:
    """The lanes of the r-th leaf in the t-th block that are not missing."""
    _, lengths, lanes, rows, _ = tree
    first = r * lanes * u
    return block[first : first + lengths[t * rows + r] * u]


@inner
def spread_block(values: Any, g: int, u: int, t: int, tile: Any, tree: Any) -> None:
    """What belongs to the values of the t-th block of leaves, one number a value."""
    starts, lengths, _, rows, _ = tree
    for r in range(rows):
        i = t * rows + r
        spread(values, True, g, u, starts[i], lengths[i], present(tile, r, u, t, tree))


@inner
def mean_pass(
    x: Any, g: int, u: int, block: Any, stack: Any, tiles: Any, watch: bool,
    sums: Any, tree: Any, like: Any,
) -> Any:  # fmt: skip
    """The roots for the mean of x; the extremes of x where they are watched."""
    starts, lengths, lanes, rows, _ = tree
    blocks = len(starts) // rows
    tiles[LOW] = np.inf
    tiles[HIGH] = -np.inf
    for t in range(blocks):
        load_block(x, g, u, t, block, tree)
        for r in range(rows if watch else 0):
            extremes(present(block, r, u, t, tree), tiles)
        add_block(block, lengths, t, rows, lanes, u, stack, sums[0], like[1])
    return roots(stack, blocks, lanes, u, sums[0], like[1])


@inner
def statistic_pass(
    x: Any, g: int, u: int, block: Any, stack: Any, tiles: Any, norm: int, heaps: Any,
    sums: Any, tree: Any, like: Any,
) -> Any:  # fmt: skip
    """The roots for the mean of |d| or d^2; for Top-k the heaps instead."""
    starts, lengths, lanes, rows, _ = tree
    used, blocks = rows * lanes * u, len(starts) // rows
    heaps[:] = -1
    tiles[NAN] = 0
    for t in range(blocks):
        load_block(x, g, u, t, block, tree)
        magnitudes(block[:used], tiles, norm == L2, like[0])
        if norm == TOP:
            for r in range(rows):
                keep_largest(present(block, r, u, t, tree), u, heaps, tiles[NAN])
        else:
            add_block(block, lengths, t, rows, lanes, u, stack, sums[0], like[1])
    return roots(stack, blocks, lanes, u, sums[0], like[1])


# One scratch array whose rows are WIDTH apart, a constant: so the compiler knows which of the
# many rows that `add_terms` reads and writes are different ones, and vectorizes it.
X, DY = 0, ROWS * WIDTH  # the leaves of a block, of x and of dy
GAMMAS = 2 * ROWS * WIDTH  # one row a leaf
MEANS, SCALES = (3 * ROWS + 0) * WIDTH, (3 * ROWS + 1) * WIDTH
SUMS = (3 * ROWS + 2) * WIDTH  # five rows: what `terms` returns, added up over the leaves
LINES = 3 * ROWS + 7


@inner
def terms(w: Any, r: int, q: int, s: Any) -> Any:
    """dy x_hat and dy (for gamma and beta), g x_hat, g, and x_hat (L2's h), of a lane of a leaf."""
    x, dy = w[X + r * WIDTH + q], w[DY + r * WIDTH + q]
    x_hat = grid(grid(x - w[MEANS + q], s) / w[SCALES + q], s)
    g = grid(dy * w[GAMMAS + r * WIDTH + q], s)
    return grid(dy * x_hat, s), dy, grid(g * x_hat, s), g, x_hat


@inner
def node(a: Any, b: Any, weight: Any, like: Any) -> Any:
    return grid(grid(a * weight, like) + grid(b * weight, like), like)


@inner
def nodes(u: Any, v: Any, weights: Any, a: Any) -> Any:
    """A node of each of the five trees, of the nodes u and v."""
    return (
        node(u[0], v[0], weights[0], a),
        node(u[1], v[1], weights[1], a),
        node(u[2], v[2], weights[2], a),
        node(u[3], v[3], weights[3], a),
        node(u[4], v[4], weights[4], a),
    )


@inner
def put(w: Any, q: int, v: Any) -> None:
    w[SUMS + q] = v[0]
    w[SUMS + WIDTH + q] = v[1]
    w[SUMS + 2 * WIDTH + q] = v[2]
    w[SUMS + 3 * WIDTH + q] = v[3]
    w[SUMS + 4 * WIDTH + q] = v[4]


@inner
def add_terms(w: Any, width: int, rows: int, weights: Any, s: Any, a: Any) -> None:
    """The terms of all leaves of a block, folded into one row each."""
    if rows == 4:
        for q in range(width):
            even = nodes(terms(w, 0, q, s), terms(w, 2, q, s), weights, a)
            odd = nodes(terms(w, 1, q, s), terms(w, 3, q, s), weights, a)
            put(w, q, nodes(even, odd, weights, a))
    elif rows == 2:
        for q in range(width):
            put(w, q, nodes(terms(w, 0, q, s), terms(w, 1, q, s), weights, a))
    else:
        for q in range(width):
            put(w, q, terms(w, 0, q, s))


@inner
def add_ragged(w: Any, q: int, t: int, u: int, weights: Any, s: Any, a: Any, tree: Any) -> None:
    """`add_terms` for a lane that some leaves of the block lack: there the terms are -0."""
    _, lengths, _, rows, _ = tree
    zero = -w.dtype.type(0)
    none = (zero, zero, zero, zero, zero)
    first = terms(w, 0, q, s) if q < lengths[t * rows] * u else none
    if rows == 1:
        put(w, q, first)
        return
    second = terms(w, 1, q, s) if q < lengths[t * rows + 1] * u else none
    if rows == 2:
        put(w, q, nodes(first, second, weights, a))
        return
    third = terms(w, 2, q, s) if q < lengths[t * rows + 2] * u else none
    fourth = terms(w, 3, q, s) if q < lengths[t * rows + 3] * u else none
    put(w, q, nodes(nodes(first, third, weights, a), nodes(second, fourth, weights, a), weights, a))


@inner
def leaf(w: Any, at: int, r: int, u: int, t: int, tree: Any) -> Any:
    """The row for the r-th leaf in the t-th block."""
    _, lengths, _, rows, _ = tree
    return w[at + r * WIDTH : at + r * WIDTH + lengths[t * rows + r] * u]


@inner
def gradient_pass(
    dy: Any, x: Any, g: int, u: int, w: Any, size: Any, stacks: Any, tiles: Any, gamma: Any,
    per_value: bool, affine: bool, norm: int, heaps: Any,
    weights: Any, tree: Any, like: Any,
) -> None:  # fmt: skip
    """The trees of the five `terms`; those nobody needs are left out."""
    starts, lengths, lanes, rows, _ = tree
    s, a, _ = like
    k, width = heaps.shape[1], lanes * u
    tiles[SIGNS] = 0
    tiles[LOW] = np.inf
    tiles[HIGH] = -np.inf
    heaps[:] = -1
    tiles[NAN] = 0
    copy(tiles[MEAN], w[MEANS : MEANS + width])
    copy(tiles[SCALE], w[SCALES : SCALES + width])
    for r in range(0 if per_value else rows):
        copy(tiles[GAMMA], w[GAMMAS + r * WIDTH : GAMMAS + r * WIDTH + width])
    for t in range(len(starts) // rows):
        shortest = lanes
        for r in range(rows):
            i = t * rows + r
            shortest = min(shortest, lengths[i])
            if i + rows < len(starts):
                ask(x, g, u, starts[i + rows], lengths[i + rows])
                ask(dy, g, u, starts[i + rows], lengths[i + rows])
            row = leaf(w, X, r, u, t, tree)
            load(x, g, u, starts[i], lengths[i], row)
            load(dy, g, u, starts[i], lengths[i], leaf(w, DY, r, u, t, tree))
            if norm == L1:
                count_signs(row, tiles, s)
            elif norm == RANGE or (norm == TOP and k == 1):
                extremes(row, tiles)
            elif norm == TOP:
                copy(row, size[: row.size])
                magnitudes(size[: row.size], tiles, False, s)
                keep_largest(size[: row.size], u, heaps, tiles[NAN])
            if per_value:
                spread(gamma, True, g, u, starts[i], lengths[i], leaf(w, GAMMAS, r, u, t, tree))
        add_terms(w, width, rows, weights, s, a)
        for q in range(shortest * u, width):
            add_ragged(w, q, t, u, weights, s, a, tree)
        for i in range(0 if affine else 2, 5 if norm == L2 else 4):
            row = w[SUMS + i * WIDTH : SUMS + i * WIDTH + width]
            push(row, t, stacks[i], weights[i], a)


@inner
def affine_pass(
    dy: Any, x: Any, g: int, u: int, blocks: Any, stacks: Any, tiles: Any, mean: Any, scale: Any,
    per_value: bool, sums: Any, tree: Any, like: Any,
) -> None:  # fmt: skip
    """The two trees for dgamma and dbeta alone; per_value: mean and scale change with the value."""
    starts, lengths, lanes, rows, _ = tree
    s, a, _ = like
    used = rows * lanes * u
    x_hat, dys = blocks[0, :used], blocks[1, :used]
    for t in range(len(starts) // rows):
        if per_value:
            spread_block(mean, g, u, t, tiles[MEAN], tree)
            spread_block(scale, g, u, t, tiles[SCALE], tree)
        load_block(x, g, u, t, x_hat, tree)
        standardize(x_hat, tiles, s)
        load_block(dy, g, u, t, dys, tree)
        times(x_hat, dys, s)
        add_block(x_hat, lengths, t, rows, lanes, u, stacks[0], sums[1], a)
        add_block(dys, lengths, t, rows, lanes, u, stacks[1], sums[1], a)


@inner
def count_pass(
    x: Any, g: int, u: int, block: Any, tiles: Any, norm: int, counts: Any, tree: Any, like: Any
) -> None:  # fmt: skip
    """Into the first lane of counts: how many are above the k-th place and how many tied there, and
    the sums of their signs; for a range, how many are at the maximum and at the minimum."""
    _, _, lanes, rows, n = tree
    counts[:] = 0
    above, tied, signs_above, signs_tied = counts[0], counts[1], counts[2], counts[3]
    mean, last, least = tiles[MEAN], tiles[LAST], tiles[LEAST]
    for start in range(0, n, lanes):
        count = min(lanes, n - start)
        row = block[: count * u]
        ask(x, g, u, start + count, min(lanes, n - start - count))
        load(x, g, u, start, count, row)
        if norm == TOP:
            for q in range(row.size):
                d = grid(row[q] - mean[q], like[0])
                over, at = np.float32(abs(d) > last[q]), np.float32(abs(d) == last[q])
                above[q] += over
                tied[q] += at
                signs_above[q] += over * sign(d)
                signs_tied[q] += at * sign(d)
        else:
            for q in range(row.size):
                d = grid(row[q] - mean[q], like[0])
                above[q] += np.float32(d == last[q])
                tied[q] += np.float32(d == least[q])
    for each in range(COUNTS):
        whole_sum(counts[each], lanes, u)


@inner
def whole_sum(row: Any, lanes: int, units: int) -> None:
    """The sum of whole numbers over the lanes of each unit, exact in any order, into its first."""
    fold(row, lanes, 1, units, row.dtype.type(1), row.dtype.type(1))


@inner
def direction_pass(
    x: Any, g: int, u: int, block: Any, stack: Any, tiles: Any, norm: int,
    sums: Any, tree: Any, like: Any,
) -> Any:  # fmt: skip
    """The roots for the mean of h."""
    starts, lengths, lanes, rows, _ = tree
    used, blocks = rows * lanes * u, len(starts) // rows
    for t in range(blocks):
        load_block(x, g, u, t, block, tree)
        directions(block[:used], tiles, norm, like[0], like[1])
        add_block(block, lengths, t, rows, lanes, u, stack, sums[0], like[1])
    return roots(stack, blocks, lanes, u, sums[0], like[1])


# --- called from Python -----------------------------------------------------------------------------
#
# gamma, beta, mean and scale have the dtype that is computed in; gamma and beta one number for each
# group or (per_value) for each of a group's values. k is Top-k's; constant and eps have been rounded
# to the accumulator's dtype. groups: first, last, and units, how many at a time. like: numbers that
# stand for the dtype of x, that of the accumulator and the one that is computed in. x, y, dy, dx, the
# leaves in tree, and scratch come as places (see `array_at`).
# One number a group is computed in float64 and rounded once, which is the same (`lpnorm.fast.lanes`).


def scratch_shapes(lanes: int, rows: int, blocks: int, units: int, k: int) -> list[tuple[int, ...]]:
    """What the functions below work in: blocks, stacks, tiles, counts, heaps, lines."""
    step = lanes * units
    levels = (blocks - 1).bit_length()
    return [
        (3, rows * step),
        (5, levels + 1, step),
        (TILES, rows * step),
        (COUNTS, step),
        (units, k),
        (LINES * WIDTH,),
    ]


@inner
def opened(tree: Any, scratch: Any, like: Any) -> Any:
    """The arrays at these places."""
    starts, lengths = array_at(tree[0], np.int64(0)), array_at(tree[1], np.int64(0))
    blocks, stacks, tiles = (
        array_at(scratch[0], like[2]),
        array_at(scratch[1], like[2]),
        array_at(scratch[2], like[2]),
    )
    counts, heaps = array_at(scratch[3], like[2]), array_at(scratch[4], like[2])
    lines = array_at(scratch[5], like[2])
    return (starts, lengths, tree[2], tree[3], tree[4]), blocks, stacks, tiles, counts, heaps, lines


@entry
def forward(
    x: Any, y: Any, gamma: Any, beta: Any, mean: Any, scale: Any, per_value: bool,
    norm: int, k: int, constant: float, eps: float, sums: Any, tree: Any, like: Any, scratch: Any, groups: Any,
) -> None:  # fmt: skip
    """y, mean and scale of groups first ... last - 1."""
    tree_, blocks, stacks, tiles, _, heaps, _ = opened(tree, scratch, like)
    _, _, lanes, rows, n = tree_
    s, a, _ = like
    x_, y_, block, stack = array_at(x, s), array_at(y, s), blocks[0], stacks[0]
    weight, _, largest = sums
    first, last, units = groups
    watch = norm == RANGE or (norm == TOP and k == 1)
    for g in range(first, last, units):
        u = min(units, last - g)
        root = mean_pass(x_, g, u, block, stack, tiles, watch, sums, tree_, like)
        for j in range(u):
            mean[g + j] = average(root[j], n, weight, largest, a)
        spread(mean, False, g, u, 0, rows * lanes, tiles[MEAN])

        if watch:
            extremes_of_lanes(tiles, lanes, u)
        else:
            root = statistic_pass(x_, g, u, block, stack, tiles, norm, heaps, sums, tree_, like)
        for j in range(u):
            statistic = np.nan
            if watch:
                top, least = deviation_of_extremes(j, tiles, mean[g + j], s)
                if norm == RANGE:
                    statistic = np.float64(grid(top - least, a))
                else:
                    statistic = np.float64(larger(abs(top), abs(least)))
            elif norm != TOP:
                statistic = average(root[j], n, weight, largest, a)
            elif not tiles[NAN, j]:  # the k largest, added in increasing order
                heaps[j].sort()
                fold(heaps[j], k, 1, 1, weight, a)
                statistic = average(heaps[j, 0], k, weight, largest, a)
            if norm == L2:
                scale[g + j] = grid(np.sqrt(grid(statistic + eps, a)), a)
            else:
                scale[g + j] = grid(grid(constant * statistic, a) + eps, a)
        spread(scale, False, g, u, 0, rows * lanes, tiles[SCALE])

        write(x_, y_, g, u, block, gamma, beta, per_value, tiles, tree_, s)


@inner
def write(
    x: Any, y: Any, g: int, u: int, row_of_lanes: Any, gamma: Any, beta: Any, per_value: bool,
    tiles: Any, tree: Any, s: Any,
) -> None:  # fmt: skip
    """y = gamma x_hat + beta."""
    _, _, lanes, rows, n = tree
    for start in range(0, n, rows * lanes):
        count = min(rows * lanes, n - start)
        if per_value or start == 0:
            spread(gamma, per_value, g, u, start, count, tiles[GAMMA])
            spread(beta, per_value, g, u, start, count, tiles[BETA])
        following = min(rows * lanes, n - start - count)
        ask(x, g, u, start + count, following)
        ask(y, g, u, start + count, following)
        row = row_of_lanes[: count * u]
        load(x, g, u, start, count, row)
        normalize(row, tiles, s)
        store(row, y, g, u, start, count, s)


@entry
def inference(
    x: Any, y: Any, gamma: Any, beta: Any, mean: Any, scale: Any, tree: Any, like: Any,
    scratch: Any, groups: Any,
) -> None:  # fmt: skip
    """y of groups first ... last - 1, for mean and scale that are constants."""
    tree_, blocks, _, tiles, _, _, _ = opened(tree, scratch, like)
    _, _, lanes, rows, _ = tree_
    x_, y_, row = array_at(x, like[0]), array_at(y, like[0]), blocks[0]
    first, last, units = groups
    for g in range(first, last, units):
        u = min(units, last - g)
        spread(mean, False, g, u, 0, rows * lanes, tiles[MEAN])
        spread(scale, False, g, u, 0, rows * lanes, tiles[SCALE])
        write(x_, y_, g, u, row, gamma, beta, False, tiles, tree_, like[0])


@entry
def affine_sums(
    dy: Any, x: Any, mean: Any, scale: Any, dgamma: Any, dbeta: Any, per_value: bool,
    sums: Any, tree: Any, like: Any, scratch: Any, groups: Any,
) -> None:  # fmt: skip
    """dgamma = sum dy x_hat and dbeta = sum dy over the values of groups first ... last - 1.

    per_value: layer norm, whose gamma has one number a *column*: a group here is a column, and mean
    and scale belong to its values.
    """
    tree_, blocks, stacks, tiles, _, _, _ = opened(tree, scratch, like)
    starts, _, lanes, rows, n = tree_
    dy_, x_ = array_at(dy, like[0]), array_at(x, like[0])
    first, last, units = groups
    for g in range(first, last, units):
        u = min(units, last - g)
        if not per_value:
            spread(mean, False, g, u, 0, rows * lanes, tiles[MEAN])
            spread(scale, False, g, u, 0, rows * lanes, tiles[SCALE])
        affine_pass(dy_, x_, g, u, blocks, stacks, tiles, mean, scale, per_value, sums, tree_, like)
        for stack, result in ((stacks[0], dgamma), (stacks[1], dbeta)):
            root = roots(stack, len(starts) // rows, lanes, u, sums[1], like[1])
            for j in range(u):
                result[g + j] = total(root[j], n, sums[1], like[1])


@entry
def backward(
    dy: Any, x: Any, dx: Any, gamma: Any, mean: Any, scale: Any, dgamma: Any, dbeta: Any,
    per_value: bool, affine: bool, norm: int, k: int, constant: float, exact: int,
    sums: Any, tree: Any, like: Any, scratch: Any, groups: Any,
) -> None:  # fmt: skip
    """dx of groups first ... last - 1, and (affine) their dgamma and dbeta.

    exact: how many signs the accumulator can add without rounding.
    """
    tree_, blocks, stacks, tiles, counts, heaps, lines = opened(tree, scratch, like)
    starts, _, lanes, rows, n = tree_
    s, a, _ = like
    dy_, x_, dx_ = array_at(dy, s), array_at(x, s), array_at(dx, s)
    weight, weight_of_sums, largest = sums
    first, last, units = groups
    m = k if norm == TOP else 1 if norm == RANGE else n
    weight_of_terms = weight if m == n else weight_of_sums
    weights = weight_of_sums, weight_of_sums, weight_of_terms, weight, weight
    many = len(starts) // rows
    for g in range(first, last, units):
        u = min(units, last - g)
        spread(mean, False, g, u, 0, rows * lanes, tiles[MEAN])
        spread(scale, False, g, u, 0, rows * lanes, tiles[SCALE])
        if not per_value:
            spread(gamma, False, g, u, 0, rows * lanes, tiles[GAMMA])
        if norm != NONE:
            gradient_pass(
                dy_, x_, g, u, lines, blocks[0], stacks, tiles, gamma, per_value, affine, norm,
                heaps, weights, tree_, like,
            )  # fmt: skip
        elif affine:
            affine_pass(dy_, x_, g, u, blocks, stacks, tiles, mean, scale, False, sums, tree_, like)
        if affine:
            for stack, result in ((stacks[0], dgamma), (stacks[1], dbeta)):
                root = roots(stack, many, lanes, u, weight_of_sums, a)
                for j in range(u):
                    result[g + j] = total(root[j], n, weight_of_sums, a)

        # h: the k-th place and the share of those tied there; is its sum a count of signs?
        rounded = norm == L1 and n > exact
        if norm == L1:
            whole_sum(tiles[SIGNS], lanes, u)
        elif norm == TOP or norm == RANGE:
            extremes_of_lanes(tiles, lanes, u)
            for j in range(u):
                top, least = deviation_of_extremes(j, tiles, mean[g + j], s)
                if norm == TOP:
                    top = heaps[j, 0] if k > 1 else larger(abs(top), abs(least))
                tiles[B, j], tiles[C, j] = top, least  # as scratch: they are set below
            spread(tiles[B], False, 0, u, 0, rows * lanes, tiles[LAST])
            spread(tiles[C], False, 0, u, 0, rows * lanes, tiles[LEAST])
            count_pass(x_, g, u, blocks[0], tiles, norm, counts, tree_, like)
            for j in range(u):
                if norm == TOP:
                    tiles[B, j] = grid(np.float64(k - counts[0, j]) / max(counts[1, j], 1.0), a)
                    rounded |= tiles[B, j] != 1
                    tiles[SIGNS, j] = counts[2, j] + counts[3, j]
                else:
                    tiles[B, j] = grid(1 / np.float64(max(counts[0, j], 1.0)), a)
                    tiles[C, j] = grid(1 / np.float64(max(counts[1, j], 1.0)), a)
                    rounded |= tiles[B, j] != 1 or tiles[C, j] != 1
                    rounded |= tiles[LAST, j] == tiles[LEAST, j]
                    tiles[SIGNS, j] = 0
            rounded |= m > exact or n > 2**24  # where 1 / 2^L no longer fits float16
            spread(tiles[B], False, 0, u, 0, rows * lanes, tiles[SHARE])
            spread(tiles[C], False, 0, u, 0, rows * lanes, tiles[LEAST_SHARE])

        if norm != NONE:
            terms = roots(stacks[2], many, lanes, u, weight_of_terms, a)
            gs = roots(stacks[3], many, lanes, u, weight, a)
            hs = tiles[SIGNS]
            if rounded:
                hs = direction_pass(x_, g, u, blocks[0], stacks[4], tiles, norm, sums, tree_, like)
            elif norm == L2:
                hs = roots(stacks[4], many, lanes, u, weight, a)
            for j in range(u):
                if m == n:
                    along = average(terms[j], n, weight, largest, a)
                else:
                    along = grid(total(terms[j], n, weight_of_sums, a) / m, a)
                c = grid(constant * along, a)
                if rounded or norm == L2:
                    mean_of_h = average(hs[j], n, weight, largest, a)
                else:  # a whole number, and 2^-L of it the root of every tree
                    mean_of_h = grid(np.float64(hs[j]) / np.float64(n), a)
                mean_of_g = average(gs[j], n, weight, largest, a)
                terms[j] = c
                gs[j] = grid(mean_of_g - grid(c * mean_of_h, a), a)
            spread(gs, False, 0, u, 0, rows * lanes, tiles[B])
            spread(terms, False, 0, u, 0, rows * lanes, tiles[C])

        for start in range(0, n, rows * lanes):
            count = min(rows * lanes, n - start)
            following = min(rows * lanes, n - start - count)
            ask(x_, g, u, start + count, following)
            ask(dy_, g, u, start + count, following)
            ask(dx_, g, u, start + count, following)
            row, result = blocks[0, : count * u], blocks[1, : count * u]
            load(dy_, g, u, start, count, result)
            if per_value:
                spread(gamma, True, g, u, start, count, tiles[GAMMA])
            load(x_, g, u, start, count, row)
            gradients(result, row, tiles, norm, s, a)
            store(result, dx_, g, u, start, count, s)
