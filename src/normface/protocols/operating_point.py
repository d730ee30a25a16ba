"""From a protocol's scores to a certified threshold."""

from __future__ import annotations

import numpy as np

from ..types import OperatingPoint, ScoreSet
from .intervals import proportion
from .metrics import accuracy_threshold, at_far, roc


def operating_point(
    scores: ScoreSet, *, target_far: float | None, protocol: str, model_sha256: str, data_sha256: str
) -> OperatingPoint:
    """The threshold for a false accept rate, or (None) of best accuracy, with its measured errors and intervals.

    The intervals are Clopper and Pearson's, for independent comparisons.
    Raises DataError where the impostor comparisons cannot resolve `target_far`.
    """
    if target_far is None:
        threshold = accuracy_threshold(scores.scores, scores.same)
    else:
        curve = roc(scores)
        point = at_far(curve, target_far)
        # The first point accepts nothing; a threshold just above the highest score says so in finite numbers.
        threshold = float(curve.thresholds[point]) if point else float(np.nextafter(scores.scores.max(), np.inf))
    far = proportion(int((scores.impostor >= threshold).sum()), len(scores.impostor))
    tar = proportion(int((scores.genuine >= threshold).sum()), len(scores.genuine))
    return OperatingPoint(threshold, target_far, far, tar, protocol, model_sha256, data_sha256)
