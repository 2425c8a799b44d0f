"""Functions of JAX arrays, compiled and not, right."""

from __future__ import annotations

import math

from candidates.case import C1, Case, c_inf
from lpnorm import TopK


def jax_functions():
    """name -> (function of JAX arrays, p)."""
    import jax
    import jax.numpy as jnp

    def affine(x, d, scale, gamma, beta):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return gamma.reshape(shape) * (d / scale) + beta.reshape(shape)

    def centred(x):
        axes = (0, *range(2, x.ndim))
        return x - jnp.mean(x, axis=axes, keepdims=True), axes, x.size // x.shape[1]

    def l1(x, gamma, beta, eps):
        d, axes, _ = centred(x)
        scale = C1 * jnp.mean(jnp.abs(d), axis=axes, keepdims=True) + eps
        return affine(x, d, scale, gamma, beta)

    def linf(x, gamma, beta, eps):
        d, axes, n = centred(x)
        scale = c_inf(n) * jnp.max(jnp.abs(d), axis=axes, keepdims=True) + eps
        return affine(x, d, scale, gamma, beta)

    def top3(x, gamma, beta, eps):
        d, _, n = centred(x)
        rows = jnp.moveaxis(jnp.abs(d), 1, -1).reshape(n, -1).T
        largest, _ = jax.lax.top_k(rows, 3)
        scale = c_inf(n) * largest.mean(axis=1) + eps
        return affine(x, d, scale.reshape((1, -1) + (1,) * (x.ndim - 2)), gamma, beta)

    def l2(x, gamma, beta, eps):
        d, axes, _ = centred(x)
        scale = jnp.sqrt(jnp.var(x, axis=axes, keepdims=True) + eps)
        return affine(x, d, scale, gamma, beta)

    def weight(v, g):
        rows = v.reshape(v.shape[0], -1)
        w = g[:, None] * rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
        return w.reshape(v.shape)

    return {
        "L1": (l1, 1),
        "Linf": (linf, math.inf),
        "Top-k k=3": (top3, TopK(3)),
        "L2": (l2, 2),
        "weight": (weight, 2),
    }


def cases():
    """Correct JAX candidates, compiled and not."""
    import jax

    cases = []
    for name, (function, p) in jax_functions().items():
        arguments = {"p": p, "layer": "weight_norm" if name == "weight" else "batch_norm"}
        cases += [
            Case(f"jax {name}", function, arguments),
            Case(f"jax {name}, jit", jax.jit(function), arguments),
            Case(f"jax {name}, float32", function, {**arguments, "dtype": "float32"}),
        ]
    return cases
