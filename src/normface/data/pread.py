"""Read parts of open files from several threads."""

from __future__ import annotations

import os
import sys
from threading import Lock

if sys.platform != "win32":
    read_at = os.pread
else:  # Windows has no such call: seek and read, one thread at a time
    _turn = Lock()

    def read_at(file: int, length: int, start: int, /) -> bytes:
        """Return up to `length` bytes of an open file from `start` on."""
        with _turn:
            os.lseek(file, start, os.SEEK_SET)
            return os.read(file, length)
