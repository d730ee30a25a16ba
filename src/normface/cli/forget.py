"""The command `normface forget`: erase a person from a gallery."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..errors import counted
from ..gallery import open_gallery
from .gallery import whom
from .terminal import GALLERY, GalleryUrl, Json, out


def forget(
    person: Annotated[str, typer.Argument(help="Name of the person to erase, or id:ID.")],
    gallery: GalleryUrl = GALLERY,
    compact: Annotated[bool, typer.Option("--compact", help="Also shrink the gallery's file.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a person from a gallery: templates, key and note of consent. Only a backup can restore them.

    The audit log keeps the person's name and the times of enrolment and deletion.

    Example: `normface forget Ann --gallery file:people.db`.
    """
    with open_gallery(gallery, create=False, templates=False) as opened:
        count = opened.forget(whom(person))
        if compact:
            opened.compact()
        left = len(opened)
    if as_json:
        out.print_json(json.dumps({"person": person, "templates": count, "wiped": count.wiped, "templates_left": left}))
        return
    erased = counted(count, "template")
    out.print(f"{gallery}: {person} forgotten, {erased} erased, {left:,} left", soft_wrap=True, markup=False)
    if not count.wiped:
        later = "another process still reads an older state: open the gallery again after it has ended"
        out.print(f"the bytes are not gone from the files yet, because {later}", soft_wrap=True, markup=False)
