"""Search in memory: int8 codes select candidates, the stored vectors in float64 give their scores.

A template x is kept as x̂ = c·s: c int8 [D], s one float. For a unit query q with code q̂ its score q·x differs from
q̂·x̂, which the scan computes, by no more than ‖q − q̂‖·‖x̂‖ + ‖x − x̂‖, and from q·x̂ by no more than ‖x − x̂‖
(Cauchy-Schwarz). So a template whose score is further than that below the k-th best exact score cannot be among the
best k: the exact search reads a few dozen vectors from the store, and its result is proven.

The approximate search selects a short list by 512 bits (signs of fixed random projections, Charikar 2002), and reads
those with the best codes from the store: their scores are exact, their selection is not. Nothing is trained, so
nothing has to be stored, forgotten or retrained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import cosine
from ..errors import require
from ..system_facts import usable_cores

BLOCK = 256  # templates whose greatest score is looked at together
TASKS = 8  # of a thread in a scan, alike in size: one that ends early takes one more, and starting them costs little
BITS = 512  # of a sketch
SKETCHED_AT_ONCE = 4096  # templates sketched at once
SHORT_LIST = 1000  # sketches nearest to the query's that are looked at again
AMONG = 8192  # templates of some people that are looked at together
FETCH = 1024  # vectors read from the store at once

Ints = NDArray[np.int64]
Reals = NDArray[np.float32]


class Index:
    """Codes of the templates, in no order; removed ones leave no trace.

    `fetch` gives the vectors [N, D] of template numbers [N]; `room` is for how many templates memory is taken at first.
    """

    def __init__(self, dim: int, fetch: Callable[[Ints], Reals], room: int = 0) -> None:
        self.dim, self._fetch = dim, fetch
        self._kernel = require("numkong", "gallery").cdist
        self._count, self._error = 0, 0.0  # the greatest distance of a template from its code
        self._rounding = (dim + 8) * 2**-23  # of sums in float32
        room = max(room, 1024)
        self._codes = np.zeros((room, dim), np.int8)
        self._scales = np.zeros(room, np.float32)
        self._ids, self._owners = np.zeros(room, np.int64), np.zeros(room, np.int64)
        self._scores = np.zeros(room, np.float32)  # of the last query: new memory would cost more than its filling
        self._sketched: NDArray[np.uint8] | None = None  # made when the first approximate search asks for it
        threads = usable_cores()
        self._threads = min(threads, 16)
        self._executor, self._process = ThreadPoolExecutor(self._threads), os.getpid()
        np.empty(2**24, np.uint8)  # given back at once: from now on glibc keeps so much for the parts that `add` codes

    def __len__(self) -> int:
        return self._count

    @property
    def _pool(self) -> ThreadPoolExecutor:
        """The threads of this process: a forked child has none of its parent's."""
        if self._process != os.getpid():
            self._executor, self._process = ThreadPoolExecutor(self._threads), os.getpid()
        return self._executor

    def _resize(self, capacity: int) -> None:
        for name in ("_codes", "_scales", "_ids", "_owners", "_sketched"):
            old = getattr(self, name)
            if old is not None:
                new = np.zeros((capacity, *old.shape[1:]), old.dtype)
                new[: self._count] = old[: self._count]
                old[:] = 0  # nothing lingers in memory that is given back
                setattr(self, name, new)
        self._scores = np.zeros(capacity, np.float32)

    def add(self, ids: Ints, owners: Ints, vectors: Reals) -> None:
        """Take in templates: their numbers, their people's numbers [N], and unit vectors [N, D]."""
        rows = slice(self._count, self._count + len(ids))
        if rows.stop > len(self._ids):
            self._resize(max(rows.stop, 3 * len(self._ids) // 2))
        codes, scales, error = _quantise(vectors)
        self._codes[rows], self._scales[rows], self._ids[rows], self._owners[rows] = codes, scales, ids, owners
        self._error = max(self._error, error)
        if self._sketched is not None:
            self._sketched[rows] = _sketch(codes)
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
        """The k best people for a unit query [D]: (person's number, exact cosine of the best template), best first."""
        if not self._count:
            return []
        codes, (scale,), error = _quantise(query[None].astype(np.float32))
        if exact:
            slack = self._error + self._rounding
            doubt = slack + (error + 1e-6) * (1 + self._error)
            parts = _descending(*self._scan(codes), BLOCK, 4 * k)
        else:  # whose code looks worse is passed over
            slack = doubt = 0.0
            listed, scores = self._short_list(codes, max(SHORT_LIST, 10 * k))
            parts = ((listed[part], raw, low) for part, raw, low in _descending(scores, scores, 1, 4 * k))
        bounded = ((rows, raw * scale + doubt, float(low * scale) + doubt) for rows, raw, low in parts)
        return self._best(query, k, bounded, slack)

    def search_among(self, query: NDArray[np.float64], k: int, owners: Ints) -> list[tuple[int, float]]:
        """As an exact `search`, among some people only: their numbers are `owners` [M]."""
        rows = np.flatnonzero(np.isin(self._owners[: self._count], owners))
        starts = range(0, len(rows), AMONG)
        parts = ((rows[at : at + AMONG], np.full(len(rows[at : at + AMONG]), np.inf), np.inf) for at in starts)
        return self._best(query, k, parts, self._error + self._rounding)

    def _scan(self, probe: NDArray[np.int8]) -> tuple[Reals, Reals]:
        """Scores by codes of all templates, and the greatest of each BLOCK, in units of the probe's scale."""
        scores = self._scores[: self._count]
        peaks = np.empty(-(-self._count // BLOCK), np.float32)
        task = BLOCK * max(16, -(-len(peaks) // (TASKS * self._threads)))

        def work(start: int) -> None:
            rows = slice(start, min(start + task, self._count))
            np.multiply(self._raw(probe, self._codes[rows]), self._scales[rows], out=scores[rows])
            begins = np.arange(0, rows.stop - start, BLOCK)
            np.maximum.reduceat(scores[rows], begins, out=peaks[start // BLOCK :][: len(begins)])

        list(self._pool.map(work, range(0, self._count, task)))
        return scores, peaks

    def _short_list(self, probe: NDArray[np.int8], length: int) -> tuple[Ints, Reals]:
        """Rows of the sketches nearest to the probe's, as many of each thread's, and their scores by codes."""
        faiss = require("faiss", "gallery")
        if self._sketched is None:
            self._sketched = np.zeros((len(self._ids), BITS // 8), np.uint8)
            list(self._pool.map(self._sketch_rows, range(0, self._count, SKETCHED_AT_ONCE)))
        sketches: NDArray[np.uint8] = self._sketched
        sketch, step, length = _sketch(probe), -(-self._count // self._threads), -(-length // self._threads)

        def work(start: int) -> tuple[Ints, Reals]:
            faiss.omp_set_num_threads(1)  # of this thread: it is one of the pool's already
            part = sketches[start : min(start + step, self._count)]
            rows = faiss.knn_hamming(sketch, part, min(length, len(part)), variant="mc")[1][0] + start
            return rows, self._raw(probe, self._codes[rows]) * self._scales[rows]

        rows, scores = zip(*self._pool.map(work, range(0, self._count, step)), strict=True)
        return np.concatenate(rows), np.concatenate(scores)

    def _raw(self, probe: NDArray[np.int8], codes: NDArray[np.int8]) -> Reals:
        raw: Reals = np.asarray(self._kernel(probe, codes, "dot", out_dtype="float32"))[0]
        return raw

    def _best(
        self, query: NDArray[np.float64], k: int, parts: Iterable[tuple[Ints, Reals, float]], slack: float
    ) -> list[tuple[int, float]]:
        """The best people by their own vectors, of rows in parts: with bounds of their scores, and of all later ones'.

        `slack`: how far a score may lie above the query's product with the code.
        """
        best: dict[int, float] = {}
        bar = -np.inf  # the k-th best person's exact score
        grid = cosine.exact(query)
        for rows, bounds, later in parts:
            rows = rows[bounds >= bar]
            most = _dots(self._codes[rows], query.astype(np.float32)) * self._scales[rows] + slack
            falling = np.argsort(-most, kind="stable")
            rows, most = rows[falling], most[falling]
            owners, read = self._owners[rows], np.zeros(len(rows), bool)
            while True:
                known = np.array([best.get(owner, bar) for owner in owners.tolist()])
                some = np.flatnonzero((most >= np.maximum(known, bar)) & ~read)[:FETCH]
                if not best:  # at first one template of each of the k people who look best, which gives a bar
                    some = np.sort(np.unique(owners, return_index=True)[1])[:k]
                if not some.size:
                    break
                read[some] = True
                scores = cosine.paired(cosine.exact(self._fetch(self._ids[rows[some]])), grid)
                for owner, score in zip(owners[some].tolist(), scores.tolist(), strict=True):
                    best[owner] = max(score, best.get(owner, -np.inf))
                if len(best) >= k:
                    bar = sorted(best.values())[-k]
            if later < bar:
                break
        return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:k]

    def _sketch_rows(self, start: int) -> None:
        rows = slice(start, min(start + SKETCHED_AT_ONCE, self._count))
        assert self._sketched is not None
        self._sketched[rows] = _sketch(self._codes[rows])

    def close(self) -> None:
        """Overwrite the codes and end the threads."""
        self._pool.shutdown()
        self._count = 0
        self._resize(0)


def _descending(scores: Reals, peaks: Reals, block: int, first: int) -> Iterator[tuple[Ints, Reals, Any]]:
    """Rows and scores, falling: `first` or more of them, then four times as many and so on, each with the lowest score.

    `peaks` are the greatest scores of each `block` rows: only blocks that hold somebody are looked at.
    """
    ordered, above = np.sort(peaks)[::-1], np.inf
    while above > -np.inf:
        low = ordered[first] if first < len(ordered) else -np.inf
        rows = (np.flatnonzero(peaks >= low)[:, None] * block + np.arange(block)).ravel()
        rows = rows[rows < len(scores)]
        rows = rows[(scores[rows] >= low) & (scores[rows] < above)]
        yield rows, scores[rows], low
        above, first = low, 4 * first


def _quantise(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32], float]:
    """Codes [N, D], a scale for each row, and the greatest distance of a row from what its code says."""
    scales = (np.maximum(vectors.max(1), -vectors.min(1)) / 127).astype(np.float32)
    scaled = vectors / scales[:, None]
    codes = np.rint(scaled)
    scaled -= codes
    errors = np.sqrt(np.einsum("nd,nd->n", scaled, scaled)) * scales
    return codes.astype(np.int8), scales, float(errors.max())


def _dots(rows: NDArray[Any], query: NDArray[Any]) -> NDArray[Any]:
    """Dot products [N] in the query's precision. So few are not worth waking BLAS's threads."""
    dots: NDArray[Any] = np.einsum("nd,d->n", rows.astype(query.dtype), query)
    return dots


@cache
def _directions(dim: int) -> Any:
    """BITS random directions, packed for the kernel: no secret, and the same for everybody."""
    drawn = np.random.default_rng(0).standard_normal((BITS, dim))
    return require("numkong", "gallery").dots_pack(np.rint(drawn * (127 / np.abs(drawn).max())).astype(np.int8), "int8")


def _sketch(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Codes [N, D] → [N, BITS / 8]: on which side of each direction they lie."""
    projected = require("numkong", "gallery").dots_packed(codes, _directions(codes.shape[1]))
    return np.packbits(np.asarray(projected) > 0, axis=1)
