"""Planted faults among real training faces, found by the third-party model."""

import numpy as np
import pytest

from normface.data import open_reader
from normface.data.hygiene import doubtful, duplicates, overlap, survey
from normface.embed import Embedder

pytestmark = pytest.mark.real


def test_planted_faults(data_dir, foamliu):
    """40 people: 10 images put under other names, and 3 LFW people under names of their own."""
    cutoff, teacher = 0.4, Embedder.load(foamliu)
    train, lfw = open_reader(data_dir / "train" / "faces-112.zip"), open_reader(data_dir / "lfw" / "lfw-112x96.zip")
    counts = np.bincount(train.labels)
    chosen = np.flatnonzero((counts >= 6) & (counts <= 12))[:40]
    people = train.select(np.flatnonzero(np.isin(train.labels, chosen)))
    sizes = np.bincount(lfw.labels)
    three = np.flatnonzero((sizes >= 6) & (sizes <= 8))[:3]
    planted = lfw.select(np.flatnonzero(np.isin(lfw.labels, three)))
    vectors = np.concatenate([teacher.embed(each, mirror="none").vectors for each in (people, planted)])
    labels = np.concatenate([people.labels, 40 + planted.labels])
    before = doubtful(vectors, labels, cutoff)
    moved = np.random.default_rng(0).permutation(len(people))[:10]
    wrong = labels.copy()
    wrong[moved] = (labels[moved] + 7) % 40
    after = doubtful(vectors, wrong, cutoff)
    found = {row for row, *_ in after.wrong} - {row for row, *_ in before.wrong}
    recall = len(found & set(moved.tolist())) / 10
    print(f"\nwrong labels: {len(found & set(moved.tolist()))} of 10 found, {len(found - set(moved.tolist()))} false")
    assert recall >= 0.9
    assert len(found - set(moved.tolist())) <= 1
    half = planted.labels % 2 == 0  # halves of the planted people are the test set
    theirs = teacher.embed(planted, mirror="none").vectors
    common = overlap(vectors, labels, theirs[half], planted.labels[half] // 2, cutoff)
    assert {i for i, *_ in common} == {40, 42}  # 41 is not in the test set


def test_training_faces_hold_no_exact_copies(data_dir):
    reader = open_reader(data_dir / "train" / "faces-112.zip")
    found = duplicates(survey(reader.select(np.arange(0, len(reader), 8)), threads=2))
    print(f"\n{len(found)} near duplicates among {len(reader) // 8 + 1}")
    assert not [pair for pair in found if pair[2] == "exact"]
