"""Embed the images that a protocol's lists name, and certify a model by them."""

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
    """Embed the images that a protocol's lists name (all, where it has none), from a folder or archive of crops.

    `strict` refuses unreadable images instead of leaving them out; progress is called with images done and in all.
    Raises DataError for malformed lists and for crops that cannot be used.
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
    """Embed the LFW images that `lists` in `data`/lfw name, from the first archive or folder of crops there.

    The lists are in LFW's format, or BLUFR's `.mat`; options as for `embed_listed`.
    """
    named = [data / "lfw" / name for name in lists]
    protocol = "blufr" if any(path.suffix == ".mat" for path in named) else "lfw"
    crops = inputs_of("lfw").find_crops(data)
    return embed_listed(embedder, protocol, named, crops, mirror=mirror, strict=strict, progress=progress)


def certify(
    result: Result, vectors: Embeddings, pairs_file: Path, *, far: float | None = None, model_sha256: str
) -> OperatingPoint:
    """The operating point of a model on a list of LFW's format; its `result` there is evaluated as `verify` compares.

    far: false accept rate to stay at or below; None takes the threshold of the best accuracy.
    """
    return operating_point(
        of_list(vectors, read_lfw_pairs(pairs_file)), target_far=far, protocol=f"{result.protocol}, mirror sum",
        model_sha256=model_sha256, data_sha256=str(result.facts["pairs_sha256"]),
    )  # fmt: skip


def keep_certificate(path: Path, point: OperatingPoint) -> None:
    """Write an operating point; `verify` and `export` look for it at `certificate(model)`."""
    with replacing(path) as temporary:
        temporary.write_text(point.to_json() + "\n", encoding="utf-8")
