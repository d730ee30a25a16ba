"""Batch alignment of photographs, with a journal: resumable, with identical output for any number of threads."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, TextIO, get_args

import cv2
import numpy as np
import simplejpeg

from ..atomic import replacing
from ..errors import ConfigError, DataError, FaceError
from ..prefetch import map_ahead
from ..types import Face, Floats, Image
from . import Detector
from .face_choice import Choice
from .finding import Portrait, find_portraits
from .photographs import DETAIL, Photograph, Photographs
from .quality import eye_distance, pose, sharpness
from .template import Template

JOURNAL = "align.jsonl"
AT_ONCE = 8  # photographs per task of a thread
QUALITY = 95  # of the JPEGs
Format = Literal["jpg", "png"]
Entry = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """The processing of each photograph.

    Attributes:
        settings: recorded in the journal's first line; a run is resumed with equal settings only.
        detector: None if `landmarks` has the points of each photograph by name.
        choice: among several faces in a photograph.
        format: of the crops: JPEG of quality 95, or PNG.
        detail: for detection, a photograph is reduced to a half, a quarter or an eighth if its shorter side keeps at
            least this many pixels; crops are taken at the resolution that they can use.

    Raises ConfigError for an unknown choice or format.
    """

    template: Template
    settings: Mapping[str, Any]
    detector: Detector | None = None
    landmarks: Mapping[str, Floats] | None = None
    choice: Choice = "center"
    format: Format = "jpg"
    detail: int = DETAIL

    def __post_init__(self) -> None:
        if self.choice not in get_args(Choice) or self.format not in get_args(Format) or self.detail < 1:
            raise ConfigError(
                f"faces among {', '.join(get_args(Choice))}, format {' or '.join(get_args(Format))}, detail ≥ 1",
                f"{self.choice}, {self.format} and {self.detail}", "correct the option",
            )  # fmt: skip


def align_all(
    photographs: Photographs,
    folder: str | Path,
    work: Work,
    *,
    workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> list[Entry]:
    """Align all photographs into `folder`, in their folder structure, and write a journal. Returns its entries.

    An entry of the journal `align.jsonl` has `photograph` and either `refused` (the reason) or `faces`, each with
    `crop`, `landmarks` and `box` in the photograph's pixels, `score`, `turn` (degrees clockwise by which the photograph
    must be turned), `eye_distance` (pixels), `yaw`, `pitch`, `roll` (degrees) and `sharpness`.
    Calling it again on the same folder continues after the journal's last entry. `progress` is called with photographs
    done and in total.

    Raises ConfigError if the folder contains another run or one that is still writing; DataError if it cannot be
    written.
    """
    if workers < 1:
        raise ConfigError("--workers of 1 or more", str(workers), "correct --workers")
    folder, names = Path(folder), list(photographs.names)
    aligner = _Aligner(photographs, folder, work, crop_names(names))
    threads = cv2.getNumThreads()
    with _journal(folder) as file:
        entries = resume(folder, work.settings, names)
        todo = [names[i : i + AT_ONCE] for i in range(len(entries), len(names), AT_ONCE)]
        cv2.setNumThreads(1)  # one photograph per thread gains more
        try:
            for found in map_ahead(aligner, todo, depth=2 * workers, threads=workers):
                file.write("".join(json.dumps(entry) + "\n" for entry in found))
                file.flush()
                entries += found
                if progress:
                    progress(len(entries), len(names))
        except (OSError, DataError) as error:
            got = error.got if isinstance(error, DataError) else f"'{error.strerror}'"
            raise DataError(
                f"to write into {folder}", got,
                f"make it writable or free disk space; {len(entries)} of {len(names)} photographs are done, "
                "run the same command to continue",
            ) from error  # fmt: skip
        finally:
            cv2.setNumThreads(threads)
    return entries


@dataclass(frozen=True)
class _Aligner:
    """Aligns photographs by name, writes their crops, and returns their entries."""

    photographs: Photographs
    folder: Path
    work: Work
    crops: Mapping[str, str]

    def __call__(self, names: list[str]) -> list[Entry]:
        opened = {name: self._open(name) for name in names}
        seen = {name: photograph for name, photograph in opened.items() if isinstance(photograph, Photograph)}
        found = dict(zip(seen, self._find(list(seen.values())), strict=True))
        return [
            {"photograph": name, **(self._keep(seen[name], found[name]) if name in seen else {"refused": opened[name]})}
            for name in names
        ]

    def _open(self, name: str) -> Photograph | str:
        """Open a photograph, or return why it cannot be used."""
        if name not in self.crops:
            return "a name that leads out of the folder"
        try:
            data = self.photographs.source.read(name)
            return Photograph.open(data, name, detail=self.work.detail)
        except DataError as error:
            return error.got

    def _find(self, photographs: list[Photograph]) -> list[list[Portrait] | FaceError | DataError]:
        """Find the chosen faces of each photograph."""
        if self.work.detector:
            return find_portraits(self.work.detector, photographs, self.work.template, self.work.choice)
        return [self._placed(each) for each in photographs]

    def _placed(self, photograph: Photograph) -> list[Portrait] | FaceError | DataError:
        """Return the face whose landmarks are given."""
        points = (self.work.landmarks or {}).get(photograph.name)
        if points is None:
            return []
        face = Face((0, 0, 0, 0), points, 1.0)
        try:
            return [Portrait(photograph.crops([face], self.work.template)[0], face)]
        except (FaceError, DataError) as error:
            return error

    def _keep(self, photograph: Photograph, found: list[Portrait] | FaceError | DataError) -> Entry:
        """Write the crops of a photograph, and return its entry."""
        if not found:
            return {"refused": "no face found" if self.work.detector else "not in the file of landmarks"}
        if isinstance(found, DataError):
            return {"refused": found.got}
        try:
            if isinstance(found, FaceError):
                raise found
            told = [self._describe(each) for each in found]
        except FaceError as error:
            return {"refused": f"degenerate landmarks {error.got}"}
        for number, (portrait, each) in enumerate(zip(found, told, strict=True), 1):
            each["crop"] = f"{self.crops[photograph.name]}{f'~{number}' * (number > 1)}.{self.work.format}"
            with replacing(self.folder / each["crop"]) as temporary:
                temporary.write_bytes(_encode(portrait.crop, self.work.format))
        return {"faces": told}

    def _describe(self, portrait: Portrait) -> Entry:
        face = portrait.face
        assert face is not None
        told: Entry = {"crop": "", "landmarks": face.landmarks.round(2).tolist()}
        if self.work.detector:
            told |= {"box": [round(side, 2) for side in face.box], "score": round(face.score, 4), "turn": face.turn}
        told["eye_distance"] = round(eye_distance(face.landmarks), 2)
        told |= {name: round(angle, 1) for name, angle in pose(face.landmarks)._asdict().items()}
        return {**told, "sharpness": round(sharpness(portrait.crop), 1)}


def kind_of(reason: str) -> str:
    """Return the kind of a reason for rejection, without file names and numbers."""
    known = ("no face found", "not in the file of landmarks", "degenerate landmarks", "a name that leads out")
    return next((each for each in known if reason.startswith(each)), "not readable as an image")


def crop_names(names: Sequence[str]) -> dict[str, str]:
    """Return the path of each photograph's crop without its extension: its own path without extension.

    If two photographs differ only in the extension, it is kept. A name that leads out of the folder is left out.
    """
    inside = [name for name in names if not PurePath(name).anchor and ".." not in PurePath(name).parts]
    stems = {name: os.path.splitext(name)[0] for name in inside}
    often = Counter(stem.casefold() for stem in stems.values())
    return {
        name: name if often[stem.casefold()] > 1 or re.search(r"~\d+$", stem) else stem for name, stem in stems.items()
    }


@contextmanager
def _journal(folder: Path) -> Iterator[TextIO]:
    """Open the journal in `folder` for appending, and lock it, because two runs at once would corrupt it.

    The file is created if needed. The system releases the lock whenever the process ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / JOURNAL).open("a", encoding="ascii", newline="\n")
    except OSError as error:
        raise DataError(f"to write into {folder}", f"'{error.strerror}'", "choose a writable folder") from error
    with file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:  # the second on Windows
            raise ConfigError(
                f"{folder} unused by other runs", "another run that is writing into it",
                "wait until it has ended, or give another folder",
            ) from error  # fmt: skip
        yield file


def _lock(file: TextIO) -> None:
    """Lock an open file, or raise an OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        # One byte far beyond the end of the data: Windows blocks reading of locked bytes.
        file.seek(2**30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0, os.SEEK_END)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def resume(folder: Path, settings: Mapping[str, Any], names: Sequence[str]) -> list[Entry]:
    """Return the entries of the journal in `folder`; start it if it is empty, and remove incomplete crops.

    Raises ConfigError for a journal with other settings or other photographs, DataError if the folder cannot be
    written.
    """
    journal, head = folder / JOURNAL, json.dumps(settings, sort_keys=True)
    # After the last newline: an incomplete line or nothing
    *lines, rest = journal.read_text("ascii", errors="replace").split("\n")
    if not lines and head.startswith(rest):  # new, or killed in its first line
        lines = [head]
        try:
            journal.write_text(head + "\n", "ascii", newline="\n")
        except OSError as error:
            raise DataError(f"to write into {folder}", f"'{error.strerror}'", "free disk space") from error
    try:
        same = json.loads(lines[0]) == json.loads(head)
        entries = [json.loads(line) for line in lines[1:]]
        same = same and [entry["photograph"] for entry in entries] == list(names[: len(entries)])
    except (ValueError, KeyError, TypeError, IndexError):
        same = False
    if not same:
        raise ConfigError(
            "an empty folder, or one of the same photographs and settings",
            f"{journal} of others", "give another folder, or remove this one",
        )  # fmt: skip
    try:
        os.truncate(journal, sum(len(line) + 1 for line in lines))
        for torn in folder.rglob(".*.tmp"):
            torn.unlink()
    except OSError as error:
        raise DataError(f"to write into {folder}", f"'{error.strerror}'", "make it writable") from error
    return entries


def _encode(crop: Image, format: Format) -> bytes:
    if format == "png":
        return bytes(cv2.imencode(".png", crop[..., ::-1])[1])
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(crop), QUALITY))
