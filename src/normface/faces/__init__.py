"""Photograph → faces with landmarks → aligned crops."""

from collections.abc import Sequence
from typing import Protocol

from ..registry import Registry
from ..types import Face, Image
from .alignment import align, retarget, size_fault
from .face_choice import Choice, central, choose
from .quality import Pose, eye_distance, pose, shape, sharpness, signals
from .template import TEMPLATES, Template, find_template, similarity

__all__ = [
    "DETECTORS", "TEMPLATES", "Choice", "Detector", "Pose", "Template", "align", "central", "choose", "eye_distance",
    "find_template", "pose", "retarget", "shape", "sharpness", "signals", "similarity", "size_fault",
]  # fmt: skip


class Detector(Protocol):
    """Finds faces in photographs; safe to use from several threads.

    A detector may have two attributes, measured for its scores: `plausible`, below which a face is doubtful if another
    one reaches it, and `sure`, below which a photograph may be turned by 90, 180 or 270 degrees (`faces.finding`).
    Without them, no face is doubtful and no photograph is turned.
    """

    def detect(self, image: Image) -> list[Face]:
        """Detect faces in a photograph [H, W, 3] uint8 RGB, most confident first."""
        ...

    def detect_many(self, images: Sequence[Image]) -> list[list[Face]]:
        """Detect faces in several photographs: the same faces as `detect`, faster if the detector supports batches."""
        ...


DETECTORS: Registry[Detector] = Registry("detector", __name__)
