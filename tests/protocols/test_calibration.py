"""Maps of scores to evidence, against scikit-learn, their definitions and the truth they were drawn from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from normface.errors import DataError
from normface.protocols.calibration import calibrate, cllr


def drawn(genuine=400, impostor=900, seed=0, gap=2.0):
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(gap / 2, 1, genuine), rng.normal(-gap / 2, 1, impostor)] / 5
    return scores, np.arange(genuine + impostor) < genuine


@pytest.mark.parametrize("gap", [0.5, 2.0, 4.0])
def test_logistic_is_scikit_learns(gap):
    scores, same = drawn(gap=gap)
    oracle = LogisticRegression(C=np.inf, class_weight="balanced", tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    oracle.fit(scores[:, None], same)
    found = calibrate(scores, same, ~same)
    assert found.slope == pytest.approx(float(oracle.coef_[0, 0]), rel=1e-6)
    assert found.intercept == pytest.approx(float(oracle.intercept_[0]), abs=1e-6)


def test_pav_is_scikit_learns_with_one_more_error_at_either_end():
    scores, same = drawn()
    x = np.r_[-9, scores, 9]
    fitted = IsotonicRegression().fit(x, np.r_[1, same, 0]).predict(scores)
    odds = fitted / (1 - fitted) * (np.sum(~same) + 1) / (np.sum(same) + 1)
    found = calibrate(scores, same, ~same)
    step = np.searchsorted(found.pav_scores, scores, side="right") - 1
    np.testing.assert_allclose(np.array(found.pav_llrs)[step], np.log(odds), atol=1e-9)


def test_least_cost_is_that_of_scikit_learns_pav():
    scores, same = drawn()
    p = np.clip(IsotonicRegression().fit(scores, same).predict(scores), 1e-300, 1 - 1e-16)
    ratio = p / (1 - p) * np.mean(~same) / np.mean(same)
    cost = (np.mean(np.log2(1 + 1 / ratio[same])) + np.mean(np.log2(1 + ratio[~same]))) / 2
    assert calibrate(scores, same, ~same).min_cllr == pytest.approx(cost, abs=1e-9)


def test_cost_is_its_definition():
    """Gathered from single comparisons with the map that `llr` is."""
    scores, same = drawn()
    found = calibrate(scores, same, ~same)
    llrs = np.array([found.llr(score) for score in scores])
    cost = (np.mean(np.log2(1 + np.exp(-llrs[same]))) + np.mean(np.log2(1 + np.exp(llrs[~same])))) / 2
    assert found.cllr == pytest.approx(cost)
    assert cllr(llrs, same, ~same) == pytest.approx(cost)
    assert cllr(np.zeros(len(llrs)), same, ~same) == pytest.approx(1)  # knows nothing: one bit


def test_finds_the_truth():
    """Of unit Gaussians at ±d/2 the log-likelihood ratio is d · x; here x = 5 · score."""
    scores, same = drawn(100_000, 100_000, gap=2.0)
    found = calibrate(scores, same, ~same)
    assert found.slope == pytest.approx(10, rel=0.02)
    assert found.intercept == pytest.approx(0, abs=0.02)
    assert found.probability(0.1, 0.2) == pytest.approx(1 / (1 + 4 * np.exp(-1)), abs=0.01)


@st.composite
def comparisons(draw):
    """Few distinct values, so that ties and separated kinds abound."""
    n = draw(st.integers(2, 40))
    scores = np.array(draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))) / 4
    same = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    same[:2] = True, False
    return scores, same


@given(comparisons())
@settings(max_examples=60)
def test_laws(drawn):
    scores, same = drawn
    found = calibrate(scores, same, ~same)
    assert 0 <= found.min_cllr <= found.cllr + 1e-12
    line = cllr(found.slope * scores + found.intercept, same, ~same)
    assert min(found.cllr, line) <= 1 + 1e-9  # the line that says nothing is among the lines
    assert np.isfinite([*found.pav_llrs, found.slope, found.intercept]).all()
    assert found.slope >= 0
    llrs = [found.llr(score) for score in np.sort(scores)]
    assert np.all(np.diff(llrs) >= 0)
    bound = np.log([same.sum() + 1, (~same).sum() + 1])
    assert -bound[0] - 1e-9 <= llrs[0] <= llrs[-1] <= bound[1] + 1e-9  # no more than so many comparisons can say


@given(comparisons())
@settings(max_examples=30)
def test_counts_are_repeated_comparisons(drawn):
    scores, same = drawn
    values = np.unique(scores)
    counts = [[int(np.sum((scores == v) & kind)) for v in values] for kind in (same, ~same)]
    one, two = calibrate(scores, same, ~same), calibrate(values, *map(np.array, counts))
    assert (one.pav_scores, one.slope) == (two.pav_scores, pytest.approx(two.slope))
    assert (one.cllr, one.min_cllr) == pytest.approx((two.cllr, two.min_cllr))


def test_separated_scores_claim_no_more_than_they_show():
    scores, same = np.r_[np.linspace(0.6, 0.9, 20), np.linspace(-0.2, 0.4, 50)], np.arange(70) < 20
    found = calibrate(scores, same, ~same)
    assert found.min_cllr == 0
    assert found.llr(0.6) == pytest.approx(found.llr(1)) == pytest.approx(np.log(20 / 21 * 51))
    assert found.llr(0.4) == pytest.approx(np.log(51 / 50 / 21))


def test_scores_that_fall_with_likeness_say_nothing():
    scores, same = drawn(gap=-1.0)
    found = calibrate(scores, same, ~same)
    assert (found.slope, found.intercept, found.cllr) == (0, 0, pytest.approx(1))


def test_one_kind_alone():
    with pytest.raises(DataError, match="both kinds"):
        calibrate(np.ones(3), np.ones(3), np.zeros(3))


def test_pools_that_rounding_puts_in_the_wrong_order():
    """These scores gave two neighboring pools whose ratios fell by a rounding error, and no calibration."""
    rng = np.random.default_rng(1179)
    same = np.arange(6000) < 3000
    made = calibrate(rng.normal(size=6000) + 3.5 * same, same, ~same)
    assert (np.diff(made.pav_llrs) >= 0).all()
