"""Faces followed through a video: one template for each appearance of a person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..types import Floats
from .people import fuse
from .seen import FaceRecord

Box = tuple[float, float, float, float]
GAP = 1.0  # seconds without a face after which its track ends
OVERLAP = 0.3  # minimum intersection over union of boxes for a link by position
UNLIKE = 0.5  # share of the threshold: minimum cosine for a link by position


@dataclass(frozen=True)
class Track(FaceRecord):
    """One person's face in a video, from the first frame until it is lost; used like a `FaceRecord`.

    The crop, face, norm and assessment come from the frame of best quality. The vector is the mean of the frames'
    vectors, weighted by their quality. Frames outside the certificate's conditions count only if there are no others.

    Attributes:
        times: [F] seconds of the frames with the face, rising.
        boxes: [F, 4] in the pixels of each frame.
    """

    times: tuple[float, ...] = field(default=(), kw_only=True)
    boxes: tuple[Box, ...] = field(default=(), kw_only=True)


class Tracker:
    """Links the faces of frames to tracks.

    A face may belong to a track if it overlaps the track's last box and is not dissimilar, or if its cosine with the
    track's vectors reaches `threshold`. Among these pairs, each frame uses the assignment with the highest sum of
    overlap and cosine, so two people who cross keep their tracks.
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
        """Return all tracks, in order of their start."""
        return sorted((each.track() for each in [*self._closed, *self._open]), key=lambda track: track.times[0])


class _Growing:
    """An open track: the vectors of its frames, and all data of the best one."""

    def __init__(self, seconds: float, face: FaceRecord) -> None:
        self.best, self.times, self.boxes = face, list[float](), list[Box]()
        self.vectors, self.weights, self.covered = list[Floats](), list[float](), list[bool]()
        self.total = np.zeros_like(face.vector)
        self.add(seconds, face)

    @property
    def mean(self) -> Floats:
        """The normalized mean of the vectors."""
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
