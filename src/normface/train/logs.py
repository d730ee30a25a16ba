"""What a run measures, step by step: metrics.jsonl for programs, TensorBoard for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from ..atomic import replacing
from ..errors import DataError

FILE = "metrics.jsonl"


class Logs:
    """Append measurements of the run in folder `run`; lines later than step `after` (lost steps) are dropped."""

    def __init__(self, run: Path, *, after: int) -> None:
        path = run / FILE
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if _step(line) <= after]
            with replacing(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
        with _told(path):
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=after + 1)

    def write(self, step: int, measured: Mapping[str, float]) -> None:
        """Record the figures of one step. Raises DataError where the disk is full."""
        with _told(self._file.name):
            self._file.write(json.dumps({"step": step, **measured}) + "\n")
            for name, value in measured.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _told(self._file.name):
            try:
                self._file.close()
            finally:
                self._board.close()


def _step(line: str) -> float:
    """The step of a line; infinite for a line that is not whole."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"to write {path}", f"'{error.strerror or error}'", "free some space, then --resume") from error
