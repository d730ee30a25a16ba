"""Training steps of the small models at 112×96, bf16 against float32, beside what a bare matrix product reaches."""

import time
from collections.abc import Callable

import torch

from benchmarks.harness.sheet import Sheet
from normface.machine.speed import BATCH, CLASSES, training_step

QUICK = 40
NAMES = ("smallresnet", "mobilefacenet")  # what CPUs train


def run(sheet: Sheet) -> None:
    """images/s of forward, loss, backward and update; the least time of several steps counts."""
    steps = sheet.pick(6, 2)
    sheet.figures |= {"batch": BATCH, "classes": CLASSES, "steps": steps}

    def speed(name: str, half: bool) -> float:
        if half:
            sheet.need_bf16()
        return round(BATCH / least(training_step(name, half), steps), 1)

    def product(kind: torch.dtype) -> int:
        if kind is torch.bfloat16:
            sheet.need_bf16()
        a = torch.randn(2048, 2048).to(kind)
        return round(2 * 2048**3 / least(lambda: a @ a, steps) / 1e9)

    for kind in (torch.bfloat16, torch.float32):
        sheet.measure(f"matmul_gflops_{kind}", product, kind)
    for name in NAMES:
        for half in (False, True):
            sheet.measure(f"images_per_second/{name} {'bf16' if half else 'fp32'}", speed, name, half)


def least(work: Callable[[], object], steps: int) -> float:
    """Seconds of the fastest call, after one to warm up."""
    work()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
