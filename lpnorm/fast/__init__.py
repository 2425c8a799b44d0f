"""The functions of `lpnorm.batchnorm`, with the same signatures and results, faster.

Chosen by name, never silently: ``lpnorm.fast.batch_norm(x, ...)`` or
``nn.BatchNorm(64, p=1, impl=lpnorm.fast)``. What is faster is NumPy's float16 (`lpnorm.fast.cpu`):
batch norm of a large batch about 4 times, layer norm and a real p 2 to 3 times,
and arrays of a few thousand elements not at all (tests/bench_float16.py measures). For every other
array these functions call `lpnorm.batchnorm`. Part of the contract: the results are that module's,
bit for bit.
"""

from lpnorm.fast.cpu import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_inference_backward,
    layer_norm,
    layer_norm_backward,
)

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "layer_norm",
    "layer_norm_backward",
]
