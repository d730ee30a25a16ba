"""P×K batches: what they must contain, and what they must not."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from normface.data import open_reader
from normface.errors import ConfigError, DataError
from normface.faces import retarget
from normface.prefetch import map_ahead
from normface.train.config import DataConfig
from normface.train.loader import Batches, PKSampler, Shuffle
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


def test_every_image_once_an_epoch():
    shuffle = Shuffle(LABELS, 3, seed=1)
    epochs = [np.concatenate([shuffle.rows(4 * turn + step) for step in range(4)]) for turn in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_balanced_draws():
    """Of 12 draws for 5 people each gets 2 or 3, and 2.4 in the long run; a person's images take turns."""
    shuffle = Shuffle(LABELS, 12, balance=1.0)
    epochs = np.stack([shuffle.rows(step) for step in range(500)])
    people = np.stack([np.bincount(LABELS[epoch], minlength=10)[[1, 2, 4, 7, 9]] for epoch in epochs])
    assert set(people.ravel()) == {2, 3}
    np.testing.assert_allclose(people.mean(0), 2.4, atol=0.1)  # 4σ
    times = np.stack([np.bincount(epoch, minlength=12) for epoch in epochs])
    for person in np.unique(LABELS):
        of = times[:, person == LABELS]
        assert (of.max(1) - of.min(1)).max() <= 1
    half = Shuffle(LABELS, 12, balance=0.5)
    roots = np.sqrt([3, 1, 2, 1, 5])
    shown = np.stack([np.bincount(LABELS[half.rows(step)], minlength=10)[[1, 2, 4, 7, 9]] for step in range(500)])
    np.testing.assert_allclose(shown.mean(0), 12 * roots / roots.sum(), atol=0.1)


CPU = torch.device("cpu")
SPEC = InputSpec(112, 96, template="112x96")


@pytest.fixture
def reader(drawn):
    return open_reader(drawn / "train" / "faces-112.zip")


def test_batches_by_person(reader):
    batches = Batches(reader, SPEC, DataConfig(per_person=4), batch=16, seed=0)
    assert batches.per_epoch == len(reader) // 16  # an epoch is as many images as ever
    assert (np.unique(batches[9].labels, return_counts=True)[1] == 4).all()
    with pytest.raises(ConfigError, match=r"multiple of data\.per_person"):
        Batches(reader, SPEC, DataConfig(per_person=3), batch=16, seed=0)


def test_crops_of_another_template_are_fitted(reader):
    batch = Batches(reader, SPEC, DataConfig(), batch=8, seed=0)[0]
    wide = Batches(reader, InputSpec(112, 112, template="112x112"), DataConfig(), batch=8, seed=0)[0]
    assert batch.images.shape == (8, 112, 96, 3)
    np.testing.assert_array_equal(batch.images, retarget(wide.images, "112x96"))
    np.testing.assert_array_equal(batch.labels, wide.labels)


def test_goes_on_in_mid_epoch_with_the_remaining_images(reader):
    def take(start, stop):
        batches = Batches(reader, SPEC, DataConfig(), batch=10, seed=4)  # a new process
        return [[t.numpy() for t in step] for step in batches.run(start, stop, CPU)]

    whole, parts = take(0, 14), take(0, 5) + take(5, 14)
    for one, other in zip(whole, parts, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_each_batch_without_overlap_or_omission(reader, ranks):
    options = dict(batch=12, seed=5)
    whole = Batches(reader, SPEC, DataConfig(), **options)[6]
    parts = [Batches(reader, SPEC, DataConfig(), part=(rank, ranks), **options)[6] for rank in range(ranks)]
    for together, of_one in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(together), of_one)


def test_threads_do_not_change_what_comes(reader):
    batches = Batches(reader, SPEC, DataConfig(), batch=10, seed=6)
    alone = [batches[step] for step in range(12)]
    for one, other in zip(alone, map_ahead(batches.__getitem__, range(12), threads=4), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same(reader):
    batches = Batches(reader, SPEC, DataConfig(), batch=10, seed=6)
    for one, other in zip(batches.run(0, 12, CPU), batches.run(0, 12, torch.device("cuda")), strict=True):
        torch.testing.assert_close(one, tuple(t.cpu() for t in other), rtol=0, atol=0)
