"""Photographs by name, from a folder, a zip, or a text list."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data.decoding import EXTENSIONS, MAX_PIXELS, Box, Reduced, decode_reduced, reduce
from ..data.folder import is_image, unread, warn_of_unread
from ..data.source import Source, open_source, read_file
from ..errors import DataError
from ..types import Face, Floats, Image
from .alignment import align, part_for, zoom
from .template import Template

DETAIL = 500  # minimum of the shorter side, in pixels, when a photograph is reduced for detection


@dataclass(frozen=True)
class Photographs:
    """Images by name, sorted; `source.read(name)` returns the bytes of one. `unread` counts other files by kind."""

    source: Source
    names: Sequence[str]
    unread: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Photograph:
    """A photograph at the size that detection needs.

    Attributes:
        name: for messages.
        data: encoded, or pixels [H, W, 3] uint8 RGB.
        reduced: the image for detection.
        finest: `crops` decodes at 1/`finest` of the size or smaller.
    """

    name: str
    data: bytes | Image
    reduced: Reduced
    finest: int = 1

    @classmethod
    def open(
        cls,
        data: bytes | Image,
        name: str,
        *,
        detail: int = DETAIL,
        finest: int = 1,
        max_pixels: int = MAX_PIXELS,
        strict: bool = False,
    ) -> Photograph:
        """Decode a photograph, reduced if its shorter side keeps `detail` pixels. Raises DataError as `decode`."""
        if isinstance(data, np.ndarray):
            return cls(name, data, reduce(data, detail), finest)
        return cls(name, data, decode_reduced(data, name, detail, strict=strict, max_pixels=max_pixels), finest)

    def _finer(self, factor: int, parts: Sequence[Box]) -> Reduced:
        """The photograph at 1/`factor` of its size, or what parts of it need."""
        detail = min(self.reduced.size) // factor
        if isinstance(self.data, np.ndarray):
            return reduce(self.data, detail)
        corners = list(zip(*parts, strict=True))
        box = (min(corners[0]), min(corners[1]), max(corners[2]), max(corners[3]))
        return decode_reduced(self.data, self.name, detail, box=box)

    def crops(self, faces: Sequence[Face], template: Template) -> list[Image]:
        """Return aligned crops of faces in the photograph's pixels.

        The photograph is decoded again, at a larger size, for faces whose crop can use it. Raises FaceError for
        degenerate landmarks, DataError for a damaged file.
        """
        factors = []
        for face in faces:
            fine = zoom(template.fit(face.landmarks))  # pixels of the photograph per pixel of the crop
            factors.append(next(k for k in (8, 4, 2, 1) if k <= min(self.reduced.factor, max(fine, self.finest))))
        whose = list(zip(factors, (face.landmarks for face in faces), strict=True))
        sizes = {self.reduced.factor: self.reduced}
        for factor in dict.fromkeys(factors):
            if factor not in sizes:
                parts = [part_for(points, template, factor) for own, points in whose if own == factor]
                sizes[factor] = self._finer(factor, parts)
        return [align(sizes[own].image, sizes[own].to_reduced(points), template) for own, points in whose]


def open_photographs(path: str | Path) -> Photographs:
    """Open the images at `path`: a folder or zip with images at any depth, or a text file with one path per line.

    Paths in a list are relative to the list's folder; they may be separated by NUL bytes, as by `find -print0`. Names
    are relative to the folder that contains all of them. A warning counts the files that are not read, by kind: hidden
    ones, `__MACOSX` and other file types. Raises DataError for anything else, or if there is no image.
    """
    path = Path(path)
    listed = path.is_file() and not zipfile.is_zipfile(path) and path.suffix.lower() != ".zip"
    source = _Listed(path) if listed else open_source(path)
    # A name that leads out of the folder is reported as rejected, not skipped.
    names = sorted(name for name in source.names if is_image(name.replace("../", "")))
    if not names:
        raise DataError(
            f"images in {path}", f"none among {len(source.names)} files", f"supply files {', '.join(EXTENSIONS)}"
        )
    others = unread(name.replace("../", "") for name in source.names)
    warn_of_unread(path, others)
    return Photographs(source, names, others)


def read_landmarks(path: str | Path) -> dict[str, Floats]:
    """Read landmarks [5, 2] by name from lines `name x1 … x5 y1 … y5`, the format of LFW's landmark file.

    Raises DataError for a missing file or a malformed line.
    """
    points: dict[str, Floats] = {}
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"a text file of landmarks at {path}", f"'{error}'", "correct the path") from error
    for number, line in enumerate(lines, 1):
        name, *values = line.strip().rsplit(maxsplit=10) or [""]
        try:
            found = np.array(values, np.float64).reshape(2, 5).T
        except ValueError:
            found = np.full((5, 2), np.nan)
        if line.strip() and not np.isfinite(found).all():
            raise DataError(f"lines `name x1 … x5 y1 … y5` in {path}", f"line {number}: {line[:80]!r}", "correct it")
        points[name] = found
    points.pop("", None)
    return points


@dataclass(frozen=True)
class _Listed:
    """The files that a text file names."""

    path: Path
    names: list[str] = field(init=False)
    root: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            text = os.fsdecode(self.path.read_bytes())
        except OSError as error:
            raise DataError(f"{self.path} to be readable", f"'{error.strerror}'", "correct the permissions") from error
        parts = text.split("\0") if "\0" in text else text.splitlines()
        base = os.path.abspath(self.path.parent)
        files = [os.path.normpath(os.path.join(base, part)) for part in dict.fromkeys(parts) if part.strip()]
        if not any(is_image(os.path.basename(file)) for file in files):
            raise DataError(f"{self.path} to be a folder, a zip or a list of images", "none of these",
                            "give one path of an image a line")  # fmt: skip
        root = os.path.commonpath([os.path.dirname(file) for file in files])
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "names", [os.path.relpath(file, root).replace(os.sep, "/") for file in files])

    def read(self, name: str) -> bytes:
        return read_file(Path(self.root, name))
