"""One Reader for all formats: each format is a `Store` of encoded images and can write the records of others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from ..system_facts import usable_cores
from ..types import Image, Ints
from .decoding import decode

_CHUNK = 64  # images per task of a thread
_log = logging.getLogger("normface")


class Store(Protocol):
    """Encoded images by row; thread-safe, and picklable.

    Attributes:
        path: for messages.
        ids: [N] strings, distinct.
        people: [C] identity names, distinct and sorted.
        labels: [N] int64, indices into `people`.
        landmarks: [N, 5, 2] float32, NaN if unknown, in the stored image's pixels; or None.
        ignored: number of files ignored.
    """

    path: Path
    people: NDArray[Any]
    labels: Ints
    landmarks: NDArray[np.float32] | None
    ignored: int

    @property
    def ids(self) -> NDArray[Any]: ...

    def name(self, row: int) -> str:
        """Name of an image, for messages."""

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of an image. Raises DataError if they are damaged."""


class Record(NamedTuple):
    """An encoded image, for conversion between formats; `landmarks` [5, 2] or None."""

    id: str
    image: bytes
    identity: str
    landmarks: NDArray[np.float32] | None


class Images:
    """The images of a Store, or some of them; a `Reader`. Threads and processes can share it.

    Attributes:
        identities: [C] distinct names, sorted.
        labels: [N] int64, indices into `identities`.
        ignored: number of files ignored: hidden, of other types, or outside any person's folder.
        unreadable: (id, reason) of the images that `check` skipped.
    """

    def __init__(
        self,
        store: Store,
        rows: Ints | None = None,
        *,
        strict: bool = False,
        unreadable: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.store, self.strict, self.unreadable, self.ignored = store, strict, list(unreadable), store.ignored
        self.rows: Ints = np.arange(len(store.labels)) if rows is None else rows
        if rows is None:
            self.identities, self.labels = store.people, store.labels
        else:
            codes, labels = np.unique(store.labels[rows], return_inverse=True)
            self.identities, self.labels = store.people[codes], labels.astype(np.int64)

    @cached_property
    def ids(self) -> NDArray[Any]:
        """[N] strings, `Name/Name_0001.jpg`."""
        return self.store.ids[self.rows]

    @property
    def landmarks(self) -> NDArray[np.float32] | None:
        """[N, 5, 2] in the stored image's pixels, NaN if unknown; None if no image has landmarks."""
        return None if self.store.landmarks is None else self.store.landmarks[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, index: int) -> bytes:
        """Return the encoded bytes of image `index`, as stored. Raises DataError if they are damaged."""
        return self.store.encoded(int(self.rows[index]))

    def read(self, index: int, out: Image | None = None) -> Image:
        """Read image `index` as RGB uint8 [H, W, 3], into `out` if its shape fits. Raises DataError if damaged."""
        row = int(self.rows[index])
        return decode(self.store.encoded(row), _Name(self.store, row), out, strict=self.strict)

    def records(self) -> Iterator[Record]:
        """Yield all images in order, for conversion to another format."""
        landmarks = self.landmarks
        for place, (id, label) in enumerate(zip(self.ids.tolist(), self.labels.tolist(), strict=True)):
            known = None if landmarks is None or np.isnan(landmarks[place]).any() else landmarks[place]
            yield Record(id, self.encoded(place), str(self.identities[label]), known)

    def select(self, indices: ArrayLike) -> Images:
        """Select the images at `indices` (integers, or a mask [N]), in that order; labels are renumbered."""
        chosen = np.asarray(indices)
        return self._with(self.rows[chosen if chosen.size else []], self.unreadable)

    def check(
        self,
        progress: Callable[[int, int], object] | None = None,
        fault: Callable[[Image], str | None] | None = None,
    ) -> Images:
        """Decode every image once, on all cores. Returns the readable images, with the others in `unreadable`.

        `progress` is called with images done and in total; `fault` returns a reason to skip an image, or None.
        Logs one warning if images are skipped.
        Raises DataError if no image can be read or, opened with `strict`, if any cannot.
        """
        total = len(self)
        chunks = [range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK)]
        reasons: list[str | None] = []
        with ThreadPoolExecutor(usable_cores()) as pool:
            for found in pool.map(lambda chunk: [self._reason(i, fault) for i in chunk], chunks):
                reasons += found
                if progress:
                    progress(len(reasons), total)
        if not any(reasons):
            return self._with(self.rows, [])
        bad = [(str(id), reason) for id, reason in zip(self.ids, reasons, strict=True) if reason]
        if self.strict or len(bad) == total:
            raise DataError(
                f"readable images in {self.store.path}",
                f"{len(bad)} of {total} unreadable (first: {bad[0][0]}, {bad[0][1]})",
                "replace them or leave them out" + (", or read without strict" if len(bad) < total else ""),
            )
        listed = ", ".join(f"{id} ({reason})" for id, reason in bad[:5]) + (", …" if len(bad) > 5 else "")
        _log.warning("%d of %d images unreadable and skipped: %s", len(bad), total, listed)
        return self._with(self.rows[np.array([reason is None for reason in reasons])], bad)

    def _reason(self, index: int, fault: Callable[[Image], str | None] | None) -> str | None:
        try:
            image = self.read(index)
        except DataError as error:
            return error.got
        return fault(image) if fault else None

    def _with(self, rows: Ints, unreadable: Sequence[tuple[str, str]]) -> Images:
        return Images(self.store, rows, strict=self.strict, unreadable=unreadable)


class _Name:
    """A record's name, composed only if a message needs it."""

    __slots__ = ("row", "store")

    def __init__(self, store: Store, row: int) -> None:
        self.store, self.row = store, row

    def __str__(self) -> str:
        return self.store.name(self.row)


def by_name(names: Sequence[str]) -> tuple[NDArray[np.str_], Ints]:
    """Convert identity names of all images [N] to the distinct names, sorted, and labels [N]."""
    people, labels = np.unique(np.array(names, np.str_), return_inverse=True)
    return people, labels.astype(np.int64)
