"""The oracle: every formula of the library once more, from its definition and slow on purpose.

It shares no code with the library, so that it can judge it. NumPy only reads and lays out arrays;
the arithmetic is Python floats, loops and math.fsum. Source: Hoffer, Banner, Golan, Soudry, "Norm
matters", NeurIPS 2018 (arXiv 1803.01814), cited as Hoffer et al. 2018.

`p` is a real number >= 1, math.inf, an object with an attribute `k` (Top-k), or an object whose
class is called Range. Arrays may have any real dtype: their values are taken exactly, results are
float64. Inputs are finite, but a group of x that holds NaN or infinity gives NaN.
"""

from lpnorm.verify.oracle.normalizers import (
    PLACES,
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    layer_norm,
    layer_norm_backward,
    with_eps,
)
from lpnorm.verify.oracle.statistics import deviation, deviation_gradient, gaussian_constant
from lpnorm.verify.oracle.steps import (
    bounded_norm,
    bounded_weight_norm,
    bounded_weight_norm_backward,
    sgd,
    weight_norm,
    weight_norm_backward,
)

__all__ = [
    "PLACES",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "bounded_norm",
    "bounded_weight_norm",
    "bounded_weight_norm_backward",
    "deviation",
    "deviation_gradient",
    "gaussian_constant",
    "layer_norm",
    "layer_norm_backward",
    "sgd",
    "weight_norm",
    "weight_norm_backward",
    "with_eps",
]
