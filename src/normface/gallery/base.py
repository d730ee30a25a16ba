"""What every gallery does, whatever keeps it: the protocol, its records, and the checks of what comes in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, ModelError
from ..types import Floats, Match, OperatingPoint

NAME_LIMIT = 200  # characters


@dataclass(frozen=True)
class Person:
    """Somebody enrolled: `name`, number of `templates`, when first `enrolled` (UTC), and the note of `consent`."""

    name: str
    templates: int
    enrolled: datetime
    consent: str | None = None


@dataclass(frozen=True)
class Event:
    """A line of the audit log, which never holds vectors or images.

    Attributes:
        number: 1, 2, …: the order in which things happened, whatever the clock said.
        time: by the clock of the machine that did it (UTC).
        action: create, enrol, search, verify, forget, export, migrate or switch.
        person: who was enrolled, verified or forgotten, or was the best match of a search; None where nobody was.
        detail: counts and scores, in words.
    """

    number: int
    time: datetime
    action: str
    person: str | None
    detail: str


@dataclass(frozen=True)
class Enrolments:
    """Templates with their people, in bulk: what `Gallery.enrol_many` takes and `Gallery.export` gives.

    Attributes:
        people: [N] names.
        vectors: [N, D] floating point, of any length but zero: they are normalised.
        quality: [N], the higher the better; NaN or None where unknown.
        time: [N] seconds since 1970 (UTC) of enrolment; None for now.
        consent: [N] notes, or None: what each person agreed to, when, and where that is written down.
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
                "give one of each for each vector",
            )
        object.__setattr__(self, "people", people)
        object.__setattr__(self, "vectors", unit_rows(vectors))
        for name in ("quality", "time"):
            if columns[name] is not None:
                object.__setattr__(self, name, np.asarray(columns[name], np.float64))
        if self.time is not None and not np.isfinite(self.time).all():
            raise InputError("finite times", "NaN or infinity", "leave time out for now")

    def __len__(self) -> int:
        return len(self.people)


class Migration(Protocol):
    """A gallery on its way to another model: searches answer from the old templates until `switch`.

    The gallery keeps no images, so new vectors must come from the caller: everybody in `missing` is embedded anew.
    """

    model: str

    def missing(self) -> list[str]:
        """Names of the people who have no template of the new model yet."""
        ...

    def enrol(self, person: str, vectors: ArrayLike, *, quality: ArrayLike | None = None) -> list[int]:
        """Add templates [N, D] of the new model to a person who is enrolled. Returns their numbers."""
        return self.enrol_many(enrolments_of(person, vectors, quality, None, None))

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """The same for many, all or none."""
        ...

    def switch(self) -> int:
        """From now on the new model: old templates are erased, and their number is returned.

        Whoever opened the gallery for the old model is refused from here on; the gallery that this migration came from
        goes on with the new one, without decisions until it is opened with the new model's operating point.
        Raises InputError while people are missing (forget them, or enrol them anew).
        """
        ...

    def abandon(self) -> int:
        """Erase the templates of the new model instead. Returns their number."""
        ...


@runtime_checkable
class Gallery(Protocol):
    """People and their templates, of one model; every call may come from any thread.

    Vectors are normalised on the way in; scores are cosines. A person's score is that of her best template.
    Every call raises ModelError for vectors of another length or model, InputError for NaN or zero vectors and for
    names that are blank, longer than 200 characters or not printable, and DataError where the store fails.
    """

    @property
    def model(self) -> str | None:
        """SHA-256 of the weights that the templates come from; None where it was never named."""
        ...

    @property
    def dim(self) -> int | None:
        """Length of a vector; None before the first enrolment."""
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
        """Add templates [N, D] (or one, [D]) to a person, who is made if new. Returns the templates' numbers.

        When it returns, the templates are on the disk, and every later search finds them. quality: [N] or one for all.
        """
        return self.enrol_many(enrolments_of(person, vectors, quality, consent, time))

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """Add many templates: all of them, or after an error or a crash none. Ten thousand at a time do well."""
        ...

    def search(self, vector: ArrayLike, k: int = 10, *, exact: bool | None = None) -> list[Match]:
        """The k people most like `vector` [D], best first, each with cosine and the operating point's decision.

        exact: False looks at a short list only, which is faster where templates are many; None leaves it to the
        gallery (embedded: exact up to a million templates). docs/gallery.md states what a short list misses.
        """
        ...

    def verify(self, person: str, vector: ArrayLike) -> Match:
        """Compare `vector` [D] with a person's templates. Raises InputError where nobody has that name."""
        ...

    def forget(self, person: str) -> int:
        """Erase a person: templates, key, note of consent; her name stays in the audit log. Returns how many templates.

        Raises InputError where nobody has that name.
        """
        ...

    def people(self) -> list[Person]:
        """Everybody enrolled, by name."""
        ...

    def export(self) -> Iterator[Enrolments]:
        """All templates, decrypted, some thousands at a time: `for part in old.export(): new.enrol_many(part)`."""
        ...

    def compact(self) -> None:
        """Give back the space of what was forgotten."""
        ...

    def backup(self, path: str | Path) -> None:
        """Write a consistent copy while others go on working; DataError where the store has its own way."""
        ...

    def migrate(self, model: str) -> Migration:
        """Begin to move to another model, or go on with a move that was begun."""
        ...

    def audit(self) -> Iterator[Event]:
        """The log from its beginning. Raises DataError where it was tampered with."""
        ...

    def close(self) -> None:
        """Give everything back; closing twice is fine."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def checked_name(name: Any) -> str:
    """A person's name in Unicode's composed form (NFC); it is data, never a path. Raises InputError."""
    text = unicodedata.normalize("NFC", name) if isinstance(name, str) else ""
    if not text.strip() or len(text) > NAME_LIMIT or not text.isprintable():
        raise InputError(
            f"a name of 1 to {NAME_LIMIT} printable characters", ascii(name)[:80], "leave out line breaks and the like"
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
        raise InputError("one vector [D]", f"shape {list(row.shape)}", "search for one at a time")
    unit_rows(row[None])
    checked_dim(len(row), dim)
    row = row.astype(np.float64)
    unit: NDArray[np.float64] = row / np.linalg.norm(row)
    return unit


def checked_dim(found: int, dim: int | None) -> None:
    """Raise ModelError where a vector's length is not the gallery's."""
    if dim is not None and found != dim:
        raise ModelError(
            f"vectors of length {dim}, as in this gallery", f"length {found}", "use the model it was made with"
        )


def checked_model(asked: str | None, bound: str | None) -> None:
    """Raise ModelError, naming both, where `asked` is another model than the one the gallery is bound to."""
    if asked is not None and asked != bound:
        raise ModelError(
            f"a gallery of the model {asked}", f"one of {bound or 'a model that was never named'}",
            "use that model, or move the gallery to yours: gallery.migrate",
        )  # fmt: skip


class Decider:
    """The model that a gallery was opened for, and the operating point that decides its matches.

    Raises:
        ModelError: the operating point is another model's.
    """

    def __init__(self, model: str | None, point: OperatingPoint | None) -> None:
        if model and point and point.model_sha256 != model:
            raise ModelError(
                f"an operating point of the model {model}", f"one of {point.model_sha256}", "certify that model"
            )
        self.model, self._point = model or (point.model_sha256 if point else None), point

    def accepts(self, score: float) -> bool | None:
        """Decide a match; None without an operating point."""
        return self._point.accepts(score) if self._point else None

    def follow(self, model: str) -> None:
        """Go on with a new model after a migration; the operating point was the old one's."""
        if self.model:
            self.model = model
        if self._point and self._point.model_sha256 != model:
            self._point = None


def unknown(name: str) -> InputError:
    """The error for a name that nobody has."""
    return InputError("the name of somebody enrolled", repr(name), "see who is: normface people")
