"""The worst errors and the histograms of a report, against loops."""

from itertools import pairwise

import numpy as np
import pytest

from normface.protocols import operating_point
from normface.protocols.comparisons import Comparisons
from normface.protocols.diagnostics import certified


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(20), 3)
    left, right = np.tril_indices(60, -1)
    same = people[left] == people[right]
    scores = np.clip(rng.normal(np.where(same, 0.6, 0.0), 0.25), -1, 1)
    return Comparisons(scores, same, left, right, np.array([f"{k:02d}" for k in range(60)]), people)


def test_the_hardest_are_the_errors_farthest_from_the_threshold(drawn):
    rows = [
        [str(drawn.ids[i]), str(drawn.ids[j]), score, same]
        for i, j, score, same in zip(drawn.left, drawn.right, drawn.scores.tolist(), drawn.same.tolist(), strict=True)
    ]
    rows.sort(key=lambda row: row[2])
    rejects = [row[:3] for row in rows if row[3] and row[2] < 0.3]
    accepts = [row[:3] for row in rows[::-1] if not row[3] and row[2] >= 0.3]
    assert min(len(accepts), len(rejects)) > 3
    assert drawn.hardest(0.3, 3) == {"false_accepts": accepts[:3], "false_rejects": rejects[:3]}
    assert drawn.hardest(0.3, 10_000) == {"false_accepts": accepts, "false_rejects": rejects}
    assert drawn.hardest(2.0)["false_accepts"] == []


def test_a_certificates_histograms_count_every_comparison(drawn):
    point = operating_point(drawn, target_far=0.1, protocol="p", model_sha256="m", data_sha256="d")
    found = certified(point, drawn).curves["histogram"]
    edges = [k / 50 - 1 for k in range(101)]
    assert found["edges"] == pytest.approx(edges)
    for kind, own in (("genuine", drawn.same), ("impostor", ~drawn.same)):
        expected = [np.sum((drawn.scores[own] >= a) & (drawn.scores[own] < b)) for a, b in pairwise(edges)]
        expected[-1] += np.sum(drawn.scores[own] == 1)
        assert found[kind] == expected
