"""Export of a PyTorch network to ONNX, verified against the original."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import ModelError
from ..models import Model
from ..types import Embeddings, InputSpec, OperatingPoint, Result
from .embedder import Embedder
from .network import CONSTANTS_KEY, POINT_KEY, PRECISION_KEY, SHA_KEY, SPEC_KEY, Network
from .precision import StoredPrecision, store
from .pytorch import torch_runner
from .session import open_onnx
from .weights import fingerprint

SOURCE_KEY, ORIGIN_KEY = "normface.source_sha256", "normface.origin"
PARITY_KEY, GATE_KEY = "normface.parity", "normface.gate"
PARITY = 1e-4  # maximum difference in any component of a unit embedding
COSINES = {"int8": 0.99, "fp16": 0.9999}  # minimum cosine: a lower one is a fault, not rounding

Judge = Callable[[Embedder, Embedder], tuple[OperatingPoint, Result]]


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        sha256: of the weights in the file: that of the run in fp32, a different one in fewer bits.
        difference, cosine: largest difference between components of the unit embeddings of ONNX Runtime and PyTorch,
            and the smallest cosine between them, over batches of 8 and 1 random images.
        operating_point: the one in the metadata, if any.
        gate: the result of the judge, if there was one.
    """

    precision: StoredPrecision
    sha256: str
    difference: float
    cosine: float
    operating_point: OperatingPoint | None
    gate: Result | None


def export(
    model: Model,
    out: str | Path,
    *,
    sha256: str,
    operating_point: OperatingPoint | None = None,
    origin: Mapping[str, str] | None = None,
    precision: StoredPrecision = "fp32",
    judge: Judge | None = None,
) -> Exported:
    """Export a model in evaluation mode to ONNX, with InputSpec, weights' hash and operating point in the metadata.

    origin: origin and license of the weights, from `train.adopt`.
    Input `images` [N, C, H, W] float32, output `embeddings` [N, D] float32, not normalized; N is variable.
    In int8 or fp16 the result is a different model with its own hash, so `operating_point` is omitted. The judge gets
    the original and the new model, and returns an operating point for the new one, or raises an error.

    Raises:
        ModelError: ONNX and PyTorch differ by more than 1e-4 in a component (fp32), or their cosine is below 0.99
            (int8) or 0.9999 (fp16); or the operating point belongs to other weights. Nothing is written then, nor if
            the judge raises an error.
        DataError: the file cannot be written.
    """
    pixels = _random_pixels(model.spec, 8)
    # Rejects a certificate made for other weights before anything is written.
    full = Network(torch_runner(model), model.spec, sha256, operating_point, Path(out).name)
    with replacing(out) as temporary:
        proto = _to_onnx(model.cpu(), torch.from_numpy(pixels))
        store(proto, precision)
        own, point, found = sha256, operating_point, None
        entries = {SPEC_KEY: model.spec.to_json(), CONSTANTS_KEY: fingerprint(proto.SerializeToString())}
        if origin:
            entries[ORIGIN_KEY] = json.dumps(dict(origin))
        if precision != "fp32":
            own, point = entries[CONSTANTS_KEY], None
            entries |= {PRECISION_KEY: precision, SOURCE_KEY: sha256}
        entries[SHA_KEY] = own
        _write(proto, entries, temporary)
        written = replace(open_onnx(temporary), name=full.name)
        difference, cosine = _parity(written, full, pixels)
        _check_parity(precision, difference, cosine)
        if judge:
            point, found = judge(Embedder(full), Embedder(written))
            entries[GATE_KEY] = found.to_json()
        if point:
            entries[POINT_KEY] = point.to_json()
        entries[PARITY_KEY] = json.dumps({"max_difference": difference, "min_cosine": cosine, "images": len(pixels)})
        _write(proto, entries, temporary)
    return Exported(precision, own, difference, cosine, point, found)


def _write(proto: Any, entries: Mapping[str, str], path: Path) -> None:
    del proto.metadata_props[:]
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _check_parity(precision: StoredPrecision, difference: float, cosine: float) -> None:
    if precision == "fp32" and difference > PARITY:
        raise ModelError(
            f"ONNX and PyTorch embeddings within {PARITY}", f"a difference of {difference:.2g}",
            "report this as a bug; nothing was written",
        )  # fmt: skip
    if precision != "fp32" and cosine < COSINES[precision]:
        raise ModelError(
            f"embeddings in {precision} at a cosine of {COSINES[precision]} or more to the original's", f"{cosine:.5f}",
            "export with --fp16, or without either; nothing was written",
        )  # fmt: skip


def _random_pixels(spec: InputSpec, count: int) -> NDArray[np.float32]:
    shape = (count, spec.height, spec.width, 3)
    return spec.prepare(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def _parity(a: Network, b: Network, pixels: NDArray[np.float32]) -> tuple[float, float]:
    ids = np.arange(len(pixels)).astype(str)
    pairs = [[Embeddings(net(x), ids[: len(x)]).vectors for net in (a, b)] for x in (pixels, pixels[:1])]
    difference = max(float(np.abs(one - other).max()) for one, other in pairs)
    return difference, min(float(np.einsum("nd,nd->n", one, other).min()) for one, other in pairs)


def _to_onnx(model: Model, example: torch.Tensor) -> Any:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
        program = torch.onnx.export(
            model.eval(), (example,), dynamo=True, verbose=False, input_names=["images"],
            output_names=["embeddings"], dynamic_shapes=({0: torch.export.Dim("N")},), optimize=True,
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]  # torch's exporter stores stack traces there, with paths of this machine
    return proto
