"""lpnorm: a from-scratch reference of "Norm matters" (Hoffer, Banner, Golan, Soudry, 2018).

Batch norm, layer norm and weight norm in any Lp norm, Top-k and Range, forward and backward,
without autodiff, on NumPy and CuPy arrays; SGD with decay; a small engine to train with them.
`lpnorm.verify` (the judge) and `lpnorm.fast` are loaded when they are first used.
"""

from importlib import import_module
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
    if name in ("fast", "verify"):
        return import_module(f"lpnorm.{name}")
    raise AttributeError(f"module 'lpnorm' has no attribute {name!r}")
