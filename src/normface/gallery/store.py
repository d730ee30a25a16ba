"""The SQLite file of an embedded gallery: connections, transactions, the audit log, and errors in plain words.

`secure_delete` zeroes what is deleted where it lay, and emptying the write-ahead log (`wipe`) removes the older pages;
the tests look for the bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ..atomic import replacing
from ..errors import DataError, InputError
from .base import Event

APPLICATION = 0x4E464743  # "NFGC", in the header of the file
FORMAT = 1
WAIT = 10.0  # seconds for another process to finish writing or reading
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE versions (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT, dim INTEGER, state TEXT NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0);
CREATE TABLE people (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, enrolled REAL NOT NULL, consent TEXT);
CREATE TABLE keys (person INTEGER PRIMARY KEY, wrapped BLOB NOT NULL);
CREATE TABLE templates (
    id INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER NOT NULL, version INTEGER NOT NULL,
    quality REAL, time REAL NOT NULL, vector BLOB NOT NULL);
CREATE INDEX templates_of ON templates (person);
CREATE TABLE audit (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, action TEXT NOT NULL, person TEXT, subject INTEGER,
    detail TEXT NOT NULL, hash BLOB NOT NULL);
CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_holds BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""
Note = tuple[float, str, str | None, int | None, str]  # time, action, person, her number, detail


class Store:
    """Three connections to one file: `reading`, `writing` (durable when it returns), and notes of searches.

    A search's note is written at once where nobody else is writing, else with the next write or at closing; it is
    not waited for until it is on the disk, so a power failure (not a killed process) can lose the last ones.
    """

    def __init__(self, path: str | Path, create: bool = True) -> None:
        self.path = Path(path)
        if not self.path.exists():
            if not create:
                raise InputError(
                    f"a gallery at {self.path}", "nothing there", "correct the path, or enrol people first"
                )
            self._make_file()
        self._reader, self._writer, self._log = (threading.RLock() for _ in range(3))
        self._pending: deque[Note] = deque()
        self._connections: list[sqlite3.Connection] = []
        try:
            with self._in_words():
                self._read, self._write, self._notes = (self._connect() for _ in range(3))
                self._notes.execute("PRAGMA synchronous = NORMAL")
                self._notes.execute("PRAGMA busy_timeout = 0")
                self._check_format()
                self._check_pages()
                with suppress(sqlite3.OperationalError):  # erases what a killed process had forgotten but not wiped yet
                    self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            self.close()
            raise

    def _make_file(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise DataError(f"to write {self.path}", f"'{error.strerror}'", "choose a writable folder") from error

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        self._connections.append(db)
        if not self.path.stat().st_size:
            db.execute("PRAGMA page_size = 16384")
        db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;"
            "PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF; PRAGMA trusted_schema = OFF;"
        )
        return db

    def _check_format(self) -> None:
        with self.writing() as db:
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in SCHEMA.strip().split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {FORMAT}")
                self.note(db, "create", detail=f"format {FORMAT}")
            found = tuple(db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if found != (APPLICATION, FORMAT):
            raise DataError(
                f"a gallery of format {FORMAT} at {self.path}",
                f"an SQLite file of another application or format {found}", "give another file",
            )  # fmt: skip

    def _check_pages(self) -> None:
        """SQLite's own check of every table but the templates: whoever reads those checks each row, which is more."""
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'templates'"
        for (table,) in self._read.execute(tables).fetchall():
            if self._read.execute(f"PRAGMA quick_check('{table}')").fetchone() != ("ok",):
                raise self.damaged("pages that do not fit together")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the file; within another, the same."""
        with self._reader, self._in_words():
            if self._read.in_transaction:
                yield self._read
                return
            self._read.execute("BEGIN")
            try:
                yield self._read
            finally:
                self._read.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on the disk when the block has ended."""
        with self._writer, self._in_words():
            self._write.execute("BEGIN IMMEDIATE")
            try:
                yield self._write
                self._commit(self._write)
            except BaseException:
                if self._write.in_transaction:
                    self._write.execute("ROLLBACK")
                raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            primary = code & 0xFF if code is not None else None
            if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise DataError(
                    f"{self.path} free for writing", f"another process writing for over {WAIT:.0f} s", "try again later"
                ) from error
            if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise DataError(
                    f"to write {self.path}", f"'{error}'",
                    "free disk space or choose a writable folder; nothing of this call was saved",
                ) from error  # fmt: skip
            raise self.damaged(str(error)) from error

    def damaged(self, what: str) -> DataError:
        """The error for a file whose bytes are not what was written."""
        with suppress(AttributeError, sqlite3.Error):
            what = f"{what}: {self._read.execute('PRAGMA quick_check(1)').fetchone()[0]}"
        return DataError(
            f"an intact gallery at {self.path}", f"'{what}'", "restore the last backup (see docs/gallery.md)"
        )

    def note(
        self,
        db: sqlite3.Connection,
        action: str,
        person: str | None = None,
        subject: int | None = None,
        detail: str = "",
        when: float | None = None,
    ) -> None:
        """Append to the audit log, within a transaction; every line's hash covers the line before."""
        last = db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone() or (0, b"")
        line = (last[0] + 1, time.time() if when is None else when, action, person, subject, detail)
        db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", (*line, _hash(last[1], line)))

    def note_search(self, action: str, person: str | None, detail: str) -> None:
        """Append a search or a verification, without ever waiting for somebody who writes."""
        self._pending.append((time.time(), action, person, None, detail))
        if not self._log.acquire(blocking=False):  # somebody is writing pending notes: this one comes with the next
            return
        try:
            self._notes.execute("BEGIN IMMEDIATE")
            self._commit(self._notes)
        except sqlite3.OperationalError:  # busy: it stays among the pending
            if self._notes.in_transaction:
                self._notes.execute("ROLLBACK")
        finally:
            self._log.release()

    def _commit(self, db: sqlite3.Connection) -> None:
        """Write the pending notes and commit; only then are they pending no more."""
        with self._log:
            pending = list(self._pending)
            for when, action, person, subject, detail in pending:
                self.note(db, action, person, subject, detail, when)
            db.execute("COMMIT")
            for _ in pending:
                self._pending.popleft()

    def audit(self) -> Iterator[Event]:
        """The log, each line checked against the one before."""
        before, number = b"", 0
        while True:
            with self.reading() as db:
                rows = db.execute(
                    "SELECT * FROM audit WHERE number > ? ORDER BY number LIMIT 1000", (number,)
                ).fetchall()
            for *line, found in rows:
                if line[0] != number + 1 or _hash(before, tuple(line)) != found:
                    raise self.damaged(f"the audit log was changed at line {number + 1}")
                number, before = line[0], found
                yield Event(number, datetime.fromtimestamp(line[1], UTC), line[2], line[3], line[5])
            if not rows:
                return

    def wipe(self) -> None:
        """Bring the write-ahead log into the file and empty it, so that no older page is left anywhere."""
        with self._writer, self._in_words():
            busy, *_ = self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise DataError(
                "no reader of the old pages", f"one that held them for {WAIT:.0f} s",
                "call compact after it has ended; searches no longer return what was erased",
            )  # fmt: skip

    def vacuum(self) -> None:
        """Write the file anew without what was erased."""
        with self._writer, self._in_words():
            self._write.execute("VACUUM")
        self.wipe()

    def backup(self, path: str | Path) -> None:
        """A consistent copy whose pages fit together, whole or not at all."""
        with replacing(path) as temporary, self._in_words():
            os.close(os.open(temporary, os.O_CREAT | os.O_RDWR, 0o600))
            with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
                if copy.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    raise self.damaged("pages that do not fit together")

    def close(self) -> None:
        """Write what is pending and let go of the file."""
        try:
            if self._pending and self._connections:
                with self.writing():
                    pass
        finally:
            for connection in self._connections:
                connection.close()
            self._connections = []


def _hash(before: bytes, line: tuple[object, ...]) -> bytes:
    return hashlib.sha256(before + json.dumps(line, ensure_ascii=False).encode()).digest()
