"""The SQLite file of an embedded gallery: creation, connections, transactions, erasure, and errors in plain words.

`secure_delete` zeroes what is deleted where it lay, and emptying the write-ahead log (`wipe`) removes the older pages;
the tests look for the bytes. What was written is brought into the file within about a second, so that a copy of the
file alone lacks no more than that.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ..atomic import replacing
from ..errors import ConfigError, DataError, InputError
from . import audit
from .audit import Counter, Log, Note
from .base import Event
from .turns import in_turn
from .upgrade import upgrade

APPLICATION = 0x4E464743  # "NFGC", in the header of the file
FORMAT = 2
WAIT = 10.0  # seconds for another process to finish writing or reading
MERGE = 1.0  # seconds after which what was written is in the file, not only in the write-ahead log
RESERVE = 4 << 20  # bytes kept beside the file, given up so that a full disk does not refuse an erasure
SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE versions (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT, dim INTEGER, state TEXT NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0);
CREATE TABLE people (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, enrolled REAL NOT NULL, consent TEXT,
    public TEXT, folded TEXT, near TEXT);
CREATE UNIQUE INDEX people_public ON people (public);
CREATE UNIQUE INDEX people_folded ON people (folded);
CREATE INDEX people_near ON people (near);
CREATE TABLE tags (tag TEXT NOT NULL, person INTEGER NOT NULL, PRIMARY KEY (tag, person)) WITHOUT ROWID;
CREATE INDEX tags_of ON tags (person);
CREATE TABLE keys (person INTEGER PRIMARY KEY, wrapped BLOB NOT NULL);
CREATE TABLE templates (
    id INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER NOT NULL, version INTEGER NOT NULL,
    quality REAL, time REAL NOT NULL, vector BLOB NOT NULL, source TEXT, thumbnail BLOB);
CREATE INDEX templates_of ON templates (person, version);
CREATE INDEX templates_from ON templates (source) WHERE source IS NOT NULL;
{audit.LOG_SCHEMA.strip()}
"""
PEOPLE_INDEXES = {
    "sqlite_autoindex_people_1": "name", "people_public": "public", "people_folded": "folded", "people_near": "near",
}  # fmt: skip
T = TypeVar("T")
_logger = logging.getLogger("normface")
_stores: weakref.WeakSet[Store] = weakref.WeakSet()


class DiskFull(DataError):
    """The disk, or a limit of the file's size, leaves no room for a transaction."""


class Store:
    """Three connections to one file: `reading`, `writing` (durable when it returns), and notes of searches.

    A search's note is written at once where nobody else is writing, else with the next write or at closing; it is
    not waited for until it is on the disk, so a power failure (not a killed process) can lose the last ones.

    The connections are closed before a fork and opened again at the next use, in parent and child: SQLite's locks do
    not survive in a child.

    Args:
        path: of the file.
        create: make the file if it is missing.
        read_only: never write, not even notes of searches.
        proof: of the key of a new file.
        agree: raises for the `proof` of an existing file's key if it is another key.
        log: writes and reads the audit log.
        check: whether to look for damage when it opens.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        read_only: bool = False,
        proof: bytes | None = None,
        agree: Callable[[bytes | None], object] = lambda proof: None,
        log: Log | None = None,
        check: bool = True,
    ) -> None:
        self.path, self.read_only, self.log = Path(path).expanduser(), read_only, log or Log()
        self._agree, self._check = agree, check
        self._counter: Counter | None = None
        self._reader, self._writer, self._noting = (threading.RLock() for _ in range(3))
        self._pending: deque[Note] = deque()
        self._connections: dict[str, sqlite3.Connection] = {}
        self._closed = False
        self._merged = -math.inf  # when the write-ahead log was last brought into the file
        self._merger: threading.Thread | None = None
        self._wiper: threading.Thread | None = None
        self._inode: int | None = None
        self.created = self._create_or_find(create and not read_only, proof)
        try:
            try:
                self._open()
            except DiskFull:
                self._reserve().unlink(missing_ok=True)
                self._disconnect()
                self._open()
        except BaseException:
            self.close()
            raise
        _stores.add(self)

    def _create_or_find(self, create: bool, proof: bytes | None) -> bool:
        """Make the file if it is missing and may be made. Returns whether this call made it."""
        if not self.path.exists():
            if not create:
                do = "correct the path, or enrol people first"
                raise InputError(f"a gallery at {self.path}", "nothing there", do)
            return self._create(proof)
        if self.path.is_file() and not self.path.stat().st_size and not _beside(self.path, "-wal").exists():
            raise DataError(
                f"an intact gallery at {self.path}", "an empty file",
                "restore the last backup (see docs/gallery.md), or delete the file to begin a new gallery",
            )  # fmt: skip
        return False

    def _create(self, proof: bytes | None) -> bool:
        """Write a whole new file and link it into place: nobody sees it half made, and it needs no write-ahead log."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_RDWR, 0o600))
            with self._in_words(), closing(sqlite3.connect(temporary, isolation_level=None)) as db:
                db.executescript(
                    "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN"
                )
                for statement in _statements(SCHEMA):
                    db.execute(statement)
                header = {"id": secrets.token_hex(8).encode(), "made": str(time.time()).encode(), "proof": proof}
                db.executemany("INSERT INTO meta VALUES (?, ?)", header.items())
                db.execute("INSERT INTO versions (state) VALUES ('current')")
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {FORMAT}")
                self.log.append(db, Note("create", detail=f"format {FORMAT}"))
                db.execute("COMMIT")
            _link(temporary, self.path)
        except FileExistsError:  # another process was faster
            return False
        except OSError as error:
            raise DataError(f"to write {self.path}", f"'{error.strerror}'", "choose a writable folder") from error
        finally:
            for each in (temporary, _beside(temporary, "-wal"), _beside(temporary, "-shm")):
                with suppress(OSError):
                    each.unlink()
        return True

    def _open(self) -> None:
        with self._in_words():
            with self._reader:
                self._check_format()
                if self._check:
                    self._check_pages()
                (id,) = self._read.execute("SELECT value FROM meta WHERE name = 'id'").fetchone()
                self._counter = Counter(bytes(id).decode())
                self._counter.check(self._read, self.path)
            if self.read_only:
                return
            self._keep_reserve()
            with suppress(sqlite3.OperationalError):  # erases what a killed process had forgotten but not wiped yet
                self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # Connections.

    @property
    def _read(self) -> sqlite3.Connection:
        return self._connections.get("read") or self._connect("read")

    @property
    def _write(self) -> sqlite3.Connection:
        return self._connections.get("write") or self._connect("write")

    @property
    def _notes(self) -> sqlite3.Connection:
        return self._connections.get("notes") or self._connect("notes")

    def _connect(self, use: str) -> sqlite3.Connection:
        if self._closed:
            raise self._ended()
        if self.read_only and use != "read":
            raise ConfigError(
                f"the gallery {self.path} open for writing", "one opened read-only", "open it without read_only"
            )
        if self.read_only:
            # Without a write-ahead log nobody is writing; on a read-only disk SQLite could not open the file otherwise.
            still = not _beside(self.path, "-wal").exists() and not os.access(self.path.parent, os.W_OK)
            uri = f"{self.path.resolve().as_uri()}?mode=ro{'&immutable=1' if still else ''}"
            db = sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False)
            db.executescript("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;")
        else:
            db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            db.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;"
                "PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF; PRAGMA trusted_schema = OFF;"
            )
        if use == "notes":
            db.executescript("PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 0;")
        self._connections[use] = db
        inode = self.path.stat().st_ino
        self._inode = self._inode or inode
        return db

    def _check_place(self) -> None:
        """Raise DataError if the file was removed or replaced: what is written to it would be lost."""
        with suppress(OSError):
            if self._inode in (None, self.path.stat().st_ino):
                return
        raise DataError(
            f"the gallery {self.path} where it was opened", "that the file was removed or replaced",
            "put the file back or restore the last backup, then open the gallery again",
        )  # fmt: skip

    def _check_format(self) -> None:
        db = self._read
        found = tuple(db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if found == (0, 0) and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise DataError(
                f"an intact gallery at {self.path}", "one without tables, such as a copy without its -wal file",
                "copy the -wal file too, or restore the last backup (see docs/gallery.md)",
            )  # fmt: skip
        if found not in ((APPLICATION, 1), (APPLICATION, FORMAT)):
            raise DataError(
                f"a gallery of format {FORMAT} at {self.path}",
                f"an SQLite file of another application or format {found}", "give another file",
            )  # fmt: skip
        proof = db.execute("SELECT value FROM meta WHERE name = 'proof'").fetchone()
        if not proof:
            raise self.damaged("the header's rows are missing")
        self._agree(proof[0])
        if found[1] == 1:
            self._upgrade()
        if db.execute("SELECT count(*) FROM meta WHERE name IN ('id', 'made', 'head')").fetchone()[0] != 3:
            raise self.damaged("the header's rows are missing")

    def _upgrade(self) -> None:
        if self.read_only:
            raise DataError(
                f"a gallery of format {FORMAT} to read from", "one of format 1", "open it once without read_only"
            )
        with self.writing() as db:
            if db.execute("PRAGMA user_version").fetchone()[0] == 1:  # no other process was faster
                upgrade(db, _statements(SCHEMA), FORMAT)
                self.note(db, Note("upgrade", detail=f"format {FORMAT}"))

    def _check_pages(self) -> None:
        """SQLite's quick check of all tables but the templates, whose rows are checked as they are read.

        It does not compare indexes with their table, and its thorough check takes a minute for a million people: sums
        over each index find pages that took another one's place.
        """
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'templates'"
        with self.reading() as db:  # one view: others may write meanwhile
            for (table,) in db.execute(tables).fetchall():
                if db.execute(f"PRAGMA quick_check('{table}')").fetchone() != ("ok",):
                    raise self.damaged("pages that do not fit together")
            for index, column in PEOPLE_INDEXES.items():
                sums = f"SELECT count(*), total(id), total(length({column})) FROM people"
                table, listed = (
                    db.execute(f"{sums} {way}").fetchone() for way in ("NOT INDEXED", f"INDEXED BY {index}")
                )
                if table != listed:
                    raise self.damaged(f"the index {index} does not list the people as they are")

    # Transactions.

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the file; within another, the same."""
        with self._reader, self._in_words():
            if self._read.in_transaction:
                yield self._read
                return
            self._check_place()
            self._read.execute("BEGIN")
            try:
                yield self._read
            finally:
                self._read.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on the disk when the block has ended."""
        with self._writer, self._in_words():
            db = self._write
            self._check_place()
            with in_turn(self._reserve(), WAIT):
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    self._commit(db)
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
            self._merge()
            if self._counter:
                with suppress(sqlite3.OperationalError):  # the transaction is done
                    self._counter.keep(db)

    def _merge(self) -> None:
        """Bring the write-ahead log into the file, where the last time is a while ago; else a thread does it soon.

        Each time waits for the disk twice, which would make single enrolments several times slower.
        """
        if time.monotonic() - self._merged >= MERGE:
            with suppress(sqlite3.OperationalError):  # the next time will do it
                self._write.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._merged = time.monotonic()
        elif self._merger is None or not self._merger.is_alive():
            self._merger = threading.Thread(target=self._merge_later, name="gallery-merge", daemon=True)
            self._merger.start()

    def _merge_later(self) -> None:
        time.sleep(MERGE)
        with self._writer, suppress(sqlite3.Error, InputError):
            self._merge()

    def erasing(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do work that only erases, in a transaction; where the disk is full, in the space kept for it."""
        try:
            with self.writing() as db:
                return work(db)
        except DiskFull:
            reserve = self._reserve()
            if not reserve.exists():
                raise
            reserve.unlink()
            with self.writing() as db:
                found = work(db)
        self._keep_reserve()
        return found

    def _reserve(self) -> Path:
        return _beside(self.path, "-reserve")

    def _keep_reserve(self) -> None:
        """Take space for erasures, if there is any."""
        if self._reserve().exists() or not hasattr(os, "posix_fallocate"):
            return
        with suppress(OSError):
            file = os.open(self._reserve(), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                os.posix_fallocate(file, 0, RESERVE)
            except OSError:
                self._reserve().unlink()
            finally:
                os.close(file)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._closed:  # by another thread, meanwhile
                raise self._ended() from error
            code = getattr(error, "sqlite_errorcode", None)
            primary = code & 0xFF if code is not None else None
            if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise DataError(
                    f"{self.path} free for writing", f"another process writing for over {WAIT:.0f} s", "try again later"
                ) from error
            if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise DiskFull(
                    f"to write {self.path}", f"'{error}'",
                    "free disk space or choose a writable folder; nothing of this call was saved",
                ) from error  # fmt: skip
            raise self.damaged(str(error)) from error

    def _ended(self) -> InputError:
        return InputError(f"an open gallery {self.path}", "one that was closed", "open it again with open_gallery")

    def damaged(self, what: str) -> DataError:
        """The error for a file whose bytes are not what was written."""
        with suppress(AttributeError, sqlite3.Error, InputError):
            what = f"{what}: {self._read.execute('PRAGMA quick_check(1)').fetchone()[0]}"
        return DataError(
            f"an intact gallery at {self.path}", f"'{what}'", "restore the last backup (see docs/gallery.md)"
        )

    # The audit log.

    def note(self, db: sqlite3.Connection, note: Note) -> None:
        """Append to the audit log, within a transaction."""
        self.log.append(db, note)

    def note_search(self, note: Note) -> None:
        """Append a search or a verification, without ever waiting for somebody who writes."""
        if self.read_only:
            return
        self._pending.append(note)
        if not self._noting.acquire(blocking=False):  # somebody writes pending notes: this one comes with the next
            return
        try:
            self._notes.execute("BEGIN IMMEDIATE")
            self._commit(self._notes)
        except sqlite3.OperationalError:  # busy: it stays among the pending
            if self._notes.in_transaction:
                self._notes.execute("ROLLBACK")
        finally:
            self._noting.release()

    def _commit(self, db: sqlite3.Connection) -> None:
        """Write the pending notes and commit; only then are they pending no more."""
        with self._noting:
            pending = list(self._pending)
            if pending:
                self.log.append(db, *pending)
            db.execute("COMMIT")
            for _ in pending:
                self._pending.popleft()

    def audit(self) -> Iterator[Event]:
        """The log, each line checked against the one before."""
        with self.reading() as db:
            if self._counter:
                self._counter.check(db, self.path)
        return self.log.read(self.reading, self.damaged)

    def prune(self, before: float) -> int:
        """Delete the beginning of the audit log, and note it. Returns the number of lines."""
        with self.writing() as db:
            count = self.log.prune(db, before)
        self.wipe()
        return count

    # Erasure.

    def wipe(self) -> bool:
        """Bring the write-ahead log into the file and empty it, so that no older page is left anywhere.

        Returns False where a reader holds older pages for too long, or the disk is full: a thread tries again then.
        """
        end = time.monotonic() + WAIT
        while not self._wiped():
            if time.monotonic() >= end:
                if self._wiper is None or not self._wiper.is_alive():
                    self._wiper = threading.Thread(target=self._wipe_later, name="gallery-wipe", daemon=True)
                    self._wiper.start()
                return False
            time.sleep(0.01)  # another process is doing the same, which ends at once
        return True

    def _wiped(self) -> bool:
        with self._writer:
            try:
                busy, *_ = self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError:
                return False
            return not busy

    def _wipe_later(self) -> None:
        while not self._closed:
            time.sleep(1)
            with self._writer, suppress(sqlite3.Error, InputError):
                self._write.execute("PRAGMA busy_timeout = 0")
                try:
                    if self._wiped():
                        return
                finally:
                    self._write.execute(f"PRAGMA busy_timeout = {int(1000 * WAIT)}")

    def vacuum(self) -> bool:
        """Write the file anew without what was erased. Returns as `wipe`."""
        with self._writer, self._in_words():
            self._write.execute("VACUUM")
        return self.wipe()

    def backup(self, path: str | Path) -> None:
        """A consistent copy whose pages fit together, whole or not at all."""
        path = Path(path).expanduser()
        if any(_same(path, each) for each in self.files()):
            raise InputError("a file other than the gallery's own", str(path), "give the backup another name")
        with replacing(path) as temporary, self._in_words():
            os.close(os.open(temporary, os.O_CREAT | os.O_RDWR, 0o600))
            with self.reading() as source, closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
                if copy.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    raise self.damaged("pages that do not fit together")

    def files(self) -> list[Path]:
        """The file, and those that lie beside it."""
        return [self.path, *(_beside(self.path, tail) for tail in ("-wal", "-shm", "-reserve"))]

    def discard(self) -> None:
        """Close, and delete the file if this store made it and nobody was enrolled since."""
        unused = False
        if self.created and not self._closed:
            with suppress(DataError), self.reading() as db:
                unused = not db.execute("SELECT 1 FROM audit WHERE action != 'create'").fetchone()
                unused = unused and not self._pending
        self.close()
        if unused:
            for each in self.files():
                each.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is pending and let go of the file."""
        try:
            if self._pending and self._connections and not self._closed:
                with self.writing():
                    pass
        finally:
            self._closed = True
            self._disconnect()

    def _disconnect(self) -> None:
        while self._connections:
            self._connections.popitem()[1].close()

    def hold(self) -> None:
        """Before a fork: wait until no thread is in a call, and close the connections."""
        for lock in (self._writer, self._reader, self._noting):
            lock.acquire()
        self._disconnect()

    def resume(self) -> None:
        """After a fork, in parent and child."""
        for lock in (self._noting, self._reader, self._writer):
            lock.release()


def _before_fork() -> None:
    for store in list(_stores):
        store.hold()
        _held.append(store)


def _after_fork() -> None:
    while _held:
        _held.pop().resume()


_held: list[Store] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _statements(script: str) -> list[str]:
    return script.strip().removesuffix(";").split(";\n")


def _beside(path: Path, tail: str) -> Path:
    return path.with_name(path.name + tail)


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name. Raises FileExistsError if there is one."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        if path.exists():  # where the file system has no links, a race of two remains
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        temporary.rename(path)
