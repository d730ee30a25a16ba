"""The head over 1 to 4 ranks (gloo) against the whole head in one process, in float64."""

from functools import partial

import itertools
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as td
from torch.multiprocessing import start_processes

from normface import dist, losses, ops
from normface.errors import ConfigError, InputError, TrainingError
from normface.losses import LOSSES as LOSSES_OF
from normface.losses import weights
from normface.ops import Margin, c_contrastive, c_triplet
from normface.types import ClassShard

WORLD = 4
B, C, D = 12, 17, 5  # 17 classes: shares of unequal size


def draw():
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, D, generator=g, dtype=torch.float64) for n in (B, C))
    return x, w, torch.randint(C, (B,), generator=g)


def agents(loss, **options):
    return lambda x, w, s, y, **how: loss(ops.before_agents(x, w, y, **how), **options) * s


def softmax(scale=20.0, **options):
    return lambda x, w, s, y, **how: ops.cosine_cross_entropy(x, w, y, scale=scale * s, **options, **how)


LOSSES = {
    "C-contrastive": agents(c_contrastive, margin=2.0),
    "C-contrastive, exponential": agents(c_contrastive, margin=2.0, exponential=True, normalize_negatives=1.0),
    "C-contrastive, nearest": agents(c_contrastive, margin=2.5, hardest_negative=True, positive_first=True),
    "C-triplet": agents(c_triplet),
    "C-triplet, all": agents(c_triplet, hardest=False),
    "C-triplet, all, Caffe": agents(c_triplet, hardest=False, gradient="caffe"),
    "softmax": softmax(),
    "softmax, large scale": softmax(scale=300.0),
    "softmax, hard weights": softmax(weights="hard"),
    "softmax, exclusion": softmax(exclude_above=0.3),
    **{f"softmax, {n} normalized": softmax(scale=2.0, normalize=n) for n in ("features", "weights", "none")},
    "CosFace": softmax(margin=Margin(cosine=0.35)),
    "ArcFace": softmax(margin=Margin(angle=0.5)),
    "ArcFace, straight-through": softmax(margin=Margin(angle=0.5, gradient="straight-through")),
    "SphereFace": softmax(margin=Margin(multiply=4, blend=5), normalize="weights", scale=1.0),
    "SphereFace-R": softmax(margin=Margin(multiply=1.5, beyond="clamp")),
    "CurricularFace": softmax(margin=Margin(angle=0.5, curriculum=0.3)),
    "by sample": softmax(margin=lambda cosines: Margin(angle=0.1 * torch.arange(B), cosine=0.3 * cosines)),
}


def shares(world):
    """Unequal shares of the classes: bounds."""
    return [0, *sorted({1 + (k * k * (C - 1)) // (world * world) for k in range(1, world)}), C]


MODULES = {
    **{
        f"CosineSoftmax with {name}": ("CosineSoftmax", dict(margin=name)) for name in ("CosFace", "AdaFace", "MagFace")
    },
    "SphereFace, trained": ("CosineSoftmax", dict(margin="SphereFace", normalize="weights")),
    "CurricularFace, 2 sub-centers": ("CosineSoftmax", dict(margin="CurricularFace", subcenters=2)),
    "sampled": ("CosineSoftmax", dict(sample=0.4)),
    "sampled, 2 sub-centers": ("CosineSoftmax", dict(sample=0.4, subcenters=2, margin="CosFace")),
    "hard weights": ("CosineSoftmax", dict(weights="hard")),
    "AdaCos": ("CosineSoftmax", dict(scale="adacos-dynamic")),
    "adaptive C-contrastive": ("CContrastive", dict(adaptive_margin=True, margin=2.0)),
    "Joint": ("Joint", {}),
}


def train(name, x, y, shard=None):
    """Three steps of plain gradient descent on the loss alone: their values, all ranks', and the features' gradient."""
    torch.manual_seed(0)
    name, options = MODULES[name]
    loss = LOSSES_OF.build(name, C, D, shard=shard or ClassShard(0, C, C), **options).double()
    if shard is None:  # the same start, and nothing shared from then on
        for module in loss.modules():
            module.shard = None
    x = (3 * x).requires_grad_()
    values = []
    for _ in range(3):
        value = loss(x, y)
        values.append(value.detach())
        gradients = torch.autograd.grad(value, (x, *filter(lambda p: p.requires_grad, loss.parameters())))
        with torch.no_grad():
            for parameter, down in zip((p for p in loss.parameters() if p.requires_grad), gradients[1:], strict=True):
                parameter -= 0.1 * down
    return torch.stack(values), gradients[0]


def mistakes(rank, x, w, y, group):
    """Messages of the errors of two ranks that do not agree."""
    shard, messages = dist.class_shard(C, group), []
    for samples, own in ((slice(0, 4 + rank), shard), (slice(0, 4), ClassShard(0, 9, C, group))):
        try:
            ops.cosine_cross_entropy(x[samples], w[own.start : own.stop], y[samples], scale=1.0, shard=own)
        except InputError as error:
            messages.append(str(error))
    return messages


def work(rank, folder):
    """Four processes; the first 1, 2, 3 and 4 of them form a world each."""
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    groups = [td.new_group(range(world)) for world in range(1, WORLD + 1)]
    x, w, y = draw()
    found = {}
    for world, group in enumerate(groups, start=1):
        if rank >= world:
            continue
        start, stop = shares(world)[rank : rank + 2]
        samples = slice(rank * B // world, (rank + 1) * B // world)
        for name, loss in LOSSES.items():
            leaves = [t.clone().requires_grad_() for t in (x[samples], w[start:stop], torch.ones((), dtype=x.dtype))]
            value = loss(*leaves, y[samples], shard=ClassShard(start, stop, C, group))
            value.backward()
            found[world, name] = (value.detach(), *(leaf.grad for leaf in leaves))
        for name in MODULES:
            found[world, name] = train(name, x[samples], y[samples], dist.class_shard(C, group))
    found["errors"] = mistakes(rank, x, w, y, groups[1]) if rank < 2 else []
    torch.save(found, f"{folder}/{rank}.pt")
    td.barrier()
    td.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(work, (str(folder),), WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("world", range(1, WORLD + 1))
def test_equals_the_whole_head(ranks, world, name):
    x, w, y = draw()
    leaves = [t.requires_grad_() for t in (x, w, torch.ones((), dtype=x.dtype))]
    value = LOSSES[name](*leaves, y, impl="reference")
    value.backward()
    found = [rank[world, name] for rank in ranks[:world]]
    for each in found:
        torch.testing.assert_close(each[0], value, rtol=1e-9, atol=1e-9)
    for part, leaf in ((1, x), (2, w)):
        torch.testing.assert_close(torch.cat([each[part] for each in found]), leaf.grad, rtol=1e-9, atol=1e-9)
    if not name.startswith("C-"):  # each rank has its part of the scale's gradient
        torch.testing.assert_close(sum(each[3] for each in found), leaves[2].grad, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("world", range(1, WORLD + 1))
def test_losses_train_alike(ranks, world, name):
    x, _, y = draw()
    values, gradient = train(name, x, y)
    found = [rank[world, name] for rank in ranks[:world]]
    for each in found:
        torch.testing.assert_close(each[0], values, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.cat([each[1] for each in found]), gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_ranks_that_do_not_agree_are_told(ranks):
    for rank in ranks[:2]:
        uneven, twice = rank["errors"]
        assert "4 samples" in uneven
        assert "5 samples" in uneven
        assert "classes 0 to 9 of 17; 4 samples, classes 0 to 9 of 17" in twice


@pytest.mark.parametrize(
    ("rows", "label", "message"),
    [
        (8, 0, "9 rows of weights for this shard, got 8"),
        (9, C, r"labels in \[0, 17\), got \[0, 17\]"),
        (9, -1, r"labels in \[0, 17\), got \[-1, "),
        (9, 0, "cover 17 classes, got 12 samples, classes 0 to 9 of 17; .*when the number of ranks changes"),
    ],
)
def test_what_does_not_fit_the_shard_is_told(rows, label, message):
    """The last one's shard is right for two ranks, of which one is there."""
    x, w, y = draw()
    y = torch.where(torch.arange(B) == 0, label, y.clamp(max=8))
    with pytest.raises(InputError, match=message):
        ops.cosine_cross_entropy(x, w[:rows], y, scale=1.0, shard=ClassShard(0, 9, C))


def test_fewer_classes_than_ranks(monkeypatch):
    monkeypatch.setattr(dist, "world", lambda group: 3)
    with pytest.raises(ConfigError, match="at least 3 classes, one per rank"):
        dist.class_shard(2)


@pytest.mark.parametrize("whole", [0, 2**24])
def test_rows_do_not_depend_on_the_shares(monkeypatch, whole):
    monkeypatch.setattr(weights, "WHOLE", whole)
    monkeypatch.setattr(weights, "BLOCK", 4)
    parts = []
    for shares in ((0, 17), (0, 3, 8, 17), (0, 4, 16, 17)):
        rows = []
        for start, stop in itertools.pairwise(shares):
            torch.manual_seed(1)
            rows.append(weights.class_weights(17, D, 2, ClassShard(start, stop, 17)))
        parts.append(torch.cat(rows))
    assert len(parts[0]) == 34
    assert len(parts[0].unique(dim=0)) == 34
    torch.testing.assert_close(parts[0], parts[1])
    torch.testing.assert_close(parts[0], parts[2])


def lonely(rank, folder):
    """Rank 1 dies; rank 0 must not wait for ever."""
    td.init_process_group(
        "gloo", init_method=f"file://{folder}/two", rank=rank, world_size=2, timeout=timedelta(minutes=10)
    )
    ready = Path(
        folder, "ready"
    )  # rank 1 lives until rank 0 has both connections: this is not about a start that fails
    if rank == 1:
        while not ready.exists():
            time.sleep(0.01)
        os._exit(0)
    ready.touch()
    try:
        dist.gather(torch.ones(2))
    except TrainingError as error:
        Path(folder, "message").write_text(str(error))
    os._exit(0)


@pytest.mark.slow
def test_a_rank_that_dies_is_told(tmp_path):
    start_processes(lonely, (str(tmp_path),), 2, start_method="forkserver")
    assert "all 2 ranks to answer" in (tmp_path / "message").read_text()
