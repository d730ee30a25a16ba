"""Files that are there whole or not at all: written beside their place, then renamed onto it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import DataError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it takes the place of `path`.

    Missing parent folders are made. When the block fails nothing is left behind and an older `path` stays as it was;
    an OSError (full disk, no permission) becomes a DataError that says so.
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
        raise DataError(
            f"to write {path}", f"'{error.strerror or error}'",
            "free some space or choose another place; nothing was changed",
        ) from error  # fmt: skip
    finally:
        with suppress(OSError):
            temporary.unlink()
