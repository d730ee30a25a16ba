"""A gallery of a million templates of 512 numbers: enrolling, opening, searching, beside what others do and memory can.

The vectors are drawn: 100,000 people of 10 templates, a spectrum that falls as face models' do, and noise such that two
templates of one person have a cosine of 0.65 or so. Quick: 20,000 templates.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.sheet import Sheet
from benchmarks.peers import galleries
from normface.gallery import Enrolments, Gallery, open_gallery

QUICK = 60
EACH, DIM = 10, 512
PEERS_COUNT = 20_000
PART, PROBES, ROUNDS = 10_000, 200, 50
Vectors = NDArray[np.float32]


def run(sheet: Sheet) -> None:
    """Times in milliseconds, rates a second."""
    count = sheet.pick(1_000_000, PEERS_COUNT)
    vectors, probes, strangers = _drawn(count)
    truth, within = _brute_force(vectors, probes)
    sheet.figures |= {"templates": count, "dim": DIM, "genuine_cosine_median": within, "threads": 2}
    with tempfile.TemporaryDirectory(dir=os.environ.get("NORMFACE_BENCH_DIR")) as name:
        folder = Path(name)
        place = folder / "people.db"
        sheet.measure("", _enrolling, place, vectors)
        if place.exists():
            sheet.put("bytes_on_disk", place.stat().st_size)
            sheet.measure("open_s", lambda: round(_timed(lambda: open_gallery(place).close()), 2))
            sheet.measure("searching", _searching, place, probes, strangers, truth)
            sheet.figures |= sheet.figures.pop("searching", {})
        part, queries = vectors[:PEERS_COUNT], probes[:ROUNDS]
        nearest = (part.astype(np.float64) @ queries.T.astype(np.float64)).argmax(0).tolist()
        sheet.put("beside/templates", len(part))
        for which in ("normface", "faiss_flat", "milvus_lite", "lancedb"):
            sheet.measure(f"beside/{which}", _beside, which, part, queries, nearest, folder)
        # All of them with those that are fast enough. Milvus Lite is not: it takes minutes to enrol a million.
        for which in sheet.pick(("faiss_flat", "lancedb"), ()):
            sheet.measure(f"beside/with_all/{which}", _with_all, which, vectors, queries, folder / "all")
    sheet.measure("sealed", _sealed, vectors[:PEERS_COUNT])


def _drawn(count: int) -> tuple[Vectors, Vectors, Vectors]:
    """Templates, probes of people who are enrolled (the i-th of person i·step), and probes of others."""
    _tell("drawing")
    rng = np.random.default_rng(0)
    spectrum = ((np.arange(DIM) + 10) ** -0.5).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32) * spectrum[:, None]

    def draw(rows: int) -> Vectors:
        return rng.standard_normal((rows, DIM), dtype=np.float32)

    def unit(rows: Vectors) -> Vectors:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    people = draw(count // EACH)
    vectors = np.empty((count, DIM), np.float32)
    for start in range(0, count, PART):
        rows = np.repeat(people[start // EACH : (start + PART) // EACH], EACH, 0) + 0.73 * draw(
            min(PART, count - start)
        )
        vectors[start : start + PART] = unit(rows @ turn)
    step = len(people) // PROBES
    probes = unit((people[: step * PROBES : step] + 0.73 * draw(PROBES)) @ turn)
    return vectors, probes, unit(draw(PROBES) @ turn)


def _brute_force(vectors: Vectors, probes: Vectors) -> tuple[NDArray[np.int64], float]:
    """The person nearest to each probe in float64, and the median cosine to her."""
    _tell("brute force in float64")
    best, who = np.full(PROBES, -2.0), np.zeros(PROBES, np.int64)
    query = probes.astype(np.float64).T
    query /= np.linalg.norm(query, axis=0)
    for start in range(0, len(vectors), PART):
        scores = _kept(vectors[start : start + PART]).astype(np.float64) @ query
        top, at = scores.max(0), scores.argmax(0)
        better = top > best
        best[better], who[better] = top[better], (start + at[better]) // EACH
    return who, round(float(np.median(best)), 3)


def _kept(rows: Vectors) -> Vectors:
    """As a gallery keeps them: divided by their length in float64, then float32."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    kept: Vectors = (rows / lengths[:, None]).astype(np.float32)
    return kept


def _enrolling(place: Path, vectors: Vectors) -> dict[str, Any]:
    with open_gallery(place) as gallery:
        return _enrolled(gallery, vectors)


def _enrolled(gallery: Gallery, vectors: Vectors) -> dict[str, Any]:
    _tell("enrolling in bulk")
    began = time.perf_counter()
    for start in range(0, len(vectors), PART):
        rows = vectors[start : start + PART]
        gallery.enrol_many(Enrolments([f"p{(start + i) // EACH}" for i in range(len(rows))], rows))
    bulk = len(vectors) / (time.perf_counter() - began)
    _tell("enrolling one by one")
    alone = _each(lambda i: gallery.enrol(f"alone{i}", vectors[i]), range(200))
    gone = _each(lambda i: gallery.forget(f"alone{i}"), range(len(alone)))
    return {
        "enrol_bulk_per_s": round(bulk), "enrol_one_by_one_per_s": round(len(alone) / sum(alone)),
        "forget_median_ms": _median(gone),
    }  # fmt: skip


def _searching(place: Path, *arguments: Any) -> dict[str, Any]:
    with open_gallery(place) as gallery:
        return _searched(gallery, *arguments)


def _searched(gallery: Gallery, probes: Vectors, strangers: Vectors, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Searches and readings of all codes in turns, for neither memory nor the machine is the same every second."""
    _tell("searching")
    index = gallery._index  # type: ignore[attr-defined]
    codes = index._codes[: len(gallery)]
    read, readings = _reading(codes), []
    figures: dict[str, Any] = {"code_gb": round(codes.nbytes / 1e9, 3)}
    for name, exact in (("exact", True), ("approximate", False)):
        search = partial(gallery.search, k=10, exact=exact)
        first = _timed(partial(search, probes[0]))
        found = [search(probe)[0].person for probe in probes]
        taken, others = [], []
        for probe, stranger in zip(probes[:ROUNDS], strangers[:ROUNDS], strict=True):
            if exact:
                readings.append(_timed(read))
            taken.append(_timed(partial(search, probe)))
            others.append(_timed(partial(search, stranger)))
        right = sum(person == f"p{who}" for person, who in zip(found, truth.tolist(), strict=True))
        figures[name] = {
            "first_ms": _ms(first), "median_ms": _median(taken), "p95_ms": _ms(sorted(taken)[-ROUNDS // 20]),
            "strangers_median_ms": _median(others), "top1_as_float64": f"{right} of {PROBES}",
        }  # fmt: skip
    limit = statistics.median(readings)
    figures |= {"limit_ms": _ms(limit), "limit_least_ms": _ms(min(readings))}
    figures["read_gb_per_s"] = round(codes.nbytes / 1e9 / limit, 1)
    figures["exact"]["share_of_limit"] = round(_ms(limit) / figures["exact"]["median_ms"], 3)
    same = [
        gallery.search(p, 1, exact=True)[0].person == gallery.search(p, 1, exact=False)[0].person for p in strangers
    ]
    figures["approximate"]["strangers_recall_at_1"] = f"{sum(same)} of {PROBES}"
    return figures


def _reading(array: NDArray[Any]) -> Callable[[], object]:
    """Two threads read an array by the fastest of NumPy's reductions."""
    halves, pool = np.array_split(array.reshape(-1), 2), ThreadPoolExecutor(2)
    ways: list[Callable[[NDArray[Any]], Any]] = [
        lambda part: part.view(np.int32).max(), lambda part: part.view(np.int64).max(),
        lambda part: part.view(np.int32).sum(dtype=np.int32),
    ]  # fmt: skip
    fastest = min(ways, key=lambda way: min(_each(lambda way: list(pool.map(way, halves)), [way] * 10)))
    return lambda: list(pool.map(fastest, halves))


def _beside(name: str, part: Vectors, queries: Vectors, nearest: list[int], folder: Path) -> dict[str, Any]:
    """One library with the same vectors."""
    began = time.perf_counter()
    search = _ours(part, folder) if name == "normface" else getattr(galleries, name)(part, folder)
    made = time.perf_counter() - began
    right = sum(search(query) == n for query, n in zip(queries, nearest, strict=True))
    return {
        "enrol_per_s": round(len(part) / made), "median_ms": _median(_each(search, queries)),
        "top1_as_float64": f"{right} of {len(queries)}",
    }  # fmt: skip


def _with_all(name: str, vectors: Vectors, queries: Vectors, folder: Path) -> dict[str, Any]:
    search = getattr(galleries, name)(vectors, folder)
    search(queries[0])
    return {"median_ms": _median(_each(search, queries[:10]))}


def _ours(part: Vectors, folder: Path) -> galleries.Search:
    gallery = open_gallery(folder / "beside.db")
    for start in range(0, len(part), PART):
        rows = part[start : start + PART]
        gallery.enrol_many(Enrolments([str(start + i) for i in range(len(rows))], rows))
    return lambda query: int(gallery.search(query)[0].person or -1)


def _sealed(vectors: Vectors) -> dict[str, Any]:
    """What encryption costs."""
    _tell("sealed")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "sealed.db")
        with open_gallery(place, key=b"k" * 32) as gallery:
            began = time.perf_counter()
            for start in range(0, len(vectors), PART):
                rows = vectors[start : start + PART]
                gallery.enrol_many(Enrolments([f"p{(start + i) // EACH}" for i in range(len(rows))], rows))
            made = time.perf_counter() - began
            len(gallery)
        opening = _timed(lambda: open_gallery(place, key=b"k" * 32).close())
    return {"templates": len(vectors), "enrol_bulk_per_s": round(len(vectors) / made), "open_s": round(opening, 2)}


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _each(work: Callable[[Any], object], items: Iterable[Any]) -> list[float]:
    """Seconds that work takes for each item."""
    return [_timed(partial(work, item)) for item in items]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _median(seconds: list[float]) -> float:
    return _ms(statistics.median(seconds))


def _tell(what: str) -> None:
    print(f"{time.strftime('%X')} {what} …", file=sys.stderr, flush=True)
