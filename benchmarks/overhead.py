"""What the training loop costs over forward, head and backward alone: data, update, logs."""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.harness.sheet import Sheet
from benchmarks.throughput import configure
from normface.data import open_reader
from normface.data.folder import write_folder
from normface.data.images import Record
from normface.train import train
from normface.train.augment import prepare
from normface.train.state import State

QUICK = 50
BATCH, STEPS = 64, 3


def run(sheet: Sheet) -> None:
    """`normface train` over forward, head and backward alone (no update, no data), between two such.

    In bf16 where the processor has it. Quick: smallresnet instead of IResNet-18.

    The least of each counts: other work on the machine only adds. Neither has a checkpoint or a look of the monitors.
    """
    sheet.measure("", _measure, sheet.pick("iresnet18", "smallresnet"), sheet.has_bf16)


def _measure(name: str, half: bool) -> dict[str, Any]:
    config = configure(
        model={"name": name}, optim={"batch": BATCH, "epochs": STEPS + 1}, data={"shift": 3.0, "min_images": 1},
        precision="bf16" if half else "fp32", loss={"name": "CosineSoftmax"},
    )  # fmt: skip
    state = State(config, BATCH)
    spec = state.model.spec
    x = prepare(255 * torch.rand(BATCH, 3, spec.height, spec.width), spec).contiguous(memory_format=state.layout)
    labels = torch.arange(BATCH)
    alone: list[float] = []

    def bare(times: int) -> None:
        for _ in range(times):
            began = time.perf_counter()
            state.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
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
        "model": name,
        "batch": BATCH,
        "steps": STEPS,
        "overhead": round(float(whole.min()) / min(alone) - 1, 4),
        "bare_step_seconds": [round(min(alone), 3), round(median(alone), 3)],
        "whole_step_seconds": [round(float(whole.min()), 3), round(float(np.median(whole)), 3)],
    }


def photographs() -> list[Record]:
    """Smooth random pictures as JPEG: one each of as many people as a batch has."""
    import cv2

    rng, found = np.random.default_rng(0), []
    for person in range(BATCH):
        small = rng.integers(0, 256, (14, 14, 3), np.uint8)
        _, jpeg = cv2.imencode(".jpg", cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC))
        found.append(Record(f"{person:03}/0.jpg", jpeg.tobytes(), f"{person:03}", None))
    return found
