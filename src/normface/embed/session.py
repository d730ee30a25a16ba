"""ONNX files of face recognizers as Networks, without torch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.catalogue import by_sha256
from ..errors import ModelError
from ..inference import Device, Session
from ..system_facts import usable_cores
from ..types import Floats, InputSpec, OperatingPoint
from .network import CONSTANTS_KEY, POINT_KEY, PRECISION_KEY, SHA_KEY, SPEC_KEY, Network, certificate
from .weights import fingerprint

MICRO = 8  # images per call: more exceed the processor's cache, fewer need more calls (benchmarks/embed.py)
ON_ACCELERATOR = 128
PIXELS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_log = logging.getLogger("normface")


def open_onnx(path: Path, *, certified: bool = True, device: Device = "auto") -> Network:
    """Open an ONNX model with InputSpec and operating point in its metadata or next to it; see `Embedder.load`.

    The model takes float32, float16 or uint8 pixels [N, C, H, W] or [N, H, W, C], and returns features [N, D] or
    [N, D, 1, 1], possibly among other outputs. On the CPU it uses all cores. The catalogue provides the InputSpec of
    its models. Raises ModelError if file, specification or shapes do not fit; for the device see `Session`.
    """
    session = Session(path, device)
    metadata = session.session.get_modelmeta().custom_metadata_map
    spec_file, point_file = path.with_suffix(".spec.json"), certificate(path)
    # As bytes, so that text that is not UTF-8 is reported like other damage.
    spec_text = spec_file.read_bytes() if spec_file.exists() else metadata.get(SPEC_KEY)
    point_text = point_file.read_bytes() if point_file.exists() else metadata.get(POINT_KEY)
    sha256 = _sha256(path, metadata)
    listed = by_sha256(sha256) if spec_text is None else None
    if spec_text is None and (listed is None or listed.spec is None):
        example = InputSpec(112, 112, template="112x112").to_json()
        raise ModelError(
            "an InputSpec in the model's metadata or beside it", f"neither in {path} nor at {spec_file}",
            f"write {spec_file.name}, for example {example}",
        )  # fmt: skip
    spec = listed.spec if listed and listed.spec else InputSpec.from_json(spec_text or b"")
    run = OnnxRun(session, _form(session.session, spec, path))
    on_processor = session.device == "cpu"
    return Network(
        run,
        spec,
        sha256=sha256,
        operating_point=OperatingPoint.from_json(point_text) if point_text and certified else None,
        name=path.name,
        threads=usable_cores() if on_processor else 1,
        batch=MICRO if on_processor else ON_ACCELERATOR,
    )


def _sha256(path: Path, metadata: Mapping[str, str]) -> str:
    """SHA-256 of the weights, computed from them; the hash in the file only counts if it agrees.

    A float32 export has the hash of the run that it was made from, and also names the hash of its own constants.
    """
    data = path.read_bytes()
    own, named, constants = fingerprint(data, path.parent), metadata.get(SHA_KEY), metadata.get(CONSTANTS_KEY)
    if named is None:
        return hashlib.sha256(data).hexdigest()
    if own in (named, constants):
        return named
    if constants is None and PRECISION_KEY not in metadata:
        _log.warning("%s does not say which weights it holds, so they cannot be checked: export it again", path)
        return named
    return own


class _Form(NamedTuple):
    """Inputs and outputs of a model: names, order of axes, type, batch size (0: any), index of the output."""

    source: str
    channels_last: bool
    dtype: type
    batch: int
    output: int


class OnnxRun:
    """The network of an ONNX file as a function [N, C, H, W] float32 → features [N, D] float32."""

    def __init__(self, session: Session, form: _Form) -> None:
        self.session, self.form = session, form

    @property
    def device(self) -> str:
        """The device in use."""
        return self.session.device

    def __call__(self, pixels: NDArray[np.float32]) -> Floats:
        """Compute features of any number of images, even if the model has a fixed batch size."""
        form = self.form
        given: NDArray[Any] = pixels.transpose(0, 2, 3, 1) if form.channels_last else pixels
        if form.dtype is np.uint8:
            given = np.rint(given)
        given = np.ascontiguousarray(given, form.dtype)
        size, parts = form.batch or len(given), []
        for start in range(0, len(given), size):
            part = given[start : start + size]
            full = np.concatenate([part, np.zeros_like(given[:1]).repeat(size - len(part), 0)])
            found = self.session.run({form.source: full})[form.output]
            parts.append(np.asarray(found, np.float32)[: len(part)].reshape(len(part), -1))
        return np.concatenate(parts)


def _form(session: Any, spec: InputSpec, path: Path) -> _Form:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    first, last = (spec.channels, spec.height, spec.width), (spec.height, spec.width, spec.channels)
    shape = inputs[0].shape
    # The features are the first output with more than one value per image; others are norms or scores.
    features = [at for at, each in enumerate(outputs) if _holds_features(each.shape)]
    whole = len(inputs) == 1 and len(shape) == 4 and inputs[0].type in PIXELS and features
    plain = (set(spec.mean), set(spec.std)) == ({0.0}, {1.0})
    if not whole or not (_fits(shape, first) or _fits(shape, last)):
        raise ModelError(
            f"a model with one input [N, {', '.join(map(str, first))}] or [N, {', '.join(map(str, last))}] of float32, "
            "float16 or uint8 as its InputSpec says, and an output [N, D]",
            f"{path} with {[(i.type, i.shape) for i in inputs[:3]]} and {[o.shape for o in outputs[:3]]}",
            "correct the InputSpec, or export the model so",
        )  # fmt: skip
    if inputs[0].type == "tensor(uint8)" and not plain:
        raise ModelError(
            "an InputSpec with mean 0 and std 1 for a model that takes uint8 pixels",
            f"mean {list(spec.mean)} and std {list(spec.std)} for {path}", "correct the InputSpec",
        )  # fmt: skip
    batch = shape[0] if isinstance(shape[0], int) else 0
    return _Form(inputs[0].name, not _fits(shape, first), PIXELS[inputs[0].type], batch, features[0])


def _holds_features(shape: list[Any]) -> bool:
    return len(shape) in (2, 4) and shape[1] != 1 and shape[2:] in ([], [1, 1])


def _fits(shape: list[Any], wanted: tuple[int, ...]) -> bool:
    return all(not isinstance(size, int) or size == want for size, want in zip(shape[1:], wanted, strict=True))
