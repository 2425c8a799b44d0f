"""Weight norm and bounded weight norm: normalize the weights instead of the activations.

    w_i = g_i v_i / ||v_i||_p                weight norm: g_i learned, one per output channel i
    w_i = rho v_i / ||v_i||_p                bounded weight norm: one fixed rho for the layer,
                                             rho = ||V||_p / N^(1/p) at initialization

||.||_p is here the plain norm, a sum without 1/n and without a Gaussian constant. It is n^(1/p)
times the statistic of `lpnorm.norms`, and its gradient n^(1/p) h / m; nothing is computed twice.
Unlike batch norm's L2, a weight's is computed after division by its maximum: small float16 weights
are ordinary ones. Precision as in `lpnorm.batchnorm`: one number a channel in the accumulator's
dtype, every array as large as v rounded to its dtype after each operation.

Sources: Salimans & Kingma 2016 (weight norm); Hoffer et al. 2018 (bounded, and any p).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lpnorm.arrays import (
    Accumulate,
    Array,
    accumulator,
    check_axes,
    check_batch,
    check_cache,
    check_gradient,
    check_number,
    check_shape,
    column,
    from_rows,
    namespace,
    one_axis,
    to_rows,
)
from lpnorm.norms import L1, L2, Lp, Norm, Range, TopK, as_norm


@dataclass(frozen=True)
class Cache:
    """What the two backward passes need; `size` holds ||v_i||_p, shape (N, 1)."""

    v: Array  # rows (N, n)
    size: Array  # (N, 1), in the accumulator's dtype
    factor: Array | float  # g as a column (N, 1), or rho
    norm: Norm
    root: float  # n^(1/p)
    shape: tuple[int, ...]
    reduced: tuple[int, ...]
    accumulate: Accumulate


def weight_norm(
    v: Array, g: Array, p: Any = 2, axis: int = 0, accumulate: Any = None
) -> tuple[Array, Cache]:
    """w_i = g_i v_i / ||v_i||_p for each output channel i along `axis`.

    v: any shape with at least 2 axes, float16, float32 or float64; g: shape (N,), N the length of
    `axis`, in v's dtype or its accumulator's. p: a real number >= 1 or math.inf. accumulate: as for
    `lpnorm.batch_norm`. Returns w (shape and dtype of v) and the cache for `weight_norm_backward`;
    the cache refers to v and g, so change them only by new arrays before the backward.
    A norm ||v_i|| or a g_i / ||v_i|| that overflows a float16 accumulator gives 0 or infinity.
    Raises TypeError or ValueError naming the argument; a channel of v with norm 0 is a ValueError.
    Source: Salimans & Kingma 2016; Hoffer et al. 2018 for p other than 2.
    """
    namespace(v=v, g=g)
    if g is None:
        raise TypeError("g must be an array of shape (N,), got None")
    norm, reduced = _check(v, p, axis)
    accumulate = accumulator(v.dtype, accumulate)
    kept = next(a for a in range(v.ndim) if a not in reduced)
    check_shape("g", g, (v.shape[kept],))
    if g.dtype not in (v.dtype, accumulate.dtype):
        allowed = f"{v.dtype} (v's) or {accumulate.dtype} (its accumulator's), got {g.dtype}"
        raise TypeError(f"g must have dtype {allowed}")
    return _scaled(v, column(g), norm, reduced, accumulate)


def weight_norm_backward(dw: Array, cache: Cache) -> tuple[Array, Array]:
    """dv (shape and dtype of v) and dg (of g) from dw and the cache of `weight_norm`.

    Derivation, per channel, with S = ||v|| and v_hat = v / S: w = g v_hat gives

        dg = sum_i dw_i v_i / S = <dw, v_hat>
        dv_j = sum_i dw_i g ( (i == j) / S - v_i / S^2 * dS/dv_j )
             = (g / S) ( dw_j - <dw, v_hat> dS/dv_j ),

    and S is n^(1/p) times a statistic of `lpnorm.norms`, so dS/dv_j = n^(1/p) h_j / (m a): with
    c = <dw, v_hat> n^(1/p) / (m a), dv = (g / S) (dw - c h), as in `normalize_backward`.

    S is homogeneous of degree 1, so <grad S, v> = S and <dv, v> = 0: v only ever turns, and a
    step makes it longer. Raises TypeError or ValueError naming dw or cache.
    """
    dv, along = _backward(dw, cache, learned=True)
    g: Any = cache.factor
    return dv, along[:, 0].astype(g.dtype, copy=False)


def bounded_norm(v: Array, p: Any = 2, axis: int = 0, accumulate: Any = None) -> float:
    """rho = ||V||_p / N^(1/p), the p-mean of the N channel norms ||v_i||_p, as a Python float.

    v, p, axis, accumulate and errors as for `weight_norm`. For p = 2 it is the Frobenius norm over
    sqrt(N), for p = inf the largest |v|. Source: Hoffer et al. 2018.
    """
    namespace(v=v)
    norm, reduced = _check(v, p, axis)
    accumulate = accumulator(v.dtype, accumulate)
    size, _ = _sizes(to_rows(v, reduced), norm, accumulate)
    return float(norm.statistic(size.reshape(1, -1), accumulate)[0, 0])


def bounded_weight_norm(
    v: Array, rho: float, p: Any = 2, axis: int = 0, accumulate: Any = None
) -> tuple[Array, Cache]:
    """w_i = rho v_i / ||v_i||_p: every output channel keeps the same, fixed norm rho.

    rho: a real number > 0, from `bounded_norm` at initialization; everything else as for
    `weight_norm`: the cache refers to v, so change it only by new arrays before the backward.
    Source: Hoffer et al. 2018.
    """
    namespace(v=v)
    rho = check_number("rho", rho)
    if rho == 0:
        raise ValueError("rho must be greater than 0, got 0")
    norm, reduced = _check(v, p, axis)
    return _scaled(v, rho, norm, reduced, accumulator(v.dtype, accumulate))


def bounded_weight_norm_backward(dw: Array, cache: Cache) -> Array:
    """dv from dw and the cache of `bounded_weight_norm`: `weight_norm_backward`, rho for g.

    rho is a constant, so there is no gradient for it.
    """
    return _backward(dw, cache, learned=False)[0]


def _check(v: Array, p: Any, axis: int) -> tuple[Norm, tuple[int, ...]]:
    """The norm and the reduced axes."""
    norm = as_norm(p)
    norm = Lp(2.0) if isinstance(norm, L2) else norm  # scaled by the maximum
    if isinstance(norm, Range) or (isinstance(norm, TopK) and norm.k > 1):
        raise ValueError(f"p of a weight norm must be a real number >= 1 or math.inf, got {p!r}")
    check_batch("v", v)
    (channel,) = check_axes(one_axis(axis), v.ndim)
    if v.size == 0:
        raise ValueError(f"v must not be empty, got shape {tuple(v.shape)}")
    return norm, tuple(a for a in range(v.ndim) if a != channel)


def _sizes(v: Array, norm: Norm, accumulate: Accumulate) -> tuple[Array, float]:
    """||v_i||_p of each row, (N, n) -> (N, 1), and n^(1/p)."""
    p = norm.p if isinstance(norm, Lp) else 1.0 if isinstance(norm, L1) else math.inf
    root = float(v.shape[1]) ** (1 / p)
    return norm.statistic(v, accumulate) * root, root


def _scaled(
    v: Array,
    factor: Array | float,
    norm: Norm,
    reduced: tuple[int, ...],
    accumulate: Accumulate,
) -> tuple[Array, Cache]:
    rows = to_rows(v, reduced)
    size, root = _sizes(rows, norm, accumulate)
    if bool((size == 0).any()):
        zero = [i for i, zero in enumerate((size == 0).ravel().tolist()) if zero]
        raise ValueError(f"v has norm 0 in channel {', '.join(map(str, zero[:5]))}: no direction")
    w = (rows * (factor / size)).astype(v.dtype, copy=False)
    cache = Cache(rows, size, factor, norm, root, v.shape, reduced, accumulate)
    return from_rows(w, v.shape, reduced), cache


def _backward(dw: Array, cache: Cache, learned: bool) -> tuple[Array, Array]:
    """dv, and <dw, v_hat> of each channel, (N, 1); learned: the factor is g, not rho."""
    call = "w, cache = weight_norm(v, ...)" if learned else "w, cache = bounded_weight_norm(v, ...)"
    check_cache(cache, Cache, call)
    if isinstance(cache.factor, float) == learned:
        raise TypeError(f"cache must be that of {call}, got that of the other weight norm")
    v, size = cache.v, cache.size
    check_gradient("dw", dw, v, cache.shape)
    dw = to_rows(dw, cache.reduced)
    h, a = cache.norm.direction(v, size / cache.root, cache.accumulate)
    v_hat = (v / size).astype(v.dtype, copy=False)
    along = cache.accumulate.total(dw * v_hat)
    c = along * (cache.root / cache.norm.count(v.shape[1])) / a
    turned = (dw - (c * h).astype(v.dtype, copy=False)).astype(v.dtype, copy=False)
    dv = (turned * (cache.factor / size)).astype(v.dtype, copy=False)
    return from_rows(dv, cache.shape, cache.reduced), along
