"""TARs of two systems on the same comparisons, each at its own threshold for one false accept rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..types import Bools, Ints, ScoreSet
from . import metrics
from .rates import STEADY, Listed, rate

REACH = 3.5  # standard errors of the logarithm of a threshold's rank, over which TAR is a straight line of it


@dataclass(frozen=True)
class Difference:
    """Difference between the TARs of two systems, first minus second.

    Attributes:
        tars: measured TAR of each.
        errors: standard error of each.
        value: the difference; `error` is its standard error.
        freedom: degrees of freedom: the effective number of people, by their shares of the comparisons, less 1.
    """

    tars: tuple[float, float]
    errors: tuple[float, float]
    value: float
    error: float
    freedom: float

    def interval(self, value: float, error: float, confidence: float = 0.95) -> tuple[float, float]:
        """Student's interval of one of the values."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, (1 + confidence) / 2)) * error
        return value - half, value + half

    @property
    def p(self) -> float:
        """Two-sided p value of the hypothesis that both systems have the same TAR."""
        from scipy.special import stdtr

        if not self.error:
            return float(self.value == 0)
        return 2 * float(stdtr(self.freedom, -abs(self.value) / self.error))


def difference(systems: Sequence[ScoreSet], people: tuple[Ints, Ints], far: float) -> Difference:
    """Compare the TARs of two systems, including the uncertainty of both thresholds.

    The genuine comparisons are the same, so the variance is that of the paired decisions, summed over people. If k
    false accepts are allowed, the threshold is the impostor score of rank k + 1. The logarithm of its true false accept
    rate has the variance ψ′(k + 1), multiplied by the design effect (see `rates`). The thresholds of both systems are
    correlated as far as the same impostors lie above them. TAR depends on the logarithm along a straight line, which is
    fitted to the impostor scores around the rank.

    people: the person on both sides of each comparison [N], from 0.

    Raises DataError if the impostors cannot resolve `far`.
    """
    from scipy.special import polygamma

    same = systems[0].same
    whose = people[0][same]
    left, right = (side[~same] for side in people)
    count = int(max(people[0].max(), people[1].max())) + 1
    trials = Listed.of(left, right, count)
    hits: list[Bools] = []
    above: list[Ints] = []
    slopes, effect = [], 1.0
    for each in systems:
        curve = metrics.roc(each)
        threshold = curve.thresholds[metrics.at_far(curve, far)]
        allowed = int(far * curve.n_impostor * (1 + 1e-12))
        falling = np.argsort(-each.impostor, kind="stable")
        few, more = (Listed.of(left[falling[:n]], right[falling[:n]], count) for n in (allowed, allowed + STEADY))
        found = rate(few, trials, longer=more)
        assert found
        effect = max(effect, found.effect)
        hits.append(each.genuine >= threshold)
        above.append(falling[: allowed + 1])
        slopes.append(_slope(each, falling, allowed + 1, REACH * np.sqrt(float(polygamma(1, allowed + 1)) * effect)))
    shared = len(np.intersect1d(above[0], above[1])) / len(above[0])
    spread = effect * float(polygamma(1, len(above[0])))
    moved = [slope**2 * spread for slope in slopes]
    first, second = (rate(Listed.of(whose[hit], whose[hit], count), Listed.of(whose, whose, count)) for hit in hits)
    assert first
    assert second
    both = first.influence - second.influence
    variance = float(both @ both) + moved[0] + moved[1] - 2 * shared * slopes[0] * slopes[1] * spread
    errors = [
        float(np.sqrt(each.influence @ each.influence + way)) for each, way in zip((first, second), moved, strict=True)
    ]
    return Difference(
        (first.value, second.value), (errors[0], errors[1]), first.value - second.value,
        float(np.sqrt(max(variance, 0))), first.freedom,
    )  # fmt: skip


def _slope(scores: ScoreSet, falling: Ints, rank: int, reach: float) -> float:
    """Slope of TAR in the logarithm of the threshold's rank among the impostors, around a rank."""
    low, high = max(int(rank * np.exp(-reach)), 1), min(int(rank * np.exp(reach)) + 2, len(falling))
    places = np.unique(np.linspace(low, high, 500).astype(int))  # evenly over ranks, as the highest vary most
    if len(places) < 2:
        return 0.0
    thresholds = scores.impostor[falling[places - 1]]
    genuine = np.sort(scores.genuine)
    tar = 1 - np.searchsorted(genuine, thresholds) / len(genuine)
    return float(np.polyfit(np.log(places), tar, 1)[0])
