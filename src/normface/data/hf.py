"""Image datasets of Hugging Face `datasets`, by `save_to_disk` or as Parquet files, read by pyarrow alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import ConfigError, DataError, InputError, require
from ..types import Ints
from .decoding import extension
from .formats import READERS, Format, holds
from .images import Images, Record, by_name
from .labels import UNKNOWN, identity, label_column, unlabelled
from .pack import span
from .pread import read_at

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_log = logging.getLogger("normface")


class _Columns:
    """Base of both kinds of files. `label` is the column of people's names, if it is not a usual one."""

    landmarks: NDArray[np.float32] | None = None
    ignored = 0
    _ids: list[str]

    def __init__(self, path: Path, label: str | None = None) -> None:
        self.path, self._asked = path, label

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._asked)

    @property
    def ids(self) -> NDArray[Any]:
        return np.array(self._ids, np.str_)

    def name(self, row: int) -> str:
        return f"{self._ids[row]} in {self.path}"


class HuggingFace(_Columns):
    """The images of a dataset: a `Store`."""

    def __init__(self, path: Path, label: str | None = None) -> None:
        super().__init__(path, label)
        pa = require("pyarrow", "data")
        try:
            state, info = (json.loads((path / name).read_bytes()) for name in (STATE, INFO))
            names = [Path(each["filename"]) for each in state["_data_files"]]
            features: dict[str, Any] = info["features"]
            image = next(name for name, kind in features.items() if kind.get("_type") == "Image")
            if any(len(name.parts) != 1 or name.name == ".." for name in names):
                raise ValueError("files outside of it")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
            raise DataError(
                f"a data set with a column of images at {path}", f"'{error!r}'", "save it with save_to_disk"
            ) from error
        column = _label(features, image, label, path)
        self._paths = [path / name for name in names]
        ids, people, spans, ends = list[Any](), list[Any](), [], []
        try:
            self._files = [file.open("rb", buffering=0) for file in self._paths]
            for file in self._paths:
                buffer = pa.memory_map(str(file)).read_buffer()
                table = pa.ipc.open_stream(buffer).read_all()
                table.validate(full=True)
                for chunk in table[image].chunks:
                    spans.append(span(chunk.field("bytes"), buffer))
                    ids += chunk.field("path").to_pylist()
                people += table[column].to_pylist() if column else [UNKNOWN] * len(table)
                ends.append(len(table))
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"intact Arrow files in {path}", f"'{error}'", "save the dataset again") from error
        people = _people(people, features[column].get("names") if column else None, path)
        self._ids = _ids(ids)
        self._ends = np.cumsum(ends)
        self._spans: Ints = np.concatenate([np.zeros((0, 2), np.int64), *spans])
        if not len(self._spans):
            raise DataError(f"images in {path}", "none", "save a dataset with images")
        self.people, self.labels = by_name(people)

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of image `row`."""
        start, length = self._spans[row].tolist()
        return read_at(self._files[int(np.searchsorted(self._ends, row, side="right"))].fileno(), length, start)


class Parquet(_Columns):
    """The images of Parquet files: a `Store`. Groups of rows are decompressed whole: pack them before training."""

    def __init__(self, path: Path, label: str | None = None) -> None:
        super().__init__(path, label)
        pa, pq = require("pyarrow", "data"), require("pyarrow.parquet", "data")
        self._lock = Lock()
        ids, people, ends = list[Any](), list[Any](), list[int]()
        self._groups: list[tuple[Any, int]] = []
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        try:
            for file in files:
                table = pq.ParquetFile(str(file))
                schema = table.schema_arrow
                features = {name: {} for name in schema.names} | _features(schema.metadata)
                self._image = _image(schema, path)
                column = _label(features, self._image, label, path)
                named = "path" in [field.name for field in schema.field(self._image).type]
                wanted = [column] * bool(column) + [f"{self._image}.path"] * named
                for group in range(table.num_row_groups):
                    part = table.read_row_group(group, columns=wanted or [f"{self._image}.bytes"])
                    ids += part[self._image].combine_chunks().field("path").to_pylist() if named else [None] * len(part)
                    found = part[column].to_pylist() if column else [UNKNOWN] * len(part)
                    people += _people(found, features[column].get("names") if column else None, path)
                    self._groups.append((table, group))
                    ends.append(len(part))
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise DataError(f"intact Parquet files at {path}", f"'{error}'", "copy them again") from error
        if not ids:
            raise DataError(f"images in {path}", "none", "give Parquet files with images")
        self._ids, self._ends = _ids(ids), np.cumsum(ends)
        self.people, self.labels = by_name(people)
        self._group = lru_cache(maxsize=2)(self._read)

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of image `row`."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        with self._lock:
            images = self._group(group)
        data = images[row - int(self._ends[group]) + len(images)].as_py()
        if not isinstance(data, bytes):
            raise DataError(f"{self.name(row)} with its bytes", "none", "embed the images in the file")
        return data

    def _read(self, group: int) -> Any:
        table, number = self._groups[group]
        try:
            found = table.read_row_group(number, columns=[f"{self._image}.bytes"])
        except (OSError, ValueError) as error:
            raise DataError(f"intact Parquet files at {self.path}", f"'{error}'", "copy them again") from error
        return found[self._image].combine_chunks().field("bytes")


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Return the column types that `datasets` writes into a Parquet file's metadata, if it did."""
    try:
        told = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        found = told.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _image(schema: Any, path: Path) -> str:
    """Return the column of images: a struct with `bytes`."""
    for field in schema:
        if str(field.type).startswith("struct") and "bytes" in [part.name for part in field.type]:
            return str(field.name)
    raise DataError(
        f"a column of images in {path}", ", ".join(schema.names), "save it with datasets, Image() as its type"
    )


def _label(features: dict[str, Any], image: str, asked: str | None, path: Path) -> str | None:
    """Return the column of people's names; None if there are only images."""
    others = [name for name in features if name != image]
    column = label_column(others, asked, path)
    if column is None and others:
        raise unlabelled(others, path)
    return column


def _people(values: list[Any], classes: list[str] | None, path: Path) -> list[str]:
    """Convert labels to names, by the names of the classes if there are any."""
    if not classes:
        return [identity(value, f"row {row} of {path}") for row, value in enumerate(values)]
    if any(not isinstance(code, int) or not 0 <= code < len(classes) for code in values):
        wrong = next(code for code in values if not isinstance(code, int) or not 0 <= code < len(classes))
        raise DataError(f"labels 0 to {len(classes) - 1} in {path}", repr(wrong)[:40], "save it again")
    return [str(classes[code]) for code in values]


def _ids(paths: list[Any]) -> list[str]:
    """Return distinct ids: the files' names, or numbers."""
    given = [str(id) if id else f"{row:08d}" for row, id in enumerate(paths)]
    return given if len(set(given)) == len(given) else [f"{row:08d}-{id}" for row, id in enumerate(given)]


def open_huggingface(path: str | Path, strict: bool = False, label: str | None = None) -> Images:
    """Open the images in a folder of `save_to_disk`: a Dataset, or the training split of a DatasetDict.

    Raises DataError for anything else.
    """
    path = Path(path)
    if (path / SPLITS).is_file():
        path = _split(path)
    return Images(HuggingFace(path, label), strict=strict)


def _split(path: Path) -> Path:
    try:
        splits = json.loads((path / SPLITS).read_bytes())["splits"]
        if not splits or any(Path(name).name != name for name in splits):
            raise ValueError("no splits")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"splits in {path / SPLITS}", f"'{error}'", "save it with save_to_disk") from error
    if len(splits) > 1 and "train" not in splits:
        raise DataError(f"one split of {path}", ", ".join(splits), f"name it: {path / splits[0]}")
    chosen = "train" if "train" in splits else splits[0]
    if len(splits) > 1:
        _log.warning("%s: reading the split %s only, of %s", path, chosen, ", ".join(splits))
    return path / chosen


def write_huggingface(records: Iterable[Record], path: Path) -> int:
    """Write records for `datasets.load_from_disk`, with image, label (names) and identity. Returns their number."""
    pa = require("pyarrow", "data")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError("a new folder", f"{path} with files in it", "give another folder")
    file, labels = "data-00000-of-00001.arrow", dict[str, int]()
    count = 0
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64(), "identity": pa.string()}
    )
    with replacing(path / file) as temporary, temporary.open("wb") as out, pa.ipc.new_stream(out, schema) as writer:
        for record in records:
            count += 1
            row = {
                "image": {"bytes": record.image, "path": _named(record)},
                "label": labels.setdefault(record.identity, len(labels)), "identity": record.identity,
            }  # fmt: skip
            writer.write_batch(pa.RecordBatch.from_pylist([row], schema))
    features = {
        "image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(labels)},
        "identity": {"_type": "Value", "dtype": "string"},
    }  # fmt: skip
    state: dict[str, Any] = {
        "_data_files": [{"filename": file}], "_fingerprint": f"{count:016x}", "_format_columns": None,
        "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None,
    }  # fmt: skip
    for name, told in {INFO: {"features": features}, STATE: state}.items():
        with replacing(path / name) as temporary:
            temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return count


def _named(record: Record) -> str:
    """An id with an image's extension."""
    return record.id if Path(record.id).suffix else record.id + extension(record.image)


@READERS.register
class hf(Format):
    """A Hugging Face dataset of `save_to_disk`, or the training split of several."""

    def owns(self, path: Path) -> bool:
        """Return True if `path` is of this format."""
        return (path / STATE).is_file() or (path / SPLITS).is_file()

    def open(self, path: Path, strict: bool = False, label: str | None = None) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return open_huggingface(path, strict, label)

    def write(self, records: Iterable[Record], path: Path, **options: Any) -> int:
        """Write records to `path`; see `Format.write`."""
        return write_huggingface(records, path, **options)


@READERS.register
class parquet(Format):
    """Parquet files of images, as on the Hugging Face hub: one, or a folder of them."""

    suffix = ".parquet"

    def owns(self, path: Path) -> bool:
        """Return True if `path` is of this format."""
        return super().owns(path) or any(holds(folder, r".*\.parquet") for folder in (path, path / "data"))

    def open(self, path: Path, strict: bool = False, label: str | None = None) -> Images:
        """Open the images at `path`; see `Format.open`."""
        return Images(Parquet(path, label), strict=strict)
