"""What the optimizer is told for each parameter."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from normface import models
from normface.checkpoint import Checkpoint
from normface.errors import ConfigError
from normface.models.caffe import CaffeModel
from normface.train import RowSGD
from normface.train import state as state_module
from normface.train.augment import draw
from normface.train.config import TrainConfig
from normface.train.loop import learn
from normface.train.state import State
from normface.types import InputSpec

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


class TestMultipliers:
    """A network that says how fast each of its parameters learns and decays, as Caffe's lr_mult and decay_mult."""

    def test_of_caffe_networks(self):
        found = options(State(TrainConfig.model_validate({"model": {"name": "lightcnn_a"}, "optim": OPTIM}), 4))
        for name, (rate, decay) in found.items():
            if name.startswith("model."):
                assert (rate, decay) == ((0.2, 0.0) if name.endswith("bias") else (0.1, 1e-4)), name

    def test_of_slopes(self):
        """PReLU's layers say nothing in the authors' files: rate and decay as they stand."""
        with torch.device("meta"):
            found = models.build("centerface").multipliers()
        assert found["body.1.weight"] == (1.0, 1.0)
        assert found["body.0.bias"] == found["head.bias"] == (2.0, 0.0)
        assert sum(rate == 2 for rate, _ in found.values()) == 6  # 5 plain convolutions and the matrix

    def test_steps_are_caffes(self, monkeypatch):
        """V ← μV + lr·lr_mult·(g + decay·decay_mult·w), w ← w - V (Caffe's SGDSolver), while the rate changes."""
        monkeypatch.setattr(state_module.models, "build", lambda *_, **__: Tiny())
        optim = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "convention": "caffe"}
        state = State(TrainConfig.model_validate({"optim": optim, "precision": "fp32"}), 3)
        multipliers = {"fc.weight": (1.0, 1.0), "fc.bias": (2.0, 0.0), "slope": (3.0, 0.5)}
        w = {name: p.detach().double().clone() for name, p in state.model.named_parameters()}
        v = {name: torch.zeros_like(p) for name, p in w.items()}
        generator, before = torch.Generator().manual_seed(0), None
        for rate in (0.1, 0.1, 0.01, 0.05):
            for name, p in state.parameters.items():
                p.grad = torch.randn(p.shape, generator=generator)
                key = name.removeprefix("model.")
                if key in w:
                    fast, heavy = multipliers[key]
                    v[key] = 0.9 * v[key] + rate * fast * (p.grad.double() + 0.02 * heavy * w[key])
                    w[key] -= v[key]
            state.set_rate(rate, before)
            state.step(0.0)
            before = rate
        for name, p in state.model.named_parameters():
            torch.testing.assert_close(p.detach().double(), w[name], rtol=1e-5, atol=1e-6)


class Tiny(CaffeModel):
    """A matrix, its bias, and one number with multipliers of its own."""

    def __init__(self):
        super().__init__(InputSpec(112, 96), 2)
        self.fc, self.slope = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

    def multipliers(self):
        return super().multipliers() | {"slope": (3.0, 0.5)}


@pytest.mark.slow
def test_compiled_computes_the_same(monkeypatch):
    """What torch.compile is given is the network itself; the rest of a run does not see it (its back end: `eager`)."""
    real = torch.compile
    monkeypatch.setenv("CXX", sys.executable)  # which is never called
    asked = []

    def compiled_by_nobody(net, options, dynamic):
        asked.append(options)
        return real(net, backend="eager")

    monkeypatch.setattr(torch, "compile", compiled_by_nobody)
    x, found = torch.randn(4, 3, 112, 96), []
    for compiled in (False, True):
        state = State(TrainConfig.model_validate({"model": SMALL, "compile": compiled, "precision": "fp32"}), 4)
        state.net(x).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in state.parameters.items() if p.grad is not None})
    assert asked == [{"layout_optimization": False}]  # or float32 is computed in the layout that kills the process
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_by_itself_nothing_is_compiled_on_a_cpu():
    assert TrainConfig().compile == "auto"
    state = State(TrainConfig.model_validate({"model": SMALL}), 4)
    assert state.compiled == (state.device.type == "cuda")


def test_cuda_graphs_need_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"one GPU.*compile=reduce-overhead, got 1 ranks on cpu.*set compile=auto"):
        State(TrainConfig.model_validate({"model": SMALL, "compile": "reduce-overhead"}), 4)


def test_the_loss_is_computed_under_autocast_too(monkeypatch):
    """So its products are in half precision, and what it must not round it keeps."""
    seen = []

    class Looking(torch.nn.Module):
        def forward(self, features, labels):
            seen.append((features.dtype, torch.is_autocast_enabled(features.device.type)))
            return features.square().mean()

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 112, 96, 3), np.uint8)
    batch = tuple(map(torch.from_numpy, (images, rng.integers(4, size=4), draw(4, rng), np.arange(4))))
    for precision in ("bf16", "fp32"):
        state = State(TrainConfig.model_validate({"model": SMALL, "precision": precision, "compile": False}), 4)
        state.loss = Looking()
        value, features = learn(state, tuple(part.to(state.device) for part in batch), None, 0)
        assert value.shape == ()
        assert features.shape == (4, state.model.dim)
        assert not value.requires_grad
    assert seen == [(torch.float32, True), (torch.float32, False)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_fused_step_is_the_plain_one(nesterov):
    """Of dense gradients, and of sparse ones beside them."""
    g = torch.Generator().manual_seed(0)
    found = []
    gradients = [torch.randn(2, 5, 3, generator=g) for _ in range(3)]
    for fused in (False, True):
        dense, sparse = (torch.nn.Parameter(torch.ones(5, 3)) for _ in range(2))
        optimizer = RowSGD([dense, sparse], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov, fused=fused)
        for one, other in gradients:
            dense.grad, sparse.grad = one.clone(), other.to_sparse(1)
            optimizer.step()
        found.append(torch.stack([dense.detach(), sparse.detach()]))
    torch.testing.assert_close(*found)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"a C\+\+ compiler.*no-such-compiler.*set compile=false"):
        State(TrainConfig.model_validate({"model": SMALL, "compile": True}), 4)


@pytest.mark.parametrize(
    ("channels", "last"), [([16, 32, 64, 64], True), ([8, 16, 16, 16], False), ([16, 20, 32, 32], False)]
)
def test_only_wide_networks_lie_channels_last_in_float32(channels, last):
    """And then they compute the same as in the plain layout."""
    model = {"name": "smallresnet", "options": {"channels": channels, "units": [1, 1, 1], "stem": 4, "dim": 16}}
    state = State(TrainConfig.model_validate({"model": model, "precision": "fp32"}), 10)
    assert (state.layout is torch.channels_last) == (last or state.device.type == "cuda")
    plain = models.build("smallresnet", **model["options"])
    plain.load_state_dict(state.model.state_dict())
    random = torch.Generator().manual_seed(0)
    x, direction = torch.randn(8, 3, 112, 96, generator=random), torch.randn(8, 16, generator=random)
    found = []
    for net, layout in ((state.model, state.layout), (plain, torch.contiguous_format)):
        features = net(x.to(next(net.parameters()).device).contiguous(memory_format=layout))
        (features * direction.to(features.device)).sum().backward()
        found.append([features.detach().cpu(), *(p.grad.cpu() for p in net.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())
