"""Formats of labeled images on disk: detecting, reading and writing them."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..registry import Registry
from .images import Images


class Format:
    """A format of labeled images. Name a subclass like the format, and register it in `READERS`.

    Attributes:
        suffix: of its files, such as `.rec`; empty if it has none.
    """

    suffix: str = ""

    def owns(self, path: Path) -> bool:
        """Return True if `path` is of this format; here, by its suffix."""
        return bool(self.suffix) and path.suffix.lower() == self.suffix and not path.is_dir()

    def open(self, path: Path, strict: bool = False) -> Images:
        """Open the images at `path`. Raises DataError if there are none, or they are damaged."""
        raise NotImplementedError

    def write(self, records: Any, path: Path, **options: Any) -> int:
        """Write `Record`s to `path`. Returns their number. Raises ConfigError for a read-only format, such as here."""
        raise ConfigError(f"a format among {', '.join(writable())}", repr(type(self).__name__), "change --format")


READERS: Registry[Format] = Registry("reader", __name__.rpartition(".")[0])


def open_reader(path: str | Path, strict: bool = False, *, label: str | None = None) -> Images:
    """Open labeled images: folders, a zip, a list, a pack, a `.rec`, tars, Parquet, or a Hugging Face dataset.

    `strict` makes damaged images an error instead of skipping them. `label` is the column or JSON key of people's
    names, if it is not a usual one. Raises DataError for anything else, ConfigError for a label if there is no such
    column or key.
    """
    path = Path(path)
    name = reader_of(path)
    format = READERS.build(name)
    if label is None:
        return format.open(path, strict)
    if "label" not in signature(format.open).parameters:
        raise ConfigError("--label-column with a table, a list or tars", f"{path}, a {name}", "drop --label-column")
    return format.open(path, strict, label=label)  # type: ignore[call-arg]


def reader_of(path: Path) -> str:
    """Return the name of the reader that `open_reader` uses: `folder` or `zip` if no other owns the path."""
    fallback = "folder" if path.is_dir() else "zip"
    return next((name for name in READERS if READERS.build(name).owns(path)), fallback)


def format_of(path: str | Path) -> str:
    """Return the format for a file name: by suffix, or `arrow` if no writable format has it."""
    suffix = Path(path).suffix.lower()
    return next((name for name in writable() if suffix and READERS.build(name).suffix == suffix), "arrow")


def write(records: Any, path: Path, format: str, **options: Any) -> int:
    """Write records in a format. Returns their number. Raises ConfigError for a read-only format."""
    return READERS.build(format).write(records, path, **options)


def writable() -> list[str]:
    """Return the names of the writable formats, sorted."""
    return [name for name in READERS if type(READERS.build(name)).write is not Format.write]


def holds(folder: Path, pattern: str) -> bool:
    """Return True if a readable folder contains a file whose name matches a regular expression."""
    try:
        return folder.is_dir() and any(re.fullmatch(pattern, entry.name) for entry in folder.iterdir())
    except OSError:
        return False
