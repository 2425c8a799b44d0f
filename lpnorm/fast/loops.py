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
    add_block,
    average,
    fold,
    grid,
    load,
    roots,
    spread,
    stack_for,
    store,
    total,
)

NONE, L1, L2, TOP, RANGE = range(5)  # which norm; NONE: mean and scale are constants
# which tile; LAST is the k-th largest |d| or the largest d, LEAST the smallest d
MEAN, SCALE, GAMMA, BETA, LOW, HIGH, B, C, LAST, SHARE, LEAST, LEAST_SHARE, SIGNS = range(13)
TILES, COUNTS = 13, 4


# --- rows of lanes: the book's elementwise operations -----------------------------------------------


@inner
def deviations(x: Any, tiles: Any, s: Any) -> None:
    """d = x - mean, in place."""
    mean = tiles[MEAN]
    for q in range(x.size):
        x[q] = grid(x[q] - mean[q], s)


@inner
def divided(d: Any, tiles: Any, s: Any) -> None:
    """d / scale, in place."""
    scale = tiles[SCALE]
    for q in range(d.size):
        d[q] = grid(d[q] / scale[q], s)


@inner
def normalized(x: Any, tiles: Any, s: Any) -> None:
    """y = gamma * ((x - mean) / scale) + beta, in place."""
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
def copy(a: Any, result: Any) -> None:
    for q in range(result.size):
        result[q] = a[q]


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
def gradient(g: Any, h: Any, tiles: Any, s: Any) -> None:
    """dx = (g - b - c h) / scale, in place of g."""
    b, c, scale = tiles[B], tiles[C], tiles[SCALE]
    for q in range(g.size):
        numerator = grid(grid(g[q] - b[q], s) - grid(c[q] * h[q], s), s)
        g[q] = grid(numerator / scale[q], s)


@inner
def sign(v: Any) -> Any:
    """1, 0 (of -0 too) or -1."""
    return np.float32(v > 0) - np.float32(v < 0)


@inner
def directions(d: Any, tiles: Any, norm: int, a: Any) -> None:
    """h, in place of d (`Norm.direction` of the book, but for L2, whose h is x_hat)."""
    if norm == L1:
        for q in range(d.size):
            d[q] = sign(d[q])
    elif norm == TOP:
        last, share = tiles[LAST], tiles[SHARE]
        for q in range(d.size):
            above, tied = np.float32(abs(d[q]) > last[q]), np.float32(abs(d[q]) == last[q])
            d[q] = sign(d[q]) * (above + tied * share[q])
    else:
        last, share, least, least_share = (
            tiles[LAST],
            tiles[SHARE],
            tiles[LEAST],
            tiles[LEAST_SHARE],
        )
        for q in range(d.size):
            top, bottom = np.float32(d[q] == last[q]), np.float32(d[q] == least[q])
            d[q] = grid(top * share[q] - bottom * least_share[q], a)


# --- the largest ------------------------------------------------------------------------------------


@inner
def lowest(x: Any, low: Any) -> None:
    """The smallest of each lane so far. A NaN changes nothing: then the mean is NaN anyway."""
    for q in range(x.size):
        low[q] = x[q] if x[q] < low[q] else low[q]


@inner
def highest(x: Any, high: Any) -> None:
    """The largest of each lane so far."""
    for q in range(x.size):
        high[q] = x[q] if x[q] > high[q] else high[q]


@inner
def extremes_of_lanes(tiles: Any, lanes: int, units: int) -> None:
    """The extremes of all lanes of a unit, into its first one."""
    low, high = tiles[LOW], tiles[HIGH]
    while lanes > 1:
        half = lanes // 2
        back = slice((lanes - half) * units, lanes * units)
        lowest(low[back], low[: half * units])
        highest(high[back], high[: half * units])
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
                nan[unit] = True
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
def mean_pass(
    x: Any, g: int, u: int, block: Any, stack: Any, tiles: Any, watch: bool,
    sums: Any, tree: Any, like: Any,
) -> Any:  # fmt: skip
    """The roots for the mean of x; the extremes of x where they are watched."""
    starts, lengths, lanes, rows, _ = tree
    tiles[LOW] = np.inf
    tiles[HIGH] = -np.inf
    blocks = len(starts) // rows
    for t in range(blocks):
        for r in range(rows):
            start, count = starts[t * rows + r], lengths[t * rows + r]
            row = block[r * lanes * u : (r * lanes + count) * u]
            load(x, g, u, start, count, row)
            if watch:
                lowest(row, tiles[LOW])
                highest(row, tiles[HIGH])
        add_block(block, lengths, t, rows, lanes, u, stack, sums[0], like[1])
    extremes_of_lanes(tiles, lanes, u)
    return roots(stack, blocks, lanes, u, sums[0], like[1])


@inner
def statistic_pass(
    x: Any, g: int, u: int, block: Any, stack: Any, tiles: Any, norm: int, heaps: Any, nan: Any,
    sums: Any, tree: Any, like: Any,
) -> Any:  # fmt: skip
    """The roots for the mean of |d| or d^2; for Top-k the heaps instead."""
    starts, lengths, lanes, rows, _ = tree
    heaps[:] = -1
    nan[:] = False
    blocks = len(starts) // rows
    for t in range(blocks):
        for r in range(rows):
            start, count = starts[t * rows + r], lengths[t * rows + r]
            row = block[r * lanes * u : (r * lanes + count) * u]
            load(x, g, u, start, count, row)
            magnitudes(row, tiles, norm == L2, like[0])
            if norm == TOP:
                keep_largest(row, u, heaps, nan)
        if norm != TOP:
            add_block(block, lengths, t, rows, lanes, u, stack, sums[0], like[1])
    return roots(stack, blocks, lanes, u, sums[0], like[1])


@inner
def gradient_pass(
    dy: Any, x: Any, g: int, u: int, blocks: Any, stacks: Any, tiles: Any, gamma: Any,
    per_value: bool, affine: bool, norm: int, heaps: Any, nan: Any,
    sums: Any, weight_of_terms: Any, tree: Any, like: Any,
) -> None:  # fmt: skip
    """Up to five trees: dy and dy x_hat (affine), g x_hat, g, and for L2 x_hat, its h."""
    starts, lengths, lanes, rows, _ = tree
    s, a = like
    x_hat, dys, terms = blocks[0], blocks[1], blocks[2]
    k = heaps.shape[1]
    tiles[SIGNS] = 0
    tiles[LOW] = np.inf
    tiles[HIGH] = -np.inf
    heaps[:] = -1
    nan[:] = False
    for t in range(len(starts) // rows):
        for r in range(rows):
            start, count = starts[t * rows + r], lengths[t * rows + r]
            here = slice(r * lanes * u, (r * lanes + count) * u)
            row = x_hat[here]
            load(x, g, u, start, count, row)
            if norm == RANGE or (norm == TOP and k == 1):
                lowest(row, tiles[LOW])
                highest(row, tiles[HIGH])
            elif norm == TOP:
                size = terms[here]
                copy(row, size)
                magnitudes(size, tiles, False, s)
                keep_largest(size, u, heaps, nan)
            deviations(row, tiles, s)
            if norm == L1:
                signs = tiles[SIGNS]
                for q in range(row.size):
                    signs[q] += sign(row[q])
            divided(row, tiles, s)
            load(dy, g, u, start, count, dys[here])
        if affine:
            products(dys, x_hat, terms, s)
            add_block(terms, lengths, t, rows, lanes, u, stacks[0], sums[1], a)
            copy(dys, terms)
            add_block(terms, lengths, t, rows, lanes, u, stacks[1], sums[1], a)
        for r in range(rows):
            start, count = starts[t * rows + r], lengths[t * rows + r]
            if per_value:
                spread(gamma, True, g, u, start, count, tiles[GAMMA])
            times(dys[r * lanes * u : (r * lanes + count) * u], tiles[GAMMA], s)
        products(dys, x_hat, terms, s)
        add_block(terms, lengths, t, rows, lanes, u, stacks[2], weight_of_terms, a)
        add_block(dys, lengths, t, rows, lanes, u, stacks[3], sums[0], a)
        if norm == L2:
            add_block(x_hat, lengths, t, rows, lanes, u, stacks[4], sums[0], a)


@inner
def affine_pass(
    dy: Any, x: Any, g: int, u: int, blocks: Any, stacks: Any, tiles: Any, mean: Any, scale: Any,
    per_value: bool, sums: Any, tree: Any, like: Any,
) -> None:  # fmt: skip
    """The two trees for dgamma and dbeta alone; per_value: mean and scale change with the value."""
    starts, lengths, lanes, rows, _ = tree
    s, a = like
    x_hat, dys = blocks[0], blocks[1]
    for t in range(len(starts) // rows):
        for r in range(rows):
            start, count = starts[t * rows + r], lengths[t * rows + r]
            here = slice(r * lanes * u, (r * lanes + count) * u)
            if per_value:
                spread(mean, True, g, u, start, count, tiles[MEAN])
                spread(scale, True, g, u, start, count, tiles[SCALE])
            load(x, g, u, start, count, x_hat[here])
            deviations(x_hat[here], tiles, s)
            divided(x_hat[here], tiles, s)
            load(dy, g, u, start, count, dys[here])
        times(x_hat, dys, s)
        add_block(x_hat, lengths, t, rows, lanes, u, stacks[0], sums[1], a)
        add_block(dys, lengths, t, rows, lanes, u, stacks[1], sums[1], a)


@inner
def count_pass(
    x: Any, g: int, u: int, row_of_lanes: Any, tiles: Any, norm: int, counts: Any, tree: Any, like: Any
) -> None:  # fmt: skip
    """Into the first lane of counts: how many are above the k-th place and how many tied there, and
    the sums of their signs; for a range, how many are at the maximum and at the minimum."""
    _, _, lanes, _, n = tree
    counts[:] = 0
    above, tied, signs_above, signs_tied = counts[0], counts[1], counts[2], counts[3]
    last, least = tiles[LAST], tiles[LEAST]
    for start in range(0, n, lanes):
        count = min(lanes, n - start)
        row = row_of_lanes[: count * u]
        load(x, g, u, start, count, row)
        deviations(row, tiles, like[0])
        if norm == TOP:
            for q in range(row.size):
                over, at = np.float32(abs(row[q]) > last[q]), np.float32(abs(row[q]) == last[q])
                above[q] += over
                tied[q] += at
                signs_above[q] += over * sign(row[q])
                signs_tied[q] += at * sign(row[q])
        else:
            for q in range(row.size):
                above[q] += np.float32(row[q] == last[q])
                tied[q] += np.float32(row[q] == least[q])
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
    blocks = len(starts) // rows
    for t in range(blocks):
        for r in range(rows):
            start, count = starts[t * rows + r], lengths[t * rows + r]
            row = block[r * lanes * u : (r * lanes + count) * u]
            load(x, g, u, start, count, row)
            deviations(row, tiles, like[0])
            directions(row, tiles, norm, like[1])
        add_block(block, lengths, t, rows, lanes, u, stack, sums[0], like[1])
    return roots(stack, blocks, lanes, u, sums[0], like[1])


# --- called from Python -----------------------------------------------------------------------------
#
# gamma, beta, mean and scale have the dtype that is computed in; gamma and beta one number for each
# group or (per_value) for each of a group's values. k is Top-k's, constant and eps have been rounded
# to the accumulator's dtype. groups: first, last, and units, how many at a time.
# One number a group is computed in float64 and rounded once, which is the same (`lpnorm.fast.lanes`).


@entry
def forward(
    x: Any, y: Any, gamma: Any, beta: Any, mean: Any, scale: Any, per_value: bool,
    norm: int, k: int, constant: float, eps: float, sums: Any, tree: Any, like: Any, groups: Any,
) -> None:  # fmt: skip
    """y, mean and scale of groups first ... last - 1."""
    _, _, lanes, rows, n = tree
    s, a = like
    weight, _, largest = sums
    first, last, units = groups
    dtype = gamma.dtype
    block, stack = np.empty(rows * lanes * units, dtype), stack_for(tree, units, dtype)
    tiles = np.empty((TILES, lanes * units), dtype)
    heaps, nan = np.empty((units, k), dtype), np.empty(units, np.bool_)
    watch = norm == RANGE or (norm == TOP and k == 1)
    for g in range(first, last, units):
        u = min(units, last - g)
        root = mean_pass(x, g, u, block, stack, tiles, watch, sums, tree, like)
        for j in range(u):
            mean[g + j] = average(root[j], n, weight, largest, a)
        spread(mean, False, g, u, 0, lanes, tiles[MEAN])

        if not watch:
            root = statistic_pass(x, g, u, block, stack, tiles, norm, heaps, nan, sums, tree, like)
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
            elif not nan[j]:  # the k largest, added in increasing order
                heaps[j].sort()
                fold(heaps[j], k, 1, 1, weight, a)
                statistic = average(heaps[j, 0], k, weight, largest, a)
            if norm == L2:
                scale[g + j] = grid(np.sqrt(grid(statistic + eps, a)), a)
            else:
                scale[g + j] = grid(grid(constant * statistic, a) + eps, a)
        spread(scale, False, g, u, 0, lanes, tiles[SCALE])

        write(x, y, g, u, block, gamma, beta, per_value, tiles, tree, s)


@inner
def write(
    x: Any, y: Any, g: int, u: int, row_of_lanes: Any, gamma: Any, beta: Any, per_value: bool,
    tiles: Any, tree: Any, s: Any,
) -> None:  # fmt: skip
    """y = gamma x_hat + beta."""
    _, _, lanes, _, n = tree
    for start in range(0, n, lanes):
        count = min(lanes, n - start)
        if per_value or start == 0:
            spread(gamma, per_value, g, u, start, count, tiles[GAMMA])
            spread(beta, per_value, g, u, start, count, tiles[BETA])
        row = row_of_lanes[: count * u]
        load(x, g, u, start, count, row)
        normalized(row, tiles, s)
        store(row, y, g, u, start, count, s)


@entry
def inference(
    x: Any, y: Any, gamma: Any, beta: Any, mean: Any, scale: Any, tree: Any, like: Any, groups: Any
) -> None:  # fmt: skip
    """y of groups first ... last - 1, for mean and scale that are constants."""
    _, _, lanes, _, _ = tree
    first, last, units = groups
    row = np.empty(lanes * units, gamma.dtype)
    tiles = np.empty((TILES, lanes * units), gamma.dtype)
    for g in range(first, last, units):
        u = min(units, last - g)
        spread(mean, False, g, u, 0, lanes, tiles[MEAN])
        spread(scale, False, g, u, 0, lanes, tiles[SCALE])
        write(x, y, g, u, row, gamma, beta, False, tiles, tree, like[0])


@entry
def affine_sums(
    dy: Any, x: Any, mean: Any, scale: Any, dgamma: Any, dbeta: Any, per_value: bool,
    sums: Any, tree: Any, like: Any, groups: Any,
) -> None:  # fmt: skip
    """dgamma = sum dy x_hat and dbeta = sum dy over the values of groups first ... last - 1.

    per_value: layer norm, whose gamma has one number a *column*: a group here is a column, and mean
    and scale belong to its values.
    """
    starts, _, lanes, rows, n = tree
    first, last, units = groups
    dtype = mean.dtype
    stack = stack_for(tree, units, dtype)
    stacks = np.empty((2, stack.shape[0], stack.shape[1]), dtype)
    blocks = np.empty((2, rows * lanes * units), dtype)
    tiles = np.empty((TILES, lanes * units), dtype)
    for g in range(first, last, units):
        u = min(units, last - g)
        if not per_value:
            spread(mean, False, g, u, 0, lanes, tiles[MEAN])
            spread(scale, False, g, u, 0, lanes, tiles[SCALE])
        affine_pass(dy, x, g, u, blocks, stacks, tiles, mean, scale, per_value, sums, tree, like)
        for stack, result in ((stacks[0], dgamma), (stacks[1], dbeta)):
            root = roots(stack, len(starts) // rows, lanes, u, sums[1], like[1])
            for j in range(u):
                result[g + j] = total(root[j], n, sums[1], like[1])


@entry
def backward(
    dy: Any, x: Any, dx: Any, gamma: Any, mean: Any, scale: Any, dgamma: Any, dbeta: Any,
    per_value: bool, affine: bool, norm: int, k: int, constant: float, exact: int,
    sums: Any, tree: Any, like: Any, groups: Any,
) -> None:  # fmt: skip
    """dx of groups first ... last - 1, and (affine) their dgamma and dbeta.

    exact: how many signs the accumulator can add without rounding.
    """
    starts, _, lanes, rows, n = tree
    s, a = like
    weight, weight_of_sums, largest = sums
    first, last, units = groups
    dtype = gamma.dtype
    blocks = np.empty((3, rows * lanes * units), dtype)
    stack = stack_for(tree, units, dtype)
    stacks = np.empty((5, stack.shape[0], stack.shape[1]), dtype)
    tiles = np.empty((TILES, lanes * units), dtype)
    counts = np.empty((COUNTS, lanes * units), dtype)
    heaps, nan = np.empty((units, k), dtype), np.empty(units, np.bool_)
    m = k if norm == TOP else 1 if norm == RANGE else n
    weight_of_terms = weight if m == n else weight_of_sums
    many = len(starts) // rows
    for g in range(first, last, units):
        u = min(units, last - g)
        spread(mean, False, g, u, 0, lanes, tiles[MEAN])
        spread(scale, False, g, u, 0, lanes, tiles[SCALE])
        if not per_value:
            spread(gamma, False, g, u, 0, lanes, tiles[GAMMA])
        if norm != NONE:
            gradient_pass(
                dy, x, g, u, blocks, stacks, tiles, gamma, per_value, affine, norm, heaps, nan,
                sums, weight_of_terms, tree, like,
            )  # fmt: skip
        elif affine:
            affine_pass(dy, x, g, u, blocks, stacks, tiles, mean, scale, False, sums, tree, like)
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
            spread(tiles[B], False, 0, u, 0, lanes, tiles[LAST])
            spread(tiles[C], False, 0, u, 0, lanes, tiles[LEAST])
            count_pass(x, g, u, blocks[0], tiles, norm, counts, tree, like)
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
            spread(tiles[B], False, 0, u, 0, lanes, tiles[SHARE])
            spread(tiles[C], False, 0, u, 0, lanes, tiles[LEAST_SHARE])

        if norm != NONE:
            terms = roots(stacks[2], many, lanes, u, weight_of_terms, a)
            gs = roots(stacks[3], many, lanes, u, weight, a)
            hs = tiles[SIGNS]
            if rounded:
                hs = direction_pass(x, g, u, blocks[0], stacks[4], tiles, norm, sums, tree, like)
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
            spread(gs, False, 0, u, 0, lanes, tiles[B])
            spread(terms, False, 0, u, 0, lanes, tiles[C])

        for start in range(0, n, lanes):
            count = min(lanes, n - start)
            row, result = blocks[0, : count * u], blocks[1, : count * u]
            load(dy, g, u, start, count, result)
            if per_value:
                spread(gamma, True, g, u, start, count, tiles[GAMMA])
            times(result, tiles[GAMMA], s)
            if norm == NONE:
                divided(result, tiles, s)
            else:
                load(x, g, u, start, count, row)
                deviations(row, tiles, s)
                if norm == L2:
                    divided(row, tiles, s)
                else:
                    directions(row, tiles, norm, a)
                gradient(result, row, tiles, s)
            store(result, dx, g, u, start, count, s)
