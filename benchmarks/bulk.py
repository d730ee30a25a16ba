"""Bulk embedding of LFW crops from a zip: by this process and by Ray on this machine, beside the bare Embedder.

Bare is `Embedder.features` of crops in memory, 32 at a time. All embed both orientations with the same network and
threads. Medians of interleaved rounds; local is the whole call, files included. Ray's rate counts from its second
part on, and its start, until the first part is there, stands beside it.
"""

import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embed import third_party
from normface.data import open_reader, write
from normface.embed import Embedder, bulk
from normface.embed.source import Source, open_source

DATA = Path(os.environ.get("NORMFACE_DATA", Path(__file__).parents[2] / "shared" / "data"))
IMAGES, PART, ROUNDS = 1024, 64, 3


def run() -> dict[str, Any]:
    """images/s, and shares."""
    bulk.PART = PART
    found: dict[str, list[float]] = {"bare": [], "local": [], "ray": [], "seconds until ray's first part": []}
    with tempfile.TemporaryDirectory() as folder:
        load = partial(Embedder.load, third_party(Path(folder)))
        embedder = load()
        reader = open_reader(DATA / "lfw" / "lfw-112x96.zip").select(np.arange(IMAGES))
        write(reader.records(), Path(folder, "crops.zip"), "zip")
        source = open_source(Path(folder, "crops.zip"), embedder.spec.template, photographs=False)
        crops = source.prepare(range(IMAGES)).crops
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for start in range(0, IMAGES, bulk.BLOCK):
                embedder.features(crops[start : start + bulk.BLOCK])
            found["bare"].append(IMAGES / (time.perf_counter() - began))
            found["local"].append(IMAGES / timed(source, load, "local")[-1][1])
            by_ray = timed(source, load, "ray")
            first, last = by_ray[1], by_ray[-1]
            found["ray"].append((last[0] - first[0]) / (last[1] - first[1]))
            found["seconds until ray's first part"].append(by_ray[0][1])
    middle = {name: statistics.median(each) for name, each in found.items()}
    return {
        "images": IMAGES, "part": PART, "rounds": ROUNDS, "model": "MobileFaceNet, third party",
        "images_per_second": {name: round(middle[name], 1) for name in ("bare", "local", "ray")},
        "local_of_bare": round(middle["local"] / middle["bare"], 3),
        "ray_of_local": round(middle["ray"] / middle["local"], 3),
        "seconds_until_rays_first_part": round(middle["seconds until ray's first part"], 1),
    }  # fmt: skip


def timed(source: Source, load: Any, engine: Any) -> list[tuple[int, float]]:
    """Images done and seconds gone, part by part."""
    marks: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        bulk.embed_all(
            source, folder, load, engine=engine,
            progress=lambda done, total: marks.append((done, time.perf_counter() - began)),
        )  # fmt: skip
    return marks[1:]  # the first tells what was there
