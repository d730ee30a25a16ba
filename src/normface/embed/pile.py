"""Grouping of photographs by person: all their faces, and the folder with the result."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from .. import report
from ..atomic import replacing
from ..errors import DataError, NormfaceError
from ..faces.finding import find_portraits, likely
from ..faces.photographs import Photograph, Photographs
from ..prefetch import map_ahead
from ..types import Embeddings, Floats
from .embedder import FOUND_AT_ONCE, Embedder
from .grouping import assign_vectors, group_vectors
from .seen import FaceRecord

FILE, CROPS = "faces.npz", "crops"
SINGLES, UNCOVERED = "singles", "uncovered"  # faces without a match, and faces outside the certificate's conditions
_PERSON = "person-"


@dataclass
class Pile:
    """Faces of many photographs, and the person that each is assigned to.

    Attributes:
        vectors: unit rows [N, D]; norms: [N].
        photographs: [N] path of the photograph of each face (in a zip: archive/name).
        boxes: [N, 4] in the photograph's pixels.
        covered: [N] whether the certificate's conditions cover the face.
        people: [N] name of each face's person; SINGLES or UNCOVERED if there is none.
        model: SHA-256 of the model's weights.
    """

    model: str
    vectors: list[Floats] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    photographs: list[str] = field(default_factory=list)
    boxes: list[Sequence[float]] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    people: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.photographs)

    def add(self, photograph: str, face: FaceRecord, *, anyway: bool = False) -> None:
        """Add a face without a person; `anyway` treats it as covered."""
        self.vectors.append(face.vector)
        self.norms.append(face.norm)
        self.photographs.append(photograph)
        self.boxes.append(face.box or (0, 0, 0, 0))
        self.covered.append(anyway or face.assessment.inside)
        self.people.append("")

    def assign(
        self,
        threshold: float,
        *,
        known: Callable[[Floats], str | None] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Name the person of every face without one: one of the pile's, one that `known` returns, or a new one.

        Faces outside the certificate's conditions stay separate, because they would match strangers. New people are
        called person-0001, … in order of falling number of faces. threshold: for `group_vectors`.
        """
        people = np.array(self.people, object)
        people[~np.array(self.covered) & (people == "")] = UNCOVERED
        free = np.flatnonzero((people == "") | (people == SINGLES))
        named = np.flatnonzero(~np.isin(people, ["", SINGLES, UNCOVERED]))
        names = people[named]
        vectors = np.asarray(self.vectors, np.float32)
        if len(named):
            unique, owners = np.unique(names.astype(str), return_inverse=True)
            found = assign_vectors(vectors[free], vectors[named], owners, threshold)
            people[free[found >= 0]] = unique[found[found >= 0]]
            free = free[found < 0]
        if known:
            for row in free:
                people[row] = known(vectors[row]) or ""
            free = free[people[free] == ""]
        labels = group_vectors(vectors[free], threshold, progress=progress)
        sizes = np.bincount(labels)
        last = max(
            (int(name[len(_PERSON) :]) for name in set(names) if re.fullmatch(_PERSON + r"\d+", name)), default=0
        )
        new = {label: f"{_PERSON}{last + 1 + k:04}" for k, label in enumerate(np.argsort(-sizes, kind="stable"))}
        people[free] = [new[label] if sizes[label] > 1 else SINGLES for label in labels]
        self.people = people.tolist()

    def rows(self) -> dict[str, list[int]]:
        """Return the rows of each person, most faces first; SINGLES and UNCOVERED at the end."""
        found: dict[str, list[int]] = {}
        for row, person in enumerate(self.people):
            found.setdefault(person, []).append(row)
        apart = (SINGLES, UNCOVERED)
        return dict(sorted(found.items(), key=lambda each: (each[0] in apart, -len(each[1]), each[0])))

    def save(self, path: Path) -> None:
        """Write the pile as an .npz of Embeddings with more arrays."""
        ids = [f"{photograph}#{row}" for row, photograph in enumerate(self.photographs)]
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file, vectors=np.asarray(self.vectors, np.float32), norms=np.asarray(self.norms, np.float32),
                ids=np.array(ids), photographs=np.array(self.photographs), boxes=np.asarray(self.boxes, np.float64),
                covered=np.array(self.covered), people=np.array(self.people), model=self.model,
            )  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> Pile:
        """Read the pile of a folder that `normface group` wrote. Raises DataError for anything else."""
        path = folder / FILE
        known = Embeddings.load(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                more = [file[name].tolist() for name in ("photographs", "boxes", "covered", "people")]
                model = str(file["model"])
        except (KeyError, ValueError, OSError) as error:
            raise DataError(f"{path} as `normface group` writes it", f"'{error}'", "give its --out folder") from error
        return cls(model, list(known.vectors), known.norms.tolist(), *more)


def faces_in(
    embedder: Embedder, photographs: Photographs, names: Sequence[str], *, strict: bool = False
) -> Iterator[tuple[str, list[FaceRecord] | str]]:
    """Find and embed every plausible face of the photographs `names`, in order; or say why a file is unreadable."""
    template = embedder.template

    def read(name: str) -> Photograph | NormfaceError:
        try:
            return Photograph.open(photographs.source.read(name), name, strict=strict)
        except NormfaceError as error:
            return error

    def found(start: int) -> list[Any]:
        opened = [read(name) for name in names[start : start + FOUND_AT_ONCE]]
        faces = iter(
            find_portraits(embedder.detector, [e for e in opened if isinstance(e, Photograph)], template, "all")
        )
        return [next(faces) if isinstance(each, Photograph) else each for each in opened]

    starts = range(0, len(names), FOUND_AT_ONCE)
    for start, block in zip(starts, map_ahead(found, starts), strict=True):
        for name, portraits in zip(names[start:], block, strict=False):
            if isinstance(portraits, NormfaceError):
                if strict:
                    raise portraits
                yield name, portraits.got
                continue
            yield name, embedder.see(likely(embedder.detector, portraits)) if portraits else []


def write_people(
    pile: Pile, folder: Path, facts: Mapping[str, str], read: Callable[[str], bytes | None]
) -> dict[str, str]:
    """Write a folder and a sheet (index.html) for each person, and an overview; return the folders by person.

    The folders contain links to the photographs. `read` returns the bytes of a photograph that is not a file of its
    own, for a copy, or None if they are not available.
    """
    folders: dict[str, str] = {}
    used, shown = {CROPS, FILE, "index.html"}, []
    for person, rows in pile.rows().items():
        place = folders[person] = _unused(re.sub(r"[^\w .-]", "_", person).strip(" .") or "person", used)
        (folder / place).mkdir()
        links, taken = dict[str, str](), {"index.html"}
        for row in rows:
            photograph = pile.photographs[row]
            if photograph not in links:
                links[photograph] = _unused(os.path.basename(photograph), taken)
                _link(photograph, folder / place / links[photograph], read)
        _write(
            folder / place / "index.html", person, {"faces": f"{len(rows):,}", "photographs": f"{len(links):,}"},
            [(f"../{CROPS}/{crop_name(row)}", links[pile.photographs[row]], pile.photographs[row]) for row in rows],
        )  # fmt: skip
        shown.append((f"{CROPS}/{crop_name(rows[0])}", f"{place}/index.html", f"{person}: {len(rows):,} faces"))
    _write(folder / "index.html", "Who is who", facts, shown)
    return folders


def write_crop(folder: Path, row: int, face: FaceRecord) -> None:
    """Store the crop of a pile's row, for the sheets."""
    (folder / CROPS / crop_name(row)).write_bytes(simplejpeg.encode_jpeg(face.crop, quality=90))


def crop_name(row: int) -> str:
    """File name of a row's crop."""
    return f"{row:06}.jpg"


def _write(path: Path, title: str, facts: Mapping[str, str], faces: Sequence[tuple[str, str, str]]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(report.render_faces(title, facts, faces), encoding="utf-8")


def _link(photograph: str, to: Path, read: Callable[[str], bytes | None]) -> None:
    """Link to a photograph; copy it if it is not a file of its own, or if the file system has no links."""
    if not os.path.exists(photograph):
        if (data := read(photograph)) is not None:
            to.write_bytes(data)
        return
    try:
        to.symlink_to(photograph)
    except OSError:
        shutil.copyfile(photograph, to)


def _unused(name: str, taken: set[str]) -> str:
    """Return the name, with a number before its extension if it is `taken` (in lower case), and mark it as taken."""
    stem, ending = os.path.splitext(name)
    number, found = 1, name
    while found.lower() in taken:
        number += 1
        found = f"{stem}-{number}{ending}"
    taken.add(found.lower())
    return found
