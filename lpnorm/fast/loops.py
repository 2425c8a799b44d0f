"""Batch norm and layer norm as compiled loops: the book's formulas, leaf by leaf.

Each function works on a range of the groups of a view (outer, groups, inner), `units` groups at a
time (see `lpnorm.fast.lanes`). It goes over their values as often as the mathematics asks for and
keeps none of them: d and x_hat are computed again from x, mean and scale. A group's values are in
the processor's cache from the second pass on.

    forward    1  the mean          (for a maximum or a range, the extremes of x too)
               2  the statistic of d                (L1, L2, Top-k)
               3  y
    backward   1  g and g x_hat; dy and dy x_hat for beta and gamma; for L1 and L2 h
               2  who is at the k-th place, and how many       (Top-k, Range)
               3  h                                 (only where its sum is no exact count of signs)
               4  dx

Each operation is followed by `grid`, which rounds to the dtype of x (`s`) or of the accumulator
(`a`), as the book does. What is one number a group (mean, scale, gamma, c, b) is spread over a row
of lanes first, so that the loops see arrays only. All rows lie in one array `w`, WIDTH apart, which
is a constant: so the compiler knows that the rows a loop reads are not those that it writes, and
vectorizes the loop without asking.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpnorm.fast.compiled import entry, inner
from lpnorm.fast.lanes import (
    ROWS,
    WIDTH,
    array_at,
    ask,
    average,
    chunk,
    fill,
    fold,
    grid,
    load,
    narrow,
    node,
    push,
    roots,
    seen_at,
    spread,
    total,
    widen,
)

NONE, L1, L2, TOP, RANGE = range(5)  # which norm; NONE: mean and scale are constants

# The rows of w. X, DY, GAMMA: one for each leaf of a block. LAST is the k-th largest |d|, or the
# largest d, LEAST the smallest d, and the shares what each of those tied there gets. SUMS: the
# `terms` of a block, added up; ABOVE to SIGNS: what `count` counts. NAN: whether a unit has one.
X, DY, GAMMA = 0, ROWS * WIDTH, 2 * ROWS * WIDTH
BETA, MEAN, SCALE, B, C = [(3 * ROWS + i) * WIDTH for i in range(5)]
LOW, HIGH, LAST, SHARE, LEAST, LEAST_SHARE = [(3 * ROWS + 5 + i) * WIDTH for i in range(6)]
ABOVE, TIED, SIGNS, NAN, SUMS = [(3 * ROWS + 11 + i) * WIDTH for i in range(5)]
TREES = 5
SIZE = SUMS + TREES * WIDTH


# --- the book's lines, on one number or a row of lanes ----------------------------------------


@inner
def row(w: Any, at: int, size: int) -> Any:
    return w[at : at + size]


@inner
def copy(a: Any, result: Any) -> None:
    for q in range(result.size):
        result[q] = a[q]


@inner
def standardize(x: Any, w: Any, s: Any) -> None:
    """x_hat = (x - mean) / scale, in place."""
    mean, scale = row(w, MEAN, x.size), row(w, SCALE, x.size)
    for q in range(x.size):
        x[q] = grid(grid(x[q] - mean[q], s) / scale[q], s)


@inner
def magnitudes(x: Any, w: Any, squared: bool, s: Any) -> None:
    """|x - mean|, or its square, in place."""
    mean = row(w, MEAN, x.size)
    if squared:
        for q in range(x.size):
            d = grid(x[q] - mean[q], s)
            x[q] = grid(d * d, s)
    else:
        for q in range(x.size):
            x[q] = abs(grid(x[q] - mean[q], s))


@inner
def times(g: Any, other: Any, s: Any) -> None:
    """g * other, in place."""
    for q in range(g.size):
        g[q] = grid(g[q] * other[q], s)


@inner
def sign(v: Any) -> Any:
    """1, 0 (of -0 too) or -1."""
    return np.float32(v > 0) - np.float32(v < 0)


@inner
def top_direction(d: Any, w: Any, q: int) -> Any:
    """h of Top-k: sign(d) above the k-th place, and its share there."""
    above, tied = np.float32(abs(d) > w[LAST + q]), np.float32(abs(d) == w[LAST + q])
    return sign(d) * (above + tied * w[SHARE + q])


@inner
def range_direction(d: Any, w: Any, q: int, a: Any) -> Any:
    """h of a range: its share for each maximum, minus its share for each minimum."""
    top, bottom = np.float32(d == w[LAST + q]), np.float32(d == w[LEAST + q])
    return grid(top * w[SHARE + q] - bottom * w[LEAST_SHARE + q], a)


@inner
def directions(x: Any, w: Any, norm: int, s: Any, a: Any) -> None:
    """h of Top-k or a range, in place."""
    if norm == TOP:
        for q in range(x.size):
            x[q] = top_direction(grid(x[q] - w[MEAN + q], s), w, q)
    else:
        for q in range(x.size):
            x[q] = range_direction(grid(x[q] - w[MEAN + q], s), w, q, a)


@inner
def gradient(dy: Any, h: Any, w: Any, q: int, s: Any) -> Any:
    """dx = (g - b - c h) / scale, where g = gamma dy."""
    g = grid(widen(dy) * w[GAMMA + q], s)
    numerator = grid(grid(g - w[B + q], s) - grid(w[C + q] * h, s), s)
    return narrow(grid(numerator / w[SCALE + q], s), s)


@inner
def normalize_run(x: Any, y: Any, w: Any, s: Any) -> None:
    """y = gamma * x_hat + beta, from memory to memory."""
    for q in range(x.size):
        x_hat = grid(grid(widen(x[q]) - w[MEAN + q], s) / w[SCALE + q], s)
        y[q] = narrow(grid(grid(x_hat * w[GAMMA + q], s) + w[BETA + q], s), s)


@inner
def gradient_run(dy: Any, x: Any, dx: Any, w: Any, norm: int, s: Any, a: Any) -> None:
    """dx, from memory to memory."""
    if norm == NONE:
        for q in range(dy.size):
            g = grid(widen(dy[q]) * w[GAMMA + q], s)
            dx[q] = narrow(grid(g / w[SCALE + q], s), s)
    elif norm == L1:
        for q in range(dy.size):
            d = grid(widen(x[q]) - w[MEAN + q], s)
            dx[q] = gradient(dy[q], sign(d), w, q, s)
    elif norm == L2:
        for q in range(dy.size):
            d = grid(widen(x[q]) - w[MEAN + q], s)
            dx[q] = gradient(dy[q], grid(d / w[SCALE + q], s), w, q, s)
    elif norm == TOP:
        for q in range(dy.size):
            d = grid(widen(x[q]) - w[MEAN + q], s)
            dx[q] = gradient(dy[q], top_direction(d, w, q), w, q, s)
    else:
        for q in range(dy.size):
            d = grid(widen(x[q]) - w[MEAN + q], s)
            dx[q] = gradient(dy[q], range_direction(d, w, q, a), w, q, s)


@inner
def count_run(x: Any, w: Any, norm: int, s: Any) -> None:
    """Add to ABOVE, TIED and SIGNS how many |d| are above the k-th place or tied there and the sum
    of their signs; for a range, to ABOVE and TIED how many are at the maximum and the minimum."""
    if norm == TOP:
        for q in range(x.size):
            d = grid(widen(x[q]) - w[MEAN + q], s)
            above, tied = np.float32(abs(d) > w[LAST + q]), np.float32(abs(d) == w[LAST + q])
            w[ABOVE + q] += above
            w[TIED + q] += tied
            w[SIGNS + q] += (above + tied) * sign(d)
    else:
        for q in range(x.size):
            d = grid(widen(x[q]) - w[MEAN + q], s)
            w[ABOVE + q] += np.float32(d == w[LAST + q])
            w[TIED + q] += np.float32(d == w[LEAST + q])


# --- the largest ------------------------------------------------------------------------------


@inner
def extremes(x: Any, w: Any) -> None:
    """The extremes of each lane so far. A NaN changes nothing: then the mean is NaN anyway."""
    lowest(x, row(w, LOW, x.size))
    highest(x, row(w, HIGH, x.size))


@inner
def lowest(x: Any, low: Any) -> None:
    for q in range(x.size):
        low[q] = x[q] if x[q] < low[q] else low[q]


@inner
def highest(x: Any, high: Any) -> None:
    for q in range(x.size):
        high[q] = x[q] if x[q] > high[q] else high[q]


@inner
def extremes_of_lanes(w: Any, lanes: int, units: int) -> None:
    """The extremes of all lanes of a unit, into its first one."""
    while lanes > 1:
        half = lanes // 2
        size, back = half * units, (lanes - half) * units
        lowest(row(w, LOW + back, size), row(w, LOW, size))
        highest(row(w, HIGH + back, size), row(w, HIGH, size))
        lanes -= half


@inner
def deviation_of_extremes(j: int, w: Any, mean: Any, s: Any) -> Any:
    """max d and min d of unit j. Rounding x - mean keeps the order of x: extremes stay extreme."""
    return grid(w[HIGH + j] - mean, s), grid(w[LOW + j] - mean, s)


@inner
def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers, or NaN if one of them is."""
    return a if a >= b or a != a else b


CHUNK = 64


@inner
def keep_largest(size: Any, units: int, heaps: Any, w: Any) -> None:
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
                w[NAN + unit] = 1
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


# --- five trees in one loop -------------------------------------------------------------------


@inner
def terms(w: Any, r: int, q: int, norm: int, s: Any) -> Any:
    """dy x_hat and dy (for gamma and beta), g x_hat, g, and h of L1 or L2, of a lane of a leaf."""
    dy = w[DY + r * WIDTH + q]
    d = grid(w[X + r * WIDTH + q] - w[MEAN + q], s)
    x_hat = grid(d / w[SCALE + q], s)
    g = grid(dy * w[GAMMA + r * WIDTH + q], s)
    h = sign(d) if norm == L1 else x_hat
    return grid(dy * x_hat, s), dy, grid(g * x_hat, s), g, h


@inner
def nodes(u: Any, v: Any, weights: Any, a: Any) -> Any:
    """A node of each of the five trees, above the nodes u and v."""
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
def add_terms(w: Any, width: int, rows: int, norm: int, weights: Any, s: Any, a: Any) -> None:
    """The terms of all leaves of a block, folded into one row each."""
    if rows == 4:
        for q in range(width):
            even = nodes(terms(w, 0, q, norm, s), terms(w, 2, q, norm, s), weights, a)
            odd = nodes(terms(w, 1, q, norm, s), terms(w, 3, q, norm, s), weights, a)
            put(w, q, nodes(even, odd, weights, a))
    elif rows == 2:
        for q in range(width):
            put(w, q, nodes(terms(w, 0, q, norm, s), terms(w, 1, q, norm, s), weights, a))
    else:
        for q in range(width):
            put(w, q, terms(w, 0, q, norm, s))


@inner
def add_ragged(
    w: Any, q: int, t: int, u: int, norm: int, weights: Any, s: Any, a: Any, tree: Any
) -> None:
    """`add_terms` for a lane that some leaves of the block lack: there all terms are -0."""
    _, lengths, _, rows, _ = tree
    zero = -w.dtype.type(0)
    none = (zero, zero, zero, zero, zero)
    first = terms(w, 0, q, norm, s) if q < lengths[t * rows] * u else none
    if rows == 1:
        put(w, q, first)
        return
    second = terms(w, 1, q, norm, s) if q < lengths[t * rows + 1] * u else none
    if rows == 2:
        put(w, q, nodes(first, second, weights, a))
        return
    third = terms(w, 2, q, norm, s) if q < lengths[t * rows + 2] * u else none
    fourth = terms(w, 3, q, norm, s) if q < lengths[t * rows + 3] * u else none
    even, odd = nodes(first, third, weights, a), nodes(second, fourth, weights, a)
    put(w, q, nodes(even, odd, weights, a))


# --- passes over the values of the groups g ... g + u - 1 -------------------------------------
#
# The arguments they share: tree: starts, lengths, lanes and rows (of `leaves`), and n. like: s and
# a, numbers that stand for the dtype of x and of the accumulator. weight: 1/2 in a tree of
# averages, 1 in a tree of sums.


@inner
def leaf(w: Any, at: int, r: int, u: int, t: int, tree: Any) -> Any:
    """The row of the r-th leaf of the t-th block, as far as it has lanes."""
    return row(w, at + r * WIDTH, tree[1][t * tree[3] + r] * u)


@inner
def load_leaf(x: Any, g: int, u: int, w: Any, at: int, r: int, t: int, tree: Any) -> Any:
    """The r-th leaf of the t-th block, read while asking for the one at its place in the next."""
    starts, lengths, _, rows, _ = tree
    i = t * rows + r
    if i + rows < len(starts):
        ask(x, g, u, starts[i + rows], lengths[i + rows])
    values = leaf(w, at, r, u, t, tree)
    load(x, g, u, starts[i], lengths[i], values)
    return values


@inner
def add_block(w: Any, at: int, t: int, u: int, stack: Any, weight: Any, a: Any, tree: Any) -> None:
    """The leaves of the t-th block into the tree. Their rows are destroyed."""
    _, lengths, lanes, rows, _ = tree
    width = lanes * u
    for r in range(rows):
        for q in range(lengths[t * rows + r] * u, width):
            w[at + r * WIDTH + q] = -w.dtype.type(0)
    first, second = row(w, at, width), row(w, at + WIDTH, width)
    if rows == 4:
        third, fourth = row(w, at + 2 * WIDTH, width), row(w, at + 3 * WIDTH, width)
        for q in range(width):
            even = node(first[q], third[q], weight, a)
            first[q] = node(even, node(second[q], fourth[q], weight, a), weight, a)
    elif rows == 2:
        for q in range(width):
            first[q] = node(first[q], second[q], weight, a)
    push(first, t, stack, weight, a)


@inner
def mean_pass(
    x: Any, g: int, u: int, w: Any, stack: Any, watch: bool, weight: Any, tree: Any, like: Any
) -> Any:
    """The roots for the mean of x; the extremes of x where they are watched."""
    starts, _, lanes, rows, _ = tree
    if watch:
        fill(row(w, LOW, lanes * u), np.inf)
        fill(row(w, HIGH, lanes * u), -np.inf)
    blocks = len(starts) // rows
    for t in range(blocks):
        for r in range(rows):
            values = load_leaf(x, g, u, w, X, r, t, tree)
            if watch:
                extremes(values, w)
        add_block(w, X, t, u, stack, weight, like[1], tree)
    return roots(stack, blocks, lanes, u, weight, like[1])


@inner
def statistic_pass(
    x: Any, g: int, u: int, w: Any, stack: Any, norm: int, heaps: Any, weight: Any, tree: Any,
    like: Any,
) -> Any:  # fmt: skip
    """The roots for the mean of |d| or d^2; for Top-k the heaps instead."""
    starts, _, lanes, rows, _ = tree
    if norm == TOP:
        heaps[:] = -1
        fill(row(w, NAN, u), 0)
    blocks = len(starts) // rows
    for t in range(blocks):
        for r in range(rows):
            values = load_leaf(x, g, u, w, X, r, t, tree)
            magnitudes(values, w, norm == L2, like[0])
            if norm == TOP:
                keep_largest(values, u, heaps, w)
        if norm != TOP:
            add_block(w, X, t, u, stack, weight, like[1], tree)
    if norm == TOP:
        return stack[0]
    return roots(stack, blocks, lanes, u, weight, like[1])


@inner
def gradient_pass(
    dy: Any, x: Any, g: int, u: int, w: Any, stacks: Any, gamma: Any, per_value: bool, affine: bool,
    norm: int, heaps: Any, weights: Any, tree: Any, like: Any,
) -> None:  # fmt: skip
    """The trees of the five `terms`, but for those that nobody needs; and what is largest."""
    starts, lengths, lanes, rows, _ = tree
    s, a, _ = like
    k, width = heaps.shape[1], lanes * u
    if norm in (TOP, RANGE):
        fill(row(w, LOW, width), np.inf)
        fill(row(w, HIGH, width), -np.inf)
        heaps[:] = -1
        fill(row(w, NAN, u), 0)
    for t in range(len(starts) // rows):
        shortest = lanes
        for r in range(rows):
            i = t * rows + r
            shortest = min(shortest, lengths[i])
            values = load_leaf(x, g, u, w, X, r, t, tree)
            load_leaf(dy, g, u, w, DY, r, t, tree)
            if per_value:
                spread(gamma, True, g, u, starts[i], lengths[i], row(w, GAMMA + r * WIDTH, width))
            if norm == RANGE or (norm == TOP and k == 1):
                extremes(values, w)
            elif norm == TOP:
                size = row(w, SUMS, values.size)
                copy(values, size)
                magnitudes(size, w, False, s)
                keep_largest(size, u, heaps, w)
        add_terms(w, width, rows, norm, weights, s, a)
        for q in range(shortest * u, width):
            add_ragged(w, q, t, u, norm, weights, s, a, tree)
        for i in range(0 if affine else 2, 5 if norm in (L1, L2) else 4):
            push(row(w, SUMS + i * WIDTH, width), t, stacks[i], weights[i], a)


@inner
def affine_pass(
    dy: Any, x: Any, g: int, u: int, w: Any, stacks: Any, mean: Any, scale: Any, per_value: bool,
    weight: Any, tree: Any, like: Any,
) -> None:  # fmt: skip
    """The trees for dgamma and dbeta alone; per_value: mean and scale change with the value."""
    starts, lengths, lanes, rows, _ = tree
    for t in range(len(starts) // rows):
        for r in range(rows):
            i = t * rows + r
            if per_value:
                spread(mean, True, g, u, starts[i], lengths[i], row(w, MEAN, lanes * u))
                spread(scale, True, g, u, starts[i], lengths[i], row(w, SCALE, lanes * u))
            values = load_leaf(x, g, u, w, X, r, t, tree)
            standardize(values, w, like[0])
            times(values, load_leaf(dy, g, u, w, DY, r, t, tree), like[0])
        add_block(w, X, t, u, stacks[0], weight, like[1], tree)
        add_block(w, DY, t, u, stacks[1], weight, like[1], tree)


@inner
def count_pass(
    x: Any, g: int, u: int, w: Any, counts: Any, norm: int, tree: Any, like: Any
) -> None:
    """`count_run` of all values: counts (3, units) of ABOVE, TIED and SIGNS."""
    _, _, lanes, _, n = tree
    counts[:] = 0
    one = w.dtype.type(1)
    start = 0
    while start < n:
        stop = min(n, start + 2**23)  # so few that float32 adds them up exactly, in any order
        for c in range(3):
            fill(row(w, ABOVE + c * WIDTH, lanes * u), 0)
        while start < stop:
            at, count, runs = chunk(x, g, u, start, min(lanes, stop - start))
            size = count * u // runs
            for i in range(runs):
                first = at + i * x[1]
                count_run(x[0][first : first + size], w, norm, like[0])
            start += count
        for c in range(3):
            counted = row(w, ABOVE + c * WIDTH, lanes * u)
            fold(counted, lanes, u, one, one)
            for j in range(u):
                counts[c, j] += counted[j]


@inner
def direction_pass(
    x: Any, g: int, u: int, w: Any, stack: Any, norm: int, weight: Any, tree: Any, like: Any
) -> Any:
    """The roots for the mean of h of Top-k or a range."""
    starts, _, lanes, rows, _ = tree
    blocks = len(starts) // rows
    for t in range(blocks):
        for r in range(rows):
            directions(load_leaf(x, g, u, w, X, r, t, tree), w, norm, like[0], like[1])
        add_block(w, X, t, u, stack, weight, like[1], tree)
    return roots(stack, blocks, lanes, u, weight, like[1])


@inner
def write(
    x: Any, y: Any, g: int, u: int, w: Any, gamma: Any, beta: Any, per_value: bool, tree: Any,
    like: Any,
) -> None:  # fmt: skip
    """y = gamma x_hat + beta."""
    _, _, lanes, _, n = tree
    if not per_value:
        spread(gamma, False, g, u, 0, lanes, row(w, GAMMA, lanes * u))
        spread(beta, False, g, u, 0, lanes, row(w, BETA, lanes * u))
    start = 0
    while start < n:  # of values with a gamma each, one run at a time
        most = 1 if per_value and x[2] == 1 else lanes
        at, count, runs = chunk(x, g, u, start, min(most, n - start))
        if per_value:
            spread(gamma, True, g, u, start, count, row(w, GAMMA, count * u))
            spread(beta, True, g, u, start, count, row(w, BETA, count * u))
        ask(x, g, u, start + lanes, min(count, n - start - lanes))
        ask(y, g, u, start + lanes, min(count, n - start - lanes))
        size = count * u // runs
        for i in range(runs):
            first = at + i * x[1]
            end = first + size
            normalize_run(x[0][first:end], y[0][first:end], w, like[0])
        start += count


@inner
def write_gradient(
    dy: Any, x: Any, dx: Any, g: int, u: int, w: Any, gamma: Any, per_value: bool, norm: int,
    tree: Any, like: Any,
) -> None:  # fmt: skip
    """dx."""
    _, _, lanes, _, n = tree
    start = 0
    while start < n:
        most = 1 if per_value and x[2] == 1 else lanes
        at, count, runs = chunk(x, g, u, start, min(most, n - start))
        if per_value:
            spread(gamma, True, g, u, start, count, row(w, GAMMA, count * u))
        ask(x, g, u, start + lanes, min(count, n - start - lanes))
        ask(dy, g, u, start + lanes, min(count, n - start - lanes))
        ask(dx, g, u, start + lanes, min(count, n - start - lanes))
        size = count * u // runs
        for i in range(runs):
            first = at + i * x[1]
            end = first + size
            dys, xs, dxs = dy[0][first:end], x[0][first:end], dx[0][first:end]
            gradient_run(dys, xs, dxs, w, norm, like[0], like[1])
        start += count


# --- runs that are not long -------------------------------------------------------------------
#
# Each run costs a look, so a group whose values lie in many is copied to where they lie in one.


@inner
def joined(x: Any, g: int, rows: Any) -> Any:
    """Group g alone, its values one behind another in `rows`; x itself where rows is empty."""
    if rows.size == 0:
        return x
    values, groups, inner_size, _ = x
    for o in range(rows.size // inner_size):
        at, to = (o * groups + g) * inner_size, o * inner_size
        copy(values[at : at + inner_size], rows[to : to + inner_size])
    return rows, 1, rows.size, g


@inner
def room_for(x: Any, g: int, rows: Any) -> Any:
    """Where a result for group g of x goes: x itself, or `rows`, to be `parted`."""
    return x if rows.size == 0 else (rows, 1, rows.size, g)


@inner
def parted(rows: Any, g: int, x: Any) -> None:
    """`joined` backwards."""
    values, groups, inner_size, _ = x
    for o in range(rows.size // inner_size):
        at, to = o * inner_size, (o * groups + g) * inner_size
        copy(rows[at : at + inner_size], values[to : to + inner_size])


# --- called from Python -----------------------------------------------------------------------
#
# gamma, beta, mean and scale have the dtype that is computed in; gamma and beta one number for
# each group or (per_value) for each of a group's values. k is Top-k's; constant and eps have been
# rounded to the accumulator's dtype. sums: the weights of means and of sums, and the accumulator's
# largest number. like: numbers that stand for the dtype of x, that of the accumulator and the one
# that is computed in. groups: first, last, and units, how many at a time. x, y, dy, dx, the leaves
# in tree, and scratch come as places (see `array_at`). One number a group is computed in float64
# and rounded once, which is the same (see `lpnorm.fast.lanes`).


def scratch_shapes(
    blocks: int, units: int, k: int, joined: int, stored: Any
) -> list[tuple[tuple[int, ...], Any]]:
    """The arrays that the functions below work in: w, stacks, heaps, counts in float64, and three
    for `joined` values of x, dy and a result, as they are stored."""
    stacks = TREES, (blocks - 1).bit_length() + 1, WIDTH
    own = [((SIZE,), None), (stacks, None), ((units, k), None), ((3, units), np.float64)]
    return own + 3 * [((joined,), stored)]


@inner
def opened(tree: Any, scratch: Any, like: Any) -> Any:
    """The arrays at these places."""
    starts, lengths = array_at(tree[0], np.int64(0)), array_at(tree[1], np.int64(0))
    w, stacks = array_at(scratch[0], like[2]), array_at(scratch[1], like[2])
    leaves = starts, lengths, tree[2], tree[3], tree[4]
    heaps, counts = array_at(scratch[2], like[2]), array_at(scratch[3], np.float64(0))
    return leaves, w, stacks, heaps, counts


@inner
def rows_of(scratch: Any, like: Any) -> Any:
    """The rows that values are joined in."""
    first, second = array_at(scratch[4], like[0]), array_at(scratch[5], like[0])
    return first, second, array_at(scratch[6], like[0])


@entry
def forward(
    x: Any, y: Any, gamma: Any, beta: Any, mean: Any, scale: Any, per_value: bool, norm: int,
    k: int, constant: float, eps: float, sums: Any, tree: Any, like: Any, scratch: Any, groups: Any,
) -> None:  # fmt: skip
    """y, mean and scale of groups first ... last - 1."""
    leaves, w, stacks, heaps, _ = opened(tree, scratch, like)
    _, _, lanes, _, n = leaves
    s, a, _ = like
    whole_x, whole_y, stack = seen_at(x, s), seen_at(y, s), stacks[0]
    rows_x, _, rows_y = rows_of(scratch, like)
    weight, _, largest = sums
    first, last, units = groups
    watch = norm == RANGE or (norm == TOP and k == 1)
    for g in range(first, last, units):
        u = min(units, last - g)
        xs, ys = joined(whole_x, g, rows_x), room_for(whole_y, g, rows_y)
        root = mean_pass(xs, g, u, w, stack, watch, weight, leaves, like)
        for j in range(u):
            mean[g + j] = average(root[j], n, weight, largest, a)
        spread(mean, False, g, u, 0, lanes, row(w, MEAN, lanes * u))

        if watch:
            extremes_of_lanes(w, lanes, u)
        else:
            root = statistic_pass(xs, g, u, w, stack, norm, heaps, weight, leaves, like)
        for j in range(u):
            statistic = np.nan
            if watch:
                top, least = deviation_of_extremes(j, w, mean[g + j], s)
                if norm == RANGE:
                    statistic = np.float64(grid(top - least, a))
                else:
                    statistic = np.float64(larger(abs(top), abs(least)))
            elif norm != TOP:
                statistic = average(root[j], n, weight, largest, a)
            elif not w[NAN + j]:  # the k largest, added in increasing order
                heaps[j].sort()
                fold(heaps[j], k, 1, weight, a)
                statistic = average(heaps[j, 0], k, weight, largest, a)
            if norm == L2:
                scale[g + j] = grid(np.sqrt(grid(statistic + eps, a)), a)
            else:
                scale[g + j] = grid(grid(constant * statistic, a) + eps, a)
        spread(scale, False, g, u, 0, lanes, row(w, SCALE, lanes * u))

        write(xs, ys, g, u, w, gamma, beta, per_value, leaves, like)
        if rows_y.size > 0:
            parted(rows_y, g, whole_y)


@entry
def inference(
    x: Any, y: Any, gamma: Any, beta: Any, mean: Any, scale: Any, tree: Any, like: Any,
    scratch: Any, groups: Any,
) -> None:  # fmt: skip
    """y of groups first ... last - 1, for mean and scale that are constants."""
    leaves, w, _, _, _ = opened(tree, scratch, like)
    lanes = leaves[2]
    whole_x, whole_y = seen_at(x, like[0]), seen_at(y, like[0])
    rows_x, _, rows_y = rows_of(scratch, like)
    first, last, units = groups
    for g in range(first, last, units):
        u = min(units, last - g)
        xs, ys = joined(whole_x, g, rows_x), room_for(whole_y, g, rows_y)
        spread(mean, False, g, u, 0, lanes, row(w, MEAN, lanes * u))
        spread(scale, False, g, u, 0, lanes, row(w, SCALE, lanes * u))
        write(xs, ys, g, u, w, gamma, beta, False, leaves, like)
        if rows_y.size > 0:
            parted(rows_y, g, whole_y)


@inner
def finish_affine(
    dgamma: Any, dbeta: Any, g: int, u: int, stacks: Any, weight: Any, tree: Any, like: Any
) -> None:
    """dgamma and dbeta from the first two trees."""
    starts, _, lanes, rows, n = tree
    for i in range(2):
        result = dbeta if i else dgamma
        root = roots(stacks[i], len(starts) // rows, lanes, u, weight, like[1])
        for j in range(u):
            result[g + j] = total(root[j], n, weight, like[1])


@entry
def affine_sums(
    dy: Any, x: Any, mean: Any, scale: Any, dgamma: Any, dbeta: Any,
    sums: Any, tree: Any, like: Any, scratch: Any, groups: Any,
) -> None:  # fmt: skip
    """dgamma = sum dy x_hat and dbeta = sum dy of layer norm: gamma has one number a *column*.

    A group here is a column, and mean and scale belong to its values.
    """
    leaves, w, stacks, _, _ = opened(tree, scratch, like)
    dys, xs = seen_at(dy, like[0]), seen_at(x, like[0])
    first, last, units = groups
    for g in range(first, last, units):
        u = min(units, last - g)
        affine_pass(dys, xs, g, u, w, stacks, mean, scale, True, sums[1], leaves, like)
        finish_affine(dgamma, dbeta, g, u, stacks, sums[1], leaves, like)


@entry
def backward(
    dy: Any, x: Any, dx: Any, gamma: Any, mean: Any, scale: Any, dgamma: Any, dbeta: Any,
    per_value: bool, affine: bool, norm: int, k: int, constant: float, exact: int,
    sums: Any, tree: Any, like: Any, scratch: Any, groups: Any,
) -> None:  # fmt: skip
    """dx of groups first ... last - 1, and (affine) their dgamma and dbeta.

    exact: how many signs the accumulator can add without rounding.
    """
    leaves, w, stacks, heaps, counts = opened(tree, scratch, like)
    starts, _, lanes, rows, n = leaves
    s, a, _ = like
    whole_dy, whole_x, whole_dx = seen_at(dy, s), seen_at(x, s), seen_at(dx, s)
    rows_x, rows_dy, rows_dx = rows_of(scratch, like)
    weight, weight_of_sums, largest = sums
    first, last, units = groups
    m = k if norm == TOP else 1 if norm == RANGE else n
    weight_of_terms = weight if m == n else weight_of_sums
    weights = weight_of_sums, weight_of_sums, weight_of_terms, weight, weight
    blocks = len(starts) // rows
    for g in range(first, last, units):
        u = min(units, last - g)
        dys, xs = joined(whole_dy, g, rows_dy), joined(whole_x, g, rows_x)
        dxs = room_for(whole_dx, g, rows_dx)
        spread(mean, False, g, u, 0, lanes, row(w, MEAN, lanes * u))
        spread(scale, False, g, u, 0, lanes, row(w, SCALE, lanes * u))
        for r in range(0 if per_value else rows):
            spread(gamma, False, g, u, 0, lanes, row(w, GAMMA + r * WIDTH, lanes * u))
        if norm != NONE:
            gradient_pass(
                dys, xs, g, u, w, stacks, gamma, per_value, affine, norm, heaps, weights, leaves,
                like,
            )  # fmt: skip
        elif affine:
            affine_pass(dys, xs, g, u, w, stacks, mean, scale, False, weight_of_sums, leaves, like)
        if affine:
            finish_affine(dgamma, dbeta, g, u, stacks, weight_of_sums, leaves, like)

        # h: the k-th place and the share of those tied there; is its sum a count of signs?
        counted = norm in (TOP, RANGE)
        if counted:
            extremes_of_lanes(w, lanes, u)
            for j in range(u):
                top, least = deviation_of_extremes(j, w, mean[g + j], s)
                if norm == TOP:
                    top = heaps[j, 0] if k > 1 else larger(abs(top), abs(least))
                w[B + j], w[C + j] = top, least  # B and C as scratch: they are set below
            spread(row(w, B, u), False, 0, u, 0, lanes, row(w, LAST, lanes * u))
            spread(row(w, C, u), False, 0, u, 0, lanes, row(w, LEAST, lanes * u))
            count_pass(xs, g, u, w, counts, norm, leaves, like)
            whole = m <= exact and n <= 2**24  # beyond, 1 / 2^L no longer fits float16
            for j in range(u):
                above, tied = counts[0, j], counts[1, j]
                if norm == TOP:
                    w[B + j] = grid((k - above) / max(tied, 1.0), a)
                    whole &= w[B + j] == 1
                else:
                    w[B + j] = grid(1 / max(above, 1.0), a)
                    w[C + j] = grid(1 / max(tied, 1.0), a)
                    whole &= w[B + j] == 1 and w[C + j] == 1 and w[LAST + j] != w[LEAST + j]
            spread(row(w, B, u), False, 0, u, 0, lanes, row(w, SHARE, lanes * u))
            spread(row(w, C, u), False, 0, u, 0, lanes, row(w, LEAST_SHARE, lanes * u))
            counted = whole

        if norm != NONE:
            along = roots(stacks[2], blocks, lanes, u, weight_of_terms, a)
            gs = roots(stacks[3], blocks, lanes, u, weight, a)
            if counted:
                for j in range(u):
                    w[SIGNS + j] = counts[2, j]
                hs = row(w, SIGNS, u)
            elif norm in (TOP, RANGE):
                hs = direction_pass(xs, g, u, w, stacks[4], norm, weight, leaves, like)
            else:
                hs = roots(stacks[4], blocks, lanes, u, weight, a)
            for j in range(u):
                if m == n:
                    mean_of_terms = average(along[j], n, weight, largest, a)
                else:
                    mean_of_terms = grid(total(along[j], n, weight_of_sums, a) / m, a)
                c = grid(constant * mean_of_terms, a)
                if counted:  # a whole number (0 for a range), 2^-L of it the root of every tree
                    mean_of_h = grid(np.float64(hs[j]) / np.float64(n), a)
                else:
                    mean_of_h = average(hs[j], n, weight, largest, a)
                mean_of_g = average(gs[j], n, weight, largest, a)
                along[j] = c
                gs[j] = grid(mean_of_g - grid(c * mean_of_h, a), a)
            spread(gs, False, 0, u, 0, lanes, row(w, B, lanes * u))
            spread(along, False, 0, u, 0, lanes, row(w, C, lanes * u))

        write_gradient(dys, xs, dxs, g, u, w, gamma, per_value, norm, leaves, like)
        if rows_dx.size > 0:
            parted(rows_dx, g, whole_dx)
