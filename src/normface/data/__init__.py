"""Labeled face images on disk: one `Reader` for all formats returns RGB pixels with ids and labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from ..types import Image
from .decoding import Reduced, decode, decode_reduced
from .formats import READERS, Format, format_of, open_reader, writable, write
from .images import Images, Record
from .pictures import Order, Picture, read_image

__all__ = [
    "READERS", "Format", "Images", "Order", "Picture", "Reader", "Record", "Reduced", "decode", "decode_reduced",
    "format_of", "open_reader", "read_image", "writable", "write",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "FORMATS":
        warnings.warn("normface.data.FORMATS is now normface.data.READERS", DeprecationWarning, stacklevel=2)
        return tuple(READERS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Reader(Protocol):
    """A labeled set of images; read one at a time; thread-safe."""

    @property
    def ids(self) -> NDArray[Any]:
        """[N] distinct strings such as `Name/Name_0001.jpg`."""

    @property
    def identities(self) -> NDArray[Any]:
        """[C] distinct names of people, sorted."""

    @property
    def labels(self) -> NDArray[Any]:
        """[N] int64, indices into `identities`."""

    def __len__(self) -> int:
        """Number of images N."""

    def read(self, index: int, out: Image | None = None) -> Image:
        """Read image `index` as RGB uint8 [H, W, 3], into `out` if its shape fits. Raises DataError if damaged."""

    def select(self, indices: ArrayLike) -> Reader:
        """Select the images at `indices` (integers, or a mask [N]), in that order; labels are renumbered."""

    def check(
        self,
        progress: Callable[[int, int], object] | None = None,
        fault: Callable[[Image], str | None] | None = None,
    ) -> Reader:
        """Decode every image once; skip damaged ones with a warning, or raise DataError if opened with `strict`.

        `progress` is called with images done and in total; `fault` returns a reason to skip an image, or None.
        """
