"""Logs as JSON lines without names, images, vectors or addresses of people."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any


class Lines(logging.Formatter):
    """One JSON object per line: time, level, event, and the record's `fields`.

    Logs only type and location of an exception: its message may contain data of a request.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line of JSON."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            told |= {"error": record.exc_info[0].__name__, "at": _places(record.exc_info[2])}
        return json.dumps(told, ensure_ascii=False)


def to(stream: IO[str] | None) -> None:
    """Send the service's log and uvicorn's warnings to a stream only (None: stderr)."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines())
    levels = {"normface.serve": logging.INFO, "uvicorn.error": logging.WARNING, "python_multipart": logging.CRITICAL}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def _places(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(trace)][-6:]
