"""Training steps of the small models at 112×96, bf16 against float32, beside what a bare matrix product reaches."""

import time
from collections.abc import Callable
from typing import Any

import torch

from normface import models
from normface.losses import CosineSoftmax

BATCH, CLASSES, STEPS = 64, 2858, 6
NAMES = ("smallresnet", "mobilefacenet")  # what CPUs train


def run() -> dict[str, Any]:
    """images/s of forward, loss, backward and update; the least time of STEPS counts."""
    figures: dict[str, Any] = {"batch": BATCH, "classes": CLASSES, "images_per_second": {}}
    for name in NAMES:
        for half in (True, False):
            figures["images_per_second"][f"{name} {'bf16' if half else 'fp32'}"] = round(BATCH / _step(name, half), 1)
    for kind in (torch.bfloat16, torch.float32):
        a = torch.randn(2048, 2048).to(kind)
        speed = 2 * 2048**3 / _least(lambda a=a: a @ a)  # type: ignore[misc]
        figures[f"matmul_gflops_{kind}"] = round(speed / 1e9)
    return figures


def _step(name: str, half: bool) -> float:
    layout = torch.channels_last if half else torch.contiguous_format
    model = models.build(name, width=96)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    loss = CosineSoftmax(CLASSES, model.dim)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.01, momentum=0.9)
    x = torch.randn(BATCH, 3, 112, 96).to(memory_format=layout)
    y = torch.randint(CLASSES, (BATCH,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = model(x)
        optimizer.zero_grad()
        loss(features.float(), y).backward()
        optimizer.step()

    return _least(step)


def _least(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
