"""A gallery in a database that searches by itself: what Milvus, PostgreSQL and Qdrant have in common.

The database selects the nearest templates; their cosines are computed here, as `verify` computes them, so no decision
at a threshold depends on how a database rounds. Templates are not encrypted there, and the database decides when
deleted data leave its files (docs/databases.md).
"""

from __future__ import annotations

import hashlib
import os
import re
import time as clock
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import cosine
from ..errors import ConfigError, DataError, InputError, ModelError, NormfaceError
from ..types import Floats, Match, OperatingPoint
from .audit import Note, search_note
from .base import (
    Decider,
    Doubt,
    Enrolments,
    Erased,
    Event,
    Gallery,
    Migration,
    Person,
    Template,
    checked_dim,
    checked_model,
    unit_query,
    unknown,
)
from .doubts import Look, find_doubts
from .encryption import KEY_VARIABLE
from .names import PersonId, checked_name, folded

EXPORTED_AT_ONCE = 1000  # rows
ASKED = 1000  # hashes looked for at once
SHA256 = re.compile("[0-9a-f]{64}")
EXPECTED = 4  # templates of a person, at first, when the best people are asked for
State = Literal["current", "next"]
Record = dict[str, Any]  # of a template: id, person, quality, time, consent, source, vector, or some of these


@dataclass(frozen=True)
class Version:
    """All templates of one model; `name` is the database's name for them."""

    name: str
    model: str | None
    dim: int


class Database(Protocol):
    """Templates of a gallery in a database, and the audit log. Thread-safe. Raises DataError if the database fails.

    Attributes:
        kind: its name, such as `Qdrant`.
        place: where it is, without passwords.
        backup: what to do instead of `Gallery.backup`.
    """

    kind: str
    place: str
    backup: str

    def writing(self) -> AbstractContextManager[object]:
        """One writer at a time in this process; where the database has transactions, also all or nothing."""
        ...

    def version(self, state: State) -> Version | None:
        """What searches see, or what a migration fills; None if there is none."""
        ...

    def make(self, state: State, model: str | None, dim: int) -> Version:
        """Make an empty version."""
        ...

    def replace(self, old: Version, coming: Version) -> None:
        """Let searches see the next version, and delete the current one."""
        ...

    def drop(self, version: Version) -> None:
        """Delete a version with its templates."""
        ...

    def insert(self, version: Version, rows: list[Record]) -> list[int]:
        """Write templates (all columns but `id`). Returns their numbers."""
        ...

    def rows(
        self, version: Version, columns: Iterable[str], *, person: str | None = None, sources: list[str] | None = None
    ) -> Iterator[Record]:
        """Templates in no order, with the columns and `id`: of one person by name, or of photographs by SHA-256."""
        ...

    def nearest(self, version: Version, query: Floats, count: int, exact: bool | None) -> list[Record]:
        """The `count` templates, or more, that are nearest to a query [D], nearest first: `person` and `vector`.

        A database that groups by person may give one template for each person.
        """
        ...

    def count(self, version: Version, person: str | None = None) -> int:
        """Number of templates, of one person if a name is given."""
        ...

    def erase(self, version: Version, person: str) -> None:
        """Delete a person's templates."""
        ...

    def note(self, *notes: Note) -> None:
        """Append to the audit log."""
        ...

    def events(self) -> Iterator[Event]:
        """The audit log, in order."""
        ...

    def compact(self) -> None:
        """Release the space of deleted templates."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class DatabaseGallery(Gallery):
    """See `gallery.Gallery`. A version is made at the first enrolment, because databases need the dimension.

    Names are kept with each template, and a person's id is made of the name; so there are no tags, no renaming,
    merging and splitting, and no thumbnails.
    """

    def __init__(self, database: Database, *, model: str | None, operating_point: OperatingPoint | None) -> None:
        self._database = database
        try:
            self._decider = Decider(model, operating_point)
            self._current()
        except BaseException:
            self.close()
            raise

    def _current(self) -> Version | None:
        """What searches see. Raises ModelError for another model than was asked for."""
        found = self._database.version("current")
        if found:
            checked_model(self._decider.model, found.model)
        return found

    # What a gallery does.

    @property
    def model(self) -> str | None:
        """See `Gallery`."""
        current = self._current()
        return current.model if current else self._decider.model

    @property
    def dim(self) -> int | None:
        """See `Gallery`."""
        current = self._current()
        return current.dim if current else None

    def __len__(self) -> int:
        current = self._current()
        return self._database.count(current) if current else 0

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Gallery`. All or none after a crash in PostgreSQL alone (docs/databases.md)."""
        dim = enrolments.vectors.shape[1]
        with self._database.writing():
            current = self._current()
            checked_dim(dim, current.dim if current else None)
            current = current or self._database.make("current", self._decider.model, dim)
            return _insert(self._database, current, enrolments)

    def sources(self, hashes: Collection[str]) -> dict[str, set[str]]:
        """See `Gallery`."""
        found: dict[str, set[str]] = {}
        if current := self._current():
            asked = sorted({each for each in hashes if SHA256.fullmatch(each)})
            for start in range(0, len(asked), ASKED):
                part = asked[start : start + ASKED]
                for row in self._database.rows(current, ["source", "person"], sources=part):
                    found.setdefault(row["source"], set()).add(row["person"])
        return found

    def doubts(self, enrolments: Enrolments) -> list[Doubt]:
        """See `Gallery`. Near names are not looked for, which would read everybody's rows."""
        some, current = enrolments, self._current()
        checked_dim(some.vectors.shape[1], current.dim if current else None)
        enrolled = self.sources([source for source in some.source or [] if source])
        looks = [self._look(current, some, row, enrolled) for row in range(len(some))]
        recognizes = partial(self._decider.recognizes, templates=self._database.count(current) if current else 0)
        return find_doubts(some, looks, recognizes, self._decider.accepts)

    def _look(self, version: Version | None, some: Enrolments, row: int, enrolled: dict[str, set[str]]) -> Look:
        name, query = some.people[row], unit_query(some.vectors[row], None)
        best = self._scored(version, query, 2, None)
        other = next(((each, score) for score, each in best if folded(each) != folded(name)), None)
        source = some.source[row] if some.source else None
        return Look(self._own(version, query, name), other, frozenset(enrolled.get(source or "", ())))

    def search(
        self,
        vector: ArrayLike,
        k: int = 10,
        *,
        exact: bool | None = None,
        tag: str | None = None,
        threshold: float | None = None,
    ) -> list[Match]:
        """See `Gallery`. How exact it is depends on the indexes of the database: those made here are exact."""
        if k < 1:
            raise InputError("k ≥ 1", str(k), "increase k")
        if tag is not None:
            raise self._not_offered("tags")
        current = self._current()
        query = unit_query(vector, current.dim if current else None)
        templates = self._database.count(current) if current else 0
        matches = self._decider.ranked(self._scored(current, query, k, exact), templates)
        if threshold is not None:
            matches = [match for match in matches if match.score >= threshold]
        self._database.note(search_note(matches))
        return matches

    def _scored(
        self, version: Version | None, query: NDArray[np.float64], k: int, exact: bool | None
    ) -> list[tuple[float, str]]:
        """Cosines and names of the best people, best first."""
        found = self._best(version, query.astype(np.float32), k, exact) if version else []
        vectors = np.array([row["vector"] for row in found], np.float32).reshape(len(found), len(query))
        scores = cosine.paired(cosine.exact(vectors), cosine.exact(query)).tolist()
        return sorted(zip(scores, [row["person"] for row in found], strict=True), key=lambda pair: -pair[0])

    def _own(self, version: Version | None, query: NDArray[np.float64], name: str) -> float | None:
        """The best cosine with a person's templates; None if there are none."""
        rows = list(self._database.rows(version, ["vector"], person=name)) if version else []
        if not rows:
            return None
        return float(cosine.paired(cosine.exact([row["vector"] for row in rows]), cosine.exact(query)).max())

    def _best(self, version: Version, query: Floats, k: int, exact: bool | None) -> list[Record]:
        """The nearest template of each of the k best people. Templates are asked for until they are of so many."""
        count = EXPECTED * k
        while True:
            found = self._database.nearest(version, query, count, exact)
            best: dict[str, Record] = {}
            for row in found:
                best.setdefault(folded(row["person"]), row)
            if len(best) >= k or len(found) < count:
                return list(best.values())[:k]
            count *= 4

    def verify(self, person: str, vector: ArrayLike) -> Match:
        """See `Gallery`."""
        name, current = self._name(person), self._current()
        score = self._own(current, unit_query(vector, current.dim if current else None), name)
        if score is None:
            raise unknown(name)
        self._database.note(Note("verify", name, detail=f"cosine {score:.4f}"))
        return self._decider.decided(score, name)

    def forget(self, person: str) -> Erased:
        """See `Gallery`. A version to come loses them too."""
        name = self._name(person)
        with self._database.writing():
            current = self._current()
            count = self._database.count(current, name) if current else 0
            if not count:
                raise unknown(name)
            for version in filter(None, (current, self._database.version("next"))):
                self._database.erase(version, name)
            self._database.note(Note("forget", name, detail=f"{count} templates"))
        return Erased(count)

    def people(
        self, *, prefix: str = "", after: PersonId | None = None, limit: int | None = None, tag: str | None = None
    ) -> list[Person]:
        """See `Gallery`. Reads everybody's rows, whatever is asked for."""
        if tag is not None:
            raise self._not_offered("tags")
        current = self._current()
        listed = _people(self._database, current) if current else []
        listed = [person for person in listed if folded(person.name).startswith(folded(prefix))]
        if after is not None:
            ids = [person.id for person in listed]
            if after not in ids:
                raise unknown(after)
            listed = listed[ids.index(after) + 1 :]
        return listed[:limit]

    def person(self, person: str) -> Person:
        """See `Gallery`. Reads everybody's rows to find an id."""
        if isinstance(person, PersonId):
            return super().person(person)
        name, current = checked_name(person), self._current()
        found = _people(self._database, current, name) if current else []
        if not found:
            raise unknown(name)
        return found[0]

    def _name(self, person: str) -> str:
        """A checked name; of an id, whose it is."""
        return self.person(person).name if isinstance(person, PersonId) else checked_name(person)

    def templates(self, person: str) -> list[Template]:
        """See `Gallery`."""
        name, current = self._name(person), self._current()
        columns = ["time", "quality", "source"]
        rows = list(self._database.rows(current, columns, person=name)) if current else []
        if not rows:
            raise unknown(name)
        rows.sort(key=lambda row: (row["time"], row["id"]))
        return [
            Template(row["id"], datetime.fromtimestamp(row["time"], UTC), row["quality"], row.get("source"))
            for row in rows
        ]

    def export(self) -> Iterator[Enrolments]:
        """See `Gallery`."""
        self._database.note(Note("export", detail="all templates"))
        current, part = self._current(), []
        for row in self._database.rows(current, FIELDS) if current else ():
            part.append(row)
            if len(part) == EXPORTED_AT_ONCE:
                yield _enrolments(part)
                part = []
        if part:
            yield _enrolments(part)

    def compact(self) -> None:
        """See `Gallery`."""
        self._database.compact()

    def backup(self, path: str | Path) -> None:
        """Raise DataError: databases have tools for this."""
        raise DataError(
            "a gallery with a backup function", f"{self._database.kind} at {self._database.place}",
            f"{self._database.backup}, or export into an embedded gallery",
        )  # fmt: skip

    def audit(self) -> Iterator[Event]:
        """See `Gallery`. This log is not chained: whoever can write to the database can change it."""
        return self._database.events()

    def migrate(self, model: str) -> DatabaseMigration:
        """See `Gallery`."""
        coming = self._database.version("next")
        if coming:
            checked_model(model, coming.model)
        elif model == self.model:
            raise ModelError("another model than the gallery's", model, "pass the hash of the new model")
        return DatabaseMigration(self._database, model, self._decider)

    def close(self) -> None:
        """See `Gallery`."""
        with suppress(Exception):
            self._database.close()

    def _not_offered(self, what: str) -> ConfigError:
        return ConfigError(f"a gallery that offers {what}", f"one in {self._database.kind}", "use file:PATH")


class DatabaseMigration(Migration):
    """See `gallery.Migration`. `decider` is told the new model after a switch."""

    def __init__(self, database: Database, model: str, decider: Decider) -> None:
        self._database, self.model, self._decider = database, model, decider

    def _people(self, state: State) -> list[Person]:
        version = self._database.version(state)
        return _people(self._database, version) if version else []

    def missing(self) -> list[str]:
        """See `Migration`."""
        have = {folded(person.name) for person in self._people("next")}
        return [person.name for person in self._people("current") if folded(person.name) not in have]

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Migration`."""
        some, dim = enrolments, enrolments.vectors.shape[1]
        with self._database.writing():
            notes = {folded(person.name): person.consent for person in self._people("current")}
            for name in some.people:
                if folded(name) not in notes:
                    raise unknown(name)
            coming = self._database.version("next")
            checked_dim(dim, coming.dim if coming else None)
            coming = coming or self._database.make("next", self.model, dim)
            consent = [notes[folded(name)] for name in some.people]
            return _insert(self._database, coming, replace(some, consent=consent))

    def switch(self) -> int:
        """See `Migration`."""
        with self._database.writing():
            if missing := self.missing():
                raise InputError(
                    "templates of the new model for all people", f"{len(missing)} people without (first: {missing[0]})",
                    "enrol them in the migration, or forget them",
                )  # fmt: skip
            old, coming = self._database.version("current"), self._database.version("next")
            if not coming or not old:
                raise InputError("a migration in progress", "one that has ended", "call gallery.migrate again")
            count = self._database.count(old)
            self._database.replace(old, coming)
            self._database.note(Note("switch", detail=f"to {self.model}, {count} old templates erased"))
        self._decider.follow(self.model)
        return count

    def abandon(self) -> int:
        """See `Migration`."""
        with self._database.writing():
            coming = self._database.version("next")
            if not coming:
                return 0
            count = self._database.count(coming)
            self._database.drop(coming)
            self._database.note(Note("migrate", detail=f"to {self.model} abandoned, {count} templates erased"))
        return count


FIELDS = ("person", "quality", "time", "consent", "source", "vector")


def _insert(database: Database, version: Version, some: Enrolments) -> list[int]:
    """Write templates and note them; returns their numbers."""
    count = len(some)
    times = np.full(count, clock.time()) if some.time is None else some.time
    quality = np.full(count, np.nan) if some.quality is None else some.quality
    qualities = [None if q != q else q for q in quality.tolist()]
    blank = [None] * count
    columns = (some.people, qualities, times.tolist(), some.consent or blank, some.source or blank, some.vectors)
    numbers = database.insert(version, [dict(zip(FIELDS, row, strict=True)) for row in zip(*columns, strict=True)])
    counts = Counter(some.people).items()
    told = f"version {version.name.rpartition('_')[2]}"
    database.note(*(Note("enrol", name, detail=f"{n} templates, {told}") for name, n in counts))
    return numbers


def _enrolments(rows: list[Record]) -> Enrolments:
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in FIELDS}
    quality, time = (np.array(columns[name], np.float64) for name in ("quality", "time"))
    vectors = np.array(columns["vector"], np.float32)
    return Enrolments(columns["person"], vectors, quality, time, columns["consent"], columns["source"])


def _people(database: Database, version: Version, name: str | None = None) -> list[Person]:
    """The people of a version, or the one of that name, by name: spelled as at the first enrolment."""
    found: dict[str, tuple[str, int, float, str | None]] = {}
    for row in database.rows(version, ["person", "time", "consent"], person=name):
        key = folded(row["person"])
        spelled, count, first, note = found.get(key, (row["person"], 0, row["time"], None))
        spelled = row["person"] if row["time"] < first else spelled
        found[key] = spelled, count + 1, min(first, row["time"]), row["consent"] or note
    return [
        Person(spelled, count, datetime.fromtimestamp(first, UTC), note, PersonId(subject(spelled)[:16]))
        for _, (spelled, count, first, note) in sorted(found.items())
    ]


def subject(name: str) -> str:
    """What a person is filtered by: hexadecimal digits, so that no name can be read as an expression."""
    return hashlib.sha256(folded(name).encode()).hexdigest()


@contextmanager
def in_words(name: str, place: str, advice: str, line: Callable[[Exception], str] = str) -> Iterator[None]:
    """Raise a database's own errors, of which there are many kinds, as DataError; `line` says what one of them says."""
    try:
        yield
    except NormfaceError:
        raise
    except Exception as error:
        raise DataError(f"{name} to answer at {place}", f"'{line(error)}'", advice) from error


def alias_of(state: State) -> str:
    """Name under which a database knows the version that is in this state."""
    return f"normface_{state}"


def no_key(key: bytes | str | None, kind: str) -> None:
    """Raise ConfigError for a key: databases cannot search what is encrypted here."""
    if key is not None or os.environ.get(KEY_VARIABLE):
        raise ConfigError(
            f"no key, because {kind} cannot search encrypted templates", "a key",
            f"encrypt the disks of {kind} and unset {KEY_VARIABLE}, or use file:PATH",
        )  # fmt: skip


def lock_holder(lock: Path) -> str | None:
    """The process that holds a lock file, as Linux tells it; None if it is not known."""
    with suppress(OSError, ValueError):
        inode = lock.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 1234 fe:01:567 0 EOF
            if "->" not in words and int(words[5].rpartition(":")[2]) == inode and int(words[4]) > 0:
                command = Path(f"/proc/{words[4]}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return f"process {words[4]} ({command.strip()[:80]})"
    return None
