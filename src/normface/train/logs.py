"""Logs of a run: metrics.jsonl, TensorBoard and warnings.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ..atomic import replacing
from ..errors import DataError, TrainingError

FILE, WARNINGS = "metrics.jsonl", "warnings.jsonl"


class Logs:
    """Append measurements of the run in folder `run`; drops existing lines after step `after`, which were lost.

    `past`: earlier measurements; `warned`: names of earlier warnings.
    """

    def __init__(self, run: Path, *, after: int) -> None:
        for path in (run / FILE, run / WARNINGS):
            if path.exists():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                kept = [line for line in lines if _step(line) <= after]
                with replacing(path) as temporary:
                    temporary.write_text("".join(kept), encoding="utf-8")
        self.past = read_lines(run / FILE)
        self.warned = {str(line["name"]) for line in read_lines(run / WARNINGS)}
        self._warnings, self._step = run / WARNINGS, after
        with _told(run / FILE):
            self._file = (run / FILE).open("a", encoding="utf-8")
            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=after + 1)

    def write(self, step: int, measured: Mapping[str, float]) -> None:
        """Record the figures of one step; non-finite values become null. Raises DataError if the disk is full."""
        self._step = step
        finite = {name: value if math.isfinite(value) else None for name, value in measured.items()}
        with _told(self._file.name):
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            for name, value in measured.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Flush to disk. Raises DataError if the disk is full."""
        with _told(self._file.name):
            self._file.flush()
            self._board.flush()

    def warn(self, name: str, words: str) -> None:
        """Record a warning for the last step written."""
        self.warned.add(name)
        with _told(self._warnings), self._warnings.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self._step, "name": name, "words": words}) + "\n")

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
        if isinstance(error, TrainingError):
            self.warn("ended", str(error))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a log, in order; none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if math.isfinite(_step(line))]


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
