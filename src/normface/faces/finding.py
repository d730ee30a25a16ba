"""Faces of photographs: detect at one size in any orientation, choose, and cut aligned crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import DataError, FaceError
from ..types import Face, Floats, Image
from . import Choice, Detector
from .face_choice import choose
from .photographs import Photograph
from .template import Template

QUARTERS = (1, 2, 3)  # quarter turns to the left, by NumPy's rot90
SMALL = 0.4  # of the size, for trying other orientations; adds 4 % to a photograph's mean time


class Portrait(NamedTuple):
    """A face cut out of a photograph.

    Attributes:
        crop: [height, width, 3] uint8 RGB, aligned.
        face: in the photograph's pixels; None for an image that was already aligned.
        found: number of faces in the photograph.
        likely: number of plausible ones (`Detector`).
    """

    crop: Image
    face: Face | None = None
    found: int = 1
    likely: int = 1


def find_portraits(
    detector: Detector,
    photographs: Sequence[Photograph],
    template: Template,
    choice: Choice | Sequence[Choice] = "center",
    *,
    most: int | None = None,
) -> list[list[Portrait] | FaceError | DataError]:
    """Cut the chosen faces out of each photograph, most certain first; an empty list where there is no face.

    choice: for all photographs, or one for each. most: faces of a photograph that are cut out; others are counted.
    In place of the list of a photograph stands the error for degenerate landmarks, or for a file damaged behind the
    part that detection needs.
    """
    plausible = getattr(detector, "plausible", 0.0)
    choices = [choice] * len(photographs) if isinstance(choice, str) else choice

    def cut(photograph: Photograph, faces: list[Face], choice: Choice) -> list[Portrait] | FaceError | DataError:
        chosen = choose(faces, photograph.reduced.size, choice, plausible)[:most]
        likely = sum(face.score >= plausible for face in faces)
        try:
            crops = photograph.crops(chosen, template)
        except (FaceError, DataError) as error:
            return error
        return [Portrait(crop, face, len(faces), likely) for crop, face in zip(crops, chosen, strict=True)]

    return [cut(*each) for each in zip(photographs, find_faces(detector, photographs), choices, strict=True)]


def likely(detector: Detector, portraits: Sequence[Portrait]) -> list[Portrait]:
    """Return the faces of a photograph that are plausible (`Detector`); all of them if none is."""
    least = getattr(detector, "plausible", 0.0)
    return [each for each in portraits if each.face is None or each.face.score >= least] or list(portraits)


def find_faces(detector: Detector, photographs: Sequence[Photograph]) -> list[list[Face]]:
    """Detect the faces of each photograph, in its pixels, highest score first.

    If the best score is below the detector's `sure`, the photograph may lie on its side or upside down: see `_turned`.
    """
    sure = getattr(detector, "sure", 0.0)
    images = [each.reduced.image for each in photographs]
    ways = [_Way(0, faces) for faces in detector.detect_many(images)]
    for row, (image, upright) in enumerate(zip(images, list(ways), strict=True)):
        if upright.score < sure:
            ways[row] = _turned(detector, image, upright)
    return [way.faces_of(photograph) for way, photograph in zip(ways, photographs, strict=True)]


def _turned(detector: Detector, image: Image, upright: _Way) -> _Way:
    """Return the best orientation of an image whose upright score is below `sure`.

    A smaller image is checked first, and most upright photographs pass there. Another orientation must have the best
    score in it. At full size its score must also be plausible and above the upright score.
    """
    sure, plausible = getattr(detector, "sure", 0.0), getattr(detector, "plausible", 0.0)

    def look(view: Image, *quarters: int) -> list[_Way]:
        views = [np.ascontiguousarray(np.rot90(view, each)) for each in quarters]
        return [_Way(each, faces) for each, faces in zip(quarters, detector.detect_many(views), strict=True)]

    small = cv2.resize(
        image, [max(1, round(SMALL * side)) for side in image.shape[1::-1]], interpolation=cv2.INTER_AREA
    )
    ways = look(small, 0)
    if ways[0].score >= sure:
        return upright
    ways += look(small, *QUARTERS)
    if max(way.score for way in ways) < plausible:  # the faces may be too small in the smaller image
        ways = [upright, *look(image, *QUARTERS)]
    best = max(ways, key=lambda way: way.score)
    if best.quarters == 0 or best.score < plausible:
        return upright
    (found,) = look(image, best.quarters)
    return found if found.score >= max(plausible, upright.score) else upright


class _Way(NamedTuple):
    """Faces of a photograph turned left by some quarters, in the pixels of the turned reduced image."""

    quarters: int
    faces: list[Face]

    @property
    def score(self) -> float:
        return max((face.score for face in self.faces), default=0.0)

    def faces_of(self, photograph: Photograph) -> list[Face]:
        """Return the faces in the pixels of the whole photograph."""
        height, width = photograph.reduced.image.shape[:2]

        def whole(points: Floats) -> Floats:
            x, y = points.T
            back = [(x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x)][self.quarters]
            return photograph.reduced.to_whole(np.stack(back, 1))

        def moved(face: Face) -> Face:
            corners = whole(np.reshape(face.box, (2, 2)))
            (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
            turn = -90 * self.quarters % 360
            return replace(face, box=(x0, y0, x1, y1), landmarks=whole(face.landmarks), turn=turn)

        return [moved(face) for face in self.faces]
