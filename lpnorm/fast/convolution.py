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
from lpnorm.fast.images import VECTOR, copy, copy_masked, flat, fold_masked, inside, see, seen
from lpnorm.fast.lanes import narrow


@inner
def gather(
    x: Any, shape: Any, out: Any, first: int, last: int, windows: Any, masks: Any, same: bool
) -> None:
    """`products.gather` of samples first ... last - 1 of x (N, C, H, W), a row; same: of out's
    dtype. masks: a bit for each window, is the tap inside? (taps, words); or none.
    """
    (kh, kw), _, (above, left), (rows, across) = windows
    _, channels, height, width = shape
    size, words = rows * across, masks.size // (kh * kw)
    to = 0
    for c in range(channels):
        for a in range(kh):
            for b in range(kw):
                tap, where = (a * kw + b) * words, inside(shape, a, b, windows)
                for n in range(first, last):
                    at = (n * channels + c) * height * width
                    if words > 0:  # VECTOR at a time, the last ones beyond the plane's end
                        at += (a - above) * width + b - left
                        for k in range(words):
                            copy_masked(x, at + k * VECTOR, masks[tap + k], out, to + k * VECTOR)
                    else:
                        see(x, at, width, where, windows, out, to, same, 0)
                    to += size


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
                    left = min(VECTOR, size - k * VECTOR)
                    within = np.uint16((1 << left) - 1)
                    place = at + k * VECTOR
                    fold_masked(
                        sums, place, step, folded, masks, k * folded, y, to + k * VECTOR, within
                    )
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
def scatter(dx: Any, shape: Any, sent: Any, first: int, last: int, windows: Any) -> None:
    """`Windows.scatter` of a chunk's taps into samples first ... last - 1 of dx, a row."""
    (kh, kw), (down, right), (above, left), (rows, across) = windows
    _, channels, height, width = shape
    samples, length = last - first, rows * across
    for n in range(first, last):
        for c in range(channels):
            for a in range(kh):
                i0, i1 = seen(height, a, down, above, rows)
                for b in range(kw):
                    j0, j1 = seen(width, b, right, left, across)
                    at = ((c * kh + a) * kw + b) * samples + n - first
                    for i in range(i0, i1):
                        row = (n * channels + c) * height + i * down + a - above
                        to, own = row * width + j0 * right + b - left, at * length + i * across
                        read = dx[to : to + (j1 - j0) * right : right]
                        back = sent[own + j0 : own + j1]
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
    """y of some parts; room: for a chunk's columns and for what they give."""
    xs, ys, w = flat(x, like[0]), flat(y, like[0]), flat(matrix, like[1])
    about, seen_masks, _ = opened(about, masks)
    columns, sums = flat(room[0], like[1]), flat(room[1], like[1])
    (m, k), length = matrix[1], about[2] * about[3]
    for part in range(parts[0], parts[1]):
        for i in range(chunks(0, part, cut)[0]):
            _, at, to = chunks(i, part, cut)
            gather(xs, x[1], columns, at, to, windows, seen_masks, like[2])
            product(w, columns, sums, m, (to - at) * length, k, like)
            fold(sums, ys, y[1], at, to, about, like[0])


@entry
def turned(
    dy: Any, x: Any, matrix: Any, dx: Any, dw: Any, room: Any, windows: Any, down: Any, about: Any,
    masks: Any, cut: Any, parts: Any, like: Any,
) -> None:  # fmt: skip
    """dx of some parts and their shares of dw; room: as above, for rows of x, and for dw."""
    dys, xs, dxs = flat(dy, like[0]), flat(x, like[0]), flat(dx, like[0])
    about, seen_masks, down_masks = opened(about, masks)
    w, shares, share = flat(matrix, like[1]), flat(dw, like[1]), flat(room[3], like[1])
    columns, sums, rows = flat(room[0], like[1]), flat(room[1], like[1]), flat(room[2], like[1])
    (m, k), (_, high, wide), length = matrix[1], dw[1], about[2] * about[3]
    for part in range(parts[0], parts[1]):
        total = shares[part * high * wide : (part + 1) * high * wide]
        for i in range(chunks(0, part, cut)[0]):
            _, at, to = chunks(i, part, cut)
            size = (to - at) * length
            gather(dys, dy[1], columns, at, to, windows, seen_masks, like[2])
            product(w, columns, sums, m, size, k, like)
            fold(sums, dxs, dx[1], at, to, about, like[0])
            gather(xs, x[1], rows, at, to, down, down_masks, like[2])
            add_product(columns, rows, share, total, high, wide, size, i == 0, like)


@entry
def scattered(
    dy: Any, x: Any, matrix: Any, dx: Any, dw: Any, room: Any, windows: Any, about: Any, masks: Any,
    cut: Any, parts: Any, like: Any,
) -> None:  # fmt: skip
    """dx of some parts and their shares of dw^T; matrix: w^T; room: for columns, dy and dw."""
    dys, xs, dxs = flat(dy, like[0]), flat(x, like[0]), flat(dx, like[1])
    about, seen_masks, _ = opened(about, masks)
    w, shares, share = flat(matrix, like[1]), flat(dw, like[1]), flat(room[2], like[1])
    columns, rows = flat(room[0], like[1]), flat(room[1], like[1])
    (k, m), length = matrix[1], about[2] * about[3]
    for part in range(parts[0], parts[1]):
        total = shares[part * k * m : (part + 1) * k * m]
        for i in range(chunks(0, part, cut)[0]):
            _, at, to = chunks(i, part, cut)
            size = (to - at) * length
            gather(xs, x[1], columns, at, to, windows, seen_masks, like[2])
            turn(dys, rows, m, at, to, length, like[2])
            add_product(columns, rows, share, total, k, m, size, i == 0, like)
            product(w, rows, columns, k, size, m, like)
            scatter(dxs, x[1], columns, at, to, windows)


@inner
def turn(dy: Any, rows: Any, channels: int, first: int, last: int, length: int, same: bool) -> None:
    """dy (N, O, L) of a chunk as (O, samples L)."""
    samples = last - first
    for c in range(channels):
        for n in range(samples):
            at, to = ((first + n) * channels + c) * length, (c * samples + n) * length
            copy(dy, at, 1, rows, to, length, same)
