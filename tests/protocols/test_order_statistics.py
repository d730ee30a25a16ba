"""The law of a threshold's rank is the binomial's; a mixture over one threshold is Jeffreys' interval."""

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import beta, binom

from normface.protocols.order_statistics import RANKS, at_ranks, mixture, ranks


@pytest.mark.parametrize("allowed", [1, 3, 30])
def test_ranks_are_binomial(allowed):
    """So many of n impostors lie above the true threshold as a binomial of n and FAR says."""
    found, n = ranks(allowed, 1.0), 1_000_000
    for count in range(3 * allowed):
        share = np.mean(found > count)  # more than `count` ranks away: at least that many above
        assert share == pytest.approx(1 - binom.cdf(count - 1, n, allowed / n) if count else 1, abs=1.5 / RANKS)


def test_dependent_impostors_are_fewer():
    """With a design effect of 4 the rank over 4 has the law of a quarter of the false accepts."""
    assert ranks(40, 4.0) / 4 == pytest.approx(ranks(10, 1.0), rel=1e-3)


def test_scores_at_ranks():
    falling = -np.log(np.arange(1, 200))  # an exponential tail of mean 1, at its expected places
    assert at_ranks(np.array([1.0, 2, 7]), falling) == pytest.approx(falling[[0, 1, 6]])
    assert at_ranks(np.array([2.5]), falling) == pytest.approx([-np.log(2.5)])
    # Beyond the highest: the mean excess of the ten highest over the next
    excess = np.mean(falling[:10] - falling[10])
    assert at_ranks(np.array([0.1]), falling) == pytest.approx([excess * np.log(10)])


def test_one_threshold_is_jeffreys_interval():
    low, high = mixture(np.full(RANKS, 0.9), 200, 0.0)
    assert (low, high) == pytest.approx(beta.ppf([0.025, 0.975], 180.5, 20.5), abs=1e-5)


def test_correlated_errors_widen_the_interval():
    """Normal shares over normal thresholds: variances add up, and with a correlation twice their covariance."""
    normal = ndtri((np.arange(RANKS) + 0.5) / RANKS)
    error, n = 0.01, 0.25 / 0.01**2
    shares = 0.5 - error * normal  # falling in rank, as far again as they vary at one threshold
    for correlation in (0.0, 0.5, -0.5):
        low, high = mixture(shares, n, correlation)
        expected = 2 * 1.96 * error * np.sqrt(2 + 2 * correlation)
        assert high - low == pytest.approx(expected, rel=0.03)
