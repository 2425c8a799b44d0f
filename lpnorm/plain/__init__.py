"""What layers compute, in whole arrays of NumPy or CuPy: the functions that an `impl` has.

A layer of `lpnorm.nn` holds parameters and statistics, checks x, and leaves the computing to the
functions of its `impl`: this room, or `lpnorm.fast`, which has the same names, arguments and bits
in compiled loops. `model.to(impl=lpnorm.fast)` changes it for a whole model. Batch norm, layer norm
and weight norm are the book's own functions; for the others a call returns its own backward,

    y, backward = relu(x)
    dx = backward(dy)

which keeps no more than it needs and writes to nothing that it was given. Arguments are as the
layers check them.
"""

from lpnorm.batchnorm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_inference_backward,
    layer_norm,
    layer_norm_backward,
)
from lpnorm.plain.loss import softmax_cross_entropy
from lpnorm.plain.pointwise import add, center, relu
from lpnorm.plain.pools import avg_pool2d, global_avg_pool2d, max_pool2d
from lpnorm.plain.products import conv2d, linear
from lpnorm.plain.windows import Windows
from lpnorm.weightnorm import (
    bounded_weight_norm,
    bounded_weight_norm_backward,
    weight_norm,
    weight_norm_backward,
)

__all__ = [
    "Windows",
    "add",
    "avg_pool2d",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "bounded_weight_norm",
    "bounded_weight_norm_backward",
    "center",
    "conv2d",
    "global_avg_pool2d",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "max_pool2d",
    "relu",
    "softmax_cross_entropy",
    "weight_norm",
    "weight_norm_backward",
]
