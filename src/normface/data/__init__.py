"""Faces on disk → RGB pixels with ids and labels: one `Reader`, whatever the format."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from ..types import Image
from .decode import Reduced, decode, decode_reduced, read_image
from .images import Images, Record

__all__ = [
    "FORMATS", "Images", "Reader", "Record", "Reduced", "decode", "decode_reduced", "format_of", "open_reader",
    "read_image",
]  # fmt: skip

FORMATS = ("folder", "zip", "arrow", "rec", "tar", "hf", "bin")


class Reader(Protocol):
    """A labelled set of images, read one at a time; safe to read from several threads."""

    @property
    def ids(self) -> NDArray[Any]:
        """[N] distinct strings such as `Name/Name_0001.jpg`."""

    @property
    def identities(self) -> NDArray[Any]:
        """[C] distinct names, sorted."""

    @property
    def labels(self) -> NDArray[Any]:
        """[N] int64, indices into `identities`."""

    def __len__(self) -> int:
        """N."""

    def read(self, index: int, out: Image | None = None) -> Image:
        """Image `index`, RGB uint8 [H, W, 3]: in `out` where that has its shape. DataError names a damaged one."""

    def select(self, indices: ArrayLike) -> Reader:
        """The images at `indices` (integers, or a mask [N]), in that order, with labels dense again."""

    def check(
        self,
        progress: Callable[[int, int], object] | None = None,
        fault: Callable[[Image], str | None] | None = None,
    ) -> Reader:
        """Decode everything once; damaged images are named and left out, or refused where opened with `strict`.

        `progress` is called with images done and images in all; `fault` gives a reason to leave an image out, or None.
        """


def open_reader(path: str | Path, strict: bool = False) -> Images:
    """The images at `path`: a folder of folders, a zip of them, a pack, a `.rec`, tars, a data set of Hugging Face's.

    `strict` makes a damaged image an error where it would be skipped. Raises DataError for anything else.
    """
    from . import bins, folder, hf, pack, recordio, tar

    openers: dict[str, Callable[[str | Path, bool], Images]] = {
        "folder": folder.open_folder, "zip": folder.open_folder, "arrow": pack.open_pack, "rec": recordio.open_recordio,
        "tar": tar.open_tar, "hf": hf.open_huggingface, "bin": bins.open_bin,
    }  # fmt: skip
    return openers[_found(Path(path))](path, strict)


def format_of(path: str | Path) -> str:
    """The format that a name asks for: by its ending, `arrow` where it has none."""
    endings = {".zip": "zip", ".rec": "rec", ".tar": "tar"}
    return endings.get(Path(path).suffix.lower(), "arrow")


def write(records: Any, path: Path, format: str, **options: Any) -> int:
    """Write records in a format; how many. Raises ConfigError for one that cannot be written."""
    from . import folder, hf, pack, recordio, tar

    writers: dict[str, Callable[..., int]] = {
        "folder": folder.write_folder, "zip": folder.write_zip, "arrow": pack.write_pack, "tar": tar.write_tar,
        "rec": recordio.write_recordio, "hf": hf.write_huggingface,
    }  # fmt: skip
    if format not in writers:
        raise ConfigError(f"a format among {', '.join(writers)}", repr(format), "choose one of them")
    return writers[format](records, path, **options)


def _found(path: Path) -> str:
    if path.is_dir():
        marks = {"pack.json": "arrow", "state.json": "hf"}
        for mark, format in marks.items():
            if (path / mark).is_file():
                return format
        names = [entry.name for entry in path.iterdir()] if _listable(path) else []
        for format in ("rec", "tar"):
            if any(name.endswith(f".{format}") for name in names):
                return format
        if any(re.fullmatch(r"part-\d+\.arrow", name) for name in names):
            return "arrow"  # without its pack.json: told so
        return "folder"
    if re.search(r"\{\d+\.\.\d+\}", path.name):
        return "tar"
    return {".rec": "rec", ".tar": "tar", ".bin": "bin"}.get(path.suffix.lower(), "zip")


def _listable(path: Path) -> bool:
    try:
        next(path.iterdir(), None)
    except OSError:
        return False
    return True
