"""An embedded gallery on its way to another model: both versions lie in the file, searches see the current one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import InputError
from .audit import Note
from .base import Enrolments, Migration
from .rows import Rows


class EmbeddedMigration(Migration):
    """See `gallery.Migration`. `switched` is told the new model after a switch."""

    def __init__(self, rows: Rows, version: int, model: str, switched: Callable[[str], object]) -> None:
        self._rows, self._store = rows, rows.store
        self._version, self.model, self._switched = version, model, switched

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._store.writing() as db:
            if not db.execute("SELECT 1 FROM versions WHERE id = ? AND state = 'next'", (self._version,)).fetchone():
                raise InputError("a migration in progress", "one that has ended", "call gallery.migrate again")
            yield db

    def missing(self) -> list[str]:
        """See `Migration`."""
        with self._store.reading() as db:
            return self._rows.missing(db, self._version)

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Migration`."""
        with self._writing() as db:
            return self._rows.insert(db, enrolments, self._version, new=False)

    def switch(self) -> int:
        """See `Migration`."""
        with self._writing() as db:
            if missing := self._rows.missing(db, self._version):
                raise InputError(
                    "templates of the new model for all people", f"{len(missing)} people without (first: {missing[0]})",
                    "enrol them in the migration, or forget them",
                )  # fmt: skip
            count = self._rows.erase(db, "version IN (SELECT id FROM versions WHERE state = 'current')", ())
            db.execute("DELETE FROM versions WHERE state = 'current'")
            db.execute("UPDATE versions SET state = 'current' WHERE id = ?", (self._version,))
            self._store.note(db, Note("switch", detail=f"to {self.model}, {count} old templates erased"))
        self._switched(self.model)
        self._store.wipe()
        return count

    def abandon(self) -> int:
        """See `Migration`."""
        with self._writing() as db:
            count = self._rows.erase(db, "version = ?", (self._version,))
            db.execute("DELETE FROM versions WHERE id = ?", (self._version,))
            self._store.note(db, Note("migrate", detail=f"to {self.model} abandoned, {count} templates erased"))
        self._store.wipe()
        return count
