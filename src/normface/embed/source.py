"""Images for bulk embedding: crops, or photographs whose faces are detected and aligned here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data import Images, decode, open_reader
from ..data.folder import wrapper
from ..data.formats import reader_of
from ..errors import DataError, FaceError
from ..faces import Detector, find_template, open_detector, retarget, size_fault
from ..faces.finding import Portrait, find_portraits
from ..faces.photographs import Photograph, Photographs, open_photographs
from ..inference import Device
from ..types import Image

PROBED = 8  # images checked to distinguish crops from photographs


class Prepared(NamedTuple):
    """Prepared images: names and crops [n, height, width, 3], and refused images with reasons."""

    ids: list[str]
    crops: Image
    refused: list[tuple[str, str]]


@dataclass(frozen=True)
class Source:
    """Images by number; processes that see the same files can share it.

    Attributes:
        path: location of the images.
        images: encoded, with their ids.
        template: of the crops to produce.
        photographs: whether faces must be detected and aligned.
        strict: reject truncated JPEGs.
        detector, device: for `faces.open_detector`.
    """

    path: Path
    images: Images | Photographs
    template: str
    photographs: bool
    strict: bool = False
    detector: str = "mtcnn"
    device: Device = "auto"

    def __reduce__(self) -> tuple[Callable[..., Source], tuple[Any, ...]]:
        how = (self.path, self.template, self.photographs, self.strict, self.detector, self.device)
        return _reopened, (*how, self.digest)

    @cached_property
    def ids(self) -> list[str]:
        """[N] distinct names."""
        if isinstance(self.images, Images):
            return list(self.images.ids.tolist())
        names = self.images.names
        root = wrapper(names) if all("/" in name for name in names) else ""
        return [name[len(root) :] for name in names]

    @property
    def tools(self) -> dict[str, str]:
        """Return the face detector for photographs, and its device."""
        if not self.photographs:
            return {}
        where = getattr(_detector(self.detector, self.device), "device", "cpu")
        return {"detector": self.detector, "detector_device": str(where)}

    @property
    def unread(self) -> dict[str, int]:
        """Files that are not read, counted by kind."""
        return {} if isinstance(self.images, Images) else dict(self.images.unread)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names, in order."""
        return hashlib.sha256("\0".join(self.ids).encode("utf-8", "surrogateescape")).hexdigest()

    def encoded(self, row: int) -> bytes:
        """Return the bytes of one image. Raises DataError if they cannot be read."""
        images = self.images
        return images.encoded(row) if isinstance(images, Images) else images.source.read(images.names[row])

    def prepare(self, rows: Sequence[int]) -> Prepared:
        """Decode, and for photographs detect and align, the images `rows`."""
        ids = [self.ids[row] for row in rows]
        found = (self._aligned if self.photographs else self._crops)(rows)
        pairs = list(zip(ids, found, strict=True))
        crops = [each for each in found if not isinstance(each, str)]
        goal = find_template(self.template)
        return Prepared(
            [id for id, each in pairs if not isinstance(each, str)],
            np.stack(crops) if crops else np.empty((0, goal.height, goal.width, 3), np.uint8),
            [(id, each) for id, each in pairs if isinstance(each, str)],
        )

    def _crops(self, rows: Sequence[int]) -> list[Image | str]:
        return [self._crop(row) for row in rows]

    def _crop(self, row: int) -> Image | str:
        """The image as an aligned crop, or the reason why it is not one."""
        try:
            image = decode(self.encoded(row), self.ids[row], strict=self.strict)
        except DataError as error:
            return error.got
        return size_fault(image) or retarget(image[None], self.template)[0]

    def _aligned(self, rows: Sequence[int]) -> list[Image | str]:
        """The face nearest the center of each photograph, or the reason why there is none."""
        opened = [self._open(row) for row in rows]
        seen = [each for each in opened if isinstance(each, Photograph)]
        found = iter(find_portraits(_detector(self.detector, self.device), seen, find_template(self.template)))
        return [each if isinstance(each, str) else _crop_or_reason(next(found)) for each in opened]

    def _open(self, row: int) -> Photograph | str:
        try:
            return Photograph.open(self.encoded(row), self.ids[row], strict=self.strict)
        except DataError as error:
            return error.got


def open_source(
    path: str | Path,
    template: str,
    photographs: bool | None = None,
    *,
    strict: bool = False,
    detector: str = "mtcnn",
    device: Device = "auto",
) -> Source:
    """Open the images at `path`: any format of `normface pack`, a folder or zip of images, or a text file of paths.

    `photographs`: True for photographs, False for aligned crops, None to decide by the sizes of the first images.
    `strict` rejects truncated JPEGs. Photographs need a detector, see `faces.open_detector`.
    Raises DataError if there are none.
    """
    path = Path(path).absolute()
    images = _open(path)
    if photographs is None:
        probe = Source(path, images, template, False)
        found = [probe._crop(row) for row in range(min(PROBED, len(probe.ids)))]
        photographs = any(isinstance(each, str) and "not an aligned crop" in each for each in found)
    opened = Source(path, images, template, photographs, strict, detector, device)
    if photographs:
        _detector(detector, device)  # rejects an unknown one before the work starts
    return opened


def _open(path: Path) -> Images | Photographs:
    """Folders, zips and lists: all images at any depth, inside or outside of a person's folder."""
    return open_photographs(path) if reader_of(path) in ("folder", "zip") else open_reader(path)


def _crop_or_reason(found: list[Portrait] | FaceError | DataError) -> Image | str:
    if isinstance(found, DataError):
        return found.got
    if isinstance(found, FaceError):
        return f"degenerate landmarks {found.got}"
    return found[0].crop if found else "no face found"


@cache
def _reopened(
    path: Path, template: str, photographs: bool, strict: bool, detector: str, device: Device, digest: str
) -> Source:
    """Open a source in another process, once; checks that the numbers of images mean the same there."""
    source = Source(path, _open(path), template, photographs, strict, detector, device)
    if source.digest != digest:
        raise DataError(f"the same images at {path} everywhere", "others", "copy them, and leave them as they are")
    return source


@cache
def _detector(name: str, device: Device) -> Detector:
    return open_detector(name, device=device)
