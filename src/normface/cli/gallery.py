"""The command `normface gallery`: manage a gallery: its log, backups and people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from ..embed import Embedder
from ..errors import ConfigError, InputError
from ..gallery import Enrolments, Gallery, Person, PersonId, open_gallery
from ..gallery.archive import save_archive
from .terminal import GALLERY, GalleryUrl, Json, Model, Strict, open_checked, out, progress

Whom = Annotated[str, typer.Argument(metavar="PERSON", help="A person's name, or id:ID.")]
Numbers = Annotated[list[int], typer.Option("--template", metavar="N", help="Number of a template; may be repeated.")]


def whom(text: str) -> str:
    """A person as typed: a name, or an id after `id:`."""
    return PersonId.parse(text.removeprefix("id:")) if text.startswith("id:") else text


def list_(
    gallery: GalleryUrl = GALLERY,
    prefix: Annotated[str, typer.Option(help="List only names that begin so.")] = "",
    tag: Annotated[str | None, typer.Option(help="List only people with this tag.")] = None,
    as_json: Json = False,
) -> None:
    """List the people enrolled, with id, template count, time of enrolment, note of consent and tags.

    Example: `normface gallery list --gallery file:people.db`.
    """
    with open_gallery(gallery, create=False, templates=False) as opened:
        rows = [_told(person) for person in opened.people(prefix=prefix, tag=tag)]
        facts = {"gallery": gallery, "model": opened.model, "dim": opened.dim, "templates": len(opened)}
    if as_json:
        out.print_json(json.dumps({**facts, "people": rows}))
        return
    _table([{**row, "tags": ", ".join(row["tags"])} for row in rows], "enrolled", f"{gallery}: no people enrolled")
    model = f", model {str(facts['model'])[:12]}…" if facts["model"] else ""
    out.print(f"{len(rows):,} people, {facts['templates']:,} templates{model}", soft_wrap=True, markup=False)


def show(person: Whom, gallery: GalleryUrl = GALLERY, as_json: Json = False) -> None:
    """Show a person's templates: number, time, quality, and SHA-256 of the photograph.

    Example: `normface gallery show Ann`.
    """
    with open_gallery(gallery, create=False, templates=False) as opened:
        found = opened.person(whom(person))
        rows = [
            {"template": t.number, "time": t.time.isoformat(), "quality": t.quality, "source": t.source}
            for t in opened.templates(whom(person))
        ]
    if as_json:
        out.print_json(json.dumps({**_told(found), "templates": rows}))
        return
    out.print(f"{found.name}, id:{found.id}, tags: {', '.join(found.tags) or 'none'}", soft_wrap=True, markup=False)
    _table(rows, "time", f"{found.name}: no templates")


def remove(
    person: Whom,
    template: Annotated[int, typer.Option(metavar="N", help="Number of the template, as in `gallery show`.")],
    gallery: GalleryUrl = GALLERY,
    as_json: Json = False,
) -> None:
    """Erase one of a person's templates, but not the last one.

    Example: `normface gallery remove Ann --template 3`.
    """
    with open_gallery(gallery, create=False, templates=False) as opened:
        gone = opened.remove(whom(person), template)
        left = opened.person(whom(person)).templates
    told = {"person": person, "erased": gone, "wiped": gone.wiped, "templates_left": left}
    _tell(told, f"{person}: template {template} erased, {left:,} left", as_json)


def rename(
    person: Whom,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")],
    gallery: GalleryUrl = GALLERY,
    as_json: Json = False,
) -> None:
    """Give a person another name; the id stays.

    Example: `normface gallery rename Ann "Ann Example"`.
    """
    with open_gallery(gallery, create=False) as opened:
        found = opened.rename(whom(person), name)
    _tell(_told(found), f"{person} is now {found.name}", as_json)


def merge(
    person: Whom,
    into: Annotated[str, typer.Argument(metavar="INTO", help="The person who stays: a name, or id:ID.")],
    gallery: GalleryUrl = GALLERY,
    as_json: Json = False,
) -> None:
    """Move all templates and tags of a person to another, for a person who was enrolled twice.

    Example: `normface gallery merge Annie Ann`.
    """
    with open_gallery(gallery, create=False) as opened:
        found = opened.merge(whom(person), whom(into))
    _tell(_told(found), f"{person} merged into {found.name}, {found.templates:,} templates", as_json)


def split(
    person: Whom,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new person.")],
    templates: Numbers,
    gallery: GalleryUrl = GALLERY,
    as_json: Json = False,
) -> None:
    """Move some templates of a person to a new person, for two who were enrolled as one.

    Example: `normface gallery split Ann Bo --template 3 --template 4`.
    """
    with open_gallery(gallery, create=False) as opened:
        found = opened.split(whom(person), templates, name)
    _tell(_told(found), f"{found.name}: {found.templates:,} templates of {person}", as_json)


def tag(
    person: Whom,
    add: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Tag to add; may be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Tag to remove; may be repeated.")] = None,
    gallery: GalleryUrl = GALLERY,
    as_json: Json = False,
) -> None:
    """Add and remove a person's tags; `normface search --tag TAG` searches only people with a tag.

    Example: `normface gallery tag Ann --add staff`.
    """
    with open_gallery(gallery, create=False, templates=False) as opened:
        found = opened.tag(whom(person), add or [], remove or [])
    _tell(_told(found), f"{found.name}: {', '.join(found.tags) or 'no tags'}", as_json)


def log(
    gallery: GalleryUrl = GALLERY,
    prune: Annotated[bool, typer.Option("--prune", help="Delete the lines older than --before, and note it.")] = False,
    before: Annotated[str | None, typer.Option(metavar="DATE", help="A day such as 2026-01-31 (UTC).")] = None,
    as_json: Json = False,
) -> None:
    """Print the audit log: every enrolment, search and deletion, with its time and who did it.

    `--prune --before DATE` shortens it, for names that may not be kept longer.

    Example: `normface gallery log --gallery file:people.db`.
    """
    if prune != (before is not None):
        raise ConfigError("--prune with --before DATE", "one of them", "give both, or neither")
    with open_gallery(gallery, create=False, templates=False) as opened:
        if before is not None:
            count = opened.prune(_day(before))
            told = {"gallery": gallery, "pruned": count, "before": before}
            _tell(told, f"{gallery}: {count:,} lines older than {before} deleted", as_json)
            return
        rows = [{**asdict(event), "time": event.time.isoformat()} for event in opened.audit()]
        facts = {"gallery": gallery, "model": opened.model, "dim": opened.dim, "templates": len(opened)}
    if as_json:
        out.print_json(json.dumps({**facts, "log": rows}))
    else:
        _table(rows, "time", f"{gallery}: the log is empty")


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError("a day such as 2026-01-31", repr(text), "correct --before") from error


def _told(person: Person) -> dict[str, Any]:
    return {
        "person": person.name, "id": person.id, "templates": person.templates, "enrolled": person.enrolled.isoformat(),
        "consent": person.consent, "tags": list(person.tags),
    }  # fmt: skip


def backup(
    file: Annotated[Path, typer.Option("--out", metavar="FILE", help="The copy to write.")],
    gallery: GalleryUrl = GALLERY,
    as_json: Json = False,
) -> None:
    """Write a consistent copy of a gallery, even while it is in use; an encrypted gallery's copy stays encrypted.

    Example: `normface gallery backup --out people-backup.db`.
    """
    count = write_backup(gallery, file)
    _tell({"gallery": gallery, "out": str(file), "templates": count}, f"{file}: {count:,} templates", as_json)


def export(
    file: Annotated[
        Path, typer.Option("--out", metavar="F.npz", help="File to write: vectors, norms, ids NAME/0001, people.")
    ],
    gallery: GalleryUrl = GALLERY,
    as_json: Json = False,
) -> None:
    """Export all people of a gallery as unencrypted vectors, with names, ids, dates, consent and tags.

    `normface enrol --embeddings F.npz` brings them into another gallery.

    Example: `normface gallery export --out vectors.npz`.
    """
    people, templates = write_vectors(gallery, file)
    told = {"gallery": gallery, "out": str(file), "people": people, "templates": templates}
    _tell(told, f"{file}: {templates:,} templates of {people:,} people", as_json)


def write_backup(gallery: str, file: Path) -> int:
    """Write a copy of a gallery. Returns its number of templates."""
    with open_gallery(gallery, create=False, templates=False) as opened:
        opened.backup(file)
        return len(opened)


def write_vectors(gallery: str, file: Path) -> tuple[int, int]:
    """Write the vectors of a gallery. Returns the numbers of people and templates."""
    with open_gallery(gallery, create=False) as opened:
        return save_archive(_not_of(opened, file), opened.export())


def _not_of(gallery: Gallery, file: Path) -> Path:
    """A file to write. Raises InputError for one of the gallery's own."""
    if any(file.exists() and own.exists() and own.samefile(file) for own in gallery.files()):
        raise InputError("a file other than the gallery's own", str(file), "give another name")
    return file


def compact(gallery: GalleryUrl = GALLERY, as_json: Json = False) -> None:
    """Shrink a gallery's file: release the space of deleted templates.

    Example: `normface gallery compact --gallery file:people.db`.
    """
    with open_gallery(gallery, create=False) as opened:
        opened.compact()
        count = len(opened)
    _tell({"gallery": gallery, "templates": count}, f"{gallery}: compacted, {count:,} templates", as_json)


def migrate(
    source: Annotated[
        Path, typer.Option("--from", metavar="SRC", help="Aligned crops of the enrolled people, one folder per person.")
    ],
    model: Model = None,
    gallery: GalleryUrl = GALLERY,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Move a gallery to another model: embed every person again, then switch.

    Searches use the old templates until every person has new ones; then the old ones are erased. If SRC lacks people,
    nothing is switched and the exit code is 1: run again with their crops, or erase them with `normface forget`.

    Example: `normface gallery migrate --from crops --model new.onnx`.
    """
    embedder, reader = Embedder.load(model), open_checked(source, strict)
    with open_gallery(gallery, create=False) as opened:
        migration = opened.migrate(embedder.sha256)
        wanted = np.isin(reader.identities, migration.missing())[reader.labels]
        if wanted.any():
            chosen = reader.select(np.flatnonzero(wanted))
            with progress(f"embedding with {embedder.name}", "images") as bar:
                found = embedder.embed(chosen, progress=bar)
            migration.enrol_many(Enrolments(chosen.identities[chosen.labels].tolist(), found.vectors, found.norms))
        missing = migration.missing()
        erased = 0 if missing else migration.switch()
    told = {"gallery": gallery, "model": embedder.sha256, "switched": not missing, "missing": missing, "erased": erased}
    first = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
    text = (
        f"{gallery}: not switched, {len(missing):,} people have no crops in {source} ({first})" if missing
        else f"{gallery}: switched to {embedder.name}, {erased:,} old templates erased"
    )  # fmt: skip
    _tell(told, text, as_json)
    if missing:
        raise typer.Exit(1)


def _tell(facts: Mapping[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps(facts))
    else:
        out.print(text, soft_wrap=True, markup=False)


def _table(rows: list[dict[str, Any]], time: str, nothing: str) -> None:
    """Print rows with the column `time` to the second, or `nothing` if there are none."""
    if not rows:
        out.print(nothing, soft_wrap=True, markup=False)
        return
    table = Table(*rows[0], box=None)
    for row in rows:
        shown = {**row, time: str(row[time])[:19] + "Z"}
        table.add_row(*(Text("" if value is None else str(value)) for value in shown.values()))
    out.print(table)
