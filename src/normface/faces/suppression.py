"""Non-maximum suppression: keep the best of overlapping boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..types import Floats

BLOCK = 128  # boxes compared at a time
Owners = NDArray[np.intp]  # [N]: photograph of each box


def nms(boxes: Floats, scores: Floats, owners: Owners, limit: float, *, of_smaller: bool = False) -> NDArray[np.intp]:
    """Return the rows of boxes to keep, best first.

    boxes: [N, 4] x0, y0, x1, y1, in pixels, both ends included. owners: [N] photograph of each box.
    A kept box shares at most `limit` of the union (or of the smaller box) with any better box of its photograph.
    """
    # Greedy, with blocks of the best boxes
    left = np.argsort(-scores, kind="stable")
    keep = []
    while left.size:
        block, left = left[:BLOCK], left[BLOCK:]
        clash = _overlaps(boxes, owners, block, block, limit, of_smaller)
        alive = np.ones(len(block), bool)
        for i in range(len(block)):
            if alive[i]:
                alive[i + 1 :] &= ~clash[i, i + 1 :]
        keep.append(block[alive])
        left = left[~_overlaps(boxes, owners, block[alive], left, limit, of_smaller).any(0)]
    return np.concatenate(keep) if keep else left


def _overlaps(boxes: Floats, owners: Owners, a: Owners, b: Owners, limit: float, of_smaller: bool) -> NDArray[np.bool_]:
    """[A, B]: whether rows `a` and `b` have the same owner and share more than `limit`."""
    x0, y0, x1, y1 = boxes.T
    wide = np.minimum(x1[a, None], x1[b]) - np.maximum(x0[a, None], x0[b]) + 1
    high = np.minimum(y1[a, None], y1[b]) - np.maximum(y0[a, None], y0[b]) + 1
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    area = (x1 - x0 + 1) * (y1 - y0 + 1)
    whole = np.minimum(area[a, None], area[b]) if of_smaller else area[a, None] + area[b] - shared
    return np.asarray((shared > limit * whole) & (owners[a, None] == owners[b]))
