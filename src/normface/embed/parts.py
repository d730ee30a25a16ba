"""Embedding of one part of a bulk job, shared by this process and Ray so that results are identical."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..types import Floats
from .embedder import Embedder, Mirror
from .source import Prepared

PREPARED_AT_ONCE = 32  # images prepared at a time


class Embedded(NamedTuple):
    """A part: features [n, D] by id, and refused images."""

    ids: list[str]
    features: Floats
    refused: list[tuple[str, str]]


def blocks(rows: range) -> list[range]:
    """Split rows into the blocks that are prepared and embedded together."""
    return [rows[start : start + PREPARED_AT_ONCE] for start in range(0, len(rows), PREPARED_AT_ONCE)]


def embed_block(embedder: Embedder, prepared: Prepared, mirror: Mirror) -> Embedded:
    """Embed a block; features are [0, 0] if all of it is refused."""
    features = embedder.features(prepared.crops, mirror) if prepared.ids else np.empty((0, 0), np.float32)
    return Embedded(prepared.ids, features, prepared.refused)


def join(found: Iterable[Embedded]) -> Embedded:
    """Join blocks into a part."""
    found = list(found)
    features = [each.features for each in found if len(each.ids)] or [np.empty((0, 0), np.float32)]
    return Embedded(
        [id for each in found for id in each.ids], np.concatenate(features),
        [pair for each in found for pair in each.refused],
    )  # fmt: skip
