"""The command `normface keys`: manage the keys of the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..serve import new_key, read_keys, revoke_key
from .terminal import Json, out

Keys = Annotated[Path, typer.Option("--keys", metavar="FILE", help="File of API keys, as for `normface serve --keys`.")]


def add(
    scopes: Annotated[str, typer.Argument(help="Comma-separated permissions: read, enrol, admin.")],
    keys: Keys,
    expires: Annotated[str | None, typer.Option(help="Date on which the key expires, such as 2027-01-31.")] = None,
    as_json: Json = False,
) -> None:
    """Create an API key, print it once, and store its hash in a file.

    Example: `normface keys add read,enrol --keys keys.jsonl --expires 2027-01-31`.
    """
    token = new_key(keys, tuple(scope.strip() for scope in scopes.split(",")), expires)
    told = {"key": token, "scopes": scopes, "file": str(keys), "expires": expires}
    text = f"{token}\nCopy this key now; it will not be shown again. {keys} stores only its hash."
    out.print(json.dumps(told) if as_json else text, soft_wrap=True, markup=False)


def list_(keys: Keys, as_json: Json = False) -> None:
    """List the keys in a file: id, scopes, creation and expiry dates.

    Example: `normface keys list --keys keys.jsonl`.
    """
    rows = [{"id": k.id, "scopes": list(k.scopes), "made": k.made, "expires": k.expires} for k in read_keys(keys)]
    if as_json:
        out.print_json(json.dumps({"file": str(keys), "keys": rows}))
        return
    table = Table("id", "scopes", "made", "expires", box=None)
    for key in read_keys(keys):
        table.add_row(key.id, ",".join(key.scopes), key.made, key.expires or "never")
    out.print(table if rows else f"{keys}: no keys")


def revoke(
    id: Annotated[str, typer.Argument(help="Id of the key, from `normface keys list`.")],
    keys: Keys,
    as_json: Json = False,
) -> None:
    """Revoke a key; a running service rejects it at once.

    Example: `normface keys revoke 1a2b3c4d --keys keys.jsonl`.
    """
    revoked = revoke_key(keys, id)
    if as_json:
        out.print_json(json.dumps({"file": str(keys), "id": revoked.id, "scopes": list(revoked.scopes)}))
    else:
        out.print(f"{keys}: {revoked.id} ({','.join(revoked.scopes)}) revoked", soft_wrap=True, markup=False)
