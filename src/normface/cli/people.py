from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import gallery as group
from .terminal import GALLERY, GalleryUrl, Json


def people(
    gallery: GalleryUrl = GALLERY,
    log: Annotated[bool, typer.Option("--log", hidden=True, help="Now: normface gallery log.")] = False,
    backup: Annotated[Path | None, typer.Option(hidden=True, help="Now: normface gallery backup --out FILE.")] = None,
    export: Annotated[Path | None, typer.Option(hidden=True, help="Now: normface gallery export --out FILE.")] = None,
    as_json: Json = False,
) -> None:
    """List who is enrolled, with how many templates, since when, and on what consent.

    `normface gallery` has what else concerns a gallery: its audit log, backups, export, moving to another model.

    Example: `normface people --gallery file:people.db`.
    """
    if backup is not None:
        group.write_backup(gallery, backup)
    if export is not None:
        group.write_vectors(gallery, export)
    (group.log if log else group.list_)(gallery, as_json)
