"""Arrow packs: opening, random access against the decoding of what is read, a million records with flat memory.

The training faces are packed as they are; the million records are drawn: 100,000 people, random bytes of 2 to 4 KB.
"""

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.harness.faces import faces, kind_of_faces
from benchmarks.harness.sheet import Sheet
from normface.data import Record, open_reader, write
from normface.train.loader import Shuffle

QUICK = 30
EACH, ROUNDS = 10, 7


def run(sheet: Sheet) -> None:
    """Times, and what memory grew by; quick: a part of the faces, and 50,000 records."""
    people, images = sheet.pick(100_000, 5_000), sheet.pick(None, 2_000)
    sheet.figures["faces"] = kind_of_faces()
    with tempfile.TemporaryDirectory() as folder:
        sheet.measure("training faces", _faces, Path(folder, "faces"), images)
        place = sheet.pick("a million records", "50,000 records")
        sheet.measure(place, _many, Path(folder, "many"), people)


def _faces(path: Path, images: int | None) -> dict[str, Any]:
    whole = open_reader(faces() / "train" / "faces-112.zip")
    source = whole.select(np.arange(min(len(whole), images or len(whole))))
    write(source.records(), path, "arrow")
    opening = [_timed(lambda: open_reader(path)) for _ in range(ROUNDS)]
    reader = open_reader(path)
    rows = np.random.default_rng(0).permutation(len(reader))[:4000].tolist()
    jpegs = [data for data in map(reader.encoded, rows) if data[:2] == b"\xff\xd8"]
    reading, decoding = [], []
    for _ in range(ROUNDS):
        reading.append(_timed(lambda: [reader.encoded(row) for row in rows]) / len(rows))
        decoding.append(_timed(lambda: [simplejpeg.decode_jpeg(data) for data in jpegs]) / len(jpegs))
    access, decode = statistics.median(reading), statistics.median(decoding)
    return {
        "images": len(reader), "people": len(reader.identities), "open_ms": round(1000 * statistics.median(opening), 1),
        "random_access_us": round(1e6 * access, 2), "decode_us": round(1e6 * decode, 1),
        "share_of_decoding": round(access / decode, 3),
    }  # fmt: skip


def _many(path: Path, people: int) -> dict[str, Any]:
    packing = _timed(lambda: write(_drawn(people), path, "arrow"))
    before = _resident()
    began = time.perf_counter()
    reader = open_reader(path)
    opening, opened = time.perf_counter() - began, _resident()
    shuffle = Shuffle(reader.labels, 512)
    count, most = 0, opened
    began = time.perf_counter()
    for step in range(shuffle.per_epoch):
        count += sum(len(reader.encoded(row)) > 0 for row in shuffle.rows(step).tolist())
        if step % 100 == 0:
            most = max(most, _resident())
    reading = time.perf_counter() - began
    size = sum(file.stat().st_size for file in path.iterdir())
    return {
        "records": len(reader), "people": len(reader.identities), "gib": round(size / 2**30, 2),
        "pack_s": round(packing, 1), "open_s": round(opening, 2), "epoch_s": round(reading, 1),
        "records_per_second": round(count / reading), "rss_before_mib": before, "rss_grew_opening_mib": opened - before,
        "rss_grew_in_all_mib": max(most, _resident()) - before,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }  # fmt: skip


def _drawn(people: int) -> Iterator[Record]:
    rng = np.random.default_rng(0)
    noise = rng.bytes(1 << 20)
    for person in range(people):
        name = f"p{person:06d}"
        for image in range(EACH):
            start, length = int(rng.integers(1 << 19)), int(rng.integers(2000, 4000))
            yield Record(f"{name}/{image:03d}.jpg", noise[start : start + length], name, None)


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _resident() -> int:
    """Memory of this process that is in use now, mapped files included, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20
