"""What a run measures, step by step: metrics.jsonl for programs, TensorBoard for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from ..atomic import replacing

FILE = "metrics.jsonl"


class Logs:
    """Append measurements of the run in folder `run`; lines later than step `after` (lost steps) are dropped."""

    def __init__(self, run: Path, *, after: int) -> None:
        path = run / FILE
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= after]
            with replacing(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=after + 1)

    def write(self, step: int, measured: Mapping[str, float]) -> None:
        """Record the figures of one step."""
        self._file.write(json.dumps({"step": step, **measured}) + "\n")
        for name, value in measured.items():
            self._board.add_scalar(name, value, step)

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()
