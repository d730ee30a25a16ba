"""Faces on disk → RGB pixels with ids and labels: one `Reader`, whatever the format."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from ..types import Image
from .decoding import Reduced, decode, decode_reduced, read_image
from .formats import READERS, Format, format_of, open_reader, writable, write
from .images import Images, Record

__all__ = [
    "READERS", "Format", "Images", "Reader", "Record", "Reduced", "decode", "decode_reduced", "format_of",
    "open_reader", "read_image", "writable", "write",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "FORMATS":
        warnings.warn("normface.data.FORMATS is now normface.data.READERS", DeprecationWarning, stacklevel=2)
        return tuple(READERS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
