"""Labelled photographs and crops: decoding, folders and zips of one folder a person, synthetic faces."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..types import Image
from .decode import decode, read_image

__all__ = ["Reader", "decode", "open_reader", "read_image"]


class Reader(Protocol):
    """Images with identities, in a fixed order; safe to read from several threads.

    Attributes:
        ids: [N] strings, unique, such as `Name/Name_0001.jpg`.
        identities: the people, sorted.
        labels: [N] int64, index into `identities`.
    """

    ids: NDArray[np.str_]
    identities: list[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image:
        """One image, uint8 RGB [H, W, 3]. Raises DataError naming it where it cannot be decoded."""
        ...

    def select(self, rows: NDArray[np.intp]) -> "Reader":
        """Only these rows, with labels numbered anew."""
        ...

    def check(self, *, strict: bool = False, progress: Callable[[int, int], object] | None = None) -> "Reader":
        """Decode everything once; unreadable images are named, counted and left out, or refused where `strict`."""
        ...


def open_reader(path: str | Path) -> Reader:
    """Open a folder, or a zip, of one folder a person. Raises DataError for anything else."""
    from .folder import Folder

    return Folder.open(path)
