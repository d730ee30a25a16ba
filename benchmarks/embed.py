"""Crops to features, and photographs to a decision: ours beside ONNX Runtime as it comes.

Features of one orientation, crops in memory, medians of interleaved rounds: wall-clock time on all cores, and processor
time on one, which other work on the machine changes little. Plain is ONNX Runtime in float32, 32 images at a time, with
its own threads; ours in float32 takes 8 on each thread; bfloat16 is torch's. Cosines are to plain, on real LFW crops.
Stages are medians over LFW photographs of 250×250, one after the other.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.faces import faces, kind_of_faces, third_party
from benchmarks.harness.sheet import Sheet
from normface import models
from normface.data import decode, open_reader
from normface.embed import Embedder, bf16
from normface.embed.export import export
from normface.embed.loading import DEFAULT, load_network
from normface.faces import align, central, retarget
from normface.system_facts import usable_cores
from normface.types import Embeddings, Floats, Image

QUICK = 60
CROPS = 64
CORES = usable_cores()


def run(sheet: Sheet) -> None:
    """images/s, ratios, cosines, and milliseconds by stage."""
    rounds, photographs = sheet.pick(5, 2), sheet.pick(40, 10)
    sheet.figures |= {"faces": kind_of_faces(), "crops": CROPS, "rounds": rounds, "photographs": photographs}
    reader = open_reader(faces() / "lfw" / "lfw-112x96.zip")
    rows = range(0, len(reader), len(reader) // CROPS)
    crops = np.stack([reader.read(row) for row in rows])[:CROPS]
    with tempfile.TemporaryDirectory() as folder:
        if DEFAULT.is_file():
            files = {"the default model": lambda: DEFAULT}
        else:
            files = {"smallresnet 32-64-128-256, untrained": lambda: untrained(Path(folder, "small.onnx"))}
        files["MobileFaceNet, third party"] = lambda: third_party(Path(folder))
        for name, file in files.items():
            sheet.measure(f"networks/{name}", lambda file=file: network(file(), crops, rounds, sheet.has_bf16))
            sheet.measure(f"milliseconds/{name}", lambda file=file: stages(file(), photographs))


def untrained(file: Path) -> Path:
    """Its batch norm has the statistics of noise."""
    torch.manual_seed(0)
    model = models.build("smallresnet", channels=(32, 64, 128, 256), units=(1, 2, 2))
    with torch.no_grad():
        model.train()(torch.randn(64, 3, model.spec.height, model.spec.width))
    export(model.eval(), file, sha256="untrained")
    return file


def network(file: Path, crops: Image, rounds: int, half: bool) -> dict[str, Any]:
    """Rates of one network, in bfloat16 too where the processor has it."""
    whole = load_network(file)
    rounded = bf16.rounded(whole, file)
    exact, fast = Embedder(whole), Embedder(rounded)
    crops = retarget(crops, exact.spec.template)

    def ways(threads: int) -> dict[str, Callable[[], Floats]]:
        exact.threads = threads
        torch.set_num_threads(threads)
        found = {
            "plain": plain(file, exact, crops, threads),
            "ours, float32": lambda: exact.features(crops, "none"),
            "ours, bfloat16": lambda: fast.features(crops, "none"),
        }
        return found if half else {name: way for name, way in found.items() if "bfloat16" not in name}

    one_core = rates(ways(1), time.process_time, rounds)
    all_cores = rates(ways(CORES), time.perf_counter, rounds)
    figures = {
        "images_per_second": all_cores, "times_plain": shares(all_cores),
        "images_per_second_of_one_core": one_core, "times_plain_on_one_core": shares(one_core),
    }  # fmt: skip
    if not half:
        return figures
    ids = np.arange(len(crops)).astype(str)
    a, b = (Embeddings(ways(CORES)[name](), ids).vectors for name in ("plain", "ours, bfloat16"))
    cosines = np.einsum("nd,nd->n", a, b, dtype=np.float64)
    return {
        **figures,
        "bfloat16_cosine": {"least": round(float(cosines.min()), 6), "mean": round(float(cosines.mean()), 6)},
        "auto_takes": "bfloat16" if bf16.pays(file) and bf16.agreement(whole, rounded) >= bf16.COSINE else "float32",
    }  # fmt: skip


def rates(ways: dict[str, Callable[[], Floats]], clock: Callable[[], float], rounds: int) -> dict[str, float]:
    """images/s of each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = clock()
            way()
            times[name] += [clock() - began] * (turn > 0)  # the first warms up
    return {name: round(CROPS / statistics.median(spent), 1) for name, spent in times.items()}


def shares(speeds: dict[str, float]) -> dict[str, float]:
    """How many times as fast as plain."""
    return {name: round(speed / speeds["plain"], 2) for name, speed in speeds.items()}


def plain(file: Path, embedder: Embedder, crops: Image, threads: int) -> Callable[[], Floats]:
    """ONNX Runtime with threads of its own, 32 images at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run() -> Floats:
        pixels = embedder.spec.prepare(crops)
        return np.concatenate([session.run(None, {name: pixels[i : i + 32]})[0] for i in range(0, len(pixels), 32)])

    return run


def stages(file: Path, photographs: int) -> dict[str, float]:
    """Milliseconds of each stage for one photograph, and of `verify` for two decoded ones."""
    embedder = Embedder.load(file)
    reader = open_reader(faces() / "lfw" / "lfw-raw-fold1.zip")
    spent: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = work()
        spent.setdefault(stage, []).append(1000 * (time.perf_counter() - began))
        return found

    before = reader.read(0)
    embedder.verify(before, before)  # warms up
    for row in range(photographs):
        image = timed("decode", partial(decode, reader.encoded(row), "photograph"))
        found = timed("detect", partial(embedder.detector.detect, image))
        landmarks = central(found, image.shape).landmarks
        crop = timed("align", partial(align, image, landmarks, embedder.spec.template))
        timed("embed two orientations", partial(embedder.features, crop[None]))
        timed("verify two photographs", partial(embedder.verify, image, before))
        before = image
    return {stage: round(statistics.median(each), 2) for stage, each in spent.items()}
