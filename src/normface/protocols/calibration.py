"""Scores as evidence: maps from a score to a log-likelihood ratio, and what they cost (Brümmer and du Preez 2006)."""

from __future__ import annotations

import math

import numpy as np

from ..errors import DataError
from ..types import Bools, Calibration, Floats, Ints

STEPS = 100  # of Newton's method at most; ten are usual


def calibrate(scores: Floats, genuine: Floats | Bools, impostor: Floats | Bools) -> Calibration:
    """The logistic and the best rising map of scores to natural log-likelihood ratios.

    Args:
        scores: [K] distinct or not.
        genuine, impostor: [K] how many genuine and impostor comparisons had each score (for single ones True, False).

    Raises DataError where either kind is absent.
    """
    ranked, genuine, impostor = _pooled(scores, genuine, impostor)
    # A genuine comparison below all and an impostor above all keep the ratios finite.
    first, g, i = _pav(np.r_[1, genuine, 0], np.r_[0, impostor, 1])
    # Pools of nearly one share may come out in the wrong order by rounding.
    steps = np.maximum.accumulate(np.log(g / g.sum()) - np.log(i / i.sum()))
    starts = ranked[np.maximum(first - 1, 0)]
    low, high = ranked[impostor > 0][-1], ranked[genuine > 0][0]
    if low <= high:
        # No score of one kind lies among the other's: a line that jumps as the steps do, for none is best.
        slope = float(steps[-1] - steps[0]) / max(float(high - low), 1e-6)
        intercept = float(steps[np.searchsorted(starts, low, side="right") - 1]) - slope * float(low)
    else:
        slope, intercept = _logistic(ranked, genuine, impostor)
    llrs = np.clip(slope * ranked + intercept, steps[0], steps[-1])
    _, g, i = _pav(genuine, impostor)
    with np.errstate(divide="ignore"):
        best = np.log(g / g.sum()) - np.log(i / i.sum())
    return Calibration(
        slope, intercept, tuple(starts.tolist()), tuple(steps.tolist()), cllr(llrs, genuine, impostor), cllr(best, g, i)
    )


def cllr(llrs: Floats, genuine: Floats | Bools, impostor: Floats | Bools) -> float:
    """Cost in bits of log-likelihood ratios [K] of which so many [K] were genuine and impostor comparisons.

    ½ · mean over genuine of log₂(1 + e^−llr) + ½ · mean over impostors of log₂(1 + e^llr).
    """
    costs = [
        float(np.sum(n[n > 0] * np.logaddexp(0, sign * llrs[n > 0])) / n.sum())
        for n, sign in ((np.asarray(genuine, float), -1), (np.asarray(impostor, float), 1))
    ]
    return sum(costs) / (2 * math.log(2))


def _pooled(scores: Floats, genuine: Floats | Bools, impostor: Floats | Bools) -> tuple[Floats, Floats, Floats]:
    """Counts at each distinct score, rising."""
    ranked, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    counts = np.zeros((2, len(ranked)))
    for each, n in zip(counts, (genuine, impostor), strict=True):
        each[:] = np.bincount(place, np.asarray(n, np.float64))
    if not counts.sum(1).all():
        raise DataError("genuine and impostor comparisons", "one kind alone", "give pairs of both kinds")
    kept = counts[0] + counts[1] > 0
    return ranked[kept], counts[0][kept], counts[1][kept]


def _pav(genuine: Floats, impostor: Floats) -> tuple[Ints, Floats, Floats]:
    """Pools of neighbors in which the share of genuine comparisons rises: first index, and counts of both kinds."""
    from scipy.optimize import isotonic_regression

    total = genuine + impostor
    first = isotonic_regression(genuine / total, weights=total).blocks[:-1]
    return first, np.add.reduceat(genuine, first), np.add.reduceat(impostor, first)


def _logistic(ranked: Floats, genuine: Floats, impostor: Floats) -> tuple[float, float]:
    """Slope ≥ 0 and intercept of the line of least Cllr, by Newton's method."""
    g, i = genuine / genuine.sum(), impostor / impostor.sum()
    if (g - i) @ ranked <= 1e-12:
        return 0.0, 0.0  # the best line would fall with likeness: such a score says nothing
    center = np.average(ranked, weights=g + i)
    spread = np.sqrt(np.average((ranked - center) ** 2, weights=g + i))
    x = np.stack([(ranked - center) / spread, np.ones_like(ranked)])

    def cost(line: Floats) -> float:
        return float(g @ np.logaddexp(0, -line @ x) + i @ np.logaddexp(0, line @ x))

    line = np.zeros(2)
    for _ in range(STEPS):
        p = 0.5 + 0.5 * np.tanh(line @ x / 2)
        slope = x @ (i * p - g * (1 - p))
        step = np.linalg.solve((x * ((g + i) * p * (1 - p))) @ x.T, slope)
        now, size = cost(line), 1.0
        while cost(line - size * step) > now and size > 1e-6:  # beside the point, or by rounding at the optimum
            size /= 2
        line = line - size * step
        if abs(slope @ step) < 1e-18:
            break
    return float(line[0] / spread), float(line[1] - line[0] * center / spread)
