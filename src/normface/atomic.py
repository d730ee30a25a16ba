"""Atomic file replacement: write next to the target, then rename onto it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import DataError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; when the block succeeds, rename it to `path`.

    Creates missing parent folders. If the block fails, nothing is left behind and an existing `path` is unchanged; an
    OSError (full disk, no permission) becomes a DataError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        remedy = "free disk space" if error.errno == errno.ENOSPC else "choose a writable folder"
        raise DataError(
            f"to write {path}", f"'{error.strerror or error}'", f"{remedy}; {path.name} is unchanged"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
