"""Parts of a convolution, compiled: `correlate`, `turned`, `scattered` of `plain.products`.

The same chunks, the same products and the same order of sums, so the same bits. The products are
NumPy's own (`blas`); what moves values between them is here.

Arrays come as places (see `lanes.array_at`), float16 as its bits. `like` holds numbers that stand
for the dtype of the arrays and for the one that is multiplied in, whether they are the same, where
BLAS's product is, and the integers that it takes. windows: (kernel, stride, padding and the counts
of windows), each a pair (height, width). cut: samples, parts, and the most samples of a chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpnorm.fast.blas import PLAIN, TURNED, _call
from lpnorm.fast.compiled import entry, inner
from lpnorm.fast.images import (
    VECTOR,
    add_masked,
    copy,
    copy_masked,
    fill,
    flat,
    fold_masked,
    inside,
    see,
)
from lpnorm.fast.lanes import narrow


@inner
def gather(
    x: Any, shape: Any, out: Any, first: int, last: int, windows: Any, masks: Any, phases: Any,
    same: bool,
) -> None:  # fmt: skip
    """`products.gather` of samples first ... last - 1 of x (N, C, H, W), a row; same: of out's
    dtype. masks: a bit for each window, is the tap inside? (taps, words); none if a tap is to be
    looked for row by row. phases: room to `split` a plane."""
    (kh, kw), (down, right), (above, left), (rows, across) = windows
    _, channels, height, width = shape
    size, samples, words = rows * across, last - first, masks.size // (kh * kw)
    for c in range(channels):
        for n in range(samples):
            at = ((first + n) * channels + c) * height * width
            apart = words > 0 and (down > 1 or right > 1)
            if apart:
                split(x, at, height, width, windows, phases)
            for a in range(kh):
                for b in range(kw):
                    tap = a * kw + b
                    to = ((c * kh * kw + tap) * samples + n) * size
                    if words == 0:
                        see(x, at, width, inside(shape, a, b, windows), windows, out, to, same, 0)
                    elif apart:
                        copy_plane(
                            phases, phase_at(height, a, b, windows), masks, tap, out, to, size
                        )
                    else:
                        start = at + (a - above) * width + b - left
                        copy_plane(x, start, masks, tap, out, to, size)


@inner
def copy_plane(x: Any, at: int, masks: Any, tap: int, out: Any, to: int, size: int) -> None:
    """What a tap sees of windows that lie as values do, from x[at] on: VECTOR at a time."""
    words = (size + VECTOR - 1) // VECTOR
    for k in range(words):
        bits, q = masks[tap * words + k], k * VECTOR
        copy_masked(x, at + q, bits, out, to + q, lanes(size - q))


@inner
def lanes(count: int) -> Any:
    """A bit for each of the first `count` lanes."""
    return np.uint16(0xFFFF) if count >= VECTOR else np.uint16((1 << count) - 1)


# With a stride, windows do not lie as values do. They do in each phase: values as many rows and
# columns apart as the windows are. A phase has rows as long as the windows'.


@inner
def phase_at(height: int, a: int, b: int, windows: Any) -> int:
    """Where the tap (a, b) of the first window would be in a plane that is `split`."""
    _, (down, right), (above, left), (_, across) = windows
    plane = (height + down - 1) // down * across
    row, column = a - above, b - left
    return (row % down * right + column % right) * plane + row // down * across + column // right


@inner
def split(x: Any, at: int, height: int, width: int, windows: Any, phases: Any) -> None:
    """The plane at x[at], phase by phase."""
    _, (down, right), _, (_, across) = windows
    plane = (height + down - 1) // down * across
    for i in range(height):
        to = i % down * right * plane + i // down * across
        for j in range(right):
            count = (width - j + right - 1) // right
            copy(x, at + i * width + j, right, phases, to + j * plane, count, True)


@inner
def join(phases: Any, dx: Any, at: int, height: int, width: int, windows: Any) -> None:
    """`split` backwards."""
    _, (down, right), _, (_, across) = windows
    plane = (height + down - 1) // down * across
    for i in range(height):
        start, row = i % down * right * plane + i // down * across, at + i * width
        if right == 2 and width == 2 * across:  # a number the compiler knows
            even, odd = phases[start : start + across], phases[start + plane :][:across]
            target = dx[row : row + width]
            for j in range(even.size):
                target[2 * j], target[2 * j + 1] = even[j], odd[j]
        else:
            for j in range(right):
                target = dx[row + j : row + width : right]
                for q in range(target.size):
                    target[q] = phases[start + j * plane + q]


@inner
def fold(sums: Any, y: Any, shape: Any, first: int, last: int, about: Any, like: Any) -> None:
    """`products._fold` into samples first ... last - 1 of y (N, O, H', W'), a row."""
    folded, above, rows, across, masks = about
    _, outputs, height, _ = shape
    samples, length, size = last - first, rows * across, height * across
    step = outputs * samples * length + across
    words = masks.size // folded
    for o in range(outputs):
        for n in range(samples):
            to = ((first + n) * outputs + o) * size
            at = (o * samples + n) * length - above * across
            if words > 0:
                for k in range(words):
                    q = k * VECTOR
                    within = lanes(size - q)
                    fold_masked(sums, at + q, step, folded, masks, k * folded, y, to + q, within)
            else:
                for i in range(height):
                    low, high = max(0, above - i), min(folded, rows + above - i)
                    begin = at + low * step + i * across
                    add_rows(sums, begin, step, high - low, y, to + i * across, across, like)


@inner
def add_rows(
    sums: Any, at: int, step: int, count: int, y: Any, to: int, size: int, like: Any
) -> None:
    """y[to + j] = 0 + sums[at + j] + sums[at + step + j] + ..., `count` of them, one by one."""
    for j in range(size):
        total = sums.dtype.type(0)
        for k in range(count):
            total += sums[at + k * step + j]
        y[to + j] = narrow(total, like)


@inner
def scatter(
    dx: Any, shape: Any, sent: Any, first: int, last: int, windows: Any, masks: Any, phases: Any
) -> None:
    """`Windows.scatter` of a chunk's taps into samples first ... last - 1 of dx, a row; masks and
    phases as for `gather`."""
    (kh, kw), _, _, (rows, across) = windows
    _, channels, height, width = shape
    samples, size, words = last - first, rows * across, masks.size // (kh * kw)
    for c in range(channels):
        for n in range(samples):
            at = ((first + n) * channels + c) * height * width
            if words > 0:
                fill(phases, 0, 1, phases.size, 0)
            else:
                fill(dx, at, 1, height * width, 0)
            for a in range(kh):
                for b in range(kw):
                    tap = a * kw + b
                    own = ((c * kh * kw + tap) * samples + n) * size
                    if words > 0:
                        to = phase_at(height, a, b, windows)
                        for k in range(words):
                            bits, q = masks[tap * words + k], k * VECTOR
                            add_masked(sent, own + q, bits, phases, to + q)
                    else:
                        send(sent, own, inside(shape, a, b, windows), windows, width, dx, at)
            if words > 0:
                join(phases, dx, at, height, width, windows)


@inner
def send(
    sent: Any, own: int, where: Any, windows: Any, width: int, dx: Any, at: int
) -> None:  # fmt: skip
    """`images.see` backwards: add a tap's values to the plane at dx[at]."""
    _, (down, right), _, (_, across) = windows
    i0, i1, j0, j1, first = where
    for i in range(i0, i1):
        to = at + first + (i - i0) * down * width + j0 * right
        read = dx[to : to + (j1 - j0) * right : right]
        back = sent[own + i * across + j0 : own + i * across + j1]
        for j in range(back.size):
            read[j] += back[j]


# --- products ---------------------------------------------------------------------------------


@inner
def product(a: Any, b: Any, out: Any, m: int, n: int, k: int, like: Any) -> None:
    """out (m, n) = a (m, k) b (k, n), rows one behind another."""
    number = type(like[4])
    _call(like[3], np.int32(PLAIN), number(m), number(n), number(k), a, b, out, number(n))


@inner
def product_turned(a: Any, b: Any, out: Any, m: int, n: int, k: int, like: Any) -> None:
    """out (m, n) = a (m, k) b^T, b (n, k)."""
    number = type(like[4])
    _call(like[3], np.int32(TURNED), number(m), number(n), number(k), a, b, out, number(k))


@inner
def add_product(
    a: Any, b: Any, share: Any, total: Any, m: int, n: int, k: int, begins: bool, like: Any
) -> None:
    """total = a b^T if it begins, else total + a b^T."""
    if begins:
        product_turned(a, b, total, m, n, k, like)
    else:
        product_turned(a, b, share, m, n, k, like)
        for q in range(m * n):
            total[q] += share[q]


@inner
def chunks(i: int, part: int, cut: Any) -> Any:
    """How many chunks a part has, and the i-th: first sample and last + 1 (`Plan.chunks`)."""
    samples, parts, most = cut
    first, last = samples * part // parts, samples * (part + 1) // parts
    n = last - first
    count = (n + most - 1) // most
    return count, first + n * i // count, first + n * (i + 1) // count


@inner
def opened(about: Any, masks: Any) -> Any:
    """about, with the masks to fold by; the masks to gather by, of columns and of rows of x."""
    word = np.uint16(0)
    folds = flat(masks[0], word)
    about = about[0], about[1], about[2], about[3], folds
    return about, flat(masks[1], word), flat(masks[2], word)


@entry
def correlate(
    x: Any, matrix: Any, y: Any, room: Any, windows: Any, about: Any, masks: Any, cut: Any,
    parts: Any, like: Any,
) -> None:  # fmt: skip
    """y of some parts; room: for a chunk's columns, what they give, and phases."""
    xs, ys, w = flat(x, like[0]), flat(y, like[0]), flat(matrix, like[1])
    about, seen_masks, _ = opened(about, masks)
    columns, sums = flat(room[0], like[1]), flat(room[1], like[1])
    phases = flat(room[2], like[1])
    (m, k), length = matrix[1], about[2] * about[3]
    for part in range(parts[0], parts[1]):
        for i in range(chunks(0, part, cut)[0]):
            _, at, to = chunks(i, part, cut)
            gather(xs, x[1], columns, at, to, windows, seen_masks, phases, like[2])
            product(w, columns, sums, m, (to - at) * length, k, like)
            fold(sums, ys, y[1], at, to, about, like[0])


@entry
def turned(
    dy: Any, x: Any, matrix: Any, dx: Any, dw: Any, room: Any, windows: Any, down: Any, about: Any,
    masks: Any, cut: Any, parts: Any, like: Any,
) -> None:  # fmt: skip
    """dx of some parts and their shares of dw; room: the same, for rows of x, and for dw."""
    dys, xs, dxs = flat(dy, like[0]), flat(x, like[0]), flat(dx, like[0])
    about, seen_masks, down_masks = opened(about, masks)
    w, shares, share = flat(matrix, like[1]), flat(dw, like[1]), flat(room[4], like[1])
    columns, sums, rows = flat(room[0], like[1]), flat(room[1], like[1]), flat(room[3], like[1])
    phases = flat(room[2], like[1])
    (m, k), (_, high, wide), length = matrix[1], dw[1], about[2] * about[3]
    for part in range(parts[0], parts[1]):
        total = shares[part * high * wide : (part + 1) * high * wide]
        for i in range(chunks(0, part, cut)[0]):
            _, at, to = chunks(i, part, cut)
            size = (to - at) * length
            gather(dys, dy[1], columns, at, to, windows, seen_masks, phases, like[2])
            product(w, columns, sums, m, size, k, like)
            fold(sums, dxs, dx[1], at, to, about, like[0])
            gather(xs, x[1], rows, at, to, down, down_masks, phases, like[2])
            add_product(columns, rows, share, total, high, wide, size, i == 0, like)


@entry
def scattered(
    dy: Any, x: Any, matrix: Any, dx: Any, dw: Any, room: Any, windows: Any, about: Any, masks: Any,
    cut: Any, parts: Any, like: Any,
) -> None:  # fmt: skip
    """dx of some parts, their shares of dw^T; matrix: w^T; room: for columns, dy, phases, dw."""
    dys, xs, dxs = flat(dy, like[0]), flat(x, like[0]), flat(dx, like[1])
    about, seen_masks, _ = opened(about, masks)
    w, shares, share = flat(matrix, like[1]), flat(dw, like[1]), flat(room[3], like[1])
    columns, rows = flat(room[0], like[1]), flat(room[1], like[1])
    phases = flat(room[2], like[1])
    (k, m), length = matrix[1], about[2] * about[3]
    for part in range(parts[0], parts[1]):
        total = shares[part * k * m : (part + 1) * k * m]
        for i in range(chunks(0, part, cut)[0]):
            _, at, to = chunks(i, part, cut)
            size = (to - at) * length
            gather(xs, x[1], columns, at, to, windows, seen_masks, phases, like[2])
            turn(dys, rows, m, at, to, length, like[2])
            add_product(columns, rows, share, total, k, m, size, i == 0, like)
            product(w, rows, columns, k, size, m, like)
            scatter(dxs, x[1], columns, at, to, windows, seen_masks, phases)


@inner
def turn(dy: Any, rows: Any, channels: int, first: int, last: int, length: int, same: bool) -> None:
    """dy (N, O, L) of a chunk as (O, samples L)."""
    samples = last - first
    for c in range(channels):
        for n in range(samples):
            at, to = ((first + n) * channels + c) * length, (c * samples + n) * length
            copy(dy, at, 1, rows, to, length, same)


@entry
def arrange(w: Any, out: Any, start: int, shape: Any, steps: Any, like: Any) -> None:
    """out, four axes of this shape, one value behind another; in w they begin at `start` and are
    these steps apart, which may be negative."""
    ws, outs = flat(w, like), flat(out, like)
    to = 0
    for i in range(shape[0]):
        for j in range(shape[1]):
            for k in range(shape[2]):
                at = start + i * steps[0] + j * steps[1] + k * steps[2]
                for q in range(shape[3]):
                    outs[np.uintp(to + q)] = ws[np.uintp(at + q * steps[3])]
                to += shape[3]
