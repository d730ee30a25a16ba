"""RetinaFace (Deng, Guo, Ververas, Kotsia, Zafeiriou 2020), as exported by the PyTorch versions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..types import Floats, Image
from . import DETECTORS
from .single_shot import Candidates, SingleShot, of_width

LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))  # stride, and sizes of the anchors at each position
CENTER, SIDE = 0.1, 0.2  # factors of the network's outputs ("variances")
MEAN = (104, 117, 123)  # of blue, green and red


@DETECTORS.register
class retinaface(SingleShot):
    """RetinaFace of yakhyo/retinaface-pytorch or biubug6/Pytorch_Retinaface."""

    fetchable = "retinaface-mv2"

    def prepare(self, image: Image) -> NDArray[np.float32]:
        """Convert to BGR and subtract the means."""
        return np.asarray(image[..., ::-1].astype(np.float32) - np.array(MEAN, np.float32))

    def decode(self, outputs: list[Floats], size: tuple[int, int]) -> Candidates:
        """Decode each anchor: probabilities of no face and of a face, and box and landmarks relative to the anchor."""
        (shifts,), (chances,), (offsets,) = (of_width(outputs, width) for width in (4, 2, 10))
        anchors, sides = _anchors(size)
        if not len(anchors) == len(shifts) == len(chances) == len(offsets):
            raise ValueError(f"{len(shifts)} boxes for {len(anchors)} anchors")
        rows = np.flatnonzero(chances[:, 1] >= self.threshold)
        at, side = anchors[rows], sides[rows, None]
        center, half = at + CENTER * side * shifts[rows, :2], side * np.exp(SIDE * shifts[rows, 2:]) / 2
        landmarks = at[:, None] + CENTER * side[..., None] * offsets[rows].reshape(-1, 5, 2)
        return Candidates(np.concatenate([center - half, center + half], 1), landmarks, chances[rows, 1])


def _anchors(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Centers [N, 2] and sides [N] of the anchors in pixels, level by level, row by row."""
    centers, sides = [], []
    for stride, lengths in LEVELS:
        rows, columns = (math.ceil(side / stride) for side in size)
        y, x = np.divmod(np.arange(rows * columns), columns)
        centers.append((stride * (np.stack([x, y], 1) + 0.5)).repeat(len(lengths), axis=0))
        sides.append(np.tile(np.array(lengths, np.float64), rows * columns))
    return np.concatenate(centers), np.concatenate(sides)
