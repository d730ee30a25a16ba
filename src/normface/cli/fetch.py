"""The command `normface fetch`: download models and data sets by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data import fetch as fetching
from ..errors import ConfigError
from .terminal import Json, err, out, progress


def fetch(
    name: Annotated[str | None, typer.Argument(help="What to fetch. If omitted, list everything available.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for the files. Default: data; for models NORMFACE_MODELS, or the user's data folder."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Copy the files from this folder instead of downloading them."),
    ] = None,
    accept: Annotated[bool, typer.Option("--accept-terms", help="Confirm that you accept the terms.")] = False,
    as_json: Json = False,
) -> None:
    """Download public data sets, models and pretrained weights, and verify their SHA-256.

    Prints the terms of each. Needs `--accept-terms` except for models whose license allows commercial use. A fetched
    model can be used by name: `--model sface`, `--detector yunet`. `normface models` tells more of each.

    Examples: `normface fetch` lists what is available; `normface fetch sface`.
    """
    if name is None:
        if as_json:
            out.print_json(json.dumps({key: _told(entry) for key, entry in fetching.ENTRIES.items()}))
        for key, entry in fetching.ENTRIES.items() if not as_json else ():
            out.print(f"{key:22} {entry.about}", soft_wrap=True, markup=False)
        return
    chosen = fetching.ENTRIES.get(name)
    terms = sorted({file.terms for file in chosen.files.values()}) if chosen else []
    for words in terms:
        err.print(words, soft_wrap=True, markup=False)
    if chosen and fetching.needs_consent(chosen) and not accept:
        raise ConfigError("--accept-terms", "nothing", "read the terms above, then add --accept-terms")
    with progress(f"fetching {name}", "bytes") as update:
        paths = fetching.fetch(name, folder, source=source, progress=update)
    if as_json:
        out.print_json(json.dumps({"files": [str(path) for path in paths], "terms": terms}))
    else:
        out.print("\n".join(map(str, paths)), soft_wrap=True, markup=False)


def _told(entry: fetching.Entry) -> dict[str, Any]:
    told: dict[str, Any] = {"about": entry.about, "files": list(entry.files)}
    if isinstance(entry, fetching.Weights):
        told |= {"bytes": entry.size, "model": entry.model, "options": dict(entry.options)}
    if isinstance(entry, fetching.Published):
        told |= {"bytes": entry.listed.bytes, "kind": entry.listed.kind, "commercial": entry.listed.commercial}
    return told
