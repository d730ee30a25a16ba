"""The softmax head alone, forward and backward: by blocks, plain, compiled, torch's chunked one, and its peers.

Times are medians of interleaved runs; memory is the peak beyond features, weights and their gradients, sampled from the
resident size of a process of its own; errors are of the weights' gradient against float64.
"""

import ctypes
import gc
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from normface import ops
from normface.ops import reference

BATCH, DIM, SCALE, ROUNDS = 256, 512, 30.0, 11
CLASSES, MEMORY_CLASSES = (10_000, 30_000, 100_000), (10_000, 100_000, 500_000)
Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def blockwise(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return ops.cosine_cross_entropy(x, w, y, scale=SCALE, impl="blockwise")


def plain(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return ops.cosine_cross_entropy(x, w, y, scale=SCALE, impl="reference")


def compiled(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return _compiled(x, w, y)


def chunked(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return functional.linear_cross_entropy(SCALE * ops.l2_normalize(x), ops.l2_normalize(w), y)


def pytorch_metric_learning(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    from pytorch_metric_learning.losses import NormalizedSoftmaxLoss

    loss = NormalizedSoftmaxLoss(2, DIM, temperature=1 / SCALE)
    del loss.W
    loss.W = w.T  # [D, C], as it keeps them
    return loss(x, y)  # type: ignore[no-any-return]


def _bare(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    logits = functional.linear(functional.normalize(x), functional.normalize(w))
    return functional.cross_entropy(SCALE * logits, y)


_compiled = torch.compile(_bare)


def bf16(head: Head) -> Head:
    def half(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return head(x, w, y)

    return half


HEADS: dict[str, Head] = {
    "by blocks": blockwise, "plain": plain, "compiled": compiled, "chunked (torch)": chunked,
    "pytorch-metric-learning": pytorch_metric_learning,
    "by blocks, bf16": bf16(blockwise), "plain, bf16": bf16(plain),
}  # fmt: skip


def run() -> dict[str, Any]:
    """Seconds, memory and errors by number of classes and method."""
    figures: dict[str, Any] = {
        "batch": BATCH, "dim": DIM, "scale": SCALE, "rounds": ROUNDS, "threads": torch.get_num_threads(),
        "seconds": {str(classes): _times(classes) for classes in CLASSES},
        "gradient_error": _errors(10_000),
    }  # fmt: skip
    figures["extra_memory_mb"] = {
        str(classes): {name: _memory(name, classes) for name in HEADS} for classes in MEMORY_CLASSES
    }
    return figures


def draw(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, DIM, generator=g).requires_grad_() for n in (BATCH, classes))
    return x, w, torch.randint(classes, (BATCH,), generator=g)


def step(head: Head, x: Tensor, w: Tensor, y: Tensor) -> None:
    x.grad = w.grad = None
    head(x, w, y).backward()  # type: ignore[no-untyped-call]


def _times(classes: int) -> dict[str, float]:
    x, w, y = draw(classes)
    work: dict[str, Callable[[], object]] = {name: lambda h=head: step(h, x, w, y) for name, head in HEADS.items()}  # type: ignore[misc]
    for kind in (torch.float32, torch.bfloat16):
        a, b = x.detach().to(kind), w.detach().to(kind)
        work[f"three products, {kind}"] = lambda a=a, b=b: [a @ b.T for _ in range(3)]  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS + 1):
        for name, once in work.items():
            began = time.perf_counter()
            once()
            taken[name].append(time.perf_counter() - began)
    return {name: round(statistics.median(times[1:]), 4) for name, times in taken.items()}


def _errors(classes: int) -> dict[str, float]:
    """Largest error of the weights' gradient, as a share of its largest number."""
    x, w, y = draw(classes)
    x64, w64 = (t.detach().double().requires_grad_() for t in (x, w))
    step(lambda *a: reference.cosine_cross_entropy(
        *a, scale=SCALE, margin=None, normalize="both", weights="soft", subcenters=1, exclude_above=None
    ), x64, w64, y)  # fmt: skip
    assert w64.grad is not None
    errors = {}
    for name, head in HEADS.items():
        step(head, x, w, y)
        assert w.grad is not None
        errors[name] = float((w.grad - w64.grad).abs().max() / w64.grad.abs().max())
    return errors


def _memory(name: str, classes: int) -> float | None:
    """Peak megabytes beyond features, weights and gradients; None where the process died of it."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        try:
            return round(pool.apply_async(_peak, (name, classes)).get(timeout=300), 1)
        except multiprocessing.TimeoutError:
            return None


def _peak(name: str, classes: int) -> float:
    data = draw(classes)
    step(HEADS[name], *data)  # libraries load and compile now
    data[0].grad = data[1].grad = None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            peak[0] = max(peak[0], _resident())

    watching = threading.Thread(target=watch)
    watching.start()
    for _ in range(3):
        step(HEADS[name], *data)
    done.set()
    watching.join()
    return (peak[0] - before) / 1e6 - 4 * (classes + BATCH) * DIM / 1e6


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
