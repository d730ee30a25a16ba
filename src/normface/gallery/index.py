"""Search in memory: int8 codes for candidates, the store's own vectors in float64 for the verdict.

A template x is kept as c·s: c int8 [D], s one float. For unit x and query q with codes x̂, q̂ the scores differ by no
more than ‖q − q̂‖·‖x̂‖ + ‖x − x̂‖ (Cauchy-Schwarz). So whoever scores by codes further than that below the k-th best exact
score cannot be among the best k: the exact search reads some dozen vectors from the store and is right by proof.

The approximate search compares 512 bits (signs after a fixed random rotation, Charikar 2002) and looks so at a short
list only. Nothing is trained, so nothing has to be kept, forgotten or trained again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..errors import require

BLOCK = 256  # templates whose greatest score is looked at together
TASK = 256 * BLOCK  # templates a thread takes at once: their scores stay in its cache
BITS = 512  # of a sketch
SHORT_LIST = 1000  # sketches nearest to the query's that are looked at again
FETCH = 32  # vectors read from the store at once

Fetch = Callable[[NDArray[np.int64]], dict[int, NDArray[np.float32]]]


class Index:
    """Codes of the templates, in no order; removed ones leave no trace.

    `fetch` gives the vectors of template numbers, as far as they still exist.
    """

    def __init__(self, dim: int, fetch: Fetch) -> None:
        self.dim, self._fetch = dim, fetch
        self._kernel = require("numkong", "gallery").cdist
        self._count, self._error = 0, 0.0
        self._codes = np.zeros((1024, dim), np.int8)
        self._scales = np.zeros(1024, np.float32)
        self._ids, self._owners = np.zeros(1024, np.int64), np.zeros(1024, np.int64)
        self._scores = np.zeros(1024, np.float32)  # of the last query: new memory would cost more than its filling
        self._sketched: NDArray[np.uint8] | None = None  # made when the first approximate search asks for it
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = min(threads, 16)
        self._pool = ThreadPoolExecutor(self._threads)

    def __len__(self) -> int:
        return self._count

    def _resize(self, capacity: int) -> None:
        for name in ("_codes", "_scales", "_ids", "_owners", "_sketched"):
            old = getattr(self, name)
            if old is not None:
                new = np.zeros((capacity, *old.shape[1:]), old.dtype)
                new[: self._count] = old[: self._count]
                old[:] = 0  # nothing lingers in memory that is given back
                setattr(self, name, new)
        self._scores = np.zeros(-(-capacity // BLOCK) * BLOCK, np.float32)

    def add(self, ids: NDArray[np.int64], owners: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Take in templates: their numbers, their people's numbers [N], and unit vectors [N, D]."""
        rows = slice(self._count, self._count + len(ids))
        if rows.stop > len(self._ids):
            self._resize(max(rows.stop, 3 * len(self._ids) // 2))
        codes, scales, error = _quantise(vectors)
        self._codes[rows], self._scales[rows], self._ids[rows], self._owners[rows] = codes, scales, ids, owners
        self._error = max(self._error, error)
        if self._sketched is not None:
            self._sketched[rows] = _sketch(vectors)
        self._count = rows.stop

    def remove(self, owner: int) -> int:
        """Drop a person's templates; returns how many there were."""
        gone = np.flatnonzero(self._owners[: self._count] == owner)
        left = self._count - len(gone)
        movers = np.setdiff1d(np.arange(left, self._count), gone, assume_unique=True)
        holes = gone[gone < left]
        for array in (self._codes, self._scales, self._ids, self._owners, self._sketched):
            if array is not None:
                array[holes] = array[movers]
                array[left : self._count] = 0
        self._count = left
        return len(gone)

    def search(self, query: NDArray[np.float64], k: int, exact: bool) -> list[tuple[int, float]]:
        """The k best people for a unit query [D]: (person's number, exact cosine of her best template), best first."""
        if not self._count:
            return []
        if exact:
            scores, peaks = self._scan(query)
            return self._refine(query, k, None, scores, peaks)
        rows = self._short_list(query, max(SHORT_LIST, 10 * k))
        codes, scales, _ = _quantise(query[None].astype(np.float32))
        raw = np.asarray(self._kernel(codes, self._codes[rows], "dot", out_dtype="float32"))[0]
        scores = raw * (self._scales[rows] * scales[0])
        return self._refine(query, k, rows, scores, scores)

    def _scan(self, query: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores by codes of all templates, and the greatest of each BLOCK."""
        codes, scales, _ = _quantise(query[None].astype(np.float32))
        blocks = -(-self._count // BLOCK)
        scores = self._scores[: blocks * BLOCK]
        scores[self._count :] = -np.inf
        peaks = np.empty(blocks, np.float32)

        def work(start: int) -> None:
            stop = min(start + TASK, self._count)
            raw = np.asarray(self._kernel(codes, self._codes[start:stop], "dot", out_dtype="float32"))[0]
            np.multiply(raw, self._scales[start:stop], out=scores[start:stop])
            scores[start:stop] *= scales[0]
            end = -(-stop // BLOCK) * BLOCK
            scores[start:end].reshape(-1, BLOCK).max(1, out=peaks[start // BLOCK : end // BLOCK])

        list(self._pool.map(work, range(0, self._count, TASK)))
        return scores[: self._count], peaks

    def _refine(
        self,
        query: NDArray[np.float64],
        k: int,
        rows: NDArray[np.int64] | None,
        scores: NDArray[np.float32],
        peaks: NDArray[np.float32],
    ) -> list[tuple[int, float]]:
        """The best people by their own vectors among `rows` (None: all), whose scores by codes these are."""
        coded = _restored(query)
        doubt = float(np.linalg.norm(query - coded)) * (1 + self._error) + self._error + 1e-6
        best: dict[int, float] = {}
        bar = -np.inf  # the k-th best person's exact score
        for part in _descending(scores, peaks, 4 * k):
            for start in range(0, len(part), FETCH):
                some = part[start : start + FETCH]
                some = some[scores[some] + doubt >= bar]
                if not some.size:
                    break
                at = some if rows is None else rows[some]
                ids, owners = self._ids[at], self._owners[at].tolist()
                vectors = self._fetch(ids)
                for number, owner in zip(ids.tolist(), owners, strict=True):
                    if number in vectors:
                        score = float(vectors[number].astype(np.float64) @ query)
                        best[owner] = max(score, best.get(owner, -np.inf))
                if len(best) >= k:
                    bar = sorted(best.values())[-k]
            if len(part) and scores[part[-1]] + doubt < bar:
                break
        return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:k]

    def _short_list(self, query: NDArray[np.float64], length: int) -> NDArray[np.int64]:
        """Rows of the sketches nearest to the query's."""
        faiss = require("faiss", "gallery")
        if self._sketched is None:
            self._sketched = np.zeros((len(self._ids), BITS // 8), np.uint8)
            for start in range(0, self._count, TASK):
                rows = slice(start, min(start + TASK, self._count))
                self._sketched[rows] = _sketch(self._codes[rows].astype(np.float32))
        sketches: NDArray[np.uint8] = self._sketched
        probe = _sketch(query[None].astype(np.float32))
        step = -(-self._count // self._threads)

        def work(start: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
            part = sketches[start : min(start + step, self._count)]
            far, near = faiss.knn_hamming(probe, part, min(length, len(part)), variant="mc")
            return far[0], near[0] + start

        far, near = map(np.concatenate, zip(*self._pool.map(work, range(0, self._count, step)), strict=True))
        found: NDArray[np.int64] = near[np.argsort(far, kind="stable")[:length]]
        return found

    def close(self) -> None:
        """Overwrite the codes and end the threads."""
        self._pool.shutdown()
        self._count = 0
        self._resize(0)


def _descending(scores: NDArray[np.float32], peaks: NDArray[np.float32], first: int) -> Iterator[NDArray[np.int64]]:
    """Rows by falling score, the best `first` or more of them first, then four times as many and so on."""
    ordered = np.sort(peaks)[::-1]
    above, many = np.float32(np.inf), first
    while True:
        low = ordered[many] if many < len(ordered) else np.float32(-np.inf)
        part = (
            np.flatnonzero((scores >= low) & (scores < above)) if np.isfinite(above) else np.flatnonzero(scores >= low)
        )
        yield part[np.argsort(-scores[part], kind="stable")]
        if many >= len(ordered):
            return
        above, many = low, 4 * many


def _quantise(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32], float]:
    """Codes [N, D], a scale for each row, and the greatest distance of a row from what its code says."""
    scales = (np.maximum(vectors.max(1), -vectors.min(1)) / 127).astype(np.float32)
    scaled = vectors / scales[:, None]
    codes = np.rint(scaled)
    scaled -= codes
    errors = np.sqrt(np.einsum("nd,nd->n", scaled, scaled)) * scales
    return codes.astype(np.int8), scales, float(errors.max())


def _restored(query: NDArray[np.float64]) -> NDArray[np.float64]:
    codes, scales, _ = _quantise(query[None].astype(np.float32))
    restored: NDArray[np.float64] = codes[0].astype(np.float64) * float(scales[0])
    return restored


@cache
def _rotation(dim: int) -> NDArray[np.float32]:
    """BITS random directions: no secret, and the same for everybody."""
    return np.random.default_rng(0).standard_normal((dim, BITS)).astype(np.float32)


def _sketch(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.packbits(vectors @ _rotation(vectors.shape[1]) > 0, axis=1)
