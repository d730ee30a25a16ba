"""A gallery in one SQLite file, searched in memory: many readers, one writer at a time, any number of processes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import cosine
from ..errors import ConfigError, InputError, ModelError, require
from ..types import Match, OperatingPoint
from . import GALLERIES
from .base import (
    Decider,
    Enrolments,
    Event,
    Gallery,
    Person,
    checked_model,
    checked_name,
    unit_query,
    unknown,
)
from .encryption import KEY_VARIABLE, Plain, Seal, Sealed, master_key
from .index import Index
from .migration import EmbeddedMigration
from .rows import EXPORT, ROWS, Row, Rows
from .store import Store

EXACT_UP_TO = 1_000_000  # templates; more are searched by their sketches unless exact=True
ROWS_AT_ONCE = 256  # rows read at once: they stay in a core's cache until they are checked and coded
EXPORTED = 4096  # rows


class EmbeddedGallery(Gallery):
    """See `gallery.Gallery`. Each call first updates the in-memory index from the file."""

    def __init__(
        self,
        path: str | Path,
        *,
        model: str | None,
        operating_point: OperatingPoint | None,
        key: bytes | str | None,
        create: bool,
    ) -> None:
        require("numkong", "gallery")  # before a file is made that could not be searched
        master = master_key(key)
        self._decider = Decider(model, operating_point)
        self._version, self._seen, self._last = 0, 0, 0  # version; line of the audit log; template
        self._bound: str | None = None
        self._index: Index | None = None
        self._store = Store(path, create)
        try:
            self._rows = Rows(self._store, self._agreed(Sealed(master) if master else None))
            with self._view():
                pass
        except BaseException:
            self.close()
            raise

    def _agreed(self, sealed: Sealed | None) -> Seal:
        """The seal that the file was made with, or of a new one from now on. Raises ConfigError for another key."""
        with self._store.writing() as db:
            if not db.execute("SELECT 1 FROM meta").fetchone():
                db.execute("INSERT INTO meta VALUES ('proof', ?)", (sealed.proof() if sealed else None,))
                db.execute("INSERT INTO versions (state) VALUES ('current')")
            (proof,) = db.execute("SELECT value FROM meta WHERE name = 'proof'").fetchone()
            if self._decider.model and not db.execute("SELECT 1 FROM templates LIMIT 1").fetchone():
                db.execute("UPDATE versions SET model = ? WHERE model IS NULL", (self._decider.model,))
        if proof is None and sealed:
            raise ConfigError(
                f"no key, because {self._store.path} is not encrypted", "a key",
                f"unset {KEY_VARIABLE} and pass no key, or export into a new gallery with a key",
            )  # fmt: skip
        if proof is not None and not (sealed and sealed.proves(proof)):
            raise ConfigError(
                f"the key of {self._store.path}", "another key" if sealed else "none",
                f"correct the key or {KEY_VARIABLE}; without the key the templates cannot be read",
            )  # fmt: skip
        return sealed or Plain()

    # What is in memory follows the file.

    @contextmanager
    def _view(self) -> Iterator[sqlite3.Connection]:
        """One view of the file, with the index caught up to it; one thread at a time."""
        with self._store.reading() as db:
            (line,) = db.execute("SELECT max(number) FROM audit").fetchone()
            if line != self._seen:
                self._catch_up(db)
                self._seen = line
            yield db

    def _catch_up(self, db: sqlite3.Connection) -> None:
        current = "SELECT id, model, dim, rows FROM versions WHERE state = 'current'"
        version, model, dim, expected = db.execute(current).fetchone()
        checked_model(self._decider.model, model)
        self._bound = model
        anew = version != self._version or (dim and not self._index)
        if anew:
            listed = "SELECT count(*), (SELECT sum(rows) FROM versions) FROM templates INDEXED BY templates_of"
            if len(set(db.execute(listed).fetchone())) > 1:
                raise self._store.damaged("the index of templates does not list them all")
            if self._index:
                self._index.close()
            self._version, self._last = version, 0
            self._index = Index(dim, self._fetch, expected) if dim else None
        if self._index is None:
            return
        news = "SELECT subject FROM audit WHERE number > ? AND action = 'forget'"
        for (subject,) in db.execute(news, (self._seen,)).fetchall():
            self._index.remove(subject)
        for rows, vectors in self._parts(db, f"{ROWS} AND t.id > ? ORDER BY t.id", (version, self._last)):
            self._last = rows[-1][0]
            self._index.add(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), vectors)
        if anew and len(self._index) != expected:
            raise self._store.damaged(f"{len(self._index)} rows of templates where {expected} were written")

    def _parts(
        self, db: sqlite3.Connection, query: str, values: tuple[Any, ...]
    ) -> Iterator[tuple[list[Row], NDArray[np.float32]]]:
        """Rows of a query that begins with ROWS, in parts, with their vectors [N, D]."""
        found = db.execute(query, values)
        while rows := found.fetchmany(ROWS_AT_ONCE):
            yield rows, self._rows.opened(rows, self._version)

    def _fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors [N, D] of templates that the index knows, in the order of their numbers here."""
        query = f"{ROWS} AND t.id IN (SELECT value FROM json_each(?))"
        with self._store.reading() as db:
            rows = db.execute(query, (self._version, json.dumps(ids.tolist()))).fetchall()
        if len(rows) != len(ids):
            raise self._store.damaged(f"{len(rows)} rows of templates where {len(ids)} were written")
        found = dict(zip([row[0] for row in rows], self._rows.opened(rows, self._version), strict=True))
        return np.array([found[number] for number in ids.tolist()])

    # What a gallery does.

    @property
    def model(self) -> str | None:
        """See `Gallery`."""
        with self._view():
            return self._bound

    @property
    def dim(self) -> int | None:
        """See `Gallery`."""
        with self._view():
            return self._index.dim if self._index else None

    def __len__(self) -> int:
        with self._view():
            return len(self._index) if self._index else 0

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Gallery`."""
        with self._store.writing() as db:
            version, model = db.execute("SELECT id, model FROM versions WHERE state = 'current'").fetchone()
            checked_model(self._decider.model, model)
            return self._rows.insert(db, enrolments, version, new=True)

    def search(self, vector: ArrayLike, k: int = 10, *, exact: bool | None = None) -> list[Match]:
        """See `Gallery`."""
        if k < 1:
            raise InputError("k ≥ 1", str(k), "increase k")
        with self._view() as db:
            query = unit_query(vector, self._index.dim if self._index else None)
            if exact is None:
                exact = self._index is None or len(self._index) <= EXACT_UP_TO
            found = self._index.search(query, k, exact) if self._index else []
            named = "SELECT id, name FROM people WHERE id IN (SELECT value FROM json_each(?))"
            names = dict(db.execute(named, (json.dumps([person for person, _ in found]),)).fetchall())
            templates = len(self._index) if self._index else 0
        matches = self._decider.ranked([(score, names[person]) for person, score in found], templates)
        best = matches[0] if matches else None
        self._store.note_search(
            "search",
            best.person if best else None,
            f"best of {len(matches)}: cosine {best.score:.4f}" if best else "empty",
        )
        return matches

    def verify(self, person: str, vector: ArrayLike) -> Match:
        """See `Gallery`."""
        name = checked_name(person)
        with self._view() as db:
            query = cosine.exact(unit_query(vector, self._index.dim if self._index else None))
            parts = self._parts(db, f"{ROWS} AND p.name = ?", (self._version, name))
            scores = [float(cosine.paired(cosine.exact(vectors), query).max()) for _, vectors in parts]
        if not scores:
            raise unknown(name)
        score = max(scores)
        self._store.note_search("verify", name, f"cosine {score:.4f}")
        return self._decider.decided(score, name)

    def forget(self, person: str) -> int:
        """See `Gallery`."""
        name = checked_name(person)
        with self._store.writing() as db:
            found = db.execute("SELECT id FROM people WHERE name = ?", (name,)).fetchone()
            if not found:
                raise unknown(name)
            count = self._rows.erase(db, "person = ?", found)
            db.execute("DELETE FROM keys WHERE person = ?", found)
            db.execute("DELETE FROM people WHERE id = ?", found)
            self._store.note(db, "forget", name, found[0], f"{count} templates")
        with self._view():  # out of memory too
            pass
        self._store.wipe()
        return count

    def people(self) -> list[Person]:
        """See `Gallery`."""
        query = (
            "SELECT name, count(t.id), enrolled, consent FROM people p LEFT JOIN templates t "
            "ON t.person = p.id AND t.version = ? GROUP BY p.id ORDER BY name"
        )
        with self._view() as db:
            rows = db.execute(query, (self._version,)).fetchall()
        return [Person(name, count, datetime.fromtimestamp(time, UTC), note) for name, count, time, note in rows]

    def export(self) -> Iterator[Enrolments]:
        """See `Gallery`."""
        with self._store.writing() as db:
            self._store.note(db, "export", detail="all templates")
        last, version = 0, None
        while True:
            with self._view() as db:
                if version not in (None, self._version):
                    raise InputError("the same model during the export", "a switch to another", "export again")
                version = self._version
                rows = db.execute(f"{EXPORT} AND t.id > ? ORDER BY t.id LIMIT {EXPORTED}", (version, last)).fetchall()
                vectors = self._rows.opened(rows, self._version)
            if not rows:
                return
            last = rows[-1][0]
            names, qualities, times, consents = zip(*(row[4:] for row in rows), strict=True)
            yield Enrolments(names, vectors, np.array(qualities, np.float64), np.array(times), consents)

    def compact(self) -> None:
        """See `Gallery`."""
        self._store.vacuum()

    def backup(self, path: str | Path) -> None:
        """See `Gallery`."""
        self._store.backup(path)

    def audit(self) -> Iterator[Event]:
        """See `Gallery`."""
        return self._store.audit()

    def migrate(self, model: str) -> EmbeddedMigration:
        """See `Gallery`."""
        with self._store.writing() as db:
            found = db.execute("SELECT id, model FROM versions WHERE state = 'next'").fetchone()
            if found:
                checked_model(model, found[1])
            else:
                if model == self._bound:
                    raise ModelError("another model than the gallery's", model, "pass the hash of the new model")
                row = db.execute("INSERT INTO versions (model, state) VALUES (?, 'next')", (model,)).lastrowid
                found = row, model
                self._store.note(db, "migrate", detail=f"to {model}, version {row}")
        return EmbeddedMigration(self._rows, found[0], model, self._decider.follow)

    def close(self) -> None:
        """See `Gallery`."""
        if self._index:
            self._index.close()
            self._index = None
        self._store.close()


@GALLERIES.register
def file(
    place: str,
    *,
    model: str | None,
    operating_point: OperatingPoint | None,
    key: bytes | str | None,
    create: bool,
) -> EmbeddedGallery:
    """A single SQLite file, searched in memory: `file:people.db`."""
    return EmbeddedGallery(place, model=model, operating_point=operating_point, key=key, create=create)
