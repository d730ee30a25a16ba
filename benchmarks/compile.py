"""Where torch.compile wins: training steps of a network with and without it, bf16 where the processor has it."""

import time
from typing import Any

import numpy as np
import torch

from benchmarks.throughput import interleaved
from normface.train import TrainConfig
from normface.train.augment import draw
from normface.train.loop import learn
from normface.train.state import State

BATCH, CLASSES = 32, 2_858
NAMES = ("smallresnet", "mobilefacenet", "iresnet18")


def run() -> dict[str, Any]:
    """Images/s of a whole step on random crops, interleaved; and the seconds of the first one, which compiles."""
    figures: dict[str, Any] = {"batch": BATCH, "classes": CLASSES}
    rng = np.random.default_rng(0)
    for name in NAMES:
        steps, first = {}, 0.0
        for compiled in (False, True):
            config = TrainConfig.model_validate({"model": {"name": name}, "compile": compiled})
            state = State(config, CLASSES)
            state.set_rate(0.01)
            spec = state.model.spec
            images = torch.from_numpy(rng.integers(0, 256, (BATCH, spec.height, spec.width, 3), np.uint8))
            labels = torch.from_numpy(rng.integers(CLASSES, size=BATCH))
            batch = (images, labels, torch.from_numpy(draw(BATCH, rng)), torch.arange(BATCH))

            def step(state: State = state, batch: tuple[Any, ...] = batch) -> None:
                learn(state, batch, None, 0)
                state.step(0.0)

            began = time.perf_counter()
            step()
            first = time.perf_counter() - began
            steps["compiled" if compiled else "plain"] = step
        speed = {kind: round(BATCH / seconds, 1) for kind, seconds in interleaved(steps).items()}
        ratio = round(speed["compiled"] / speed["plain"], 2)
        figures[name] = {**speed, "compiled_over_plain": ratio, "first_step_seconds": round(first, 1)}
    return figures
