"""Photographs to aligned crops (decode, detect, align) on all cores: ours beside facenet-pytorch's MTCNN.

Medians of interleaved rounds on the same LFW photographs, 250×250, faces of 20 pixels and more. Decoding and alignment
are ours for both: the peer has neither. The peer runs a photograph at a time and in batches on all cores and, arranged
here, in one process of one thread for each core. Distances are between each system's landmarks and those that the
authors' Caffe MTCNN found, of the face nearest the center, over all 807 photographs.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.harness.faces import faces as folder_of_faces
from benchmarks.harness.faces import kind_of_faces
from benchmarks.harness.sheet import LeftOut, Sheet
from benchmarks.peers import facenet_pytorch
from normface.data import open_reader
from normface.faces import DETECTORS, align, central
from normface.faces.photographs import read_landmarks
from normface.prefetch import map_ahead
from normface.system_facts import usable_cores
from normface.types import Face, Floats, Image

QUICK = 45
MIN_FACE = 20
CORES = usable_cores()
Landmarks = list[Floats | None]
Ways = dict[str, Callable[[Sequence[int]], Landmarks]]
_things: dict[str, Any] = {}


def run(sheet: Sheet) -> None:
    """images/s, their ratio, and the landmarks' distances."""
    reader, rounds = _reader(), sheet.pick(5, 2)
    photographs = min(sheet.pick(200, 40), len(reader))
    chosen = range(0, photographs * (len(reader) // photographs), len(reader) // photographs)
    sheet.figures |= {
        "faces": kind_of_faces(), "photographs": len(chosen), "rounds": rounds, "min_face": MIN_FACE,
    }  # fmt: skip
    cv2.setNumThreads(1)
    torch.set_num_threads(CORES)
    ways: Ways = {"ours": ours}
    with ExitStack() as stack:
        if sheet.attempt("facenet-pytorch", _load_peer):
            spread = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(CORES, spread, initializer=_one_thread))
            ways |= {
                "facenet-pytorch": lambda rows: peer(rows, 1),
                "facenet-pytorch, by 32": lambda rows: peer(rows, 32),
                "facenet-pytorch, processes": lambda rows: _spread(pool, rows),
            }
        speeds = sheet.measure("images_per_second", _speeds, ways, chosen, rounds)
        compared = ["ours"]
        if speeds and len(ways) > 1:
            compared.append(max(list(ways)[1:], key=lambda name: speeds[name]))
            sheet.put("ratio_to_the_peer_as_it_comes", round(speeds["ours"] / speeds["facenet-pytorch"], 2))
            sheet.put("ratio_to_its_best", round(speeds["ours"] / speeds[compared[1]], 2))
        for name in compared if speeds else ():
            sheet.measure(f"landmarks/{name}", _distances, reader, ways[name])


def _load_peer() -> bool:
    _kept("peer", lambda: facenet_pytorch.load(MIN_FACE))
    return True


def _speeds(ways: Ways, chosen: Sequence[int], rounds: int) -> dict[str, float]:
    """images/s of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way(chosen)
            times[name] += [time.perf_counter() - began] * (turn > 0)  # the first warms up
    return {name: round(len(chosen) / statistics.median(spent), 1) for name, spent in times.items()}


def ours(rows: Sequence[int]) -> Landmarks:
    """Eight photographs a thread."""
    detector = _kept("ours", lambda: DETECTORS.build("mtcnn", min_face=MIN_FACE))

    def some(part: Sequence[int]) -> Landmarks:
        images = [_reader().read(row) for row in part]
        return [_aligned(image, faces) for image, faces in zip(images, detector.detect_many(images), strict=True)]

    parts = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    return [found for part in map_ahead(some, parts, depth=2 * CORES, threads=CORES) for found in part]


def peer(rows: Sequence[int], batch: int) -> Landmarks:
    """`batch` photographs at a time; all are of one size, as it wants them."""
    detector = _kept("peer", lambda: facenet_pytorch.load(MIN_FACE))
    found: Landmarks = []
    for start in range(0, len(rows), batch):
        images = [_reader().read(row) for row in rows[start : start + batch]]
        for image, faces in zip(images, _faces(detector, np.stack(images)), strict=True):
            found.append(_aligned(image, faces))
    return found


def _faces(detector: Any, images: Image) -> Iterator[list[Face]]:
    for boxes, scores, points in zip(*detector.detect(images, landmarks=True), strict=True):
        each = [] if boxes is None else zip(boxes, points, scores, strict=True)
        yield [Face(tuple(box), np.asarray(five, np.float64), float(score)) for box, five, score in each]


def _aligned(image: Image, faces: list[Face]) -> Floats | None:
    if not faces:
        return None
    landmarks = central(faces, image.shape).landmarks
    align(image, landmarks)
    return landmarks


def _distances(reader: Any, way: Callable[[Sequence[int]], Landmarks]) -> dict[str, Any]:
    file = folder_of_faces() / "lfw" / "landmarks-mtcnn.txt"
    if not file.exists():
        raise LeftOut("the authors' landmarks of LFW are not there; lay landmarks-mtcnn.txt into lfw of --data DIR")
    known = read_landmarks(file)
    pairs = zip(way(range(len(reader))), reader.ids.tolist(), strict=True)
    offsets = np.array([found - known[name] for found, name in pairs if found is not None])
    shift = offsets.mean((0, 1))
    return {
        "found": len(offsets), "of": len(reader), "median_px": _median(offsets),
        "mean_shift_px": shift.round(2).tolist(), "median_px_without_the_shift": _median(offsets - shift),
    }  # fmt: skip


def _median(offsets: Floats) -> float:
    return round(float(np.median(np.hypot(offsets[..., 0], offsets[..., 1]).mean(1))), 3)


def _spread(pool: ProcessPoolExecutor, rows: Sequence[int]) -> Landmarks:
    parts = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    return [found for part in pool.map(_one_by_one, parts) for found in part]


def _one_by_one(rows: Sequence[int]) -> Landmarks:
    return peer(rows, 1)


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _reader() -> Any:
    return _kept("reader", lambda: open_reader(folder_of_faces() / "lfw" / "lfw-raw-fold1.zip"))


def _kept(name: str, make: Callable[[], Any]) -> Any:
    """One of each in a process."""
    if name not in _things:
        _things[name] = make()
    return _things[name]
