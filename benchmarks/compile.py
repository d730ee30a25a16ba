"""Where torch.compile wins: training steps of a network with and without it, bf16 where the processor has it."""

import os
import shutil
import tempfile
import time
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.harness.sheet import LeftOut, Sheet
from benchmarks.throughput import in_turn
from normface.train import TrainConfig
from normface.train.augment import draw
from normface.train.loop import learn
from normface.train.state import State

QUICK = 75
BATCH, CLASSES = 32, 2_858
NAMES = ("smallresnet", "mobilefacenet", "iresnet18")


def run(sheet: Sheet) -> None:
    """Images/s of a whole step on random crops, with and without in turn; and what compiling costs.

    The range is that of the ratio over the rounds. The first step compiles, with nothing kept from before;
    `steps_to_pay_off` is how many win that time back, null unless compiled steps were faster in every round.
    """
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise LeftOut(
            "torch.compile needs a C++ compiler and there is no g++; install one, for example: apt install g++"
        )
    rounds = sheet.pick(7, 3)
    sheet.figures |= {"batch": BATCH, "classes": CLASSES, "rounds": rounds}
    with tempfile.TemporaryDirectory() as kept:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = kept
        for name in sheet.pick(NAMES, NAMES[:1]):
            sheet.measure(name, _compare, name, rounds)


def _compare(name: str, rounds: int) -> dict[str, Any]:
    steps, first = {}, {}
    rng = np.random.default_rng(0)
    for kind in ("plain", "compiled"):
        config = TrainConfig.model_validate({"model": {"name": name}, "compile": kind == "compiled"})
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
        first[kind], steps[kind] = time.perf_counter() - began, step
    times = in_turn(steps, rounds)
    plain, compiled = (median(times[kind]) for kind in ("plain", "compiled"))
    cost, gain = first["compiled"] - first["plain"], plain - compiled
    ratios = [one / other for one, other in zip(times["plain"], times["compiled"], strict=True)]
    return {
        "precision": "bf16" if state.half else "fp32",
        "images_per_second": {"plain": round(BATCH / plain, 1), "compiled": round(BATCH / compiled, 1)},
        "compiled_over_plain": round(plain / compiled, 2), "range": [round(f(ratios), 2) for f in (min, max)],
        "first_step_seconds": {kind: round(seconds, 1) for kind, seconds in first.items()},
        "steps_to_pay_off": round(cost / gain) if min(ratios) > 1 else None,
    }  # fmt: skip
