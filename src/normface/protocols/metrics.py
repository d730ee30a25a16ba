"""Error rates of scores, exact: one sort, ties right. A comparison is accepted where score ≥ threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..types import Bools, Floats, Ints, ScoreSet


@dataclass(frozen=True)
class Roc:
    """One point for each distinct score, preceded by the threshold that accepts nothing; all arrays [T].

    Attributes:
        thresholds: falling, from +∞ to the lowest score.
        false_accepts, true_accepts: counts, rising from 0.
        n_impostor, n_genuine: comparisons in all.
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
    """The whole receiver operating characteristic."""
    order = np.argsort(-scores.scores, kind="stable")
    ranked, same = scores.scores[order], scores.same[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each group of equal scores
    true = np.cumsum(same)[last]
    return Roc(
        np.concatenate([[np.inf], ranked[last]]),
        np.concatenate([[0], last + 1 - true]),
        np.concatenate([[0], true]),
        int((~scores.same).sum()),
        int(scores.same.sum()),
    )


def auc(curve: Roc) -> float:
    """Area under the ROC: the chance that a genuine score is above an impostor's, ties counted half."""
    return float(np.trapezoid(curve.tar, curve.far))


def eer(curve: Roc) -> float:
    """Equal error rate: where FAR meets 1 - TAR on the straight line between the two points around the crossing."""
    far, frr = curve.far, 1 - curve.tar
    after = int(np.argmax(far >= frr))  # the last point has FAR 1, the first FRR 1
    a, b = far[after - 1] - frr[after - 1], far[after] - frr[after]
    share = -a / (b - a)
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


def at_far(curve: Roc, far: float) -> int:
    """Index into the ROC of the highest TAR whose measured FAR is not above `far` (never merely near it).

    Of the thresholds with that TAR it is the highest: no false accept is given away.

    Raises DataError where the impostor comparisons cannot resolve `far`.
    """
    if not 0 < far <= 1:
        raise DataError("a false accept rate above 0, at most 1", str(far), "correct it")
    if far * curve.n_impostor < 1 - 1e-9:
        raise DataError(
            f"a false accept rate of at least 1/{curve.n_impostor} = {1 / curve.n_impostor:.2g}, which "
            f"{curve.n_impostor} impostor comparisons can resolve", str(far), "ask for a higher rate or add impostors",
        )  # fmt: skip
    allowed = int(far * curve.n_impostor * (1 + 1e-12))  # whole impostors, whatever the rounding of far
    last = int(np.searchsorted(curve.false_accepts, allowed, side="right")) - 1
    return int(np.searchsorted(curve.true_accepts, curve.true_accepts[last]))


def accuracy_threshold(scores: Floats, same: Bools) -> float:
    """The threshold that decides most comparisons rightly, by one sort.

    It lies midway between the two scores it separates; of several equally good gaps the middle one is taken.
    """
    order = np.argsort(scores, kind="stable")
    ranked, same = scores[order], same[order]
    # right[k]: comparisons decided rightly when the k lowest are rejected
    right = np.concatenate([[0], np.cumsum(~same)]) + same.sum() - np.concatenate([[0], np.cumsum(same)])
    middles = (ranked[:-1] + ranked[1:]) / 2
    middles = np.where(middles > ranked[:-1], middles, ranked[1:])  # between neighbours there may be no number
    edges = np.concatenate([[ranked[0] - 1e-6], middles, [ranked[-1] + 1e-6]])
    splits = np.concatenate([[True], ranked[1:] != ranked[:-1], [True]])
    best = np.flatnonzero(splits & (right == right[splits].max()))
    return float(edges[best[len(best) // 2]])
