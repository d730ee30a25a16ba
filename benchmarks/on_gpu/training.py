"""Whole steps of training IResNet-50 with ArcFace on images that lie on the device, beside arcface_torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness.parts import Measurements
from benchmarks.harness.sheet import LeftOut
from benchmarks.peers import arcface_torch
from normface.losses import softmax
from normface.train import TrainConfig
from normface.train.augment import draw
from normface.train.loop import learn
from normface.train.state import State

from .setting import ROUNDS, WARM, Setting


def steps(setting: Setting, batch: int, classes: int) -> Measurements:
    """Images/s, milliseconds and peak memory of a step; of ours compiled or not, and of the network alone."""
    batch, classes = setting.pick((batch, classes), (4, 40))
    name = setting.pick("iresnet50", "smallresnet")
    place = f"training/{name}, batch {batch}, {classes} classes"
    yield f"{place}/ours", partial(ours, setting, name, batch, classes)
    yield f"{place}/arcface_torch", partial(theirs, setting, batch, classes)
    yield f"{place}/ours, not compiled", partial(ours, setting, name, batch, classes, how=False)
    yield f"{place}/network alone", partial(ours, setting, name, batch, classes, head=False)
    yield f"{place}/ours, reduce-overhead", partial(ours, setting, name, batch, classes, how="reduce-overhead")


def ours(
    setting: Setting, name: str, batch: int, classes: int, *, how: bool | str = "auto", head: bool = True
) -> dict[str, Any]:
    """`train.loop.learn` and the optimizer's step, with the look at the loss that the loop takes."""
    if how == "reduce-overhead" and not setting.cuda:
        raise LeftOut("CUDA graphs need a GPU")
    # Drawn on the device: a million classes take seconds on the host.
    drawn = lambda count, dim, *_, **__: nn.Parameter(torch.randn(count, dim, device=setting.device))  # noqa: E731
    vars(softmax)["class_weights"] = drawn
    loss = {"name": "CosineSoftmax", "options": {"scale": 64.0, "learn_scale": False, "margin": "ArcFace"}}
    config = {"model": {"name": name}, "loss": loss, "compile": how, "optim": {"batch": batch}}
    state = State(TrainConfig.model_validate(config), classes)
    state.set_rate(0.01)
    if not head:
        state.loss = _Least()
    spec, random = state.model.spec, np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (batch, spec.height, spec.width, 3), np.uint8))
    numbers, rows = torch.from_numpy(draw(batch, random)), torch.arange(batch)
    data = tuple(t.to(state.device) for t in (images, torch.randint(classes, (batch,)), numbers, rows))

    def step() -> None:
        value, _ = learn(state, data, None, 0)
        state.step(0.0)
        value.item()

    return _speed(setting, step, batch) | {"compiled": state.compiled, "precision": "bf16" if state.half else "fp32"}


class _Least(nn.Module):
    """A loss that costs nothing."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] → scalar."""
        return features.square().mean()


def theirs(setting: Setting, batch: int, classes: int) -> dict[str, Any]:
    """arcface_torch's step; see peers/arcface_torch.py."""
    network = setting.pick("r50", "r18")
    step = arcface_torch.trainer(classes, network=network, device=setting.device, folder=setting.arcface)
    images = torch.rand(batch, 3, 112, 112, device=setting.device) * 2 - 1
    labels = torch.randint(classes, (batch,), device=setting.device)
    return _speed(setting, lambda: step(images, labels), batch)


def _speed(setting: Setting, step: Callable[[], object], batch: int) -> dict[str, Any]:
    times = []
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(setting.pick(WARM + ROUNDS, 2)):
        began = time.perf_counter()
        step()
        if setting.cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    middle = statistics.median(times[setting.pick(WARM, 1) :])
    found: dict[str, Any] = {"images_per_second": round(batch / middle, 1), "ms": round(1000 * middle, 2)}
    found["first_step_seconds"] = round(times[0], 1)
    return found | ({"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if setting.cuda else {})
