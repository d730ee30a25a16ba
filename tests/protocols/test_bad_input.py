"""What says nothing gets a clear answer: one person, one image a person, scores that are all equal."""

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import all_pairs, every_pair, operating_point
from normface.types import Embeddings

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


def test_equal_scores_accept_nobody_and_are_no_evidence():
    """A FAR below 1 can only be kept by accepting nobody; such a score costs one bit, as one that knows nothing."""
    pairs = every_pair(Embeddings(np.ones((40, 8)), IDS), np.arange(40) // 2, 0.1)
    point = operating_point(pairs, target_far=0.1, protocol="all_pairs", model_sha256="m", data_sha256="d")
    assert point.threshold > pairs.scores.max()
    assert (point.far.value, point.tar.value) == (0, 0)
    assert (point.far.n, point.tar.n) == (40 * 38 / 2, 20)
    assert point.calibration.cllr == pytest.approx(1)
    assert point.calibration.llr(1.0) == pytest.approx(0, abs=1e-6)
