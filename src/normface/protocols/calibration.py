"""Scores as evidence: maps from score to log-likelihood ratio, and their cost (Brümmer and du Preez 2006)."""

from __future__ import annotations

import math

import numpy as np

from ..errors import DataError
from ..types import Bools, Calibration, Floats, Ints

STEPS = 100  # at most, of Newton's method; usually ten


def calibrate(scores: Floats, genuine: Floats | Bools, impostor: Floats | Bools) -> Calibration:
    """Fit the logistic map and the best rising map from scores to natural log-likelihood ratios.

    Args:
        scores: [K], repeated scores are allowed.
        genuine, impostor: [K] numbers of genuine and impostor comparisons with each score (True, False for single
            ones).

    Raises DataError if there are no comparisons of one kind.
    """
    ranked, genuine, impostor = _pooled(scores, genuine, impostor)
    # An extra genuine comparison below all scores and an impostor above all keep the ratios finite.
    first, g, i = _pav(np.r_[1, genuine, 0], np.r_[0, impostor, 1])
    # Rounding may swap pools with nearly equal shares.
    steps = np.maximum.accumulate(np.log(g / g.sum()) - np.log(i / i.sum()))
    starts = ranked[np.maximum(first - 1, 0)]
    low, high = ranked[impostor > 0][-1], ranked[genuine > 0][0]
    if low <= high:
        # The kinds are separated and no line is best: use one that jumps like the steps.
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
    """Compute the cost in bits of log-likelihood ratios [K], for [K] genuine and impostor comparisons with each.

    ½ · mean over genuine of log₂(1 + e^−llr) + ½ · mean over impostors of log₂(1 + e^llr).
    """
    costs = [
        float(np.sum(n[n > 0] * np.logaddexp(0, sign * llrs[n > 0])) / n.sum())
        for n, sign in ((np.asarray(genuine, float), -1), (np.asarray(impostor, float), 1))
    ]
    return sum(costs) / (2 * math.log(2))


def _pooled(scores: Floats, genuine: Floats | Bools, impostor: Floats | Bools) -> tuple[Floats, Floats, Floats]:
    """Distinct scores, rising, with the counts at each."""
    ranked, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    counts = np.zeros((2, len(ranked)))
    for each, n in zip(counts, (genuine, impostor), strict=True):
        each[:] = np.bincount(place, np.asarray(n, np.float64))
    if not counts.sum(1).all():
        raise DataError("genuine and impostor comparisons", "one kind alone", "give pairs of both kinds")
    kept = counts[0] + counts[1] > 0
    return ranked[kept], counts[0][kept], counts[1][kept]


def _pav(genuine: Floats, impostor: Floats) -> tuple[Ints, Floats, Floats]:
    """Pools of adjacent scores with a rising share of genuine comparisons: first index, and counts of both kinds."""
    from scipy.optimize import isotonic_regression

    total = genuine + impostor
    first = isotonic_regression(genuine / total, weights=total).blocks[:-1]
    return first, np.add.reduceat(genuine, first), np.add.reduceat(impostor, first)


def _logistic(ranked: Floats, genuine: Floats, impostor: Floats) -> tuple[float, float]:
    """Slope ≥ 0 and intercept of the line with the lowest Cllr, by Newton's method."""
    g, i = genuine / genuine.sum(), impostor / impostor.sum()
    if (g - i) @ ranked <= 1e-12:
        return 0.0, 0.0  # the best line would fall with the score, so the score is no evidence
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
        while cost(line - size * step) > now and size > 1e-6:  # overshot, or rounding at the optimum
            size /= 2
        line = line - size * step
        if abs(slope @ step) < 1e-18:
            break
    return float(line[0] / spread), float(line[1] - line[0] * center / spread)
