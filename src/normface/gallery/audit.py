"""The audit log of an embedded gallery: a chain of lines, each naming who did what, that shows what was altered.

Each line's SHA-256 covers the line before. With a master key, each line and the end of the log also carry an HMAC, so
whoever can write the file but lacks the key can neither write a new chain nor shorten it unseen. Somebody who works
without the key (list, forget, log, backup) adds lines without HMAC; the next line with one covers them.

An older copy of the whole file is intact in itself. Only a counter kept elsewhere tells: NORMFACE_GALLERY_COUNTERS
names a folder in which each gallery keeps the number and hash of its last durable line.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from ..errors import DataError
from ..types import Match
from .base import Event

COUNTERS_VARIABLE = "NORMFACE_GALLERY_COUNTERS"
LOG_SCHEMA = """
CREATE TABLE audit (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, action TEXT NOT NULL, person TEXT, subject INTEGER,
    detail TEXT NOT NULL, hash BLOB NOT NULL, actor TEXT, seal BLOB);
CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_holds BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""
_logger = logging.getLogger("normface")
_actor: ContextVar[str | None] = ContextVar("actor", default=None)
Mac = Callable[[bytes], bytes]
View = Callable[[], AbstractContextManager[sqlite3.Connection]]


@contextmanager
def acting(actor: str) -> Iterator[None]:
    """Name who acts, such as `key 1a2b3c4d`, in the audit lines of the calls within. Default: the system's user."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


@dataclass(frozen=True)
class Note:
    """A line to be written. `subject`: the person's number in the file."""

    action: str
    person: str | None = None
    subject: int | None = None
    detail: str = ""
    time: float | None = None
    actor: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", time.time() if self.time is None else self.time)
        object.__setattr__(self, "actor", self.actor or _actor.get() or _user())


def search_note(matches: Sequence[Match]) -> Note:
    """The line of a search. Whoever was rejected was not seen, so the search is no event of theirs."""
    if not matches:
        return Note("search", detail="empty")
    best, told = matches[0], f"best of {len(matches)}: cosine {matches[0].score:.4f}"
    if best.decision is False:
        return Note("search", detail=f"{told}, rejected")
    return Note("search", best.person, detail=told)


class Log:
    """The log's table within transactions of the store. `mac`: HMAC by the master key; None without the key."""

    def __init__(self, mac: Mac | None = None) -> None:
        self.mac = mac

    def append(self, db: sqlite3.Connection, *notes: Note) -> None:
        """Write lines, and the end of the log."""
        number, before = db.execute(
            "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1"
        ).fetchone() or _pruned(db)
        for note in notes:
            number += 1
            line = (number, note.time, note.action, note.person, note.subject, note.detail)
            before = _hash(before, line, note.actor)
            seal = self.mac(b"line" + before) if self.mac else None
            db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*line, before, note.actor, seal))
        head = number.to_bytes(8, "big") + before
        db.execute(
            "INSERT OR REPLACE INTO meta VALUES ('head', ?)", (head + (self.mac(b"head" + head) if self.mac else b""),)
        )

    def prune(self, db: sqlite3.Connection, before: float) -> int:
        """Delete the lines at the beginning that are older than a time (seconds since 1970), and note it."""
        (kept,) = db.execute("SELECT min(number) FROM audit WHERE time >= ?", (before,)).fetchone()
        (last,) = db.execute("SELECT max(number) FROM audit").fetchone()
        end = (last if kept is None else kept - 1) or 0
        found = db.execute("SELECT hash FROM audit WHERE number = ?", (end,)).fetchone()
        if not found:
            return 0
        day = datetime.fromtimestamp(before, UTC).isoformat()
        self.append(db, Note("prune", detail=f"lines to {end}, older than {day}"))
        db.execute("DROP TRIGGER audit_stays")
        count = db.execute("DELETE FROM audit WHERE number <= ?", (end,)).rowcount
        db.execute(next(line for line in LOG_SCHEMA.strip().split(";\n") if "audit_stays" in line).removesuffix(";"))
        db.execute("INSERT OR REPLACE INTO meta VALUES ('pruned', ?)", (end.to_bytes(8, "big") + found[0],))
        return count

    def read(self, view: View, damaged: Callable[[str], DataError]) -> Iterator[Event]:
        """Lines in order, each checked against the one before, and the last against the end of the log."""
        number, hash, seal, began, told = 0, b"", None, 0, True
        while True:
            with view() as db:
                if (pruned := _pruned(db))[0] > number:  # at first, or by another process since
                    (number, hash), told = pruned, False
                    began = number
                rows = db.execute(
                    "SELECT * FROM audit WHERE number > ? ORDER BY number LIMIT 1000", (number,)
                ).fetchall()
                head = _meta(db, "head")
            for *line, found, actor, seal in rows:
                if line[0] != number + 1 or _hash(hash, tuple(line), actor) != found:
                    raise damaged(f"the audit log was changed at line {number + 1}")
                if self.mac and seal is not None and not hmac.compare_digest(seal, self.mac(b"line" + found)):
                    raise damaged(f"line {line[0]} of the audit log was not written with this gallery's key")
                number, hash = line[0], found
                told = told or (line[2] == "prune" and line[5].startswith(f"lines to {began},"))
                when = datetime.fromtimestamp(line[1], UTC)
                yield Event(number, when, line[2], line[3], line[5], actor, seal is not None)
            if not rows:
                break
        end = number.to_bytes(8, "big") + hash
        signed = self.mac is None or seal is None or head[len(end) :] == self.mac(b"head" + end)
        if head[: len(end)] != end or not signed:
            raise damaged(f"the audit log was cut after line {number}")
        if not told:
            raise damaged(f"lines 1 to {began} of the audit log were removed without a note")


class Counter:
    """The number and hash of the last durable line, kept in a folder apart; nothing where no folder is named."""

    def __init__(self, gallery: str) -> None:
        folder = os.environ.get(COUNTERS_VARIABLE)
        self.path = Path(folder).expanduser() / gallery if folder else None

    def keep(self, db: sqlite3.Connection) -> None:
        """Write the end of the log, after it was committed."""
        if self.path is None:
            return
        head = _meta(db, "head")
        text = f"{int.from_bytes(head[:8], 'big')} {head[8:40].hex()}\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.write(file, f"{text:<100}".encode())  # at the start: the file was just opened
            finally:
                os.close(file)
        except OSError as error:  # what it counts was done, so no error of the call
            _logger.warning("cannot write the counter %s: %s; correct %s", self.path, error, COUNTERS_VARIABLE)

    def check(self, db: sqlite3.Connection, place: Path) -> None:
        """Raise DataError where the file's log ends before the counter, or has another line there."""
        if self.path is None or not self.path.exists():
            return
        number, _, hash = self.path.read_text().strip().partition(" ")
        found = db.execute("SELECT hash FROM audit WHERE number = ?", (int(number or 0),)).fetchone()
        if number and int(number) > _pruned(db)[0] and (found is None or found[0].hex() != hash):
            (last,) = db.execute("SELECT max(number) FROM audit").fetchone()
            raise DataError(
                f"line {number} of the audit log of {place}, as its counter says", f"an older copy, of {last} lines",
                f"put the newest copy back with its -wal file; to accept this one, delete {self.path}",
            )  # fmt: skip


def _meta(db: sqlite3.Connection, name: str) -> bytes:
    found = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return bytes(found[0]) if found and found[0] is not None else b""


def _pruned(db: sqlite3.Connection) -> tuple[int, bytes]:
    """Number and hash of the last line that was pruned."""
    value = _meta(db, "pruned")
    return int.from_bytes(value[:8], "big"), value[8:]


def pruned_to(db: sqlite3.Connection) -> int:
    """Number of the last line that was pruned; 0 for none."""
    return _pruned(db)[0]


def _hash(before: bytes, line: tuple[object, ...], actor: str | None) -> bytes:
    told = line if actor is None else (*line, actor)  # lines of format 1 name nobody
    return hashlib.sha256(before + json.dumps(told, ensure_ascii=False).encode()).digest()


@cache
def _user() -> str:
    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in containers
        if sys.platform == "win32":
            return "user unknown"
        return f"user {os.getuid()}"
