"""Candidates with a mistake of the catalogue planted, in any dtype."""

import numpy as np

from lpnorm.verify import formula
from lpnorm.verify.cases import Layout
from lpnorm.verify.reference import default_place


def pair(lines, p, layer="batch_norm", axis=1, constant="paper"):
    """(forward, backward) that compute the program with these lines replaced, then round."""

    def values(x, gamma, beta, eps, dy):
        layout = Layout(layer, x.ndim, axis)
        wide = [layout.wide(a.astype("float64"), x.shape) for a in (gamma, beta)]
        given = {
            "x": x.astype("float64"),
            "dy": dy.astype("float64"),
            "gamma": wide[0],
            "beta": wide[1],
            "reduced": layout.reduced,
            "unaffine": tuple(a for a in range(x.ndim) if a not in layout.affine),
            "p": p,
            "k": getattr(p, "k", 1),
            "eps": eps,
            "place": default_place(p),
            "constant": constant,
        }
        return formula.NORM.run(given, lines)

    def forward(x, gamma, beta, eps):
        v = values(x, gamma, beta, eps, np.zeros_like(x))
        return np.broadcast_to(v.y, x.shape).astype(x.dtype), (x, gamma, beta, eps)

    def backward(dy, cache):
        v = values(*cache, dy)
        shape = cache[1].shape
        gradients = [np.broadcast_to(v.dx, dy.shape), v.dgamma, v.dbeta]
        gradients[1:] = [np.reshape(a, shape) for a in gradients[1:]]
        return tuple(a.astype(dy.dtype) for a in gradients)

    return forward, backward
