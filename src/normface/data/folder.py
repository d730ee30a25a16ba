"""A folder, or a zip, with one folder of images per person."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from ..types import Image
from .decode import EXTENSIONS, decode
from .source import Source, open_source

_CHUNK = 64  # images a thread takes at a time
_log = logging.getLogger("normface")


class Folder:
    """The images of a folder or zip, sorted by id; made by `open_folder`. Threads and processes may share it.

    Attributes:
        ids: [N] strings, `Name/Name_0001.jpg`.
        identities: [C] distinct names, sorted.
        labels: [N] int64, indices into `identities`.
        ignored: how many files were passed over: hidden, of other types, or outside any person's folder.
        unreadable: (id, reason) of the images that `check` left out.
    """

    def __init__(
        self,
        source: Source,
        root: str,
        ids: NDArray[np.str_],
        *,
        strict: bool = False,
        ignored: int = 0,
        unreadable: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._source, self._root, self._strict = source, root, strict
        self.ids, self.ignored, self.unreadable = ids, ignored, list(unreadable)
        names = np.array([id.partition("/")[0] for id in ids.tolist()], dtype=np.str_)
        self.identities, labels = np.unique(names, return_inverse=True)
        self.labels: NDArray[np.int64] = labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int, out: Image | None = None) -> Image:
        """Image `index`, RGB uint8 [H, W, 3]: `out` where it has that shape. DataError names a damaged file."""
        name = f"{self._root}{self.ids[index]}"
        return decode(self._source.read(name), f"{self._source.path}/{name}", out)

    def select(self, indices: ArrayLike) -> Folder:
        """The images at `indices` (integers, or a mask [N]), in that order, with labels dense again."""
        chosen = np.asarray(indices)
        return self._with(self.ids[chosen if chosen.size else []], self.unreadable)

    def check(
        self,
        progress: Callable[[int, int], object] | None = None,
        fault: Callable[[Image], str | None] | None = None,
    ) -> Folder:
        """Decode everything once, on all cores; the images that can be read, the others in `unreadable`.

        `progress` is called with (images done, images in all); `fault` gives a reason to leave an image out, or None.
        One warning is logged where images are skipped.
        Raises DataError where none can be read or, opened with `strict`, where any cannot.
        """
        total = len(self)
        chunks = [range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK)]
        reasons: list[str | None] = []
        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            for found in pool.map(lambda chunk: [self._reason(i, fault) for i in chunk], chunks):
                reasons += found
                if progress:
                    progress(len(reasons), total)
        bad = [(str(id), reason) for id, reason in zip(self.ids, reasons, strict=True) if reason]
        if not bad:
            return self._with(self.ids, [])
        if self._strict or len(bad) == total:
            raise DataError(
                f"readable images in {self._source.path}",
                f"{len(bad)} of {total} unreadable (first: {bad[0][0]}, {bad[0][1]})",
                "replace them or leave them out" + (", or read without strict" if len(bad) < total else ""),
            )
        listed = ", ".join(f"{id} ({reason})" for id, reason in bad[:5]) + (", …" if len(bad) > 5 else "")
        _log.warning("%d of %d images unreadable and skipped: %s", len(bad), total, listed)
        return self._with(self.ids[np.array([reason is None for reason in reasons])], bad)

    def _reason(self, index: int, fault: Callable[[Image], str | None] | None) -> str | None:
        try:
            image = self.read(index)
        except DataError as error:
            return error.got
        return fault(image) if fault else None

    def _with(self, ids: NDArray[np.str_], unreadable: Sequence[tuple[str, str]]) -> Folder:
        return Folder(self._source, self._root, ids, strict=self._strict, ignored=self.ignored, unreadable=unreadable)


def open_folder(path: str | Path, strict: bool = False) -> Folder:
    """List the images at `path`: a folder with one folder per person, or a zip of that, read in place.

    An identity is the first folder below the root, its images lie at any depth. A folder around everything
    (`lfw/`) is taken off. Hidden files, `__MACOSX` and other file types are ignored. Nothing is decoded yet.

    Raises DataError where the path is missing, no zip, encrypted, or holds no images in folders.
    """
    source = open_source(path)
    images = sorted(name for name in source.names if _is_image(name))
    names = [name for name in images if "/" in name]
    if not names:
        raise DataError(
            f"one folder of images per person in {source.path}",
            f"{len(images)} images and no folder of them" if images else f"no image among {len(source.names)} files",
            "put each person's images into a folder of that person's name",
        )
    root = _wrapper(names)
    ids = np.array([name[len(root) :] for name in names], dtype=np.str_)
    return Folder(source, root, ids, strict=strict, ignored=len(source.names) - len(names))


def _is_image(name: str) -> bool:
    if os.path.splitext(name)[1].lower() not in EXTENSIONS:
        return False
    return not (name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name)


def _wrapper(names: Sequence[str]) -> str:
    """The folders around all of the people, `lfw/` or empty: the last folder common to all may be a person."""
    root = ""
    while True:
        wider = names[0][: names[0].find("/", len(root)) + 1]
        if not all(name.startswith(wider) and "/" in name[len(wider) :] for name in names):
            return root
        root = wider
