"""The softmax head alone, forward and backward: by blocks, plain, compiled, torch's chunked one, and its peers.

Times are medians of runs on all cores, interleaved in a random order; memory is the peak beyond features, weights and
their gradients, sampled from the resident size of a process of its own; errors are of the weights' gradient against
float64. Then one step on two processes that share the classes beside one process with half, and sampled classes.
"""

import ctypes
import gc
import hashlib
import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from benchmarks.harness.sheet import LeftOut, Sheet, peer
from normface import dist, ops
from normface.figures.drawing import panels, title
from normface.losses import CosineSoftmax
from normface.ops import reference
from normface.report.plots import COLORS, save
from normface.train import RowSGD

QUICK = 60
BATCH, DIM, SCALE = 256, 512, 30.0
ROUNDS = {10_000: 21, 100_000: 21, 1_000_000: 10}  # classes → timed rounds
MILLION = ("by blocks", "compiled", "by blocks, bf16")  # timed at a million classes: the others take minutes a round
MEMORY_CLASSES = (10_000, 100_000, 500_000, 1_000_000)
ROOM = 20e9  # bytes a method may take where memory is measured
SAMPLED_DIM, SAMPLED = 128, (100_000, 1_000_000, 10_000_000)  # one share of a thousand
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
    losses: Any = peer("pytorch_metric_learning.losses", "pip install pytorch-metric-learning")
    loss = losses.NormalizedSoftmaxLoss(2, DIM, temperature=1 / SCALE)
    del loss.W
    loss.W = w.T  # [D, C], as it keeps them
    found: Tensor = loss(x, y)
    return found


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
HELD = {"plain": 4, "pytorch-metric-learning": 6, "compiled": 3}  # about so many arrays [B, C] or more: see ROOM


def run(sheet: Sheet) -> None:
    """Seconds, memory and errors by number of classes and method.

    Cut off, the next call with the same code goes on. Quick: 10,000 classes, and the memory of two at 100,000.
    """
    code = b"".join(path.read_bytes() for path in [Path(__file__), *sorted(Path(ops.__file__).parent.glob("*.py"))])
    sheet.resume(hashlib.sha256(code).hexdigest())
    names = _able(sheet)
    rounds = sheet.pick(ROUNDS, {10_000: 5})
    sheet.figures |= {
        "batch": BATCH, "dim": DIM, "scale": SCALE, "sampled_dim": SAMPLED_DIM,
        "rounds": {str(c): n for c, n in rounds.items()}, "threads": torch.get_num_threads(),
    }  # fmt: skip
    for classes, times in rounds.items():
        sheet.measure(f"seconds/{classes}", _times, classes, names, times, sheet.has_bf16)
    sheet.measure("gradient_error", _errors, 10_000, names)
    if not sheet.quick:
        sheet.measure("two_ranks", _two_ranks)
    for classes in sheet.pick(SAMPLED, SAMPLED[:1]):
        sheet.measure(f"sampled/{classes}", _apart, _sampled, classes)
    for classes in sheet.pick(MEMORY_CLASSES, (100_000,)):
        for name in sheet.pick(names, ("by blocks", "plain")):
            if 4 * BATCH * classes * HELD.get(name, 1) < ROOM:
                sheet.measure(f"extra_memory_mb/{classes}/{name}", _apart, _peak, name, classes)
    if not sheet.quick and not sheet.failed:
        picture(sheet.figures)


def _able(sheet: Sheet) -> tuple[str, ...]:
    """The methods that this machine can run; the others are named and left out."""
    found = []
    for name in HEADS:
        try:
            if "bf16" in name:
                sheet.need_bf16()
            if name == "compiled" and shutil.which(os.environ.get("CXX", "g++")) is None:
                raise LeftOut("torch.compile needs a C++ compiler; install one, for example: apt install g++")
            if name == "pytorch-metric-learning":
                peer("pytorch_metric_learning", "pip install pytorch-metric-learning")
            found.append(name)
        except LeftOut as reason:
            sheet.leave_out(name, str(reason))
    return tuple(found)


def draw(classes: int, dim: int = DIM) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, dim, generator=g).requires_grad_() for n in (BATCH, classes))
    return x, w, torch.randint(classes, (BATCH,), generator=g)


def step(head: Head, x: Tensor, w: Tensor, y: Tensor) -> None:
    x.grad = w.grad = None
    head(x, w, y).backward()  # type: ignore[no-untyped-call]


def _times(classes: int, names: Sequence[str], rounds: int, half: bool) -> dict[str, float]:
    x, w, y = draw(classes)
    heads = {name: HEADS[name] for name in names if classes < 1_000_000 or name in MILLION}
    work: dict[str, Callable[[], object]] = {name: lambda h=head: step(h, x, w, y) for name, head in heads.items()}  # type: ignore[misc]
    for kind in (torch.float32, torch.bfloat16)[: 1 + half]:
        a, b = x.detach().to(kind), w.detach().to(kind)
        work[f"three products, {kind}"] = lambda a=a, b=b: [a @ b.T for _ in range(3)]  # type: ignore[misc]
    return _medians(work, rounds)


def _medians(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in work}
    order, chance = list(work), random.Random(0)
    for _ in range(rounds + 1):
        chance.shuffle(order)  # what ran before leaves caches and freed memory behind
        for name in order:
            began = time.perf_counter()
            work[name]()
            taken[name].append(time.perf_counter() - began)
    return {name: round(statistics.median(times[1:]), 4) for name, times in taken.items()}


def _errors(classes: int, names: Sequence[str]) -> dict[str, float]:
    """Largest error of the weights' gradient, as a share of its largest number."""
    x, w, y = draw(classes)
    x64, w64 = (t.detach().double().requires_grad_() for t in (x, w))
    step(lambda *a: reference.cosine_cross_entropy(
        *a, scale=SCALE, margin=None, normalize="both", weights="soft", subcenters=1, exclude_above=None
    ), x64, w64, y)  # fmt: skip
    assert w64.grad is not None
    errors = {}
    for name in names:
        step(HEADS[name], x, w, y)
        assert w.grad is not None
        errors[name] = float(f"{float((w.grad - w64.grad).abs().max() / w64.grad.abs().max()):.3g}")
    return errors


def _two_ranks(classes: int = 100_000) -> dict[str, float]:
    """One thread each: a step of two ranks that share the classes, beside one process with half of them.

    Both see the whole batch; each rank brings half of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (folder, classes), 2)  # type: ignore[no-untyped-call]
        found = torch.load(Path(folder) / "found.pt")
    return {**found, "ratio": round(found["two ranks"] / found["one process, half of the classes"], 3)}


def _rank(rank: int, folder: str, classes: int) -> None:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]})
    td.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    x, w, y = draw(classes)
    shard = dist.class_shard(classes)
    part = x.detach()[rank * BATCH // 2 : (rank + 1) * BATCH // 2].clone().requires_grad_()
    own = w.detach()[shard.start : shard.stop].clone().requires_grad_()
    labels = y[rank * BATCH // 2 : (rank + 1) * BATCH // 2]

    def shared() -> None:
        td.barrier()
        step(lambda *a: ops.cosine_cross_entropy(*a, scale=SCALE, shard=shard), part, own, labels)

    def alone() -> None:
        td.barrier()
        step(blockwise, x, own, y % (classes // 2))

    found = _medians({"two ranks": shared, "one process, half of the classes": alone}, 15)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    td.destroy_process_group()


def _sampled(classes: int) -> dict[str, float]:
    """Seconds and peak megabytes beyond weights and momentum of a step before a thousandth of the classes."""
    torch.manual_seed(0)
    loss = CosineSoftmax(classes, SAMPLED_DIM, sample=0.001)
    optimizer = RowSGD(loss.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    x, y = torch.randn(BATCH, SAMPLED_DIM), torch.randint(classes, (BATCH,))

    def once() -> None:
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()

    once()
    optimizer.state[loss.weight]["momentum_buffer"].add_(0)  # zeros take memory once they are touched
    peak = _watched(once)
    return {"seconds": _medians({"step": once}, 11)["step"], "extra_memory_mb": round(peak / 1e6, 1)}


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _peak(name: str, classes: int) -> float:
    data = draw(classes)
    step(HEADS[name], *data)  # libraries load and compile now
    extra = _watched(lambda: HEADS[name](*data).backward())  # type: ignore[no-untyped-call]
    # A gradient that is there already is added to: that copy is no part of the head.
    return round(extra / 1e6 - 4 * (classes + BATCH) * DIM / 1e6, 1)


def _watched(once: Callable[[], object]) -> float:
    """Most bytes resident during a call, beyond those before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            peak[0] = max(peak[0], _resident())

    watching = threading.Thread(target=watch)
    watching.start()
    once()
    done.set()
    watching.join()
    return float(peak[0] - before)


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def picture(figures: dict[str, Any]) -> None:
    """Draw time and memory against the number of classes into docs/figures/head.png."""
    canvas, (axes,) = panels(1, 2, 9.5, 4.2)
    for names, one, scale in (("seconds", axes[0], 1.0), ("extra_memory_mb", axes[1], 1.0)):
        methods = dict.fromkeys(name for found in figures[names].values() for name in found)
        for i, method in enumerate(methods):
            points = [(int(c), found[method] * scale) for c, found in figures[names].items() if found.get(method)]
            own = method.startswith("by blocks")
            style = "--" if "bf16" in method else ":" if "products" in method else "-"
            color = COLORS[0] if own else "#999999" if "products" in method else COLORS[1 + i % 5]
            one.plot(*zip(*points, strict=True), marker=".", color=color, linestyle=style, label=method,
                     linewidth=2.2 if own else 1.2)  # fmt: skip
        sampled = [(int(c), found[names if names == "extra_memory_mb" else "seconds"])
                   for c, found in figures["sampled"].items() if c != "dim"]  # fmt: skip
        one.plot(*zip(*sampled, strict=True), marker=".", color="black", linestyle="-.",
                 label=f"a thousandth sampled, D = {SAMPLED_DIM}")  # fmt: skip
        one.set(xscale="log", yscale="log", xlabel="classes")
        one.grid(color="#dddddd", linewidth=0.5)
    title(axes[0], "seconds, forward and backward")
    title(axes[1], "MB beyond features, weights and gradients")
    canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
    canvas.suptitle(f"Softmax head, batch {BATCH}, D = {DIM}, {figures['threads']} CPU threads", fontsize=10)
    save(canvas, Path(__file__).parents[1] / "docs" / "figures" / "head.png", "Time and memory of the softmax head")
