"""Certified thresholds from a protocol's scores."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError, DataError
from ..types import Estimate, OperatingPoint, ScoreSet
from .calibration import calibrate
from .comparisons import Comparisons
from .intervals import proportion, unused
from .metrics import Roc, accuracy_threshold, at_count, at_far, refuse_equal, resolve, roc


def operating_point(
    comparisons: Comparisons | ScoreSet,
    *,
    target_far: float | None,
    protocol: str,
    model_sha256: str,
    data_sha256: str,
    confident: bool = False,
    replicates: int | None = None,
) -> OperatingPoint:
    """The threshold for a false accept rate, or (None) of best accuracy, with its measured errors and calibration.

    The measured rate is never above `target_far`; where `confident`, nor is the upper end of its interval. Intervals of
    Comparisons are those of `rates`, over people; of a ScoreSet, which knows no people, Clopper and Pearson's.
    `replicates` is deprecated and without effect.

    Raises DataError where all scores are equal, and where the impostor comparisons cannot resolve `target_far`, or
    (`confident`) cannot promise it, naming the least rate that they can; ConfigError for best accuracy over every pair
    of images, or where `confident`.
    """
    unused(replicates)
    refuse_equal(comparisons.scores)
    if target_far is None:
        if isinstance(comparisons, Comparisons) and comparisons.below is not None:
            raise ConfigError("a false accept rate for every pair of images", "none", "give one: --far 0.001")
        if confident:
            raise ConfigError("a false accept rate to be confident of", "none", "give one: --far 0.01")
        threshold = accuracy_threshold(comparisons.scores, comparisons.same)
    else:
        threshold = (_confident if confident else threshold_at)(comparisons, target_far)
    far, tar = accepted(comparisons, threshold)
    if not isinstance(comparisons, Comparisons):
        calibration = calibrate(comparisons.scores, comparisons.same, ~comparisons.same)
        return OperatingPoint(
            threshold, target_far, far, tar, protocol, model_sha256, data_sha256, calibration, confident=confident
        )
    each = comparisons.rates(threshold, per_person=True)
    return OperatingPoint(
        threshold, target_far, far, tar, protocol, model_sha256, data_sha256, calibrate(*comparisons.counts()),
        each[0].estimate, each[1].estimate, comparisons.commonest_five, confident,
    )  # fmt: skip


def threshold_at(comparisons: Comparisons | ScoreSet, far: float) -> float:
    """Return the threshold with the most accepts whose measured FAR is at most `far`.

    Raises DataError if the impostor comparisons cannot resolve `far`.
    """
    curve = _roc(comparisons)
    return _threshold(comparisons, curve, at_far(curve, far))


def accepted(
    comparisons: Comparisons | ScoreSet, threshold: float, replicates: int | None = None
) -> tuple[Estimate, Estimate]:
    """Return FAR and TAR at a threshold, with intervals that account for comparisons that share people."""
    unused(replicates)
    if isinstance(comparisons, Comparisons):
        known = comparisons.rates(threshold)
        return known[0].estimate, known[1].estimate
    far, tar = (
        proportion(int((scores >= threshold).sum()), len(scores))
        for scores in (comparisons.impostor, comparisons.genuine)
    )
    return far, tar


def _roc(comparisons: Comparisons | ScoreSet) -> Roc:
    return comparisons.roc() if isinstance(comparisons, Comparisons) else roc(comparisons)


def _threshold(comparisons: Comparisons | ScoreSet, curve: Roc, point: int) -> float:
    # The first point accepts nothing; a threshold just above the highest score says so in finite numbers.
    return float(curve.thresholds[point] if point else np.nextafter(comparisons.scores.max(), np.inf))


def _confident(comparisons: Comparisons | ScoreSet, far: float) -> float:
    """Threshold with the most false accepts whose FAR interval ends at or below `far`."""
    curve = _roc(comparisons)
    resolve(far, curve.n_impostor)

    def upper(count: int) -> float:
        return accepted(comparisons, _threshold(comparisons, curve, at_count(curve, count)))[0].high

    low, high = -1, int(far * curve.n_impostor)  # below `low` promised, at `high` not yet known
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if upper(middle) <= far else (low, middle - 1)
    if low < 0:
        raise DataError(
            f"a false accept rate of at least {upper(0):.2g}, the lowest that {curve.n_impostor:,} impostor "
            "comparisons can promise with 97.5 % confidence",
            f"{far:g}", "ask for a higher rate, add impostors, or drop --confident",
        )  # fmt: skip
    return _threshold(comparisons, curve, at_count(curve, low))
