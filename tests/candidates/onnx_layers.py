"""ONNX's reference implementation."""

from __future__ import annotations

import numpy as np

from candidates.case import Case


def onnx_batch_norm(x, gamma, beta, eps):
    """ONNX's reference BatchNormalization in training mode."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    inputs = ["x", "gamma", "beta", "mean", "var"]
    node = helper.make_node(
        "BatchNormalization", inputs, ["y", "m", "v"], epsilon=float(eps), training_mode=1
    )
    graph = helper.make_graph(
        [node],
        "batch_norm",
        [helper.make_tensor_value_info(name, kind, None) for name in inputs],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    zeros = np.zeros_like(gamma)
    feeds = {"x": x, "gamma": gamma, "beta": beta, "mean": zeros, "var": zeros + 1}
    return ReferenceEvaluator(model).run(["y"], feeds)[0]


def cases():
    import onnx.reference  # noqa: F401

    return [
        Case("onnx BatchNormalization", onnx_batch_norm, {"p": 2}),
        Case("onnx BatchNormalization, float32", onnx_batch_norm, {"p": 2, "dtype": "float32"}),
    ]
