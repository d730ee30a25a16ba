"""From a protocol's scores to a certified threshold."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..types import Estimate, OperatingPoint, ScoreSet
from .calibration import calibrate
from .comparisons import Comparisons
from .intervals import proportion
from .metrics import accuracy_threshold, at_far, roc
from .rates import Trials, rates


def operating_point(
    comparisons: Comparisons | ScoreSet,
    *,
    target_far: float | None,
    protocol: str,
    model_sha256: str,
    data_sha256: str,
    replicates: int = 1000,
) -> OperatingPoint:
    """The threshold for a false accept rate, or (None) of best accuracy, with its measured errors and calibration.

    The measured rate is never above `target_far`. Intervals of Comparisons are those of `rates`: by a bootstrap over
    subjects, never narrower than Clopper and Pearson's; of a ScoreSet, which knows no people, Clopper and Pearson's.

    Raises DataError where the impostor comparisons cannot resolve `target_far`, naming the least rate that they can;
    ConfigError for best accuracy over every pair of images.
    """
    if target_far is None:
        if isinstance(comparisons, Comparisons) and comparisons.below is not None:
            raise ConfigError("a false accept rate for every pair of images", "none", "give one: --far 0.001")
        threshold = accuracy_threshold(comparisons.scores, comparisons.same)
    else:
        curve = comparisons.roc() if isinstance(comparisons, Comparisons) else roc(comparisons)
        point = at_far(curve, target_far)
        # The first point accepts nothing; a threshold just above the highest score says so in finite numbers.
        above = np.nextafter(comparisons.scores.max(), np.inf)
        threshold = float(curve.thresholds[point]) if point else float(above)
    if isinstance(comparisons, Comparisons):
        far, tar = accepted(comparisons, threshold, replicates)
        calibration = calibrate(*comparisons.counts())
    else:
        far, tar = (
            proportion(int((scores >= threshold).sum()), len(scores))
            for scores in (comparisons.impostor, comparisons.genuine)
        )
        calibration = calibrate(comparisons.scores, comparisons.same, ~comparisons.same)
    return OperatingPoint(threshold, target_far, far, tar, protocol, model_sha256, data_sha256, calibration)


def accepted(comparisons: Comparisons, threshold: float, replicates: int = 1000) -> tuple[Estimate, Estimate]:
    """FAR and TAR at a threshold, with intervals that know who is in which comparison."""
    hit, same, every = comparisons.accepted(threshold), comparisons.same, np.ones(len(comparisons.ids), bool)
    pairs: list[tuple[Trials, Trials]] = [
        (comparisons.trials(hit & ~same), comparisons.impostors(every, every)),
        (comparisons.trials(hit & same), comparisons.trials(same)),
    ]
    far, tar = rates(pairs, comparisons.n_subjects, replicates)[0]
    assert far
    assert tar
    return far, tar
