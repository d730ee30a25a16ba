"""Files that several processes change: replaced at once by a rename, and by one process at a time."""

from __future__ import annotations

import errno
import os
import sys
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
    if path.is_dir() or not path.name:
        raise DataError("the name of a file to write", f"the folder {path}", "add a file's name")
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


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Keep other processes that also ask for it from the files beside `path` while the block runs.

    Locks the folder, because `replacing` gives `path` to another file. Creates missing folders. Windows has no such
    lock, and the block runs without.
    """
    folder = Path(path).parent
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"to write {path}", f"'{error.strerror or error}'", "choose a writable folder") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
