"""Exported templates in one .npz file: what another gallery needs to hold the same people.

Besides `vectors`, `norms` and `ids` (NAME/0001), which any system reads as embeddings, the file has `person`,
`person_id`, `time`, `enrolled`, `consent`, `tags` and `source`. Thumbnails stay in the gallery. Vectors and names are
not encrypted: only the owner may read the file (mode 0600).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import replacing
from ..errors import DataError
from ..types import Embeddings
from .base import Enrolments
from .names import PersonId

COLUMNS = ("person", "person_id", "time", "enrolled", "consent", "tags", "source")


def save_archive(path: str | Path, parts: Iterable[Enrolments]) -> tuple[int, int]:
    """Write what `Gallery.export` yields. Returns the numbers of people and templates. Raises DataError for none."""
    vectors, norms = [], []
    columns: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, "ids")}
    counts: Counter[str] = Counter()
    for part in parts:
        blank = [None] * len(part)
        vectors.append(part.vectors)
        norms.append(np.full(len(part), np.nan) if part.quality is None else part.quality)
        for name in part.people:
            counts[name] += 1
            columns["ids"].append(f"{name}/{counts[name]:04d}")
        columns["person"] += part.people
        columns["person_id"] += part.ids or blank
        columns["time"] += blank if part.time is None else part.time.tolist()
        columns["enrolled"] += blank if part.enrolled is None else part.enrolled.tolist()
        columns["consent"] += part.consent or blank
        columns["tags"] += [json.dumps(list(tags)) for tags in part.tags or [()] * len(part)]
        columns["source"] += part.source or blank
    if not vectors:
        raise DataError("a gallery with people", "an empty one", "enrol people first: normface enrol")
    arrays: dict[str, Any] = {
        name: np.array([np.nan if v is None else v for v in values], np.float64) if name in ("time", "enrolled")
        else np.array(["" if v is None else v for v in values], np.str_)
        for name, values in columns.items()
    }  # fmt: skip
    with replacing(path) as temporary, os.fdopen(os.open(temporary, os.O_CREAT | os.O_RDWR, 0o600), "wb") as file:
        np.savez(file, vectors=np.concatenate(vectors), norms=np.concatenate(norms), **arrays)
    return len(counts), len(columns["ids"])


def load_archive(path: str | Path) -> Enrolments | None:
    """Read a file of `save_archive`; None for embeddings of another origin. Raises DataError as `Embeddings.load`."""
    found = Embeddings.load(path)
    with np.load(path, allow_pickle=False) as arrays:
        if not set(COLUMNS) <= set(arrays.files):
            return None
        columns = {name: arrays[name] for name in COLUMNS}
    texts = {name: [text or None for text in columns[name].tolist()] for name in ("person_id", "consent", "source")}
    times = {
        name: None if np.isnan(columns[name]).any() else columns[name].astype(np.float64)
        for name in ("time", "enrolled")
    }
    return Enrolments(
        columns["person"].tolist(), found.vectors, found.norms, times["time"], texts["consent"], texts["source"],
        ids=[id and PersonId(id) for id in texts["person_id"]], enrolled=times["enrolled"],
        tags=[json.loads(tags) for tags in columns["tags"].tolist()],
    )  # fmt: skip
