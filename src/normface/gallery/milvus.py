"""A gallery in Milvus: Milvus Lite (a folder, one process) or a cluster, where one machine is too small.

Collections: `normface_templates_N` for version N of the gallery, its model in the collection's properties; the alias
`normface_current` names the one that searches see; `normface_audit` is the log. Templates are not encrypted here, and
nobody but Milvus decides when what was deleted leaves its files (docs/gallery.md).
"""

from __future__ import annotations

import logging
import os
import threading
import time as clock
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import cosine
from ..errors import ConfigError, DataError, InputError, ModelError, require
from ..types import Match, OperatingPoint
from . import GALLERIES
from .base import (
    Enrolments,
    Event,
    Gallery,
    Person,
    agreed_model,
    checked_dim,
    checked_model,
    checked_name,
    unit_query,
    unknown,
)  # fmt: skip
from .milvus_migration import CURRENT, NEXT, MilvusMigration, in_words, subject
from .seal import KEY_VARIABLE

TEMPLATES, AUDIT = "normface_templates_", "normface_audit"
MODEL, TEXT = "normface.model", 2000
PART = 1000


class MilvusGallery(Gallery):
    """See `gallery.Gallery`. Milvus needs the length of vectors, so collections are made at the first enrolment."""

    def __init__(self, uri: str, *, model: str | None, operating_point: OperatingPoint | None, create: bool) -> None:
        self._asked, self._point = agreed_model(model, operating_point), operating_point
        remote = "://" in uri
        if not remote:
            if not create and not Path(uri).exists():
                raise InputError(f"a gallery at {uri}", "nothing there", "correct the path, or enrol somebody first")
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        self._milvus: Any = require("pymilvus", "milvus")
        self._uri = uri
        self._lock = threading.RLock()
        with in_words(uri):
            self._client = self._milvus.MilvusClient(uri)
        try:
            self._current()
        except BaseException:
            self.close()
            raise

    # Collections.

    def _alias(self, alias: str) -> str | None:
        """The collection that an alias names."""
        with in_words(self._uri):
            for name in self._client.list_collections():
                if name.startswith(TEMPLATES) and alias in self._client.list_aliases(name)["aliases"]:
                    return str(name)
        return None

    def _bound(self, collection: str) -> tuple[str | None, int]:
        """Model and length of the vectors of a collection."""
        with in_words(self._uri):
            told = self._client.describe_collection(collection)
            fields = {field["name"]: field for field in told["fields"]}
        return told["properties"].get(MODEL) or None, int(fields["vector"]["params"]["dim"])

    def _current(self) -> tuple[str | None, str | None, int | None]:
        """Collection, model and length of what searches see. Raises ModelError for another model than was asked for."""
        collection = self._alias(CURRENT)
        if collection is None:
            return None, self._asked, None
        model, dim = self._bound(collection)
        checked_model(self._asked, model)
        return collection, model, dim

    def _make(self, alias: str, model: str | None, dim: int) -> str:
        """A collection for templates, with an exact index."""
        types, client = self._milvus.DataType, self._client
        with in_words(self._uri):
            numbers = [int(n.removeprefix(TEMPLATES)) for n in client.list_collections() if n.startswith(TEMPLATES)]
            name = f"{TEMPLATES}{max(numbers, default=0) + 1}"
            fields = {
                "subject": (types.VARCHAR, {"max_length": 64}), "person": (types.VARCHAR, {"max_length": TEXT}),
                "quality": (types.DOUBLE, {"nullable": True}), "time": (types.DOUBLE, {}),
                "consent": (types.VARCHAR, {"max_length": TEXT, "nullable": True}),
                "vector": (types.FLOAT_VECTOR, {"dim": dim}),
            }  # fmt: skip
            self._create(name, fields, {MODEL: model or ""}, metric="IP")
            client.create_alias(name, alias)
        return name

    def _create(self, name: str, fields: dict[str, Any], properties: dict[str, str], metric: str) -> None:
        schema = self._client.create_schema(auto_id=True, enable_dynamic_field=False)
        schema.add_field("id", self._milvus.DataType.INT64, is_primary=True)
        for field, (kind, options) in fields.items():
            schema.add_field(field, kind, **options)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type=metric)
        self._client.create_collection(
            name, schema=schema, index_params=index, properties=properties, consistency_level="Strong"
        )

    def _note(self, action: str, person: str | None, detail: str) -> None:
        """Append to the log. Milvus wants a vector in every collection: this one's is empty of meaning."""
        types = self._milvus.DataType
        with self._lock, in_words(self._uri):
            if not self._client.has_collection(AUDIT):
                texts = {name: (types.VARCHAR, {"max_length": TEXT, "nullable": True}) for name in ("person", "detail")}
                fields = {"time": (types.DOUBLE, {}), "action": (types.VARCHAR, {"max_length": 20}), **texts}
                self._create(AUDIT, {**fields, "vector": (types.FLOAT_VECTOR, {"dim": 2})}, {}, metric="L2")
            row = {"time": clock.time(), "action": action, "person": person, "detail": detail, "vector": [0.0, 0.0]}
            self._client.insert(AUDIT, [row])

    def _rows(self, collection: str | None, fields: list[str], where: str = "id >= 0") -> Iterator[dict[str, Any]]:
        """Rows by number, some at a time."""
        last = -1
        while collection:
            with in_words(self._uri):
                query = f"({where}) and id > {last}"
                found = self._client.query(collection, filter=query, output_fields=["id", *fields], limit=PART)
            rows = sorted(found, key=lambda row: row["id"])
            if not rows:
                return
            yield from rows
            last = rows[-1]["id"]

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
        return self._count(collection) if collection else 0

    def _count(self, collection: str, where: str = "id >= 0") -> int:
        with in_words(self._uri):
            return int(self._client.query(collection, filter=where, output_fields=["count(*)"])[0]["count(*)"])

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Gallery`."""
        with self._lock:
            collection, model, dim = self._current()
            checked_dim(enrolments.vectors.shape[1], dim)
            collection = collection or self._make(CURRENT, model, enrolments.vectors.shape[1])
            return self._insert(collection, enrolments)

    def _insert(self, collection: str, some: Enrolments) -> list[int]:
        times = np.full(len(some), clock.time()) if some.time is None else some.time
        quality = np.full(len(some), np.nan) if some.quality is None else some.quality
        rows = [
            {"subject": subject(name), "person": name, "quality": None if q != q else float(q), "time": float(t),
             "consent": note, "vector": vector}
            for name, vector, q, t, note in zip(
                some.people, some.vectors, quality, times, some.consent or [None] * len(some), strict=True)
        ]  # fmt: skip
        with in_words(self._uri):
            ids = [int(number) for number in self._client.insert(collection, rows)["ids"]]
        for name in dict.fromkeys(some.people):
            self._note("enrol", name, f"{list(some.people).count(name)} templates, {collection}")
        return ids

    def search(self, vector: ArrayLike, k: int = 10, *, exact: bool | None = None) -> list[Match]:
        """See `Gallery`. Milvus's own index decides how exact: the one made here is exact (FLAT)."""
        if k < 1:
            raise InputError("k ≥ 1", str(k), "ask for at least one person")
        collection, _, dim = self._current()
        query, found = unit_query(vector, dim), []
        if collection:
            with in_words(self._uri):
                found = self._client.search(
                    collection, [query.astype(np.float32)], limit=k, output_fields=["person", "vector"],
                    group_by_field="subject",
                )[0]  # fmt: skip
        entities = [hit["entity"] for hit in found]
        # Milvus's own scores may differ in the last bit from `verify`'s, and so may a decision at the threshold.
        rows = cosine.exact([each["vector"] for each in entities]).reshape(len(entities), len(query))
        scores = cosine.paired(rows, cosine.exact(query))
        matches = [self._match(float(score), each["person"]) for score, each in zip(scores, entities, strict=True)]
        matches.sort(key=lambda match: -match.score)
        best = matches[0] if matches else None
        told = f"best of {len(matches)}: cosine {best.score:.4f}" if best else "empty"
        self._note("search", best.person if best else None, told)
        return matches

    def _match(self, score: float, person: str) -> Match:
        return Match(score, self._point.accepts(score) if self._point else None, person)

    def verify(self, person: str, vector: ArrayLike) -> Match:
        """See `Gallery`."""
        name = checked_name(person)
        collection, _, dim = self._current()
        query = cosine.exact(unit_query(vector, dim))
        rows = list(self._rows(collection, ["vector"], f'subject == "{subject(name)}"'))
        if not rows:
            raise unknown(name)
        score = float(cosine.paired(cosine.exact([row["vector"] for row in rows]), query).max())
        self._note("verify", name, f"cosine {score:.4f}")
        return self._match(score, name)

    def forget(self, person: str) -> int:
        """See `Gallery`. Old versions and one to come lose her too."""
        name = checked_name(person)
        where = f'subject == "{subject(name)}"'
        with self._lock:
            current, coming = self._current()[0], self._alias(NEXT)
            count = self._count(current, where) if current else 0
            if not count:
                raise unknown(name)
            with in_words(self._uri):
                for collection in filter(None, (current, coming)):
                    self._client.delete(collection, filter=where)
                    self._client.flush(collection)
                    self._client.compact(collection)
            self._note("forget", name, f"{count} templates")
        return count

    def people(self) -> list[Person]:
        """See `Gallery`."""
        found: dict[str, tuple[int, float, str | None]] = {}
        for row in self._rows(self._current()[0], ["person", "time", "consent"]):
            count, first, note = found.get(row["person"], (0, row["time"], None))
            found[row["person"]] = count + 1, min(first, row["time"]), row["consent"] or note
        return [Person(name, n, datetime.fromtimestamp(t, UTC), note) for name, (n, t, note) in sorted(found.items())]

    def export(self) -> Iterator[Enrolments]:
        """See `Gallery`."""
        self._note("export", None, "all templates")
        part: list[dict[str, Any]] = []
        for row in self._rows(self._current()[0], ["person", "quality", "time", "consent", "vector"]):
            part.append(row)
            if len(part) == PART:
                yield _gathered(part)
                part = []
        if part:
            yield _gathered(part)

    def compact(self) -> None:
        """See `Gallery`."""
        with in_words(self._uri):
            for name in self._client.list_collections():
                if name.startswith(TEMPLATES):
                    self._client.flush(name)
                    self._client.compact(name)

    def backup(self, path: str | Path) -> None:
        """Milvus has its own way: milvus-backup for a cluster, a copy of the closed folder for Milvus Lite."""
        raise DataError(
            "a gallery that backs itself up", f"Milvus at {self._uri}",
            "use milvus-backup, copy the folder of Milvus Lite while it is closed, or export into an embedded gallery",
        )  # fmt: skip

    def audit(self) -> Iterator[Event]:
        """See `Gallery`. Milvus's log is not chained: who may write to Milvus may change it."""
        with in_words(self._uri):
            collection = AUDIT if self._client.has_collection(AUDIT) else None
        rows = self._rows(collection, ["time", "action", "person", "detail"])
        for number, row in enumerate(rows, 1):
            told = datetime.fromtimestamp(row["time"], UTC)
            yield Event(number, told, row["action"], row["person"], row["detail"] or "")

    def migrate(self, model: str) -> MilvusMigration:
        """See `Gallery`."""
        coming = self._alias(NEXT)
        if coming:
            checked_model(model, self._bound(coming)[0])
        elif model == self.model:
            raise ModelError("another model than the gallery's", model, "name the new one")
        return MilvusMigration(self, model)

    def close(self) -> None:
        """See `Gallery`."""
        with suppress(Exception):
            self._client.close()


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
) -> MilvusGallery:
    """Milvus Lite or a cluster: `milvus:people.milvus.db`, `milvus:http://host:19530`."""
    if key is not None or os.environ.get(KEY_VARIABLE):
        raise ConfigError(
            "no key: Milvus keeps templates readable, as it must to search them", "one",
            f"encrypt Milvus's disks and leave out the key and {KEY_VARIABLE}, or use file:PATH",
        )  # fmt: skip
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs tracebacks of what is raised anyway
    return MilvusGallery(place, model=model, operating_point=operating_point, create=create)
