"""How well a face was taken: signals to sort photographs by, no verdict."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ..errors import FaceError
from ..types import Floats, Image

# A mean face: eyes, nose tip, mouth corners; x right, y down, z away from the camera. Centimetres, from MediaPipe's
# canonical face model: vertices 33 and 133, 362 and 263 (the corners of each eye), 1, 61 and 291.
MEAN_FACE = np.array([
    (-3.1511, -2.6246, -3.4657), (3.1511, -2.6246, -3.4657), (0, 1.1269, -7.4756),
    (-2.4562, 4.3426, -4.2839), (2.4562, 4.3426, -4.2839),
])  # fmt: skip
_INVERSE = np.linalg.pinv(MEAN_FACE - MEAN_FACE.mean(0))


class Pose(NamedTuple):
    """Where a head points, in degrees: `yaw` to the image's right, `pitch` up, `roll` clockwise; 0, 0, 0 is frontal.

    Five landmarks tell yaw and pitch to some 10 degrees only: faces differ from the mean one.
    """

    yaw: float
    pitch: float
    roll: float


def pose(landmarks: Floats) -> Pose:
    """The rotation of a mean face whose scaled orthographic picture is nearest the landmarks [5, 2].

    The first step of POSIT (DeMenthon and Davis 1995): least squares for a 2×3 matrix, then the rotation nearest to it.
    Raises FaceError for landmarks on one line.
    """
    points = np.asarray(landmarks, np.float64)
    turned, stretch, base = np.linalg.svd((_INVERSE @ (points - points.mean(0))).T, full_matrices=False)
    if not stretch[1] > 1e-6 * stretch[0]:
        raise FaceError("landmarks that are not on one line", str(points.tolist()), "detect the face again")
    x, y = turned @ base
    rotation = np.stack([x, y, np.cross(x, y)])  # Rz(roll) · Ry(-yaw) · Rx(-pitch)
    yaw = np.arcsin(np.clip(rotation[2, 0], -1, 1))
    pitch = -np.arctan2(rotation[2, 1], rotation[2, 2])
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    return Pose(*np.degrees([yaw, pitch, roll]).tolist())


def eye_distance(landmarks: Floats) -> float:
    """Between the eyes, in pixels: below 20 or so a photograph says little of a face."""
    return float(np.hypot(*np.subtract(landmarks[1], landmarks[0])))


def sharpness(crop: Image) -> float:
    """Variance of the Laplacian of an aligned crop's luma (Pech-Pacheco et al. 2000): small where it is blurred.

    In squared grey levels; to be compared within one template only.
    """
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
