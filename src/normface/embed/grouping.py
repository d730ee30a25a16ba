"""Grouping of faces by person, without names.

Shape suffixes: N faces, M known faces, C people, D dimensions of unit embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..types import Floats, Ints

BLOCK = 2**25  # cosines in memory at a time: 128 MiB for any number of faces


def group_vectors(
    vectors: ArrayLike, threshold: float, *, progress: Callable[[int, int], object] | None = None
) -> Ints:
    """Group unit embeddings [N, D] of faces by person, without knowing the number of people.

    Two groups merge if their fused templates (`Embedder.fuse`: the normalized mean of their vectors) have a cosine of
    at least `threshold`. In each round all pairs of groups merge that are each other's nearest, until none is near
    enough. On LFW this made as few wrong merges as average linkage and found more images of each person: see
    docs/grouping.md.

    Returns labels [N] 0 … C - 1, in the order of each group's first row. Memory is proportional to N, not to N².
    progress: called with N minus the remaining groups, and N; at the end with N twice. Raises InputError unless the
    rows are finite.
    """
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise InputError("finite vectors [N, D]", f"{rows.dtype} of shape {list(rows.shape)}", "pass unit rows")
    total = len(rows)
    parent = np.arange(total)  # of merged groups: points towards the row that represents them
    sums, fused, alive = rows.copy(), rows.copy(), np.arange(total)
    nearest, cosine = np.zeros(total, np.int64), np.full(total, -np.inf, np.float32)
    stale = alive
    while len(alive) > 1:
        _look(fused, stale, alive, nearest, cosine)
        near = alive[cosine[alive] >= threshold]
        if not len(near):
            break
        mutual = near[(nearest[nearest[near]] == near) & (near < nearest[near])]
        if not len(mutual):  # rounding made a cycle of equal cosines
            mutual = near[[np.argmax(cosine[near])]]
        gone = nearest[mutual]
        sums[mutual] += sums[gone]
        fused[mutual] = sums[mutual] / np.linalg.norm(sums[mutual], axis=1, keepdims=True)
        parent[gone] = mutual
        merged = np.zeros(total, np.bool_)
        merged[mutual] = merged[gone] = True
        alive = alive[parent[alive] == alive]
        stale = alive[merged[alive] | merged[nearest[alive]]]
        cosine[stale] = -np.inf
        if progress:
            progress(total - len(alive), total)
    if progress:
        progress(total, total)
    while not np.array_equal(up := parent[parent], parent):
        parent = up
    return numbered(parent)


def assign_vectors(vectors: ArrayLike, known: ArrayLike, people: ArrayLike, threshold: float) -> Ints:
    """Assign unit vectors [N, D] to the known person with the nearest fused template, if its cosine is ≥ `threshold`.

    known: unit vectors [M, D] of the people numbered by `people` [M], 0 … C - 1. Returns numbers [N], -1 for nobody.
    """
    rows, people = np.asarray(vectors, np.float32), np.asarray(people, np.int64)
    assigned = np.full(len(rows), -1)
    if not len(people):
        return assigned
    fused = np.zeros((int(people.max()) + 1, rows.shape[1]), np.float32)
    np.add.at(fused, people, np.asarray(known, np.float32))
    fused /= np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), 1e-12)
    for part in _parts(np.arange(len(rows)), len(fused)):
        cosines = rows[part] @ fused.T
        assigned[part] = np.where(cosines.max(1) >= threshold, cosines.argmax(1), -1)
    return assigned


def numbered(labels: ArrayLike) -> Ints:
    """Rename labels [N] of any kind to 0 … C - 1, in the order of their first rows."""
    _, first, inverse = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)


def _parts(rows: Ints, columns: int) -> Iterator[Ints]:
    """Split rows so that each part by all columns makes at most BLOCK cosines."""
    size = max(1, BLOCK // columns)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _look(fused: Floats, stale: Ints, alive: Ints, nearest: Ints, cosine: Floats) -> None:
    """Find the nearest other group of the `stale` groups, and update others to which one of these is nearer.

    Writes the number of each group's nearest one and their cosine; of equals the first.
    """
    templates, column = fused[alive], np.empty(len(fused), np.int64)
    column[alive] = np.arange(len(alive))
    for part in _parts(stale, len(alive)):
        cosines = fused[part] @ templates.T
        itself = np.arange(len(part)), column[part]
        cosines[itself] = -np.inf
        at = cosines.argmax(1)
        nearest[part], cosine[part] = alive[at], cosines[itself[0], at]
        at = cosines.argmax(0)
        best = cosines[at, np.arange(len(alive))]
        nearer = best > cosine[alive]
        nearest[alive[nearer]], cosine[alive[nearer]] = part[at[nearer]], best[nearer]
