"""The softmax head: errors against float64; time and memory beside other ways to compute it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness.parts import Measurements
from benchmarks.harness.sheet import LeftOut
from benchmarks.peers import arcface_torch, heads
from normface import ops
from normface.losses import CosineSoftmax
from normface.ops import Margin
from normface.types import ClassShard

from .setting import WARM, Setting, extra_mib, milliseconds

DIM, SCALE = 512, 30.0
BEHIND = 2.0  # times the error of plain PyTorch in the same precision that a path may have
ROUNDING = {"float32": 1e-5, "half": 2**-9}  # relative errors that are no fault
Batch = tuple[Tensor, nn.Parameter, Tensor]  # features, class weights, labels
Loss = Callable[..., Tensor]
Make = Callable[[Setting, Batch], Callable[[], object]]  # from a batch to what is measured


def draw(setting: Setting, batch: int, classes: int, *, dim: int = DIM, rows: int = 1) -> Batch:
    """Random features, class weights, `rows` of them a class, and labels on the device."""
    torch.manual_seed(0)
    dim = setting.pick(dim, 16)
    x, w = (torch.randn(n, dim, device=setting.device) for n in (batch, classes * rows))
    return x.requires_grad_(), nn.Parameter(w), torch.randint(classes, (batch,), device=setting.device)


# Correctness


def correctness(setting: Setting) -> Measurements:
    """Relative errors of loss and gradients against float64: ours, and plain PyTorch's, in float32 and half precision.

    A path that errs more than plain PyTorch is a failure.
    """
    batch, classes = setting.pick((256, 6_000), (8, 30))
    for name, loss in CASES.items():
        rows = 3 if "sub-centers" in name else 1
        yield f"errors/{name}", partial(errors, setting, loss, draw(setting, batch, classes // rows, rows=rows))


def errors(setting: Setting, loss: Loss, data: Batch) -> dict[str, dict[str, list[float]]]:
    """Errors of the loss, of the features' and of the weights' gradient, of ours and of plain, in both precisions."""
    x, w, y = data
    exact = _values(loss, (x.double(), w.double(), y), "reference")
    found: dict[str, dict[str, list[float]]] = {}
    for precision in ("float32", "half"):
        with setting.half(precision == "half"):
            found[precision] = {
                name: [_error(a, b) for a, b in zip(_values(loss, data, how), exact, strict=True)]
                for name, how in (("ours", setting.pick("auto", "blockwise")), ("plain", "reference"))
            }
    for precision, both in found.items():
        for ours, plain in zip(both["ours"], both["plain"], strict=True):
            if not ours <= max(BEHIND * plain, ROUNDING[precision]):
                raise AssertionError(f"errors {both['ours']} in {precision} where plain PyTorch has {both['plain']}")
    return found


def _error(a: Tensor, b: Tensor) -> float:
    return float(f"{float((a.double() - b).norm() / b.norm()):.3g}")


def _values(loss: Loss, data: tuple[Tensor, Tensor, Tensor], impl: str) -> list[Tensor]:
    x, w, y = data
    a, b = (t.detach().clone().requires_grad_() for t in (x, w))
    value = loss(a, b, y, impl=impl)
    value.backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert b.grad is not None
    return [value.detach(), a.grad, b.grad]


def softmax(x: Tensor, w: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Our head, at the scale of the measurements."""
    return ops.cosine_cross_entropy(x, w, y, **{"scale": SCALE, **options})


def _sharded(x: Tensor, w: Tensor, y: Tensor, *, impl: Any) -> Tensor:
    return softmax(x, w, y, impl=impl, shard=None if impl == "reference" else ClassShard(0, len(w), len(w)))


def _agents(loss: Callable[..., Tensor], nearest: bool, x: Tensor, w: Tensor, y: Tensor, *, impl: Any) -> Tensor:
    return loss(ops.before_agents(x, w, y, impl=impl, nearest=nearest), margin=1.9)


CASES: dict[str, Loss] = {
    "cosines": softmax,
    "hard weights": partial(softmax, weights="hard"),
    "normalized features": partial(softmax, normalize="features", scale=2.0),
    "normalized weights": partial(softmax, normalize="weights", scale=1.0),
    "nothing normalized": partial(softmax, normalize="none", scale=0.1),
    "ArcFace": partial(softmax, margin=Margin(angle=0.5)),
    "CosFace, scale 64": partial(softmax, margin=Margin(cosine=0.35), scale=64.0),
    "SphereFace": partial(softmax, margin=Margin(multiply=4, blend=5), normalize="weights", scale=1.0),
    "CurricularFace": partial(softmax, margin=Margin(angle=0.5, curriculum=0.3)),
    "exclusion": partial(softmax, exclude_above=0.5),
    "3 sub-centers": partial(softmax, subcenters=3),
    "sharded": _sharded,
    "C-contrastive": partial(_agents, ops.c_contrastive, False),
    "C-triplet": partial(_agents, ops.c_triplet, True),
}


# Time and memory


def times(setting: Setting, batch: int, classes: int) -> Measurements:
    """Milliseconds and memory of forward and backward by each method, under autocast to bfloat16."""
    batch, classes = setting.pick((batch, classes), (8, 40))
    data = draw(setting, batch, classes)
    x, w, _ = data
    gradients = 4 * (x.numel() + w.numel())

    def timed(make: Make) -> dict[str, float | None]:
        x.grad = w.grad = None
        step = make(setting, data)
        found = milliseconds(setting, step)
        x.grad = w.grad = None
        return {"ms": found, "extra_mib": extra_mib(setting, step, gradients)}

    for name, make in METHODS.items():
        yield f"head/batch {batch}, {classes} classes/{name}", partial(timed, make)


def under_autocast(loss: Loss) -> Make:
    """Make a step, forward and backward, of a loss of (features, weights, labels)."""

    def make(setting: Setting, data: Batch) -> Callable[[], object]:
        x, w, _ = data

        def step() -> None:
            x.grad = w.grad = None
            with setting.half():
                value = loss(*data)
            value.backward()  # type: ignore[no-untyped-call]

        return step

    return make


def forward(setting: Setting, data: Batch) -> Callable[[], object]:
    """Our forward pass alone."""

    def step() -> None:
        with setting.half():
            softmax(*data)

    return step


def graph(setting: Setting, data: Batch) -> Callable[[], object]:
    """Our forward and backward pass, replayed as a CUDA graph, whose memory is its own."""
    if not setting.cuda:
        raise LeftOut("CUDA graphs need a GPU")
    step, side = under_autocast(softmax)(setting, data), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    return captured.replay


def with_sgd(setting: Setting, data: Batch) -> Callable[[], object]:
    """Forward, backward and a step of SGD with momentum on the class weights."""
    step = under_autocast(softmax)(setting, data)
    optimizer = torch.optim.SGD([data[1]], lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)

    def whole() -> None:
        step()
        optimizer.step()

    return whole


def fused_sgd(setting: Setting, data: Batch) -> Callable[[], object]:
    """Forward and backward with the weights' step of SGD in it: their gradient is never stored."""
    if not setting.cuda:
        raise LeftOut("its kernels need a GPU")
    from normface.ops.triton import FusedSGD, Kernels

    update = FusedSGD(lr=1e-6, momentum=0.9, weight_decay=5e-4)
    return under_autocast(partial(softmax, impl=Kernels(update=update)))(setting, data)


def products(setting: Setting, data: Batch) -> Callable[[], object]:
    """Three bare products of these shapes in bfloat16."""
    x, w, _ = (t.detach().bfloat16() for t in data)
    z = x @ w.T

    def three() -> None:
        torch.mm(x, w.T, out=z)
        torch.mm(z, w)
        torch.mm(z.T, x)

    return three


def plain(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """What most projects write."""
    logits = functional.linear(functional.normalize(x), functional.normalize(w))
    return functional.cross_entropy(SCALE * logits, y)


def compiled(setting: Setting, data: Batch) -> Callable[[], object]:
    """torch.compile of `plain`."""
    if not setting.cuda:
        raise LeftOut("on CPUs, `python -m benchmarks head` measures it")
    return under_autocast(torch.compile(plain, dynamic=False))(setting, data)


def for_language(load: Callable[[], heads.Loss]) -> Make:
    """Make the step of a head in peers/heads.py."""

    def make(setting: Setting, data: Batch) -> Callable[[], object]:
        if not setting.cuda:
            raise LeftOut("its kernels need a GPU")
        return under_autocast(partial(load(), SCALE))(setting, data)

    return make


def partial_fc(setting: Setting, data: Batch) -> Callable[[], object]:
    """PartialFC_V2 at rate 1 with ArcFace."""
    x, w, y = data
    step = arcface_torch.head(w, setting.arcface, setting.device)

    def whole() -> None:
        x.grad = w.grad = None
        step(x, y)

    return whole


METHODS: dict[str, Make] = {
    "ours": under_autocast(softmax), "ours, forward": forward, "ours, CUDA graph": graph,
    "ours, ArcFace": under_autocast(partial(softmax, margin=Margin(angle=0.5))),
    "ours, CurricularFace": under_autocast(partial(softmax, margin=Margin(angle=0.5, curriculum=0.3))),
    "ours, with SGD": with_sgd, "ours, fused SGD": fused_sgd, "three bare products": products,
    "torch.compile of plain": compiled,
    "plain": under_autocast(plain), "cut-cross-entropy": for_language(heads.cut_cross_entropy),
    "partial FC": partial_fc, "Liger": for_language(heads.liger),  # the last: 4.9 s a step of a million classes
}  # fmt: skip


def sampled(setting: Setting) -> Measurements:
    """A whole step before a hundredth of ten million classes: forward, backward, and SGD on the rows drawn."""
    classes, batch, dim = setting.pick((10_000_000, 1024, 256), (400, 8, 16))

    def step() -> dict[str, Any]:
        from normface.train import RowSGD

        x, w, y = draw(setting, batch, classes, dim=dim)
        loss = CosineSoftmax(2, dim, sample=setting.pick(0.01, 0.1)).to(setting.device)
        loss.weight, loss.num_classes = w, classes  # drawn on the device: on the host that takes a minute
        optimizer = RowSGD(loss.parameters(), lr=0.1, momentum=0.9)

        def once() -> None:
            x.grad = None
            optimizer.zero_grad()
            with setting.half():
                value = loss(x, y)
            value.backward()
            optimizer.step()

        return {"ms": milliseconds(setting, once), "extra_mib": extra_mib(setting, once, 0), "dim": dim}

    yield f"head/batch {batch}, {classes} classes/ours, sampled", step
