"""`lpnorm.plain`'s functions of images with the loops of `images`: what they take, and on what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from lpnorm import plain, threads
from lpnorm.arrays import Array, accumulator
from lpnorm.fast import images
from lpnorm.fast.cpu import LIKE, is_plain
from lpnorm.fast.lanes import place
from lpnorm.plain import products
from lpnorm.plain.products import Gradients
from lpnorm.plain.windows import Windows

Backward = Callable[[Array], Array]


def conv2d(
    x: Array, w: Array, bias: Array | None, windows: Windows
) -> tuple[Array, Callable[[Array], Gradients]]:
    """`lpnorm.plain.conv2d`, bit for bit."""
    loops = LOOPS if is_plain(x) and is_plain(w) else products.ARRAYS
    return products.conv2d(x, w, bias, windows, loops)


def _gather(x: Array, windows: Windows) -> Callable[[int, int, Array], None]:
    x = stored(x)
    return partial(_move, images.gather, x, _wide(x), windows)


def _scatter(dx: Array, windows: Windows) -> Callable[[int, int, Array], None]:
    return partial(_move, images.scatter, dx, dx.dtype, windows)


def _move(
    function: Any, x: Array, wide: Any, windows: Windows, first: int, last: int, columns: Array
) -> None:
    like = LIKE[_name(x)], LIKE[wide.name], x.dtype == wide
    about = _windows(windows, x.shape)
    function(f"{_name(x)}", place(x), place(columns), first, last, about, like)


LOOPS = products.Loops(_gather, _scatter)


def relu(x: Array) -> tuple[Array, Backward]:
    """`lpnorm.plain.relu`, bit for bit."""
    if not is_plain(x):
        return plain.relu(x)
    name, like = x.dtype.name, (LIKE[x.dtype.name],)
    bits = np.empty(-(-x.size // images.VECTOR), np.uint16)

    def over(function: Any, a: Array) -> Array:
        a = stored(a)
        b = np.empty_like(a)
        places = place(a), place(b), place(bits)

        def part(first: int, last: int) -> None:
            first, last = images.VECTOR * first, min(images.VECTOR * last, a.size)
            function(name, *places, first, last, like)

        threads.each(part, threads.cut(bits.size, threads.count()), a.size)
        return b.view(x.dtype)

    y = over(images.relu, x)
    return y, lambda dy: over(images.relu_backward, dy)


def max_pool2d(x: Array, windows: Windows) -> tuple[Array, Backward]:
    """`lpnorm.plain.max_pool2d`, bit for bit."""
    if not is_plain(x):
        return plain.max_pool2d(x, windows)
    name, shape, dtype = x.dtype.name, x.shape, x.dtype
    across = windows.over(shape)
    about = _windows(windows, shape)
    tap = np.uint8(0) if windows.taps <= 256 else np.int32(0)
    xs, out = stored(x), (*shape[:2], *across)
    y, winner = np.empty(out, xs.dtype), np.empty(out, tap.dtype)
    planes = threads.cut(shape[0] * shape[1], threads.count())

    def forward(first: int, last: int) -> None:
        places = place(xs), place(y), place(winner)
        images.max_pool(f"{name} {tap.dtype}", *places, first, last, about, (LIKE[name], tap))

    threads.each(forward, planes, 2 * x.size)

    def backward(dy: Array) -> Array:
        dys, dx = stored(dy), np.zeros(shape, accumulator(dtype).dtype)
        like = LIKE[name], tap, LIKE[dx.dtype.name]

        def part(first: int, last: int) -> None:
            places = place(dys), place(dx), place(winner)
            images.max_pool_backward(f"{name} {tap.dtype}", *places, first, last, about, like)

        threads.each(part, planes, 2 * dx.size)
        return dx.astype(dtype, copy=False)

    return y.view(dtype), backward


def stored(x: Array) -> Array:
    """x as the loops read it: C-contiguous, float16 as its bits."""
    x = np.require(x, requirements=["C", "ALIGNED"])
    return x.view(np.uint16) if x.dtype == np.float16 else x


def _name(x: Array) -> str:
    return "float16" if x.dtype == np.uint16 else x.dtype.name


def _wide(x: Array) -> Any:
    return accumulator(_name(x)).dtype


def _windows(windows: Windows, shape: tuple[int, ...]) -> Any:
    return windows.kernel, windows.stride, windows.padding, windows.over(shape)
