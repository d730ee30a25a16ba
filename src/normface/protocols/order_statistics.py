"""Uncertainty of the threshold for a false accept rate, which is an order statistic of the impostor scores.

The number of a sample's impostor scores above the true threshold is binomial, so the threshold's *rank* among them has
a known distribution. Rank r is reached with probability Q(r / e, n·FAR / e), where Q is the upper incomplete gamma
function and e the design effect (`rates`). Between adjacent scores the threshold is interpolated by the logarithm of
the rank. Above the highest score the impostors' tail is continued as an exponential. A rate of genuine comparisons at
that threshold is then a mixture over ranks of Jeffreys posteriors.
"""

from __future__ import annotations

import numpy as np

from ..types import Floats

RANKS = 100  # of a distribution, equally probable
HIGHEST = 10  # impostor scores whose mean excess continues the tail
MEDIAN = 1 / 3  # approximate distance of the median rank above n·FAR


def ranks(allowed: float, effect: float) -> Floats:
    """Ranks [RANKS] of the true threshold for `allowed` = n·FAR false accepts among the impostor scores, rising."""
    from scipy.special import gammaincc

    grid = np.linspace(0, allowed + 12 * np.sqrt(allowed * effect) + 12 * effect, 4001)[1:]
    wanted = (np.arange(RANKS) + 0.5) / RANKS
    return np.asarray(np.interp(wanted, gammaincc(grid / effect, allowed / effect), grid))


def at_ranks(rank: Floats, falling: Floats) -> Floats:
    """Thresholds at ranks, which need not be whole; rank 1 is the highest of the impostor scores `falling` [T]."""
    found = np.interp(np.log(rank), np.log(np.arange(1, len(falling) + 1)), falling)
    return np.asarray(np.where(rank < 1, falling[0] - excess(falling) * np.log(rank), found))


def excess(falling: Floats) -> float:
    """Mean excess of the highest impostor scores over the next one."""
    count = min(HIGHEST, len(falling) - 1)
    return float(np.mean(falling[:count] - falling[count])) if count else 0.0


def mixture(shares: Floats, effective: float, correlation: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share that was measured as `shares` at equally probable thresholds, falling.

    Args:
        effective: number of independent comparisons behind each share.
        correlation: between the errors of this share and of the false accept rate; positive if both are too high
            together.
    """
    from scipy.special import betainc, ndtr, ndtri

    hits = (shares * effective)[:, None]
    shift = correlation * ndtri((np.arange(len(shares)) + 0.5) / len(shares))[:, None]
    low, high, wanted = np.zeros(2), np.ones(2), np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    for _ in range(20):  # bisection
        middle = (low + high) / 2
        below = betainc(hits + 0.5, effective - hits + 0.5, middle)
        if correlation:
            below = ndtr((ndtri(np.clip(below, 1e-12, 1 - 1e-12)) + shift) / np.sqrt(1 - correlation**2))
        less = below.mean(0) < wanted
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return float(low[0]), float(high[1])
