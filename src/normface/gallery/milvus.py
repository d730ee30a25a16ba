"""A gallery in Milvus: Milvus Lite (a folder, one process), or a cluster for galleries too large for one machine.

Templates are not encrypted here, and Milvus decides when deleted data leave its files (docs/gallery.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import cosine
from ..errors import ConfigError, DataError, InputError, ModelError
from ..types import Match, OperatingPoint
from . import GALLERIES
from .base import (
    Decider,
    Enrolments,
    Erased,
    Event,
    Gallery,
    Person,
    checked_dim,
    checked_model,
    unit_query,
    unknown,
)  # fmt: skip
from .encryption import KEY_VARIABLE
from .milvus_migration import MilvusMigration
from .milvus_store import CURRENT, NEXT, QUERY_LIMIT, TEMPLATES, MilvusStore, subject, whose
from .names import PersonId, checked_name, folded


class MilvusGallery(Gallery):
    """See `gallery.Gallery`. Collections are created at the first enrolment, because Milvus needs the dimension."""

    def __init__(self, uri: str, *, model: str | None, operating_point: OperatingPoint | None, create: bool) -> None:
        self._decider = Decider(model, operating_point)
        remote = "://" in uri
        if not remote:
            if not create and not Path(uri).exists():
                raise InputError(f"a gallery at {uri}", "nothing there", "correct the path, or enrol people first")
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        self._store = MilvusStore(uri)
        try:
            self._current()
        except BaseException:
            self.close()
            raise

    def _current(self) -> tuple[str | None, str | None, int | None]:
        """Collection, model and length of what searches see. Raises ModelError for another model than was asked for."""
        collection = self._store.alias(CURRENT)
        if collection is None:
            return None, self._decider.model, None
        model, dim = self._store.bound(collection)
        checked_model(self._decider.model, model)
        return collection, model, dim

    # What a gallery does.

    @property
    def model(self) -> str | None:
        """See `Gallery`."""
        return self._current()[1]

    @property
    def dim(self) -> int | None:
        """See `Gallery`."""
        return self._current()[2]

    def __len__(self) -> int:
        collection, _, _ = self._current()
        return self._store.count(collection) if collection else 0

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Gallery`."""
        with self._store.lock:
            collection, model, dim = self._current()
            checked_dim(enrolments.vectors.shape[1], dim)
            collection = collection or self._store.make(CURRENT, model, enrolments.vectors.shape[1])
            return self._store.insert(collection, enrolments)

    def search(
        self,
        vector: ArrayLike,
        k: int = 10,
        *,
        exact: bool | None = None,
        tag: str | None = None,
        threshold: float | None = None,
    ) -> list[Match]:
        """See `Gallery`. Milvus's own index decides how exact: the one made here is exact (FLAT)."""
        if k < 1:
            raise InputError("k ≥ 1", str(k), "increase k")
        if tag is not None:
            raise self._not_offered("tags")
        collection, _, dim = self._current()
        query, found = unit_query(vector, dim), []
        if collection:
            with self._store.in_words():
                found = self._store.client.search(
                    collection, [query.astype(np.float32)], limit=k, output_fields=["person", "vector"],
                    group_by_field="subject",
                )[0]  # fmt: skip
        entities = [hit["entity"] for hit in found]
        # Milvus's own scores may differ in the last bit from `verify`'s, and so may a decision at the threshold.
        rows = cosine.exact([each["vector"] for each in entities]).reshape(len(entities), len(query))
        scores = cosine.paired(rows, cosine.exact(query))
        named = [(float(score), each["person"]) for score, each in zip(scores, entities, strict=True)]
        matches = self._decider.ranked(named, self._store.count(collection) if collection else 0)
        matches.sort(key=lambda match: -match.score)
        if threshold is not None:
            matches = [match for match in matches if match.score >= threshold]
        best = matches[0] if matches else None
        told = f"best of {len(matches)}: cosine {best.score:.4f}" if best else "empty"
        self._store.note("search", best.person if best and best.decision is not False else None, told)
        return matches

    def verify(self, person: str, vector: ArrayLike) -> Match:
        """See `Gallery`."""
        name = self._name(person)
        collection, _, dim = self._current()
        query = cosine.exact(unit_query(vector, dim))
        rows = list(self._store.rows(collection, ["vector"], whose(name)))
        if not rows:
            raise unknown(name)
        score = float(cosine.paired(cosine.exact([row["vector"] for row in rows]), query).max())
        self._store.note("verify", name, f"cosine {score:.4f}")
        return self._decider.decided(score, name)

    def forget(self, person: str) -> Erased:
        """See `Gallery`. Old versions and one to come lose her too."""
        name = self._name(person)
        where = whose(name)
        with self._store.lock:
            current, coming = self._current()[0], self._store.alias(NEXT)
            count = self._store.count(current, where) if current else 0
            if not count:
                raise unknown(name)
            for collection in filter(None, (current, coming)):
                self._store.erase(collection, where)
            self._store.note("forget", name, f"{count} templates")
        return Erased(count)

    def people(
        self, *, prefix: str = "", after: PersonId | None = None, limit: int | None = None, tag: str | None = None
    ) -> list[Person]:
        """See `Gallery`. Reads everybody's rows, whatever is asked for."""
        if tag is not None:
            raise self._not_offered("tags")
        found: dict[str, tuple[str, int, float, str | None]] = {}
        for row in self._store.rows(self._current()[0], ["person", "time", "consent"]):
            key = folded(row["person"])
            name, count, first, note = found.get(key, (row["person"], 0, row["time"], None))
            name = row["person"] if row["time"] < first else name
            found[key] = name, count + 1, min(first, row["time"]), row["consent"] or note
        listed = [
            Person(name, n, datetime.fromtimestamp(t, UTC), note, PersonId(subject(name)[:16]))
            for key, (name, n, t, note) in sorted(found.items())
            if key.startswith(folded(prefix))
        ]  # fmt: skip
        if after is not None:
            ids = [person.id for person in listed]
            if after not in ids:
                raise unknown(after)
            listed = listed[ids.index(after) + 1 :]
        return listed[:limit]

    def _name(self, person: str) -> str:
        """A checked name; of an id, whose it is."""
        return self.person(person).name if isinstance(person, PersonId) else checked_name(person)

    def export(self) -> Iterator[Enrolments]:
        """See `Gallery`."""
        self._store.note("export", None, "all templates")
        part: list[dict[str, Any]] = []
        for row in self._store.rows(self._current()[0], ["person", "quality", "time", "consent", "vector"]):
            part.append(row)
            if len(part) == QUERY_LIMIT:
                yield _gathered(part)
                part = []
        if part:
            yield _gathered(part)

    def compact(self) -> None:
        """See `Gallery`."""
        with self._store.in_words():
            names = self._store.client.list_collections()
        for name in names:
            if name.startswith(TEMPLATES):
                self._store.compact(name)

    def backup(self, path: str | Path) -> None:
        """Raise DataError: use milvus-backup for a cluster, or copy the closed folder of Milvus Lite."""
        raise DataError(
            "a gallery with a backup function", f"Milvus at {self._store.uri}",
            "use milvus-backup, copy the folder of Milvus Lite while it is closed, or export into an embedded gallery",
        )  # fmt: skip

    def audit(self) -> Iterator[Event]:
        """See `Gallery`. This log is not chained: anyone with write access to Milvus can change it."""
        rows = self._store.rows(self._store.audit(), ["time", "action", "person", "detail"])
        for number, row in enumerate(sorted(rows, key=lambda row: row["id"]), 1):
            told = datetime.fromtimestamp(row["time"], UTC)
            yield Event(number, told, row["action"], row["person"], row["detail"] or "")

    def migrate(self, model: str) -> MilvusMigration:
        """See `Gallery`."""
        coming = self._store.alias(NEXT)
        if coming:
            checked_model(model, self._store.bound(coming)[0])
        elif model == self.model:
            raise ModelError("another model than the gallery's", model, "pass the hash of the new model")
        return MilvusMigration(self._store, model, self.people, self._decider.follow)

    def close(self) -> None:
        """See `Gallery`."""
        with suppress(Exception):
            self._store.client.close()


def _gathered(rows: list[dict[str, Any]]) -> Enrolments:
    columns = {name: [row[name] for row in rows] for name in ("person", "vector", "quality", "time", "consent")}
    quality, time = (np.array(columns[name], np.float64) for name in ("quality", "time"))
    return Enrolments(columns["person"], np.array(columns["vector"], np.float32), quality, time, columns["consent"])


@GALLERIES.register
def milvus(
    place: str,
    *,
    model: str | None,
    operating_point: OperatingPoint | None,
    key: bytes | str | None,
    create: bool,
    templates: bool = True,  # it reads none when it opens
) -> MilvusGallery:
    """Milvus Lite or a cluster: `milvus:people.milvus.db`, `milvus:http://host:19530`."""
    if key is not None or os.environ.get(KEY_VARIABLE):
        raise ConfigError(
            "no key, because Milvus cannot search encrypted templates", "a key",
            f"encrypt the disks of Milvus and unset {KEY_VARIABLE}, or use file:PATH",
        )  # fmt: skip
    return MilvusGallery(place, model=model, operating_point=operating_point, create=create)
