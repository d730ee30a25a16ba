"""Five landmarks → an aligned crop: the least-squares similarity transform to a template, warped without aliasing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..errors import ConfigError, FaceError, InputError
from ..types import Face, Floats, Image


@dataclass(frozen=True)
class Template:
    """Where the five landmarks lie in a crop: `points` [5, 2] (x, y), and the crop's size, in pixels."""

    points: Floats
    height: int
    width: int


# Wen's five points (PAPER.md §3): left eye, right eye, nose, left mouth corner, right mouth corner.
_WEN = np.array(
    [(30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041)]
)  # fmt: skip
TEMPLATES = {
    "112x96": Template(_WEN, 112, 96),
    "112x112": Template(np.add(_WEN, (8, 0)), 112, 112),
}


def central(faces: Sequence[Face], size: tuple[int, ...]) -> Face:
    """The face whose box is nearest the centre of an image of `size` (height, width). Raises FaceError for none."""
    if not faces:
        raise FaceError("a face in the photograph", "none found", "give a photograph with a visible face")
    middle = np.array(size[1::-1]) - 1
    return min(faces, key=lambda face: float(np.square(np.add(face.box[:2], face.box[2:]) - middle).sum()))


def similarity(source: Floats, target: Floats) -> Floats:
    """The [2, 3] similarity transform (turn, scale, shift; no reflection) nearest to source → target, points [N, 2].

    Least squares (Umeyama 1991), in closed form by complex numbers. Raises InputError for other shapes, FaceError for
    points that are not finite or all the same.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
        raise InputError("points [N, 2] and as many", f"{source.shape} and {target.shape}", "give x and y of each")
    for points in (source, target):
        if not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1e-6:
            raise FaceError("distinct, finite landmarks", str(points.tolist()), "detect the face again")
    a, b = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    centred = a - a.mean()
    turn = (centred.conj() * (b - b.mean())).sum() / (centred * centred.conj()).real.sum()
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align(image: Image, landmarks: Floats, template: str = "112x112") -> Image:
    """Cut the face with these landmarks [5, 2] out of an image [H, W, 3] uint8 → crop [height, width, 3] uint8.

    The similarity is fitted from the template to the landmarks, errors counted in the photograph's pixels, as the
    authors' MATLAB (`cp2tform`) does; the other direction gives crops 2 % smaller, which the published ones are not.
    Where the face shrinks, the image is low-passed first (no aliasing); beyond its border it is taken as black. Raises InputError for another image, FaceError for degenerate landmarks, ConfigError for an
    unknown template.
    """
    goal = _template(template)
    check_photograph(image)
    transform = similarity(goal.points, np.asarray(landmarks, np.float64))
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))  # a crop pixel's side, in the photograph's
    if scale > 1:
        # A Gaussian of the width that a crop pixel has in the image, less what the image's own pixel brings.
        sigma = 0.5 * np.sqrt(scale**2 - 1)
        image = cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.1 else image
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, transform, (goal.width, goal.height), flags=flags))


def retarget(crops: Image, template: str) -> Image:
    """Crops [N, h, w, 3] on any template's size → crops on `template`, cut or padded (edge pixels repeated).

    The templates differ by a shift alone, so nothing is interpolated. Raises InputError for a size of no template.
    """
    goal = _template(template)
    height, width = crops.shape[1:3]
    if (height, width) == (goal.height, goal.width):
        return crops
    source = _of_size(crops[0])
    if source is None:
        sizes = " or ".join(f"{t.height}×{t.width}" for t in TEMPLATES.values())
        raise InputError(f"aligned crops of {sizes}", f"{height}×{width}", "align the photographs first")
    left = round(float(goal.points[0, 0] - source.points[0, 0]))
    if left < 0:
        return crops[:, :, -left : -left + goal.width]
    right = goal.width - width - left
    return np.pad(crops, ((0, 0), (0, 0), (left, right), (0, 0)), mode="edge")


def size_fault(crop: Image) -> str | None:
    """Why an image cannot be an aligned crop: its size, where that is no template's; None where it can."""
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


def _template(name: str) -> Template:
    if name not in TEMPLATES:
        raise ConfigError(f"a template among {', '.join(TEMPLATES)}", repr(name), "choose one of them")
    return TEMPLATES[name]
