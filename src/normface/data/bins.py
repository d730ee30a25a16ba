"""InsightFace's verification sets, such as `lfw.bin`: a pickle of encoded images and of whether pairs are genuine.

Pickles can execute code: only lists, bytes and booleans are accepted here.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import DataError, reason
from ..types import Bools, Ints
from .formats import READERS, Format
from .images import Images

_NAMES = {
    ("_codecs", "encode"),  # bytes, as Python 2's pickles and protocol 2 have them
    ("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
}  # fmt: skip
_PLAIN = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING",
    "BINUNICODE", "SHORT_BINUNICODE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "NONE", "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE", "BUILD", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "GET", "BINGET", "LONG_BINGET", "STRING", "UNICODE",
}  # fmt: skip


class Bin:
    """The images of a `.bin`, numbered: a `Store`. The format has no names, so each image counts as a person."""

    landmarks: NDArray[np.float32] | None = None
    ignored = 0

    def __init__(self, path: Path, images: Sequence[bytes]) -> None:
        self.path, self._images = path, images
        self.ids: NDArray[Any] = np.array([f"{row:06d}" for row in range(len(images))])
        self.people: NDArray[Any] = self.ids
        self.labels: Ints = np.arange(len(images))

    def name(self, row: int) -> str:
        return f"image {row} of {self.path}"

    def encoded(self, row: int) -> bytes:
        return self._images[row]


def read_bin(path: str | Path, strict: bool = False) -> tuple[Images, Ints, Ints, Bools]:
    """Read images [2M], and for M pairs the rows of both and whether they are genuine.

    Raises DataError for another file: other objects in the pickle, or another number of images.
    """
    path = Path(path)
    want = f"{path} to be a verification set (images, genuine or not)"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(want, reason(error), "correct the path") from error
    try:
        images, same = _restricted(data)
        images = [bytes(image) for image in images]
        truth = np.array([bool(each) for each in same])
    except _Foreign as error:
        raise DataError(want, str(error), "give a file of InsightFace") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(want, "a damaged file, or one of another kind", "copy it again") from error
    if len(images) != 2 * len(truth) or not images:
        raise DataError(f"two images a pair in {path}", f"{len(images)} for {len(truth)} pairs", "copy it again")
    rows = np.arange(len(truth))
    return Images(Bin(path, images), strict=strict), 2 * rows, 2 * rows + 1, truth


def open_bin(path: str | Path, strict: bool = False) -> Images:
    """Open the images of a `.bin`; `read_bin` also returns the pairs."""
    return read_bin(path, strict)[0]


def write_bin(path: str | Path, images: Sequence[bytes], same: Sequence[bool]) -> None:
    """Write encoded images [2M], pair by pair, and whether each pair [M] is genuine."""
    if len(images) != 2 * len(same):
        raise DataError("two images per pair", f"{len(images)} for {len(same)} pairs", "pass both images of each pair")
    with replacing(path) as temporary:
        temporary.write_bytes(pickle.dumps(([bytes(image) for image in images], [bool(each) for each in same])))


class _Foreign(Exception):
    """A pickle of other things; the text says of what."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _Foreign(f"{module}.{name}, which a verification set does not hold")
        return super().find_class(module, name)


def _restricted(data: bytes) -> tuple[list[bytes], list[bool]]:
    seen = 0
    for seen, (kind, argument, _) in enumerate(pickletools.genops(data), 1):
        if kind.name not in _PLAIN:
            raise _Foreign(f"a pickle with {kind.name}")
        if kind.name.endswith("PUT") and int(argument or 0) > seen:  # would make room for so many objects
            raise _Foreign("an absurd number")
    images, same = _Plain(io.BytesIO(data), encoding="latin-1").load()
    if not isinstance(images, list | tuple) or not isinstance(same, list | tuple):
        raise _Foreign("other things than two lists")
    return [image.encode("latin-1") if isinstance(image, str) else image for image in images], list(same)


@READERS.register
class bin(Format):
    """InsightFace's verification sets."""

    suffix = ".bin"

    def open(self, path: Path, strict: bool = False) -> Images:
        return open_bin(path, strict)
