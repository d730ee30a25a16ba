"""Training IResNet-18 beside arcface_torch's loop: the same images, labels and margin, steps in turn."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.harness.sheet import Sheet
from benchmarks.peers import arcface_torch
from normface.train import TrainConfig
from normface.train.augment import draw
from normface.train.loop import learn
from normface.train.state import State

QUICK = 50
CLASSES = 10_000


def configure(**changes: Any) -> TrainConfig:
    """IResNet-18 as the recipes train it, with ArcFace as the peer has it."""
    loss = {"name": "CosineSoftmax", "options": {"scale": 64.0, "learn_scale": False, "margin": "ArcFace"}}
    return TrainConfig.model_validate({"model": {"name": "iresnet18"}, "loss": loss, "save_every": 10**6, **changes})


def run(sheet: Sheet) -> None:
    """Images/s of a whole step on random images: from uint8 for us, from float32 for the peer.

    Ours is in bf16 where the processor has it, as `precision="auto"` is; the peer's half precision is for GPUs alone.
    """
    batch_size, rounds = sheet.pick(64, 16), sheet.pick(2, 1)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (batch_size, 112, 112, 3), np.uint8))
    labels = torch.from_numpy(rng.integers(CLASSES, size=batch_size))
    batch = (images, labels, torch.from_numpy(draw(batch_size, rng)), torch.arange(batch_size))

    state = State(configure(), CLASSES)
    state.set_rate(0.1)

    def ours() -> None:
        learn(state, batch, None, 0)
        state.step(0.0)

    steps: dict[str, Callable[[], object]] = {"ours": ours}
    floats = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    theirs = sheet.attempt("arcface_torch", arcface_torch.trainer, CLASSES)
    if theirs is not None:
        steps = {"arcface_torch": lambda: theirs(floats, labels), **steps}
    sheet.figures |= {
        "model": "iresnet18", "batch": batch_size, "classes": CLASSES, "rounds": rounds,
        "precision": {"ours": "bf16" if state.half else "fp32", "arcface_torch": "fp32"},
    }  # fmt: skip

    def speeds() -> dict[str, Any]:
        found = {name: batch_size / median(each) for name, each in in_turn(steps, rounds).items()}
        ratio = {"times_arcface_torch": round(found["ours"] / found["arcface_torch"], 2)} if len(found) > 1 else {}
        return {"images_per_second": {name: round(speed, 1) for name, speed in found.items()}, **ratio}

    sheet.measure("", speeds)


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
