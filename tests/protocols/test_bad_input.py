"""What says nothing gets a clear answer: one person, one image a person, scores that are all equal."""

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import all_pairs, every_pair, operating_point, search_table
from normface.types import Embeddings, ScoreSet

IDS = np.array([f"P{k // 2:02d}/{k % 2}.jpg" for k in range(40)])


@pytest.mark.parametrize(
    "people", [np.zeros(40, int), np.arange(40)], ids=["one person alone", "one image a person"]
)  # fmt: skip
def test_one_kind_of_comparison_is_refused(people):
    x = np.random.default_rng(0).normal(size=(40, 8))
    with pytest.raises(DataError, match=r"two of one|at least two people"):
        every_pair(Embeddings(x, IDS), people, 0.1)
    with pytest.raises(DataError, match="several people, and somebody twice"):
        all_pairs(Embeddings(x, [f"P{p}/{k}.jpg" for k, p in enumerate(people)]))


def test_equal_vectors_are_refused_alike():
    """They tell nobody apart: not certified to accept nobody, as if they had a threshold."""
    equal = Embeddings(np.ones((40, 8)), IDS)
    with pytest.raises(DataError, match="embeddings that differ, got 40 equal ones"):
        all_pairs(equal)
    with pytest.raises(DataError, match="embeddings that differ"):
        every_pair(equal, np.arange(40) // 2, 0.1)
    with pytest.raises(DataError, match="embeddings that differ"):
        search_table(equal, np.arange(40) // 2, fpir=0.1, enrolled=[5], protocol="p", data_sha256="d")
    scores = ScoreSet(np.full(40, 0.3), np.arange(40) < 20, np.zeros(40, int))
    with pytest.raises(DataError, match="scores that differ, got 40 equal ones"):
        operating_point(scores, target_far=0.1, protocol="p", model_sha256="m", data_sha256="d")
