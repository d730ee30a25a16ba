"""Template rows of an embedded gallery: insert, read, count and erase, each in a transaction of the store's.

A row belongs to a version of the gallery, which is one model's, and to a person, whose key seals it.
"""

from __future__ import annotations

import sqlite3
import time as clock
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Enrolments, checked_dim, unknown
from .encryption import Damaged, Seal
from .store import Store

JOINED = (
    "FROM templates t LEFT JOIN people p ON p.id = t.person LEFT JOIN keys k ON k.person = t.person WHERE t.version = ?"
)
ROWS = f"SELECT t.id, t.person, t.vector, k.wrapped, p.name {JOINED}"
EXPORT = f"SELECT t.id, t.person, t.vector, k.wrapped, p.name, t.quality, t.time, p.consent {JOINED}"
Row = tuple[Any, ...]


class Rows:
    """Rows in a store, sealed and opened by `seal`; a connection `db` is one that the store gave."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self.store, self.seal = store, seal

    def insert(self, db: sqlite3.Connection, some: Enrolments, version: int, *, new: bool) -> list[int]:
        """Write templates of a version and note them; returns their numbers. `new` lets people be made.

        Raises ModelError for vectors of another length than the version's, InputError for an unknown person.
        """
        (dim,) = db.execute("SELECT dim FROM versions WHERE id = ?", (version,)).fetchone()
        checked_dim(some.vectors.shape[1], dim)
        if dim is None:
            db.execute("UPDATE versions SET dim = ? WHERE id = ?", (some.vectors.shape[1], version))
        now = clock.time()
        times = np.full(len(some), now).tolist() if some.time is None else some.time.tolist()
        qualities = (
            [None] * len(some) if some.quality is None else [None if q != q else q for q in some.quality.tolist()]
        )
        consents = some.consent or [None] * len(some)
        known: dict[str, tuple[int, Any]] = {}
        for name, time, consent in zip(some.people, times, consents, strict=True):
            if name not in known:
                known[name] = self._person(db, name, time, new)
            if consent is not None:
                db.execute("UPDATE people SET consent = ? WHERE id = ?", (consent, known[name][0]))
        (last,) = db.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'templates'").fetchone()
        ids = list(range((last or 0) + 1, (last or 0) + 1 + len(some)))
        db.execute("UPDATE versions SET rows = rows + ? WHERE id = ?", (len(ids), version))
        rows = []
        for number, name, vector, quality, time in zip(ids, some.people, some.vectors, qualities, times, strict=True):
            person, key = known[name]
            sealed = self.seal.close(key, template_place(version, person, number), vector.tobytes())
            rows.append((number, person, version, quality, time, sealed))
        db.executemany("INSERT INTO templates VALUES (?, ?, ?, ?, ?, ?)", rows)
        for name, count in Counter(some.people).items():
            self.store.note(db, "enrol", name, known[name][0], f"{count} templates, version {version}", now)
        return ids

    def _person(self, db: sqlite3.Connection, name: str, time: float, new: bool) -> tuple[int, Any]:
        """A person's number and the key for her templates; she is made where `new` allows it."""
        found = db.execute("SELECT id, wrapped FROM people JOIN keys ON person = id WHERE name = ?", (name,)).fetchone()
        if not found and not new:
            raise unknown(name)
        if not found:
            person = db.execute("INSERT INTO people (name, enrolled) VALUES (?, ?)", (name, time)).lastrowid or 0
            found = person, self.seal.new_key(key_place(person, name))
            db.execute("INSERT INTO keys VALUES (?, ?)", found)
        try:
            return found[0], self.seal.unwrap(key_place(found[0], name), found[1])
        except Damaged as error:
            raise self.store.damaged(f"the key of {name} is not as it was written") from error

    def opened(self, rows: list[Row], version: int) -> NDArray[np.float32]:
        """Vectors [N, D] of rows of a version, selected by `ROWS`. Raises DataError where they are damaged."""
        plain, whose, key = [], None, None
        for number, person, sealed, wrapped, name, *_ in rows:
            try:
                if name is None:  # nobody's: the join found no person
                    raise Damaged
                if person != whose:
                    whose, key = person, self.seal.unwrap(key_place(person, name), wrapped)
                plain.append(self.seal.open(key, template_place(version, person, number), sealed))
            except (Damaged, TypeError) as error:
                raise self.store.damaged(f"template {number} of person {person} is not as it was written") from error
        return np.frombuffer(b"".join(plain), np.float32).reshape(len(plain), -1 if plain else 0)

    def missing(self, db: sqlite3.Connection, version: int) -> list[str]:
        """Names of the people without a template of that version, in order."""
        query = "SELECT name FROM people WHERE id NOT IN (SELECT person FROM templates WHERE version = ?) ORDER BY name"
        return [name for (name,) in db.execute(query, (version,))]

    def erase(self, db: sqlite3.Connection, where: str, values: tuple[object, ...] = ()) -> int:
        """Delete the templates that an SQL condition names; returns how many."""
        counts = db.execute(
            f"SELECT count(*), version FROM templates WHERE {where} GROUP BY version", values
        ).fetchall()
        db.execute(f"DELETE FROM templates WHERE {where}", values)
        db.executemany("UPDATE versions SET rows = rows - ? WHERE id = ?", counts)
        return sum(count for count, _ in counts)


def key_place(person: int, name: str) -> bytes:
    """Where a person's key belongs: to her number and her name."""
    return b"%d:" % person + name.encode()


def template_place(version: int, person: int, number: int) -> bytes:
    """Where a template belongs."""
    return b"%d:%d:%d" % (version, person, number)
