"""Training IResNet-18 beside arcface_torch's loop, and what our loop costs over the bare computation."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.peers import arcface_torch
from normface.data import open_reader
from normface.data.folder import write_folder
from normface.data.images import Record
from normface.train import TrainConfig, train
from normface.train.augment import draw, prepare
from normface.train.loop import learn
from normface.train.state import State

BATCH, CLASSES, ROUNDS, PEOPLE, STEPS = 64, 10_000, 4, 64, 5


def run() -> dict[str, Any]:
    """Seconds a step, interleaved; the median of ROUNDS counts. Overhead: the whole loop, from JPEGs to logs."""
    return {"batch": BATCH, "rounds": ROUNDS, **overhead(), **beside_peer()}


def configure(**changes: Any) -> TrainConfig:
    """IResNet-18 as the recipes train it, with ArcFace as the peer has it."""
    loss = {"name": "CosineSoftmax", "options": {"scale": 64.0, "learn_scale": False, "margin": "ArcFace"}}
    return TrainConfig.model_validate({"model": {"name": "iresnet18"}, "loss": loss, "save_every": 10**6, **changes})


def beside_peer() -> dict[str, Any]:
    """Steps on the same random images and labels: from uint8 for us, from float32 for the peer."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (BATCH, 112, 112, 3), np.uint8))
    labels = torch.from_numpy(rng.integers(CLASSES, size=BATCH))
    batch = (images, labels, torch.from_numpy(draw(BATCH, rng)), torch.arange(BATCH))

    def ours(precision: str) -> Callable[[], object]:
        state = State(configure(precision=precision), CLASSES)
        state.set_rate(0.1)

        def step() -> None:
            learn(state, batch, None, 0)
            state.step(0.0)

        return step

    theirs = arcface_torch.trainer(CLASSES)
    floats = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    found = interleaved(
        {"arcface_torch fp32": lambda: theirs(floats, labels), "ours bf16": ours("bf16"), "ours fp32": ours("fp32")}
    )
    speed = {name: round(BATCH / seconds, 1) for name, seconds in found.items()}
    ratios = {name: round(speed[name] / speed["arcface_torch fp32"], 2) for name in ("ours bf16", "ours fp32")}
    return {"model": "iresnet18", "classes": CLASSES, "images_per_second": speed, "times_arcface_torch": ratios}


def interleaved(steps: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: median(each) for name, each in times.items()}


def overhead() -> dict[str, Any]:
    """`normface train` over forward, head and backward alone (no update, no data), in bf16, between two such.

    The least of each counts: other work on the machine only adds. Neither has a checkpoint or a look of the monitors.
    """
    config = configure(
        optim={"batch": BATCH, "epochs": STEPS + 1}, data={"shift": 3.0, "min_images": 1}, precision="bf16",
        loss={"name": "CosineSoftmax"},
    )  # fmt: skip
    state = State(config, PEOPLE)
    x = prepare(255 * torch.rand(BATCH, 3, 112, 112), state.model.spec).contiguous(memory_format=state.layout)
    labels = torch.arange(BATCH) % PEOPLE
    alone: list[float] = []

    def bare(times: int) -> None:
        for _ in range(times):
            began = time.perf_counter()
            state.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                features = state.net(x).float()
            state.loss(features, labels).backward()
            alone.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as folder:
        write_folder(photographs(), Path(folder) / "faces")
        reader = open_reader(Path(folder) / "faces")
        bare(STEPS)
        stamps: list[float] = []
        # One step an epoch: a batch is all images.
        train(config, reader, Path(folder) / "run", progress=lambda *_: stamps.append(time.perf_counter()))
        bare(STEPS)
    whole = np.diff(stamps)
    return {
        "overhead": round(float(whole.min()) / min(alone) - 1, 4),
        "bare_step_seconds": [round(min(alone), 3), round(median(alone), 3)],
        "whole_step_seconds": [round(float(whole.min()), 3), round(float(np.median(whole)), 3)],
    }


def photographs() -> list[Record]:
    """Smooth random pictures as JPEG: one each of PEOPLE people."""
    import cv2

    rng, found = np.random.default_rng(0), []
    for person in range(PEOPLE):
        small = rng.integers(0, 256, (14, 14, 3), np.uint8)
        _, jpeg = cv2.imencode(".jpg", cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC))
        found.append(Record(f"{person:03}/0.jpg", jpeg.tobytes(), f"{person:03}", None))
    return found
