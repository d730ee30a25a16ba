"""The command `normface people`: list who is enrolled."""

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
    """List the people enrolled, with template count, time of enrolment and note of consent.

    For the audit log, backups, export and migration to another model, see `normface gallery`.

    Example: `normface people --gallery file:people.db`.
    """
    if backup is not None:
        group.write_backup(gallery, backup)
    if export is not None:
        group.write_vectors(gallery, export)
    (group.log if log else group.list_)(gallery, as_json=as_json)
