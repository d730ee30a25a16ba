"""Training IResNet-18 beside arcface_torch's loop: the same images, labels and margin, steps in turn."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.peers import arcface_torch
from normface.train import TrainConfig
from normface.train.augment import draw
from normface.train.loop import learn
from normface.train.state import State

BATCH, CLASSES, ROUNDS = 64, 10_000, 2


def configure(**changes: Any) -> TrainConfig:
    """IResNet-18 as the recipes train it, with ArcFace as the peer has it."""
    loss = {"name": "CosineSoftmax", "options": {"scale": 64.0, "learn_scale": False, "margin": "ArcFace"}}
    return TrainConfig.model_validate({"model": {"name": "iresnet18"}, "loss": loss, "save_every": 10**6, **changes})


def run() -> dict[str, Any]:
    """Images/s of a whole step on random images: from uint8 for us, from float32 for the peer.

    Ours is in bf16 where the processor has it, as `precision="auto"` is; the peer's half precision is for GPUs alone.
    """
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (BATCH, 112, 112, 3), np.uint8))
    labels = torch.from_numpy(rng.integers(CLASSES, size=BATCH))
    batch = (images, labels, torch.from_numpy(draw(BATCH, rng)), torch.arange(BATCH))

    state = State(configure(), CLASSES)
    state.set_rate(0.1)

    def ours() -> None:
        learn(state, batch, None, 0)
        state.step(0.0)

    theirs = arcface_torch.trainer(CLASSES)
    floats = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    found = interleaved({"arcface_torch": lambda: theirs(floats, labels), "ours": ours})
    return {
        "model": "iresnet18", "batch": BATCH, "classes": CLASSES, "rounds": ROUNDS,
        "precision": {"ours": "bf16" if state.half else "fp32", "arcface_torch": "fp32"},
        "images_per_second": {name: round(BATCH / seconds, 1) for name, seconds in found.items()},
        "times_arcface_torch": round(found["arcface_torch"] / found["ours"], 2),
    }  # fmt: skip


def interleaved(steps: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, after one to warm up."""
    return {name: median(each) for name, each in in_turn(steps, ROUNDS).items()}


def in_turn(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - began)
    return times
