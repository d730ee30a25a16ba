"""Bulk embedding by Ray Data: tasks decode and align, actors embed, and this process writes the results."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import DataError, ModelError, NormfaceError, require
from .embedder import Embedder, Mirror
from .parts import Embedded, blocks, embed_block, join
from .source import Source

# Shares of a core in Ray's accounting: one actor and one task per core, scheduled by the operating system. With whole
# cores there would be none for decoding, or only half of the machine would embed.
ACTOR, TASK = 0.75, 0.25
MOST_BLOCKS = 10_000  # of Ray; one per part up to this number
Row = dict[str, Any]


def run(
    source: Source, load: Callable[[], Embedder], mirror: Mirror, sha256: str, parts: dict[int, range]
) -> Iterator[tuple[int, Embedded]]:
    """Yield every part once, in order of completion, from the cluster at RAY_ADDRESS or one started on this machine.

    If a worker dies, Ray replaces it and repeats its part. Raises the errors of workers, and DataError if Ray fails.
    """
    ray, data = require("ray", "ray"), require("ray.data", "ray")
    started = _connect(ray)
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        items = [{"part": number, "start": rows.start, "stop": rows.stop} for number, rows in parts.items()]
        actors = min(len(items), max(1, int(ray.cluster_resources().get("CPU", 1))))
        flow = (
            data.from_items(items, override_num_blocks=min(len(items), MOST_BLOCKS))
            .map(_Preparing(source), num_cpus=TASK)
            .map(
                _Embedding, fn_constructor_args=(load, mirror, sha256), num_cpus=ACTOR,
                compute=data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
            )
        )  # fmt: skip
        missing = set(parts)
        for row in flow.iter_rows():
            if row["part"] in missing:
                missing.remove(row["part"])
                yield int(row["part"]), _opened(row["embedded"])
        if missing:
            raise DataError(
                f"{len(parts)} parts from Ray", f"{len(parts) - len(missing)}", "run the same command again"
            )
    except ray.exceptions.RayError as error:
        raise DataError(
            "Ray to finish the job", f"'{str(error).splitlines()[0]}'", "check the cluster, then run the command again"
        ) from error
    finally:
        if started:
            ray.shutdown()


class _Preparing:
    """A Ray task: numbers of a part → its prepared blocks. Each worker opens the source once."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, row: Row) -> Row:
        rows = range(int(row["start"]), int(row["stop"]))
        prepared = _packed(lambda: [self.source.prepare(block) for block in blocks(rows)])
        return {"part": row["part"], "prepared": prepared}


class _Embedding:
    """A Ray actor with the model and one thread."""

    def __init__(self, load: Callable[[], Embedder], mirror: Mirror, sha256: str) -> None:
        self.mirror = mirror
        self.embedder = _outcome(load)
        if isinstance(self.embedder, Embedder):
            self.embedder.threads = 1
            if self.embedder.sha256 != sha256:
                self.embedder = ModelError(
                    f"the model {sha256[:12]}… on every machine", f"{self.embedder.sha256[:12]}…", "copy the same file"
                )

    def __call__(self, row: Row) -> Row:
        return {"part": row["part"], "embedded": _packed(lambda: self._embed(row["prepared"]))}

    def _embed(self, prepared: bytes) -> Embedded:
        if isinstance(self.embedder, NormfaceError):
            raise self.embedder
        return join([embed_block(self.embedder, block, self.mirror) for block in _opened(prepared)])


def _connect(ray: Any) -> bool:
    """Connect to Ray; returns whether it was started or joined here, so that it must be left here too."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage report
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # failures are raised as errors
    alone = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **alone)
    except Exception as error:  # also plain ones, for example if the machine is too busy to start it in time
        raise DataError(
            "a Ray cluster", f"'{str(error).splitlines()[0]}'", "correct RAY_ADDRESS, or run: ray start --head"
        ) from error
    return True


# Our own errors are passed as results, because Ray wraps errors and would restart a failing actor forever.


def _outcome(work: Callable[[], Any]) -> Any:
    """Return the result of a function, or the error of this package that it raised."""
    try:
        return work()
    except NormfaceError as error:
        return error


def _packed(work: Callable[[], Any]) -> bytes:
    return pickle.dumps(_outcome(work), 5)


def _opened(data: bytes) -> Any:
    """Unpack a result. Raises the error that was packed instead."""
    found = pickle.loads(data)
    if isinstance(found, NormfaceError):
        raise found
    return found
