"""Draw the detected faces into a photograph."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..types import Face, Image
from .photographs import Photograph

USED, OTHER = (0, 200, 80), (150, 150, 150)  # RGB


def draw_faces(photograph: Photograph, used: Sequence[Face], others: Sequence[Face] = ()) -> Image:
    """Draw boxes, landmarks and scores into the upright photograph: used faces in green, others in gray."""
    image, reduced = photograph.reduced.image.copy(), photograph.reduced
    thick = max(1, min(image.shape[:2]) // 250)
    for face, color in [*((each, OTHER) for each in others), *((each, USED) for each in used)]:
        corners = reduced.to_reduced(np.reshape(face.box, (2, 2))).round().astype(int).tolist()
        cv2.rectangle(image, corners[0], corners[1], color, thick)
        for point in reduced.to_reduced(face.landmarks).round().astype(int).tolist():
            cv2.circle(image, point, 2 * thick, color, -1)
        where = (corners[0][0], max(corners[0][1] - 3 * thick, 12 * thick))
        cv2.putText(image, f"{face.score:.3f}", where, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thick, color, thick)
    return image


def side_by_side(images: Sequence[Image]) -> Image:
    """Place images next to each other, on white."""
    height = max(image.shape[0] for image in images)
    padded = [np.pad(i, ((0, height - len(i)), (0, 0), (0, 0)), constant_values=255) for i in images]
    return np.concatenate(padded, axis=1)
