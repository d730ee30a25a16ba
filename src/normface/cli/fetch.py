from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data import fetch as fetching
from ..errors import ConfigError
from .terminal import Json, err, out


def fetch(
    name: Annotated[str | None, typer.Argument(help="What to fetch. If omitted, list everything available.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("data"),
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Copy the files from this folder instead of downloading them."),
    ] = None,
    accept: Annotated[bool, typer.Option("--accept-terms", help="Confirm that you accept the terms.")] = False,
    as_json: Json = False,
) -> None:
    """Download public data sets and pretrained weights, and verify their SHA-256.

    Prints the terms of each; downloads only with `--accept-terms`.

    Example: `normface fetch` lists what is available.
    """
    if name is None:
        if as_json:
            out.print_json(json.dumps({key: _told(entry) for key, entry in fetching.ENTRIES.items()}))
        for key, entry in fetching.ENTRIES.items() if not as_json else ():
            out.print(f"{key:22} {entry.about}", soft_wrap=True, markup=False)
        return
    files = fetching.ENTRIES[name].files if name in fetching.ENTRIES else {}
    terms = sorted({file.terms for file in files.values()})
    for words in terms:
        err.print(words, soft_wrap=True, markup=False)
    if files and not accept:
        raise ConfigError("--accept-terms", "nothing", "read the terms above, then add --accept-terms")
    paths = fetching.fetch(name, folder, source=source, bar=err.is_terminal and not as_json)
    if as_json:
        out.print_json(json.dumps({"files": [str(path) for path in paths], "terms": terms}))
    else:
        out.print("\n".join(map(str, paths)), soft_wrap=True, markup=False)


def _told(entry: fetching.Entry) -> dict[str, Any]:
    told: dict[str, Any] = {"about": entry.about, "files": list(entry.files)}
    if isinstance(entry, fetching.Weights):
        told |= {"bytes": entry.size, "model": entry.model, "options": dict(entry.options)}
    return told
