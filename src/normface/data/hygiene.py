"""Checks of a set of faces: unreadable images, duplicates, wrong labels, people shared with a test set.

Shape suffixes: N images, C identities, D dimensions of unit embeddings.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..prefetch import map_ahead
from ..types import Floats, Image, Ints
from . import Reader

SMALL, LOW = 16, 4  # side of the small picture for comparison; number of bits of a fingerprint that may differ
# Correlation of small pictures from which two images are duplicates. Measured on aligned faces: 500 faces and their
# JPEGs of quality 30 correlate by at least 0.9992, and by 0.9995 if reduced to 64 pixels and back. Of the 8 million
# pairs of 4,000 faces three are above 0.997 (three people, each with two prints of one photograph), 13 above 0.985.
ALIKE = 0.997
_CHUNK, _TILE = 64, 2048


class Survey(NamedTuple):
    """Result of one pass over the images; rows of unreadable ones are zero.

    Attributes:
        sizes: [N, 2] height and width.
        exact: [N] SHA-256 of the pixels.
        prints: [N] uint64 fingerprints, invariant to mirroring: signs of even and magnitudes of odd waves.
        small: [N, SMALL, SMALL] uint8, gray.
        unreadable: (row, reason).
    """

    sizes: Ints
    exact: list[bytes]
    prints: NDArray[np.uint64]
    small: Image
    unreadable: list[tuple[int, str]]


def survey(reader: Reader, *, threads: int = 1, progress: Callable[[int, int], object] | None = None) -> Survey:
    """Decode every image once. `progress` is called with images done and in total."""
    total = len(reader)
    found = Survey(
        np.zeros((total, 2), np.int64), [b""] * total, np.zeros(total, np.uint64),
        np.zeros((total, SMALL, SMALL), np.uint8), [],
    )  # fmt: skip

    def look(start: int) -> int:
        for row in range(start, min(start + _CHUNK, total)):
            try:
                image = reader.read(row)
            except DataError as error:
                found.unreadable.append((row, error.got))
                continue
            gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            found.sizes[row] = image.shape[:2]
            found.exact[row] = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
            found.prints[row] = fingerprint(gray)
            found.small[row] = cv2.resize(gray, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
        return min(start + _CHUNK, total)

    for done in map_ahead(look, range(0, total, _CHUNK), depth=2 * threads, threads=threads):
        if progress:
            progress(done, total)
    found.unreadable.sort()
    return found


def fingerprint(gray: Image) -> int:
    """64-bit fingerprint of a gray image [H, W], robust to resizing, re-encoding and mirroring.

    Each bit says whether one of the 8×8 longest waves of the cosine transform is above the median. Mirroring flips the
    sign of waves that are odd horizontally, so their magnitude is used.
    """
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    waves = cv2.dct(small)[:8, :8]
    waves[:, 1::2] = np.abs(waves[:, 1::2])
    even, odd = waves[:, ::2], waves[:, 1::2]
    bits = np.concatenate([(part > np.median(part)).ravel() for part in (even, odd)])
    return int(np.packbits(bits).view(">u8")[0])


def duplicates(found: Survey, other: Survey | None = None) -> list[tuple[int, int, str]]:
    """Find duplicates in one set or between two (`other`): (row, row, "exact", "near" or "mirrored").

    Near duplicates are re-encoded, resized or slightly changed. Within a set, each row is paired with its first match.
    """
    first = found if other is None else other
    seen: dict[bytes, int] = {}
    for row, digest in enumerate(first.exact):
        if digest:
            seen.setdefault(digest, row)
    pairs: dict[int, tuple[int, str]] = {}
    for row, digest in enumerate(found.exact):
        at = seen.get(digest)
        if at is not None and (other is not None or at != row):
            pairs[row] = (at, "exact")
    for row, at in _near(found, other):
        if row in pairs or (other is None and at in pairs and pairs[at][0] == row):
            continue
        kind = _same_picture(found.small[row], first.small[at])
        if kind:
            pairs[row] = (at, kind)
    return [(row, at, kind) for row, (at, kind) in sorted(pairs.items())]


class Labels(NamedTuple):
    """Doubtful labels, by embeddings.

    Attributes:
        wrong: (row, own cosine, nearest other identity, its cosine): nearer to another identity's center than its own.
        strangers: (row, own cosine): cosine to the rest of its identity below `cutoff`, and near no other identity.
        alike: (identity, identity, cosine of the centers): possibly the same person under two names.
    """

    wrong: list[tuple[int, float, int, float]]
    strangers: list[tuple[int, float]]
    alike: list[tuple[int, int, float]]


def doubtful(vectors: Floats, labels: Ints, cutoff: float) -> Labels:
    """Find wrong labels by unit embeddings [N, D] and labels [N] in 0 … C - 1.

    Each image is compared with the center of its identity's other images. `cutoff`: cosine from which two faces count
    as the same person. Works in tiles of N × C, with constant memory.
    """
    sums = _summed(vectors, labels)
    centers = _unit(sums).astype(np.float32)
    rest = sums[labels] - vectors
    counts = np.bincount(labels)[labels]
    own = np.where(counts > 1, (_unit(rest) * vectors).sum(1), np.nan)
    nearest, cosine = _nearest(vectors.astype(np.float32), centers, labels)
    wrong = np.flatnonzero((cosine > own) & (cosine >= cutoff))
    strangers = np.flatnonzero((own < cutoff) & ~np.isin(np.arange(len(own)), wrong))
    alike = [(i, j, c) for i, j, c in _pairs(centers, centers, cutoff) if i < j]
    return Labels(
        [(int(r), float(own[r]), int(nearest[r]), float(cosine[r])) for r in wrong],
        [(int(r), float(own[r])) for r in strangers], sorted(alike, key=lambda pair: -pair[2]),
    )  # fmt: skip


def overlap(
    vectors: Floats, labels: Ints, theirs: Floats, their_labels: Ints, cutoff: float
) -> list[tuple[int, int, float]]:
    """Find people shared with a test set: (identity, test identity, cosine of centers ≥ `cutoff`), nearest first."""
    ours, others = (_unit(_summed(v, y)).astype(np.float32) for v, y in ((vectors, labels), (theirs, their_labels)))
    nearest, cosine = _nearest(ours, others, None)
    found = [(int(i), int(nearest[i]), float(cosine[i])) for i in np.flatnonzero(cosine >= cutoff)]
    return sorted(found, key=lambda pair: -pair[2])


def _near(found: Survey, other: Survey | None) -> Iterator[tuple[int, int]]:
    """Rows whose fingerprints differ in at most LOW bits; then at least one of LOW + 1 bands is equal."""
    first = found if other is None else other
    edges = np.linspace(0, 64, LOW + 2).astype(int)
    given: set[tuple[int, int]] = set()
    for low, high in pairwise(edges.tolist()):
        mask = np.uint64((1 << high - low) - 1)
        buckets = defaultdict(list)
        for row, band in enumerate(((first.prints >> np.uint64(low)) & mask).tolist()):
            if first.exact[row]:
                buckets[band].append(row)
        for row, band in enumerate(((found.prints >> np.uint64(low)) & mask).tolist()):
            if not found.exact[row] or band not in buckets:
                continue
            members = np.array(buckets[band])
            if other is None:
                members = members[members < row]
            apart = np.bitwise_count(first.prints[members] ^ found.prints[row])
            for at in members[apart <= LOW].tolist():
                if (row, at) not in given:
                    given.add((row, at))
                    yield row, at


def _same_picture(a: Image, b: Image) -> str | None:
    """Whether two small pictures are the same, or mirrored."""
    for kind, turned in (("near", b), ("mirrored", b[:, ::-1])):
        x, y = (p.astype(np.float64) - p.mean() for p in (a, turned))
        size = np.sqrt((x * x).sum() * (y * y).sum())
        if size > 0 and (x * y).sum() / size >= ALIKE:
            return kind
    return None


def _nearest(rows: Floats, centers: Floats, own: Ints | None) -> tuple[Ints, Floats]:
    """For each row the nearest center other than its own, and the cosine."""
    nearest, cosine = np.zeros(len(rows), np.int64), np.full(len(rows), -1.0)
    for start in range(0, len(rows), _TILE):
        part = rows[start : start + _TILE] @ centers.T
        if own is not None:
            part[np.arange(len(part)), own[start : start + _TILE]] = -1
        nearest[start : start + _TILE] = part.argmax(1)
        cosine[start : start + _TILE] = part.max(1)
    return nearest, cosine


def _pairs(a: Floats, b: Floats, cutoff: float) -> Iterator[tuple[int, int, float]]:
    for start in range(0, len(a), _TILE):
        part = a[start : start + _TILE] @ b.T
        for i, j in zip(*np.nonzero(part >= cutoff), strict=True):
            yield start + int(i), int(j), float(part[i, j])


def _summed(vectors: Floats, labels: Ints) -> Floats:
    sums = np.zeros((int(labels.max()) + 1, vectors.shape[1]), np.float64)
    np.add.at(sums, labels, vectors)
    return sums


def _unit(sums: Floats) -> Floats:
    return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12))
