"""The formats of labelled images on disk: which one lies at a path, reading it, writing it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..registry import Registry
from .images import Images


class Format:
    """How labelled images lie on disk. A subclass is named as people call the format, and registered in `READERS`.

    Attributes:
        suffix: of its files, such as `.rec`; empty where it has none.
    """

    suffix: str = ""

    def owns(self, path: Path) -> bool:
        """Whether what lies at `path` is of this format; here, by the suffix of a file."""
        return bool(self.suffix) and path.suffix.lower() == self.suffix and not path.is_dir()

    def open(self, path: Path, strict: bool = False) -> Images:
        """The images at `path`. Raises DataError where it holds none, or damaged ones."""
        raise NotImplementedError

    def write(self, records: Any, path: Path, **options: Any) -> int:
        """Write `Record`s at `path`; how many. Raises ConfigError: here, for a format that is only read."""
        raise ConfigError(f"a format among {', '.join(writable())}", repr(type(self).__name__), "choose one of them")


READERS: Registry[Format] = Registry("reader", __name__.rpartition(".")[0])


def open_reader(path: str | Path, strict: bool = False) -> Images:
    """The images at `path`: a folder of folders, a zip of them, a pack, a `.rec`, tars, a data set of Hugging Face's.

    `strict` makes a damaged image an error where it would be skipped. Raises DataError for anything else.
    """
    path = Path(path)
    fallback = "folder" if path.is_dir() else "zip"
    name = next((name for name in READERS if READERS.build(name).owns(path)), fallback)
    return READERS.build(name).open(path, strict)


def format_of(path: str | Path) -> str:
    """The format that a name asks for: by its suffix, `arrow` where no format that can be written has it."""
    suffix = Path(path).suffix.lower()
    return next((name for name in writable() if suffix and READERS.build(name).suffix == suffix), "arrow")


def write(records: Any, path: Path, format: str, **options: Any) -> int:
    """Write records in a format; how many. Raises ConfigError for one that cannot be written."""
    return READERS.build(format).write(records, path, **options)


def writable() -> list[str]:
    """The names of the formats that can be written, sorted."""
    return [name for name in READERS if type(READERS.build(name)).write is not Format.write]


def holds(folder: Path, pattern: str) -> bool:
    """Whether a folder that can be listed holds a file whose name matches a regular expression."""
    try:
        return folder.is_dir() and any(re.fullmatch(pattern, entry.name) for entry in folder.iterdir())
    except OSError:
        return False
