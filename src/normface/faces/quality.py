"""Quality signals of faces and of their crops: pose, eye distance, sharpness, light and others."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ..errors import FaceError
from ..types import Face, Floats, Image
from .template import Template

# A mean face: eyes, nose tip, mouth corners; x right, y down, z away from the camera. Centimeters, from MediaPipe's
# canonical face model: vertices 33 and 133, 362 and 263 (the corners of each eye), 1, 61 and 291.
MEAN_FACE = np.array([
    (-3.1511, -2.6246, -3.4657), (3.1511, -2.6246, -3.4657), (0, 1.1269, -7.4756),
    (-2.4562, 4.3426, -4.2839), (2.4562, 4.3426, -4.2839),
])  # fmt: skip
_INVERSE = np.linalg.pinv(MEAN_FACE - MEAN_FACE.mean(0))
_WINDOW = np.array([0.22, 0.12])  # half of its width and height, in units of the template


class Pose(NamedTuple):
    """Head pose in degrees: `yaw` to the image's right, `pitch` up, `roll` clockwise; 0, 0, 0 is frontal.

    From five landmarks, yaw and pitch are accurate to about 10 degrees only, because faces differ from the mean face.
    """

    yaw: float
    pitch: float
    roll: float


def pose(landmarks: Floats) -> Pose:
    """Estimate the pose: the rotation of a mean face whose scaled orthographic projection fits landmarks [5, 2] best.

    The first step of POSIT (DeMenthon and Davis 1995): least squares for a 2×3 matrix, then the nearest rotation.
    Raises FaceError for collinear landmarks.
    """
    points = np.asarray(landmarks, np.float64)
    turned, stretch, base = np.linalg.svd(_projection(points), full_matrices=False)
    if not stretch[1] > 1e-6 * stretch[0]:
        raise FaceError("landmarks that are not on one line", str(points.tolist()), "use another photograph")
    x, y = turned @ base
    rotation = np.stack([x, y, np.cross(x, y)])  # Rz(roll) · Ry(-yaw) · Rx(-pitch)
    yaw = np.arcsin(np.clip(rotation[2, 0], -1, 1))
    pitch = -np.arctan2(rotation[2, 1], rotation[2, 2])
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    return Pose(*np.degrees([yaw, pitch, roll]).tolist())


def shape(landmarks: Floats) -> float:
    """Width divided by height of a face with these landmarks [5, 2]: about 1 for any turn of the head.

    A camera scales a rigid face equally along both axes of the picture, so the rows of the 2×3 matrix from the mean
    face to the landmarks have equal lengths. Squeezing a photograph changes their ratio. NaN for landmarks on one line.
    """
    points = np.asarray(landmarks, np.float64)
    across, down = np.linalg.norm(_projection(points), axis=1)
    return float(across / down) if down > 1e-6 * across else float("nan")


def _projection(points: Floats) -> Floats:
    """The 2×3 matrix that takes the mean face to centered points [5, 2], by least squares."""
    return np.asarray((_INVERSE @ (points - points.mean(0))).T)


def eye_distance(landmarks: Floats) -> float:
    """Distance between the eyes in pixels; below about 20, recognition is unreliable."""
    return float(np.hypot(*np.subtract(landmarks[1], landmarks[0])))


def sharpness(crop: Image) -> float:
    """Variance of the Laplacian of an aligned crop's luma (Pech-Pacheco et al. 2000): small for blurred images.

    In squared gray levels; comparable within one template only.
    """
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def signals(crop: Image, face: Face | None = None, template: Template | None = None) -> dict[str, float]:
    """Compute quality signals of an aligned crop [height, width, 3] uint8 RGB, and of its detection if it is known.

    - `sharpness`: see above.
    - `light`, `contrast`: mean and standard deviation of luma, in gray levels.
    - `detail`: fine relative to coarse detail; small if blurred, large if noisy.
    - `eyes`, `mouth`, if the crop is on a `template`: lowest standard deviation of luma around them; near 0 if one
      color covers them.
    - `eye_distance`, `detection` (score) and `shape`, of a `face` in its photograph's pixels.

    Takes about 0.3 ms.
    """
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    mean, spread = (float(each[0, 0]) for each in cv2.meanStdDev(gray))
    levels = gray.astype(np.float32)
    fine, coarse = cv2.GaussianBlur(levels, (0, 0), 1.5), cv2.GaussianBlur(levels, (0, 0), 5)
    detail = float(cv2.meanStdDev(levels - fine)[1][0, 0] / (cv2.meanStdDev(fine - coarse)[1][0, 0] + 1e-3))
    found = {
        "sharpness": float(cv2.meanStdDev(cv2.Laplacian(levels, cv2.CV_32F))[1][0, 0] ** 2),
        "light": mean, "contrast": spread, "detail": detail,
    }  # fmt: skip
    if template is not None:
        found["eyes"] = min(_local_contrast(gray, eye, template.unit) for eye in template.eyes)
        found["mouth"] = _local_contrast(gray, template.mouth, template.unit)
    if face is not None:
        wide = shape(face.landmarks)
        upright = wide if face.turn % 180 == 0 or not wide else 1 / wide  # turning by 90° swaps width and height
        found |= {"eye_distance": eye_distance(face.landmarks), "detection": face.score, "shape": upright}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _local_contrast(gray: Image, point: Floats, unit: float) -> float:
    """Standard deviation of a crop's luma in a window around a landmark; NaN outside the crop."""
    (left, top), (right, bottom) = (np.rint(point + sign * unit * _WINDOW).astype(int) for sign in (-1, 1))
    window = gray[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)]
    return float(window.std()) if window.size else float("nan")
