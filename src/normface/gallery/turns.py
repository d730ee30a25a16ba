"""Processes take turns in the order in which they came."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def in_turn(path: Path, patience: float) -> Iterator[None]:
    """Wait until those that came earlier have ended, `patience` seconds at most; then go on in any case.

    SQLite alone lets the newest in first, because the longer a process waits, the more rarely it asks: of 64 that wrote
    at once, some waited for more than ten seconds. Only this order depends on the lock of the file at `path`, never
    what is right, so everything goes on where there is no such file, and on Windows, which has no such locks.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        yield
        return
    locked = _locked(file, patience)
    try:
        yield
    finally:
        if locked:
            os.close(file)


def _locked(file: int, patience: float) -> bool:
    """Lock an open file. Otherwise, return False, and close it as soon as it could have been locked."""
    if sys.platform == "win32":
        return True
    import fcntl

    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    locked: Future[None] = Future()

    def wait() -> None:  # the kernel serves those that block in the order in which they came
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            locked.set_result(None)
        except InvalidStateError:
            os.close(file)

    threading.Thread(target=wait, name="gallery-turn", daemon=True).start()
    try:
        locked.result(patience)
    except TimeoutError:
        return not locked.cancel()
    return True
