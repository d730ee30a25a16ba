"""Photograph → faces with landmarks → aligned crops."""

from collections.abc import Sequence
from typing import Protocol

from ..registry import Registry
from ..types import Face, Image
from .alignment import align, retarget, size_fault
from .face_choice import central, choose
from .quality import Pose, eye_distance, pose, shape, sharpness, signals
from .template import TEMPLATES, Template, find_template, similarity

__all__ = [
    "DETECTORS", "TEMPLATES", "Detector", "Pose", "Template", "align", "central", "choose", "eye_distance",
    "find_template", "pose", "retarget", "shape", "sharpness", "signals", "similarity", "size_fault",
]  # fmt: skip


class Detector(Protocol):
    """Finds faces in photographs; safe to use from several threads."""

    def detect(self, image: Image) -> list[Face]:
        """Detect faces in a photograph [H, W, 3] uint8 RGB, most confident first."""
        ...

    def detect_many(self, images: Sequence[Image]) -> list[list[Face]]:
        """Detect faces in several photographs: the same faces as `detect`, faster if the detector supports batches."""
        ...


DETECTORS: Registry[Detector] = Registry("detector", __name__)
