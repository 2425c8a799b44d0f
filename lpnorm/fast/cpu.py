"""`lpnorm.batchnorm` for float16 arrays on the CPU: the same functions, the same bits, faster.

There is no second algorithm here. What a channel's batch norm is depends on that channel alone, so
a batch is taken in blocks of channels that fit a core's cache, and each block is given to the
reference as a `Half` (see `lpnorm.fast.half`): an array that computes what NumPy's float16 arrays
compute, one rounding an operation, several times faster. Layer norm is one block, because its
dgamma and dbeta are sums over all samples. Whatever is not a NumPy float16 array (other dtypes,
CuPy) goes to `lpnorm.batchnorm` as it came. So the bits are the reference's by construction, and
tests/test_fast.py compares them. One thread: a second one was slower where it was measured, for a
block is a few hundred short operations and the two take turns at the interpreter between them.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm import batchnorm
from lpnorm.arrays import Array, check_gradient
from lpnorm.fast.half import load, narrow, store

BLOCK = 2**18  # elements of a block (and at least one channel): 1 MiB as float32


@dataclass(frozen=True)
class Cache:
    """What the backwards need: the reference's caches, one a block of channels.

    mean, scale: as in `lpnorm.batchnorm.Cache`.
    """

    parts: list[batchnorm.Cache]
    shape: tuple[int, ...]
    axis: int | None  # the channels; None for layer norm, which has one part

    @property
    def mean(self) -> Array:
        return _joined([part.mean for part in self.parts])

    @property
    def scale(self) -> Array:
        return _joined([part.scale for part in self.parts])


def batch_norm(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    p: Any = 2,
    axis: int = 1,
    eps: float = 1e-5,
    constant: str | None = "paper",
    accumulate: Any = None,
) -> tuple[Array, Any]:
    """`lpnorm.batch_norm`, bit for bit, and faster for a NumPy float16 array x.

    Same arguments and errors; the cache has the same public `mean` and `scale`.
    """
    if not _covers(x, axis, gamma, beta):
        return batchnorm.batch_norm(x, gamma, beta, p, axis, eps, constant, accumulate)
    y = np.empty(x.shape, x.dtype)

    def block(part: slice) -> batchnorm.Cache:
        affine = _of(gamma, part), _of(beta, part)
        half = load(_channels(x, axis, part))
        result, cache = batchnorm.batch_norm(half, *affine, p, 0, eps, constant, accumulate)
        store(result, _channels(y, axis, part))
        return cache

    return y, Cache(_each(block, x.shape, axis), x.shape, axis)


def batch_norm_backward(dy: Array, cache: Any) -> tuple[Array, Array | None, Array | None]:
    """`lpnorm.batch_norm_backward`, bit for bit, for a cache of this module or of the reference."""
    if not isinstance(cache, Cache):
        return batchnorm.batch_norm_backward(dy, cache)
    check_gradient("dy", dy, np.empty(0, np.float16), cache.shape)
    dy, dx, axis = np.asarray(dy), np.empty(cache.shape, np.float16), cache.axis
    if axis is None:
        result, dgamma, dbeta = batchnorm.layer_norm_backward(load(dy), cache.parts[0])
        return store(result, dx), narrow(dgamma), narrow(dbeta)

    def block(part: slice, of_forward: batchnorm.Cache) -> tuple[Array | None, Array | None]:
        half = load(_channels(dy, axis, part))
        result, dgamma, dbeta = batchnorm.batch_norm_backward(half, of_forward)
        store(result, _channels(dx, axis, part))
        return dgamma, dbeta

    dgamma, dbeta = zip(*_each(block, cache.shape, axis, cache.parts), strict=True)
    return dx, _joined(dgamma), _joined(dbeta)


def layer_norm(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    p: Any = 2,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    constant: str | None = "paper",
    accumulate: Any = None,
) -> tuple[Array, Any]:
    """`lpnorm.layer_norm`, bit for bit, and faster for a NumPy float16 array x."""
    if not _is_float16(x):
        return batchnorm.layer_norm(x, gamma, beta, p, axis, eps, constant, accumulate)
    arguments = gamma, beta, p, axis, eps, constant, accumulate
    result, cache = batchnorm.layer_norm(load(x), *arguments)
    return store(result, np.empty(x.shape, x.dtype)), Cache([cache], x.shape, None)


def layer_norm_backward(dy: Array, cache: Any) -> tuple[Array, Array | None, Array | None]:
    """`lpnorm.layer_norm_backward`, bit for bit, for a cache of this module or of the reference."""
    return batch_norm_backward(dy, cache)


def batch_norm_inference(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    axis: int = 1,
) -> Array:
    """`lpnorm.batch_norm_inference`, bit for bit, and faster for a NumPy float16 array x."""
    if mean is None or scale is None or not _covers(x, axis, gamma, beta, mean, scale):
        return batchnorm.batch_norm_inference(x, gamma, beta, mean, scale, axis)
    y = np.empty(x.shape, x.dtype)

    def block(part: slice) -> None:
        fixed = _of(gamma, part), _of(beta, part), mean[part], scale[part]
        result = batchnorm.batch_norm_inference(load(_channels(x, axis, part)), *fixed, 0)
        store(result, _channels(y, axis, part))

    _each(block, x.shape, axis)
    return y


def batch_norm_inference_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    axis: int = 1,
) -> tuple[Array, Array | None, Array | None]:
    """`lpnorm.batch_norm_inference_backward`, bit for bit, and faster for NumPy float16 arrays."""
    covered = mean is not None and scale is not None and _covers(x, axis, gamma, beta, mean, scale)
    if not (covered and _is_float16(dy) and dy.shape == x.shape):
        return batchnorm.batch_norm_inference_backward(dy, x, gamma, beta, mean, scale, axis)
    dx = np.empty(x.shape, x.dtype)

    def block(part: slice) -> tuple[Array | None, Array | None]:
        dy_half, x_half = (load(_channels(each, axis, part)) for each in (dy, x))
        fixed = _of(gamma, part), _of(beta, part), mean[part], scale[part]
        result, dgamma, dbeta = batchnorm.batch_norm_inference_backward(dy_half, x_half, *fixed, 0)
        store(result, _channels(dx, axis, part))
        return dgamma, dbeta

    dgamma, dbeta = zip(*_each(block, x.shape, axis), strict=True)
    return dx, _joined(dgamma), _joined(dbeta)


# --- which arrays, and block by block -----------------------------------------------------------


def _is_float16(x: Any) -> bool:
    """A plain NumPy array (no subclass) of float16 in the machine's byte order?"""
    return type(x) is np.ndarray and x.dtype == np.float16 and x.size > 0


def _covers(x: Any, axis: Any, *per_channel: Any) -> bool:
    """Can these be taken apart by channels? What cannot, the reference accepts or refuses."""
    if not _is_float16(x) or x.ndim < 2 or isinstance(axis, bool):
        return False
    if not isinstance(axis, numbers.Integral) or not -x.ndim <= axis < x.ndim:
        return False
    shape = (x.shape[axis],)
    return all(v is None or (isinstance(v, np.ndarray) and v.shape == shape) for v in per_channel)


def _each(block: Callable[..., Any], shape: tuple[int, ...], axis: int, *more: Any) -> list[Any]:
    """block(slice of the channels, an item of each of `more`) for all blocks, in order."""
    channels = shape[axis]
    step = max(1, BLOCK * channels // math.prod(shape))
    parts = [slice(start, start + step) for start in range(0, channels, step)]
    return list(map(block, parts, *more))


def _channels(x: Array, axis: int, part: slice) -> Array:
    """These channels of x, a view with the channels on axis 0."""
    return np.moveaxis(x, axis, 0)[part]


def _of(per_channel: Array | None, part: slice) -> Array | None:
    return None if per_channel is None else per_channel[part]


def _joined(parts: Sequence[Array | None]) -> Array | None:
    """The blocks' mean, scale, dgamma or dbeta as one true array (None where there is none)."""
    found = [narrow(part) for part in parts]
    return found[0] if len(found) == 1 or found[0] is None else np.concatenate(found)
