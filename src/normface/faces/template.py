"""Alignment templates: built-in ones by name, and custom ones from JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConfigError, FaceError, InputError
from ..types import Floats


@dataclass(frozen=True)
class Template:
    """The size of a crop and the positions of the landmarks in it, (x, y) in pixels.

    Attributes:
        points: [5, 2], the five landmarks, fitted by least squares; or [2, 2], the midpoints of eyes and mouth, fitted
            by Light CNN's rule: level eyes, both heights, and the x of the eyes.
        height, width: of the crop.
    """

    points: Floats
    height: int
    width: int

    def __post_init__(self) -> None:
        points = np.asarray(self.points, np.float64)
        if points.shape not in ((5, 2), (2, 2)) or not np.isfinite(points).all() or min(self.height, self.width) < 1:
            raise ConfigError(
                "5 points (or 2: the middles of eyes and mouth), each x and y, and a positive size",
                f"points of shape {list(points.shape)} and {self.height}×{self.width}", "correct the template",
            )  # fmt: skip
        object.__setattr__(self, "points", points)
        self.fit(points if len(points) == 5 else points[[0, 0, 0, 1, 1]] + [(-1, 0), (1, 0), (0, 0), (0, 0), (0, 0)])

    @property
    def eyes(self) -> Floats:
        """Both eyes [2, 2]; if only the midpoint is given, half a unit to each side of it."""
        if len(self.points) == 5:
            return self.points[:2]
        return np.asarray(self.points[0] + self.unit / 2 * np.array([(-1, 0), (1, 0)]))

    @property
    def mouth(self) -> Floats:
        """The center of the mouth [2]."""
        return np.asarray(self.points[3:].mean(0) if len(self.points) == 5 else self.points[1])

    @property
    def unit(self) -> float:
        """Height of the eyes above the mouth, in pixels: about 0.55 of a face's width."""
        top = self.points[:2].mean(0) if len(self.points) == 5 else self.points[0]
        return float(self.mouth[1] - top[1])

    def fit(self, landmarks: Floats) -> Floats:
        """Fit the similarity [2, 3] from the crop to a photograph with landmarks [5, 2].

        Errors are measured in the photograph's pixels, as in the authors' MATLAB code (`cp2tform`). Raises InputError
        for another shape, FaceError for degenerate landmarks.
        """
        landmarks = np.asarray(landmarks, np.float64)
        if len(self.points) == 5:
            return similarity(self.points, landmarks)
        _check(landmarks, self.points[[0, 0, 0, 1, 1]])
        left, right, _, *mouth = landmarks[:, 0] + 1j * landmarks[:, 1]
        eyes, lips = (left + right) / 2, sum(mouth) / 2
        level = (right - left) / abs(right - left) if right != left else 0
        tall = ((lips - eyes) * np.conj(level)).imag
        if not tall > 0:
            raise FaceError("two eyes above a mouth", str(landmarks.tolist()), "use another photograph")
        turn = level * tall / (self.points[1, 1] - self.points[0, 1])
        shift = eyes - turn * complex(*self.points[0])
        return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def find_template(name: str | Template) -> Template:
    """Return a template by name, or from a JSON file `{"points": [[x, y], …], "height": …, "width": …}`.

    Raises ConfigError for an unknown name or an invalid file.
    """
    if isinstance(name, Template):
        return name
    if name in TEMPLATES:
        return TEMPLATES[name]
    if not name.endswith(".json"):
        raise ConfigError(
            f"a template among {', '.join(TEMPLATES)}, or a JSON file", repr(name), "correct the template"
        )  # fmt: skip
    try:
        raw = json.loads(Path(name).read_bytes())
        points = np.array(raw["points"], np.float64)
        return Template(points, height=int(raw["height"]), width=int(raw["width"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, FaceError) as error:
        example = '{"points": [[30, 52], [66, 52], [48, 72], [34, 92], [63, 92]], "height": 112, "width": 96}'
        raise ConfigError(f"a template in {name}", f"'{error!r}'", f"write it like {example}") from error


def similarity(source: Floats, target: Floats) -> Floats:
    """Fit the similarity transform [2, 3] (rotation, scale, translation) from source to target points [N, 2].

    Least squares in the target's units (Umeyama 1991), in closed form by complex numbers. Raises InputError for other
    shapes, FaceError for points that are not finite or all identical.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    _check(source, target)
    a, b = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    centered = a - a.mean()
    turn = (centered.conj() * (b - b.mean())).sum() / (centered * centered.conj()).real.sum()
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _check(source: Floats, target: Floats) -> None:
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
        raise InputError("two arrays [N, 2]", f"{source.shape} and {target.shape}", "pass x and y of the same points")
    for points in (source, target):
        if not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1e-6:
            raise FaceError("distinct, finite landmarks", str(points.tolist()), "use another photograph")


# Wen's five points (PAPER.md §3): left eye, right eye, nose, left mouth corner, right mouth corner.
_WEN = np.array(
    [(30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041)]
)  # fmt: skip
TEMPLATES = {
    "112x96": Template(_WEN, 112, 96),
    "112x112": Template(np.add(_WEN, (8, 0)), 112, 112),
    # Wu's rule for Light CNN: 48 pixels from eyes to mouth; the eyes in row 48, or in row 40 without the margin of 8.
    "144x144": Template(np.array([(71.5, 48), (71.5, 96)]), 144, 144),
    "128x128": Template(np.array([(63.5, 40), (63.5, 88)]), 128, 128),
}
