"""Run ONNX files with ONNX Runtime on the CPU, a GPU or another accelerator."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from .errors import ConfigError, MissingDependency, ModelError
from .onnx_graph import count_inputs, without_spare_inputs
from .types import Floats

Device = Literal["auto", "cpu", "cuda", "tensorrt", "coreml", "openvino", "directml"]
CPU = "CPUExecutionProvider"
_log = logging.getLogger("normface")


class _Provider(NamedTuple):
    name: str
    package: str


PROVIDERS = {
    "cpu": _Provider(CPU, "onnxruntime"),
    "cuda": _Provider("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": _Provider("TensorrtExecutionProvider", "onnxruntime-gpu, and NVIDIA TensorRT"),
    "coreml": _Provider("CoreMLExecutionProvider", "onnxruntime, on macOS"),
    "openvino": _Provider("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "directml": _Provider("DmlExecutionProvider", "onnxruntime-directml, on Windows"),
}
_BEHIND = {"tensorrt": ("cuda",)}  # runs the operators that a provider does not support, before the CPU


class Session:
    """A session of ONNX Runtime. Threads can share it; a copy, a pickle and a forked process open their own.

    Args:
        model: path of the file, or its bytes.
        device: "auto" uses an NVIDIA GPU if the GPU build of ONNX Runtime is installed, otherwise the CPU.
        sha256: required hash of the file, such as that of an earlier session.

    Inputs that no node uses and inputs that are constants are removed first: some published models have hundreds.

    If an execution provider cannot run the model, now or later, the CPU runs it, and a warning says so.

    Raises:
        ConfigError: an unknown device.
        MissingDependency: the installed ONNX Runtime does not have the device's execution provider.
        ModelError: the file is missing, is not an ONNX model, or has another hash.
    """

    def __init__(self, model: Path | bytes, device: Device = "auto", sha256: str | None = None) -> None:
        self.model, self.asked = model if isinstance(model, bytes) else model.absolute(), device
        self._providers = _providers(device)
        self._lock = threading.Lock()
        if sha256 is not None and self._digest() != sha256:
            raise ModelError(f"{self} as it was when it was loaded", "other bytes", "load it again")
        self._opened = (os.getpid(), self._open())

    def __str__(self) -> str:
        return "the model" if isinstance(self.model, bytes) else str(self.model)

    def __reduce__(self) -> tuple[type[Session], tuple[Path | bytes, Device, str]]:
        return Session, (self.model, self.asked, self._digest())

    @property
    def session(self) -> Any:
        """ONNX Runtime's session of this process."""
        if self._opened[0] != os.getpid():  # forked
            self._lock, self._opened = threading.Lock(), (os.getpid(), self._open())
        return self._opened[1]

    @property
    def device(self) -> str:
        """Name of the device in use."""
        used = self.session.get_providers()[0]
        return next((name for name, provider in PROVIDERS.items() if provider.name == used), used)

    def run(self, feeds: dict[str, Any]) -> list[Floats]:
        """Run the model. Returns its outputs."""
        session = self.session
        try:
            return list(session.run(None, feeds))
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            if session.get_providers()[0] == CPU:
                raise
            self._fall_back(session, error)
            return list(self.session.run(None, feeds))

    def _open(self) -> Any:
        wanted = self._providers[0]
        try:
            session = self._session(self._providers)
        except Exception as error:
            if wanted == CPU:
                raise ModelError("a readable ONNX model", f"{self} ('{error}')", "export it again") from error
            self._providers = [CPU]
            session = self._open()
            _log.warning("%s cannot be loaded by %s: the processor runs it ('%s')", self, wanted, error)
            return session
        if session.get_providers()[0] != wanted:
            _log.warning("%s is not usable here: the processor runs %s", wanted, self)
        return session

    def _session(self, providers: list[str]) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Threads of ours take a few images each: never slower here than threads inside an operator, and other work on
        # the machine, for which those wait at every layer, costs its share only.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # without its advice on exporting the model
        model = self.model
        data = model if isinstance(model, bytes) else _read(model)
        if count_inputs(data) > 1:
            model = without_spare_inputs(data)
        return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers)

    def _fall_back(self, failed: Any, error: Exception) -> None:
        with self._lock:
            if self._opened[1] is failed:
                self._providers = [CPU]
                self._opened = (os.getpid(), self._open())
                name = failed.get_providers()[0]
                _log.warning("%s failed on %s: the processor goes on ('%s')", name, self, error)

    def _digest(self) -> str:
        return hashlib.sha256(self.model if isinstance(self.model, bytes) else _read(self.model)).hexdigest()


def _providers(device: str) -> list[str]:
    """ONNX Runtime's names for a device and its fallbacks."""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if device == "auto":
        return [PROVIDERS[name].name for name in ("cuda", "cpu") if PROVIDERS[name].name in there]
    if device not in PROVIDERS:
        raise ConfigError(f"a device among {', '.join(get_args(Device))}", repr(device), "correct --device")
    wanted = PROVIDERS[device]
    if wanted.name not in there:
        known = [name for name, provider in PROVIDERS.items() if provider.name in there]
        raise MissingDependency(
            f"an ONNX Runtime with {wanted.name} for --device {device}", f"one for {', '.join(known)}",
            f"install it in place of yours: pip install {wanted.package}",
        )  # fmt: skip
    behind = [PROVIDERS[name].name for name in (*_BEHIND.get(device, ()), "cpu")]
    return list(dict.fromkeys([wanted.name, *(name for name in behind if name in there)]))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"the model at {path}", f"'{error.strerror}'", "put the file back") from error
