"""Crops to features, and photographs to a decision: ours beside ONNX Runtime as it comes.

Features of one orientation, crops in memory, medians of interleaved rounds: wall-clock time on all cores, and processor
time on one, which other work on the machine changes little. Plain is ONNX Runtime in float32, 32 images at a time, with
its own threads; ours in float32 takes 8 on each thread; bfloat16 is torch's. Cosines are to plain, on real LFW crops.
Stages are medians over LFW photographs of 250×250, one after the other.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normface import models
from normface.data import decode, open_reader
from normface.embed import Embedder, bf16
from normface.embed.embedder import DEFAULT
from normface.embed.network import export
from normface.faces import align, central, retarget
from normface.types import Embeddings, Floats, Image, InputSpec

DATA = Path(os.environ.get("NORMFACE_DATA", Path(__file__).parents[2] / "shared" / "data"))
THIRD_PARTY = DATA.parent / "weights" / "mobilefacenet-foamliu.onnx"
CROPS, ROUNDS, PHOTOGRAPHS = 64, 5, 40
CORES = os.cpu_count() or 1


def run() -> dict[str, Any]:
    """images/s, ratios, cosines, and milliseconds by stage."""
    reader = open_reader(DATA / "lfw" / "lfw-112x96.zip")
    rows = range(0, len(reader), len(reader) // CROPS)
    crops = np.stack([reader.read(row) for row in rows])[:CROPS]
    with tempfile.TemporaryDirectory() as folder:
        files = {"MobileFaceNet, third party": third_party(Path(folder))}
        if DEFAULT.is_file():
            files["the default model"] = DEFAULT
        else:
            files["smallresnet 32-64-128-256, untrained"] = untrained(Path(folder, "small.onnx"))
        found = {name: network(file, crops) for name, file in files.items()}
        staged = {name: stages(file) for name, file in files.items()}
    return {"crops": CROPS, "rounds": ROUNDS, "networks": found, "photographs": PHOTOGRAPHS, "milliseconds": staged}


def third_party(folder: Path) -> Path:
    """A link to the shared model, its specification beside it."""
    file = folder / THIRD_PARTY.name
    file.symlink_to(THIRD_PARTY)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    file.with_suffix(".spec.json").write_text(InputSpec(112, 112, mean=mean, std=std, template="112x112").to_json())
    return file


def untrained(file: Path) -> Path:
    """Its batch norm has the statistics of noise."""
    torch.manual_seed(0)
    model = models.build("smallresnet", channels=(32, 64, 128, 256), units=(1, 2, 2))
    with torch.no_grad():
        model.train()(torch.randn(64, 3, model.spec.height, model.spec.width))
    export(model.eval(), file, sha256="untrained")
    return file


def network(file: Path, crops: Image) -> dict[str, Any]:
    """Rates of one network."""
    exact = Embedder.load(file)
    crops = retarget(crops, exact.spec.template)
    fast = Embedder(bf16.network(file), exact.spec, sha256=exact.sha256, batch=bf16.BATCH, precision="bf16")

    def ways(threads: int) -> dict[str, Callable[[], Floats]]:
        exact.threads = threads
        torch.set_num_threads(threads)
        return {
            "plain": plain(file, exact, crops, threads),
            "ours, float32": lambda: exact.features(crops, "none"),
            "ours, bfloat16": lambda: fast.features(crops, "none"),
        }

    one_core = rates(ways(1), time.process_time)
    all_cores = rates(ways(CORES), time.perf_counter)
    ids = np.arange(len(crops)).astype(str)
    a, b = (Embeddings(ways(CORES)[name](), ids).vectors for name in ("plain", "ours, bfloat16"))
    cosines = np.einsum("nd,nd->n", a, b, dtype=np.float64)
    return {
        "images_per_second": all_cores, "times_plain": shares(all_cores),
        "images_per_second_of_one_core": one_core, "times_plain_on_one_core": shares(one_core),
        "bfloat16_cosine": {"least": round(float(cosines.min()), 6), "mean": round(float(cosines.mean()), 6)},
        "auto_takes": "bfloat16" if bf16.pays(file) and bf16.agreement(exact, fast) >= bf16.COSINE else "float32",
    }  # fmt: skip


def rates(ways: dict[str, Callable[[], Floats]], clock: Callable[[], float]) -> dict[str, float]:
    """images/s of each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
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


def stages(file: Path) -> dict[str, float]:
    """Milliseconds of each stage for one photograph, and of `verify` for two decoded ones."""
    embedder = Embedder.load(file)
    reader = open_reader(DATA / "lfw" / "lfw-raw-fold1.zip")
    spent: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = work()
        spent.setdefault(stage, []).append(1000 * (time.perf_counter() - began))
        return found

    before = reader.read(0)
    embedder.verify(before, before)  # warms up
    for row in range(PHOTOGRAPHS):
        image = timed("decode", partial(decode, reader.encoded(row), "photograph"))
        faces = timed("detect", partial(embedder.detector.detect, image))
        landmarks = central(faces, image.shape).landmarks
        crop = timed("align", partial(align, image, landmarks, embedder.spec.template))
        timed("embed two orientations", partial(embedder.features, crop[None]))
        timed("verify two photographs", partial(embedder.verify, image, before))
        before = image
    return {stage: round(statistics.median(each), 2) for stage, each in spent.items()}
