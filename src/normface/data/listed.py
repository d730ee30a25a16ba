"""Lists of images with labels: a CSV `path,label`, `path label` lines beside flat images, or im2rec's `.lst`."""

from __future__ import annotations

import csv
import io
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, reason
from .decoding import EXTENSIONS
from .formats import READERS, Format
from .images import Images, by_name
from .labels import identity, label_column
from .source import Directory

PATHS = ("path", "file", "filename", "file_name", "image", "image_path", "img", "id")  # columns of a header
LIST_NAMES = ("label.txt", "labels.txt", "label.csv", "labels.csv")  # name of a list next to flat images
SUFFIXES = (".csv", ".tsv", ".lst")


class ImageList:
    """The images in a list, in its order: a `Store`. Paths are relative to the list's folder."""

    landmarks: NDArray[np.float32] | None = None
    ignored = 0

    def __init__(self, path: Path, label: str | None = None) -> None:
        self.path, self._label = path, label
        rows = _rows(path, label)
        twice = len(rows) - len({file for file, _ in rows})
        if not rows or twice:
            raise DataError(f"each image once in {path}", f"{twice} twice" if rows else "none", "correct the list")
        self._folder = path.parent
        self.ids: NDArray[Any] = np.array([file for file, _ in rows], np.str_)
        missing = [file for file, _ in rows if not (self._folder / file).is_file()]
        if missing:
            near = get_close_matches(missing[0], self._there(), n=1, cutoff=0.5)
            raise DataError(
                f"the images that {path} names", f"{len(missing):,} of {len(rows):,} missing (first: {missing[0]})",
                f"correct the list: did you mean {near[0]}?" if near else "put the list beside the images",
            )  # fmt: skip
        self.people, self.labels = by_name([identity(person, f"{file} in {path}") for file, person in rows])

    def __reduce__(self) -> tuple[type[ImageList], tuple[Path, str | None]]:
        return ImageList, (self.path, self._label)

    def name(self, row: int) -> str:
        """Return the name of image `row`, for messages."""
        return str(self._folder / str(self.ids[row]))

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of image `row`."""
        file = self._folder / str(self.ids[row])
        try:
            return file.read_bytes()
        except OSError as error:
            raise DataError(f"{file} to be readable", reason(error), "restore the file or leave it out") from error

    def _there(self) -> list[str]:
        return [name for name in Directory(self._folder).names if PurePosixPath(name).suffix.lower() in EXTENSIONS]


def _rows(path: Path, label: str | None) -> list[tuple[str, str]]:
    """Paths and labels. Byte order marks, carriage returns, empty lines and comments are ignored."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"a list of images at {path}", reason(error), "save it as UTF-8") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise DataError(f"lines `path,label` in {path}", "none", "write one line for each image")
    comma = next((mark for mark in (",", "\t", ";") if mark in lines[0]), None)
    cells = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=comma)) if comma else [
        line.rsplit(maxsplit=1) for line in lines
    ]  # fmt: skip
    if any(_is_file(cell) for cell in cells[0]):
        if label is not None:
            raise DataError(f"a header in {path} for --label-column", "none", "add a first line path,label")
        return _without_header(path, cells)
    header = [cell.strip() for cell in cells[0]]
    lower = [cell.casefold() for cell in header]
    file = next((lower.index(name) for name in PATHS if name in lower), None)
    column = label_column([cell for at, cell in enumerate(header) if at != file], label, path)
    if file is None or column is None:
        raise DataError(
            f"a header with path and label in {path}", ", ".join(header), "name the columns: path,label"
        )  # fmt: skip
    person = header.index(column)
    return [(_inside(_cell(path, each, file), path), _cell(path, each, person)) for each in cells[1:]]


def _without_header(path: Path, cells: list[list[str]]) -> list[tuple[str, str]]:
    """Two columns, the image first or second; or im2rec's three: number, label, path."""
    width = len(cells[0])
    file = next(at for at, cell in enumerate(cells[0]) if _is_file(cell))
    if width not in (2, 3) or (width == 3 and file != 2):
        raise DataError(f"lines `path,label` in {path}", f"{width} columns without a header", "add a header path,label")
    person = 1 if width == 3 else 1 - file
    return [(_inside(_cell(path, each, file), path), _cell(path, each, person)) for each in cells]


def _cell(path: Path, cells: list[str], at: int) -> str:
    if at >= len(cells):
        raise DataError(f"lines `path,label` in {path}", ",".join(cells)[:60], "correct that line")
    return cells[at].strip()


def _inside(name: str, path: Path) -> str:
    """A path relative to the list, with `/`."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise DataError(f"paths below the folder of {path}", repr(name), "write them relative to the list")
    return str(pure)


def _is_file(cell: str) -> bool:
    return PurePosixPath(cell.strip()).suffix.lower() in EXTENSIONS


def beside(folder: Path) -> Path | None:
    """Return the list of labels next to the images of a flat folder, if there is one."""
    return next((folder / name for name in LIST_NAMES if (folder / name).is_file()), None)


@READERS.register
class listed(Format):
    """A CSV, TSV or im2rec list of images with labels; paths are relative to the list."""

    def owns(self, path: Path) -> bool:
        """Return True if `path` is of this format."""
        return not path.is_dir() and (path.suffix.lower() in SUFFIXES or path.name in LIST_NAMES)

    def open(self, path: Path, strict: bool = False, label: str | None = None) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return Images(ImageList(path, label), strict=strict)
