"""People and template rows of an embedded gallery, each change within one of the store's transactions.

A row belongs to a version of the gallery, which is one model's, and to a person, whose key seals it.
"""

from __future__ import annotations

import sqlite3
import time as clock
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .audit import Note
from .base import Enrolments, Person, Template, checked_dim, unknown
from .encryption import Damaged, Seal
from .names import PersonId, checked_name, folded, near
from .store import Store

JOINED = (
    "FROM templates t LEFT JOIN people p ON p.id = t.person LEFT JOIN keys k ON k.person = t.person WHERE t.version = ?"
)
ROWS = f"SELECT t.id, t.person, t.vector, k.wrapped, p.name {JOINED}"
EXPORT = (
    "SELECT t.id, t.person, t.vector, k.wrapped, p.name, t.quality, t.time, p.consent, t.source, t.thumbnail, "
    f"p.public, p.enrolled {JOINED}"
)
PEOPLE = (
    "SELECT p.name, (SELECT count(*) FROM templates t WHERE t.person = p.id AND t.version = ?), p.enrolled, p.consent, "
    "p.public, (SELECT group_concat(tag, char(10)) FROM tags WHERE person = p.id) FROM people p"
)
Row = tuple[Any, ...]


class Rows:
    """Rows in a store, sealed and opened by `seal`; a connection `db` is one that the store gave."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self.store, self.seal = store, seal

    # Templates.

    def insert(self, db: sqlite3.Connection, some: Enrolments, version: int, *, new: bool) -> list[int]:
        """Write templates of a version and note them; returns their numbers. `new` lets people be made.

        Raises ModelError for vectors of another length than the version's, InputError for an unknown person.
        """
        (dim,) = db.execute("SELECT dim FROM versions WHERE id = ?", (version,)).fetchone()
        checked_dim(some.vectors.shape[1], dim)
        if dim is None:
            db.execute("UPDATE versions SET dim = ? WHERE id = ?", (some.vectors.shape[1], version))
        now = clock.time()
        count = len(some)
        times = np.full(count, now).tolist() if some.time is None else some.time.tolist()
        qualities = [None] * count if some.quality is None else [None if q != q else q for q in some.quality.tolist()]
        known = self._people_of(db, some, times, new)
        (last,) = db.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'templates'").fetchone()
        ids = list(range((last or 0) + 1, (last or 0) + 1 + count))
        db.execute("UPDATE versions SET rows = rows + ? WHERE id = ?", (count, version))
        rows = []
        sources, thumbnails = some.source or [None] * count, some.thumbnail or [None] * count
        columns = (ids, some.people, some.vectors, qualities, times, sources, thumbnails)
        for number, name, vector, quality, time, source, image in zip(*columns, strict=True):
            person, key = known[name]
            place = template_place(version, person, number)
            sealed = self.seal.close(key, place, vector.tobytes())
            kept = None if image is None else self.seal.close(key, THUMBNAIL + place, image)
            rows.append((number, person, version, quality, time, sealed, source, kept))
        db.executemany("INSERT INTO templates VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        counts = Counter(known[name][0] for name in some.people)
        names = {person: name for name, (person, _) in known.items()}
        notes = [
            Note("enrol", names[person], person, f"{n} templates, version {version}", now)
            for person, n in counts.items()
        ]
        self.store.log.append(db, *notes)
        return ids

    def _people_of(
        self, db: sqlite3.Connection, some: Enrolments, times: list[float], new: bool
    ) -> dict[str, tuple[int, Any]]:
        """Number and key for each name; people who are new are made where `new` allows it, and consent is kept."""
        known: dict[str, tuple[int, Any]] = {}
        first: dict[str, float] = {}
        for row, name in enumerate(some.people):
            begun = times[row] if some.enrolled is None else float(some.enrolled[row])
            first[name] = min(begun, first.get(name, begun))
        for row, name in enumerate(some.people):
            if name not in known:
                known[name] = self._person(db, name, first[name], some.ids[row] if some.ids else None, new)
            person = known[name][0]
            if some.consent and some.consent[row] is not None:
                db.execute("UPDATE people SET consent = ? WHERE id = ?", (some.consent[row], person))
            if some.tags:
                self.add_tags(db, person, some.tags[row])
        return known

    def _person(
        self, db: sqlite3.Connection, name: str, time: float, id: PersonId | None, new: bool
    ) -> tuple[int, Any]:
        """A person's number and the key for their templates; they are made where `new` allows it."""
        found = self.find(db, name)
        if not found and not new:
            raise unknown(name)
        if not found:
            if id is not None and (other := self.find(db, id)):
                raise InputError(
                    f"an unused id for {name}", f"{id} of {other[1]}", "use that name, or enrol without the id"
                )
            return self.make_person(db, name, time, id)
        return found[0], self.key(db, found[0], found[1])

    def make_person(
        self, db: sqlite3.Connection, name: str, time: float, id: PersonId | None = None, consent: str | None = None
    ) -> tuple[int, Any]:
        """Add a person. Returns their number and the key for their templates."""
        values = (name, time, consent, id or PersonId.new(), folded(name), near(name))
        query = "INSERT INTO people (name, enrolled, consent, public, folded, near) VALUES (?, ?, ?, ?, ?, ?)"
        person = db.execute(query, values).lastrowid or 0
        wrapped = self.seal.new_key(key_place(person, name))
        db.execute("INSERT INTO keys VALUES (?, ?)", (person, wrapped))
        return person, self.seal.unwrap(key_place(person, name), wrapped)

    def key(self, db: sqlite3.Connection, person: int, name: str) -> Any:
        """The key for a person's templates. Raises DataError if it is damaged."""
        found = db.execute("SELECT wrapped FROM keys WHERE person = ?", (person,)).fetchone()
        try:
            return self.seal.unwrap(key_place(person, name), found[0] if found else b"")
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

    def templates(
        self, db: sqlite3.Connection, person: int, name: str, version: int, *, images: bool = True
    ) -> list[Template]:
        """A person's templates of a version, oldest first, with the thumbnails that were kept if `images`."""
        image = "thumbnail" if images else "NULL"
        columns = f"id, time, quality, source, {image}"
        query = f"SELECT {columns} FROM templates WHERE person = ? AND version = ? ORDER BY time, id"
        rows = db.execute(query, (person, version)).fetchall()
        key = self.key(db, person, name) if any(row[4] for row in rows) else None
        return [
            Template(
                number, datetime.fromtimestamp(time, UTC), quality, source,
                None if image is None else self.image(key, template_place(version, person, number), image),
            )
            for number, time, quality, source, image in rows
        ]  # fmt: skip

    def image(self, key: Any, place: bytes, sealed: bytes) -> bytes:
        """A thumbnail, opened. Raises DataError if it is damaged."""
        try:
            return bytes(self.seal.open(key, THUMBNAIL + place, sealed))
        except Damaged as error:
            raise self.store.damaged("a thumbnail is not as it was written") from error

    def move(self, db: sqlite3.Connection, source: tuple[int, str], target: tuple[int, str], ids: list[int]) -> None:
        """Give templates of one person, by number, to another: each is sealed anew. People are (number, name)."""
        old, new = self.key(db, *source), self.key(db, *target)
        query = "SELECT version, vector, thumbnail FROM templates WHERE id = ? AND person = ?"
        for number in ids:
            version, sealed, image = db.execute(query, (number, source[0])).fetchone()
            before, after = (template_place(version, person, number) for person in (source[0], target[0]))
            try:
                sealed = self.seal.close(new, after, bytes(self.seal.open(old, before, sealed)))
            except Damaged as error:
                raise self.store.damaged(f"template {number} is not as it was written") from error
            if image is not None:
                image = self.seal.close(new, THUMBNAIL + after, self.image(old, before, image))
            values = (target[0], sealed, image, number)
            db.execute("UPDATE templates SET person = ?, vector = ?, thumbnail = ? WHERE id = ?", values)

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

    # People.

    def find(self, db: sqlite3.Connection, person: str) -> tuple[int, str] | None:
        """Number and name of a person, by id, exact spelling, or equal name."""
        if isinstance(person, PersonId):
            found = db.execute("SELECT id, name FROM people WHERE public = ?", (str(person),)).fetchone()
        else:
            name = checked_name(person)
            query = "SELECT id, name FROM people WHERE"
            ways = (("name = ?", person), ("name = ?", name), ("folded = ?", folded(name)))
            found = next(filter(None, (db.execute(f"{query} {way}", (value,)).fetchone() for way, value in ways)), None)
        return None if found is None else (found[0], found[1])

    def get(self, db: sqlite3.Connection, person: str) -> tuple[int, str]:
        """Number and name of a person. Raises InputError for an unknown name."""
        found = self.find(db, person)
        if not found:
            raise unknown(person if isinstance(person, PersonId) else checked_name(person))
        return found

    def people(
        self, db: sqlite3.Connection, version: int, where: str = "", values: tuple[Any, ...] = ()
    ) -> list[Person]:
        """People that an SQL clause names, with the number of their templates of a version."""
        rows = db.execute(f"{PEOPLE} {where}", (version, *values)).fetchall()
        return [
            Person(
                name, count, datetime.fromtimestamp(time, UTC), consent, PersonId(public) if public else None,
                tuple(sorted(tags.split("\n"))) if tags else (),
            )
            for name, count, time, consent, public, tags in rows
        ]  # fmt: skip

    def rename(self, db: sqlite3.Connection, person: int, old: str, name: str) -> None:
        """Give a person a name; their key belongs to it. Raises InputError if it is another's."""
        other = self.find(db, name)
        if other and other[0] != person:
            raise InputError(f"an unused name for {old}", f"{other[1]!r}", "use another name, or merge the two people")
        (wrapped,) = db.execute("SELECT wrapped FROM keys WHERE person = ?", (person,)).fetchone()
        try:
            wrapped = self.seal.rewrap(key_place(person, old), key_place(person, name), wrapped)
        except Damaged as error:
            raise self.store.damaged(f"the key of {old} is not as it was written") from error
        db.execute("UPDATE keys SET wrapped = ? WHERE person = ?", (wrapped, person))
        values = (name, folded(name), near(name), person)
        db.execute("UPDATE people SET name = ?, folded = ?, near = ? WHERE id = ?", values)

    def delete_person(self, db: sqlite3.Connection, person: int) -> None:
        """Delete a person's key, tags and name."""
        for table, column in (("keys", "person"), ("tags", "person"), ("people", "id")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (person,))

    def add_tags(self, db: sqlite3.Connection, person: int, tags: Collection[str]) -> None:
        """Give a person tags."""
        db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(tag, person) for tag in tags])

    def remove_tags(self, db: sqlite3.Connection, person: int, tags: Collection[str]) -> None:
        """Take tags from a person."""
        db.executemany("DELETE FROM tags WHERE tag = ? AND person = ?", [(tag, person) for tag in tags])


THUMBNAIL = b"thumbnail:"


def key_place(person: int, name: str) -> bytes:
    """Where a person's key belongs: to their number and their name."""
    return b"%d:" % person + name.encode()


def template_place(version: int, person: int, number: int) -> bytes:
    """Where a template belongs."""
    return b"%d:%d:%d" % (version, person, number)
