"""A speed test of some ten seconds: detection, embedding, verification and training steps, beside the docs' figures."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..data.synthetic import photograph
from ..embed import Embedder
from .probe import UNKNOWN

CROPS, PHOTOGRAPHS = 64, 4
PRODUCT = 2048  # the side of the matrices multiplied
TRAINED, WIDTH, BATCH, CLASSES = "smallresnet", 96, 64, 2858
UNITS = {
    "product_gflops": "float32 matrix product by NumPy (GFLOP/s)",
    "detect_ms": "detect faces in a 250×250 photograph (ms)",
    "embed_per_second": "embed 112×96 crops, default model, one orientation (images/s)",
    "verify_ms": "verify two 250×250 photographs (ms)",
    "train_per_second": f"train {TRAINED} at 112×{WIDTH}, batch {BATCH}, float32, bare steps (images/s)",
    "train_bf16_per_second": "the same in bfloat16 (images/s)",
}
LARGER_IS_BETTER = {name: not name.endswith("_ms") for name in UNITS}


def measure(
    seconds: float = 10.0, *, bf16: bool = False, told: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Measure this machine on drawn photographs and random crops; names and units are those of `UNITS`.

    seconds: about how long it takes, loading aside. bf16: measure training in bfloat16 too.
    A part that fails or needs what is not installed is "unknown"; `left_out` then holds its reason.
    """
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}

    def part(name: str, work: Callable[[], float]) -> None:
        told(UNITS[name])
        try:
            found[name] = float(f"{work():.4g}")
        except Exception as error:  # a speed that cannot be measured must not cost the rest of the report
            found[name], left_out[name] = UNKNOWN, f"{type(error).__name__}: {error}".splitlines()[0]

    part("product_gflops", lambda: 2 * PRODUCT**3 / 1e9 / typical(_product(), 0.05 * seconds))
    embedder: list[Embedder] = []  # loaded by the first part that needs it: a failure is that part's

    def loaded() -> Embedder:
        if not embedder:
            embedder.append(Embedder.load())
        return embedder[0]

    drawn = [photograph(0, person, 0) for person in range(PHOTOGRAPHS)]
    part("detect_ms", lambda: 1000 / PHOTOGRAPHS * typical(lambda: _detect(loaded(), drawn), 0.2 * seconds))
    part("embed_per_second", lambda: CROPS / typical(_embedding(loaded()), 0.2 * seconds))
    part("verify_ms", lambda: 1000 * typical(lambda: loaded().verify(drawn[0], drawn[1]), 0.15 * seconds))
    kinds = {"train_per_second": False, "train_bf16_per_second": True} if bf16 else {"train_per_second": False}
    for name, half in kinds.items():
        if find_spec("torch") is None:
            found[name], left_out[name] = UNKNOWN, "torch is not installed: pip install 'normface[train]'"
        else:
            share = 0.4 * seconds / len(kinds)
            part(name, lambda half=half, share=share: BATCH / typical(training_step(TRAINED, half), share))  # type: ignore[misc]
    return found | ({"left_out": left_out} if left_out else {})


def typical(work: Callable[[], object], seconds: float) -> float:
    """Return the median time of a call in seconds, over `seconds` and at least two calls, after one that warms up."""
    work()
    spent: list[float] = []
    while len(spent) < 2 or sum(spent) < seconds:
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def training_step(name: str, half: bool, *, classes: int = CLASSES, batch: int = BATCH) -> Callable[[], object]:
    """Return one bare training step of a network at 112×96: forward, loss, backward, update. Needs torch.

    half: the network in bfloat16.
    """
    import torch

    from .. import models
    from ..losses import CosineSoftmax

    layout = torch.channels_last if half else torch.contiguous_format
    model = models.build(name, width=WIDTH)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    loss = CosineSoftmax(classes, model.dim)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.01, momentum=0.9)
    x = torch.randn(batch, 3, 112, WIDTH).to(memory_format=layout)
    y = torch.randint(classes, (batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = model(x)
        optimizer.zero_grad()
        loss(features.float(), y).backward()
        optimizer.step()

    return step


def published() -> dict[str, dict[str, Any]]:
    """Return the docs' figures by kind of processor: names of `UNITS`, and `on`, the machine they were measured on."""
    held: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("figures.json").read_text("utf-8"))
    return held


def beside(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return what was measured beside the docs' figures for a kind of processor, a row each.

    A row is `{"what", "here", "docs", "times_docs"}`: above 1 this machine is faster; None where a figure is missing.
    """
    docs, rows = published().get(kind, {}), []
    for name, what in UNITS.items():
        if name not in found:
            continue
        here, there = found[name], docs.get(name)
        both = here != UNKNOWN and there is not None
        ratio = None if not both else here / there if LARGER_IS_BETTER[name] else there / here
        rows.append({"what": what, "here": here, "docs": there, "times_docs": ratio and round(ratio, 2)})
    return rows


def _product() -> Callable[[], object]:
    a = np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT), np.float32)
    b = a.copy()  # two arrays: of one and itself BLAS would compute but half
    return lambda: a @ b


def _detect(embedder: Embedder, photographs: list[Any]) -> None:
    for image in photographs:
        embedder.detector.detect(image)


def _embedding(embedder: Embedder) -> Callable[[], object]:
    shape = (CROPS, embedder.spec.height, embedder.spec.width, 3)
    crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return lambda: embedder.features(crops, "none")
