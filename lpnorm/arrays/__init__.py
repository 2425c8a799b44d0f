"""The only seam between NumPy and CuPy: whose array is this, how is it seen, how is it summed."""

from lpnorm.arrays.checks import (
    check_affine,
    check_axes,
    check_channels,
    check_count,
    check_dtype,
    check_gradient,
    check_number,
    check_shape,
)
from lpnorm.arrays.libraries import (
    FLOATS,
    Array,
    check_device,
    gpu_library,
    is_array,
    library_of,
    namespace,
    to_device,
)
from lpnorm.arrays.sums import ORDERS, Accumulate, accumulator, matmul, total
from lpnorm.arrays.views import View, column, from_rows, to_rows, view_of

__all__ = [
    "FLOATS",
    "ORDERS",
    "Accumulate",
    "Array",
    "View",
    "accumulator",
    "check_affine",
    "check_axes",
    "check_channels",
    "check_count",
    "check_device",
    "check_dtype",
    "check_gradient",
    "check_number",
    "check_shape",
    "column",
    "from_rows",
    "gpu_library",
    "is_array",
    "library_of",
    "matmul",
    "namespace",
    "to_device",
    "to_rows",
    "total",
    "view_of",
]
