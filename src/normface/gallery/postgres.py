"""A gallery in PostgreSQL with the extension pgvector, for any number of processes and machines.

`normface_versions` names the models, `normface_templates` holds the templates of all of them, `normface_log` is the
log. The tables lie in the first schema of the search path, so a database can hold several galleries.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..errors import DataError, InputError, NormfaceError, require
from ..types import Floats, OperatingPoint
from . import GALLERIES
from .audit import Note
from .base import Event
from .database import FIELDS, Database, DatabaseGallery, Record, State, Version, no_key, subject

TABLES = """
CREATE TABLE IF NOT EXISTS normface_versions (
    id SERIAL PRIMARY KEY, model TEXT, dim INTEGER NOT NULL, state TEXT NOT NULL UNIQUE,
    templates BIGINT NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS normface_templates (
    id BIGSERIAL PRIMARY KEY, version INTEGER NOT NULL REFERENCES normface_versions, subject TEXT NOT NULL,
    person TEXT NOT NULL, quality DOUBLE PRECISION, time DOUBLE PRECISION NOT NULL, consent TEXT,
    source TEXT, vector vector NOT NULL);
ALTER TABLE normface_templates ALTER COLUMN vector SET STORAGE MAIN;
CREATE INDEX IF NOT EXISTS normface_templates_of ON normface_templates (version, subject);
CREATE INDEX IF NOT EXISTS normface_templates_from ON normface_templates (source) WHERE source IS NOT NULL;
CREATE TABLE IF NOT EXISTS normface_log (
    id BIGSERIAL PRIMARY KEY, time DOUBLE PRECISION NOT NULL, action TEXT NOT NULL, person TEXT, detail TEXT NOT NULL,
    actor TEXT);
"""
LOG = "quote_ident(current_schema()) || '.normface_log'"
CREATION = 0x4E464743  # advisory lock: one process at a time makes tables
FETCHED = 1000  # rows at once
IDLE = 1.0  # seconds after which a connection is tried before it is used: the server may have been started anew


class Postgres(Database):
    """See `Database`. `uri` is libpq's, and so are its variables and password file.

    Each call takes a connection of its own, within `writing` that of the transaction. A forked child opens new ones.
    """

    kind = "PostgreSQL"
    backup = "use pg_dump"

    def __init__(self, uri: str, *, create: bool) -> None:
        self._psycopg: Any = require("psycopg", "postgres")
        self._uri, self._cursors = uri, itertools.count()
        self._begin()
        with self._in_words():
            told = self._psycopg.conninfo.conninfo_to_dict(uri)
        self.place = f"{told.get('host') or 'this machine'}/{told.get('dbname') or ''}"
        try:
            with self._connection() as db:
                if not db.execute(f"SELECT to_regclass({LOG})").fetchone()[0]:
                    if not create:
                        do = "correct the URL, or enrol people first"
                        raise InputError(f"a gallery at {self.place}", "a database without", do)
                    self._create(db)
        except BaseException:
            self.close()
            raise

    def _create(self, db: Any) -> None:
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(%s)", (CREATION,))
            if not db.execute("SELECT to_regtype('vector')").fetchone()[0]:
                try:
                    db.execute("CREATE EXTENSION vector SCHEMA public")
                except self._psycopg.Error as error:
                    raise DataError(
                        f"PostgreSQL with the extension pgvector at {self.place}", f"'{_line(error)}'",
                        "install pgvector, and as an administrator of the database run: CREATE EXTENSION vector",
                    ) from error  # fmt: skip
            db.execute(TABLES)

    # Connections.

    def _begin(self) -> None:
        """Without connections: at first, and in a forked child, to which those of the parent do not belong."""
        self._process, self._lock, self._local = os.getpid(), threading.Lock(), threading.local()
        self._free: list[tuple[float, Any]] = []  # with the time of their last use

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection that no other thread uses."""
        if db := getattr(self._local, "db", None):
            yield db
            return
        with self._in_words():
            db = self._take()
            try:
                yield db
            finally:
                self._give(db)

    def _take(self) -> Any:
        if self._process != os.getpid():
            self._begin()
        while True:
            with self._lock:
                used, db = self._free.pop() if self._free else (0.0, None)
            if db is None:
                return self._psycopg.connect(self._uri, autocommit=True, fallback_application_name="normface")
            with suppress(self._psycopg.Error):
                if time.monotonic() - used > IDLE:
                    db.execute("SELECT 1")
                return db
            db.close()

    def _give(self, db: Any) -> None:
        if db.info.transaction_status == self._psycopg.pq.TransactionStatus.IDLE:
            with self._lock:
                self._free.append((time.monotonic(), db))
        else:
            db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Database`. One writer at a time in all processes; readers and the log wait for nobody."""
        with self._connection() as db, db.transaction():
            db.execute("LOCK TABLE normface_versions IN SHARE ROW EXCLUSIVE MODE")
            self._local.db = db
            try:
                yield
            finally:
                del self._local.db

    def _one(self, query: str, *values: object) -> Any:
        """The first row that a query finds or changes, if there is one."""
        with self._connection() as db:
            return db.execute(query, values).fetchone()

    def _change(self, query: str, *values: object) -> int:
        """Change rows. Returns their number."""
        with self._connection() as db:
            return int(db.execute(query, values).rowcount)

    def _cursor(self, db: Any, binary: bool = False) -> Any:
        """A cursor that leaves at the server what is not fetched yet."""
        cursor = db.cursor(f"normface{next(self._cursors)}", binary=binary)
        cursor.itersize = FETCHED
        return cursor

    # Versions.

    def version(self, state: State) -> Version | None:
        """See `Database`."""
        found = self._one("SELECT id, model, dim FROM normface_versions WHERE state = %s", state)
        return Version(str(found[0]), found[1], found[2]) if found else None

    def make(self, state: State, model: str | None, dim: int) -> Version:
        """See `Database`."""
        query = "INSERT INTO normface_versions (state, model, dim) VALUES (%s, %s, %s) RETURNING id"
        return Version(str(self._one(query, state, model, dim)[0]), model, dim)

    def replace(self, old: Version, coming: Version) -> None:
        """See `Database`."""
        self.drop(old)
        self._change("UPDATE normface_versions SET state = 'current' WHERE id = %s", int(coming.name))

    def drop(self, version: Version) -> None:
        """See `Database`."""
        self._change("DELETE FROM normface_templates WHERE version = %s", int(version.name))
        self._change("DELETE FROM normface_versions WHERE id = %s", int(version.name))

    # Templates.

    def insert(self, version: Version, rows: list[Record]) -> list[int]:
        """See `Database`."""
        columns = "id, version, subject, person, quality, time, consent, source, vector"
        drawn = "SELECT nextval(pg_get_serial_sequence('normface_templates', 'id')) FROM generate_series(1, %s)"
        with self._connection() as db, db.transaction(), db.cursor() as cursor:
            numbers = [number for (number,) in cursor.execute(drawn, (len(rows),)).fetchall()]
            with cursor.copy(f"COPY normface_templates ({columns}) FROM STDIN") as copy:
                for number, row in zip(numbers, rows, strict=True):
                    kept = (*(row[name] for name in FIELDS[:-1]), _text(row["vector"]))
                    copy.write_row((number, int(version.name), subject(row["person"]), *kept))
            self._counted(version, len(rows))
        return numbers

    def _counted(self, version: Version, more: int) -> None:
        self._change("UPDATE normface_versions SET templates = templates + %s WHERE id = %s", more, int(version.name))

    def rows(
        self, version: Version, columns: Iterable[str], *, person: str | None = None, sources: list[str] | None = None
    ) -> Iterator[Record]:
        """See `Database`."""
        names = ["id", *columns]
        query = f"SELECT {', '.join(map(_read, names))} FROM normface_templates WHERE version = %s"
        values: tuple[object, ...] = (int(version.name),)
        if person is not None:
            query, values = f"{query} AND subject = %s", (*values, subject(person))
        if sources is not None:
            query, values = f"{query} AND source = ANY(%s)", (*values, sources)
        with self._connection() as db, db.transaction(), self._cursor(db, binary=True) as cursor:
            for row in cursor.execute(query, values):
                yield _row(names, row)

    def nearest(self, version: Version, query: Floats, count: int, exact: bool | None) -> list[Record]:
        """See `Database`. Whoever makes an index chooses whether it is exact; exact=True does without."""
        names = ("person", "vector")
        nearest = (  # as an index of this version has them, if somebody makes one (docs/databases.md)
            f"SELECT {', '.join(map(_read, names))} FROM normface_templates WHERE version = {int(version.name)} "
            f"ORDER BY vector::vector({version.dim}) <#> %s::vector LIMIT %s"
        )
        with self._connection() as db, db.transaction():
            if exact:
                db.execute("SET LOCAL enable_indexscan = off")
            found = db.execute(nearest, (_text(query), count), binary=True).fetchall()
        return [_row(names, row) for row in found]

    def count(self, version: Version, person: str | None = None) -> int:
        """See `Database`."""
        if person is None:
            found = self._one("SELECT templates FROM normface_versions WHERE id = %s", int(version.name))
            return int(found[0]) if found else 0
        query = "SELECT count(*) FROM normface_templates WHERE version = %s AND subject = %s"
        return int(self._one(query, int(version.name), subject(person))[0])

    def erase(self, version: Version, person: str) -> None:
        """See `Database`."""
        query = "DELETE FROM normface_templates WHERE version = %s AND subject = %s"
        self._counted(version, -self._change(query, int(version.name), subject(person)))

    def compact(self) -> None:
        """See `Database`."""
        self._change("VACUUM normface_templates")

    # The log.

    def note(self, *notes: Note) -> None:
        """See `Database`."""
        query = "INSERT INTO normface_log (time, action, person, detail, actor) VALUES (%s, %s, %s, %s, %s)"
        lines = [(note.time, note.action, note.person, note.detail, note.actor) for note in notes]
        with self._connection() as db, db.transaction(), db.cursor() as cursor:
            cursor.executemany(query, lines)

    def events(self) -> Iterator[Event]:
        """See `Database`."""
        query = "SELECT time, action, person, detail, actor FROM normface_log ORDER BY id"
        with self._connection() as db, db.transaction(), self._cursor(db) as cursor:
            for number, (when, *line) in enumerate(cursor.execute(query), 1):
                yield Event(number, datetime.fromtimestamp(when, UTC), *line)

    def close(self) -> None:
        """See `Database`."""
        with self._lock:
            while self._free:
                self._free.pop()[1].close()

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Raise PostgreSQL's errors as a DataError of one line."""
        try:
            yield
        except NormfaceError:
            raise
        except self._psycopg.Error as error:
            raise DataError(
                f"PostgreSQL to answer at {getattr(self, 'place', 'the URL given')}", f"'{_line(error)}'",
                "check that PostgreSQL is running, the URL and the rights of its user",
            ) from error  # fmt: skip


def _read(column: str) -> str:
    return "vector_send(vector)" if column == "vector" else column


def _row(names: Iterable[str], values: Iterable[Any]) -> Record:
    row = dict(zip(names, values, strict=True))
    if "vector" in row:  # as it is sent: two int16, and the numbers, big-endian
        row["vector"] = np.frombuffer(row["vector"], ">f4", offset=4)
    return row


def _text(vector: Floats) -> str:
    return f"[{','.join(map(str, vector.tolist()))}]"


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@GALLERIES.register
def postgres(
    place: str,
    *,
    model: str | None,
    operating_point: OperatingPoint | None,
    key: bytes | str | None,
    create: bool,
    templates: bool = True,  # it reads none when it opens
) -> DatabaseGallery:
    """PostgreSQL with pgvector: `postgres://user@host/database`, as libpq takes it."""
    no_key(key, "PostgreSQL")
    if not place.startswith("//"):
        raise InputError("postgres://USER@HOST/DATABASE", f"postgres:{place}", "correct the gallery's URL")
    return DatabaseGallery(Postgres(f"postgres:{place}", create=create), model=model, operating_point=operating_point)


@GALLERIES.register
def postgresql(
    place: str,
    *,
    model: str | None,
    operating_point: OperatingPoint | None,
    key: bytes | str | None,
    create: bool,
    templates: bool = True,
) -> DatabaseGallery:
    """PostgreSQL with pgvector: another spelling of `postgres`."""
    return postgres(place, model=model, operating_point=operating_point, key=key, create=create)
