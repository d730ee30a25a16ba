"""Training on a GPU: what is compiled, fused and loaded computes what plain code on the CPU does."""

import numpy as np
import pytest
import torch

from normface.data import open_reader
from normface.models import MODELS
from normface.train import TrainConfig, train
from normface.train.augment import augment, draw, prepare
from normface.train.config import DataConfig
from normface.train.loader import Batches
from normface.train.loop import learn
from normface.train.sgd import RowSGD
from normface.train.state import State

SMALL = {"name": "smallresnet", "options": {"channels": [16, 32, 64, 64], "units": [1, 1, 1], "dim": 32}}


def batch(device, count=16, classes=12):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 112, 96, 3), np.uint8)
    parts = images, rng.integers(classes, size=count), draw(count, rng), np.arange(count)
    return tuple(torch.from_numpy(part).to(device) for part in parts)


def losses(steps=4, **changes):
    state = State(TrainConfig.model_validate({"model": SMALL, **changes}), 12)
    state.set_rate(0.02)
    found = []
    for _ in range(steps):
        found.append(learn(state, batch(state.device), None, 0)[0].item())
        state.step(0.0)
    return state, found


def test_the_defaults_are_those_of_a_gpu():
    state, found = losses()
    assert state.compiled
    assert state.half == torch.cuda.is_bf16_supported(including_emulation=False)
    assert state.layout is torch.channels_last
    assert state.device.index == torch.cuda.current_device()
    assert torch.backends.cudnn.benchmark
    assert found[-1] < found[0]


@pytest.mark.parametrize("how", ["auto", "reduce-overhead"])
def test_compiled_steps_are_those_of_plain_ones(how):
    _, plain = losses(compile=False)
    _, found = losses(compile=how)
    assert found == pytest.approx(plain, rel=0.02)


def test_a_step_does_not_wait_for_the_host():
    state = State(TrainConfig.model_validate({"model": SMALL, "optim": {"clip": 5.0}}), 12)
    state.set_rate(0.02)
    data = batch(state.device)
    for _ in range(3):
        learn(state, data, None, 0)
        state.step(0.0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        learn(state, data, None, 0)
        state.step(0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_last_layers_are_in_float32():
    model = MODELS.build("iresnet18").cuda()
    seen = []
    model.head[2].register_forward_hook(lambda _, given, out: seen.extend((given[0].dtype, out.dtype)))
    with torch.autocast("cuda", torch.bfloat16):
        assert model(torch.randn(2, 3, 112, 112, device="cuda")).dtype is torch.float32
    assert seen == [torch.float32, torch.float32]


@pytest.mark.parametrize("sparse", [False, True])
def test_fused_sgd_is_plain_sgd(sparse):
    torch.manual_seed(0)
    start, found = torch.randn(6, 4), []
    for device, fused in (("cpu", False), ("cuda", True)):
        p = torch.nn.Parameter(start.clone().to(device))
        optimizer = RowSGD([p], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=fused)
        for turn in range(3):
            gradient = torch.full((6, 4), turn + 1.0, device=device)
            p.grad = gradient.to_sparse(1) if sparse else gradient
            optimizer.step()
        found.append(p.detach().cpu())
    torch.testing.assert_close(*found)


def test_images_are_varied_as_on_the_host():
    config = DataConfig(shift=4, rotate=10, zoom=0.1, light=0.2, colour=0.3, crop=0.5, low_resolution=0.5, occlude=0.5)
    spec = MODELS.build("smallresnet").spec
    found = []
    for device in ("cpu", "cuda"):
        images, _, numbers, _ = batch(device)
        found.append(prepare(augment(images, numbers, config), spec).cpu())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_batches_arrive_as_on_the_host(drawn):
    reader = open_reader(drawn / "train" / "faces-112.zip")
    batches = Batches(reader, MODELS.build("smallresnet").spec, DataConfig(mirror=False), batch=16, seed=0)
    device = torch.device("cuda", torch.cuda.current_device())
    for ours, theirs in zip(batches.run(0, 8, device), batches.run(0, 8, torch.device("cpu")), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.device == device
            torch.testing.assert_close(one.cpu(), other)


def test_a_run_from_end_to_end(drawn, tmp_path):
    config = TrainConfig.model_validate({"model": SMALL, "optim": {"batch": 16, "epochs": 2}})
    reader = open_reader(drawn / "train" / "faces-112.zip")
    assert train(config, reader, tmp_path / "run").finished
    assert train(config, reader, tmp_path / "run", resume=True).finished
