"""Photographs of concurrent requests → faces and embeddings, in batches: free workers share what is waiting."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ..data.decoding import decode, decoding_cost
from ..embed import Embedder, FaceRecord, Portrait
from ..embed.embedder import Mirror
from ..embed.seen import no_face
from ..errors import DataError, NormfaceError
from ..faces import Choice
from ..faces.alignment import retarget
from ..faces.finding import find_portraits
from ..faces.photographs import DETAIL, Photograph
from ..types import Image
from .limits import Budget

LOOKED_AT = 2_000_000  # pixels at most of what is left
DETECTION = 40  # bytes that detection needs a pixel
BYTES = 3  # of a pixel
MOST_FACES = 32  # of a photograph whose faces are all wanted: the most certain ones
SCANS = 64  # of a JPEG: each costs a pass over all pixels, and a hundred bytes; cameras write 1, the web some 10


@dataclass(frozen=True)
class _Job:
    data: bytes
    name: str
    aligned: bool
    mirror: Mirror
    faces: Choice
    done: Future[list[FaceRecord]] = field(default_factory=Future)


@dataclass(frozen=True)
class _Plan:
    """How a photograph is decoded: keeping `shorter` pixels of its shorter side to look at, and for the crop at no more
    than 1/`finest` of its size; `bytes` bounds what all of it needs."""

    shorter: int
    finest: int
    bytes: int


class Engine:
    """An Embedder shared by all requests.

    Args:
        workers: number of threads.
        batch: largest batch of photographs per worker.
        max_pixels: largest photograph; larger ones are refused before decoding.
        memory: bytes that all photographs may need at a time while they are decoded and looked at.
        observe: called with size and seconds of each batch.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        workers: int,
        batch: int,
        max_pixels: int,
        memory: int = 384 << 20,
        observe: Callable[[int, float], object] = lambda size, seconds: None,
    ) -> None:
        self.embedder, self.workers, self.batch, self.max_pixels = embedder, workers, batch, max_pixels
        self.template = embedder.template
        self.memory = memory
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._pace = 0.1  # seconds a photograph, of one worker, lately
        embedder.detector  # noqa: B018  # made now, not by the first request
        self._start()
        _engines.add(self)

    def _start(self) -> None:
        """Start the threads; a forked child has none of its parent's, and takes none of its photographs."""
        self._jobs.clear()
        self.budget = Budget(self.memory)
        self._ready = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{i}", daemon=True) for i in range(self.workers)
        ]
        for thread in self._threads:
            thread.start()

    def after_fork(self) -> None:
        """Go on in a forked child, as servers that load the application first and fork then need it."""
        if not self._closed:
            self._start()

    async def see(
        self, photographs: Sequence[tuple[str, bytes]], *, aligned: bool = False, mirror: Mirror = "sum",
        faces: Choice = "center",
    ) -> list[list[FaceRecord]]:  # fmt: skip
        """Find and embed the chosen faces of each (name for messages, bytes). Canceling drops what is not begun.

        mirror: "sum" embeds both orientations, "none" one. faces: of "all" at most MOST_FACES.

        Raises the error of the first photograph that has one: DataError for an unreadable or too large image,
        FaceError if no face is found, InputError for an aligned image of no known template's size.
        """
        jobs = [_Job(data, name, aligned, mirror, faces) for name, data in photographs]
        with self._ready:
            if self._closed:
                raise RuntimeError("closed")
            self._jobs += jobs
            self._ready.notify(len(jobs))
        waiting = [asyncio.wrap_future(job.done) for job in jobs]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        error = next((each for each in found if isinstance(each, BaseException)), None)
        if error is not None:
            del jobs, waiting, found  # its traceback holds this frame: a frame that holds it too would keep the uploads
            try:
                raise error
            finally:
                del error
        return [each for each in found if not isinstance(each, BaseException)]

    @property
    def waiting(self) -> int:
        """Number of photographs that no worker has taken yet."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """True while the threads run."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def wait(self) -> float:
        """Estimated seconds until the waiting photographs are done, by recent speed."""
        return (self.waiting + self.workers) * self._pace / self.workers

    def close(self) -> None:
        """Finish waiting photographs, then end the threads."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._jobs and not self._closed:
                    self._ready.wait()
                if not self._jobs:
                    return
                share = min(self.batch, -(-len(self._jobs) // self.workers))
                taken = [self._jobs.popleft() for _ in range(share)]
            self._do([job for job in taken if job.done.set_running_or_notify_cancel()])
            del taken  # or this frame would keep photographs while it waits

    def _do(self, taken: list[_Job]) -> None:
        """Answer jobs, and keep the figures."""
        if not taken:
            return
        began = time.perf_counter()
        for part, needed in self._planned(taken):
            with self.budget.held(needed):
                self._see(part)
        spent = time.perf_counter() - began
        self._pace += 0.1 * (spent / len(taken) - self._pace)
        self._observe(len(taken), spent)

    def _planned(self, jobs: list[_Job]) -> Iterator[tuple[list[tuple[_Job, _Plan]], int]]:
        """Jobs in parts that fit into the memory together, with what they need; answers those that never fit."""
        part: list[tuple[_Job, _Plan]] = []
        needed = 0
        for job in jobs:
            try:
                plan = self._plan(job)
            except Exception as error:
                _fail(job, error)
                continue
            if part and needed + plan.bytes > self.memory:
                yield part, needed
                part, needed = [], 0
            part.append((job, plan))
            needed += plan.bytes
        if part:
            yield part, needed

    def _plan(self, job: _Job) -> _Plan:
        """Choose how to decode a photograph. Raises DataError if it needs more memory than there is."""
        check_scans(job.data, job.name)
        height, width, beside = decoding_cost(job.data, job.name, max_pixels=self.max_pixels)
        pixels = height * width
        if job.aligned:
            shape = np.broadcast_to(np.uint8(0), (1, height, width, 3))
            retarget(shape, self.embedder.spec.template)  # refuses other sizes, before they are decoded
            return _Plan(0, 1, beside + 2 * BYTES * pixels)
        several = job.faces == "all"
        plan = self._plan_for(height, width, beside, several)
        if plan.bytes <= self.memory:
            return plan
        shares = (share / 100 for share in range(95, 0, -5))
        sizes = ((round(height * each), round(width * each), int(beside * each**2)) for each in shares)
        fits = (f"{w} × {h}" for h, w, b in sizes if self._plan_for(h, w, b, several).bytes <= self.memory)
        raise DataError(
            f"{job.name} to need at most {self.memory >> 20:,} MiB to decode",
            f"{plan.bytes >> 20:,} MiB for {width} × {height} pixels of this kind of file",
            f"send it with at most {next(fits, '1 × 1')} pixels, or as a baseline JPEG, which needs least",
        )

    def _plan_for(self, height: int, width: int, beside: int, several: bool) -> _Plan:
        """The plan for a photograph of a size whose decoder needs so many bytes beside the pixels."""
        pixels = height * width
        factors = (1, 2, 4, 8)
        enough = [f for f in factors if f == 1 or min(height, width) // f >= DETAIL]
        look = next((f for f in factors if f >= enough[-1] and pixels <= LOOKED_AT * f * f), 8)
        looking = beside + (2 * BYTES + DETECTION) * pixels // look**2
        # Of the crop: the pixels, turned upright, and blurred; of several also at coarser sizes, a third as much.
        kept = beside + 2 * BYTES * pixels // look**2
        cutting = {f: kept + (3 + several) * BYTES * pixels // f**2 for f in factors if f < look}
        finest = next((f for f, needed in cutting.items() if needed <= self.memory), look)
        return _Plan(min(height, width) // look, finest, max(looking, cutting.get(finest, 0)))

    def _see(self, jobs: list[tuple[_Job, _Plan]]) -> None:
        """Answer every job, with what was seen or with its error."""
        cut: list[tuple[_Job, list[Portrait]]] = []
        opened: list[tuple[_Job, Photograph]] = []
        for job, plan in jobs:
            try:
                if job.aligned:
                    crop = retarget(self._decode(job)[None], self.embedder.spec.template)[0]
                    cut.append((job, [Portrait(crop)]))
                else:
                    photograph = Photograph.open(
                        job.data, job.name, detail=plan.shorter, finest=plan.finest, max_pixels=self.max_pixels,
                        strict=True,
                    )  # fmt: skip
                    opened.append((job, photograph))
            except Exception as error:
                _fail(job, error)
        try:
            cut += self._find(opened)
            for mirror in {job.mirror for job, _ in cut}:
                alike = [each for each in cut if each[0].mirror == mirror]
                portraits = [portrait for _, found in alike for portrait in found]
                parts = (portraits[start : start + self.batch] for start in range(0, len(portraits), self.batch))
                records = iter([each for part in parts for each in self.embedder.see(part, mirror=mirror)])
                for job, found in alike:
                    job.done.set_result([next(records) for _ in found])
        except Exception as error:  # one photograph must not spoil the others': each alone
            left = [each for each in jobs if not each[0].done.done()]
            for each in left:
                if len(jobs) == 1:
                    _fail(each[0], error)
                else:
                    self._see([each])

    def _decode(self, job: _Job) -> Image:
        return decode(job.data, job.name, strict=True, max_pixels=self.max_pixels)

    def _find(self, opened: list[tuple[_Job, Photograph]]) -> list[tuple[_Job, list[Portrait]]]:
        """Detect and align; photographs without a face are answered here."""
        cut = []
        found = find_portraits(
            self.embedder.detector, [photograph for _, photograph in opened], self.template,
            [job.faces for job, _ in opened], most=MOST_FACES,
        )  # fmt: skip
        for (job, _), portraits in zip(opened, found, strict=True):
            if isinstance(portraits, Exception):
                _fail(job, portraits)
            elif not portraits:
                _fail(job, no_face(job.name))
            else:
                cut.append((job, portraits))
        return cut


def _fail(job: _Job, error: Exception) -> None:
    """Answer a job with its error, without the frames that it passed: they hold the job, which holds the photograph."""
    if isinstance(error, NormfaceError):
        error.__traceback__ = error.__cause__ = error.__context__ = None
    job.done.set_exception(error)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_scans(data: bytes, name: str) -> None:
    """Raise DataError for a JPEG with so many scans that decoding would take minutes."""
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > SCANS:
        raise DataError(f"{name} to be a JPEG of at most {SCANS} scans", "more", "save it as a baseline JPEG")
