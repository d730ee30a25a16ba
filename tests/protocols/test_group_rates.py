"""Rates by group: counted by hand, their ratio simulated, and what a small sample cannot say."""

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import comparisons, group_rates
from normface.protocols.comparisons import Comparisons
from normface.types import Embeddings

read_groups, slices = group_rates.read_groups, group_rates.slices


def made(n=400, flips=(0.05, 0.2), seed=7):
    """Two images each of n people, half in F and half in M: a genuine and an impostor pair each; flips: error rates."""
    rng = np.random.default_rng(seed)
    sex = np.where(np.arange(n) < n // 2, "F", "M")
    error = rng.random((2, n)) < np.where(sex == "F", *flips)
    genuine, impostor = np.where(error[0], 0.1, 0.9), np.where(error[1], 0.8, 0.2)
    first, second = np.arange(n), n + np.arange(n)
    other = np.roll(np.arange(n // 2), 1)
    ids = np.array([f"P{k:03d}/{i}" for i in (1, 2) for k in range(n)])
    return Comparisons(
        np.r_[genuine, impostor], np.arange(2 * n) < n, np.r_[first, first],
        np.r_[second, np.r_[other, other + n // 2]], ids, np.r_[first, first],
    ), np.r_[sex, sex], error  # fmt: skip


def test_rates_are_counts():
    pairs, sex, error = made()
    found = slices(pairs, 0.5, {"sex": sex})
    rows = {row["group"]: row for row in found["rows"]}
    assert set(rows) == {"F", "M"}  # nothing between them was compared
    for group, part in (("F", slice(0, 200)), ("M", slice(200, 400))):
        for name, errors in (("frr", error[0]), ("far", error[1])):
            rate = rows[group][name]
            assert (rate["value"], rate["n"]) == (errors[part].mean(), 200)
            assert rate["low"] < rate["value"] < rate["high"]
            per_person = rows[group][f"{name}_per_person"]  # a person has one genuine comparison and two others
            assert per_person["value"] == pytest.approx(errors[part].mean())
            assert per_person["n"] == 200
    assert found["overall"]["frr"]["value"] == error[0].mean()
    (ratio,) = (each for each in found["ratios"] if each["rate"] == "frr")  # of two groups one comparison
    assert (ratio["group"], ratio["differs"]) == ("M", True)
    assert ratio["ratio"]["value"] == pytest.approx(error[0][200:].mean() / error[0][:200].mean())
    assert ratio["ratio"]["low"] > 1  # fourfold is plain from 200 each


def test_per_person_everybody_counts_once():
    """One man with nine rejected comparisons of ten in all is one of two people: 90 % of comparisons, half the mean."""
    ids = np.array([f"P{k}/0" for k in range(14)])
    subjects = np.r_[[0] * 10, [1] * 2, 2, 3]
    left, right = np.r_[[0] * 9, 10, 12], np.r_[1:10, 11, 13]
    pairs = Comparisons(
        np.r_[[0.1] * 9, 0.9, 0.2], np.arange(11) < 10, left, right, ids, subjects
    )  # fmt: skip
    (row,) = slices(pairs, 0.5, {"x": np.full(14, "all")})["rows"]
    assert (row["frr"]["value"], row["frr"]["n"]) == (0.9, 10)
    assert (row["frr_per_person"]["value"], row["frr_per_person"]["n"]) == (0.5, 2)
    assert row["frr_per_person"]["low"] < 0.5 < row["frr_per_person"]["high"]


def test_pairs_of_two_groups_and_unknown_ones():
    pairs, *_ = made(40)
    group = np.where(np.arange(80) % 40 % 2, "odd", "even")
    group[:4] = ""
    rows = {row["group"]: row for row in slices(pairs, 0.5, {"x": group})["rows"]}
    assert set(rows) == {"even", "odd", "even × odd"}
    assert rows["even × odd"]["far"]["n"] == 35  # neighbors; five of 40 show one of the four images without a group
    assert rows["even × odd"]["frr"] is None
    assert rows["even"]["far"] is None
    assert rows["even"]["frr"]["n"] == rows["odd"]["frr"]["n"] == 18


def test_too_few_to_say():
    pairs, *_ = made(1600, (0.03, 0.03))
    small = np.where(np.isin(np.arange(3200) % 1600, range(6)), "rare", "usual")
    rows = {row["group"]: row for row in slices(pairs, 0.5, {"x": small})["rows"]}
    assert "too few to say: FAR and FRR" in rows["rare"]["warning"]
    assert rows["usual"]["warning"] is None
    ratio = slices(pairs, 0.5, {"x": small})["ratios"][0]
    assert ratio["ratio"] is None
    assert "in the group" in ratio["note"]


def test_groups_of_comparisons():
    pairs, _, error = made(40)
    kind = np.where(np.arange(80) % 2, "new", "old")
    rows = {row["group"]: row for row in slices(pairs, 0.5, {}, {"kind": kind})["rows"]}
    assert rows["old"]["frr"]["value"] == error[0][::2].mean()


def test_every_pair_is_as_a_list_of_all():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(20), 3)
    vectors = Embeddings(np.eye(20, 8)[subjects] + rng.normal(0, 0.4, (60, 8)), [f"{k:02d}" for k in range(60)])
    every = comparisons.every_pair(vectors, subjects, 0.5)
    i, j = np.tril_indices(60, -1)
    scores = np.einsum("nd,nd->n", vectors.vectors[i], vectors.vectors[j])
    whole = Comparisons(scores, subjects[i] == subjects[j], i, j, vectors.ids, subjects)
    threshold = float(np.quantile(scores[subjects[i] != subjects[j]], 0.95)) + 1e-5
    groups = {"x": np.where(subjects < 8, "a", np.where(subjects < 14, "b", "c"))}
    one, two = (slices(each, threshold, groups) for each in (every, whole))
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert a["group"] == b["group"]
        for name in ("far", "frr", "far_per_person", "frr_per_person"):
            assert (a[name] is None) == (b[name] is None)
            assert a[name] is None or a[name] == pytest.approx(b[name])


@pytest.mark.slow
def test_the_ratios_interval_covers():
    """Two groups chosen beforehand by their true rates, 0.1 and 0.2: nominal 95 % covers 93 to 97 %."""
    found = []
    for seed in range(1, 601):
        pairs, sex, _ = made(600, (0.1, 0.2), seed)
        told = next(each for each in slices(pairs, 0.5, {"sex": sex})["ratios"] if each["rate"] == "frr")
        low, high = (told["ratio"][end] for end in ("low", "high"))
        found.append(low <= (2 if told["group"] == "M" else 1 / 2) <= high)
    print(f"covered {np.mean(found):.3f}")
    assert 0.93 <= np.mean(found) <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("groups", [2, 4, pytest.param(12, marks=pytest.mark.nightly)])
def test_equal_groups_are_rarely_told_apart(groups):
    """Of lists whose groups all have one rate, no more than 7.5 % find a group that differs from the rest."""
    found, lists = {"far": 0, "frr": 0}, 400
    group = np.array([f"g{k % groups}" for k in range(300)])
    for seed in range(lists):
        rng = np.random.default_rng(seed)
        error = rng.random((2, 300)) < 0.12
        scores = np.r_[np.where(error[0], 0.1, 0.9), np.where(error[1], 0.8, 0.2)]
        first, second, other = np.arange(300), 300 + np.arange(300), 300 + np.roll(np.arange(300), groups)
        ids = np.array([f"P{k:03d}/{i}" for i in (1, 2) for k in range(300)])
        pairs = Comparisons(
            scores, np.arange(600) < 300, np.r_[first, first], np.r_[second, other], ids, np.r_[first, first]
        )
        ratios = slices(pairs, 0.5, {"x": np.r_[group, group]})["ratios"]
        for name in found:
            found[name] += any(each["differs"] for each in ratios if each["rate"] == name)
    print(found)
    assert max(found.values()) / lists <= 0.075


class TestFile:
    ids = np.array(["A/1.jpg", "B/1.jpg"])

    def write(self, tmp_path, text):
        (tmp_path / "g.csv").write_text(text)
        return read_groups(tmp_path / "g.csv", self.ids)

    def test_read(self, tmp_path):
        found = self.write(tmp_path, "\ufeffid, sex,age\nB/1.jpg,F,20-30\nC/1.jpg,M,\n\n")
        assert {name: each.tolist() for name, each in found.items()} == {"sex": ["", "F"], "age": ["", "20-30"]}

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("", "a header"), ("id\nA/1.jpg", "a header"), ("name,sex\nA/1.jpg,F", "a header"),
            ("id,sex\nA/1.jpg,F\nA/1.jpg,M", "second time"), ("id,sex\nA/1.jpg", "2 values"),
            ("id,sex\nC/1.jpg,F", "A/1.jpg"),
        ],
    )  # fmt: skip
    def test_mistakes(self, tmp_path, text, part):
        with pytest.raises(DataError, match=part):
            self.write(tmp_path, text)

    def test_absent(self, tmp_path):
        with pytest.raises(DataError, match="CSV"):
            read_groups(tmp_path / "none.csv", self.ids)


def test_a_group_of_three_images():
    """Its rates are told as they are, with intervals of nearly everything, and compared with nobody's."""
    pairs, *_ = made(200)
    found = slices(pairs, 0.5, {"x": np.where(np.isin(np.arange(400), [0, 200, 5]), "rare", "usual")})
    rare = next(row for row in found["rows"] if row["group"] == "rare")
    assert (rare["frr"]["n"], rare["far"]) == (1, None)  # images 0 and 200 are of one person; nobody else is compared
    assert rare["frr"]["high"] - rare["frr"]["low"] > 0.9
    assert "too few to say: FRR" in rare["warning"]
    assert all(each["ratio"] is None and not each["differs"] for each in found["ratios"])


def test_too_many_groups_and_another_length():
    pairs, _, _ = made(40)
    with pytest.raises(DataError, match="at most 12 groups"):
        slices(pairs, 0.5, {"age": np.array([str(k) for k in range(80)])})
    with pytest.raises(DataError, match="80 groups"):
        slices(pairs, 0.5, {"age": np.array(["x"])})
