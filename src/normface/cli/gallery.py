from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from ..embed import Embedder
from ..errors import DataError
from ..gallery import Enrolments, open_gallery
from ..types import Embeddings
from .terminal import GALLERY, GalleryUrl, Json, Model, Strict, open_checked, out, progress


def list_(gallery: GalleryUrl = GALLERY, as_json: Json = False) -> None:
    """List the people enrolled, with template count, time of enrolment and note of consent.

    Example: `normface gallery list --gallery file:people.db`.
    """
    with open_gallery(gallery, create=False) as opened:
        rows = [
            {"person": p.name, "templates": p.templates, "enrolled": p.enrolled.isoformat(), "consent": p.consent}
            for p in opened.people()
        ]  # fmt: skip
        facts = {"gallery": gallery, "model": opened.model, "dim": opened.dim, "templates": len(opened)}
    if as_json:
        out.print_json(json.dumps({**facts, "people": rows}))
        return
    _table(rows, "enrolled", f"{gallery}: no people enrolled")
    model = f", model {str(facts['model'])[:12]}…" if facts["model"] else ""
    out.print(f"{len(rows):,} people, {facts['templates']:,} templates{model}", soft_wrap=True, markup=False)


def log(gallery: GalleryUrl = GALLERY, as_json: Json = False) -> None:
    """Print the audit log: every enrolment, search and deletion, with its time.

    Example: `normface gallery log --gallery file:people.db`.
    """
    with open_gallery(gallery, create=False) as opened:
        rows = [{**asdict(event), "time": event.time.isoformat()} for event in opened.audit()]
        facts = {"gallery": gallery, "model": opened.model, "dim": opened.dim, "templates": len(opened)}
    if as_json:
        out.print_json(json.dumps({**facts, "log": rows}))
    else:
        _table(rows, "time", f"{gallery}: the log is empty")


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
    file: Annotated[Path, typer.Option("--out", metavar="F.npz", help="File to write: vectors, norms, ids NAME/0001.")],
    gallery: GalleryUrl = GALLERY,
    as_json: Json = False,
) -> None:
    """Export all templates of a gallery as unencrypted vectors, with ids such as NAME/0001.

    Example: `normface gallery export --out vectors.npz`.
    """
    people, templates = write_vectors(gallery, file)
    told = {"gallery": gallery, "out": str(file), "people": people, "templates": templates}
    _tell(told, f"{file}: {templates:,} templates of {people:,} people", as_json)


def write_backup(gallery: str, file: Path) -> int:
    """Write a copy of a gallery. Returns its number of templates."""
    with open_gallery(gallery, create=False) as opened:
        opened.backup(file)
        return len(opened)


def write_vectors(gallery: str, file: Path) -> tuple[int, int]:
    """Write the vectors of a gallery. Returns the numbers of people and templates."""
    vectors, norms, ids = [], [], []
    counts: dict[str, int] = {}
    with open_gallery(gallery, create=False) as opened:
        for part in opened.export():
            vectors.append(part.vectors)
            norms.append(part.quality if part.quality is not None else np.full(len(part), np.nan))
            for name in part.people:
                counts[name] = counts.get(name, 0) + 1
                ids.append(f"{name}/{counts[name]:04d}")
    if not ids:
        raise DataError("a gallery with people", "an empty one", "enrol people first: normface enrol")
    Embeddings(np.concatenate(vectors), np.array(ids), np.concatenate(norms)).save(file)
    return len(counts), len(ids)


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
