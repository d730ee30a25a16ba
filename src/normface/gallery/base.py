"""The protocol of all galleries, its records, and the validation of its arguments."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, InputError, ModelError
from ..types import Floats, Match, OperatingPoint
from .names import PersonId, checked_name, folded

TIMES = (-2208988800.0, 7258118400.0)  # 1900 to 2200, in seconds since 1970
TAG_LIMIT = 100  # characters
_log = logging.getLogger("normface")


@dataclass(frozen=True)
class Person:
    """An enrolled person.

    Attributes:
        name: as it was spelled at the first enrolment, or by `rename`.
        templates: their number.
        enrolled: time of the first enrolment (UTC).
        consent: the last note of consent.
        id: stands for the person in addresses; a new name does not change it. None if the store has no ids.
        tags: in alphabetical order.
    """

    name: str
    templates: int
    enrolled: datetime
    consent: str | None = None
    id: PersonId | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """A template, without its vector.

    Attributes:
        number: as `Gallery.enrol` returned it.
        time: of enrolment (UTC).
        quality: as it was given; None if unknown.
        source: SHA-256 of the photograph; None if unknown.
        thumbnail: a JPEG, if one was kept.
    """

    number: int
    time: datetime
    quality: float | None = None
    source: str | None = None
    thumbnail: bytes | None = None


class Erased(int):
    """The number of templates that were erased. `wiped`: whether their bytes are gone from the files already.

    If not, another process still read an older state; the bytes go as soon as it has ended.
    """

    wiped: bool

    def __new__(cls, count: int, wiped: bool = True) -> Self:
        """Make one of a count."""
        made = super().__new__(cls, count)
        made.wiped = wiped
        return made


@dataclass(frozen=True)
class Event:
    """A line of the audit log, which never contains vectors or images.

    Attributes:
        number: 1, 2, …: the order of events, independent of the clock.
        time: by the clock of the machine that wrote it (UTC).
        action: create, upgrade, enrol, search, verify, forget, remove, rename, merge, split, tag, export, migrate,
            switch or prune.
        person: whom it was about, or the best match of a search unless it was rejected; None if there is none.
        detail: counts and scores, as text.
        actor: who did it, such as `user ann` or `key 1a2b3c4d` of the service; None in older lines.
        sealed: whether the line carries an HMAC by the gallery's key.
    """

    number: int
    time: datetime
    action: str
    person: str | None
    detail: str
    actor: str | None = None
    sealed: bool = False


@dataclass(frozen=True)
class Enrolments:
    """Templates with their people: the argument of `Gallery.enrol_many`, and the output of `Gallery.export`.

    Attributes:
        people: [N] names.
        vectors: [N, D] floating point, nonzero; they are normalized.
        quality: [N], higher is better; NaN or None if unknown.
        time: [N] enrolment in seconds since 1970 (UTC); None for now.
        consent: [N] notes, or None: what each person agreed to, when, and where it is filed.
        source: [N] SHA-256 of the photographs in hexadecimal digits, or None.
        thumbnail: [N] JPEGs to keep, or None.
        ids: [N] ids for people who are new, or None to draw them.
        enrolled: [N] first enrolment of people who are new, in seconds since 1970; None: the earliest `time`.
        tags: [N] tags that the people get.
    """

    people: Sequence[str]
    vectors: Floats
    quality: Floats | None = None
    time: Floats | None = None
    consent: Sequence[str | None] | None = None
    source: Sequence[str | None] | None = None
    thumbnail: Sequence[bytes | None] | None = None
    ids: Sequence[PersonId | None] | None = None
    enrolled: Floats | None = None
    tags: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors)
        people = [checked_name(name) for name in self.people]
        columns = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "vectors"}
        lengths = {name: len(values) for name, values in columns.items() if values is not None}
        if vectors.ndim != 2 or any(n != len(vectors) for n in lengths.values()):
            raise InputError(
                "vectors [N, D] and one entry of each column per vector",
                f"vectors {list(vectors.shape)}, {lengths}", "give one of each per vector",
            )  # fmt: skip
        object.__setattr__(self, "people", people)
        object.__setattr__(self, "vectors", unit_rows(vectors))
        for name in ("quality", "time", "enrolled"):
            if columns[name] is not None:
                object.__setattr__(self, name, np.asarray(columns[name], np.float64))
        for times in (self.time, self.enrolled):
            if times is not None and not ((times >= TIMES[0]) & (times < TIMES[1])).all():
                got = times[~((times >= TIMES[0]) & (times < TIMES[1]))][0]
                raise InputError(
                    "times in seconds since 1970, from 1900 to 2200", f"{got:.17g}",
                    "divide milliseconds by 1000, or pass time=None for the current time",
                )  # fmt: skip
        if self.ids is not None:
            object.__setattr__(self, "ids", [each and PersonId.parse(each) for each in self.ids])
        if self.tags is not None:
            object.__setattr__(self, "tags", [checked_tags(each) for each in self.tags])

    def select(self, rows: Sequence[int]) -> Enrolments:
        """Return some of the rows."""
        columns: dict[str, Any] = {}
        for each in fields(self):
            values = getattr(self, each.name)
            if values is not None:
                columns[each.name] = values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]
        return Enrolments(**columns)

    def __len__(self) -> int:
        return len(self.people)


class Migration(Protocol):
    """Migration of a gallery to another model: searches use the old templates until `switch`.

    The gallery stores no images, so the caller must embed all people in `missing` again.
    """

    model: str

    def missing(self) -> list[str]:
        """Return the names of people without a template of the new model."""
        ...

    def enrol(self, person: str, vectors: ArrayLike, *, quality: ArrayLike | None = None) -> list[int]:
        """Add templates [N, D] of the new model to an enrolled person. Returns their numbers."""
        return self.enrol_many(enrolments_of(person, vectors, quality, None, None))

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """Add many templates of the new model, all or none."""
        ...

    def switch(self) -> int:
        """Switch to the new model and erase the old templates. Returns their number.

        Processes that opened the gallery for the old model get ModelError from now on. The gallery of this migration
        continues with the new model, without decisions until it is opened with the new model's operating point.
        Raises InputError while people are missing (enrol them, or forget them).
        """
        ...

    def abandon(self) -> int:
        """Cancel: erase the templates of the new model. Returns their number."""
        ...


@dataclass(frozen=True)
class Doubt:
    """A question about one row of an enrolment.

    Attributes:
        row: of the enrolment.
        kind: `duplicate`: the photograph is enrolled under this name already. `known`: the face is accepted as another
            person. `unlike`: it is not accepted as any of the person's other photographs. `name`: somebody of nearly
            this name is enrolled.
        person: the name in the enrolment.
        other: the name of the other person, for `known` and `name`.
        score: cosine with the other person, or the best one with the person; None for `name`.
    """

    row: int
    kind: Literal["duplicate", "known", "unlike", "name"]
    person: str
    other: str | None = None
    score: float | None = None


@runtime_checkable
class Gallery(Protocol):
    """People and their templates, all of one model. Thread-safe.

    Vectors are normalized; scores are cosines. A person's score is that of their best template.
    Names are the same if they are equal in Unicode form NFC after case folding, trimmed and with single spaces; the
    first spelling is kept. Where a method takes a person, a `PersonId` stands for the person's id.
    All methods raise ModelError for vectors of another length or model, InputError for NaN or zero vectors and for
    names that are blank, longer than 200 characters or contain control characters, and DataError if the store fails.
    """

    @property
    def model(self) -> str | None:
        """SHA-256 of the weights that compute the templates; None if never given."""
        ...

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None before the first enrolment."""
        ...

    def __len__(self) -> int:
        """Number of templates."""
        ...

    def enrol(
        self,
        person: str,
        vectors: ArrayLike,
        *,
        quality: ArrayLike | None = None,
        consent: str | None = None,
        time: datetime | None = None,
        source: Sequence[str | None] | None = None,
        thumbnail: Sequence[bytes | None] | None = None,
    ) -> list[int]:
        """Add templates [N, D] (or one, [D]) to a new or enrolled person. Returns the templates' numbers.

        On return, the templates are on disk, and every later search finds them. quality: [N] or one for all.
        source: [N] SHA-256 of the photographs; thumbnail: [N] JPEGs to keep with the templates.
        """
        name = self.person(person).name if isinstance(person, PersonId) else person
        some = enrolments_of(name, vectors, quality, consent, time)
        return self.enrol_many(replace(some, source=source, thumbnail=thumbnail))

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """Add many templates: all, or none after an error or crash. About ten thousand per call are efficient."""
        ...

    def doubts(self, enrolments: Enrolments) -> list[Doubt]:
        """Compare an enrolment with the gallery and with itself, by the operating point; nothing is written.

        The command line and the service ask before they enrol what is in doubt; `enrol` itself enrols what it gets.
        Without an operating point only duplicates and near names are found; databases find no near names.
        """
        return []

    def sources(self, hashes: Collection[str]) -> dict[str, set[str]]:
        """Return the names under which photographs are enrolled, by their SHA-256; unknown ones are left out."""
        return {}

    def search(
        self,
        vector: ArrayLike,
        k: int = 10,
        *,
        exact: bool | None = None,
        tag: str | None = None,
        threshold: float | None = None,
    ) -> list[Match]:
        """Return the k people most similar to `vector` [D], best first, with cosines and decisions.

        Decisions are by the operating point's threshold for searches among as many templates as are enrolled; each
        match's `rule` says which, and how many false matches to expect. Where the operating point has no table of such
        thresholds, that of verification decides, with a warning.

        exact: False searches approximately, which is faster with many templates; None lets the gallery choose
        (embedded: exact up to a million templates). docs/gallery.md gives the recall of approximate search.
        tag: search only people with this tag. threshold: leave out people with a lower cosine.
        """
        ...

    def verify(self, person: str, vector: ArrayLike) -> Match:
        """Compare `vector` [D] with a person's templates. Raises InputError for an unknown name."""
        ...

    def forget(self, person: str) -> Erased:
        """Erase a person: templates, key, note of consent; the name stays in the audit log. Returns the template count.

        On return, no search finds the person. Raises InputError for an unknown name.
        """
        ...

    def people(
        self, *, prefix: str = "", after: PersonId | None = None, limit: int | None = None, tag: str | None = None
    ) -> list[Person]:
        """List the people enrolled, by name.

        prefix: only names that begin so. after, limit: one page, of the people who follow that id. tag: only people
        with this tag. Raises InputError for an unknown `after`.
        """
        ...

    def person(self, person: str) -> Person:
        """Return a person. Raises InputError for an unknown name."""
        name = person if isinstance(person, PersonId) else checked_name(person)
        for each in self.people():
            if name in (each.id, each.name) or folded(each.name) == folded(name):
                return each
        raise unknown(name)

    def templates(self, person: str) -> list[Template]:
        """List a person's templates, oldest first."""
        raise self._not_offered("templates of a person")

    def remove(self, person: str, template: int) -> Erased:
        """Erase one of a person's templates, but not the last one."""
        raise self._not_offered("removal of one template")

    def rename(self, person: str, name: str) -> Person:
        """Give a person another name. Raises InputError if it is taken."""
        raise self._not_offered("renaming")

    def merge(self, person: str, into: str) -> Person:
        """Move a person's templates and tags to another person, who stays. Returns the latter."""
        raise self._not_offered("merging")

    def split(self, person: str, templates: Collection[int], name: str) -> Person:
        """Move some of a person's templates, given by number, to a new person. Returns the latter."""
        raise self._not_offered("splitting")

    def tag(self, person: str, add: Collection[str] = (), remove: Collection[str] = ()) -> Person:
        """Add and remove a person's tags, such as `staff`."""
        raise self._not_offered("tags")

    def prune(self, before: datetime) -> int:
        """Delete the beginning of the audit log, older than a time, and note that. Returns the number of lines."""
        raise self._not_offered("retention of the audit log")

    def _not_offered(self, what: str) -> ConfigError:
        return ConfigError(f"a gallery that offers {what}", type(self).__name__, "use file:PATH")

    def export(self) -> Iterator[Enrolments]:
        """Yield all templates, decrypted, in parts: `for part in old.export(): new.enrol_many(part)`."""
        ...

    def compact(self) -> None:
        """Release the space of deleted templates."""
        ...

    def backup(self, path: str | Path) -> None:
        """Write a consistent copy while the gallery is in use. Raises DataError if the store has its own tool."""
        ...

    def migrate(self, model: str) -> Migration:
        """Begin a migration to another model, or continue one."""
        ...

    def audit(self) -> Iterator[Event]:
        """Return the audit log. Raises DataError if it was altered."""
        ...

    def files(self) -> list[Path]:
        """Return the files of the gallery on this machine."""
        return []

    def close(self) -> None:
        """Close the gallery; closing it twice is allowed."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def checked_tags(tags: Collection[str]) -> tuple[str, ...]:
    """Validate tags; return them trimmed, each once, in alphabetical order. Raises InputError."""
    if isinstance(tags, str) or any(len(each) > TAG_LIMIT for each in tags):
        raise InputError(f"tags of at most {TAG_LIMIT} characters, in a list", repr(tags)[:80], "shorten them")
    return tuple(sorted({checked_name(each) for each in tags}))


def unit_rows(vectors: ArrayLike) -> NDArray[np.float32]:
    """[N, D] → unit rows float32, lengths computed in float64. Raises InputError for NaN, infinity, zero or no rows."""
    rows = np.asarray(vectors)
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiu":
        raise InputError("vectors [N, D] of numbers, N, D ≥ 1", f"{rows.dtype} {list(rows.shape)}", "embed the images")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    broken = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if broken.size:
        raise InputError(
            "finite, non-zero vectors",
            f"{broken.size} of {len(rows)} with NaN, infinity or only zeros (first: row {broken[0]})",
            "embed those images again or leave them out",
        )
    unit: NDArray[np.float32] = (rows / lengths[:, None]).astype(np.float32)
    return unit


def enrolments_of(
    person: str, vectors: ArrayLike, quality: ArrayLike | None, consent: str | None, time: datetime | None
) -> Enrolments:
    """One person's templates as `Gallery.enrol` gets them: vectors [N, D] or [D], one quality for all or [N]."""
    rows = np.asarray(vectors)
    rows = rows[None] if rows.ndim == 1 else rows
    count = len(rows) if rows.ndim == 2 else 0
    qualities = None if quality is None else np.broadcast_to(np.asarray(quality, np.float64), (count,))
    times = None if time is None else np.full(count, time.timestamp())
    return Enrolments([person] * count, rows, qualities, times, [consent] * count)


def unit_query(vector: ArrayLike, dim: int | None) -> NDArray[np.float64]:
    """One vector [D] or [1, D] → unit float64 [D]. Raises as `unit_rows`, and ModelError for another length."""
    row = np.asarray(vector)
    row = row[0] if row.ndim == 2 and len(row) == 1 else row
    if row.ndim != 1:
        raise InputError("one vector [D]", f"shape {list(row.shape)}", "pass one vector per call")
    unit_rows(row[None])
    checked_dim(len(row), dim)
    row = row.astype(np.float64)
    unit: NDArray[np.float64] = row / np.linalg.norm(row)
    return unit


def checked_dim(found: int, dim: int | None) -> None:
    """Raise ModelError if a vector's length is not the gallery's."""
    if dim is not None and found != dim:
        raise ModelError(
            f"vectors of length {dim}, as in this gallery", f"length {found}", "use the model of the gallery"
        )


def checked_model(asked: str | None, bound: str | None) -> None:
    """Raise ModelError if the gallery is bound to another model than `asked`."""
    if asked is not None and asked != bound:
        raise ModelError(
            f"a gallery of the model {asked}", f"one of {bound or 'an unnamed model'}",
            "use that model, or move the gallery to yours: normface gallery migrate",
        )  # fmt: skip


class Decider:
    """The model that a gallery was opened for, and the operating point that decides its matches.

    Raises:
        ModelError: the operating point belongs to another model.
    """

    def __init__(self, model: str | None, point: OperatingPoint | None) -> None:
        if model and point and point.model_sha256 != model:
            raise ModelError(
                f"an operating point of the model {model}", f"one of {point.model_sha256}", "run normface calibrate"
            )
        self.model, self._point = model or (point.model_sha256 if point else None), point
        self._warned = False

    def decided(self, score: float, person: str) -> Match:
        """Decide whether somebody is this person; the decision is None without an operating point."""
        return Match(score, self.accepts(score), person)

    def accepts(self, score: float) -> bool | None:
        """Decide a comparison with one person; None without an operating point."""
        return self._point.accepts(score) if self._point else None

    def recognizes(self, score: float, templates: int) -> bool | None:
        """Decide a comparison found by a search among so many templates; None without an operating point."""
        return self._point.for_search(templates).accepts(score) if self._point else None

    def ranked(self, found: Iterable[tuple[float, str]], templates: int) -> list[Match]:
        """Decide what a search among `templates` found, scores with names, by the threshold for so many.

        A warning in the log, once, says where the operating point has no such threshold.
        """
        rule = self._point.for_search(templates) if self._point else None
        if rule and rule.warning and not self._warned:
            self._warned = True
            _log.warning("%s", rule.warning)
        return [Match(score, rule.accepts(score) if rule else None, name, rule=rule) for score, name in found]

    def follow(self, model: str) -> None:
        """Continue with a new model after a migration; drop the operating point of the old one."""
        if self.model:
            self.model = model
        if self._point and self._point.model_sha256 != model:
            self._point = None


class Unknown(InputError):
    """A name or an id of nobody enrolled."""


def unknown(name: str) -> Unknown:
    """Return the error for an unknown name."""
    if isinstance(name, PersonId):
        return Unknown("the id of an enrolled person", repr(str(name)), "list the ids: normface people")
    return Unknown("the name of an enrolled person", repr(name), "list the names: normface people")
