"""The streaming tally is the in-memory ROC where it matters; its bootstrap covers."""

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import all_pairs, metrics, tally
from normface.protocols.named_pairs import people
from normface.types import Embeddings, ScoreSet


def images(rng, people=80, noise=1.2, dim=24):
    subjects = rng.permutation(np.repeat(np.arange(people), rng.integers(1, 6, people)))
    vectors = rng.normal(size=(people, dim))[subjects] + noise * rng.normal(size=(len(subjects), dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), subjects


def in_memory(vectors, subjects, others=None, other_subjects=None):
    if others is None:
        i, j = np.tril_indices(len(vectors), -1)
        others, other_subjects = vectors, subjects
    else:
        i, j = (each.ravel() for each in np.indices((len(vectors), len(others))))
    same = subjects[i] == other_subjects[j]
    return ScoreSet(cosines(vectors, others)[i, j], same, np.zeros(len(i), int))


def cosines(left, right):
    """In integers, whose sums no order changes; rounded once."""
    left, right = (np.rint(np.float64(each) * 2**26).astype(np.int64) for each in (left, right))
    return np.clip(np.float32((left[:, None] * right).sum(-1) / 2**52), -1, 1)


@pytest.mark.parametrize("seed", range(4))
def test_equals_one_sort_of_all_scores(monkeypatch, seed):
    monkeypatch.setattr(tally, "_CELLS", 4096)  # many tiles
    rng = np.random.default_rng(seed)
    vectors, subjects = images(rng)
    if seed % 2:
        vectors[rng.integers(0, len(vectors), 40)] = vectors[0]  # ties
    whole = in_memory(vectors, subjects)
    found = tally.tally_all_pairs(vectors, subjects, 0.01)
    check(found, whole, (0.01, 0.003, 1e-3, 3e-4))


def test_two_sets_equal_one_sort(monkeypatch):
    monkeypatch.setattr(tally, "_CELLS", 4096)
    rng = np.random.default_rng(5)
    vectors, subjects = images(rng)
    half = len(vectors) // 2
    sides = vectors[:half], subjects[:half], vectors[half:], subjects[half:]
    check(tally.across(*sides, 0.01), in_memory(*sides), (0.01, 1e-3))


def check(found, whole, fars):
    curve = metrics.roc(whole)
    assert found.impostors == curve.n_impostor
    np.testing.assert_array_equal(np.sort(found.genuine), np.sort(whole.genuine))
    np.testing.assert_array_equal(found.tail, np.sort(whole.impostor)[::-1][: len(found.tail)])
    for far in fars:
        assert found.accepted(found.threshold(far)) == curve.tar[metrics.at_far(curve, far)]
        assert np.mean(whole.impostor >= found.threshold(far)) <= far
    assert found.body.sum() == curve.n_impostor
    counts = np.histogram(whole.impostor.clip(-1, 1), np.linspace(-1, 1, tally.BINS + 1))[0]
    assert np.abs(np.cumsum(found.body) - np.cumsum(counts)).max() <= 2  # a score on an edge
    drawn = found.roc()
    assert metrics.auc(drawn) == pytest.approx(metrics.auc(curve), abs=1e-4)
    assert metrics.eer(drawn) == pytest.approx(metrics.eer(curve), abs=1e-3)
    assert (drawn.false_accepts[-1], drawn.true_accepts[-1]) == (curve.n_impostor, curve.n_genuine)


def test_listed_pairs_equal_one_sort_and_weigh_by_both_people():
    rng = np.random.default_rng(6)
    scores = ScoreSet(rng.integers(-50, 50, 3000) / 50, rng.random(3000) < 0.3, np.zeros(3000, int))  # many ties
    left = rng.integers(0, 40, 3000)
    right = np.where(scores.same, left, (left + rng.integers(1, 40, 3000)) % 40)
    found, curve = tally.of_pairs(scores, left, right, 0.1), metrics.roc(scores)
    for far in (0.1, 0.01, 0.001):
        assert found.accepted(found.threshold(far)) == curve.tar[metrics.at_far(curve, far)]
    weights = rng.multinomial(50, np.full(50, 1 / 50)).astype(float)  # of more people than there are in the pairs
    assert found.trials.weigh(weights[:40]) == pytest.approx((weights[left] * weights[right])[~scores.same].sum())
    # Weights are repetitions: the threshold is that of a list where each impostor stands as often
    times = (weights[left] * weights[right])[~scores.same].astype(int)
    repeated = np.sort(np.repeat(scores.impostor, times))[::-1]
    threshold = found.threshold(0.1, weights)
    assert threshold == np.nextafter(repeated[int(0.1 * len(repeated))], np.inf)
    each = weights[left][scores.same]
    for level in (threshold, 0.0, 0.7):
        expected = np.average(scores.genuine >= level, weights=each)
        assert found.accepted(level, weights) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["all pairs", "two sets"])
def test_mass_counts_impostor_pairs_of_repeated_people(kind):
    rng = np.random.default_rng(7)
    vectors, subjects = images(rng, people=12)
    weights = rng.integers(0, 4, 12).astype(float)
    if kind == "all pairs":
        found, (i, j) = tally.tally_all_pairs(vectors, subjects, 0.1), np.tril_indices(len(vectors), -1)
        a, b = subjects[i], subjects[j]
    else:
        found = tally.across(vectors[:9], subjects[:9], vectors[9:], subjects[9:], 0.1)
        a, b = (each.ravel() for each in np.meshgrid(subjects[:9], subjects[9:]))
    assert found.trials.weigh(weights) == (weights[a] * weights[b])[a != b].sum()


def test_refuses_what_cannot_be_resolved():
    found = tally.tally_all_pairs(*images(np.random.default_rng(8)), 0.01)
    with pytest.raises(DataError, match=f"1/{found.impostors}"):
        found.threshold(1e-9)


def test_protocol_says_what_it_cannot_resolve():
    vectors, subjects = images(np.random.default_rng(9))
    ids = np.array([f"P{s}/{k}" for k, s in enumerate(subjects)])
    result = all_pairs(Embeddings(vectors, ids))
    fars = ("far=0.001", "far=0.0001")
    assert list(result.metrics) == [f"{name}@{far}" for name in ("tar", "tar_per_person") for far in fars]
    assert "FAR 1e-05 left out" in result.facts["notes"][0]
    impostors = result.facts["impostor_pairs"]
    assert result.facts["false_accepts"] == {far: int(float(far[4:]) * impostors) for far in fars}
    few = int(1e-4 * impostors)  # of 16,000 impostors one or two
    assert result.few_errors == {f"{name}@far=0.0001": few for name in ("tar", "tar_per_person")}
    with pytest.warns(DeprecationWarning, match="replicates"):
        all_pairs(Embeddings(vectors, ids), replicates=5)
    assert result.facts["people"] == 80
    with pytest.raises(DataError, match=r"at least 1/\d+"):
        all_pairs(Embeddings(vectors, ids), fars=(1e-7,))
    with pytest.raises(DataError, match="somebody twice"):
        all_pairs(Embeddings(vectors[:3], ["A/1", "B/1", "C/1"]))


def test_people_are_folders():
    names, codes = people(["B/1.jpg", "A/x/1.jpg", "B/2.jpg", "1.jpg"])
    assert (names.tolist(), codes.tolist()) == (["", "A/x", "B"], [2, 1, 2, 0])


@pytest.mark.slow
def test_coverage_of_tar_at_far():
    """Nominal 95 % of TAR at a FAR over all pairs, the threshold drawn from the data too, covers 93 to 97 %."""
    people_, each, rounds, far = 100, 2, 600, 0.01
    rng, hits = np.random.default_rng(10), np.zeros(2)

    def drawn(people):
        """Two-dimensional cosines would be too coarse: 12-d people, some of whom are harder than others."""
        hard = rng.gamma(4, 0.22, people)
        centers = rng.normal(size=(people, 12))
        vectors = np.repeat(centers, each, 0) + np.repeat(hard, each)[:, None] * rng.normal(size=(people * each, 12))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return tally.tally_all_pairs(vectors.astype(np.float32), np.repeat(np.arange(people), each), far)

    whole = drawn(2000)
    truth = whole.accepted(whole.threshold(far))
    for _ in range(rounds):
        hits += [found.low <= truth <= found.high for found in drawn(people_).tar([far]).values()]
    print(f"covered {hits} of {rounds}")
    assert (hits / rounds >= 0.93).all()
    assert (hits / rounds <= 0.975).all()
