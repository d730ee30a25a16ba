"""Choice among several faces in a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError, FaceError
from ..types import Face

Choice = Literal["center", "largest", "best", "all"]


def choose(
    faces: Sequence[Face], size: tuple[int, ...], choice: Choice = "center", plausible: float = 0.0
) -> list[Face]:
    """Choose the face nearest the center of an image of `size` (height, width), the largest, the best scored, or all.

    plausible: center and largest choose among faces with at least this score, if there are any; see `Detector`.
    Returns an empty list if there are no faces. Raises ConfigError for an unknown choice.
    """
    if choice not in get_args(Choice):
        raise ConfigError(f"faces among {', '.join(get_args(Choice))}", repr(choice), "correct the choice")
    if not faces or choice == "all":
        return list(faces)
    if choice == "best":
        return [max(faces, key=lambda face: face.score)]
    likely = [face for face in faces if face.score >= plausible] or faces
    return [central(likely, size) if choice == "center" else max(likely, key=_area)]


def central(faces: Sequence[Face], size: tuple[int, ...]) -> Face:
    """Return the face nearest the center of an image of `size` (height, width). Raises FaceError for none."""
    if not faces:
        raise FaceError("a face in the photograph", "none found", "give a photograph with a visible face")
    middle = np.array(size[1::-1]) - 1
    return min(faces, key=lambda face: float(np.square(np.add(face.box[:2], face.box[2:]) - middle).sum()))


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return (x1 - x0) * (y1 - y0)
