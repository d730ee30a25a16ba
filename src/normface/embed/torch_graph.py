"""Runs a feed-forward ONNX network by PyTorch on any device: in bfloat16 on CPUs, a teacher on the student's GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ModelError, require

CPU = torch.device("cpu")
Attributes = Mapping[str, Any]


def _conv(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    pads = a.get("pads", [0] * 4)
    if pads[:2] != pads[2:]:  # ONNX: top, left, bottom, right
        x, pads = F.pad(x, (pads[1], pads[3], pads[0], pads[2])), [0] * 4
    return F.conv2d(x, w, b, a.get("strides", 1), pads[:2], a.get("dilations", 1), a.get("group", 1))


def _clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, *(None if bound is None else float(bound) for bound in (low, high)))


def _gemm(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    x = x.float()
    y: Tensor = (x.T if a.get("transA") else x) @ (w.T if a.get("transB") else w) * a.get("alpha", 1.0)
    return y if b is None else y + a.get("beta", 1.0) * b


def _batch_norm(a: Attributes, x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean.float(), var.float(), w.float(), b.float(), eps=a.get("epsilon", 1e-5))


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [x.shape[i] if size == 0 and not a.get("allowzero") else size for i, size in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    pads = a.get("pads", [0] * 4)
    return F.avg_pool2d(x, a["kernel_shape"], a.get("strides", 1), pads[:2], bool(a.get("ceil_mode")), False)


def _resize(a: Attributes, x: Tensor, roi: Tensor | None, scales: Tensor | None, sizes: Tensor | None = None) -> Tensor:
    size, scale = (None if given is None else given.tolist()[2:] for given in (sizes, scales))
    return F.interpolate(x, size, None if size else scale, "bilinear", False, recompute_scale_factor=False)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Conv": _conv, "Clip": _clip, "Gemm": _gemm, "BatchNormalization": _batch_norm, "Reshape": _reshape,
    "Relu": lambda a, x: F.relu(x), "Sigmoid": lambda a, x: torch.sigmoid(x), "Identity": lambda a, x: x,
    "PRelu": lambda a, x, w: F.prelu(x, w.flatten().to(x.dtype)), "MatMul": lambda a, x, y: x.float() @ y.float(),
    "Add": lambda a, x, y: x + y.to(x.dtype), "Mul": lambda a, x, y: x * y.to(x.dtype),
    "Sub": lambda a, x, y: x - y.to(x.dtype), "Div": lambda a, x, y: x / y.to(x.dtype),
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True), "AveragePool": _average_pool, "Resize": _resize,
}  # fmt: skip
# Attributes that must have one value, with the value that they have where they are not given.
FIXED: dict[str, dict[str, tuple[Any, Any]]] = {
    "Resize": {"mode": ("linear", "nearest"), "antialias": (0, 0), "axes": (None, None),
               "coordinate_transformation_mode": ("half_pixel", "half_pixel")},
    "AveragePool": {"auto_pad": ("NOTSET", "NOTSET"), "count_include_pad": (0, 0)},
}  # fmt: skip


class TorchGraph:
    """The network of an ONNX file: images [N, C, H, W] → features [N, D].

    Args:
        dtype: of the convolutions' weights; give images of the same.
        device: of the weights and images. Shapes and bounds, which operators read as numbers, stay on the host.

    Raises:
        ModelError: operators that are not supported.
    """

    def __init__(self, path: Path, *, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> None:
        onnx, graph = require("onnx", "train"), read_graph(path)
        if found := unknown(graph):
            raise ModelError("operators that PyTorch can run here", ", ".join(found), "use --precision fp32")
        rounded = {name for n in graph.node if n.op_type == "Conv" for name in n.input[1:]}
        numbers = {name for n in graph.node if n.op_type in ("Reshape", "Resize", "Clip") for name in n.input[1:]}
        self.weights: dict[str, Tensor] = {}
        for tensor in graph.initializer:
            value = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
            if tensor.name in rounded:
                value = value.to(dtype)
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            self.weights[tensor.name] = value if tensor.name in numbers else value.to(device)
        self.nodes = [
            (OPERATORS[n.op_type], {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute},
             list(n.input), n.output[0])
            for n in graph.node
        ]  # fmt: skip
        self.source, self.target = graph.input[0].name, graph.output[0].name
        self.last = {name: i for i, (_, _, inputs, _) in enumerate(self.nodes) for name in inputs}

    def __call__(self, images: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {"": None, **self.weights, self.source: images}
        for i, (operator, attributes, inputs, output) in enumerate(self.nodes):
            values[output] = operator(attributes, *(values[name] for name in inputs))
            for name in inputs:
                if name and self.last[name] == i and name not in self.weights:
                    values.pop(name, None)  # its memory is used again
        found = values[self.target]
        assert found is not None
        return found


def read_graph(path: Path) -> Any:
    """An ONNX file's graph, its weights computed: those in 8 or 16 bits are stored as Cast(codes) · scale."""
    onnx = require("onnx", "train")
    graph = onnx.load(str(path)).graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    left = []
    for node in graph.node:
        computed = node.op_type == "Mul" or (node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT)
        if not (computed and all(name in known for name in node.input)):
            left.append(node)
            continue
        given = [onnx.numpy_helper.to_array(known[name]) for name in node.input]
        value = given[0].astype(np.float32) if node.op_type == "Cast" else given[0] * given[1]
        known[node.output[0]] = onnx.numpy_helper.from_array(value, node.output[0])
        graph.initializer.append(known[node.output[0]])
    del graph.node[:]
    graph.node.extend(left)
    return graph


def unknown(graph: Any) -> list[str]:
    """What of a graph is not supported."""
    constants = {tensor.name for tensor in graph.initializer}
    odd = {"Conv with computed weights" for n in graph.node if n.op_type == "Conv" and n.input[1] not in constants}
    helper = require("onnx", "train").helper
    for n in graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in n.attribute}
        for name, (wanted, default) in FIXED.get(n.op_type, {}).items():
            value = given.get(name, default)
            if (value.decode() if isinstance(value, bytes) else value) != wanted:
                odd.add(f"{n.op_type} with another {name}")
    return sorted({n.op_type for n in graph.node} - OPERATORS.keys() | odd)
