import math

import pytest
import torch

from normface import ops, theory
from normface.errors import ConfigError
from normface.losses import LOSSES
from normface.losses.softmax import CosineSoftmax


def test_auto_scale_is_proposition_2():
    loss = CosineSoftmax(1000, 8)
    assert loss.scale.item() == pytest.approx(theory.scale_for_probability(1000, 0.99))
    assert loss.scale.requires_grad


def test_class_weights_start_as_unit_vectors():
    weight = CosineSoftmax(100, 16).weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(100))


def test_value_is_the_ops():
    torch.manual_seed(0)
    loss, x, y = CosineSoftmax(10, 4, scale=20.0), torch.randn(3, 4), torch.tensor([0, 9, 4])
    torch.testing.assert_close(loss(x, y), ops.cosine_cross_entropy(x, loss.weight, y, scale=20.0))


def test_initial_loss_of_many_classes_is_the_papers():
    # n = 10572: 9.26 at s = 1, 9.37 at 10, 10.3 at 30 (PAPER.md, derived for 512 dimensions)
    torch.manual_seed(0)
    x, y = torch.randn(512, 512), torch.randint(10572, (512,))
    for scale, expected in ((1.0, 9.26), (10.0, 9.37), (30.0, 10.3)):
        with torch.no_grad():
            assert float(CosineSoftmax(10572, 512, scale=scale)(x, y)) == pytest.approx(expected, abs=0.2)


def test_scale_learns_only_when_asked():
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    fixed = CosineSoftmax(5, 4, scale=10.0, learn_scale=False)
    fixed(x, y).backward()
    assert fixed.scale.grad is None
    learned = CosineSoftmax(5, 4, scale=10.0)
    learned(x, y).backward()
    assert learned.scale.grad.abs() > 0


def test_scale_is_clamped_and_can_grow_back():
    loss = CosineSoftmax(5, 4, scale=10.0)
    with torch.no_grad():
        loss.scale.fill_(-3.0)
    x = loss.weight.detach()[:3] + 0.01
    value = loss(x, torch.tensor([0, 1, 2]))
    assert value.item() == pytest.approx(math.log(5), abs=0.02)  # as at s = 0.01
    value.backward()
    assert loss.scale.grad.item() < 0  # the gradient asks for a larger scale


def test_registry_finds_it_and_suggests():
    assert "CosineSoftmax" in list(LOSSES)
    with pytest.raises(ConfigError, match="did you mean 'CosineSoftmax'"):
        LOSSES.build("CosinSoftmax", 5, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_classes=1), "num_classes"),
        (dict(dim=0), "dim"),
        (dict(scale=0.0), "positive scale"),
        (dict(scale="large"), "positive scale"),
        (dict(scale=math.nan), "positive scale"),
        (dict(normalize="everything"), "normalize among"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CosineSoftmax(**({"num_classes": 5, "dim": 4} | arguments))
