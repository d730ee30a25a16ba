"""Faces in photographs: detection, landmarks and aligned crops."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..data.catalogue import catalogue, fetched
from ..errors import ConfigError
from ..inference import Device
from ..registry import Registry, meant
from ..types import Face, Image
from .alignment import align, retarget, size_fault
from .face_choice import Choice, central, choose
from .quality import Pose, eye_distance, pose, shape, sharpness, signals
from .template import TEMPLATES, Template, find_template, similarity

__all__ = [
    "DETECTORS", "TEMPLATES", "Choice", "Detector", "Pose", "Template", "align", "central", "choose", "eye_distance",
    "find_template", "open_detector", "pose", "retarget", "shape", "sharpness", "signals", "similarity", "size_fault",
]  # fmt: skip


class Detector(Protocol):
    """Finds faces in photographs; safe to use from several threads.

    A detector may have two attributes, measured for its scores: `plausible` and `sure`. A face with a score
    below `plausible` is doubtful if another face reaches it. If the best score is below `sure`, the photograph may be
    turned by 90, 180 or 270 degrees (`faces.finding`). Without them, no face is doubtful and no photograph is turned.
    """

    def detect(self, image: Image) -> list[Face]:
        """Detect faces in a photograph [H, W, 3] uint8 RGB, most confident first."""
        ...

    def detect_many(self, images: Sequence[Image]) -> list[list[Face]]:
        """Detect faces in several photographs: the same faces as `detect`, faster if the detector supports batches."""
        ...


DETECTORS: Registry[Detector] = Registry("detector", __name__)


def open_detector(name: str = "mtcnn", *, weights: str | Path | None = None, device: Device = "auto") -> Detector:
    """Open a detector: by its name in the registry, with the ONNX file `weights` if it needs one, or a fetched one.

    Fetched ones have their names in the catalogue (`normface models`), such as scrfd-10g. Raises ConfigError for an
    unknown name, ModelError for missing or other weights; for the device see `inference.Session`.
    """
    options: dict[str, Any] = {} if device == "auto" else {"device": device}
    if weights is not None:
        return DETECTORS.build(name, weights=weights, **options)
    if name == "mtcnn":
        return DETECTORS.build(name, **options)
    listed = {each: found for each, found in catalogue().items() if found.kind == "detector"}
    if name in listed:
        return DETECTORS.build(listed[name].detector, weights=fetched(listed[name]), **options)
    if name not in DETECTORS:
        known = list(dict.fromkeys([*DETECTORS, *listed]))
        raise ConfigError(f"a detector among {', '.join(known)}", repr(name), meant(name, known))
    return DETECTORS.build(name, **options)
