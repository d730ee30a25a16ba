"""Against scikit-learn, brute force, textbooks and simulation."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from normface.errors import ConfigError, DataError, InputError
from normface.protocols import metrics, operating_point
from normface.protocols.intervals import over_folds, proportion, standard_error
from normface.types import Estimate, OperatingPoint, Result, ScoreSet

RNG = np.random.default_rng(0)


@st.composite
def comparisons(draw):
    """Few distinct values, so that ties abound."""
    n = draw(st.integers(2, 60))
    scores = np.array(draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n))) / 5
    same = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    same[:2] = True, False
    return ScoreSet(scores, same, np.zeros(n, int))


@given(comparisons())
def test_roc_and_auc_are_scikit_learns(scores):
    far, tar, thresholds = roc_curve(scores.same, scores.scores, drop_intermediate=False)
    curve = metrics.roc(scores)
    np.testing.assert_allclose(curve.far, far, atol=1e-12)
    np.testing.assert_allclose(curve.tar, tar, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert metrics.auc(curve) == pytest.approx(roc_auc_score(scores.same, scores.scores), abs=1e-12)


@given(comparisons())
@settings(max_examples=50)
def test_eer_is_where_scikit_learns_curve_meets_the_diagonal(scores):
    """Bisection on the line through scikit-learn's points."""
    far, tar, _ = roc_curve(scores.same, scores.scores, drop_intermediate=False)
    steps = np.concatenate([[0], np.cumsum(np.diff(far) + np.diff(tar))])  # along the curve, which may rise straight
    low, high = 0.0, steps[-1]
    for _ in range(100):
        middle = (low + high) / 2
        below = np.interp(middle, steps, far) < 1 - np.interp(middle, steps, tar)
        low, high = (middle, high) if below else (low, middle)
    assert metrics.eer(metrics.roc(scores)) == pytest.approx(np.interp(low, steps, far), abs=1e-12)


def test_eer_is_pyeers():
    """pyeer takes the mean of both errors at the threshold where they are nearest: one comparison's worth of both."""
    from pyeer.eer_stats import calculate_roc, get_eer_values

    rng = np.random.default_rng(1)
    genuine, impostor = rng.normal(1, 1, 1500), rng.normal(-0.5, 1, 4000)
    found = metrics.eer(metrics.roc(ScoreSet(np.r_[genuine, impostor], np.arange(5500) < 1500, np.zeros(5500, int))))
    _, far, frr = calculate_roc(genuine, impostor)
    _, low, high, theirs = get_eer_values(far, frr)
    assert found == pytest.approx(theirs, abs=1 / 1500)
    assert low - 1 / 1500 <= found <= high + 1 / 1500


@given(comparisons())
@settings(max_examples=50)
def test_the_staircase_has_the_same_corners(scores):
    assert metrics.corners(metrics.staircase(scores)) == metrics.corners(metrics.roc(scores))


def test_a_long_curve_is_drawn_by_fewer_points():
    rng = np.random.default_rng(3)
    scores = np.r_[rng.normal(1, 1, 20_000), rng.normal(-1, 1, 20_000)]
    curve = metrics.roc(ScoreSet(scores, np.arange(40_000) < 20_000, np.zeros(40_000, int)))
    drawn = metrics.corners(curve)
    assert len(drawn["far"]) <= metrics.CURVE_POINTS + 2
    assert (drawn["far"][0], drawn["tar"][0], drawn["far"][-1], drawn["tar"][-1]) == (0, 0, 1, 1)
    points = set(zip(curve.far.tolist(), curve.tar.tolist(), strict=True))
    assert points.issuperset(zip(drawn["far"], drawn["tar"], strict=True))
    assert np.trapezoid(drawn["tar"], drawn["far"]) == pytest.approx(metrics.auc(curve), abs=1e-3)


def test_d_prime_of_two_gaussians():
    rng = np.random.default_rng(2)
    scores = ScoreSet(np.r_[rng.normal(2, 1, 100_000), rng.normal(-1, 2, 100_000)], np.arange(200_000) < 100_000,
                      np.zeros(200_000, int))  # fmt: skip
    assert metrics.d_prime(scores) == pytest.approx(3 / np.sqrt(2.5), abs=0.02)
    assert metrics.d_prime(ScoreSet(np.array([1.0, 0]), np.array([True, False]), np.zeros(2, int))) == np.inf


@given(comparisons(), st.floats(0.01, 1))
def test_tar_at_far_never_exceeds_the_stated_rate(scores, far):
    curve = metrics.roc(scores)
    impostor, genuine = scores.impostor, scores.genuine
    if far * len(impostor) < 1 - 1e-9:
        with pytest.raises(DataError, match=f"1/{len(impostor)}"):
            metrics.at_far(curve, far)
        return
    point = metrics.at_far(curve, far)
    best = 0.0
    for threshold in [np.inf, *scores.scores]:
        if np.mean(impostor >= threshold) <= far + 1e-12:
            best = max(best, np.mean(genuine >= threshold))
    assert curve.far[point] <= far + 1e-12
    assert curve.tar[point] == pytest.approx(best)


def test_the_nearest_rate_would_be_too_high():
    """Peers take the nearest false accept rate: here 2/3 for a stated 0.6, and so a TAR of 1 instead of 1/2."""
    scores = ScoreSet(np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([1, 0, 0, 1, 0], bool), np.zeros(5, int))
    curve = metrics.roc(scores)
    point = metrics.at_far(curve, 0.6)
    assert curve.far[point] <= 0.6
    assert curve.tar[point] == 0.5


def test_no_false_accept_is_given_away():
    """Of thresholds with one TAR the highest is taken, whatever false accept rate was allowed."""
    scores = ScoreSet(np.array([0.9, 0.5, 0.4, 0.3, 0.2, 0.1]), np.arange(6) == 0, np.zeros(6, int))
    point = operating_point(scores, target_far=0.6, protocol="p", model_sha256="m", data_sha256="d")
    assert (point.threshold, point.far.value, point.tar.value) == (0.9, 0, 1)


def test_threshold_between_neighbouring_floats():
    low = 0.3
    high = np.nextafter(low, 1)
    threshold = metrics.accuracy_threshold(np.array([low, high]), np.array([False, True]))
    assert low < threshold <= high


def test_a_rate_that_floating_point_cannot_hold():
    # From the top down: impostor, genuine, impostor, genuine, …, 1000 of each
    curve = metrics.roc(ScoreSet(-np.arange(2000) / 2000, np.arange(2000) % 2 == 1, np.zeros(2000, int)))
    assert curve.false_accepts[metrics.at_far(curve, 0.001)] == 1
    assert curve.false_accepts[metrics.at_far(curve, 0.007)] == 7


@given(comparisons())
@settings(max_examples=50)
def test_accuracy_threshold_by_brute_force(scores):
    threshold = metrics.accuracy_threshold(scores.scores, scores.same)
    candidates = np.r_[-9.0, scores.scores + 1e-9, 9.0]
    best = max(np.mean((scores.scores >= t) == scores.same) for t in candidates)
    assert np.mean((scores.scores >= threshold) == scores.same) == pytest.approx(best)


def test_eer_of_two_gaussians():
    """Means ±1, deviation 1: both errors are Φ(-1) = 0.158655 at 0."""
    scores = np.r_[RNG.normal(1, 1, 400_000), RNG.normal(-1, 1, 400_000)]
    curve = metrics.roc(ScoreSet(scores, np.arange(800_000) < 400_000, np.zeros(800_000, int)))
    assert metrics.eer(curve) == pytest.approx(0.158655, abs=2e-3)


@given(comparisons())
def test_eer_lies_between_the_errors_around_the_crossing(scores):
    curve = metrics.roc(scores)
    eer = metrics.eer(curve)
    best = np.minimum(np.maximum(curve.far, 1 - curve.tar).min(), 1)
    assert 0 <= eer <= best + 1e-12


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0, 0.30850), (10, 10, 0.69150, 1), (5, 10, 0.18709, 0.81291), (1, 100, 0.00025, 0.05446)],
)
def test_clopper_pearson_tables(successes, n, low, high):
    found = proportion(successes, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_intervals_cover():
    for p in (0.02, 0.3):
        hits = [proportion(int(k), 200) for k in RNG.binomial(200, p, 400)]
        assert np.mean([e.low <= p <= e.high for e in hits]) >= 0.94
    means = RNG.normal(0.8, 0.02, (2000, 10))
    found = [over_folds(row.mean(), row, 6000) for row in means]
    assert 0.93 <= np.mean([e.low <= 0.8 <= e.high for e in found]) <= 0.97


def test_standard_error_is_s_over_root_n():
    assert standard_error(np.array([1.0, 2, 3, 4])) == pytest.approx(1.2909944 / 2)


def test_impossible_counts():
    with pytest.raises(InputError, match="successes"):
        proportion(3, 2)


class TestOperatingPoint:
    scores = ScoreSet(
        np.r_[np.linspace(0.2, 1, 100), np.linspace(-1, 0.4, 1000)], np.arange(1100) < 100, np.zeros(1100, int)
    )

    def make(self, far):
        return operating_point(self.scores, target_far=far, protocol="p", model_sha256="m", data_sha256="d")

    @pytest.mark.parametrize("far", [0.5, 0.1, 0.01, 0.001])
    def test_its_errors_are_those_at_its_threshold(self, far):
        point = self.make(far)
        assert point.far.value == np.mean(self.scores.impostor >= point.threshold) <= far
        assert point.tar.value == np.mean(self.scores.genuine >= point.threshold)
        assert (point.far.n, point.tar.n) == (1000, 100)
        assert point.far.low <= point.far.value <= point.far.high

    def test_best_accuracy(self):
        point = self.make(None)
        assert point.target_far is None
        assert point.threshold == metrics.accuracy_threshold(self.scores.scores, self.scores.same)

    def test_refuses_what_the_data_cannot_resolve(self):
        with pytest.raises(DataError, match=r"1/1000 = 0.001"):
            self.make(1e-4)

    def test_may_accept_nothing(self):
        tied = ScoreSet(np.r_[0.5, np.ones(19)], np.arange(20) < 10, np.zeros(20, int))
        point = operating_point(tied, target_far=0.5, protocol="p", model_sha256="m", data_sha256="d")
        assert not point.accepts(1.0)
        assert point.far.value == point.tar.value == 0

    def test_the_upper_end_may_be_held_to_the_rate(self):
        """Of 1000 impostors 4 may be accepted for an upper end of 1.02 %, and 5 for 1.16 % (Clopper and Pearson)."""
        kept = dict(protocol="p", model_sha256="m", data_sha256="d", confident=True)
        for far, accepts in ((0.0103, 4), (0.0117, 5), (0.0037, 0)):
            point = operating_point(self.scores, target_far=far, **kept)
            assert round(1000 * point.far.value) <= accepts
            assert point.far.high <= far
            assert point.confident
        with pytest.raises(DataError, match=r"at least 0.0037, the lowest that 1,000 impostor"):
            operating_point(self.scores, target_far=0.0036, **kept)  # 1 - 0.025^(1/1000)
        with pytest.raises(ConfigError, match="confident"):
            operating_point(self.scores, target_far=None, **kept)

    def test_older_certificates_are_read(self):
        point = self.make(0.1)
        raw = json.loads(point.to_json())
        for name in ("far_per_person", "tar_per_person", "commonest_five", "confident"):
            del raw[name]
        assert OperatingPoint.from_json(json.dumps(raw)) == point


def test_few_errors():
    """A TAR at a FAR needs 30 false rejects and 30 false accepts, an EER 30 of the rarer kind of comparison; a mean
    over people needs the errors of the comparisons behind it.
    """
    rates = {"tar@far=0.01": 0.5, "tar@far=0.001": 0.5, "tar@far=0.1": 0.999, "auc": 1}
    metrics = {name: Estimate(value, 0, 1, 1000) for name, value in rates.items()}
    metrics |= {f"tar_per_person@far={far}": Estimate(0.5, 0, 1, 40) for far in (0.01, 0.001, 0.1)}
    metrics |= {f"{name}_without_failures@far=0.1": Estimate(0.5, 0, 1, 50) for name in ("tar", "tar_per_person")}
    metrics |= {"eer": Estimate(0.02, 0, 1, 5000), "fta": Estimate(0.01, 0, 1, 2900), "fte": Estimate(0.1, 0, 1, 300)}
    facts = {
        "false_accepts": {"far=0.01": 30, "far=0.001": 3, "far=0.1": 300}, "genuine_pairs": 1000, "impostor_pairs": 4000
    }  # fmt: skip
    assert Result("lfw", metrics, {}, facts).few_errors == {
        "tar@far=0.001": 3, "tar_per_person@far=0.001": 3, "tar@far=0.1": 1, "tar_per_person@far=0.1": 1,
        "tar_without_failures@far=0.1": 25, "tar_per_person_without_failures@far=0.1": 25,
        "eer": 20, "fta": 29,
    }  # fmt: skip
    assert Result("lfw", {"eer": metrics["eer"]}).few_errors == {}  # 100 of all, where the kinds are not counted
