"""Written once for every backend of batch norm and layer norm: checks, the view, the cache.

A backend is three functions on arrays seen as (outer, groups, inner): `lpnorm.batchnorm` has the
plain one, that of the book; `lpnorm.fast` has compiled ones. Each public function of either is one
of the functions below with its backend; the docstrings, errors included, are in `lpnorm.batchnorm`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lpnorm.arrays import (
    Accumulate,
    Array,
    View,
    accumulator,
    check_affine,
    check_axes,
    check_cache,
    check_channels,
    check_gradient,
    check_number,
    check_shape,
    namespace,
    view_of,
)
from lpnorm.norms import Norm, as_norm, gaussian_constant


@dataclass(frozen=True)
class Scheme:
    """What is computed, whoever computes it.

    norm: None where mean and scale are constants (inference). per_value: gamma and beta have one
    number for each of the n values of a group (layer norm), not one for each group (batch norm).
    """

    norm: Norm | None
    constant: float
    eps: float
    accumulate: Accumulate
    per_value: bool = False


class Backend(NamedTuple):
    """Who computes: three functions with the arguments, results and bits of those above."""

    forward: Callable[..., tuple[Array, Array, Array]]
    backward: Callable[..., tuple[Array, Array | None, Array | None]]
    inference: Callable[..., Array]


@dataclass(frozen=True)
class Cache:
    """What `batch_norm_backward` and `layer_norm_backward` need; `mean` and `scale` are public.

    mean, scale: what is subtracted and what is divided by (eps included), with the shape of x
    without the reduced axes ((C,) for batch norm), in the accumulator's dtype.
    """

    x: Array  # the caller's array
    gamma: Array | None
    beta: Array | None
    mean: Array
    scale: Array
    view: View
    scheme: Scheme


def batch_norm(
    backend: Backend,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    p: Any,
    axis: int,
    *how: Any,
) -> tuple[Array, Cache]:
    """`batch_norm`, computed by this backend (how: eps, constant, accumulate)."""
    (channel,) = check_channels(axis, x=x, gamma=gamma, beta=beta)
    reduced = tuple(a for a in range(x.ndim) if a != channel)
    return _forward(backend, x, gamma, beta, reduced, (channel,), p, *how)


def layer_norm(
    backend: Backend,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    p: Any,
    axis: Any,
    *how: Any,
) -> tuple[Array, Cache]:
    """`layer_norm`, computed by this backend."""
    namespace(x=x, gamma=gamma, beta=beta)
    reduced = check_axes(axis, x.ndim)
    return _forward(backend, x, gamma, beta, reduced, reduced, p, *how)


def _forward(
    backend: Backend,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    reduced: tuple[int, ...],
    affine: tuple[int, ...],
    p: Any,
    eps: float,
    constant: str | None,
    accumulate: Any,
) -> tuple[Array, Cache]:
    norm, sums = as_norm(p), accumulator(x.dtype, accumulate)
    check_affine(x, gamma, beta, affine, sums.dtype)
    eps = check_number("eps", eps)
    view = view_of(x, reduced)
    c = gaussian_constant(norm, view.n, constant)

    scheme = Scheme(norm, c, eps, sums, per_value=affine == reduced)
    y, mean, scale = backend.forward(view.see(x), _flat(gamma), _flat(beta), scheme)
    kept = tuple(size for a, size in enumerate(x.shape) if a not in reduced)
    cache = Cache(x, gamma, beta, mean.reshape(kept), scale.reshape(kept), view, scheme)
    return view.back(y), cache


def backward(backend: Backend, dy: Array, cache: Cache) -> tuple[Array, Array | None, Array | None]:
    """`batch_norm_backward` and `layer_norm_backward`, computed by this backend."""
    check_cache(cache, Cache, "y, cache = batch_norm(x, ...) or layer_norm(x, ...)")
    check_gradient("dy", dy, cache.x, cache.view.shape)
    arrays = cache.view.see(dy), cache.view.see(cache.x), _flat(cache.gamma), _flat(cache.beta)
    statistics = cache.mean.reshape(-1), cache.scale.reshape(-1)
    dx, dgamma, dbeta = backend.backward(*arrays, *statistics, cache.scheme)
    return cache.view.back(dx), _like(dgamma, cache.gamma), _like(dbeta, cache.beta)


def inference(
    backend: Backend,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    scale: Array,
    axis: int,
) -> Array:
    """`batch_norm_inference`, computed by this backend."""
    view = _with_statistics(x, gamma, beta, mean, scale, axis)
    return view.back(backend.inference(view.see(x), gamma, beta, mean, scale))


def inference_backward(
    backend: Backend, dy: Array, x: Array, *arguments: Any
) -> tuple[Array, Array | None, Array | None]:
    """`batch_norm_inference_backward`, computed by this backend."""
    view = _with_statistics(x, *arguments)
    constants = Scheme(None, 1.0, 0.0, accumulator(x.dtype))
    gamma, beta, mean, scale, _ = arguments
    return backward(backend, dy, Cache(x, gamma, beta, mean, scale, view, constants))


def _flat(parameter: Array | None) -> Array | None:
    return None if parameter is None else parameter.reshape(-1)


def _like(gradient: Array | None, parameter: Array | None) -> Array | None:
    if gradient is None or parameter is None:
        return None
    return gradient.reshape(parameter.shape).astype(parameter.dtype, copy=False)


def _with_statistics(
    x: Array, gamma: Array | None, beta: Array | None, mean: Array, scale: Array, axis: int
) -> View:
    """The view of x, after checking everything."""
    if mean is None or scale is None:
        raise TypeError("mean and scale must be arrays of shape (C,), got None")
    (channel,) = check_channels(axis, x=x, gamma=gamma, beta=beta, mean=mean, scale=scale)
    wide = np.promote_types(accumulator(x.dtype).dtype, scale.dtype)
    check_affine(x, gamma, beta, (channel,), wide)
    for name, each in (("mean", mean), ("scale", scale)):
        check_shape(name, each, (x.shape[channel],))
    reduced = tuple(a for a in range(x.ndim) if a != channel)
    return view_of(x, reduced)
