"""A folder, or a zip, with one folder of images per person."""

from __future__ import annotations

import logging
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import DataError
from .decoding import EXTENSIONS, extension
from .formats import READERS, Format
from .images import Images, Record, by_name
from .listed import ImageList, beside
from .source import Source, open_source

_log = logging.getLogger("normface")


class Folder:
    """The images of a folder or zip, sorted by id: a `Store`."""

    landmarks: NDArray[np.float32] | None = None

    def __init__(self, source: Source, root: str, ids: NDArray[np.str_]) -> None:
        self.path, self.ids, self.ignored = source.path, ids, len(source.names) - len(ids)
        self._source, self._root = source, root
        self.people, self.labels = by_name([id.partition("/")[0] for id in ids.tolist()])

    def name(self, row: int) -> str:
        """Return the name of image `row`, for messages."""
        return f"{self.path}/{self._root}{self.ids[row]}"

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of image `row`."""
        return self._source.read(f"{self._root}{self.ids[row]}")


def open_folder(path: str | Path, strict: bool = False, label: str | None = None) -> Images:
    """List the images at `path`: a folder with one folder per person, or a zip of that, read in place.

    An identity is the first folder below the root; its images may be at any depth. A folder around everything (`lfw/`)
    is ignored, as are hidden files, `__MACOSX`, other file types and images outside any person's folder: a warning
    counts them by kind. Nothing is decoded yet. Images in one folder are read with the label.txt beside them (see
    `data.listed`), if there is one; `label` is its column.

    Raises DataError if the path is missing, not a zip, encrypted, or contains no images in folders.
    """
    source = open_source(path)
    images = sorted(name for name in source.names if is_image(name))
    names = [name for name in images if "/" in name]
    if not names:
        if labels := beside(source.path):
            return Images(ImageList(labels, label), strict=strict)
        raise DataError(
            f"one folder of images per person in {source.path}",
            f"{len(images)} images and no folder of them" if images else f"no image among {len(source.names)} files",
            "put each person's images into a folder of that person's name, or give a list of path,label",
        )
    root = wrapper(names)
    ids = np.array([name[len(root) :] for name in names], dtype=np.str_)
    warn_of_unread(source.path, unread(source.names, loose=len(images) - len(names)))
    return Images(Folder(source, root, ids), strict=strict)


def is_image(name: str) -> bool:
    """Return True for the name of an image: not hidden, not in `__MACOSX`, with a known extension."""
    hidden = any(part == "__MACOSX" or part.startswith(".") for part in name.split("/"))
    return not hidden and os.path.splitext(name)[1].lower() in EXTENSIONS


WRITTEN = ("align.jsonl", "report.html")  # written by `normface align` next to its crops


def unread(names: Iterable[str], *, loose: int = 0) -> dict[str, int]:
    """Count the files that are not read, by kind, most frequent first.

    `loose` is the number of images outside of people's folders.
    """
    kinds: Counter[str] = Counter()
    for name in names:
        if not is_image(name) and os.path.basename(name) not in WRITTEN:
            ending = os.path.splitext(name)[1].lower()
            visible = not any(part == "__MACOSX" or part.startswith(".") for part in name.split("/"))
            kinds[(f"{ending} file" if ending else "file without extension") if visible else "hidden file"] += 1
    kinds["image outside any person's folder"] += loose
    return {kind: count for kind, count in kinds.most_common() if count}


def warn_of_unread(path: Path, kinds: Mapping[str, int]) -> None:
    """Log a warning about the files that are not read, if there are any."""
    if kinds:
        plural = {kind: kind.replace("file", "files").replace("image", "images") for kind in kinds}
        told = [f"{count:,} {kind if count == 1 else plural[kind]}" for kind, count in kinds.items()]
        _log.warning("%s: not read: %s", path, ", ".join(told[:8]) + (", …" if len(told) > 8 else ""))


def wrapper(names: Sequence[str]) -> str:
    """Return the folders around all of the people, `lfw/` or empty: the last folder common to all may be a person."""
    root = ""
    while True:
        wider = names[0][: names[0].find("/", len(root)) + 1]
        if not all(name.startswith(wider) and "/" in name[len(wider) :] for name in names):
            return root
        root = wider


def write_folder(records: Iterable[Record], path: Path) -> int:
    """Write records as one folder of images per person. Returns their number. Raises DataError on failure."""
    count = 0
    for record in records:
        with replacing(path / file_name(record)) as temporary:
            temporary.write_bytes(record.image)
        count += 1
    return count


def write_zip(records: Iterable[Record], path: Path) -> int:
    """Write records as a zip of one folder per person, without recompression. Returns their number."""
    count = 0
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for record in records:
            # A fixed date, so that the same images make the same file.
            archive.writestr(zipfile.ZipInfo(file_name(record)), record.image)
            count += 1
    return count


def file_name(record: Record) -> str:
    """Return `identity/….jpg` for a record. Raises DataError for a name that leads out of the folder."""
    inner = PurePosixPath(record.id.replace("\\", "/"))
    parts = inner.parts[1:] if len(inner.parts) > 1 and inner.parts[0] == record.identity else (inner.name,)
    name = "/".join((record.identity, *parts))
    strange = {"/", "\\", "\0"} & set(record.identity) or "\0" in name or PureWindowsPath(name).drive
    if strange or {"..", ".", ""} & {record.identity, *parts}:
        raise DataError("file names inside the folder", repr(name), "list it in a file for --exclude")
    return name if is_image(name) else name + extension(record.image)


@READERS.register
class folder(Format):
    """One folder of images per person, or images with a label.txt beside them."""

    def open(self, path: Path, strict: bool = False, label: str | None = None) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return open_folder(path, strict, label)

    def write(self, records: Iterable[Record], path: Path, **options: Any) -> int:
        """Write records to `path`; see `Format.write`."""
        return write_folder(records, path, **options)


@READERS.register
class zip(Format):
    """A zip with one folder of images per person."""

    suffix = ".zip"

    def open(self, path: Path, strict: bool = False) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return open_folder(path, strict)

    def write(self, records: Iterable[Record], path: Path, **options: Any) -> int:
        """Write records to `path`; see `Format.write`."""
        return write_zip(records, path, **options)
