"""The loss with one threshold: against loops, and what it remembers."""

import math

import pytest
import torch

from normface import theory
from normface.errors import ConfigError
from normface.losses import Joint, UnifiedThreshold, progress

CLASSES, DIM = 6, 5


def make(**options):
    torch.manual_seed(0)
    loss = UnifiedThreshold(CLASSES, DIM, scale=8.0, **options).double()
    torch.nn.init.normal_(loss.memory)
    return loss, torch.randn(4, DIM, dtype=torch.float64, requires_grad=True), torch.tensor([0, 3, 3, 5])


def by_loops(loss, x, y, margin=0.1):
    """Li et al. 2023, eq. 11, with margin on genuine pairs."""
    total, b = 0.0, loss.bias.item()
    for row, label in zip(x.tolist(), y.tolist(), strict=True):
        for j, other in enumerate(loss.memory.tolist()):
            length = math.hypot(*row) * math.hypot(*other)
            cosine = sum(u * v for u, v in zip(row, other, strict=True)) / length if length else 0.0
            if j != label:
                total += math.log1p(math.exp(8 * cosine - b))
            elif length:
                total += math.log1p(math.exp(b - 8 * (cosine - margin)))
    return total / len(y)


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
class TestValue:
    def test_against_loops(self, impl):
        loss, x, y = make(impl=impl)
        assert loss.eval()(x, y).item() == pytest.approx(by_loops(loss, x, y), rel=1e-10)

    def test_a_class_not_seen_yet_does_not_pull(self, impl):
        loss, x, y = make(impl=impl)
        loss.memory[[3, 4]] = 0
        assert loss.eval()(x, y).item() == pytest.approx(by_loops(loss, x, y), rel=1e-10)
        (gradient,) = torch.autograd.grad(loss(x[:1], torch.tensor([4])), x)
        away = torch.autograd.grad(loss(x[:1], torch.tensor([3])), x)[0]
        torch.testing.assert_close(gradient, away)  # only pushed, whichever of both it is

    def test_gradient_of_the_threshold(self, impl):
        loss, x, y = make(impl=impl)
        value = loss.eval()(x, y)
        (gradient,) = torch.autograd.grad(value, loss.bias)
        with torch.no_grad():
            loss.bias += 1e-6
            above = by_loops(loss, x, y)
            loss.bias -= 2e-6
            below = by_loops(loss, x, y)
        assert gradient.item() == pytest.approx((above - below) / 2e-6, rel=1e-5)


class TestMemory:
    def test_keeps_the_last_feature_of_each_class(self):
        loss, x, y = make()
        before = loss.memory.clone()
        loss(x, y)
        assert torch.equal(loss.memory, before)  # what the backward pass reads
        loss.remember()
        unit = torch.nn.functional.normalize(x.detach())
        torch.testing.assert_close(loss.memory[[0, 3, 5]], unit[[0, 2, 3]])
        assert torch.equal(loss.memory[[1, 2, 4]], before[[1, 2, 4]])

    def test_stays_in_evaluation(self):
        loss, x, y = make()
        before = loss.memory.clone()
        loss.eval()(x, y)
        assert torch.equal(loss.memory, before)

    def test_all_parts_of_a_batch_see_the_same(self):
        """And what the next step sees is as after the batch as a whole."""
        whole, x, y = make()
        parts, *_ = make()
        for loss in (whole, parts):
            progress(loss, 0.5)
        split = (parts(x[:2], y[:2]) + parts(x[2:], y[2:])) / 2
        assert split.item() == pytest.approx(whole(x, y).item(), rel=1e-12)
        assert torch.equal(parts.state_dict()["memory"], whole.state_dict()["memory"])
        for loss in (whole, parts):
            progress(loss, 1.0)
        assert parts(x, y).item() == whole(x, y).item() != split.item()

    def test_without_progress_each_batch_is_a_step(self):
        loss, x, y = make()
        first = loss(x, y).item()
        assert loss(x, y).item() != first


def test_starts_where_random_features_would():
    """The authors begin with the first batch's mean of log Σ exp(s·cos)."""
    torch.manual_seed(0)
    loss = UnifiedThreshold(1000, 128)
    x, w = (torch.nn.functional.normalize(torch.randn(n, 128)) for n in (500, 1000))
    assert loss.bias.item() == pytest.approx((64 * x @ w.T).logsumexp(1).mean().item(), abs=0.3)
    assert loss.bias.item() == pytest.approx(theory.initial_loss(1000, 64, 128))
    assert loss.threshold == pytest.approx(loss.bias.item() / 64)


def test_learns_a_threshold_between_genuine_and_impostor_cosines():
    torch.manual_seed(0)
    centers = torch.nn.functional.normalize(torch.randn(20, 16))
    terms = [{"name": "CosineSoftmax", "weight": 1.0}, {"name": "UnifiedThreshold", "weight": 1.0, "scale": 32.0}]
    loss, model = Joint(20, 16, terms=terms), torch.nn.Linear(16, 16)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], 0.02)
    for _ in range(300):
        y = torch.randint(20, (64,))
        value = loss(model(centers[y] + 0.1 * torch.randn(64, 16)), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    y = torch.randint(20, (400,))
    with torch.no_grad():
        x = torch.nn.functional.normalize(model(centers[y] + 0.1 * torch.randn(400, 16)))
    cosines, same = x @ x.T, y[:, None] == y
    accepted = cosines > loss.terms[1].threshold
    genuine = same & ~torch.eye(400, dtype=torch.bool)
    assert accepted[genuine].float().mean() > 0.9
    assert accepted[~same].float().mean() < 0.02


def test_mistakes():
    for options in ({"scale": 0.0}, {"margin": -0.1}):
        with pytest.raises(ConfigError, match="a positive scale and margin ≥ 0"):
            UnifiedThreshold(5, 4, **options)
    with pytest.raises(ConfigError, match="num_classes ≥ 2"):
        UnifiedThreshold(1, 4)
