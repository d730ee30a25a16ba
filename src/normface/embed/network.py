"""A network ready to run, with its specification and operating point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..data.catalogue import listed_as
from ..errors import ModelError
from ..types import Floats, InputSpec, OperatingPoint

# ONNX metadata
SPEC_KEY, SHA_KEY, POINT_KEY = "normface.spec", "normface.weights_sha256", "normface.operating_point"
CONSTANTS_KEY, PRECISION_KEY = "normface.constants_sha256", "normface.precision"
Run = Callable[[NDArray[np.float32]], Floats]


@dataclass(frozen=True)
class Network:
    """A network with its preprocessing and its operating point; calling it runs it.

    Attributes:
        run: [N, C, H, W] float32 → features [N, D].
        spec: the input it expects.
        sha256: of the weights.
        operating_point: the certified threshold, if any.
        name: for messages.
        threads: number of concurrent calls of `run`; 1 if it uses all cores by itself.
        batch: number of images per call.
        precision: of the computation.

    Raises:
        ModelError: the operating point was certified on another model.
    """

    run: Run
    spec: InputSpec
    sha256: str
    operating_point: OperatingPoint | None = None
    name: str = "model"
    threads: int = 1
    batch: int = 32
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        point = self.operating_point
        if point and point.model_sha256 != self.sha256:
            raise ModelError(
                f"an operating point certified on this model ({self.sha256[:12]}…)",
                f"one certified on {point.model_sha256[:12]}…", f"calibrate {self.name} again: normface calibrate",
            )  # fmt: skip

    @property
    def device(self) -> str:
        """The device on which the network runs: cpu, or another name for `--device`."""
        return str(getattr(self.run, "device", "cpu"))

    def __call__(self, pixels: NDArray[np.float32]) -> Floats:
        return self.run(pixels)


def certificate(model: str | Path) -> Path:
    """Return the path of a model's operating point: in its run folder, or next to its file, fetched or its own."""
    listed = listed_as(model)
    model = listed.path if listed else Path(model)
    return model / "operating_point.json" if model.is_dir() else model.with_suffix(".operating_point.json")


def operating_point(model: str | Path) -> OperatingPoint | None:
    """Read a model's operating point, if there is one. Raises ConfigError if it is damaged."""
    path = certificate(model)
    return OperatingPoint.from_json(path.read_bytes()) if path.exists() else None
