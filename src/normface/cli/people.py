from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from ..errors import DataError
from ..gallery import Gallery, open_gallery
from ..types import Embeddings
from .terminal import GALLERY, GalleryUrl, Json, out


def people(
    gallery: GalleryUrl = GALLERY,
    log: Annotated[bool, typer.Option("--log", help="The audit log instead: who was enrolled, searched, …")] = False,
    backup: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a consistent copy; a sealed gallery's is sealed.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="F.npz", help="Write all vectors, readable by anybody, with names as ids.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Who is enrolled, with how many templates, since when, and on what consent."""
    with open_gallery(gallery, create=False) as opened:
        if backup is not None:
            opened.backup(backup)
        if export is not None:
            _export(opened, export)
        if log:
            rows = [{**asdict(event), "time": event.time.isoformat()} for event in opened.audit()]
        else:
            rows = [
                {"person": p.name, "templates": p.templates, "enrolled": p.enrolled.isoformat(), "consent": p.consent}
                for p in opened.people()
            ]  # fmt: skip
        facts = {"gallery": gallery, "model": opened.model, "dim": opened.dim, "templates": len(opened)}
    if as_json:
        out.print_json(json.dumps({**facts, "log" if log else "people": rows}))
        return
    columns = list(rows[0]) if rows else []
    table = Table(*columns, box=None)
    for row in rows:
        shown = {**row, "time" if log else "enrolled": str(row["time" if log else "enrolled"])[:19] + "Z"}
        table.add_row(*(Text("" if shown[name] is None else str(shown[name])) for name in columns))
    out.print(table if rows else f"{gallery}: nobody is enrolled")
    if not log:
        model = f", model {str(facts['model'])[:12]}…" if facts["model"] else ""
        out.print(f"{len(rows):,} people, {facts['templates']:,} templates{model}", soft_wrap=True, markup=False)


def _export(gallery: Gallery, path: Path) -> None:
    vectors, norms, ids = [], [], []
    counts: dict[str, int] = {}
    for part in gallery.export():
        vectors.append(part.vectors)
        norms.append(part.quality if part.quality is not None else np.full(len(part), np.nan))
        for name in part.people:
            counts[name] = counts.get(name, 0) + 1
            ids.append(f"{name}/{counts[name]:04d}")
    if not ids:
        raise DataError("somebody enrolled", "an empty gallery", "enrol somebody first: normface enrol")
    Embeddings(np.concatenate(vectors), np.array(ids), np.concatenate(norms)).save(path)
