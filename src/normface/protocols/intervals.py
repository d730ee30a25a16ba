"""95 % intervals of measured rates. SciPy is imported when first needed, because it loads slowly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np

from ..errors import InputError
from ..types import Bools, Estimate, Floats, Ints


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """successes / n with the exact interval of Clopper and Pearson (1934), for independent trials.

    Raises InputError unless 0 ≤ successes ≤ n and n ≥ 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise InputError("0 ≤ successes ≤ n, n ≥ 1", f"{successes} of {n}", "correct the counts")
    low, high = exact(successes / n, n, confidence)
    return Estimate(successes / n, low, high, n)


def exact(value: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share of n independent trials; n need not be an integer."""
    from scipy.special import betaincinv

    tail, successes = (1 - confidence) / 2, value * n
    low = 0.0 if value <= 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if value >= 1 else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def standard_error(values: Floats) -> float:
    """Standard error of the mean of independent values, such as fold accuracies: s / √k."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def over_folds(value: float, by_fold: Floats, n: int, confidence: float = 0.95) -> Estimate:
    """Estimate of a rate `value` of `n` trials, with Student's t interval from at least 2 independent folds.

    If all folds agree (for example, all are perfect), this interval would have no width; then it is that of
    `proportion`.
    """
    from scipy.special import stdtrit

    if np.ptp(by_fold) == 0:
        pooled = proportion(round(value * n), n, confidence)
        return Estimate(value, min(value, pooled.low), max(value, pooled.high), n)

    half = float(stdtrit(len(by_fold) - 1, (1 + confidence) / 2)) * standard_error(by_fold)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), n)


def resampled(statistic: Callable[[Floats], Floats], subjects: int, replicates: int, seed: int = 0) -> Floats:
    """Compute a statistic [K] of `replicates` bootstrap samples of the subjects [R, K] (Efron 1979).

    Comparisons that share people are not independent, but people are. `statistic` gets the number of draws of each
    subject [S]; the weight of a comparison of two people is the product of both.
    """
    rng = np.random.default_rng(seed)
    even = np.full(subjects, 1 / subjects)
    return np.array([statistic(rng.multinomial(subjects, even).astype(np.float64)) for _ in range(replicates)])


def resampled_pairs(
    statistic: Callable[[Floats], Floats], people: tuple[Ints, Ints], same: Bools, replicates: int
) -> Floats:
    """`resampled` over the people of M pairs: `statistic` gets the weight of each pair [M].

    people: [M] the person on both sides, from 0. The weight of a pair of one person is the number of draws of this
    person.
    """
    left, right = people

    def of_pairs(weights: Floats) -> Floats:
        return statistic(np.where(same, weights[left], weights[left] * weights[right]))

    return resampled(of_pairs, int(max(left.max(), right.max())) + 1, replicates)


def percentiles(samples: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Intervals of a statistic from its `resampled` values [R, K], ignoring NaN: lower and upper ends [K]."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(samples, [tail, 100 - tail], axis=0)
    return low, high


def unused(replicates: int | None) -> None:
    """Warn that the argument `replicates` has no effect because the intervals need no bootstrap."""
    if replicates is not None:
        warnings.warn("replicates has no effect: these intervals need no bootstrap", DeprecationWarning, stacklevel=3)
