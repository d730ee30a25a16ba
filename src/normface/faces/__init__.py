"""Photograph → faces with landmarks → aligned crops."""

from typing import Protocol

from ..registry import Registry
from ..types import Face, Image
from .align import TEMPLATES, Template, align, central, retarget, similarity, size_fault

__all__ = ["DETECTORS", "TEMPLATES", "Detector", "Template", "align", "central", "retarget", "similarity", "size_fault"]


class Detector(Protocol):
    """Finds faces in a photograph."""

    def detect(self, image: Image) -> list[Face]:
        """Faces in a photograph [H, W, 3] uint8 RGB, best first; empty where there is none."""
        ...


DETECTORS: Registry[Detector] = Registry("detector", __name__)
