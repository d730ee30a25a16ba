"""The native format: a folder of Arrow IPC files and `pack.json`, which lists them and is written last.

Columns: id, image (encoded bytes), label, identity, landmarks (5 × x, y; null if unknown), crc32 (of the bytes).
Any Arrow reader can open the files; more can be appended.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import ConfigError, DataError, require
from ..types import Ints
from .formats import READERS, Format, holds
from .images import Images, Record
from .pread import read_at

MANIFEST, FORMAT = "pack.json", "normface-pack-1"
BATCH = 1024  # records
BESIDE, FRAME = 80, 1 << 14  # bytes of a record beside its image and names, and of a file beside its records, at most


class Pack:
    """The records of a pack: a `Store`.

    The table is memory-mapped; images are read by position on request, so that an epoch over a large pack does not
    increase the process's memory (mapped pages count as its own).
    """

    ignored = 0

    def __init__(self, path: Path) -> None:
        pa = require("pyarrow", "data")
        self.path = path
        self._shards = [path / shard["file"] for shard in manifest(path)["shards"]]
        self._files = [shard.open("rb", buffering=0) for shard in self._shards]
        columns: dict[str, list[Any]] = {name: [] for name in ("id", "identity", "landmarks", "crc32")}
        spans, ends = [], []
        for shard in self._shards:
            try:
                buffer = pa.memory_map(str(shard)).read_buffer()
                table = pa.ipc.open_file(buffer).read_all()
                table.select(list(columns)).validate(full=True)
                spans += [span(chunk, buffer) for chunk in table["image"].chunks]
                for name, chunks in columns.items():
                    chunks += table[name].chunks
            except (pa.ArrowException, KeyError, OSError, ValueError) as error:
                raise _damaged(shard, f"'{error}'") from error
            ends.append(len(table))
        self._ends = list(accumulate(ends))
        self._numbers = [file.fileno() for file in self._files]
        starts, lengths = np.concatenate([np.zeros((0, 2), np.int64), *spans]).T.copy()
        self._starts, self._lengths = starts.data, lengths.data
        types = {
            "id": pa.string(),
            "identity": pa.string(),
            "crc32": pa.uint32(),
            "landmarks": pa.list_(pa.float32(), 10),
        }
        try:
            whole = {name: pa.chunked_array(columns[name], type) for name, type in types.items()}
        except (pa.ArrowException, TypeError) as error:
            raise _damaged(path, f"'{error}'") from error
        self._id = whole["id"]
        crcs: NDArray[np.uint32] = np.ascontiguousarray(whole["crc32"].to_numpy())
        self._crcs = crcs.data
        names = whole["identity"].combine_chunks().dictionary_encode()
        distinct = np.array(names.dictionary.to_pylist(), np.str_)
        self.people: NDArray[Any] = np.sort(distinct)
        self.labels: Ints = np.argsort(np.argsort(distinct))[names.indices.to_numpy()].astype(np.int64)
        self.landmarks = _points(whole["landmarks"])

    def __reduce__(self) -> tuple[type[Pack], tuple[Path]]:
        return Pack, (self.path,)  # a worker process opens the files again

    @cached_property
    def ids(self) -> NDArray[Any]:
        """Names of the images [N], read when they are first asked for."""
        return np.array(self._id.to_pylist(), np.str_)

    def name(self, row: int) -> str:
        """Return the name of image `row`, for messages."""
        return f"{self._id[row].as_py()} in {self._shards[self._shard(row)]}"

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of image `row`."""
        # Indexing a memoryview returns Python integers directly, which is faster.
        data = read_at(self._numbers[self._shard(row)], self._lengths[row], self._starts[row])
        if zlib.crc32(data) != self._crcs[row]:
            raise DataError(f"{self.name(row)} as it was packed", "other bytes", "restore the file, or pack it again")
        return data

    def _shard(self, row: int) -> int:
        return bisect_right(self._ends, row)


def open_pack(path: str | Path, strict: bool = False) -> Images:
    """Open the images of a pack. Raises DataError, with the file, if it is damaged."""
    return Images(Pack(Path(path)), strict=strict)


def verify(path: str | Path, progress: Any = None) -> None:
    """Compare every file of a pack with its SHA-256. Raises DataError with the files that differ."""
    shards = manifest(Path(path))["shards"]
    edited = []
    for done, shard in enumerate(shards, 1):
        if _sha256(Path(path) / shard["file"]) != shard["sha256"]:
            edited.append(shard["file"])
        if progress:
            progress(done, len(shards))
    if edited:
        raise DataError(f"the files of {path} as they were packed", f"{', '.join(edited)} edited since", "restore them")


def write_pack(records: Iterable[Record], path: Path, *, append: bool = False, shard_mib: int = 256) -> int:
    """Write records as a new pack, or append them to one, atomically. Returns their number.

    No file is larger than `shard_mib`, unless one record alone is.

    Raises ConfigError if the folder has files (without `append`) or is not a pack (with it), DataError if it cannot be
    written.
    """
    pa = require("pyarrow", "data")
    if append:
        told = manifest(path)
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError("a new folder, or --append", f"{path} with files in it", "give another DST")
    else:
        told = {"format": FORMAT, "shards": []}
    labels: dict[str, int] = {}
    if append:
        there = Pack(path)
        labels = dict(zip(there.people.tolist(), range(len(there.people)), strict=True))
        taken = set(there.ids.tolist())
    else:
        taken = set()
    before, written = len(told["shards"]), []
    try:
        for part in _parts(records, shard_mib << 20):
            doubled = next((r.id for r in part if r.id in taken), None)
            if doubled is not None:
                raise DataError(f"ids that are not in {path} yet", repr(doubled), "list it in a file for --exclude")
            taken.update(r.id for r in part)
            shard = path / f"part-{len(told['shards']):05d}.arrow"
            with replacing(shard) as temporary:
                _write_shard(pa, part, temporary, labels)
            written.append(shard)
            told["shards"].append(
                {"file": shard.name, "records": len(part), "bytes": shard.stat().st_size, "sha256": _sha256(shard)}
            )
        with replacing(path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    except BaseException:
        for shard in written:
            shard.unlink(missing_ok=True)
        raise
    return sum(shard["records"] for shard in told["shards"][before:])


def manifest(path: Path) -> dict[str, Any]:
    """Read `pack.json`. Raises DataError if it or one of its files is missing or has another size."""
    try:
        told: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}")
        for shard in told["shards"]:
            if not isinstance(shard["bytes"], int) or not isinstance(shard["sha256"], str):
                raise TypeError(str(shard))
            if Path(shard["file"]).name != shard["file"]:
                raise ValueError(f"a file outside the pack: {shard['file']!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"a pack of format {FORMAT} at {path}", f"'{error}'", "pack it again: normface pack") from error
    for shard in told["shards"]:
        file = path / shard["file"]
        size = file.stat().st_size if file.is_file() else None
        if size != shard["bytes"]:
            got = "no such file" if size is None else f"{size:,} bytes"
            raise DataError(f"{shard['bytes']:,} bytes in {file}", got, "copy the whole pack again")
    return told


def span(images: Any, buffer: Any) -> Ints:
    """Return start and length [n, 2] of each value of a binary array in the file that `buffer` maps.

    Raises ValueError if one lies outside.
    """
    _, offsets, data = images.buffers()
    wide = np.int64 if str(images.type).startswith("large") else np.int32
    width = np.dtype(wide).itemsize
    if images.null_count or (len(images) and (images.offset + len(images) + 1) * width > offsets.size):
        raise ValueError("images missing")
    if not len(images):
        return np.zeros((0, 2), np.int64)
    at = np.frombuffer(offsets, wide)[images.offset : images.offset + len(images) + 1].astype(np.int64)
    base = data.address - buffer.address if data is not None else 0
    if at[0] < 0 or (np.diff(at) < 0).any() or at[-1] > (data.size if data is not None else 0) or base < 0:
        raise ValueError("images that lie outside")
    return np.stack([base + at[:-1], np.diff(at)], axis=1)


def _parts(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    part: list[Record] = []
    held = 0
    for record in records:
        needed = len(record.image) + len(record.id.encode()) + len(record.identity.encode()) + BESIDE
        if part and held + needed > size - FRAME:
            yield part
            part, held = [], 0
        part.append(record)
        held += needed
    if part:
        yield part


def _write_shard(pa: Any, part: list[Record], path: Path, labels: dict[str, int]) -> None:
    schema = pa.schema(
        {
            "id": pa.string(), "image": pa.binary(), "label": pa.int64(), "identity": pa.string(),
            "landmarks": pa.list_(pa.float32(), 10), "crc32": pa.uint32(),
        }
    )  # fmt: skip
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(part), BATCH):
            some = part[start : start + BATCH]
            columns = (
                [r.id for r in some], [r.image for r in some],
                [labels.setdefault(r.identity, len(labels)) for r in some], [r.identity for r in some],
                [None if r.landmarks is None else r.landmarks.ravel() for r in some],
                [zlib.crc32(r.image) for r in some],
            )  # fmt: skip
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _points(column: Any) -> NDArray[np.float32] | None:
    if column.null_count == len(column):
        return None
    points = np.full((len(column), 5, 2), np.nan, np.float32)
    column = column.combine_chunks()
    points[~np.asarray(column.is_null())] = np.asarray(column.drop_null().flatten()).reshape(-1, 5, 2)
    return points


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, got: str) -> DataError:
    return DataError(f"{path} to be complete", got, "pack it again, or restore the file")


@READERS.register
class arrow(Format):
    """A pack: Arrow IPC files and `pack.json`."""

    def owns(self, path: Path) -> bool:
        """Return True if `path` is of this format."""
        return (path / MANIFEST).is_file() or holds(path, r"part-\d+\.arrow")  # without its manifest: an error says so

    def open(self, path: Path, strict: bool = False) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return open_pack(path, strict)

    def write(self, records: Iterable[Record], path: Path, **options: Any) -> int:
        """Write records to `path`; see `Format.write`."""
        return write_pack(records, path, **options)
