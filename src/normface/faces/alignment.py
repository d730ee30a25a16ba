"""Alignment: warp a face with five landmarks to a template, without aliasing."""

from __future__ import annotations

import cv2
import numpy as np

from ..errors import InputError
from ..types import Floats, Image
from .template import TEMPLATES, Template, find_template

LARGE = 3 << 22  # values of an image (4 megapixels) from which filtering only a part saves time and memory


def align(image: Image, landmarks: Floats, template: str | Template = "112x112") -> Image:
    """Align the face with landmarks [5, 2] in an image [H, W, 3] uint8. Returns a crop [height, width, 3] uint8.

    If the face shrinks, the image is low-pass filtered first (no aliasing); outside the image the crop is black, as in
    the published LFW crops. Raises InputError for an unsuitable image, FaceError for degenerate landmarks, ConfigError
    for an unknown template.
    """
    goal = find_template(template)
    check_photograph(image)
    transform = goal.fit(landmarks)
    scale = zoom(transform)
    if scale > 1:
        if image.size > LARGE:
            image, transform = _around(image, transform, goal, margin=4 * scale + 4)
        # A Gaussian of the width of a crop pixel in the image, minus the blur of the image's own pixels.
        sigma = 0.5 * np.sqrt(scale**2 - 1)
        image = cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.1 else image
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, transform, (goal.width, goal.height), flags=flags))


def _around(image: Image, transform: Floats, goal: Template, margin: float) -> tuple[Image, Floats]:
    """Cut out the part of an image that a crop needs, with a margin; also returns the transform from the crop to it."""
    low, high = _bounds(transform, goal, margin)
    size = image.shape[1::-1]
    x0, y0 = np.clip(low, 0, np.subtract(size, 1)).astype(int).tolist()
    x1, y1 = np.clip(high, (x0 + 1, y0 + 1), size).astype(int).tolist()
    moved = transform.copy()
    moved[:, 2] -= (x0, y0)
    return image[y0:y1, x0:x1], moved


def _bounds(transform: Floats, goal: Template, margin: float) -> tuple[Floats, Floats]:
    """The corners (x, y) of what a crop covers of an image, with a margin."""
    corners = np.array([(0, 0, 1), (goal.width, 0, 1), (0, goal.height, 1), (goal.width, goal.height, 1)]) @ transform.T
    return np.floor(corners.min(0) - margin), np.ceil(corners.max(0) + margin)


def part_for(landmarks: Floats, template: Template, factor: int) -> tuple[int, int, int, int]:
    """The part (x0, y0, x1, y1) of a photograph that `align` needs at 1/`factor` of its size; it may reach beyond."""
    transform = template.fit(landmarks)
    low, high = _bounds(transform, template, 4 * zoom(transform) + 8 * factor)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def zoom(transform: Floats) -> float:
    """Size of a crop's pixel in pixels of the photograph, under a similarity [2, 3] from crop to photograph."""
    return float(np.hypot(transform[0, 0], transform[1, 0]))


def retarget(crops: Image, template: str) -> Image:
    """Convert crops [N, h, w, 3] of any template to `template` by cutting or padding (edge pixels repeated).

    Works between templates that differ by a shift, without interpolation. Raises InputError for another size.
    """
    goal = find_template(template)
    height, width = crops.shape[1:3]
    if (height, width) == (goal.height, goal.width):
        return crops
    source = _of_size(crops[0])
    if source is None or source.points.shape != goal.points.shape or np.ptp(goal.points - source.points, 0).max() > 0.1:
        legal = [t for t in TEMPLATES.values() if t.points.shape == goal.points.shape]
        sizes = " or ".join(f"{t.height}×{t.width}" for t in legal)
        known = next((f" of the template {name!r}" for name, t in TEMPLATES.items() if t is source), "")
        raise InputError(
            f"aligned crops of the template {template!r}, {sizes}", f"{height}×{width}{known}",
            f"align the photographs first: normface align --template {template}",
        )  # fmt: skip
    left, top = np.rint(goal.points[0] - source.points[0]).astype(int).tolist()
    right, bottom = goal.width - width - left, goal.height - height - top
    around = ((0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0))
    cut = crops[:, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    return np.pad(cut, around, mode="edge")


def size_fault(crop: Image) -> str | None:
    """Return why an image cannot be an aligned crop (no template has its size), or None."""
    height, width = crop.shape[:2]
    return None if _of_size(crop) else f"{height}×{width}, not an aligned crop"


def check_photograph(image: Image) -> None:
    """Raise InputError unless an image is uint8 RGB [H, W, 3]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(
            "uint8 RGB of shape [H, W, 3]", f"{image.dtype} of shape {list(image.shape)}", "decode it as RGB"
        )


def _of_size(crop: Image) -> Template | None:
    size = crop.shape[:2]
    return next((template for template in TEMPLATES.values() if (template.height, template.width) == size), None)
