"""Reproductions of the paper's figures, each with its numbers."""

from __future__ import annotations

from ..registry import Registry
from .drawing import Drawing, Progress, write

__all__ = ["FIGURES", "Drawing", "Progress", "write"]

FIGURES: Registry[Drawing] = Registry("figure", __name__)
