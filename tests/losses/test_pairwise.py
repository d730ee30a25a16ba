"""Pair and triplet losses against loops and pytorch-metric-learning."""

import itertools

import pytest
import torch
from pytorch_metric_learning import distances, reducers
from pytorch_metric_learning import losses as pml

from normface.errors import ConfigError
from normface.losses import Contrastive, Triplet

DOUBLE = torch.float64


def draw(seed, b=9, labels=3):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, 4, generator=g, dtype=DOUBLE).requires_grad_()
    return x, torch.randint(labels, (b,), generator=g)


def squared(x):
    unit = torch.nn.functional.normalize(x)
    return torch.cdist(unit, unit).square()


@pytest.mark.parametrize("loss", [Contrastive(), Triplet()])
def test_under_autocast_distances_are_not_rounded(loss):
    """Of nearly equal features they are far below the 2⁻⁷ that bfloat16 tells apart near 2."""
    x, y = draw(0)
    x = (x[:1] + 0.001 * x).float().detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(x, y)
    torch.testing.assert_close(found, loss(x, y), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_contrastive_agrees_with_pytorch_metric_learning(seed):
    x, y = draw(seed)
    theirs = pml.ContrastiveLoss(0, 1.0, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer())(x, y)
    ours = Contrastive(margin=1.0)(x, y)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in (ours, theirs)), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_triplet_agrees_with_pytorch_metric_learning(seed):
    x, y = draw(seed)
    theirs = pml.TripletMarginLoss(0.8, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer())(x, y)
    ours = Triplet(margin=0.8)(x, y)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in (ours, theirs)), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("mining", ["all", "hard", "semi-hard"])
@pytest.mark.parametrize("seed", range(3))
def test_triplet_against_loops(mining, seed):
    x, y = draw(seed)
    d, y = squared(x), y.tolist()
    costs = []
    for a, p in itertools.permutations(range(len(y)), 2):
        negatives = [n for n in range(len(y)) if y[n] != y[a]]
        if y[a] != y[p] or not negatives:
            continue
        if mining == "semi-hard":
            beyond = [n for n in negatives if d[a, n] > d[a, p]]
            negatives = [min(beyond, key=lambda n: d[a, n])] if beyond else [max(negatives, key=lambda n: d[a, n])]
        if mining == "hard":
            positives = [q for q in range(len(y)) if q != a and y[q] == y[a]]
            if p != max(positives, key=lambda q: d[a, q]):
                continue
            negatives = [min(negatives, key=lambda n: d[a, n])]
        costs += [max(0.0, (0.8 + d[a, p] - d[a, n]).item()) for n in negatives]
    assert Triplet(margin=0.8, mining=mining)(x, torch.tensor(y)).item() == pytest.approx(sum(costs) / len(costs))


@pytest.mark.parametrize("loss", [Contrastive(), Triplet(), Triplet(mining="hard"), Triplet(mining="semi-hard")])
def test_a_batch_of_one_kind_alone(loss):
    x, _ = draw(0, b=4)
    for labels in (torch.zeros(4, dtype=torch.int64), torch.arange(4)):
        value = loss(x, labels)
        value.backward()
        assert value.isfinite()
        assert x.grad.isfinite().all()


def test_mistakes():
    with pytest.raises(ConfigError, match="positive margin"):
        Contrastive(margin=0)
    with pytest.raises(ConfigError, match="mining among"):
        Triplet(mining="easy")
