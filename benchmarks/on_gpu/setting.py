"""What is measured, how large, and how: time and memory of a call on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

WARM, ROUNDS = 3, 10
SLOW = 500.0  # milliseconds of a call from which fewer rounds are measured
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """Where to measure, and whether toy sizes.

    Attributes:
        arcface: folder of arcface_torch, to measure it too.
    """

    device: str = "cuda"
    tiny: bool = False
    arcface: str | None = None

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def pick(self, full: T, tiny: T) -> T:
        """Return the size to measure with."""
        return tiny if self.tiny else full

    def half(self, enabled: bool = True) -> AbstractContextManager[Any]:
        """Autocast to bfloat16, as training has it."""
        return torch.autocast(self.device, torch.bfloat16, enabled=enabled)


def milliseconds(setting: Setting, work: Callable[[], object]) -> float:
    """Median time of a call, after some that warm up: by events on a GPU, which no work of the host delays."""

    def once() -> float:
        if not setting.cuda:
            began = time.perf_counter()
            work()
            return 1000 * (time.perf_counter() - began)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop))

    first = min(once() for _ in range(setting.pick(WARM, 1)))
    rounds = setting.pick(ROUNDS if first < SLOW else 2, 1)
    return float(f"{statistics.median(once() for _ in range(rounds)):.4g}")


def extra_mib(setting: Setting, work: Callable[[], object], gradients: int) -> float | None:
    """Peak memory of a call beyond what is there before and `gradients` bytes.

    None on a CPU, and for a CUDA graph, which holds its memory all the time.
    """
    if not setting.cuda:
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    extra = (torch.cuda.max_memory_allocated() - before - gradients) / 2**20
    return None if extra < 0 else round(extra, 1)
