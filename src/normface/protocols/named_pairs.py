"""Listed images and pairs by id: the rows of their vectors, and messages for missing ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Bools, Embeddings, Ints, Pairs

Ids = NDArray[np.str_]
NEAR = 0.75  # difflib's similarity from which one id may be a typing error of the other


def rows_of(embeddings: Embeddings, *lists: Ids) -> list[Ints]:
    """Return the rows of ids in the vectors.

    Raises DataError for ids without a vector: their number, the first, and the nearest id.
    """
    place = {id: row for row, id in enumerate(embeddings.ids.tolist())}  # faster than a search in sorted strings
    found = []
    for ids in lists:
        rows = np.array([place.get(id, -1) for id in ids.tolist()])
        if (absent := ids[rows < 0]).size:
            every, known = np.unique(np.concatenate(lists)), np.sort(embeddings.ids)
            first = int(np.searchsorted(known, absent[0]))
            # Alphabetical neighbors are enough as candidates, and fast to find among millions.
            near = get_close_matches(absent[0], known[max(0, first - 500) : first + 500].tolist(), 1, NEAR)
            told = f"nearest id: {near[0]}" if near else f"no id is like it, they are as {known[0]}"
            raise DataError(
                f"a vector for each of {len(every)} images",
                f"none for {np.isin(every, known, invert=True).sum()} (first: {absent[0]}; {told})",
                "embed those too, with ids as the list has them (--partial judges what is there)",
            )
        found.append(rows)
    return found


def present(embeddings: Embeddings, *lists: Ids) -> tuple[list[Bools], dict[str, Any]]:
    """Mask of the listed images that have a vector, and the fact `partial` about the others (empty if there are none).

    Raises DataError if no listed image has one.
    """
    masks = [np.isin(ids, embeddings.ids) for ids in lists]
    every = np.unique(np.concatenate(lists))
    absent = every[~np.isin(every, embeddings.ids)]
    if len(absent) == len(every):
        rows_of(embeddings, *lists)  # says so
    if not absent.size:
        return masks, {}
    told = f"{len(absent):,} of {len(every):,} images have no vector (first: {absent[0]})"
    return masks, {"partial": f"Partial: {told}"}


def partly(facts: dict[str, Any], kept: int, total: int, what: str) -> dict[str, Any]:
    """Return the fact `partial` with the number evaluated, such as 5,900 of 6,000 pairs; empty if all were."""
    if not facts:
        return {}
    return {"partial": f"{facts['partial']}; {kept:,} of {total:,} {what} were evaluated: not the protocol's figure"}


def people(ids: Iterable[str]) -> tuple[Ids, Ints]:
    """Return the names of the people [S], and the person of each of `ids` [N]: the part before the last `/`."""
    names, codes = np.unique([id.rpartition("/")[0] for id in ids], return_inverse=True)
    return names, codes


@dataclass(frozen=True)
class NamedPairs:
    """Pairs of image ids, as in a list; all arrays [M]. `sha256` is the hash of the list."""

    left: Ids
    right: Ids
    same: Bools
    fold: Ints
    sha256: str

    def within(self, embeddings: Embeddings) -> Pairs:
        """Return the same pairs as row numbers.

        Raises DataError for ids without a vector: their number, the first, and the nearest id.
        """
        left, right = rows_of(embeddings, self.left, self.right)
        return Pairs(left, right, self.same, self.fold)

    def select(self, rows: Bools) -> NamedPairs:
        """Return some of the pairs; folds without pairs are removed and the others renumbered."""
        fold = np.unique(self.fold[rows], return_inverse=True)[1]
        return NamedPairs(self.left[rows], self.right[rows], self.same[rows], fold, self.sha256)

    def available(self, embeddings: Embeddings) -> tuple[NamedPairs, dict[str, Any]]:
        """Return the pairs in which both images have a vector, and the fact `partial` about the others.

        Raises DataError if no pair remains.
        """
        (left, right), told = present(embeddings, self.left, self.right)
        if not (left & right).any():
            raise DataError("vectors of both images of a pair", "of no pair", "embed more of the images")
        return self.select(left & right), partly(told, int((left & right).sum()), len(left), "pairs")

    @property
    def people(self) -> tuple[Ints, Ints]:
        """Return the person on both sides, from 0: the part of the id before the last `/`."""
        codes = people([*self.left.tolist(), *self.right.tolist()])[1]
        return codes[: len(self.left)], codes[len(self.left) :]
