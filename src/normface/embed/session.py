"""ONNX files run by ONNX Runtime, without torch."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..system_facts import usable_cores
from ..types import Floats, InputSpec, OperatingPoint
from .network import CONSTANTS_KEY, POINT_KEY, PRECISION_KEY, SHA_KEY, SPEC_KEY, Network, certificate
from .weights import fingerprint

MICRO = 8  # images a thread takes at once: more leave the processor's cache, fewer cost calls (benchmarks/embed.py)
ON_GPU = 128
_log = logging.getLogger("normface")


def open_onnx(path: Path, *, certified: bool = True) -> Network:
    """Open an ONNX model with InputSpec and operating point in its metadata or next to it; see `Embedder.load`.

    It computes in float32, on an NVIDIA GPU if the GPU build of ONNX Runtime is installed, otherwise on all cores.
    Raises ModelError if file, specification or shapes do not fit.
    """
    run = OnnxRun(path)
    session = run.session
    metadata = session.get_modelmeta().custom_metadata_map
    spec_file, point_file = path.with_suffix(".spec.json"), certificate(path)
    # As bytes: text that is no UTF-8 is then reported like any other damage.
    spec_text = spec_file.read_bytes() if spec_file.exists() else metadata.get(SPEC_KEY)
    point_text = point_file.read_bytes() if point_file.exists() else metadata.get(POINT_KEY)
    if spec_text is None:
        example = InputSpec(112, 112, template="112x112").to_json()
        raise ModelError(
            "an InputSpec in the model's metadata or beside it", f"neither in {path} nor at {spec_file}",
            f"write {spec_file.name}, for example {example}",
        )  # fmt: skip
    spec = InputSpec.from_json(spec_text)
    _check_shape(session, spec, path)
    on_gpu = session.get_providers()[0] != "CPUExecutionProvider"
    return Network(
        run,
        spec,
        sha256=_sha256(path, metadata),
        operating_point=OperatingPoint.from_json(point_text) if point_text and certified else None,
        name=path.name,
        threads=1 if on_gpu else usable_cores(),
        batch=ON_GPU if on_gpu else MICRO,
        device="gpu" if on_gpu else "cpu",
    )


def _sha256(path: Path, metadata: Mapping[str, str]) -> str:
    """SHA-256 of the weights, computed from them: what the file says of itself counts only where it agrees.

    A float32 export has the hash of the run that it was made of, and names that of its own constants beside it.
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


def _session(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise ModelError("an ONNX file or a run folder", f"nothing at {path}", "correct the path, or train it first")
    options = onnxruntime.SessionOptions()
    # Threads of ours take a few images each: never slower here than threads inside an operator, and other work on the
    # machine, for which those wait at every layer, costs its share only.
    options.intra_op_num_threads = 1
    chosen = [
        p for p in onnxruntime.get_available_providers() if p in ("CUDAExecutionProvider", "CPUExecutionProvider")
    ]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise ModelError("a readable ONNX model", f"{path} ('{error}')", "export it again") from error


class OnnxRun:
    """The network of an ONNX file as a function; opened anew in every process that it comes to.

    Copies and pickles open the file again, and raise ModelError if it holds other bytes by then.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        if sha256 is not None and _digest(path) != sha256:
            raise ModelError(f"{path} as it was when it was loaded", "other bytes", "load it again")
        self.path, self._opened = path.absolute(), (os.getpid(), _session(path))

    def __reduce__(self) -> tuple[type[OnnxRun], tuple[Path, str]]:
        return OnnxRun, (self.path, _digest(self.path))

    @property
    def session(self) -> Any:
        """ONNX Runtime's, of this process."""
        if self._opened[0] != os.getpid():  # forked
            self._opened = (os.getpid(), _session(self.path))
        return self._opened[1]

    def __call__(self, pixels: NDArray[np.float32]) -> Floats:
        """Features of any number of images, also by a model whose batch size is fixed."""
        session = self.session
        source = session.get_inputs()[0]
        fixed = source.shape[0] if isinstance(source.shape[0], int) else len(pixels)
        parts = []
        for start in range(0, len(pixels), fixed):
            part = pixels[start : start + fixed]
            full = np.concatenate([part, np.zeros_like(pixels[:1]).repeat(fixed - len(part), 0)])
            parts.append(np.asarray(session.run(None, {source.name: full})[0])[: len(part)])
        return np.concatenate(parts)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"the model at {path}", f"'{error.strerror}'", "put the file back") from error


def _check_shape(session: Any, spec: InputSpec, path: Path) -> None:
    inputs = session.get_inputs()
    shape = inputs[0].shape
    wanted = (spec.channels, spec.height, spec.width)
    flat = len(session.get_outputs()[0].shape) == 2
    fits = len(inputs) == 1 and len(shape) == 4 and inputs[0].type == "tensor(float)" and flat
    if not fits or any(isinstance(s, int) and s != w for s, w in zip(shape[1:], wanted, strict=True)):
        raise ModelError(
            f"a model with one float32 input [N, {', '.join(map(str, wanted))}] as its InputSpec says, output [N, D]",
            f"{path} with {[(i.type, i.shape) for i in inputs]} and {session.get_outputs()[0].shape}",
            "correct the InputSpec, or export the model so",
        )  # fmt: skip
