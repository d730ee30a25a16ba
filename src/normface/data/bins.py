"""InsightFace's verification sets, such as `lfw.bin`: a pickle of encoded images and of labels of pairs.

Pickles can execute code, so `plain_pickle` reads them as data only.
"""

from __future__ import annotations

import pickle
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
from .plain_pickle import Array, Foreign, binary, finished, loads


class Bin:
    """The images of a `.bin`, numbered: a `Store`. The format has no names, so each image counts as one person."""

    landmarks: NDArray[np.float32] | None = None
    ignored = 0

    def __init__(self, path: Path, images: Sequence[bytes]) -> None:
        self.path, self._images = path, images
        self.ids: NDArray[Any] = np.array([f"{row:06d}" for row in range(len(images))])
        self.people: NDArray[Any] = self.ids
        self.labels: Ints = np.arange(len(images))

    def name(self, row: int) -> str:
        """Return the name of image `row`, for messages."""
        return f"image {row} of {self.path}"

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of image `row`."""
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
        encoded, truth = parse(data)
    except Foreign as error:
        raise DataError(want, f"a pickle with {error}", "give a file of InsightFace") from error
    except Exception as error:  # a damaged pickle can raise almost any error
        raise DataError(want, "a damaged file, or one of another kind", "copy the file again") from error
    if len(encoded) != 2 * len(truth) or not encoded:
        raise DataError(f"two images per pair in {path}", f"{len(encoded)} for {len(truth)}", "copy the file again")
    rows = np.arange(len(truth))
    return Images(Bin(path, encoded), strict=strict), 2 * rows, 2 * rows + 1, truth


def parse(data: bytes) -> tuple[list[bytes], Bools]:
    """Read encoded images, and whether pairs are genuine, from a pickle. Raises as `plain_pickle.loads`."""
    images, same = loads(data)
    return _images(images), _truth(same)


def open_bin(path: str | Path, strict: bool = False) -> Images:
    """Open the images of a `.bin`; `read_bin` also returns the pairs."""
    return read_bin(path, strict)[0]


def write_bin(path: str | Path, images: Sequence[bytes], same: Sequence[bool]) -> None:
    """Write encoded images [2M], pair by pair, and whether each pair [M] is genuine."""
    if len(images) != 2 * len(same):
        raise DataError("two images per pair", f"{len(images)} for {len(same)} pairs", "pass both images of each pair")
    with replacing(path) as temporary:
        temporary.write_bytes(pickle.dumps(([bytes(image) for image in images], [bool(each) for each in same])))


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise Foreign("other things than two lists")
    return value


def _images(value: Any) -> list[bytes]:
    """Encoded images; each is copied once, even if the file refers to it several times."""
    known: dict[int, bytes] = {}
    encoded = []
    for data in [_image(finished(each)) for each in _items(value)]:
        if id(data) not in known:
            known[id(data)] = binary(data)
        encoded.append(known[id(data)])
    return encoded


def _image(value: Any) -> bytes | str:
    """Encoded bytes: bytes, text of Python 2, or an array of bytes with one dimension (or a column)."""
    if isinstance(value, Array):
        if not len(value.data) == value.count == max(value.shape) or value.dtype.lstrip("|") not in ("u1", "i1"):
            raise Foreign(f"an image as an array {value.dtype} of shape {value.shape!r:.40}, not as an encoded file")
        return value.data
    if not isinstance(value, bytes | str):
        raise Foreign(f"an image as {type(value).__name__}")
    return value


def _truth(value: Any) -> Bools:
    """Truth values [M]: one array, or a list of booleans or numbers; all 0 or 1."""
    value = finished(value)
    if isinstance(value, Array):
        numbers = value.values()
    else:
        items = [finished(each) for each in _items(value)]
        for each in items:
            if not isinstance(each, bool | int | float):
                told = repr(each[:20]) if isinstance(each, str) else type(each).__name__
                raise Foreign(f"{told} as a truth value, not true or false")
        numbers = np.array([float(each) for each in items])
    if not ((numbers == 0) | (numbers == 1)).all():
        raise Foreign("truth values other than 0 and 1")
    return numbers.astype(bool)


@READERS.register
class bin(Format):
    """InsightFace's verification sets."""

    suffix = ".bin"

    def open(self, path: Path, strict: bool = False) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return open_bin(path, strict)
