"""Sampled classes: what is drawn, what it costs, and what the optimizer leaves alone."""

import pytest
import torch

from normface.errors import ConfigError, InputError
from normface.losses import CosineSoftmax
from normface.losses.partial_fc import _mixed, sampled
from normface.ops import cosine_cross_entropy
from normface.train import RowSGD
from normface.types import ClassShard

C, D, B = 1000, 6, 16


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.randn(B, D, generator=g, dtype=torch.float64), torch.randint(C, (B,), generator=g)


@pytest.mark.parametrize("label", [-1, C])
def test_labels_out_of_range(label):
    """-1 would otherwise train on the last class drawn."""
    loss = CosineSoftmax(C, D, sample=0.1)
    with pytest.raises(InputError, match=r"labels in \[0, 1000\)"):
        loss(torch.randn(2, D), torch.tensor([3, label]))


def test_own_classes_and_a_share_of_the_others(batch):
    _, y = batch
    w = torch.randn(C, D, dtype=torch.float64)
    few, labels, shard = sampled(w, y, 0.3, (1, 2))
    assert shard is None
    torch.testing.assert_close(few[labels], w[y], rtol=0, atol=0)
    # 984 draws with probability 0.3: five standard deviations
    assert abs(len(few) - len(y.unique()) - 0.3 * (C - len(y.unique()))) < 5 * (C * 0.3 * 0.7) ** 0.5
    assert (few[:, None] == w).all(2).any(1).all()


def test_draws_differ_by_step_and_seed_and_repeat(batch):
    w = torch.arange(C, dtype=torch.float64)[:, None]
    drawn = {draw: sampled(w, batch[1], 0.3, draw)[0].flatten() for draw in ((0, 0), (0, 1), (1, 0))}
    assert not torch.equal(drawn[0, 0][:50], drawn[0, 1][:50])
    assert not torch.equal(drawn[0, 0][:50], drawn[1, 0][:50])
    assert torch.equal(drawn[0, 0], sampled(w, batch[1], 0.3, (0, 0))[0].flatten())


def test_a_rank_without_a_class_is_told():
    w, y = torch.randn(4, D), torch.tensor([999])
    with pytest.raises(ConfigError, match=r"a class drawn on each of 1 ranks, got \[0\]; raise sample"):
        sampled(w, y, 1e-9, (0, 0), shard=ClassShard(0, 4, C))


def test_draws_are_those_of_splitmix64():
    """Vigna's splitmix64.c, prng.di.unimi.it, seeded with 1234567: its outputs as unsigned numbers."""
    first = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = _mixed(torch.arange(1, 6), 1234567)
    assert [int(z) % 2**64 for z in found] == first


def test_every_class_has_its_share_of_draws(batch):
    w = torch.arange(C)[:, None].double()
    times = sum(torch.bincount(sampled(w, batch[1], 0.3, (0, t))[0].flatten().long(), minlength=C) for t in range(200))
    others = times[[c for c in range(C) if c not in batch[1].tolist()]]
    assert (others - 60).abs().max() < 5.5 * (200 * 0.3 * 0.7) ** 0.5
    assert (times[batch[1]] == 200).all()


def test_draws_do_not_depend_on_the_shares(batch):
    w = torch.arange(C, dtype=torch.float64)[:, None]
    whole = sampled(w, batch[1], 0.3, (3, 4))[0].flatten()
    parts = [
        sampled(w[a:b], batch[1], 0.3, (3, 4), shard=ClassShard(a, b, C))[0].flatten()
        for a, b in ((0, 100), (100, 130), (130, C))
    ]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("options", [{}, {"subcenters": 3}, {"normalize": "none"}])
def test_equals_a_head_of_those_classes(batch, options):
    x, y = batch
    torch.manual_seed(0)
    loss = CosineSoftmax(C, D, sample=0.2, **options).double()
    k = loss.subcenters
    few, labels, _ = sampled(loss.weight.detach(), y, 0.2, tuple(loss.draw.tolist()), subcenters=k)
    few.requires_grad_()
    value = cosine_cross_entropy(
        x, few, labels, scale=loss.scale.detach(), subcenters=k, normalize=loss.normalize, impl="reference"
    )
    value.backward()
    got = loss(x, y)
    got.backward()
    torch.testing.assert_close(got, value)
    assert loss.weight.grad.is_sparse
    torch.testing.assert_close(loss.weight.grad.coalesce().values(), few.grad)
    assert loss.draw[1] == 1
    loss.eval()
    full = CosineSoftmax(C, D, **options).double().eval()
    full.load_state_dict({n: t for n, t in loss.state_dict().items() if n != "draw"})
    torch.testing.assert_close(loss(x, y), full(x, y))


def test_goes_on_from_its_state(batch):
    x, y = batch
    torch.manual_seed(0)
    loss, other = (CosineSoftmax(C, D, sample=0.2).double() for _ in range(2))
    loss(x, y)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(x, y), other(x, y))


@pytest.mark.parametrize("sample", [0.0, -1.0, 1.5, float("nan")])
def test_no_share(sample):
    with pytest.raises(ConfigError, match="0 < sample ≤ 1"):
        CosineSoftmax(C, D, sample=sample)
    with pytest.raises(ConfigError, match="weights='hard'|weights=\"hard\""):
        CosineSoftmax(C, D, sample=0.5, weights="hard")


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_row_sgd_equals_sgd_on_the_rows_and_leaves_the_others(options):
    g = torch.Generator().manual_seed(0)
    start = torch.randn(7, 3, generator=g, dtype=torch.float64)
    rows = torch.tensor([1, 4, 5])
    p, q = start.clone().requires_grad_(), start[rows].clone().requires_grad_()
    ours, theirs = (kind([t], lr=0.1, weight_decay=0.2, **options) for kind, t in ((RowSGD, p), (torch.optim.SGD, q)))
    for _ in range(4):
        q.grad = torch.randn(3, 3, generator=g, dtype=torch.float64)
        p.grad = torch.sparse_coo_tensor(rows[None], q.grad.clone(), p.shape)
        ours.step()
        theirs.step()
    torch.testing.assert_close(p[rows], q)
    others = [0, 2, 3, 6]
    assert torch.equal(p[others], start[others])


def test_row_sgd_is_sgd_for_dense_gradients():
    p, q = (torch.ones(4, requires_grad=True) for _ in range(2))
    for kind, t in ((RowSGD, p), (torch.optim.SGD, q)):
        optimizer = kind([t], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            t.square().sum().backward()
            optimizer.step()
    assert torch.equal(p, q)
