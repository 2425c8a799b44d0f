"""NumPy's own matrix product, called from compiled code: no Python, no lock between two products.

It is the function that `numpy.matmul` calls, cblas_sgemm or cblas_dgemm, with the same arguments:
so the bits are the same. `threadpoolctl` finds the library, in which the function has one of a few
names. It is taken only if it gives NumPy's bits on a product; else convolutions are the plain ones.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from lpnorm import threads

ROWS, PLAIN, TURNED = 101, 111, 112  # CBLAS's numbers: row-major; a matrix as it is, or transposed
NAMES = [  # of sgemm and dgemm, and the integers they take
    ("scipy_cblas_{}gemm64_", np.int64),
    ("cblas_{}gemm64_", np.int64),
    ("scipy_cblas_{}gemm", np.int32),
    ("cblas_{}gemm", np.int32),
]


@functools.cache
def gemm(dtype: str) -> tuple[int, Any] | None:
    """Where the function for float32 or float64 is, and a number of the integers it takes."""
    if config.DISABLE_JIT:
        return None
    letter, real = ("s", ctypes.c_float) if dtype == "float32" else ("d", ctypes.c_double)
    for library in threads.one_blas_thread.libraries:
        for name, integer in NAMES:
            function = getattr(library.dynlib, name.format(letter), None)
            if function is not None and _is_numpys(function, real, integer):
                address = ctypes.cast(function, ctypes.c_void_p).value
                return (address or 0), integer(0)
    return None


def _is_numpys(function: Any, real: Any, integer: Any) -> bool:
    """Does it multiply as `numpy.matmul` does?"""
    number = ctypes.c_int64 if integer is np.int64 else ctypes.c_int32
    pointer = ctypes.POINTER(real)
    shape = [ctypes.c_int] * 3 + [number] * 3
    function.argtypes = [*shape, real, pointer, number, pointer, number, real, pointer, number]
    function.restype = None
    draw = np.random.default_rng(0).standard_normal
    a, b = (draw(shape).astype(real) for shape in ((9, 65), (65, 33)))
    out = np.zeros((9, 33), real)
    arrays = [x.ctypes.data_as(pointer) for x in (a, b, out)]
    sides = 9, 33, 65
    with threads.one_blas_thread:
        function(
            ROWS, PLAIN, PLAIN, *sides, 1.0, arrays[0], 65, arrays[1], 33, 0.0, arrays[2], 33
        )  # fmt: skip
        return np.array_equal(out, a @ b)


@intrinsic
def _call(
    context: Any, address: Any, turned: Any, m: Any, n: Any, k: Any, a: Any, b: Any, out: Any,
    columns: Any,
) -> Any:  # fmt: skip
    """cblas_?gemm at an address; a (m, k), b (k, n), or (n, k) if turned, out (m, n): one row each.

    columns: how many columns b has.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, turned, m, n, k, a, b, out, columns = arguments
        real = context.get_value_type(dtype)
        number, word = context.get_value_type(integer), ir.IntType(32)
        data = [
            context.make_array(kind)(context, builder, array).data
            for kind, array in ((a_kind, a), (b_kind, b), (out_kind, out))
        ]
        shape = [word] * 3 + [number] * 3
        place = real.as_pointer()
        given = [*shape, real, place, number, place, number, real, place, number]
        kind = ir.FunctionType(ir.VoidType(), given)
        function = builder.inttoptr(address, kind.as_pointer())
        how = [ir.Constant(word, ROWS), ir.Constant(word, PLAIN), turned]
        one, zero = ir.Constant(real, 1.0), ir.Constant(real, 0.0)
        builder.call(function, [*how, m, n, k, one, data[0], k, data[1], columns, zero, data[2], n])
        return context.get_dummy_value()

    dtype, integer = a.dtype, m
    a_kind, b_kind, out_kind = a, b, out
    given = types.intp, types.int32, m, m, m, a, b, out, m
    return types.void(*given), build
