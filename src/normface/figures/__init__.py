"""The paper's figures, drawn anew: each gives a picture and the numbers behind it."""

from __future__ import annotations

from ..registry import Registry
from .drawing import Drawing, Progress, write

__all__ = ["FIGURES", "Drawing", "Progress", "write"]

FIGURES: Registry[Drawing] = Registry("figure", __name__)
