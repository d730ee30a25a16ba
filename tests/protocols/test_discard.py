"""Error-versus-discard curves: counted by hand, and by a quality that knows the errors."""

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import Comparisons, every_pair, of_list, with_discard
from normface.protocols.named_pairs import NamedPairs
from normface.types import Embeddings, Result

N = 200
IDS = np.array([f"P{k // 2:03d}/{k % 2}.jpg" for k in range(2 * N)])


def made(seed=0):
    """200 people with two images: a genuine and an impostor comparison each; images of low quality err."""
    rng = np.random.default_rng(seed)
    quality = rng.random(2 * N)
    first = np.arange(0, 2 * N, 2)
    left, right = np.r_[first, first], np.r_[first + 1, np.roll(first + 1, 1)]
    worst = np.minimum(quality[left], quality[right])
    same = np.arange(2 * N) < N
    scores = np.where(same, np.where(worst < 0.1, 0.1, 0.9), np.where(worst < 0.05, 0.8, 0.2))
    return Comparisons(scores, same, left, right, IDS, np.arange(2 * N) // 2), quality


def curve(comparisons, quality, threshold=0.5):
    made = with_discard(Result("lfw", {}), comparisons, threshold, {"q": quality})
    assert made.facts["discard_threshold"] == threshold
    return {axis: np.array(values) for axis, values in made.curves["discard_q"].items()}


def test_rates_are_counts_of_what_is_left():
    comparisons, quality = made()
    found = curve(comparisons, quality)
    assert found["discarded"][[0, -1]] == pytest.approx([0, 0.5])
    for k, share in enumerate(found["discarded"].tolist()):
        kept = quality >= np.sort(quality)[round(share * 2 * N)]
        here = kept[comparisons.left] & kept[comparisons.right]
        assert found["comparisons"][k] == here.mean()
        for name, kind, wrong in (
            ("frr", comparisons.same, comparisons.scores < 0.5), ("far", ~comparisons.same, comparisons.scores >= 0.5),
        ):  # fmt: skip
            assert found[name][k] == pytest.approx(wrong[here & kind].mean())
            assert found[f"{name}_low"][k] <= found[name][k] <= found[f"{name}_high"][k]
    assert found["frr"][0] > 0.1
    assert found["frr"][5] == 0  # beyond a tenth nothing errs


def test_a_quality_that_knows_nothing_stays_level():
    comparisons, quality = made()
    found = curve(comparisons, np.random.default_rng(1).permutation(quality))
    assert found["frr"][-1] > found["frr"][0] / 2


def test_every_pair_of_images_is_as_a_list_of_all():
    rng = np.random.default_rng(2)
    subjects = np.repeat(np.arange(20), 3)
    ids = np.array([f"P{k // 3:02d}/{k % 3}" for k in range(60)])
    x = Embeddings(np.eye(20, 8)[subjects] + rng.normal(0, 0.5, (60, 8)), ids)
    i, j = np.tril_indices(60, -1)
    named = NamedPairs(ids[i], ids[j], subjects[i] == subjects[j], np.zeros(len(i), int), "")
    quality = rng.random(60)
    every, listed = every_pair(x, subjects, 0.3), of_list(x, named)
    one, other = (curve(each, quality, 0.62) for each in (every, listed))
    for axis in ("discarded", "comparisons", "frr", "far"):
        assert one[axis] == pytest.approx(other[axis]), axis


def test_equal_images_leave_together_and_the_curve_ends_with_its_comparisons():
    comparisons, quality = made()
    found = curve(comparisons, np.where(quality < 0.3, 0.0, 1.0))
    assert found["discarded"].tolist() == pytest.approx([0, np.mean(quality < 0.3)])
    few = Comparisons(np.array([0.9, 0.1]), np.array([True, False]),
                      np.array([0, 0]), np.array([1, 2]), IDS[:3], np.array([0, 0, 1]))  # fmt: skip
    assert curve(few, np.array([1.0, 2.0, 0.0]))["discarded"].tolist() == [0]  # without the third no impostor is left


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        (np.ones(2 * N), "differ in q, got 1 for all"),
        (np.ones(3), "finite q of each"),
        (np.full(2 * N, np.nan), "finite q"),
    ],
)
def test_mistakes(quality, message):
    with pytest.raises(DataError, match=message):
        curve(made()[0], quality)
