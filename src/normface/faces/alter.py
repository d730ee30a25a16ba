"""Degradations of aligned crops, as examples of photographs outside a certificate's conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.random import Generator

from ..types import Image
from .template import Template

Alteration = Callable[[Image, Generator], Image]


def alterations(template: Template) -> Mapping[str, Alteration]:
    """Return functions by name that degrade a crop [height, width, 3] uint8 by a degree from a random generator.

    Sizes follow `Template.unit`.
    """
    eyes, unit = template.eyes.mean(0), template.unit

    def row(draw: Generator, low: float, high: float) -> int:
        """Of a crop, a distance below the eyes that is drawn in units."""
        return int(np.clip(eyes[1] + draw.uniform(low, high) * unit, 0, template.height))

    def blur(crop: Image, draw: Generator) -> Image:
        return np.asarray(cv2.GaussianBlur(crop, (0, 0), unit * np.exp(draw.uniform(np.log(0.035), np.log(0.22)))))

    def shrink(crop: Image, draw: Generator) -> Image:
        factor = draw.uniform(4.5, 12.5) / unit
        small = cv2.resize(crop, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (template.width, template.height), interpolation=cv2.INTER_LINEAR))

    def darken(crop: Image, draw: Generator) -> Image:
        return (crop * draw.uniform(0.04, 0.17)).astype(np.uint8)

    def add_noise(crop: Image, draw: Generator) -> Image:
        return np.clip(crop + draw.normal(0, draw.uniform(30, 75), crop.shape), 0, 255).astype(np.uint8)

    def squeeze(crop: Image, draw: Generator) -> Image:
        return _stretched(crop, draw.uniform(0.55, 0.83))

    def stretch(crop: Image, draw: Generator) -> Image:
        return _stretched(crop, 1 / draw.uniform(0.6, 0.83))

    def mask(crop: Image, draw: Generator) -> Image:
        return _moved(_covered(crop, row(draw, 0.2, 0.65), template.height, draw, 255), unit, draw)

    def bar(crop: Image, draw: Generator) -> Image:
        return _moved(_covered(crop, row(draw, -0.45, -0.15), row(draw, 0.12, 0.45), draw, 60), unit, draw)

    def turn(crop: Image, draw: Generator) -> Image:
        return np.ascontiguousarray(np.roll(crop[::-1, ::-1], int(draw.uniform(-0.2, 0.2) * unit), axis=0))

    return {
        "blurred": blur, "small": shrink, "dark": darken, "noisy": add_noise, "squeezed": squeeze,
        "stretched": stretch, "mouth covered": mask, "eyes covered": bar, "upside down": turn,
    }  # fmt: skip


def _stretched(crop: Image, factor: float) -> Image:
    """Stretch the width by `factor` relative to the height at the same area, as alignment would cut it."""
    height, width = crop.shape[:2]
    x, y = factor**0.5, factor**-0.5
    about_middle = np.array([[x, 0, (1 - x) * width / 2], [0, y, (1 - y) * height / 2]])
    return np.asarray(cv2.warpAffine(crop, about_middle, (width, height), borderMode=cv2.BORDER_REPLICATE))


def _covered(crop: Image, top: int, bottom: int, draw: Generator, brightest: int) -> Image:
    """Cover rows with one color, leaving up to an eighth of the width free on each side."""
    found, width = crop.copy(), crop.shape[1]
    left, right = draw.integers(0, width // 8, 2)
    found[top:bottom, left : width - right] = draw.integers(0, brightest, 3)
    return found


def _moved(crop: Image, unit: float, draw: Generator) -> Image:
    """Turn, scale and shift a little, because the landmarks of a covered face are less accurate."""
    height, width = crop.shape[:2]
    found = cv2.getRotationMatrix2D((width / 2, height / 2), draw.uniform(-8, 8), draw.uniform(0.88, 1.18))
    found[:, 2] += draw.uniform(-0.12, 0.12, 2) * unit
    return np.asarray(cv2.warpAffine(crop, found, (width, height), borderMode=cv2.BORDER_REPLICATE))
