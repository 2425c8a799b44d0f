"""lpnorm: a from-scratch reference of "Norm matters" (Hoffer, Banner, Golan, Soudry, 2018).

Batch norm, layer norm and weight norm in any Lp norm, Top-k and Range, forward and backward,
without autodiff, on NumPy and CuPy arrays; SGD with decay; a small engine to train with them.
"""

import importlib
from typing import Any

from lpnorm import decay, nn
from lpnorm.arrays import Accumulate
from lpnorm.batchnorm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_inference_backward,
    layer_norm,
    layer_norm_backward,
)
from lpnorm.norms import Range, TopK, gaussian_constant
from lpnorm.weightnorm import (
    bounded_norm,
    bounded_weight_norm,
    bounded_weight_norm_backward,
    weight_norm,
    weight_norm_backward,
)

__version__ = "0.1.0"

__all__ = [
    "Accumulate",
    "Range",
    "TopK",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "bounded_norm",
    "bounded_weight_norm",
    "bounded_weight_norm_backward",
    "decay",
    "gaussian_constant",
    "layer_norm",
    "layer_norm_backward",
    "nn",
    "weight_norm",
    "weight_norm_backward",
]


def __getattr__(name: str) -> Any:
    """`lpnorm.verify` on first use: the judge is not loaded with the library."""
    if name == "verify":
        return importlib.import_module("lpnorm.verify")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
