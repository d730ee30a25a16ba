"""P×K batches: what they must contain, and what they must not."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from normface.data import open_reader
from normface.errors import ConfigError, DataError
from normface.train.config import DataConfig
from normface.train.loader import Batches, PKSampler
from normface.types import InputSpec

LABELS = np.array([4, 1, 1, 1, 4, 7, 9, 9, 9, 9, 9, 2])  # 1: 3 images, 2: 1, 4: 2, 7: 1, 9: 5


def test_a_batch_is_so_many_people_with_so_many_images():
    sampler = PKSampler(LABELS, 2, 3)
    for step in range(20):
        shown = LABELS[sampler.rows(step)].reshape(2, 3)
        assert (shown == shown[:, :1]).all()
        assert shown[0, 0] != shown[1, 0]


def test_images_repeat_only_where_there_are_too_few():
    sampler = PKSampler(LABELS, 5, 4)
    for step in range(20):
        rows = sampler.rows(step).reshape(5, 4)
        for images in rows:
            have = (LABELS[images[0]] == LABELS).sum()
            times = np.unique(images, return_counts=True)[1]
            assert len(times) == min(4, have)
            assert times.max() - times.min() <= 1


def test_every_person_once_a_pass_and_every_image_in_time():
    sampler = PKSampler(LABELS, 1, 2)
    passes = [[LABELS[sampler.rows(5 * turn + step)][0] for step in range(5)] for turn in range(30)]
    assert all(sorted(each) == [1, 2, 4, 7, 9] for each in passes)
    assert len({tuple(each) for each in passes}) > 1  # the order changes
    seen = np.concatenate([sampler.rows(step) for step in range(150)])
    assert set(seen) == set(range(len(LABELS)))


def test_a_step_depends_on_nothing_but_its_number():
    one, two = PKSampler(LABELS, 2, 2, seed=3), PKSampler(LABELS, 2, 2, seed=3)
    ahead = [two.rows(step) for step in (5, 0, 3)]
    np.testing.assert_array_equal([one.rows(5), one.rows(0), one.rows(3)], ahead)
    assert not all(np.array_equal(PKSampler(LABELS, 2, 2, seed=4).rows(s), one.rows(s)) for s in range(5))


def test_serves_torchs_loader():
    data = TensorDataset(torch.from_numpy(LABELS))
    loader = DataLoader(data, batch_sampler=PKSampler(LABELS, 2, 3))
    first, second = ([batch.tolist() for (batch,) in loader] for _ in range(2))
    assert len(first) == len(second) == len(loader) == 2
    assert all(len(set(batch)) == 2 and len(batch) == 6 for batch in first + second)


def test_too_few_people():
    with pytest.raises(DataError, match="at least 6 people"):
        PKSampler(LABELS, 6, 2)


def test_batches_by_person(drawn):
    reader = open_reader(drawn / "train" / "faces-112.zip")
    spec = InputSpec(112, 96, template="112x96")
    batches = Batches(reader, spec, DataConfig(per_person=4), batch=16, seed=0)
    assert batches.per_epoch == len(reader) // 16  # an epoch is as many images as ever
    _, labels = batches[9]
    assert (np.unique(labels, return_counts=True)[1] == 4).all()
    with pytest.raises(ConfigError, match=r"multiple of data\.per_person"):
        Batches(reader, spec, DataConfig(per_person=3), batch=16, seed=0)
