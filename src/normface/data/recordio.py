"""InsightFace's RecordIO: `NAME.rec` with `NAME.idx` and `property`, read and written without mxnet.

A record: magic, then 3 bits (part of several) and 29 bits (length), the data, zeros to a multiple of 4. Its data: flag,
label, id, id2, then `flag` more labels, then the image. Record 0 gives the range of identity records, which list their
images; both are ignored, because each image has its label.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import DataError
from ..types import Ints
from .decoding import decode
from .formats import READERS, Format, holds
from .images import Images, Record
from .pread import read_at

MAGIC = 0xCED7230A
_FRAME, _HEADER = struct.Struct("<II"), struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class RecordIO:
    """The images of a `.rec`: a `Store`; a person's name is the label, such as `0000012`."""

    landmarks: NDArray[np.float32] | None = None
    ignored = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
            size = os.fstat(self._file.fileno()).st_size
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise self._error("to be readable", f"'{error.strerror}'", "correct the path") from error
        index = path.with_suffix(".idx")
        starts = self._indexed(index, size) if index.exists() else self._scanned(size)
        # A record ends at the start of the next one in the file.
        order = np.argsort(starts)
        ends = np.empty(len(starts), np.int64)
        ends[order] = np.append(starts[order][1:], size)
        headers = self._headers(starts, ends)
        flags, labels = headers["flag"], headers["label"].astype(np.float64)
        many = np.flatnonzero(flags > 0)
        if len(many):  # the first of several labels follows the header
            labels[many] = np.frombuffer(self._gather(starts[many] + _FRAME.size + _HEADER.size, 4), "<f4")
        images = np.ones(len(starts), bool)
        no_image = headers["length"][:1] & (2**29 - 1) == _HEADER.size + 4 * 2  # or im2rec's, with two labels
        if no_image.all() and len(starts) and flags[0] == 2 and headers["id"][0] == 0 and labels[0] >= 1:
            images[0] = False  # the record of records; identity records begin at its first label
            images[min(int(min(labels[0], len(starts))), len(starts)) :] = False
        self._spans: Ints = np.stack([starts, ends], axis=1)[images]
        labels = labels[images]
        if not len(labels):
            raise self._error("to contain images", "none", "copy the file again")
        if not (np.isfinite(labels) & (labels >= 0) & (labels < 2**24) & (labels == np.round(labels))).all():
            raise self._error("to have labels 0, 1, 2, …", "others", "create it again")
        codes, dense = np.unique(labels.astype(np.int64), return_inverse=True)
        self.people: NDArray[Any] = np.array([f"{code:07d}" for code in codes])
        self.labels: Ints = dense.astype(np.int64)
        self._keys = np.flatnonzero(images)

    def __reduce__(self) -> tuple[type[RecordIO], tuple[Path]]:
        return RecordIO, (self.path,)

    @cached_property
    def ids(self) -> NDArray[Any]:
        pairs = zip(self.people[self.labels].tolist(), self._keys.tolist(), strict=True)
        return np.array([f"{person}/{key:08d}" for person, key in pairs])

    def name(self, row: int) -> str:
        """Return the name of image `row`, for messages."""
        return f"record {self._keys[row]} of {self.path}"

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of image `row`."""
        start, end = self._spans[row].tolist()
        data = _unframed(read_at(self._file.fileno(), end - start, start), self.name(row))
        (flag,) = struct.unpack_from("<I", data)
        if _HEADER.size + 4 * flag > len(data):
            raise DataError(f"{self.name(row)} to be complete", f"{flag} labels in {len(data)} bytes", "copy it again")
        return bytes(data[_HEADER.size + 4 * flag :])

    def _indexed(self, index: Path, size: int) -> Ints:
        try:
            pairs = np.array([line.split()[:2] for line in index.read_bytes().splitlines() if line.strip()], np.int64)
            starts: Ints = pairs.reshape(-1, 2)[np.argsort(pairs.reshape(-1, 2)[:, 0], kind="stable"), 1]
        except (OSError, ValueError, OverflowError) as error:
            raise DataError(f"lines `number offset` in {index}", f"'{error}'", "remove it: it is made anew") from error
        outside = len(starts) and (starts.min() < 0 or starts.max() > size - _FRAME.size)
        if outside or len(np.unique(starts)) < len(starts):
            got = "places outside of it, or one twice"
            raise DataError(f"an index of {self.path} ({size:,} bytes)", got, "remove it: it is made anew")
        return starts

    def _scanned(self, size: int) -> Ints:
        """Positions of all records, found by reading from one to the next."""
        starts, at = [], 0
        while at < size:
            if at + _FRAME.size > size:
                raise self._error("to be complete", f"{size - at} bytes too many", "copy the file again")
            magic, told = _FRAME.unpack_from(self._map, at)
            length, part = told & (2**29 - 1), told >> 29
            if magic != MAGIC or at + _FRAME.size + length > size:
                raise self._error("to be complete", f"no record, or an invalid length, at byte {at:,}", "copy it again")
            if part in (_WHOLE, _FIRST):
                starts.append(at)
            at += _FRAME.size + length + -length % 4
        return np.array(starts, np.int64)

    def _headers(self, starts: Ints, ends: Ints) -> Any:
        if len(starts) and (ends - starts).min() < _FRAME.size + _HEADER.size:
            raise self._error("to hold records with a label", "a shorter one", "copy the file again")
        kind = np.dtype([("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8")])
        headers = np.frombuffer(self._gather(starts, kind.itemsize), kind)
        wrong = np.flatnonzero(headers["magic"] != MAGIC)
        if len(wrong):
            got = f"none at byte {starts[wrong[0]]:,}"
            raise self._error("to hold a record where the index says", got, "remove the index")
        if (flags := headers["flag"]).size and flags.max() > 2**20:
            raise self._error("to have few labels per image", f"{flags.max():,}", "copy the file again")
        return headers

    def _gather(self, starts: Ints, count: int) -> bytes:
        whole = np.frombuffer(self._map, np.uint8)
        if len(starts) and starts.max() + count > len(whole):
            raise self._error("to be complete", "a truncated record", "copy the file again")
        found: bytes = whole[starts[:, None] + np.arange(count)].tobytes()
        return found

    def _error(self, expected: str, got: str, do: str) -> DataError:
        return DataError(f"{self.path} {expected}", got, do)


def open_recordio(path: str | Path, strict: bool = False) -> Images:
    """Open the images of a `.rec`, or of the one in a folder. Raises DataError if it is missing or damaged."""
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.rec"))
        if len(found) != 1:
            raise DataError(f"one .rec file in {path}", f"{len(found)}", "name the file")
        path = found[0]
    return Images(RecordIO(path), strict=strict)


def write_recordio(records: Iterable[Record], path: Path) -> int:
    """Write records as `path` (NAME.rec), its index and `property`. Returns the number of images.

    Raises DataError unless the images are sorted by person (InsightFace stores a range of each).
    """
    labels: dict[str, int] = {}
    ranges: list[list[int]] = []
    size: tuple[int, ...] | None = None
    index = path.with_suffix(".idx")
    with replacing(path) as temporary, temporary.open("wb") as file:
        starts = [0]
        file.write(_framed(_labelled(0, (0.0, 0.0), b"")))  # of the right length; replaced below
        for number, record in enumerate(records, 1):
            size = size or decode(record.image, record.id).shape[:2]
            if record.identity not in labels:
                labels[record.identity] = len(labels)
                ranges.append([number, number])
            if labels[record.identity] != len(labels) - 1:
                raise DataError("images person by person", f"{record.id} apart from the rest", "sort them first")
            ranges[-1][1] = number + 1
            starts.append(file.tell())
            file.write(_framed(_HEADER.pack(0, float(labels[record.identity]), number, 0) + record.image))
        first = len(starts)
        for number, (begin, end) in enumerate(ranges, first):
            starts.append(file.tell())
            file.write(_framed(_labelled(number, (float(begin), float(end)), b"")))
        file.seek(0)
        file.write(_framed(_labelled(0, (float(first), float(first + len(ranges))), b"")))
    with replacing(index) as temporary:
        temporary.write_text("".join(f"{number}\t{start}\n" for number, start in enumerate(starts)), "ascii")
    height, width = size or (112, 112)
    with replacing(path.parent / "property") as temporary:
        temporary.write_text(f"{len(labels)},{height},{width}\n", "ascii")
    return first - 1


def _labelled(number: int, labels: tuple[float, float], image: bytes) -> bytes:
    return _HEADER.pack(2, 0.0, number, 0) + struct.pack("<2f", *labels) + image


def _framed(data: bytes) -> bytes:
    if len(data) >= 2**29:
        raise DataError("images under 512 MiB", f"{len(data):,} bytes", "leave the image out")
    # The magic word in the data, at a multiple of 4, would look like a record: split the data there without the word.
    magic = struct.pack("<I", MAGIC)
    parts, start, at = [], 0, data.find(magic)
    while at >= 0:
        if at % 4 == 0:
            parts.append(data[start:at])
            start = at + 4
            at = data.find(magic, start)
        else:
            at = data.find(magic, at + 1)
    parts.append(data[start:])
    kinds = [_WHOLE] if len(parts) == 1 else [_FIRST, *[_MIDDLE] * (len(parts) - 2), _LAST]
    return b"".join(
        _FRAME.pack(MAGIC, kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def _unframed(data: bytes, name: str) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        if at + _FRAME.size > len(data):
            raise DataError(f"{name} to be complete", "a truncated file", "copy the file again")
        magic, told = _FRAME.unpack_from(data, at)
        length, kind = told & (2**29 - 1), told >> 29
        at += _FRAME.size
        if magic != MAGIC or at + length > len(data) or kind > _LAST or (kind in (_WHOLE, _FIRST)) == bool(parts):
            got = f"a part of {length:,} bytes where {len(data) - at:,} are"
            raise DataError(f"{name} to be complete", got, "copy the file again")
        parts.append(data[at : at + length])
        at += length + -length % 4
        if kind in (_WHOLE, _LAST):
            whole = struct.pack("<I", MAGIC).join(parts)
            if len(whole) < _HEADER.size:
                raise DataError(f"{name} to be complete", f"{len(whole)} bytes", "copy the file again")
            return whole


@READERS.register
class rec(Format):
    """InsightFace's RecordIO: NAME.rec with its index, or the folder around them."""

    suffix = ".rec"

    def owns(self, path: Path) -> bool:
        """Return True if `path` is of this format."""
        return super().owns(path) or holds(path, r".*\.rec")

    def open(self, path: Path, strict: bool = False) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return open_recordio(path, strict)

    def write(self, records: Iterable[Record], path: Path, **options: Any) -> int:
        """Write records to `path`; see `Format.write`."""
        return write_recordio(records, path, **options)
