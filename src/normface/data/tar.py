"""WebDataset tars: `KEY.jpg` beside `KEY.json`, `KEY.cls` or `KEY.txt`; one file or several shards."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import DataError
from .decoding import EXTENSIONS, extension
from .formats import READERS, Format, holds
from .images import Images, Record, by_name
from .labels import UNKNOWN, identity, label_column
from .pread import read_at

_MOST = 1 << 20  # maximum bytes of a label
_BRACES = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)")  # of several shards


class Tar:
    """The images of tars, read in place, never unpacked: a `Store`.

    A person's name is a key of the JSON (`labels.LABELS`, or the one asked for), otherwise `.cls`, otherwise the folder
    of the key, otherwise the line in `.txt`.
    """

    def __init__(self, path: Path, shards: list[Path], label: str | None = None) -> None:
        self.path, self._shards, self.ignored, self._label = path, shards, 0, label
        self._files = [shard.open("rb", buffering=0) for shard in shards]
        ids, names, spans, points = [], [], [], []
        for number, shard in enumerate(shards):
            for key, members in self._samples(shard).items():
                image = next((ending for ending in members if f".{ending.lower()}" in EXTENSIONS), None)
                if image is None:
                    self.ignored += len(members)
                    continue
                texts = {e: self._text(number, *members[e]) for e in ("json", "cls", "txt") if e in members}
                told = _object(texts.get("json", "{}"), f"{key}.json in {shard}")
                ids.append(str(told.get("id") or f"{key}.{image}"))
                names.append(self._person(told, texts, key))
                spans.append((number, *members[image]))
                points.append(_points(told.get("landmarks")))
        if not ids:
            raise DataError(f"images in {path}", "none", "give tars with KEY.jpg and KEY.cls or KEY.json")
        if 0 < (lost := names.count(UNKNOWN)) < len(names):
            first = ids[names.index(UNKNOWN)]
            raise DataError(f"a label of every image in {path}", f"{lost:,} without (first: {first})", "add .cls files")
        twice = len(ids) - len(set(ids))
        if twice:
            raise DataError(f"each id once in {path}", f"{twice} twice", "give keys that differ between shards")
        self.ids: NDArray[Any] = np.array(ids, np.str_)
        self.people, self.labels = by_name(names)
        self._spans = spans
        known = any(p is not None for p in points)
        nothing = np.full((5, 2), np.nan, np.float32)
        self.landmarks = np.stack([nothing if p is None else p for p in points]) if known else None

    def __reduce__(self) -> tuple[type[Tar], tuple[Path, list[Path], str | None]]:
        return Tar, (self.path, self._shards, self._label)

    def _person(self, told: dict[str, Any], texts: Mapping[Any, str], key: str) -> str:
        column = label_column(list(told), self._label, f"{key}.json") if told or self._label else None
        folder = key.rpartition("/")[0]
        given = told[column] if column is not None else texts.get("cls", folder or texts.get("txt", UNKNOWN))
        return identity(given, f"{key} in {self.path}")

    def name(self, row: int) -> str:
        """Return the name of image `row`, for messages."""
        return f"{self.ids[row]} in {self._shards[self._spans[row][0]]}"

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of image `row`."""
        number, start, length = self._spans[row]
        return read_at(self._files[number].fileno(), length, start)

    def _samples(self, shard: Path) -> dict[str, dict[str, tuple[int, int]]]:
        """Return key → extension → position and length."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        size = shard.stat().st_size
        with shard.open("rb") as opened:
            opened.seek(max(0, size - 512))
            if size % 512 or any(opened.read()):  # the last block of a tar is empty
                got = f"no end after {size:,} bytes"
                raise DataError(f"{shard} to be a complete, uncompressed tar", got, "copy the file again")
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    folder, _, file = member.name.removeprefix("./").rpartition("/")
                    stem, _, ending = file.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    if not member.isreg():
                        raise DataError(
                            f"plain files in {shard}", f"{member.name!r}, a link or device", "create it again"
                        )
                    if {"..", "."} & set(key.split("/")) or re.match(r"/|[A-Za-z]:", member.name):
                        raise DataError(f"names inside {shard}", f"{member.name!r}", "create it again")
                    if member.size < 0 or member.offset_data + member.size > size:
                        raise DataError(f"{member.name!r} whole in {shard}", "a truncated file", "copy the file again")
                    if ending in found.setdefault(key, {}):
                        raise DataError(f"each file once in {shard}", f"{member.name!r} twice", "create it again")
                    found[key][ending] = (member.offset_data, member.size)
        except DataError:
            raise
        except Exception as error:  # damaged headers can raise almost any error in tarfile
            raise DataError(f"{shard} to be a plain tar", f"'{error}'", "copy the file again") from error
        return found

    def _text(self, number: int, start: int, length: int) -> str:
        if length > _MOST:
            raise DataError(f"labels under 1 MiB in {self._shards[number]}", f"{length:,} bytes", "create it again")
        return read_at(self._files[number].fileno(), length, start).decode("utf-8", "replace")


def open_tar(path: str | Path, strict: bool = False, label: str | None = None) -> Images:
    """Open the images of a tar, of the tars in a folder, or of `name-{000000..000012}.tar`.

    Raises DataError if one is missing or damaged, or contains links or names that lead out of it.
    """
    path = Path(path)
    braces = _BRACES.fullmatch(path.name)
    if braces:
        before, first, last, after = braces.groups()
        if int(last) - int(first) > 10**6:
            raise DataError("a million shards at most", path.name, "correct the numbers")
        shards = [path.parent / f"{before}{n:0{len(first)}d}{after}" for n in range(int(first), int(last) + 1)]
    else:
        shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise DataError("tars", f"nothing at {(missing or [path])[0]}", "correct the path")
    return Images(Tar(path, shards, label), strict=strict)


def write_tar(records: Iterable[Record], path: Path) -> int:
    """Write records as a tar of KEY.jpg, KEY.cls and KEY.json. Returns their number."""
    labels: dict[str, int] = {}
    count = 0
    with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for count, record in enumerate(records, 1):
            label = labels.setdefault(record.identity, len(labels))
            told: dict[str, Any] = {"id": record.id, "identity": record.identity}
            if record.landmarks is not None:
                told["landmarks"] = record.landmarks.tolist()
            parts = (
                (extension(record.image)[1:], record.image),
                ("cls", b"%d" % label),
                ("json", json.dumps(told).encode()),
            )
            for ending, data in parts:
                member = tarfile.TarInfo(f"{count:09d}.{ending}")
                member.size = len(data)
                archive.addfile(member, BytesIO(data))
    return count


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
        if not isinstance(told, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise DataError(f"a JSON object as {name}", f"'{error}'", "create it again") from error
    return told


def _points(raw: Any) -> NDArray[np.float32] | None:
    try:
        points = np.array(raw, np.float32).reshape(5, 2)
    except (ValueError, TypeError, OverflowError):
        return None
    return points if np.isfinite(points).all() else None


@READERS.register
class tar(Format):
    """WebDataset tars: one, NAME-{000..012}.tar, or a folder of them."""

    suffix = ".tar"

    def owns(self, path: Path) -> bool:
        """Return True if `path` is of this format."""
        return super().owns(path) or bool(_BRACES.fullmatch(path.name)) or holds(path, r".*\.tar")

    def open(self, path: Path, strict: bool = False, label: str | None = None) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return open_tar(path, strict, label)

    def write(self, records: Iterable[Record], path: Path, **options: Any) -> int:
        """Write records to `path`; see `Format.write`."""
        return write_tar(records, path, **options)
