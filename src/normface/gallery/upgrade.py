"""An embedded gallery of format 1 becomes one of format 2: ids, comparable names, tags, sources, actors in the log.

Both formats seal templates alike, so no key is needed. Where two people's names are equal by today's rules, both keep
theirs: each is found by the exact spelling, and by the id.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Sequence

from .names import PersonId, folded, near

ADDED = {
    "people": ("public TEXT", "folded TEXT", "near TEXT"),
    "templates": ("source TEXT", "thumbnail BLOB"),
    "audit": ("actor TEXT", "seal BLOB"),
}


def upgrade(db: sqlite3.Connection, schema: Sequence[str], format: int) -> None:
    """Bring a file of format 1 to the `schema`, within a transaction."""
    for table, columns in ADDED.items():
        for column in columns:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    db.execute("DROP INDEX templates_of")  # made anew below, with the version in it
    taken: set[str] = set()
    for number, name in db.execute("SELECT id, name FROM people ORDER BY id").fetchall():
        key = folded(" ".join(name.split()))
        key = key if key not in taken else f"{key}\n{number}"  # no name has a line break: only the spelling finds it
        taken.add(key)
        filled = (PersonId.new(), key, near(name), number)
        db.execute("UPDATE people SET public = ?, folded = ?, near = ? WHERE id = ?", filled)
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    for statement in schema:
        made = re.match(r"CREATE (?:UNIQUE )?(?:TABLE|INDEX|TRIGGER) (\w+)", statement)
        if made and made[1] not in there:
            db.execute(statement)
    (made_at,) = db.execute("SELECT min(time) FROM audit WHERE number = 1").fetchone()
    header = [("id", secrets.token_hex(8).encode()), ("made", str(made_at).encode())]
    db.executemany("INSERT INTO meta VALUES (?, ?)", header)
    db.execute(f"PRAGMA user_version = {format}")
