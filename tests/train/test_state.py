"""What the optimizer is told for each parameter."""

import pytest
import torch

from normface.train.checkpoint import Checkpoint
from normface.train.config import TrainConfig
from normface.train.state import State

SMALL = {"name": "smallresnet", "options": {"channels": [4, 8, 8, 8], "units": [1, 1, 1], "dim": 16}}
HARD = {"name": "CosineSoftmax", "options": {"weights": "hard"}}
OPTIM = {"lr": 0.1, "class_decay": 3e-4, "scale_decay": 2e-4, "weight_decay": 1e-4}


def options(state):
    """Parameter → (rate, decay)."""
    names = {id(parameter): name for name, parameter in state.parameters.items()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in state.optimizer.param_groups
        for parameter in group["params"]
    }


def make(loss):
    return State(TrainConfig.model_validate({"model": SMALL, "loss": loss, "optim": OPTIM}), 10)


def test_soft_weights_are_trained_as_configured():
    state = make({"name": "CosineSoftmax"})
    found = options(state)
    assert found.keys() == state.parameters.keys()
    assert found["loss.weight"] == (0.1, 3e-4)
    assert found["loss.scale"] == (0.1, 2e-4)
    assert {decay for name, (_, decay) in found.items() if name.startswith("model.")} == {0.0, 1e-4}


def test_hard_weights_have_100_times_the_rate_and_no_decay():
    state = make(HARD)
    assert options(state)["loss.weight"] == pytest.approx((10.0, 0.0))
    state.set_rate(0.02)
    found = options(state)
    assert found.pop("loss.weight") == pytest.approx((2.0, 0.0))
    assert {rate for rate, _ in found.values()} == {0.02}


def test_hard_weights_within_a_joint_loss():
    terms = [{"weight": 1.0, "weights": "hard", "name": "CosineSoftmax"}, {"name": "CContrastive", "weight": 0.01}]
    found = options(make({"name": "Joint", "options": {"terms": terms}}))
    assert found["loss.terms.0.weight"] == pytest.approx((10.0, 0.0))
    assert found["loss.terms.1.weight"] == (0.1, 3e-4)


@pytest.mark.parametrize("margin", ["SphereFace", "CurricularFace", "AdaFace"])
def test_what_a_margin_remembers_is_in_the_checkpoint(margin, tmp_path):
    normalize = "weights" if margin == "SphereFace" else "both"
    loss = {"name": "CosineSoftmax", "options": {"margin": margin, "normalize": normalize}}
    state, other = make(loss), make(loss)
    x, y = 30 * torch.randn(8, 16), torch.arange(8)
    before = {name: t.clone() for name, t in state.loss.named_buffers()}
    state.loss(x, y)
    state.save(tmp_path, 1, {})
    other.load(Checkpoint.read(tmp_path))
    after = dict(other.loss.named_buffers())
    assert after
    for name, buffer in state.loss.named_buffers():
        assert torch.equal(after[name], buffer)
        assert not torch.equal(before[name], buffer)
