"""Differences of two systems: known answers, no false alarms, and McNemar's p against its sum."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy.stats import ttest_rel

from normface.errors import DataError
from normface.protocols import compare, lfw, read_lfw_pairs
from normface.protocols.system_comparison import mcnemar
from normface.types import Embeddings

FOLDS, EACH = 4, 30


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A list of 4 folds with 30 genuine and 30 impostor pairs of people of their own."""
    lines, names = [f"{FOLDS}\t{EACH}"], []
    for fold in range(FOLDS):
        people = [f"P{fold}_{i:02d}" for i in range(EACH)]
        names += people
        lines += [f"{name}\t1\t2" for name in people]
        lines += [f"{name}\t1\t{people[(i + 1) % EACH]}\t2" for i, name in enumerate(people)]
    path = tmp_path_factory.mktemp("list") / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path, names


def system(names, noise, seed=0, dim=64):
    """Two images a person around her own direction."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((len(names), dim))
    vectors = np.repeat(centers, 2, axis=0) + noise * np.random.default_rng(seed + 1).standard_normal(
        (2 * len(names), dim)
    )
    ids = np.array([f"{name}/{name}_{i:04d}.jpg" for name in names for i in (1, 2)])
    return Embeddings(vectors, ids)


def test_a_better_system_is_told(listed):
    path, names = listed
    result = compare(system(names, 0.5), system(names, 3.0), path, far=0.05)
    change = result.metrics["accuracy_difference"]
    assert 0 < change.low <= change.value <= change.high
    assert result.facts["p_mcnemar"] < 1e-3
    assert result.facts["p_accuracy"] < 0.01
    right = [result.metrics[f"accuracy_{name}"].value for name in ("first", "second")]
    assert change.value == pytest.approx(right[0] - right[1])
    assert change.value == pytest.approx(
        (result.facts["only_first"] - result.facts["only_second"]) / (2 * FOLDS * EACH)
    )


def test_the_other_way_round(listed):
    path, names = listed
    one, two = system(names, 1.5), system(names, 2.0, seed=5)
    there, back = compare(one, two, path, far=0.05), compare(two, one, path, far=0.05)
    for name in ("accuracy_difference", "tar_difference"):
        a, b = there.metrics[name], back.metrics[name]
        assert (a.value, a.low, a.high) == pytest.approx((-b.value, -b.high, -b.low))
    assert there.facts["p_mcnemar"] == back.facts["p_mcnemar"]


def test_accuracies_are_those_of_lfw(listed):
    path, names = listed
    systems = system(names, 1.5), system(names, 3.0)
    found = compare(*systems, path, far=0.05, replicates=100).metrics
    for name, each in zip(("accuracy_first", "accuracy_second"), systems, strict=True):
        assert astuple(found[name]) == pytest.approx(astuple(lfw(each, path).metrics["accuracy"]))


def flipped(names, wrong):
    """Near-perfect vectors, but of these people the second image points the other way: their pairs are refused."""
    perfect = system(names, 0.1)
    signs = np.ones((2 * len(names), 1))
    signs[1 + 2 * np.array(wrong)] = -1
    return Embeddings(perfect.vectors * signs, perfect.ids)


def test_tar_is_compared_by_a_paired_t_test_of_people(listed):
    """Where no genuine score is near the threshold; the jackknife's standard error is 1/240 larger than the test's."""
    path, names = listed
    wrong = [*range(10)], [*range(5, 29)]
    hits = [~np.isin(np.arange(len(names)), each) for each in wrong]
    expected = ttest_rel(*(each.astype(float) for each in hits))
    interval = expected.confidence_interval(0.95)
    result = compare(*(flipped(names, each) for each in wrong), path, far=0.05)
    found = result.metrics["tar_difference"]
    assert (found.value, found.n) == (pytest.approx(14 / 120), 120)
    assert result.facts["p_tar"] == pytest.approx(expected.pvalue, rel=0.05)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=0.01)


@pytest.mark.parametrize("far", [0.01, 0.05, 0.2])
def test_tar_is_that_at_the_false_accept_rate_asked_for(listed, far):
    path, names = listed
    named = read_lfw_pairs(path)
    tars = []
    for each in (one := system(names, 1.5)), (two := system(names, 3.0)):
        row = {i: k for k, i in enumerate(each.ids.tolist())}
        left, right = ([row[i] for i in side] for side in (named.left.tolist(), named.right.tolist()))
        cosines = np.sum(each.vectors[left] * each.vectors[right], axis=1)
        refused = np.sort(cosines[~named.same])[::-1][int(far * 120)]  # the highest that must be
        tars.append(np.mean(cosines[named.same] > refused))
    result = compare(one, two, path, far=far)
    assert result.facts["far"] == far
    assert result.metrics["tar_difference"].value == pytest.approx(tars[0] - tars[1])


def test_a_system_and_itself(listed):
    path, names = listed
    result = compare(system(names, 2.0), system(names, 2.0), path, far=0.05, replicates=100)
    assert result.metrics["accuracy_difference"].value == 0
    assert (result.facts["p_mcnemar"], result.facts["p_accuracy"], result.facts["p_tar"]) == (1, 1, 1)


def test_equal_systems_are_rarely_told_apart(listed):
    """Of 40 pairs of equally good systems not many more than 5 % get a p below 0.05."""
    path, names = listed
    found = []
    for seed in range(0, 80, 2):
        result = compare(system(names, 2.0, seed), system(names, 2.0, seed + 1000), path, far=0.05, replicates=100)
        found.append(result.facts["p_mcnemar"])
    assert sum(p < 0.05 for p in found) <= 6  # binomial(40, 0.05): more in 1 % of cases


@pytest.mark.parametrize(("a", "b"), [(0, 0), (3, 3), (1, 9), (12, 2), (40, 25)])
def test_mcnemar_is_a_sum_of_coin_tosses(a, b):
    n, k = a + b, min(a, b)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert mcnemar(a, b) == pytest.approx(min(1, 2 * tail))


def test_one_fold(tmp_path):
    (tmp_path / "pairs.txt").write_text("1\nA\t1\t2\nA\t1\tB\t1\n")
    ids = np.array(["A/A_0001.jpg", "A/A_0002.jpg", "B/B_0001.jpg"])
    vectors = Embeddings(np.eye(3), ids)
    with pytest.raises(DataError, match="at least 2 folds"):
        compare(vectors, vectors, tmp_path / "pairs.txt")
