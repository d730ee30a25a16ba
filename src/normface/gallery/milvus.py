"""A gallery in Milvus: Milvus Lite (a folder, one process), or a cluster for galleries too large for one machine.

`normface_templates_N` holds version N of the gallery, its model in the collection's properties; the alias
`normface_current` names the one that searches see, `normface_next` the one to come; `normface_audit` is the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import DataError, InputError, require
from ..types import Floats, OperatingPoint
from . import GALLERIES
from .audit import Note
from .base import Event
from .database import (
    Database,
    DatabaseGallery,
    Record,
    State,
    Version,
    alias_of,
    in_words,
    lock_holder,
    no_key,
    subject,
)

TEMPLATES, AUDIT = "normface_templates_", "normface_audit"
MODEL, TEXT = "normface.model", 2000
QUERY_LIMIT, SEARCH_LIMIT = 1000, 16_384  # rows of a page; the greatest number of results that Milvus allows


class Milvus(Database):
    """See `Database`. `uri`: a path for Milvus Lite, or where a server is."""

    kind = "Milvus"
    backup = "use milvus-backup, copy the folder of Milvus Lite while it is closed"

    def __init__(self, uri: str) -> None:
        self._milvus: Any = require("pymilvus", "milvus")
        # They log tracebacks of what is raised anyway; importing pymilvus sets its own level.
        for name in ("pymilvus", "milvus_lite"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.place, self._lock = uri, threading.RLock()
        self._loaded: set[str] = set()
        self._sourced: dict[str, bool] = {}  # by collection: whether it has hashes of photographs
        with self._in_words():
            try:
                self._client: Any = self._milvus.MilvusClient(uri)
            except Exception as error:
                if holder := lock_holder(Path(uri) / "LOCK"):
                    raise DataError(
                        f"no other process to use {uri}, because Milvus Lite serves one process", holder,
                        "end that process, or use file:PATH, which serves many",
                    ) from error  # fmt: skip
                raise

    def writing(self) -> threading.RLock:
        """See `Database`."""
        return self._lock

    # Versions.

    def version(self, state: State) -> Version | None:
        """See `Database`. Its collection is loaded: Milvus Lite opens collections released."""
        with self._in_words():
            for name in self._client.list_collections():
                if name.startswith(TEMPLATES) and alias_of(state) in self._client.list_aliases(name)["aliases"]:
                    told = self._client.describe_collection(self._load(name))
                    fields = {field["name"]: field for field in told["fields"]}
                    dim = int(fields["vector"]["params"]["dim"])
                    self._sourced[name] = "source" in fields
                    return Version(name, told["properties"].get(MODEL) or None, dim)
        return None

    def _load(self, collection: str) -> str:
        if collection not in self._loaded:
            self._client.load_collection(collection)
            self._loaded.add(collection)
        return collection

    def make(self, state: State, model: str | None, dim: int) -> Version:
        """See `Database`. With an exact index."""
        types, client = self._milvus.DataType, self._client
        with self._in_words():
            numbers = [int(n.removeprefix(TEMPLATES)) for n in client.list_collections() if n.startswith(TEMPLATES)]
            name = f"{TEMPLATES}{max(numbers, default=0) + 1}"
            fields = {
                "subject": (types.VARCHAR, {"max_length": 64}), "person": (types.VARCHAR, {"max_length": TEXT}),
                "quality": (types.DOUBLE, {"nullable": True}), "time": (types.DOUBLE, {}),
                "consent": (types.VARCHAR, {"max_length": TEXT, "nullable": True}),
                "source": (types.VARCHAR, {"max_length": TEXT, "nullable": True}),
                "vector": (types.FLOAT_VECTOR, {"dim": dim}),
            }  # fmt: skip
            self._create(name, fields, {MODEL: model or ""}, metric="IP")
            client.create_alias(name, alias_of(state))
            self._sourced[name] = True
        return Version(name, model, dim)

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

    def replace(self, old: Version, coming: Version) -> None:
        """See `Database`."""
        with self._in_words():
            self._client.alter_alias(coming.name, alias_of("current"))
            self._client.drop_alias(alias_of("next"))
            self._client.drop_collection(old.name)

    def drop(self, version: Version) -> None:
        """See `Database`."""
        with self._in_words():
            for alias in self._client.list_aliases(version.name)["aliases"]:
                self._client.drop_alias(alias)
            self._client.drop_collection(version.name)

    # Templates.

    def insert(self, version: Version, rows: list[Record]) -> list[int]:
        """See `Database`."""
        with self._in_words():
            kept = [
                {"subject": subject(row["person"]), **{name: row[name] for name in row if self._has(version, name)}}
                for row in rows
            ]
            told = self._client.insert(version.name, kept)
        return [int(number) for number in told["ids"]]

    def rows(
        self, version: Version, columns: Iterable[str], *, person: str | None = None, sources: list[str] | None = None
    ) -> Iterator[Record]:
        """See `Database`."""
        where = _whose(person)
        if sources is not None:
            if not self._has(version, "source"):
                return iter(())
            where += f" and source in {json.dumps(sources)}"
        return self._rows(version.name, [each for each in columns if self._has(version, each)], where)

    def _has(self, version: Version, column: str) -> bool:
        """Whether a version has a column: older collections have no hashes of photographs."""
        return column != "source" or self._sourced[version.name]

    def _rows(self, collection: str, columns: Iterable[str], where: str) -> Iterator[Record]:
        with self._in_words():
            pages = self._client.query_iterator(
                collection, batch_size=QUERY_LIMIT, filter=where, output_fields=["id", *columns]
            )
        try:
            while True:
                with self._in_words():
                    rows = pages.next()
                if not rows:
                    return
                yield from rows
        finally:
            pages.close()

    def nearest(self, version: Version, query: Floats, count: int, exact: bool | None) -> list[Record]:
        """See `Database`: one of each person."""
        with self._in_words():
            found = self._client.search(
                version.name, [query], limit=min(count, SEARCH_LIMIT), output_fields=["person", "vector"],
                group_by_field="subject",
            )  # fmt: skip
        return [hit["entity"] for hit in found[0]]

    def count(self, version: Version, person: str | None = None) -> int:
        """See `Database`."""
        with self._in_words():
            told = self._client.query(version.name, filter=_whose(person), output_fields=["count(*)"])
        return int(told[0]["count(*)"])

    def erase(self, version: Version, person: str) -> None:
        """See `Database`."""
        with self._in_words():
            self._client.delete(version.name, filter=_whose(person))
        self._compact(version.name)

    def compact(self) -> None:
        """See `Database`."""
        with self._in_words():
            names = [name for name in self._client.list_collections() if name.startswith(TEMPLATES)]
        for name in names:
            self._compact(name)

    def _compact(self, collection: str) -> None:
        with self._in_words():
            self._client.flush(collection)
            self._client.compact(collection)

    # The log.

    def note(self, *notes: Note) -> None:
        """See `Database`. Milvus wants a vector in every collection: this one's has no meaning."""
        types = self._milvus.DataType
        with self._lock, self._in_words():
            if not self._client.has_collection(AUDIT):
                texts = {name: (types.VARCHAR, {"max_length": TEXT, "nullable": True}) for name in ("person", "detail")}
                fields = {"time": (types.DOUBLE, {}), "action": (types.VARCHAR, {"max_length": 20}), **texts}
                self._create(AUDIT, {**fields, "vector": (types.FLOAT_VECTOR, {"dim": 2})}, {}, metric="L2")
            lines = [
                {"time": note.time, "action": note.action, "person": note.person, "detail": note.detail,
                 "vector": [0.0, 0.0]}
                for note in notes
            ]  # fmt: skip
            self._client.insert(self._load(AUDIT), lines)

    def events(self) -> Iterator[Event]:
        """See `Database`. The log does not tell who did it."""
        with self._in_words():
            if not self._client.has_collection(AUDIT):
                return
            self._load(AUDIT)
        rows = self._rows(AUDIT, ["time", "action", "person", "detail"], _whose(None))
        for number, row in enumerate(sorted(rows, key=lambda row: int(row["id"])), 1):
            told = datetime.fromtimestamp(row["time"], UTC)
            yield Event(number, told, row["action"], row["person"], row["detail"] or "")

    def close(self) -> None:
        """See `Database`."""
        self._client.close()

    def _in_words(self) -> AbstractContextManager[None]:
        return in_words("Milvus", self.place, "check that Milvus is running, and the path or URI")


def _whose(name: str | None) -> str:
    """The filter of a person's rows, or of all; older collections filter by the name as it was spelled."""
    if name is None:
        return "id >= 0"
    return f'subject in ["{subject(name)}", "{hashlib.sha256(name.encode()).hexdigest()}"]'


@GALLERIES.register
def milvus(
    place: str,
    *,
    model: str | None,
    operating_point: OperatingPoint | None,
    key: bytes | str | None,
    create: bool,
    templates: bool = True,  # it reads none when it opens
) -> DatabaseGallery:
    """Milvus Lite or a cluster: `milvus:people.milvus.db`, `milvus:http://host:19530`."""
    no_key(key, "Milvus")
    if "://" not in place:
        if not create and not Path(place).exists():
            raise InputError(f"a gallery at {place}", "nothing there", "correct the path, or enrol people first")
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    return DatabaseGallery(Milvus(place), model=model, operating_point=operating_point)
