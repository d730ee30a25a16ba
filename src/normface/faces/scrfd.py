"""SCRFD (Guo, Deng, Lattas, Zafeiriou 2021), as exported by InsightFace with landmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..types import Floats, Image
from . import DETECTORS
from .single_shot import Candidates, SingleShot, of_width

STRIDE = 8  # of the finest level; it doubles from level to level


@DETECTORS.register
class scrfd(SingleShot):
    """SCRFD with landmarks, such as det_10g.onnx of InsightFace's buffalo_l."""

    fetchable = "scrfd-10g"

    def prepare(self, image: Image) -> NDArray[np.float32]:
        """RGB, (pixel − 127.5) / 128."""
        return np.asarray((image.astype(np.float32) - 127.5) / 128)

    def decode(self, outputs: list[Floats], size: tuple[int, int]) -> Candidates:
        """Decode each level: scores, distances of the box's sides from an anchor, and offsets of the landmarks.

        Distances and offsets are in strides. Anchors are at multiples of the stride, several at each.
        """
        levels = [of_width(outputs, width) for width in (1, 4, 10)]
        found = []
        for number, (scores, sides, offsets) in enumerate(zip(*levels, strict=True)):
            stride = STRIDE << number
            y, x = np.divmod(np.arange((size[0] // stride) * (size[1] // stride)), size[1] // stride)
            anchors = stride * np.stack([x, y], 1).repeat(len(scores) // len(x), axis=0)
            if not len(anchors) == len(scores) == len(sides) == len(offsets):
                raise ValueError(f"{len(scores)} scores on a level of {len(x)} places")
            rows = np.flatnonzero(scores[:, 0] >= self.threshold)
            at, reach = anchors[rows], stride * sides[rows]
            boxes = np.concatenate([at - reach[:, :2], at + reach[:, 2:]], 1)
            found.append((boxes, at[:, None] + stride * offsets[rows].reshape(-1, 5, 2), scores[rows, 0]))
        return Candidates(*(np.concatenate(part) for part in zip(*found, strict=True)))
