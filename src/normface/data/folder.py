"""A folder of one folder a person, or a zip of such, read in place."""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Image
from .decode import decode

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


class Folder:
    """Labelled images of a folder or zip; see `data.Reader`. The identity is the folder an image lies in."""

    def __init__(self, fetch: Callable[[str], bytes], place: str, files: Sequence[str], ids: Sequence[str]) -> None:
        self._fetch, self._place, self._files = fetch, place, np.asarray(files)
        self.ids = np.asarray(ids, dtype=np.str_)
        people = [str(PurePosixPath(name).parent) for name in ids]
        names, labels = np.unique(people, return_inverse=True)
        self.identities: list[str] = names.tolist()
        self.labels = labels.astype(np.int64)

    @classmethod
    def open(cls, path: str | Path) -> Folder:
        """List the images below `path`, sorted by name; a wrapping folder around all people is left out of the ids.

        Raises DataError for a missing path, a damaged zip, no images, or images that lie in no person's folder.
        """
        path = Path(path)
        if path.is_dir():
            names = [
                Path(root, name).relative_to(path).as_posix() for root, _, files in os.walk(path) for name in files
            ]
            fetch = _file_fetcher(path)
        else:
            names, fetch = _open_zip(path)
        files = sorted(name for name in names if _is_image(name))
        if not files:
            raise DataError(
                "images in one folder a person", f"{path} with {len(names)} files and no image",
                f"give a folder or a zip with {', '.join(sorted(EXTENSIONS))} files",
            )  # fmt: skip
        depth = _common_depth(files)
        ids = ["/".join(PurePosixPath(name).parts[depth:]) for name in files]
        loose = [name for name in ids if "/" not in name]
        if loose:
            raise DataError(
                "one folder a person", f"{path} with {len(loose)} images outside any (first: {loose[0]})",
                "sort them into folders named after the people",
            )  # fmt: skip
        return cls(fetch, str(path), files, ids)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Image:
        """One image, uint8 RGB [H, W, 3]."""
        name = str(self._files[index])
        return decode(self._fetch(name), f"{self._place}: {name}")

    def select(self, rows: NDArray[np.intp]) -> Folder:
        """Only these rows, with labels numbered anew."""
        return Folder(self._fetch, self._place, self._files[rows].tolist(), self.ids[rows].tolist())

    def check(self, *, strict: bool = False, progress: Callable[[int, int], object] | None = None) -> Folder:
        """Decode everything once; unreadable images are named, counted and left out, or refused where `strict`.

        Raises DataError where `strict` and some image is unreadable, or where none is readable.
        """

        def fault(index: int) -> str | None:
            try:
                self.read(index)
            except DataError as error:
                return error.got
            return None

        faults: dict[int, str] = {}
        with ThreadPoolExecutor() as pool:
            for done, found in enumerate(pool.map(fault, range(len(self)))):
                if found:
                    faults[done] = found
                if progress and (done % 100 == 99 or done + 1 == len(self)):
                    progress(done + 1, len(self))
        if not faults:
            return self
        listed = ", ".join(list(faults.values())[:5]) + (", …" if len(faults) > 5 else "")
        if strict or len(faults) == len(self):
            raise DataError(
                f"{len(self)} readable images", f"{len(faults)} unreadable: {listed}", "replace or remove them"
            )
        logging.getLogger("normface").warning(
            "%d of %d images unreadable and skipped: %s", len(faults), len(self), listed
        )
        return self.select(np.setdiff1d(np.arange(len(self)), list(faults)))


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in EXTENSIONS and not hidden


def _common_depth(files: Sequence[str]) -> int:
    """How many leading folders all files share, the person's own not counted."""
    folders = [PurePosixPath(name).parts[:-1] for name in files]
    first, last = min(folders), max(folders)
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(shared, max(0, min(map(len, folders)) - 1))


def _file_fetcher(root: Path) -> Callable[[str], bytes]:
    def fetch(name: str) -> bytes:
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise DataError("a readable file", f"{root / name} ('{error.strerror}')", "look at it") from error

    return fetch


def _open_zip(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            "a folder or a zip of images", f"{path} ('{reason}')", "correct the path or the file"
        ) from error
    lock = Lock()  # one file handle serves all threads; decoding happens outside

    def fetch(name: str) -> bytes:
        try:
            with lock:
                return archive.read(name)
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError("a readable entry", f"{path}: {name} ('{error}')", "make the zip anew") from error

    return [entry.filename for entry in archive.infolist() if not entry.is_dir()], fetch
