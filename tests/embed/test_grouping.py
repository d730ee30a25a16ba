"""Grouping by fused templates: a plain implementation is the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normface.embed import Embedder, grouping
from normface.embed.grouping import assign_vectors, group_vectors, numbered
from normface.errors import InputError

pytestmark = pytest.mark.slow


def drawn(people, faces, dim=16, noise=0.5, seed=0):
    """Unit vectors of some people, and whose they are."""
    draw = np.random.default_rng(seed)
    owners = draw.permutation(np.repeat(np.arange(people), faces))
    rows = draw.normal(size=(people, dim))[owners] + noise * draw.normal(size=(len(owners), dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), owners


def plainly(vectors, threshold):
    """The definition: recompute all cosines of fused templates, merge all pairs of mutual neighbors, repeat."""
    groups = [[row] for row in range(len(vectors))]
    while len(groups) > 1:
        fused = np.stack([Embedder.fuse(vectors[rows]) for rows in groups])
        cosines = fused @ fused.T - 3 * np.eye(len(groups))
        nearest = cosines.argmax(1)
        pairs = [(i, j) for i, j in enumerate(nearest) if i < j and nearest[j] == i and cosines[i, j] >= threshold]
        if not pairs:
            break
        gone = {j for _, j in pairs}
        for i, j in pairs:
            groups[i] = groups[i] + groups[j]
        groups = [rows for i, rows in enumerate(groups) if i not in gone]
    labels = np.empty(len(vectors), int)
    for label, rows in enumerate(groups):
        labels[rows] = label
    return numbered(labels)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.floats(0.05, 0.9))
def test_the_groups_are_those_of_the_definition(seed, total, threshold):
    vectors, _ = drawn(max(total // 3, 1), 3, dim=8, noise=1, seed=seed)
    np.testing.assert_array_equal(group_vectors(vectors, threshold), plainly(vectors, threshold))


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9))
def test_no_two_groups_are_left_that_are_near(seed, threshold):
    vectors, _ = drawn(20, 4, dim=8, noise=1, seed=seed)
    labels = group_vectors(vectors, threshold)
    fused = np.stack([Embedder.fuse(vectors[labels == label]) for label in range(labels.max() + 1)])
    assert ((fused @ fused.T)[np.triu_indices(len(fused), 1)] < threshold + 1e-5).all()


def test_blocks_change_nothing(monkeypatch):
    vectors, _ = drawn(40, 5)
    whole = group_vectors(vectors, 0.5)
    monkeypatch.setattr(grouping, "BLOCK", 7 * len(vectors))
    np.testing.assert_array_equal(group_vectors(vectors, 0.5), whole)


def test_a_chain_does_not_make_one_person():
    """Neighbors 20 degrees apart from 0 to 180: single linkage joins all, though the ends have a cosine of -1."""
    angles = np.radians(np.arange(0, 181, 20))
    labels = group_vectors(np.stack([np.cos(angles), np.sin(angles)], 1), np.cos(np.radians(30)))
    assert labels.max() >= 3
    assert labels[0] != labels[-1]


def test_people_far_apart_are_found_and_progress_ends_at_all():
    vectors, owners = drawn(30, 6, dim=64)
    told = []
    labels = group_vectors(vectors, 0.5, progress=lambda done, total: told.append((done, total)))
    np.testing.assert_array_equal(labels, numbered(owners))
    assert told[-1] == (180, 180)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_equal_vectors_and_few():
    np.testing.assert_array_equal(group_vectors(np.tile([[0.6, 0.8]], (9, 1)), 0.9), np.zeros(9))
    assert group_vectors(np.ones((1, 1)), 0.5).tolist() == [0]
    assert group_vectors(np.empty((0, 4)), 0.5).tolist() == []


def test_known_people_come_by_their_fused_template():
    known = np.array([[1, 0], [0, 1], [0.96, 0.28]])
    asked = np.array([[1, 0], [0, 1], [-1, 0]])
    # The second person's template is (0.6, 0.8), the sum (0.96, 1.28) by its length 1.6.
    assert assign_vectors(asked, known, [0, 1, 1], 0.79).tolist() == [0, 1, -1]
    assert assign_vectors(asked, known, [0, 1, 1], 0.81).tolist() == [0, -1, -1]
    assert assign_vectors(asked, known[:0], [], 0.5).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("bad", [np.ones(3), [[np.nan, 1]]])
def test_only_finite_rows_are_grouped(bad):
    with pytest.raises(InputError, match=r"finite vectors \[N, D\]"):
        group_vectors(bad, 0.5)
