"""C-contrastive and C-triplet against loops over samples and agents, and against PAPER.md's gradients by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from normface.errors import ConfigError
from normface.losses import CContrastive, Center, CTriplet, Joint
from normface.ops import reference
from normface.ops.agents import Dense, c_contrastive, c_triplet
from normface.ops.reference import agent_distances

DOUBLE = torch.float64
B, C = 9, 6


def draw(seed=0):
    g = torch.Generator().manual_seed(seed)
    d = (4 * torch.rand(B, C, generator=g, dtype=DOUBLE)).requires_grad_()
    return d, torch.randint(C, (B,), generator=g)


def loops_contrastive(d, y, *, margin=1.0, positive_margin=0.0, positive_weight=1.0, negative_weight=1.0, cap=4.0,
                      exponential=False, hardest_negative=False, hardest_positive=False, positive_first=False,
                      normalize_negatives=None):  # fmt: skip
    """Value and gradient in d, sample by sample, after eq. 10 and the options of PAPER.md §2."""
    n, c = d.shape
    gradient, pulls, pushes, weights = np.zeros_like(d), 0.0, 0.0, 0.0
    farthest = max(range(n), key=lambda i: d[i, y[i]])
    for i in range(n):
        own = d[i, y[i]]
        if not hardest_positive or i == farthest:
            pulls += positive_weight * min(cap, max(0.0, own - positive_margin))
            if positive_margin < own < positive_margin + cap:
                gradient[i, y[i]] = positive_weight
        if positive_first and own > 1:
            continue
        others = [j for j in range(c) if j != y[i]]
        nearest = min(others, key=lambda j: d[i, j])
        for j in others:
            if d[i, j] < margin and (not hardest_negative or j == nearest):
                cost = math.exp(-d[i, j]) if exponential else margin - d[i, j]
                slope = math.exp(-d[i, j]) if exponential else 1.0
                pushes += negative_weight * cost
                weights += negative_weight * slope
                gradient[i, j] = -negative_weight * slope
    if normalize_negatives is not None:
        total = weights / normalize_negatives / n
        if total > positive_weight:
            pushes /= total
            gradient[gradient < 0] /= total
    return (pulls + pushes) / n, gradient / n


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
def test_eq_10_and_11_plain_against_loops(margin):
    """The lines of `reference`, value and gradient in d."""
    for seed in range(3):
        d, y = draw(seed)
        plain, value, slope = d.detach().numpy(), 0.0, np.zeros((B, C))
        for i, j in itertools.product(range(B), range(C)):
            if j != y[i] and (cost := margin + plain[i, y[i]] - plain[i, j]) > 0:
                value += cost / B
                slope[i, j] -= 1 / B
                slope[i, y[i]] += 1 / B
        found = [reference.c_triplet(d, y, margin=margin), reference.c_contrastive(d, y, margin=margin)]
        expected = [(value, slope), loops_contrastive(plain, y.tolist(), margin=margin)]
        for got, (right, gradient) in zip(found, expected, strict=True):
            assert got.item() == pytest.approx(right)
            np.testing.assert_allclose(torch.autograd.grad(got, d)[0].numpy(), gradient, atol=1e-12)


SWITCHES = ["exponential", "hardest_negative", "hardest_positive", "positive_first"]


@pytest.mark.parametrize("switches", list(itertools.product([False, True], repeat=4)))
@pytest.mark.parametrize(
    "numbers",
    [{}, dict(margin=2.5, positive_margin=0.5, positive_weight=0.7, negative_weight=0.3), dict(cap=1.5),
     dict(normalize_negatives=0.2), dict(margin=3.0, normalize_negatives=5.0)],
    ids=["default", "weights", "cap", "normalized", "not normalized"],
)  # fmt: skip
def test_c_contrastive_against_loops(switches, numbers):
    options = dict(zip(SWITCHES, switches, strict=True)) | numbers
    for seed in range(3):
        d, y = draw(seed)
        value = c_contrastive(Dense(d, y), **options)
        (gradient,) = torch.autograd.grad(value, d)
        expected, slope = loops_contrastive(d.detach().numpy(), y.tolist(), **options)
        assert value.item() == pytest.approx(expected)
        np.testing.assert_allclose(gradient.numpy(), slope, atol=1e-12)


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("pull", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.6, 0.4)])
def test_c_triplet_against_loops(hardest, pull, weights):
    """The true gradient, and the original layer's: the own agent once, each active negative once."""
    positive, negative = weights
    options = dict(margin=0.8, hardest=hardest, pull=pull, positive_weight=positive, negative_weight=negative)
    for seed in range(4):
        d, y = draw(seed)
        plain = d.detach().numpy()
        value, exact, caffe = 0.0, np.zeros((B, C)), np.zeros((B, C))
        for i in range(B):
            own = plain[i, y[i]]
            others = [j for j in range(C) if j != y[i]]
            if hardest:
                others = [min(others, key=lambda j: plain[i, j])]
            active = [j for j in others if 0.8 + own - plain[i, j] > 0]
            for j in active:
                value += negative * (0.8 + own - plain[i, j]) / B
                exact[i, j] -= negative / B
                exact[i, y[i]] += negative / B
                caffe[i, j] -= negative / B
            if active or pull:
                caffe[i, y[i]] += positive / B
            if pull:
                exact[i, y[i]] += positive / B
        found = c_triplet(Dense(d, y), **options, gradient="exact")
        own_mean = plain[np.arange(B), y.numpy()].mean()
        assert found.item() == pytest.approx(value + (positive * own_mean if pull else 0))
        np.testing.assert_allclose(torch.autograd.grad(found, d)[0].numpy(), exact, atol=1e-12)
        original = c_triplet(Dense(d, y), **options, gradient="caffe")
        assert original.item() == pytest.approx(value)
        np.testing.assert_allclose(torch.autograd.grad(original, d)[0].numpy(), caffe, atol=1e-12)


def test_caffes_hardest_with_pull_is_the_loss_paper_md_names():
    """Hardest + center is the gradient of d_iy + max(0, m + stopgrad(d_iy) - min d_ij)."""
    d, y = draw(1)
    own = d.gather(1, y[:, None])[:, 0]
    nearest = d.masked_fill(torch.nn.functional.one_hot(y, C).bool(), torch.inf).amin(1)
    named = (own + (0.8 + own.detach() - nearest).clamp(min=0)).mean()
    ours = c_triplet(Dense(d, y), gradient="caffe")
    torch.testing.assert_close(torch.autograd.grad(ours, d)[0], torch.autograd.grad(named, d)[0])


def test_distances_are_two_minus_two_cosines():
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(5, 3, generator=g, dtype=DOUBLE), torch.randn(4, 3, generator=g, dtype=DOUBLE)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(agent_distances(x, w), torch.cdist(unit(x), unit(w)).square())


def test_random_agents_push_nothing_at_first():
    """With random 512-d agents all distances are about 2.00 ± .09, so at margin 1 only the pull acts."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 512), torch.randint(10_000, (64,))
    loss = CContrastive(10_000, 512)
    d = agent_distances(x, loss.weight)
    assert d.mean().item() == pytest.approx(2, abs=0.01)
    assert d.std().item() == pytest.approx(0.09, abs=0.005)
    assert d.min() > 1
    torch.testing.assert_close(loss(x, y), d.gather(1, y[:, None]).mean())


def test_proposition_3_holds_for_plain_distances_only():
    rng = np.random.default_rng(0)
    broken = {1: 0, 2: 0}
    for _ in range(2000):
        f, w = rng.normal(size=(6, 3)), rng.normal(size=3)
        f, w = f / np.linalg.norm(f, axis=1, keepdims=True), w / np.linalg.norm(w)
        for power in broken:
            left = np.mean((np.linalg.norm(f[0] - f, axis=1) ** power - np.linalg.norm(f[0] - w) ** power) ** 2)
            right = np.mean(np.linalg.norm(f - w, axis=1) ** (2 * power))
            broken[power] += left > right + 1e-12
    assert broken[1] == 0
    assert broken[2] > 0


def test_adaptive_margin_follows_the_mean_distance():
    torch.manual_seed(0)
    loss, x, y = CContrastive(5, 3, margin=0.5, adaptive_margin=True), torch.randn(8, 3), torch.randint(5, (8,))
    mean, expected = agent_distances(x, loss.weight).gather(1, y[:, None]).mean().item(), 0.0
    for _ in range(5):
        d = agent_distances(x, loss.weight)
        torch.testing.assert_close(loss(x, y), c_contrastive(Dense(d, y), margin=0.5 + expected))
        expected = min(1.2, 0.99 * expected + 0.01 * mean)
        assert loss.mean_distance.item() == pytest.approx(expected, rel=1e-5)
    loss.eval()
    loss(x, y)
    assert loss.mean_distance.item() == pytest.approx(expected, rel=1e-5)


def test_center_is_wens():
    """½‖x - c‖²/B for the features; Σ(c - x)/(1 + count) for the centers."""
    torch.manual_seed(0)
    loss = Center(4, 3, weight=0.5)
    torch.nn.init.normal_(loss.centers)
    x, y = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 0, 0, 2, 2])
    value = loss(x, y)
    value.backward()
    c = loss.centers.detach()
    assert value.item() == pytest.approx(
        0.5 * sum((x[i] - c[y[i]]).square().sum().item() for i in range(5)) / 10, rel=1e-5
    )
    for j in range(4):
        members = [i for i in range(5) if y[i] == j]
        move = sum(((c[j] - x[i].detach()) for i in members), torch.zeros(3)) / (1 + len(members))
        torch.testing.assert_close(loss.centers.grad[j], move)
    torch.testing.assert_close(x.grad, 0.5 * (x.detach() - c[y]) / 5)


def test_joint_is_the_sum_with_separate_agents():
    torch.manual_seed(0)
    loss, x, y = Joint(6, 4), torch.randn(5, 4), torch.randint(6, (5,))
    softmax, agents = loss.terms
    torch.testing.assert_close(loss(x, y), softmax(x, y) + 0.01 * agents(x, y))
    assert softmax.weight is not agents.weight
    assert softmax.scale.item() == 4
    mixed = Joint(6, 4, terms=[{"name": "CTriplet", "weight": 2, "margin": 0.5}])
    torch.testing.assert_close(mixed(x, y), 2 * mixed.terms[0](x, y))


@pytest.mark.parametrize("make", [
    lambda: CContrastive(5, 4, hardest=True), lambda: CTriplet(5, 4, gradient="true"), lambda: CTriplet(5, 4, cap=1),
    lambda: CContrastive(1, 4), lambda: Joint(5, 4, terms=[{"name": "CTriplet"}]), lambda: Center(0, 4),
])  # fmt: skip
def test_mistakes_are_met_when_the_loss_is_made(make):
    with pytest.raises(ConfigError):
        make()
