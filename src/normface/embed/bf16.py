"""Run a feed-forward ONNX network with PyTorch, with convolutions in bfloat16 on processors that support it natively.

ONNX Runtime has no bfloat16 kernels for CPUs; oneDNN, which torch uses, does. Products are summed in float32;
activations between layers are rounded to 8 significant bits. Fully connected layers stay in float32: they take little
time, and their rounding errors would not average out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..cpu import processor
from ..data.synthetic import face
from ..errors import ModelError
from ..faces import retarget
from ..types import Embeddings, Floats
from .network import Network, Run
from .torch_graph import TorchGraph, read_graph, unknown

COSINE = 0.9995  # minimum cosine to float32 of each of FACES drawn faces
FACES, BATCH = 16, 32
BF16 = torch.bfloat16


def pays(path: Path) -> bool:
    """Return True if bfloat16 is faster here: the processor multiplies it, and no convolution is depthwise.

    Depthwise convolutions are limited by memory, and faster in ONNX Runtime (benchmarks/embed.py).
    """
    if not processor().has_bf16:
        return False
    try:
        graph = read_graph(path)
    except ImportError:
        return False
    groups = [a.i for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
    return not unknown(graph) and max(groups, default=1) == 1


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
        self.path, self.graph = path.absolute(), TorchGraph(path, dtype=BF16)

    def __reduce__(self) -> tuple[type[_Bf16Run], tuple[Path]]:
        return _Bf16Run, (self.path,)

    def __call__(self, pixels: NDArray[np.float32]) -> Floats:
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(pixels)).to(BF16, memory_format=torch.channels_last)
            return np.asarray(self.graph(x).float().numpy())
