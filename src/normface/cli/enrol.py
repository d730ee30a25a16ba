"""The command `normface enrol`: add people to a gallery."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..conditions import Assessment
from ..data import Reader
from ..embed import Embedder, FaceRecord
from ..embed.people import Keep, enrollable, templates
from ..errors import ConfigError, DataError, counted
from ..gallery import Enrolments, Gallery, open_gallery, settle
from ..gallery.archive import load_archive
from ..gallery.names import checked_name
from ..types import Embeddings
from .photographs import as_dict, chosen, warn_without_conditions
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

PART = 1000  # templates per transaction: an interrupted run repeats at most this number


def enrol(
    person: Annotated[str | None, typer.Argument(help="Name of the person in the photographs.")] = None,
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMG…", help="Photographs, or videos.")] = None,
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
        typer.Option(help="Which of several faces to enrol: center, largest or best. Default: an error."),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Templates of several photographs: each, their mean (fused), or both.")
    ] = "both",
    aligned: Annotated[bool, typer.Option("--aligned", help="Skip detection: the images are aligned crops.")] = False,
    consent: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Note about the consent: its purpose, date and location.")
    ] = None,
    anyway: Anyway = False,
    same_person: Annotated[
        bool,
        typer.Option(
            "--same-person",
            help="It is the same person: enrol an unlike face, or use the name under which the face is enrolled.",
        ),
    ] = False,
    twin: Annotated[
        bool, typer.Option("--twin", help="They are two people: enrol a face that is enrolled under another name.")
    ] = False,
    detector: FaceDetector = "mtcnn",
    device: Computer = "auto",
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Enrol one person from photographs, or many people from crops or embeddings.

    Stores one template per image: the embedding of the face plus its mirror image, and its norm. For several
    photographs of a person it also stores their mean. The images are not stored.

    A video (mp4, mov, avi, mkv, webm) gives one template: the mean of the frames in which a face is followed.

    If a photograph or video shows two plausible faces, choose one with `--faces`; otherwise it is an error. In a video
    `--faces` takes the face that is seen longest. Photographs outside the conditions of the model's certificate are an
    error, because strangers would match them. Such crops of `--from` are skipped, or are an error with `--strict`.
    `--anyway` enrols them. Embeddings are not checked.

    Images that are already enrolled are skipped, so you can repeat an interrupted run. A face that is enrolled under
    another name, or is unlike the person's other faces, is an error: answer with `--same-person` or `--twin`. In bulk
    such images are skipped and named, or are an error with `--strict`.

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
    if same_person and twin:
        raise ConfigError("--same-person or --twin", "both", "give one of them")
    answers = _Answers(same_person, twin, asks=ways[0] or strict)
    seen = list[FaceRecord]()
    if embeddings is not None:
        sha256 = Embedder.load(model, certified=False).sha256 if model else None
        some = load_archive(embeddings) or _enrolments(embeddings)
        some = some if consent is None else replace(some, consent=[consent] * len(some))
        with open_gallery(gallery, model=sha256) as opened, progress("enrolling", "templates") as bar:
            for start in range(0, len(some), PART):
                rows = range(start, min(start + PART, len(some)))
                answers.enrol(opened, some.select(rows), [f"row {row} of {embeddings}" for row in rows])
                bar(rows.stop, len(some))
            total = len(opened)
    else:
        embedder = Embedder.load(model, detector=detector, device=device)
        sha256 = embedder.sha256
        with open_gallery(gallery, model=sha256, operating_point=embedder.operating_point) as opened:
            if source is not None:
                _from_crops(opened, embedder, open_checked(source, strict), answers, consent, anyway, strict)
            else:
                choice = None if faces is None else chosen(faces)
                seen = enrollable(embedder, shown, faces=choice, aligned=aligned, anyway=anyway)
                _from_photographs(opened, str(person), shown, seen, cast(Keep, keep), answers, consent)
                warn_without_conditions(embedder)
            total = len(opened)
    names = answers.names
    told: dict[str, Any] = {
        "gallery": gallery,
        "people": len(names),
        "templates": answers.templates,
        "duplicates": answers.duplicates,
        "left_out": answers.left_out,
        "templates_in_all": total,
        "model": sha256,
    }
    if seen:
        told["faces"] = [as_dict(str(file), each.face, each.found) for file, each in zip(shown, seen, strict=True)]
    if as_json:
        out.print_json(json.dumps(told))
        return
    whom = next(iter(names)) if len(names) == 1 else f"{len(names):,} people"
    count = counted(answers.templates, "template")
    if answers.templates and len(seen) > 1 and keep != "each":
        count += f" (the mean of {len(seen)} photographs)" if keep == "fused" else " (one is the mean of the others)"
    more = f", {answers.duplicates:,} enrolled already" if answers.duplicates else ""
    more += f", {answers.left_out:,} left out" if answers.left_out else ""
    out.print(f"{gallery}: {whom} enrolled with {count}{more}, {total:,} in all", soft_wrap=True, markup=False)
    for file, each in zip(shown, seen, strict=bool(seen)):
        out.print(told_of(str(file), each.face, each.found), soft_wrap=True, markup=False)


@dataclass
class _Answers:
    """What to do about doubts, and the actions taken. `asks`: an open question is an error; otherwise skip the row."""

    same_person: bool
    twin: bool
    asks: bool
    names: set[str] = field(default_factory=set)
    templates: int = 0
    duplicates: int = 0
    left_out: int = 0

    def enrol(self, gallery: Gallery, some: Enrolments, labels: list[str]) -> None:
        """Enrol the rows without open questions; `labels` name the rows in messages."""
        settled = settle(some, gallery.doubts(some), same_person=self.same_person, twin=self.twin)
        for warning in settled.warnings:
            err.print(f"warning: {warning}", soft_wrap=True, markup=False)
        for row, question in settled.open.items():
            if self.asks:
                raise ConfigError(
                    f"photographs of {some.people[row]} alone", f"{question} ({labels[row]})",
                    "add --same-person if it is one person, or --twin if they are two people",
                )  # fmt: skip
            err.print(f"left out: {labels[row]}: {question}", soft_wrap=True, markup=False)
        if settled.accepted:
            gallery.enrol_many(settled.accepted)
            self.names |= set(settled.accepted.people)
            self.templates += len(settled.accepted)
        elif not self.names:
            self.names |= set(some.people)
        self.duplicates += settled.duplicates
        self.left_out += len(settled.open)


def _from_photographs(
    gallery: Gallery, person: str, files: list[Path], seen: list[FaceRecord], keep: Keep, answers: _Answers,
    consent: str | None,
) -> None:  # fmt: skip
    """Enrol the faces of a person's photographs, and their mean."""
    vectors, norms = templates(seen, keep)
    rows: list[Path | None] = [*files, None]  # None: the mean of several photographs
    rows = rows[-1:] if keep == "fused" and len(files) > 1 else rows[: len(vectors)]
    some = Enrolments(
        [person] * len(rows), vectors, norms, consent=[consent] * len(rows),
        source=[_hash_file(file) if file else None for file in rows],
    )  # fmt: skip
    answers.enrol(gallery, some, [str(file or "their mean") for file in rows])


def _from_crops(
    gallery: Gallery, embedder: Embedder, reader: Reader, answers: _Answers, consent: str | None, anyway: bool,
    strict: bool,
) -> None:  # fmt: skip
    """Enrol crops in parts; crops that are already enrolled are not embedded again."""
    names = reader.identities[reader.labels].tolist()
    # A plug-in's reader may only have pixels.
    encoded = getattr(reader, "encoded", lambda row: reader.read(row).tobytes())
    sources = [_hash(encoded(row)) for row in range(len(reader))]
    enrolled = gallery.sources(sources)
    wanted = [row for row, source in enumerate(sources) if checked_name(names[row]) not in enrolled.get(source, ())]
    answers.duplicates += len(reader) - len(wanted)
    answers.names |= set() if wanted else set(names)
    with progress(f"embedding with {embedder.name}", "images") as bar:
        for start in range(0, len(wanted), PART):
            rows = wanted[start : start + PART]
            part = reader.select(rows)
            found = embedder.embed(part, progress=partial(_later, bar, start, len(wanted)))
            kept = range(len(rows)) if anyway else _covered(embedder, part, found, strict)
            answers.left_out += len(rows) - len(kept)
            some = Enrolments(
                [names[row] for row in rows], found.vectors, found.norms, consent=[consent] * len(rows),
                source=[sources[row] for row in rows],
            )  # fmt: skip
            if len(kept):
                answers.enrol(gallery, some.select(kept), [str(found.ids[row]) for row in kept])
    if wanted and not answers.templates and not answers.duplicates and not len(gallery):
        raise DataError(
            "crops that the model's certificate covers", "only others", "see what was left out, or add --anyway"
        )


def _later(bar: Callable[[int, int], object], start: int, total: int, done: int, _: int) -> None:
    """Show the progress of a part as progress of the whole."""
    bar(start + done, total)


def _hash(photograph: bytes) -> str:
    return hashlib.sha256(photograph).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:  # a video may be large
        return hashlib.file_digest(file, "sha256").hexdigest()


def _enrolments(path: Path) -> Enrolments:
    """Embeddings of any system, with ids PERSON/IMAGE."""
    found = Embeddings.load(path)
    return Enrolments([_before_slash(id, path) for id in found.ids.tolist()], found.vectors, found.norms)


def _before_slash(id: str, path: Path) -> str:
    name, slash, _ = id.partition("/")
    if not slash:
        raise DataError("ids such as Name/0001.jpg", f"{id!r} in {path}", "put the person's name and a / first")
    return name


def _covered(embedder: Embedder, reader: Reader, found: Embeddings, strict: bool) -> list[int]:
    """Rows of the crops inside the conditions; names the others. Raises DataError for none, or if strict."""
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
    if told and strict:
        raise DataError(
            "crops that the model's certificate covers", f"{len(told):,} others ({next(iter(told.values()))})",
            "leave them out, or add --anyway",
        )  # fmt: skip
    for each in told.values():
        err.print(f"left out: {each}", soft_wrap=True, markup=False)
    return left
