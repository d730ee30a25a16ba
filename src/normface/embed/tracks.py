"""Faces followed through a video: one template for each time that somebody is seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..types import Floats
from .people import fuse
from .seen import FaceRecord

Box = tuple[float, float, float, float]
GAP = 1.0  # seconds without a face after which its track has ended
OVERLAP = 0.3  # intersection over union of boxes from which a face may be the track's, however it is turned
UNLIKE = 0.5  # of the threshold: the cosine below which a face is not the track's, wherever it is


@dataclass(frozen=True)
class Track(FaceRecord):
    """One person's face from when they are first seen in a video until they are lost; used like a `FaceRecord`.

    The crop, face, norm and assessment are those of the frame of best quality. The vector is the mean of the frames'
    vectors, weighted by their quality; frames that the certificate does not cover count only where no other is.

    Attributes:
        times: [F] seconds at which the face was seen, rising.
        boxes: [F, 4] in the pixels of each frame.
    """

    times: tuple[float, ...] = field(default=(), kw_only=True)
    boxes: tuple[Box, ...] = field(default=(), kw_only=True)


class Tracker:
    """Links the faces of frames to tracks.

    A face is a track's if it overlaps the track's last box and is not unlike it, or if its cosine with the track's
    vectors reaches `threshold`. Of all such pairs in a frame those are taken that have the highest sum of overlap and
    cosine, so two people who cross keep their tracks.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._open: list[_Growing] = []
        self._closed: list[_Growing] = []

    def add(self, seconds: float, faces: Iterable[FaceRecord]) -> None:
        """Link the faces of the next frame."""
        self._closed += [track for track in self._open if seconds - track.times[-1] > GAP]
        self._open = [track for track in self._open if seconds - track.times[-1] <= GAP]
        faces = list(faces)
        free = set(range(len(faces)))
        if faces and self._open:
            overlap = np.array([[_overlap(track.boxes[-1], _box(face)) for face in faces] for track in self._open])
            cosine = np.stack([track.mean for track in self._open]) @ np.stack([face.vector for face in faces]).T
            legal = (cosine >= self.threshold) | ((overlap >= OVERLAP) & (cosine >= UNLIKE * self.threshold))
            gain = np.where(legal, overlap + cosine, 0)
            for row, column in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
                if legal[row, column]:
                    self._open[row].add(seconds, faces[column])
                    free.remove(column)
        self._open += [_Growing(seconds, faces[column]) for column in sorted(free)]

    def finish(self) -> list[Track]:
        """Return all tracks, by when they begin."""
        return sorted((each.track() for each in [*self._closed, *self._open]), key=lambda track: track.times[0])


class _Growing:
    """A track while it grows: of each frame the vector, and of the best one all."""

    def __init__(self, seconds: float, face: FaceRecord) -> None:
        self.best, self.times, self.boxes = face, list[float](), list[Box]()
        self.vectors, self.weights, self.covered = list[Floats](), list[float](), list[bool]()
        self.total = np.zeros_like(face.vector)
        self.add(seconds, face)

    @property
    def mean(self) -> Floats:
        """The unit mean of the vectors so far."""
        return np.asarray(self.total / max(float(np.linalg.norm(self.total)), 1e-12))

    def add(self, seconds: float, face: FaceRecord) -> None:
        self.times.append(seconds)
        self.boxes.append(_box(face))
        self.vectors.append(face.vector)
        self.weights.append(face.quality)
        self.covered.append(face.assessment.inside)
        self.total = self.total + face.vector
        self.best = max(self.best, face, key=lambda each: (each.assessment.inside, each.quality))

    def track(self) -> Track:
        kept = np.array(self.covered) if any(self.covered) else np.ones(len(self.times), np.bool_)
        weights = np.array(self.weights)[kept]
        vector = fuse(np.stack(self.vectors)[kept], weights if weights.any() else None)
        best = self.best
        return Track(
            best.crop, vector, best.norm, best.face, best.found, best.assessment,
            times=tuple(self.times), boxes=tuple(self.boxes),
        )  # fmt: skip


def _box(face: FaceRecord) -> Box:
    return face.box or (0.0, 0.0, 0.0, 0.0)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (areas - both) if areas > both else 0.0
