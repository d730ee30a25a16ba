"""Where the vectors of listed images are, and what to say of those that have none."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Bools, Embeddings, Ints

Ids = NDArray[np.str_]
NEAR = 0.75  # difflib's likeness of two ids from which one may be meant for the other


def rows_of(embeddings: Embeddings, *lists: Ids) -> list[Ints]:
    """Where the vectors of ids are. Raises DataError for ids without one: how many, the first, the nearest."""
    place = {id: row for row, id in enumerate(embeddings.ids.tolist())}  # quicker than a search among sorted strings
    found = []
    for ids in lists:
        rows = np.array([place.get(id, -1) for id in ids.tolist()])
        if (absent := ids[rows < 0]).size:
            every, known = np.unique(np.concatenate(lists)), np.sort(embeddings.ids)
            first = int(np.searchsorted(known, absent[0]))
            # The neighbours in the alphabet are candidates enough, and quick among millions.
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
    """Which listed images have a vector, and the fact `partial` that tells of the others; empty if there are none.

    Raises DataError where no listed image has one.
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
    """The fact `partial` with what was evaluated, such as 5,900 of 6,000 pairs; nothing where all was."""
    if not facts:
        return {}
    return {"partial": f"{facts['partial']}; {kept:,} of {total:,} {what} were evaluated: not the protocol's figure"}


def people(ids: Iterable[str]) -> tuple[Ids, Ints]:
    """Names of the people [S], and who each of `ids` is [N]: what stands before the last `/`."""
    names, codes = np.unique([id.rpartition("/")[0] for id in ids], return_inverse=True)
    return names, codes
