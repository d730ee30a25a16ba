"""Smaller weights of an ONNX graph: int8 with a scale per output, or float16; computation stays in float32.

A weight becomes Cast(int8) · scale, or Cast(float16). ONNX Runtime evaluates these constants once when it loads the
file, also in a browser. So only the file is smaller: it runs at the same speed, and loads somewhat more slowly
(`docs/decisions/0006-small-files.md`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

StoredPrecision = Literal["fp32", "fp16", "int8"]


def store(proto: Any, precision: StoredPrecision) -> None:
    """Replace the float32 weights of convolutions and matrix products in a ModelProto; biases are unchanged.

    Batch norms must be folded already, as torch's exporter does: the scales are those of the folded weights.
    """
    from onnx import TensorProto, helper, numpy_helper

    if precision == "fp32":
        return
    graph, made = proto.graph, []
    axes = {node.input[1]: _output_axis(node) for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    for held in [each for each in graph.initializer if each.name in axes and each.data_type == TensorProto.FLOAT]:
        weights, name = numpy_helper.to_array(held), held.name
        if precision == "int8":
            codes, scale = quantised(weights, axes[name])
            graph.initializer.extend(
                [numpy_helper.from_array(codes, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
            )
            made.append(helper.make_node("Cast", [f"{name}.int8"], [f"{name}.codes"], to=TensorProto.FLOAT))
            made.append(helper.make_node("Mul", [f"{name}.codes", f"{name}.scale"], [name]))
        else:
            graph.initializer.append(numpy_helper.from_array(weights.astype(np.float16), f"{name}.fp16"))
            made.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
        graph.initializer.remove(held)
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def quantised(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes in [-127, 127], and the scale of each index along `axis`, broadcastable: weights ≈ codes · scale."""
    others = tuple(each for each in range(weights.ndim) if each != axis % weights.ndim)
    largest = np.abs(weights).max(others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weights / scale).astype(np.int8), scale


def _output_axis(node: Any) -> int:
    """The axis of a node's weights that counts its outputs."""
    by_rows = node.op_type == "Conv" or any(each.name == "transB" and each.i for each in node.attribute)
    return 0 if by_rows else -1
