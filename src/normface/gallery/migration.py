"""An embedded gallery on its way to another model: both versions lie in the file, searches see the current one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import InputError
from .base import Enrolments, Migration
from .store import erase

if TYPE_CHECKING:
    from .embedded import EmbeddedGallery


class EmbeddedMigration(Migration):
    """See `gallery.Migration`."""

    def __init__(self, gallery: EmbeddedGallery, version: int, model: str) -> None:
        self._gallery, self._version, self.model = gallery, version, model

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._gallery._store.writing() as db:
            if not db.execute("SELECT 1 FROM versions WHERE id = ? AND state = 'next'", (self._version,)).fetchone():
                raise InputError("a migration under way", "one that was switched or abandoned", "begin another")
            yield db

    def missing(self) -> list[str]:
        """See `Migration`."""
        with self._gallery._store.reading() as db:
            return self._missing(db)

    def _missing(self, db: sqlite3.Connection) -> list[str]:
        query = "SELECT name FROM people WHERE id NOT IN (SELECT person FROM templates WHERE version = ?) ORDER BY name"
        return [name for (name,) in db.execute(query, (self._version,))]

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Migration`."""
        with self._writing() as db:
            (dim,) = db.execute("SELECT dim FROM versions WHERE id = ?", (self._version,)).fetchone()
            return self._gallery._insert(db, enrolments, self._version, dim, new=False)

    def switch(self) -> int:
        """See `Migration`."""
        with self._writing() as db:
            if missing := self._missing(db):
                raise InputError(
                    "templates of the new model for everybody", f"{len(missing)} people without (first: {missing[0]})",
                    "enrol them in the migration, or forget them",
                )  # fmt: skip
            count = erase(db, "version IN (SELECT id FROM versions WHERE state = 'current')", ())
            db.execute("DELETE FROM versions WHERE state = 'current'")
            db.execute("UPDATE versions SET state = 'current' WHERE id = ?", (self._version,))
            self._gallery._store.note(db, "switch", detail=f"to {self.model}, {count} old templates erased")
        self._gallery._follow(self.model)
        self._gallery._store.wipe()
        return count

    def abandon(self) -> int:
        """See `Migration`."""
        with self._writing() as db:
            count = erase(db, "version = ?", (self._version,))
            db.execute("DELETE FROM versions WHERE id = ?", (self._version,))
            self._gallery._store.note(db, "migrate", detail=f"to {self.model} abandoned, {count} templates erased")
        self._gallery._store.wipe()
        return count
