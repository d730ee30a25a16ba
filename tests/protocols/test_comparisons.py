"""Every pair of images against a loop over them; rates of comparisons that share people against sums and simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest

from normface.errors import ConfigError, DataError
from normface.protocols import NamedPairs, comparisons, operating_point
from normface.protocols.calibration import calibrate
from normface.protocols.rates import Between, Listed, commonest, rate
from normface.types import Embeddings, ScoreSet

CERTIFICATE = dict(protocol="p", model_sha256="m", data_sha256="d")


@pytest.fixture(scope="module")
def images():
    """90 images of 40 people, in no order, and every pair of them by a loop."""
    rng = np.random.default_rng(0)
    subjects = rng.permutation(np.r_[np.arange(40), rng.integers(0, 40, 50)])
    vectors = np.eye(40, 16)[subjects] + rng.normal(0, 0.4, (90, 16))
    embeddings = Embeddings(vectors.astype(np.float32), [f"{k:03d}" for k in range(90)])
    pairs = [(i, j) for i in range(90) for j in range(i)]
    scores = np.array([float(embeddings.vectors[i] @ embeddings.vectors[j]) for i, j in pairs])
    return embeddings, subjects, np.array(pairs), scores, np.array([subjects[i] == subjects[j] for i, j in pairs])


@pytest.mark.parametrize("cells", [256, 1 << 20])
def test_every_pair(images, monkeypatch, cells):
    monkeypatch.setattr("normface.protocols.tally._CELLS", cells)
    embeddings, subjects, pairs, scores, same = images
    found = comparisons.every_pair(embeddings, subjects, 0.05)
    assert (found.n_genuine, found.n_impostor) == (same.sum(), (~same).sum())
    listed = {tuple(sorted(each)): score for *each, score in zip(found.left, found.right, found.scores, strict=True)}
    literal = {tuple(sorted(each)): score for each, score in zip(pairs.tolist(), scores, strict=True)}
    assert len(listed) == len(found.scores)
    assert all(literal[pair] == pytest.approx(score, abs=1e-6) for pair, score in listed.items())
    assert {pair for pair, k in zip(map(tuple, np.sort(pairs).tolist()), same, strict=True) if k} <= set(listed)
    tail = np.sort(scores[~same])[::-1][: np.sum(~found.same)]
    np.testing.assert_allclose(np.sort(found.scores[~found.same])[::-1], tail, atol=1e-6)
    assert len(tail) >= 2 * 0.05 * np.sum(~same)
    rest = np.sort(scores[~same])[: -len(tail)]  # only counted, in bins of 0.0001
    np.testing.assert_allclose(np.repeat(found.below[0], found.below[1].astype(int)), rest, atol=6e-5)


def test_its_certificate_is_that_of_all_scores(images):
    embeddings, subjects, _, scores, same = images
    whole = operating_point(ScoreSet(scores, same, np.zeros(len(same), int)), target_far=0.05, **CERTIFICATE)
    found = operating_point(comparisons.every_pair(embeddings, subjects, 0.05), target_far=0.05, **CERTIFICATE)
    assert found.threshold == pytest.approx(whole.threshold, abs=1e-6)
    assert (found.far.value, found.tar.value, found.far.n) == (whole.far.value, whole.tar.value, whole.far.n)
    assert found.far.value <= 0.05
    assert found.far.low <= whole.far.low  # shared people tell less than as many strangers
    assert found.far.high >= whole.far.high
    assert found.calibration.slope == pytest.approx(whole.calibration.slope, rel=1e-3)
    assert found.calibration.min_cllr == pytest.approx(whole.calibration.min_cllr, abs=1e-3)


def test_refusals(images):
    embeddings, subjects, *_ = images
    every = comparisons.every_pair(embeddings, subjects, 0.05)
    with pytest.raises(DataError, match=f"1/{every.n_impostor}"):
        operating_point(every, target_far=1e-6, **CERTIFICATE)
    with pytest.raises(ConfigError, match="--far"):
        operating_point(every, target_far=None, **CERTIFICATE)
    with pytest.raises(DataError, match="one of them with two images"):
        comparisons.every_pair(embeddings, np.arange(90), 0.05)


class TestOfAList:
    def make(self, left, right, same):
        ids = np.unique([*left, *right])
        embeddings = Embeddings(np.random.default_rng(0).normal(size=(len(ids), 4)), ids)
        named = NamedPairs(np.array(left), np.array(right), np.array(same), np.zeros(len(left), int), "f00d")
        return comparisons.of_list(embeddings, named), embeddings

    def test_people_are_folders(self):
        made, embeddings = self.make(["A/1", "A/1", "B/1"], ["A/2", "B/1", "C/1"], [True, False, False])
        assert made.subjects[made.left].tolist() == [0, 0, 1]
        assert made.subjects[made.right].tolist() == [0, 1, 2]
        assert made.scores[0] == pytest.approx(embeddings.vectors[0] @ embeddings.vectors[1])
        assert made.n_impostor == 2

    def test_or_whom_genuine_pairs_connect(self):
        made, _ = self.make(["a", "b", "a"], ["b", "c", "d"], [True, True, False])
        people = dict(zip(made.ids.tolist(), made.subjects.tolist(), strict=True))
        assert people["a"] == people["b"] == people["c"] != people["d"]


def kinds():
    """All pairs within one set, between two sets of images, and a list: trials with their pairs of people."""
    rng = np.random.default_rng(1)
    subjects = rng.integers(0, 5, 30)
    images = np.bincount(subjects, minlength=5)
    one, other = np.split(rng.permutation(30), [12])
    left, right = rng.integers(0, 5, (2, 40))
    apart = left != right
    yield Between(images, images), [(subjects[i], subjects[j]) for i in range(30) for j in range(i)]
    sides = [np.bincount(subjects[rows], minlength=5) for rows in (one, other)]
    yield Between(*sides), [(subjects[i], subjects[j]) for i in one for j in other]
    yield Listed.of(left[apart], right[apart], 5), list(zip(left, right, strict=True))
    disjoint = np.array([3, 2, 0, 0, 0]), np.array([0, 0, 4, 1, 0])
    yield Between(*disjoint), [(i, j) for i in (0, 0, 0, 1, 1) for j in (2, 2, 2, 2, 3)]


@pytest.mark.parametrize("kind", range(4))
def test_trials_are_sums_over_pairs(kind):
    trials, pairs = list(kinds())[kind]
    pairs = [(a, b) for a, b in pairs if a != b]
    rng = np.random.default_rng(kind)
    weights = rng.random(5)
    assert trials.total == len(pairs)
    assert trials.weigh(weights) == pytest.approx(sum(weights[a] * weights[b] for a, b in pairs))
    each, toward, between = np.zeros(5), np.zeros(5), np.zeros((5, 5))
    for a, b in pairs:
        each[[a, b]] += 1
        toward[[a, b]] += weights[[b, a]]
        between[[a, b], [b, a]] += 1
    assert trials.each == pytest.approx(each)
    assert trials.toward(weights) == pytest.approx(toward)
    i, j = np.triu_indices(5, 1)
    assert trials.between(i, j) == pytest.approx(between[i, j])
    squares = float(np.sum((between[i, j] * (weights[i] + weights[j])) ** 2))
    if kind == 1:  # where a subject is in both sets it is somewhat less
        assert 0.6 * squares < trials.squares(weights) <= squares
    else:
        assert trials.squares(weights) == pytest.approx(squares)


def test_genuine_comparisons_count_by_their_person():
    who = np.array([0, 0, 0, 1, 3])
    trials = Listed.of(who, who, 5)
    assert (trials.own, trials.total, trials.each.tolist()) == (True, 5, [3, 1, 0, 1, 0])
    assert trials.weigh(np.arange(5.0)) == 4
    assert not trials.toward(np.ones(5)).any()


def variance(left, right, hit, weights):
    """The sum over comparisons that share a person of the products of their weighted deviations."""
    deviation = weights * (hit - np.average(hit, weights=weights))
    share = (left[:, None] == left) | (left[:, None] == right) | (right[:, None] == left) | (right[:, None] == right)
    return deviation @ share @ deviation


@pytest.mark.parametrize("per_person", [False, True])
def test_the_variance_is_the_sum_over_comparisons_that_share_people(per_person):
    """Of many people, so that leaving one out changes little; ours is never below that of independent comparisons."""
    rng = np.random.default_rng(3)
    left, right = np.tril_indices(150, -1)
    kept = rng.random(len(left)) < 0.3
    left, right = left[kept], right[kept]
    likeness = rng.normal(size=150)
    hit = likeness[left] + likeness[right] + rng.normal(size=len(left)) > 2.5
    found = rate(Listed.of(left[hit], right[hit], 150), Listed.of(left, right, 150), per_person=per_person)
    each = np.bincount(left, minlength=150) + np.bincount(right, minlength=150)
    weights = (1 / each[left] + 1 / each[right]) / 150 if per_person else np.full(len(left), 1 / len(left))
    assert found.value == pytest.approx(np.average(hit, weights=weights))
    whole = found.value * (1 - found.value) / found.independent
    assert whole == pytest.approx(variance(left, right, hit, weights), rel=0.05)
    assert found.n == (150 if per_person else len(left))


def test_a_rate_per_person_is_the_mean_of_theirs():
    """Three of four people are always accepted, and the one with 96 of 99 comparisons in half of them."""
    who = np.r_[np.zeros(96, int), 1, 2, 3]
    hit = np.r_[np.arange(96) < 48, True, True, True]
    everyone, some = Listed.of(who, who, 4), Listed.of(who[hit], who[hit], 4)
    whole, each = (rate(some, everyone, per_person=per_person) for per_person in (False, True))
    assert (whole.value, whole.n) == (pytest.approx(51 / 99), 99)
    assert (each.value, each.n) == (pytest.approx((0.5 + 3) / 4), 4)
    assert whole.estimate.high - whole.estimate.low > 0.5  # as good as one person: no 99 of them
    assert commonest(np.array([96, 1, 1, 1])) == 1
    assert commonest(np.array([50, 10, 10, 10, 10, 5, 5])) == pytest.approx(0.9)


def test_no_error_is_not_no_rate():
    empty = Listed.of(np.zeros(0, int), np.zeros(0, int), 40)
    everyone = np.arange(40)
    found = rate(empty, Listed.of(everyone, everyone, 40))
    assert (found.value, found.estimate.low, found.n) == (0, 0, 40)
    # Clopper and Pearson's of 40 people, wider by Student's quantile for 39 degrees of freedom squared
    assert found.estimate.high == pytest.approx(1 - 0.025 ** (1 / (40 * (1.959964 / 2.022691) ** 2)), rel=1e-4)
    assert rate(empty, empty) is None


def test_one_person_alone_says_little_however_often_she_is_accepted():
    who = np.zeros(1000, int)
    found = rate(Listed.of(who, who, 1), Listed.of(who, who, 1)).estimate
    assert (found.value, found.high) == (1, 1)
    assert found.low < 0.05


def test_a_list_without_people_has_exact_intervals():
    impostor, genuine = np.linspace(-1, 0.5, 100), np.linspace(-0.49, 1.01, 100)
    scores = ScoreSet(np.r_[impostor, genuine], np.arange(200) >= 100, np.zeros(200, int))
    point = operating_point(scores, target_far=0.1, **CERTIFICATE)
    for found, count in ((point.far, 10), (point.tar, np.sum(genuine > impostor[-11]))):
        exact = binomtest(count, 100).proportion_ci(method="exact")
        assert (found.value, found.n) == (count / 100, 100)
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), rel=1e-9)
    assert point.calibration == calibrate(scores.scores, scores.same, ~scores.same)


@pytest.mark.slow
@pytest.mark.parametrize("per_person", [False, True])
def test_intervals_cover(per_person):
    """Genuine comparisons alike within a person: nominal 95 % covers 93 to 98 %."""
    rng, hits, rounds = np.random.default_rng(4), 0, 1000
    for _ in range(rounds):
        of = np.repeat(np.arange(120), rng.integers(1, 6, 120))
        some = of[rng.normal(rng.normal(0.5, 1.0, 120)[of], 0.5) > 0]
        found = rate(Listed.of(some, some, 120), Listed.of(of, of, 120), per_person=per_person).estimate
        hits += found.low <= 0.672640 <= found.high  # Φ(0.5 / √1.25)
    print(f"covered {hits} of {rounds}")
    assert 0.93 <= hits / rounds <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("per_person", [False, True])
def test_intervals_of_false_accepts_cover(per_person):
    """Every pair of 50 people, some like everybody: accepted where a + b + noise > 3, all standard normal."""
    rng, hits, rounds = np.random.default_rng(5), 0, 1000
    left, right = np.tril_indices(50, -1)
    everyone = Listed.of(left, right, 50)
    for _ in range(rounds):
        likeness = rng.normal(size=50)
        accepted = likeness[left] + likeness[right] + rng.normal(size=len(left)) > 3
        found = rate(Listed.of(left[accepted], right[accepted], 50), everyone, per_person=per_person).estimate
        hits += found.low <= 0.041632 <= found.high  # 1 - Φ(√3)
    print(f"covered {hits} of {rounds}")
    assert 0.93 <= hits / rounds <= 0.98
