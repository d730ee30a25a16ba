"""Exact error rates from scores, by one sort and with correct ties. Score ≥ threshold means accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..types import Bools, Floats, Ints, ScoreSet

CURVE_POINTS = 2000  # of a curve in plots


@dataclass(frozen=True)
class Roc:
    """One point for each distinct score, preceded by the threshold that accepts nothing; all arrays [T].

    Attributes:
        thresholds: falling, from +∞ to the lowest score.
        false_accepts, true_accepts: counts, rising from 0.
        n_impostor, n_genuine: total numbers of comparisons.
    """

    thresholds: Floats
    false_accepts: Ints
    true_accepts: Ints
    n_impostor: int
    n_genuine: int

    @property
    def far(self) -> Floats:
        """False accept rate at each threshold."""
        return self.false_accepts / self.n_impostor

    @property
    def tar(self) -> Floats:
        """True accept rate at each threshold."""
        return self.true_accepts / self.n_genuine


def roc(scores: ScoreSet) -> Roc:
    """Compute the receiver operating characteristic with every threshold."""
    thresholds, false, true = counts(scores.scores, scores.same)
    return Roc(thresholds, false, true, int(false[-1]), int(true[-1]))


def counts(scores: Floats, same: Bools) -> tuple[Floats, Ints, Ints]:
    """Return thresholds, and the numbers of impostor and genuine scores at or above each, as in `Roc`."""
    order = np.argsort(scores)[::-1]
    ranked, same = scores[order], same[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each group of equal scores
    true = np.cumsum(same)[last]
    return (
        np.concatenate([[np.inf], ranked[last]]),
        np.concatenate([[0], last + 1 - true]),
        np.concatenate([[0], true]),
    )


def staircase(scores: ScoreSet) -> Roc:
    """Compute only the corners of the ROC: before and after its rise at each genuine score.

    Much faster than `roc` if there are many more impostors.
    """
    genuine, impostor = np.sort(scores.genuine), np.sort(scores.impostor)
    thresholds = np.unique(genuine)[::-1]
    true = len(genuine) - np.searchsorted(genuine, thresholds)
    above, at = (len(impostor) - np.searchsorted(impostor, thresholds, side) for side in ("right", "left"))
    points = np.stack([np.stack([above, np.append(0, true[:-1])], 1), np.stack([at, true], 1)], 1).reshape(-1, 2)
    points = np.concatenate([[[0, 0]], points, [[len(impostor), len(genuine)]]])
    thresholds = np.concatenate([[np.inf], thresholds.repeat(2), [-np.inf]])
    new = np.append(True, (points[1:] != points[:-1]).any(1))
    return Roc(thresholds[new], points[new, 0], points[new, 1], len(impostor), len(genuine))


def auc(curve: Roc) -> float:
    """Compute the area under the ROC: the probability that a genuine score exceeds an impostor one; ties count half."""
    return float(np.trapezoid(curve.tar, curve.far))


def eer(curve: Roc) -> float:
    """Compute the equal error rate: FAR = 1 - TAR on the line between the two points around the crossing."""
    return _crossing(curve.far, 1 - curve.tar)


def weighted(scores: ScoreSet, order: Ints, weights: Floats | None) -> tuple[float, float]:
    """EER and AUC of comparisons with weights [M]; `order`: scores falling. NaN if one kind has no weight."""
    each = np.ones(len(order)) if weights is None else weights[order]
    ranked, same = scores.scores[order], scores.same[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    false, true = (np.concatenate([[0], np.cumsum(each * kind)[last]]) for kind in (~same, same))
    if not (false[-1] and true[-1]):
        return np.nan, np.nan
    far, tar = false / false[-1], true / true[-1]
    return _crossing(far, 1 - tar), float(np.trapezoid(tar, far))


def _crossing(far: Floats, frr: Floats) -> float:
    after = int(np.argmax(far >= frr))  # the last point has FAR 1, the first FRR 1
    a, b = far[after - 1] - frr[after - 1], far[after] - frr[after]
    share = -a / (b - a)
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


def at_far(curve: Roc, far: float) -> int:
    """Index into the ROC of the highest TAR with a measured FAR of at most `far`.

    Of several thresholds with this TAR it is the highest, so that it makes the fewest false accepts.

    Raises DataError if the impostor comparisons cannot resolve `far`.
    """
    resolve(far, curve.n_impostor)
    return at_count(curve, int(far * curve.n_impostor * (1 + 1e-12)))  # an integer, despite the rounding of far


def at_count(curve: Roc, allowed: int) -> int:
    """`at_far` for a given number of false accepts."""
    last = int(np.searchsorted(curve.false_accepts, allowed, side="right")) - 1
    return int(np.searchsorted(curve.true_accepts, curve.true_accepts[last]))


def resolvable(fars: Sequence[float], impostors: int) -> tuple[list[float], list[str]]:
    """Return the false accept rates that `impostors` pairs can resolve, and a note for each of the others."""
    able = [far for far in fars if far * impostors >= 1 - 1e-9]
    return able, [
        f"TAR at FAR {far:g} left out: {impostors:,} impostor pairs cannot resolve it"
        for far in fars if far not in able
    ]  # fmt: skip


def resolve(far: float, impostors: int) -> None:
    """Raise DataError for an invalid false accept rate, or one that `impostors` comparisons cannot resolve."""
    if not 0 < far <= 1:
        raise DataError("a false accept rate above 0, at most 1", str(far), "correct it")
    if far * impostors < 1 - 1e-9:
        raise DataError(
            f"a false accept rate of at least 1/{impostors} = {1 / impostors:.2g}, which "
            f"{impostors} impostor comparisons can resolve", str(far), "ask for a higher rate or add impostors",
        )  # fmt: skip


def refuse_equal(values: Floats) -> None:
    """Raise DataError where all of several scores [M], or of several embeddings [N, D], are equal: they tell nobody
    apart.
    """
    if len(values) > 1 and (values == values[0]).all():
        what = "scores" if values.ndim == 1 else "embeddings"
        raise DataError(f"{what} that differ", f"{len(values):,} equal ones", "check the model, and embed again")


def d_prime(scores: ScoreSet) -> float:
    """Distance between genuine and impostor scores: difference of means over the root of the mean variance.

    Infinite if neither varies.
    """
    spread = float(np.sqrt((np.var(scores.genuine) + np.var(scores.impostor)) / 2))
    apart = float(np.mean(scores.genuine) - np.mean(scores.impostor))
    return apart / spread if spread else float(np.copysign(np.inf, apart))


def corners(curve: Roc) -> dict[str, list[float]]:
    """FAR and TAR of the points that draw the same staircase, without those inside a straight line.

    If there are more than CURVE_POINTS corners, those remain that are last before as many rates, evenly spaced in the
    logarithm.
    """
    far, tar = curve.far, curve.tar
    straight = np.zeros(len(far), bool)
    straight[1:-1] = ((far[1:-1] == far[:-2]) & (far[1:-1] == far[2:])) | (
        (tar[1:-1] == tar[:-2]) & (tar[1:-1] == tar[2:])
    )
    far, tar = far[~straight], tar[~straight]
    if len(far) > CURVE_POINTS:
        rates = np.geomspace(1 / curve.n_impostor, 1, CURVE_POINTS)
        kept = np.unique([0, *(np.searchsorted(far, rates, side="right") - 1), len(far) - 1])
        far, tar = far[kept], tar[kept]
    return {"far": far.tolist(), "tar": tar.tolist()}


def span(low: float, high: float) -> tuple[float, float]:
    """Range of histograms: [-1, 1] for cosines, otherwise `low` to `high`."""
    return (-1.0, 1.0) if -1.001 <= low <= high <= 1.001 else (low, high)


def histogram(scores: ScoreSet, bins: int = 100) -> dict[str, list[float]]:
    """Counts of both kinds in bins of equal width on their `span`, for plots."""
    low, high = span(float(scores.scores.min()), float(scores.scores.max()))
    found = {"edges": np.linspace(low, high, bins + 1).tolist()}
    for kind, values in (("genuine", scores.genuine), ("impostor", scores.impostor)):
        place = ((values - low) * (bins / (high - low))).astype(np.int16).clip(0, bins - 1)
        found[kind] = np.bincount(place, minlength=bins).tolist()
    return found


def accuracy_threshold(scores: Floats, same: Bools) -> float:
    """Return the threshold with the best accuracy, by one sort.

    It lies midway between the two scores it separates. Of several equally good gaps the middle one is used.
    """
    order = np.argsort(scores, kind="stable")
    ranked, same = scores[order], same[order]
    # right[k]: correct decisions if the k lowest are rejected
    right = np.concatenate([[0], np.cumsum(~same)]) + same.sum() - np.concatenate([[0], np.cumsum(same)])
    middles = (ranked[:-1] + ranked[1:]) / 2
    middles = np.where(middles > ranked[:-1], middles, ranked[1:])  # there may be no float between neighbors
    edges = np.concatenate([[ranked[0] - 1e-6], middles, [ranked[-1] + 1e-6]])
    splits = np.concatenate([[True], ranked[1:] != ranked[:-1], [True]])
    best = np.flatnonzero(splits & (right == right[splits].max()))
    return float(edges[best[len(best) // 2]])
