from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from ..conditions import Assessment
from ..data import Reader
from ..embed import Embedder, FaceRecord
from ..embed.people import Keep, enrollable, templates
from ..errors import ConfigError, DataError
from ..gallery import Enrolments, open_gallery
from ..types import Embeddings
from .photographs import as_dict, chosen
from .photographs import told as told_of
from .terminal import (
    GALLERY,
    Anyway,
    Computer,
    FaceDetector,
    GalleryUrl,
    Json,
    Model,
    Strict,
    err,
    open_checked,
    out,
    progress,
)

PART = 5000  # templates in one transaction


def enrol(
    person: Annotated[str | None, typer.Argument(help="Name of the person in the photographs.")] = None,
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMG…", help="Photographs.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="SRC", help="Aligned crops: one folder per person, a zip of that, or a pack."),
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="F.npz", help="Embeddings with ids PERSON/IMAGE, as `normface embed` writes.")
    ] = None,
    gallery: GalleryUrl = GALLERY,
    model: Model = None,
    faces: Annotated[
        str | None,
        typer.Option(help="Which face of several: center, largest or best. Default: refuse such photographs."),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Templates of several photographs: each, their mean (fused), or both.")
    ] = "both",
    aligned: Annotated[bool, typer.Option("--aligned", help="Skip detection: the images are aligned crops.")] = False,
    consent: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Note on the consent given: to what, when, where it is filed.")
    ] = None,
    anyway: Anyway = False,
    detector: FaceDetector = "mtcnn",
    device: Computer = "auto",
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Enrol one person from photographs, or many people from crops or embeddings.

    Stores one template per image: the embedding of the face plus its mirror image, and its norm; from several
    photographs of a person, also their mean. The images are not stored.

    A photograph with two faces that may be meant is refused without `--faces`. Photographs that the model's certificate
    does not cover are refused, for strangers would match them; crops of `--from` are skipped, or refused with
    `--strict`. `--anyway` enrols them. Embeddings are not checked.

    Examples: `normface enrol Ann ann1.jpg ann2.jpg --consent "form 12"`, `normface enrol --from crops`,
    `normface enrol --embeddings vectors.npz --gallery file:staff.db`.
    """
    shown = images or []
    ways = [bool(person and shown), source is not None, embeddings is not None]
    if sum(ways) != 1 or (person is not None and not ways[0]):
        given = {"PERSON": person, "IMG…": shown, "--from": source, "--embeddings": embeddings}
        raise ConfigError(
            "PERSON and IMG…, or --from SRC, or --embeddings F.npz",
            " and ".join(word for word, value in given.items() if value) or "nothing", "give exactly one of the three",
        )  # fmt: skip
    point, seen = None, list[FaceRecord]()
    if embeddings is not None:
        found = Embeddings.load(embeddings)
        sha256 = Embedder.load(model, certified=False).sha256 if model else None
        names = [_before_slash(id, embeddings) for id in found.ids.tolist()]
    else:
        embedder = Embedder.load(model, detector=detector, device=device)
        sha256, point = embedder.sha256, embedder.operating_point
        if source is not None:
            reader = open_checked(source, strict)
            names = reader.identities[reader.labels].tolist()
            with progress(f"embedding with {embedder.name}", "images") as bar:
                found = embedder.embed(reader, progress=bar)
            if not anyway:
                kept = _covered(embedder, reader, found, strict)
                names = [names[row] for row in kept]
                found = Embeddings(found.vectors[kept], found.ids[kept], found.norms[kept])
        else:
            choice = None if faces is None else chosen(faces)
            seen = enrollable(embedder, shown, faces=choice, aligned=aligned, anyway=anyway)
            vectors, norms = templates(seen, cast(Keep, keep))
            found = Embeddings(vectors, np.arange(len(vectors)).astype(np.str_), norms)
            names = [str(person)] * len(found)
    with (
        open_gallery(gallery, model=sha256, operating_point=point) as opened,
        progress("enrolling", "templates") as bar,
    ):
        for start in range(0, len(found), PART):
            rows = slice(start, start + PART)
            notes = [consent] * len(names[rows])
            opened.enrol_many(Enrolments(names[rows], found.vectors[rows], found.norms[rows], consent=notes))
            bar(min(start + PART, len(found)), len(found))
        total = len(opened)
    told: dict[str, Any] = {
        "gallery": gallery,
        "people": len(set(names)),
        "templates": len(found),
        "templates_in_all": total,
        "model": sha256,
    }
    if seen:
        told["faces"] = [as_dict(str(file), each.face, each.found) for file, each in zip(shown, seen, strict=True)]
    if as_json:
        out.print_json(json.dumps(told))
        return
    whom = names[0] if len(set(names)) == 1 else f"{len(set(names)):,} people"
    count = "1 template" if len(found) == 1 else f"{len(found):,} templates"
    if len(seen) > 1 and keep != "each":
        count += f" (the mean of {len(seen)} photographs)" if keep == "fused" else " (one is the mean of the others)"
    out.print(f"{gallery}: {whom} enrolled with {count}, {total:,} in all", soft_wrap=True, markup=False)
    for file, each in zip(shown, seen, strict=bool(seen)):
        out.print(told_of(str(file), each.face, each.found), soft_wrap=True, markup=False)


def _before_slash(id: str, path: Path) -> str:
    name, slash, _ = id.partition("/")
    if not slash:
        raise DataError("ids such as Name/0001.jpg", f"{id!r} in {path}", "put the person's name and a / first")
    return name


def _covered(embedder: Embedder, reader: Reader, found: Embeddings, strict: bool) -> list[int]:
    """Rows of the crops that the certificate covers; the others are named. Raises DataError for none, or if strict."""
    if embedder.operating_point is None or embedder.operating_point.conditions is None:
        return list(range(len(reader)))
    told = {}
    with progress("checking conditions", "images") as bar:
        for row in range(len(reader)):
            portrait = embedder.portrait(reader.read(row), aligned=True)
            assessment: Assessment = embedder.assess(found.vectors[row : row + 1], [portrait])[0]
            if not assessment.inside:
                told[row] = f"{found.ids[row]}: {'; '.join(assessment.outside)}"
            bar(row + 1, len(reader))
    left = [row for row in range(len(reader)) if row not in told]
    if told and (strict or not left):
        raise DataError(
            "crops that the model's certificate covers", f"{len(told):,} others ({next(iter(told.values()))})",
            "leave them out, or add --anyway",
        )  # fmt: skip
    for each in told.values():
        err.print(f"left out: {each}", soft_wrap=True, markup=False)
    return left
