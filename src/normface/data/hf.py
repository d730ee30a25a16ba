"""Image datasets saved by Hugging Face `datasets` (`save_to_disk`), read by pyarrow alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import replacing
from ..errors import ConfigError, DataError, require
from ..types import Ints
from .decoding import extension
from .formats import READERS, Format
from .images import Images, Record, by_name
from .pack import span
from .pread import read_at

STATE, INFO = "state.json", "dataset_info.json"


class HuggingFace:
    """The images of a dataset: a `Store`. Names come from `identity`, or from `label` and its names."""

    landmarks: NDArray[np.float32] | None = None
    ignored = 0

    def __init__(self, path: Path) -> None:
        pa = require("pyarrow", "data")
        self.path = path
        try:
            state, info = (json.loads((path / name).read_bytes()) for name in (STATE, INFO))
            names = [Path(each["filename"]) for each in state["_data_files"]]
            features: dict[str, Any] = info["features"]
            image = next(name for name, kind in features.items() if kind.get("_type") == "Image")
            label = next((name for name in ("identity", "label", "labels") if name in features), None)
            if any(len(name.parts) != 1 or name.name == ".." for name in names):
                raise ValueError("files outside of it")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
            raise DataError(
                f"a data set with a column of images at {path}", f"'{error!r}'", "save it with save_to_disk"
            ) from error
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
                people += table[label].to_pylist() if label else ["unknown"] * len(table)
                ends.append(len(table))
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"intact Arrow files in {path}", f"'{error}'", "save the dataset again") from error
        classes = features[label].get("names") if label else None
        if classes:
            try:
                people = [classes[int(code)] for code in people]
            except (IndexError, TypeError, ValueError) as error:
                raise DataError(f"labels 0 to {len(classes) - 1} in {path}", f"'{error}'", "save it again") from error
        given = [str(id) if id else f"{row:08d}" for row, id in enumerate(ids)]
        self._ids = given if len(set(given)) == len(given) else [f"{row:08d}-{id}" for row, id in enumerate(given)]
        self._ends = np.cumsum(ends)
        self._spans: Ints = np.concatenate([np.zeros((0, 2), np.int64), *spans])
        if not len(self._spans):
            raise DataError(f"images in {path}", "none", "save a dataset with images")
        self.people, self.labels = by_name([str(person) for person in people])

    def __reduce__(self) -> tuple[type[HuggingFace], tuple[Path]]:
        return HuggingFace, (self.path,)

    @property
    def ids(self) -> NDArray[Any]:
        return np.array(self._ids, np.str_)

    def name(self, row: int) -> str:
        return f"{self._ids[row]} in {self.path}"

    def encoded(self, row: int) -> bytes:
        start, length = self._spans[row].tolist()
        return read_at(self._files[int(np.searchsorted(self._ends, row, side="right"))].fileno(), length, start)


def open_huggingface(path: str | Path, strict: bool = False) -> Images:
    """Open the images in a folder of `save_to_disk`. Raises DataError for anything else."""
    return Images(HuggingFace(Path(path)), strict=strict)


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
    """An id with an image's ending."""
    return record.id if Path(record.id).suffix else record.id + extension(record.image)


@READERS.register
class hf(Format):
    """A Hugging Face dataset of `save_to_disk`."""

    def owns(self, path: Path) -> bool:
        return (path / STATE).is_file()

    def open(self, path: Path, strict: bool = False) -> Images:
        return open_huggingface(path, strict)

    def write(self, records: Iterable[Record], path: Path, **options: Any) -> int:
        return write_huggingface(records, path, **options)
