"""Every pair of images against a loop over them; rates of comparisons that share people against sums and simulation."""

import numpy as np
import pytest

from normface.errors import ConfigError, DataError
from normface.protocols import NamedPairs, comparisons, operating_point
from normface.protocols.calibration import calibrate
from normface.protocols.rates import Between, Listed, rates
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
    found = operating_point(
        comparisons.every_pair(embeddings, subjects, 0.05), target_far=0.05, replicates=50, **CERTIFICATE
    )
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
    with pytest.raises(DataError, match="two of one"):
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


def test_trials_are_weighed_as_sums():
    rng = np.random.default_rng(1)
    subjects, weights = rng.integers(0, 5, 30), rng.integers(0, 4, 5).astype(float)
    one, other = rng.permutation(30)[:12], np.arange(30)
    pairs = [(i, j) for i in range(30) for j in range(i) if subjects[i] != subjects[j]]
    literal = sum(weights[subjects[i]] * weights[subjects[j]] for i, j in pairs)
    images = np.bincount(subjects, minlength=5)
    assert Between(images, images).weigh(weights) == pytest.approx(literal)
    assert Between(images, images).total == len(pairs)
    crossed = [(i, j) for i in one for j in np.setdiff1d(other, one) if subjects[i] != subjects[j]]
    literal = sum(weights[subjects[i]] * weights[subjects[j]] for i, j in crossed)
    between = Between(*(np.bincount(subjects[rows], minlength=5) for rows in (one, np.setdiff1d(other, one))))
    assert between.weigh(weights) == pytest.approx(literal)
    left, right = rng.integers(0, 5, (2, 40))
    listed = Listed.of(left, right, 5)
    assert listed.total == 40
    assert listed.weigh(weights) == pytest.approx(
        sum(weights[a] if a == b else weights[a] * weights[b] for a, b in zip(left, right, strict=True))
    )


def test_no_error_is_not_no_rate():
    none = Listed.of(np.zeros(0, int), np.zeros(0, int), 40)
    (found, absent), _ = rates([(none, Listed.of(np.arange(40), np.arange(40), 40)), (none, none)], 40, 50)
    assert (found.value, found.low, found.n) == (0, 0, 40)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 40))  # Clopper and Pearson's
    assert absent is None


def test_a_list_without_people_has_exact_intervals():
    scores = ScoreSet(np.linspace(-1, 1, 200), np.arange(200) >= 100, np.zeros(200, int))
    point = operating_point(scores, target_far=0.1, **CERTIFICATE)
    assert point.calibration == calibrate(scores.scores, scores.same, ~scores.same)


@pytest.mark.slow
def test_intervals_cover():
    """Genuine comparisons alike within a person: nominal 95 % covers that at least, nearly."""
    rng, hits, rounds = np.random.default_rng(4), 0, 200
    for _ in range(rounds):
        of = np.repeat(np.arange(120), rng.integers(1, 6, 120))
        accepted = rng.normal(rng.normal(0.5, 1.0, 120)[of], 0.5) > 0
        everyone, some = (Listed.of(who, who, 120) for who in (of, of[accepted]))
        (found,), _ = rates([(some, everyone)], 120, 100)
        hits += found.low <= 0.672640 <= found.high  # Φ(0.5 / √1.25)
    assert 0.93 <= hits / rounds <= 0.995


@pytest.mark.slow
def test_intervals_of_false_accepts_cover():
    """Every pair of 50 people, some like everybody: accepted where a + b + noise > 3, all standard normal."""
    rng, hits, rounds = np.random.default_rng(5), 0, 200
    left, right = np.tril_indices(50, -1)
    everyone = Listed.of(left, right, 50)
    for _ in range(rounds):
        likeness = rng.normal(size=50)
        accepted = likeness[left] + likeness[right] + rng.normal(size=len(left)) > 3
        (found,), _ = rates([(Listed.of(left[accepted], right[accepted], 50), everyone)], 50, 100)
        hits += found.low <= 0.041632 <= found.high  # 1 - Φ(√3)
    assert 0.93 <= hits / rounds <= 0.995
