"""The protocol of all galleries, its records, and the validation of its arguments."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, ModelError
from ..types import Floats, Match, OperatingPoint

NAME_LIMIT = 200  # characters
_log = logging.getLogger("normface")


@dataclass(frozen=True)
class Person:
    """An enrolled person: `name`, number of `templates`, time of first enrolment (UTC), and note of `consent`."""

    name: str
    templates: int
    enrolled: datetime
    consent: str | None = None


@dataclass(frozen=True)
class Event:
    """A line of the audit log, which never contains vectors or images.

    Attributes:
        number: 1, 2, …: the order of events, independent of the clock.
        time: by the clock of the machine that wrote it (UTC).
        action: create, enrol, search, verify, forget, export, migrate or switch.
        person: who was enrolled, verified or forgotten, or the best match of a search; None if there is none.
        detail: counts and scores, as text.
    """

    number: int
    time: datetime
    action: str
    person: str | None
    detail: str


@dataclass(frozen=True)
class Enrolments:
    """Templates with their people: the argument of `Gallery.enrol_many`, and the output of `Gallery.export`.

    Attributes:
        people: [N] names.
        vectors: [N, D] floating point, nonzero; they are normalized.
        quality: [N], higher is better; NaN or None if unknown.
        time: [N] enrolment in seconds since 1970 (UTC); None for now.
        consent: [N] notes, or None: what each person agreed to, when, and where it is filed.
    """

    people: Sequence[str]
    vectors: Floats
    quality: Floats | None = None
    time: Floats | None = None
    consent: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors)
        people = [checked_name(name) for name in self.people]
        columns = {"quality": self.quality, "time": self.time, "consent": self.consent}
        lengths = {name: len(values) for name, values in columns.items() if values is not None}
        if vectors.ndim != 2 or any(n != len(vectors) for n in (len(people), *lengths.values())):
            raise InputError(
                "vectors [N, D] and as many people, qualities, times and notes of consent",
                f"vectors {list(vectors.shape)}, {len(people)} people, {lengths or 'nothing else'}",
                "give one of each per vector",
            )
        object.__setattr__(self, "people", people)
        object.__setattr__(self, "vectors", unit_rows(vectors))
        for name in ("quality", "time"):
            if columns[name] is not None:
                object.__setattr__(self, name, np.asarray(columns[name], np.float64))
        if self.time is not None and not np.isfinite(self.time).all():
            raise InputError("finite times", "NaN or infinity", "pass time=None for the current time")

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


@runtime_checkable
class Gallery(Protocol):
    """People and their templates, all of one model. Thread-safe.

    Vectors are normalized; scores are cosines. A person's score is that of their best template.
    All methods raise ModelError for vectors of another length or model, InputError for NaN or zero vectors and for
    names that are blank, longer than 200 characters or not printable, and DataError if the store fails.
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
    ) -> list[int]:
        """Add templates [N, D] (or one, [D]) to a new or enrolled person. Returns the templates' numbers.

        On return, the templates are on disk, and every later search finds them. quality: [N] or one for all.
        """
        return self.enrol_many(enrolments_of(person, vectors, quality, consent, time))

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """Add many templates: all, or none after an error or crash. About ten thousand per call are efficient."""
        ...

    def search(self, vector: ArrayLike, k: int = 10, *, exact: bool | None = None) -> list[Match]:
        """Return the k people most similar to `vector` [D], best first, with cosines and decisions.

        Decisions are by the operating point's threshold for searches among as many templates as are enrolled; each
        match's `rule` says which, and how many false matches to expect. Where the operating point has no table of such
        thresholds, that of verification decides, with a warning.

        exact: False searches approximately, which is faster with many templates; None lets the gallery choose
        (embedded: exact up to a million templates). docs/gallery.md gives the recall of approximate search.
        """
        ...

    def verify(self, person: str, vector: ArrayLike) -> Match:
        """Compare `vector` [D] with a person's templates. Raises InputError for an unknown name."""
        ...

    def forget(self, person: str) -> int:
        """Erase a person: templates, key, note of consent; the name stays in the audit log. Returns the template count.

        Raises InputError for an unknown name.
        """
        ...

    def people(self) -> list[Person]:
        """List the people enrolled, by name."""
        ...

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

    def close(self) -> None:
        """Close the gallery; closing it twice is allowed."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def checked_name(name: Any) -> str:
    """Validate a person's name and return it in Unicode form NFC. Raises InputError."""
    text = unicodedata.normalize("NFC", name) if isinstance(name, str) else ""
    if not text.strip() or len(text) > NAME_LIMIT or not text.isprintable():
        raise InputError(
            f"a name of 1 to {NAME_LIMIT} printable characters", ascii(name)[:80], "remove line breaks and the like"
        )
    return text


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
        return Match(score, self._point.accepts(score) if self._point else None, person)

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


def unknown(name: str) -> InputError:
    """Return the error for an unknown name."""
    return InputError("the name of an enrolled person", repr(name), "list the names: normface people")
