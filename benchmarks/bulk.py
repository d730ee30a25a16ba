"""Bulk embedding of LFW crops from a zip: by this process and by Ray on this machine, beside the bare Embedder.

Bare is `Embedder.features` of crops in memory, 32 at a time. All embed both orientations with the same network and
threads. Medians of interleaved rounds; local is the whole call, files included. Ray's rate counts from its second
part on, and its start, until the first part is there, stands beside it.
"""

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.faces import faces, kind_of_faces, third_party
from benchmarks.harness.sheet import Sheet, peer
from normface.data import open_reader, write
from normface.embed import Embedder, bulk
from normface.embed.parts import PREPARED_AT_ONCE
from normface.embed.source import Source, open_source

QUICK = 60
PART = 64


def run(sheet: Sheet) -> None:
    """images/s, and shares."""
    bulk.PART = PART
    images, rounds = sheet.pick(1024, 256), sheet.pick(3, 1)
    sheet.figures |= {"faces": kind_of_faces(), "images": images, "part": PART, "rounds": rounds}
    with tempfile.TemporaryDirectory() as folder:
        model = sheet.attempt("MobileFaceNet", third_party, Path(folder))
        sheet.figures["model"] = "MobileFaceNet, third party" if model else "the default model"
        load = partial(Embedder.load, model)
        embedder = load()
        reader = open_reader(faces() / "lfw" / "lfw-112x96.zip")
        reader = reader.select(np.arange(images) % len(reader))
        records = (record._replace(id=f"{record.identity}/{row:05}.jpg") for row, record in enumerate(reader.records()))
        write(records, Path(folder, "crops.zip"), "zip")
        source = open_source(Path(folder, "crops.zip"), embedder.spec.template, photographs=False)
        crops = source.prepare(range(images)).crops
        ways: dict[str, list[float]] = {"bare": [], "local": [], "ray": []}
        starts: list[float] = []

        def bare() -> float:
            began = time.perf_counter()
            for start in range(0, images, PREPARED_AT_ONCE):
                embedder.features(crops[start : start + PREPARED_AT_ONCE])
            return images / (time.perf_counter() - began)

        def by_ray() -> float:
            peer("ray", "pip install 'normface[ray]'")
            marks = timed(source, load, "ray")
            first, last = marks[1], marks[-1]
            starts.append(marks[0][1])
            return (last[0] - first[0]) / (last[1] - first[1])

        for turn in range(rounds):
            for name, way in (
                ("bare", bare), ("local", lambda: images / timed(source, load, "local")[-1][1]), ("ray", by_ray),
            ):  # fmt: skip
                if name == "ray" and sheet.quick:  # its few parts arrive together, which shows no rate
                    continue
                speed = sheet.measure(f"rounds_of/{name}/{turn + 1}", way)
                ways[name] += [speed] if speed else []
                if ways[name]:
                    sheet.put(f"images_per_second/{name}", round(statistics.median(ways[name]), 1))
        middle = {name: statistics.median(each) for name, each in ways.items() if each}
        for name, of in (("local", "bare"), ("ray", "local")):
            if {name, of} <= set(middle):
                sheet.put(f"{name}_of_{of}", round(middle[name] / middle[of], 3))
        if starts:
            sheet.put("seconds_until_rays_first_part", round(statistics.median(starts), 1))


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
