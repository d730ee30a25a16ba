"""A speed test of about ten seconds: detection, embedding, verification and training, next to published figures."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from ..data.synthetic import photograph
from ..embed import Embedder
from ..errors import MissingDependency, require
from ..system_facts import UNKNOWN
from ..types import Image

CROPS, PHOTOGRAPHS = 64, 4
PRODUCT = 2048  # side of the matrices
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
    """Measure this machine on drawn photographs and random crops; names and units as in `UNITS`.

    seconds: approximate duration, without loading. bf16: also measure training in bfloat16.
    A part that fails or needs a missing package is "unknown"; `left_out` holds the reason.
    """
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, work in parts(seconds, bf16=bf16).items():
        told(UNITS[name])
        try:
            found[name] = work()
        except Exception as error:  # a failed measurement must not lose the rest of the report
            found[name] = UNKNOWN
            left_out[name] = str(error) if isinstance(error, MissingDependency) else f"{type(error).__name__}: {error}"
            left_out[name] = left_out[name].splitlines()[0]
    return found | ({"left_out": left_out} if left_out else {})


def parts(seconds: float, *, bf16: bool) -> dict[str, Callable[[], float]]:
    """Return the measurements of `measure` as functions; those of training raise MissingDependency without torch."""

    @cache
    def embedder() -> Embedder:
        return Embedder.load()

    @cache
    def drawn() -> list[Image]:
        return [photograph(0, person, 0) for person in range(PHOTOGRAPHS)]

    def rate(count: float, make: Callable[[], Callable[[], object]], share: float) -> Callable[[], float]:
        return lambda: float(f"{count / typical(make(), share * seconds):.4g}")

    def milliseconds(count: int, work: Callable[[], object], share: float) -> Callable[[], float]:
        return lambda: float(f"{1000 / count * typical(work, share * seconds):.4g}")

    def training(half: bool) -> Callable[[], object]:
        require("torch", "train")
        return training_step(TRAINED, half)

    found = {
        "product_gflops": rate(2 * PRODUCT**3 / 1e9, _product, 0.05),
        "detect_ms": milliseconds(PHOTOGRAPHS, lambda: [embedder().detector.detect(each) for each in drawn()], 0.2),
        "embed_per_second": rate(CROPS, lambda: _embedding(embedder()), 0.2),
        "verify_ms": milliseconds(1, lambda: embedder().verify(drawn()[0], drawn()[1]), 0.15),
        "train_per_second": rate(BATCH, lambda: training(False), 0.2 if bf16 else 0.4),
    }
    return found | ({"train_bf16_per_second": rate(BATCH, lambda: training(True), 0.2)} if bf16 else {})


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
    """Return the published figures by kind of processor: names of `UNITS`, and `on`, the machine measured."""
    held: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("figures.json").read_text("utf-8"))
    return held


def beside(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return rows that compare the measurements with the published figures for a kind of processor.

    A row is `{"what", "here", "docs", "times_docs"}`; a ratio above 1 means that this machine is faster, None that a
    figure is missing.
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
    b = a.copy()  # two arrays, because BLAS computes only half of a product of one with itself
    return lambda: a @ b


def _embedding(embedder: Embedder) -> Callable[[], object]:
    shape = (CROPS, embedder.spec.height, embedder.spec.width, 3)
    crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return lambda: embedder.features(crops, "none")
