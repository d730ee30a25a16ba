"""Run a feed-forward ONNX network with PyTorch, with convolutions in bfloat16 on processors that support it natively.

ONNX Runtime has no bfloat16 kernels for CPUs; oneDNN, which torch uses, does. Products are summed in float32;
activations between layers are rounded to 8 significant bits. Fully connected layers stay in float32: they take little
time, and their rounding errors would not average out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..cpu import processor
from ..data.synthetic import face
from ..errors import ModelError, require
from ..faces import retarget
from ..types import Embeddings, Floats
from .network import Network, Run

COSINE = 0.9995  # minimum cosine to float32 of each of FACES drawn faces
FACES, BATCH = 16, 32
BF16 = torch.bfloat16
Attributes = Mapping[str, Any]


def pays(path: Path) -> bool:
    """Return True if bfloat16 is faster here: the processor multiplies it, and no convolution is depthwise.

    Depthwise convolutions are limited by memory, and faster in ONNX Runtime (benchmarks/embed.py).
    """
    if not processor().has_bf16:
        return False
    try:
        graph = _read(path)
    except ImportError:
        return False
    groups = [a.i for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
    return not _unknown(graph) and max(groups, default=1) == 1


def in_bf16(network: Network, path: Path, precision: Literal["auto", "bf16"]) -> Network:
    """Convert the network of an ONNX file to bfloat16, without operating point; "auto" keeps float32 if too inexact.

    Raises ModelError for unsupported operators and, with "bf16", for a cosine to float32 below COSINE.
    """
    found = rounded(network, path)
    cosine = agreement(network, found)
    if cosine >= COSINE:
        return found
    if precision == "auto":
        return network
    raise ModelError(
        f"cosines to float32 of {COSINE} or more in bfloat16", f"{cosine:.5f} on drawn faces with {path}",
        "use --precision fp32",
    )  # fmt: skip


def rounded(network: Network, path: Path) -> Network:
    """Convert the network of an ONNX file to bfloat16, however inexact. Raises ModelError for unsupported operators."""
    return replace(network, run=bf16_runner(path), operating_point=None, threads=1, batch=BATCH, precision="bf16")


def agreement(a: Network, b: Network) -> float:
    """Return the smallest cosine between two networks' embeddings of the same drawn faces."""
    drawn = np.stack([face(0, person, 0) for person in range(FACES)])
    spec = a.spec
    crops = retarget(drawn, spec.template) if (spec.height, spec.width) != drawn.shape[1:3] else drawn
    pixels, ids = spec.prepare(crops), np.arange(FACES).astype(str)
    one, other = (Embeddings(net(pixels), ids).vectors for net in (a, b))
    return float(np.einsum("nd,nd->n", one, other, dtype=np.float64).min())


def bf16_runner(path: Path) -> Run:
    """Return a function [N, C, H, W] float32 → features [N, D] float32. Raises ModelError for unsupported operators."""
    return _Bf16Run(path)


class _Bf16Run:
    """The network of a file as a function; copies and pickles read the file again."""

    def __init__(self, path: Path) -> None:
        self.path, self.graph = path.absolute(), _Graph(path)

    def __reduce__(self) -> tuple[type[_Bf16Run], tuple[Path]]:
        return _Bf16Run, (self.path,)

    def __call__(self, pixels: NDArray[np.float32]) -> Floats:
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(pixels)).to(BF16, memory_format=torch.channels_last)
            return np.asarray(self.graph(x).float().numpy())


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


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Conv": _conv, "Clip": _clip, "Gemm": _gemm, "BatchNormalization": _batch_norm, "Reshape": _reshape,
    "Relu": lambda a, x: F.relu(x), "Sigmoid": lambda a, x: torch.sigmoid(x), "Identity": lambda a, x: x,
    "PRelu": lambda a, x, w: F.prelu(x, w.flatten().to(x.dtype)), "MatMul": lambda a, x, y: x.float() @ y.float(),
    "Add": lambda a, x, y: x + y.to(x.dtype), "Mul": lambda a, x, y: x * y.to(x.dtype),
    "Sub": lambda a, x, y: x - y.to(x.dtype), "Div": lambda a, x, y: x / y.to(x.dtype),
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
}  # fmt: skip


class _Graph:
    """The network of an ONNX file: its nodes in order, with names replaced by indices into a list of values."""

    def __init__(self, path: Path) -> None:
        onnx, graph = require("onnx", "train"), _read(path)
        if unknown := _unknown(graph):
            raise ModelError("operators that bf16 supports", ", ".join(unknown), "use --precision fp32")
        rounded = {name for n in graph.node if n.op_type == "Conv" for name in n.input[1:]}
        self.weights: dict[str, Tensor] = {}
        for tensor in graph.initializer:
            value = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
            if tensor.name in rounded:
                value = value.to(BF16)
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            self.weights[tensor.name] = value
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
                    values.pop(name, None)  # its memory is reused
        found = values[self.target]
        assert found is not None
        return found


def _read(path: Path) -> Any:
    """An ONNX file's graph and its weights; weights in 8 or 16 bits are stored as Cast(codes) · scale."""
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


def _unknown(graph: Any) -> list[str]:
    constants = {tensor.name for tensor in graph.initializer}
    odd = {"Conv with computed weights" for n in graph.node if n.op_type == "Conv" and n.input[1] not in constants}
    return sorted({n.op_type for n in graph.node} - OPERATORS.keys() | odd)
