"""Embedding of the images in a protocol's lists, and certification of a model on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..atomic import replacing
from ..data import open_reader
from ..faces import size_fault
from ..protocols import inputs_of, of_list, operating_point, read_lfw_pairs
from ..types import Embeddings, OperatingPoint, Result
from .embedder import Embedder, Mirror


def embed_listed(
    embedder: Embedder,
    protocol: str,
    lists: Sequence[Path],
    crops: Path,
    *,
    mirror: Mirror = "sum",
    strict: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Embeddings:
    """Embed the images in a protocol's lists (all, if it has none), from a folder or archive of crops.

    `strict` raises an error for unreadable images instead of skipping them; progress is called with images done and in
    total. Raises DataError for malformed lists and unusable crops.
    """
    reader = open_reader(crops, strict)
    wanted = inputs_of(protocol).named(lists, reader.ids)
    reader = reader.select(np.flatnonzero(wanted)).check(fault=size_fault)
    return embedder.embed(reader, mirror=mirror, progress=progress)


def embed_pairs(
    embedder: Embedder,
    data: Path,
    lists: Sequence[str] = ("pairs.txt",),
    *,
    mirror: Mirror = "sum",
    strict: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Embeddings:
    """Embed the LFW images in `lists` under `data`/lfw, from the first archive or folder of crops there.

    The lists are in LFW's format, or BLUFR's `.mat`; options as in `embed_listed`.
    """
    named = [data / "lfw" / name for name in lists]
    protocol = "blufr" if any(path.suffix == ".mat" for path in named) else "lfw"
    crops = inputs_of("lfw").find_crops(data)
    return embed_listed(embedder, protocol, named, crops, mirror=mirror, strict=strict, progress=progress)


def certify(
    result: Result, vectors: Embeddings, pairs_file: Path, *, far: float | None = None, model_sha256: str
) -> OperatingPoint:
    """Compute a model's operating point on a list in LFW's format, from its `result` under the conditions of `verify`.

    far: upper limit of the false accept rate; None selects the threshold of best accuracy.
    """
    return operating_point(
        of_list(vectors, read_lfw_pairs(pairs_file)), target_far=far, protocol=f"{result.protocol}, mirror sum",
        model_sha256=model_sha256, data_sha256=str(result.facts["pairs_sha256"]),
    )  # fmt: skip


def keep_certificate(path: Path, point: OperatingPoint) -> None:
    """Write an operating point to a file; `verify` and `export` read it from `certificate(model)`."""
    with replacing(path) as temporary:
        temporary.write_text(point.to_json() + "\n", encoding="utf-8")
