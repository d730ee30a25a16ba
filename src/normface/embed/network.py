"""A PyTorch network as the Embedder wants it, and its export to ONNX with a parity check."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import ModelError
from ..models import Model
from ..types import Embeddings, Floats, InputSpec, OperatingPoint
from .embedder import POINT_KEY, SHA_KEY, SPEC_KEY, Embedder, Network

ORIGIN_KEY = "normface.origin"
PARITY = 1e-4  # largest difference allowed in any component of a unit embedding


def network(model: Model) -> Network:
    """[N, C, H, W] float32 → features [N, D], computed in float32 without gradients."""
    device = next(model.parameters()).device

    def run(pixels: NDArray[np.float32]) -> Floats:
        with torch.inference_mode():
            x = torch.from_numpy(pixels).to(device)
            features: Floats = model(x).float().cpu().numpy()
        return features

    return run


def export(
    model: Model,
    out: str | Path,
    *,
    sha256: str,
    operating_point: OperatingPoint | None = None,
    origin: Mapping[str, str] | None = None,
) -> float:
    """Write a model in evaluation mode as ONNX; InputSpec, weights' hash, operating point and origin in its metadata.

    origin: who trained the weights it goes back to, and their licence (`train.adopt`).
    Input `images` [N, C, H, W] float32, output `embeddings` [N, D] float32, not normalised; N is free.

    Returns:
        The largest difference between a component of the unit embeddings of ONNX Runtime and of PyTorch,
        over 8 random images and over 1.

    Raises:
        ModelError: the difference is above 1e-4, or the operating point is of other weights; nothing is written then.
        DataError: the file cannot be written.
    """
    pixels = _random_pixels(model.spec, 8)
    # Refuses a certificate of other weights before anything is written.
    Embedder(network(model), model.spec, sha256=sha256, operating_point=operating_point, name=Path(out).name)
    with replacing(out) as temporary:
        proto = _to_onnx(model.cpu(), torch.from_numpy(pixels))
        entries = {SPEC_KEY: model.spec.to_json(), SHA_KEY: sha256}
        if operating_point:
            entries[POINT_KEY] = operating_point.to_json()
        if origin:
            entries[ORIGIN_KEY] = json.dumps(dict(origin))
        for key, value in entries.items():
            proto.metadata_props.add(key=key, value=value)
        temporary.write_bytes(proto.SerializeToString())
        difference = _difference(Embedder.load(temporary).network, network(model), pixels)
        if difference > PARITY:
            raise ModelError(
                f"ONNX and PyTorch embeddings within {PARITY}", f"a difference of {difference:.2g}",
                "report it: the exported model was not kept",
            )  # fmt: skip
    return difference


def _random_pixels(spec: InputSpec, count: int) -> NDArray[np.float32]:
    shape = (count, spec.height, spec.width, 3)
    return spec.prepare(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def _difference(a: Network, b: Network, pixels: NDArray[np.float32]) -> float:
    ids = np.arange(len(pixels)).astype(str)
    whole, one = ((Embeddings(net(x), ids[: len(x)]).vectors for net in (a, b)) for x in (pixels, pixels[:1]))
    return float(max(np.abs(np.subtract(*whole)).max(), np.abs(np.subtract(*one)).max()))


def _to_onnx(model: Model, example: torch.Tensor) -> Any:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
        program = torch.onnx.export(
            model.eval(), (example,), dynamo=True, verbose=False, input_names=["images"],
            output_names=["embeddings"], dynamic_shapes=({0: torch.export.Dim("N")},), optimize=True,
        )  # fmt: skip
    assert program is not None
    return program.model_proto
