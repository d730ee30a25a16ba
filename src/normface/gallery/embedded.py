"""A gallery in one SQLite file, searched in memory: many readers, one writer at a time, any number of processes."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import cosine
from ..errors import ConfigError, InputError, ModelError, require
from ..types import Match, OperatingPoint
from . import GALLERIES
from .audit import Log, Note, pruned_to, search_note
from .base import (
    Decider,
    Doubt,
    Enrolments,
    Erased,
    Event,
    Gallery,
    Person,
    Template,
    checked_dim,
    checked_model,
    checked_tags,
    unit_query,
    unknown,
)
from .doubts import Look, find_doubts
from .encryption import KEY_VARIABLE, Locked, Plain, Seal, Sealed, master_key
from .index import Index
from .migration import EmbeddedMigration
from .names import PersonId, checked_name, folded, near
from .rows import EXPORT, ROWS, Row, Rows, template_place
from .store import Store

EXACT_UP_TO = 1_000_000  # templates; more are searched by their sketches unless exact=True
ROWS_AT_ONCE = 256  # rows read at once: they stay in a core's cache until they are checked and coded
EXPORTED = 4096  # rows


CHANGED = "('forget', 'remove', 'merge', 'split')"  # actions after which a person's templates are other ones


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
        read_only: bool = False,
        templates: bool = True,
    ) -> None:
        if templates:
            require("numkong", "gallery")  # before a file is made that could not be searched
        master = master_key(key)
        sealed = Sealed(master) if master else None
        self._decider, self._templates, self._path = Decider(model, operating_point), templates, path
        self._version, self._seen, self._last = 0, 0, 0  # version; line of the audit log; template
        self._bound: str | None = None
        self._index: Index | None = None
        self._seal: Seal = sealed or Plain()
        self._store = Store(
            path, create=create, read_only=read_only, proof=sealed.proof() if sealed else None,
            agree=lambda proof: self._agree(proof, sealed), log=Log(sealed.mac if sealed else None), check=templates,
        )  # fmt: skip
        try:
            self._rows = Rows(self._store, self._seal)
            if not read_only:
                self._bind()
            with self._view():
                pass
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def _agree(self, proof: bytes | None, sealed: Sealed | None) -> None:
        """Raise ConfigError for a key other than the one that the file was made with."""
        if proof is None and sealed:
            raise ConfigError(
                f"no key, because {self._path} is not encrypted", "a key",
                f"unset {KEY_VARIABLE} and pass no key, or export into a new gallery with a key",
            )  # fmt: skip
        if proof is not None and not sealed and not self._templates:
            self._seal = cast(Seal, Locked())
        elif proof is not None and not (sealed and sealed.proves(proof)):
            raise ConfigError(
                f"the key of {self._path}", "another key" if sealed else "none",
                f"correct the key or {KEY_VARIABLE}; without the key the templates cannot be read",
            )  # fmt: skip

    def _bind(self) -> None:
        """Bind a gallery without templates to the model that it was opened for."""
        unbound = "SELECT 1 FROM versions WHERE model IS NULL"
        with self._store.reading() as db:
            needed = self._decider.model and db.execute(unbound).fetchone()
        if needed:
            with self._store.writing() as db:
                if not db.execute("SELECT 1 FROM templates LIMIT 1").fetchone():
                    db.execute("UPDATE versions SET model = ? WHERE model IS NULL", (self._decider.model,))

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
        if not self._templates:
            self._version = version
            return
        anew = version != self._version or (dim and not self._index) or pruned_to(db) > self._seen
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
        parts = []
        if not anew:
            news = f"SELECT DISTINCT subject FROM audit WHERE number > ? AND action IN {CHANGED}"
            for (subject,) in db.execute(news, (self._seen,)).fetchall():
                self._index.remove(subject)
                again = (version, self._last, subject)
                parts.append(self._parts(db, f"{ROWS} AND t.id <= ? AND t.person = ? ORDER BY t.id", again))
        parts.append(self._parts(db, f"{ROWS} AND t.id > ? ORDER BY t.id", (version, self._last)))
        for rows, vectors in chain.from_iterable(parts):
            numbers = np.array([row[0] for row in rows])
            if (np.diff(numbers) <= 0).any() or (anew and numbers[0] <= self._last):  # a page took another one's place
                raise self._store.damaged(f"rows of templates out of order near {numbers[0]}")
            self._last = max(self._last, int(numbers[-1]))
            self._index.add(numbers, np.array([row[1] for row in rows]), vectors)
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
        with self._view() as db:
            if self._templates:
                return len(self._index) if self._index else 0
            return int(db.execute("SELECT rows FROM versions WHERE state = 'current'").fetchone()[0])

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Gallery`."""
        with self._store.writing() as db:
            version, model = db.execute("SELECT id, model FROM versions WHERE state = 'current'").fetchone()
            checked_model(self._decider.model, model)
            return self._rows.insert(db, enrolments, version, new=True)

    def sources(self, hashes: Collection[str]) -> dict[str, set[str]]:
        """See `Gallery`."""
        query = (
            "SELECT source, name FROM templates t JOIN people p ON p.id = t.person "
            "WHERE source IN (SELECT value FROM json_each(?)) AND version = ?"
        )
        found: dict[str, set[str]] = {}
        with self._view() as db:
            for source, name in db.execute(query, (json.dumps(list(hashes)), self._version)):
                found.setdefault(source, set()).add(name)
        return found

    def doubts(self, enrolments: Enrolments) -> list[Doubt]:
        """See `Gallery`."""
        self._need_templates()
        some = enrolments
        found: list[Doubt] = []
        with self._view() as db:
            checked_dim(some.vectors.shape[1], self._index.dim if self._index else None)
            enrolled = self.sources([source for source in some.source or [] if source])
            people = {name: self._rows.find(db, name) for name in dict.fromkeys(some.people)}
            looks = [self._look(db, some, row, people[name], enrolled) for row, name in enumerate(some.people)]
            for name in (name for name, person in people.items() if person is None):
                similar = "SELECT name FROM people WHERE near = ? ORDER BY name LIMIT 1"
                if other := db.execute(similar, (near(name),)).fetchone():
                    found.append(Doubt(list(some.people).index(name), "name", name, other[0]))
            templates = len(self._index) if self._index else 0
        recognizes = partial(self._decider.recognizes, templates=templates)
        return found + find_doubts(some, looks, recognizes, self._decider.accepts)

    def _look(
        self, db: sqlite3.Connection, some: Enrolments, row: int, person: tuple[int, str] | None,
        enrolled: dict[str, set[str]],
    ) -> Look:  # fmt: skip
        query = unit_query(some.vectors[row], None)
        best = self._found(db, query, 2, None, None)
        other = next((each for each in best if not person or each[0] != person[0]), None)
        own = None
        if person:
            among = np.array([person[0]], np.int64)
            own = next((s for _, s in self._index.search_among(query, 1, among)), None) if self._index else None
        named = None
        if other:
            (name,) = db.execute("SELECT name FROM people WHERE id = ?", other[:1]).fetchone()
            named = name, other[1]
        source = some.source[row] if some.source else None
        return Look(own, named, frozenset(enrolled.get(source or "", ())))

    def search(
        self,
        vector: ArrayLike,
        k: int = 10,
        *,
        exact: bool | None = None,
        tag: str | None = None,
        threshold: float | None = None,
    ) -> list[Match]:
        """See `Gallery`."""
        if k < 1:
            raise InputError("k ≥ 1", str(k), "increase k")
        self._need_templates()
        with self._view() as db:
            query = unit_query(vector, self._index.dim if self._index else None)
            found = self._found(db, query, k, exact, tag)
            named = "SELECT id, name FROM people WHERE id IN (SELECT value FROM json_each(?))"
            names = dict(db.execute(named, (json.dumps([person for person, _ in found]),)).fetchall())
            templates = self._compared(db, tag)
        matches = self._decider.ranked([(score, names[person]) for person, score in found], templates)
        if threshold is not None:
            matches = [match for match in matches if match.score >= threshold]
        self._store.note_search(search_note(matches))
        return matches

    def _found(
        self, db: sqlite3.Connection, query: NDArray[np.float64], k: int, exact: bool | None, tag: str | None
    ) -> list[tuple[int, float]]:
        """Numbers and cosines of the best people, of those with a tag if there is one."""
        if self._index is None:
            return []
        if tag is None:
            return self._index.search(query, k, len(self._index) <= EXACT_UP_TO if exact is None else exact)
        tagged = db.execute("SELECT person FROM tags WHERE tag = ?", (checked_name(tag),)).fetchall()
        return self._index.search_among(query, k, np.array([person for (person,) in tagged], np.int64))

    def _compared(self, db: sqlite3.Connection, tag: str | None) -> int:
        """Number of templates that a search compares."""
        if tag is None or self._index is None:
            return len(self._index) if self._index else 0
        tagged = "person IN (SELECT person FROM tags WHERE tag = ?)"
        query = f"SELECT count(*) FROM templates WHERE {tagged} AND version = ?"
        return int(db.execute(query, (checked_name(tag), self._version)).fetchone()[0])

    def verify(self, person: str, vector: ArrayLike) -> Match:
        """See `Gallery`."""
        self._need_templates()
        with self._view() as db:
            query = cosine.exact(unit_query(vector, self._index.dim if self._index else None))
            number, name = self._rows.get(db, person)
            parts = self._parts(db, f"{ROWS} AND t.person = ?", (self._version, number))
            scores = [float(cosine.paired(cosine.exact(vectors), query).max()) for _, vectors in parts]
        if not scores:
            raise unknown(name)
        score = max(scores)
        self._store.note_search(Note("verify", name, number, f"cosine {score:.4f}"))
        return self._decider.decided(score, name)

    def _need_templates(self) -> None:
        if not self._templates:
            raise ConfigError("a gallery opened with templates", "templates=False", "open it without that argument")

    def forget(self, person: str) -> Erased:
        """See `Gallery`."""

        def work(db: sqlite3.Connection) -> int:
            number, name = self._rows.get(db, person)
            count = self._rows.erase(db, "person = ?", (number,))
            self._rows.delete_person(db, number)
            self._store.note(db, Note("forget", name, number, f"{count} templates"))
            return count

        return self._erased(self._store.erasing(work))

    def remove(self, person: str, template: int) -> Erased:
        """See `Gallery`."""

        def work(db: sqlite3.Connection) -> int:
            number, name = self._rows.get(db, person)
            left = [each.number for each in self._rows.templates(db, number, name, _current(db), images=False)]
            if template not in left or len(left) == 1:
                got = f"template {template}" + (", the last one" if template in left else "")
                do = "forget the person instead" if template in left else "list the templates"
                raise InputError(f"one of several templates of {name}", got, do)
            count = self._rows.erase(db, "id = ?", (template,))
            self._store.note(db, Note("remove", name, number, f"template {template}"))
            return count

        return self._erased(self._store.erasing(work))

    def _erased(self, count: int) -> Erased:
        """After an erasure: out of memory, and out of the files."""
        with suppress(ModelError), self._view():  # erased all the same where another process switched the model
            pass
        return Erased(count, self._store.wipe())

    def people(
        self, *, prefix: str = "", after: PersonId | None = None, limit: int | None = None, tag: str | None = None
    ) -> list[Person]:
        """See `Gallery`."""
        start = folded(prefix)
        wanted, values = [], []
        if start:
            wanted.append("p.folded >= ? AND p.folded < ?")
            values += [start, start + chr(sys.maxunicode)]
        if tag is not None:
            wanted.append("p.id IN (SELECT person FROM tags WHERE tag = ?)")
            values.append(tag)
        with self._view() as db:
            if after is not None:
                self._rows.get(db, after)  # raises for somebody unknown, perhaps forgotten since
                wanted.append("p.folded > (SELECT folded FROM people WHERE public = ?)")
                values.append(str(after))
            where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
            tail = "" if limit is None else f"LIMIT {int(limit)}"
            return self._rows.people(db, self._version, f"{where} ORDER BY p.folded {tail}", tuple(values))

    def person(self, person: str) -> Person:
        """See `Gallery`."""
        with self._view() as db:
            return self._person(db, self._rows.get(db, person)[0])

    def _person(self, db: sqlite3.Connection, number: int) -> Person:
        (found,) = self._rows.people(db, _current(db), "WHERE p.id = ?", (number,))
        return found

    def templates(self, person: str) -> list[Template]:
        """See `Gallery`."""
        with self._view() as db:
            images = not isinstance(self._seal, Locked)  # thumbnails are sealed, the rest is not
            return self._rows.templates(db, *self._rows.get(db, person), self._version, images=images)

    def rename(self, person: str, name: str) -> Person:
        """See `Gallery`."""
        name = checked_name(name)
        with self._store.writing() as db:
            number, old = self._rows.get(db, person)
            self._rows.rename(db, number, old, name)
            self._store.note(db, Note("rename", old, number, f"now {name}"))
            return self._person(db, number)

    def merge(self, person: str, into: str) -> Person:
        """See `Gallery`."""
        with self._store.writing() as db:
            source, target = self._rows.get(db, person), self._rows.get(db, into)
            if source == target:
                raise InputError("two people to merge", f"{source[1]} twice", "give another person")
            ids = [n for (n,) in db.execute("SELECT id FROM templates WHERE person = ?", source[:1]).fetchall()]
            self._rows.move(db, source, target, ids)
            tags = [tag for (tag,) in db.execute("SELECT tag FROM tags WHERE person = ?", source[:1]).fetchall()]
            self._rows.add_tags(db, target[0], tags)
            db.execute(
                "UPDATE people SET consent = coalesce(people.consent, old.consent), "
                "enrolled = min(people.enrolled, old.enrolled) "
                "FROM (SELECT consent, enrolled FROM people WHERE id = ?) AS old WHERE id = ?", (source[0], target[0]),
            )  # fmt: skip
            self._rows.delete_person(db, source[0])
            self._store.note(db, Note("merge", source[1], source[0], f"{len(ids)} templates to {target[1]}"))
            self._store.note(db, Note("merge", target[1], target[0], f"{len(ids)} templates of {source[1]}"))
            found = self._person(db, target[0])
        self._erased(0)
        return found

    def split(self, person: str, templates: Collection[int], name: str) -> Person:
        """See `Gallery`."""
        name = checked_name(name)
        with self._store.writing() as db:
            source = self._rows.get(db, person)
            if other := self._rows.find(db, name):
                raise InputError("a new name", f"{other[1]!r}, who is enrolled", "give another name")
            every = [each.number for each in self._rows.templates(db, *source, _current(db), images=False)]
            wanted = sorted(set(templates))
            if not wanted or not set(wanted) < set(every):
                got = ", ".join(map(str, wanted)) or "none"
                raise InputError(f"some but not all of {source[1]}'s {len(every)} templates", got, "list the templates")
            enrolled, consent = db.execute("SELECT enrolled, consent FROM people WHERE id = ?", source[:1]).fetchone()
            number, _ = self._rows.make_person(db, name, enrolled, consent=consent)
            self._rows.move(db, source, (number, name), wanted)
            self._store.note(db, Note("split", source[1], source[0], f"{len(wanted)} templates to {name}"))
            self._store.note(db, Note("split", name, number, f"{len(wanted)} templates of {source[1]}"))
            found = self._person(db, number)
        self._erased(0)
        return found

    def tag(self, person: str, add: Collection[str] = (), remove: Collection[str] = ()) -> Person:
        """See `Gallery`."""
        added, removed = checked_tags(add), checked_tags(remove)
        with self._store.writing() as db:
            number, name = self._rows.get(db, person)
            self._rows.add_tags(db, number, added)
            self._rows.remove_tags(db, number, removed)
            told = ", ".join([f"+{each}" for each in added] + [f"-{each}" for each in removed])
            self._store.note(db, Note("tag", name, number, told))
            return self._person(db, number)

    def export(self) -> Iterator[Enrolments]:
        """See `Gallery`."""
        if not self._store.read_only:
            with self._store.writing() as db:
                self._store.note(db, Note("export", detail="all templates"))
        last, version = 0, None
        while True:
            with self._view() as db:
                if version not in (None, self._version):
                    raise InputError("the same model during the export", "a switch to another", "export again")
                version = self._version
                rows = db.execute(f"{EXPORT} AND t.id > ? ORDER BY t.id LIMIT {EXPORTED}", (version, last)).fetchall()
                if not rows:
                    return
                part = self._exported(db, rows)
            last = rows[-1][0]
            yield part

    def _exported(self, db: sqlite3.Connection, rows: list[Row]) -> Enrolments:
        vectors = self._rows.opened(rows, self._version)
        names, qualities, times, consents, sources, images, ids, enrolled = zip(*(row[4:] for row in rows), strict=True)
        keys: dict[int, Any] = {}
        opened: list[bytes | None] = []
        for (number, person, _, _, name, *_), image in zip(rows, images, strict=True):
            if image is not None:
                keys[person] = keys.get(person) or self._rows.key(db, person, name)
                image = self._rows.image(keys[person], template_place(self._version, person, number), image)
            opened.append(image)
        people = json.dumps(sorted({row[1] for row in rows}))
        tags: dict[int, list[str]] = {}
        query = "SELECT person, tag FROM tags WHERE person IN (SELECT value FROM json_each(?)) ORDER BY tag"
        for person, tag in db.execute(query, (people,)):
            tags.setdefault(person, []).append(tag)
        return Enrolments(
            names, vectors, np.array(qualities, np.float64), np.array(times), consents, sources,
            opened if any(opened) else None, ids, np.array(enrolled), [tags.get(row[1], []) for row in rows],
        )  # fmt: skip

    def compact(self) -> None:
        """See `Gallery`."""
        self._store.vacuum()

    def backup(self, path: str | Path) -> None:
        """See `Gallery`."""
        self._store.backup(path)

    def files(self) -> list[Path]:
        """See `Gallery`."""
        return self._store.files()

    def audit(self) -> Iterator[Event]:
        """See `Gallery`."""
        return self._store.audit()

    def prune(self, before: datetime) -> int:
        """See `Gallery`."""
        return self._store.prune(before.timestamp())

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
                self._store.note(db, Note("migrate", detail=f"to {model}, version {row}"))
        return EmbeddedMigration(self._rows, found[0], model, self._decider.follow)

    def __exit__(self, *error: object) -> None:
        """Close; a file that this made is deleted again if an error came before anybody was enrolled."""
        if error[0] is not None:
            self._store.discard()
        self.close()

    def close(self) -> None:
        """See `Gallery`."""
        if self._index:
            self._index.close()
            self._index = None
        self._store.close()


def _current(db: sqlite3.Connection) -> int:
    """Number of the version that searches see."""
    return int(db.execute("SELECT id FROM versions WHERE state = 'current'").fetchone()[0])


@GALLERIES.register
def file(
    place: str,
    *,
    model: str | None,
    operating_point: OperatingPoint | None,
    key: bytes | str | None,
    create: bool,
    read_only: bool = False,
    templates: bool = True,
) -> EmbeddedGallery:
    """A single SQLite file, searched in memory: `file:people.db`."""
    return EmbeddedGallery(
        place, model=model, operating_point=operating_point, key=key, create=create, read_only=read_only,
        templates=templates,
    )  # fmt: skip
