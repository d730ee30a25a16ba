"""Collections of a gallery in Milvus: insert, read, count and erase rows, the log, and errors in plain words.

`normface_templates_N` holds version N of the gallery, its model in the collection's properties; the alias
`normface_current` names the one that searches see, `normface_next` the one to come; `normface_audit` is the log.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time as clock
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, NormfaceError, require
from .base import Enrolments
from .names import folded

CURRENT, NEXT = "normface_current", "normface_next"  # aliases
TEMPLATES, AUDIT = "normface_templates_", "normface_audit"
MODEL, TEXT = "normface.model", 2000
QUERY_LIMIT = 1000


class MilvusStore:
    """A client and what lies behind it.

    Attributes:
        uri: where Milvus is.
        client: pymilvus's.
        lock: held by whoever writes to several places.
    """

    def __init__(self, uri: str) -> None:
        self.milvus: Any = require("pymilvus", "milvus")
        # They log tracebacks of what is raised anyway; importing pymilvus sets its own level.
        for name in ("pymilvus", "milvus_lite"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.uri, self.lock = uri, threading.RLock()
        self._loaded: set[str] = set()
        with self.in_words():
            try:
                self.client: Any = self.milvus.MilvusClient(uri)
            except Exception as error:
                if holder := _holder(Path(uri) / "LOCK"):
                    raise DataError(
                        f"no other process to use {uri}, because Milvus Lite serves one process", holder,
                        "end that process, or use file:PATH, which serves many",
                    ) from error  # fmt: skip
                raise

    def alias(self, alias: str) -> str | None:
        """The collection that an alias names, loaded: Milvus Lite opens collections released."""
        with self.in_words():
            for name in self.client.list_collections():
                if name.startswith(TEMPLATES) and alias in self.client.list_aliases(name)["aliases"]:
                    return self._load(str(name))
        return None

    def audit(self) -> str | None:
        """The collection of the log, loaded; None before the first line."""
        with self.in_words():
            return self._load(AUDIT) if self.client.has_collection(AUDIT) else None

    def _load(self, collection: str) -> str:
        if collection not in self._loaded:
            self.client.load_collection(collection)
            self._loaded.add(collection)
        return collection

    def bound(self, collection: str) -> tuple[str | None, int]:
        """Model and length of the vectors of a collection."""
        with self.in_words():
            told = self.client.describe_collection(collection)
            fields = {field["name"]: field for field in told["fields"]}
        return told["properties"].get(MODEL) or None, int(fields["vector"]["params"]["dim"])

    def make(self, alias: str, model: str | None, dim: int) -> str:
        """A collection for templates, with an exact index."""
        types, client = self.milvus.DataType, self.client
        with self.in_words():
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
        schema = self.client.create_schema(auto_id=True, enable_dynamic_field=False)
        schema.add_field("id", self.milvus.DataType.INT64, is_primary=True)
        for field, (kind, options) in fields.items():
            schema.add_field(field, kind, **options)
        index = self.client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type=metric)
        self.client.create_collection(
            name, schema=schema, index_params=index, properties=properties, consistency_level="Strong"
        )

    def note(self, action: str, person: str | None, detail: str) -> None:
        """Append a line to the log."""
        self.note_many(action, [(person, detail)])

    def note_many(self, action: str, lines: Sequence[tuple[str | None, str]]) -> None:
        """Append to the log a line per person. Milvus wants a vector in every collection: this one's has no meaning."""
        types = self.milvus.DataType
        with self.lock, self.in_words():
            if not self.audit():
                texts = {name: (types.VARCHAR, {"max_length": TEXT, "nullable": True}) for name in ("person", "detail")}
                fields = {"time": (types.DOUBLE, {}), "action": (types.VARCHAR, {"max_length": 20}), **texts}
                self._create(AUDIT, {**fields, "vector": (types.FLOAT_VECTOR, {"dim": 2})}, {}, metric="L2")
            line = {"time": clock.time(), "action": action, "vector": [0.0, 0.0]}
            self.client.insert(AUDIT, [{**line, "person": person, "detail": detail} for person, detail in lines])

    def rows(self, collection: str | None, fields: list[str], where: str = "id >= 0") -> Iterator[dict[str, Any]]:
        """Rows, some at a time, in no order."""
        if not collection:
            return
        with self.in_words():
            pages = self.client.query_iterator(
                collection, batch_size=QUERY_LIMIT, filter=where, output_fields=["id", *fields]
            )
        try:
            while True:
                with self.in_words():
                    rows = pages.next()
                if not rows:
                    return
                yield from rows
        finally:
            pages.close()

    def count(self, collection: str, where: str = "id >= 0") -> int:
        """Number of rows that an expression names."""
        with self.in_words():
            return int(self.client.query(collection, filter=where, output_fields=["count(*)"])[0]["count(*)"])

    def insert(self, collection: str, some: Enrolments) -> list[int]:
        """Write templates and note them; returns their numbers."""
        times = np.full(len(some), clock.time()) if some.time is None else some.time
        quality = np.full(len(some), np.nan) if some.quality is None else some.quality
        rows = [
            {"subject": subject(name), "person": name, "quality": None if q != q else float(q), "time": float(t),
             "consent": note, "vector": vector}
            for name, vector, q, t, note in zip(
                some.people, some.vectors, quality, times, some.consent or [None] * len(some), strict=True)
        ]  # fmt: skip
        with self.in_words():
            ids = [int(number) for number in self.client.insert(collection, rows)["ids"]]
        counts = Counter(some.people).items()
        self.note_many("enrol", [(name, f"{count} templates, {collection}") for name, count in counts])
        return ids

    def erase(self, collection: str, where: str) -> None:
        """Delete rows and let Milvus give back their space."""
        with self.in_words():
            self.client.delete(collection, filter=where)
        self.compact(collection)

    def compact(self, collection: str) -> None:
        """Give back the space of deleted rows."""
        with self.in_words():
            self.client.flush(collection)
            self.client.compact(collection)

    def replace(self, old: str, coming: str) -> None:
        """Let searches see the collection to come, and remove the old one."""
        with self.in_words():
            self.client.alter_alias(coming, CURRENT)
            self.client.drop_alias(NEXT)
            self.client.drop_collection(old)

    def drop(self, collection: str, alias: str) -> None:
        """Remove a collection and its alias."""
        with self.in_words():
            self.client.drop_alias(alias)
            self.client.drop_collection(collection)

    @contextmanager
    def in_words(self) -> Iterator[None]:
        """Raise Milvus's errors as a DataError of one line."""
        try:
            yield
        except NormfaceError:
            raise
        except Exception as error:  # pymilvus raises its own, gRPC's and plain ones
            raise DataError(
                f"Milvus to answer at {self.uri}", f"'{error}'", "check that Milvus is running, and the path or URI"
            ) from error


def _holder(lock: Path) -> str | None:
    """The process that holds Milvus Lite's lock, as Linux tells it; None if it is not known."""
    with suppress(OSError, ValueError):
        inode = lock.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 1234 fe:01:567 0 EOF
            if "->" not in words and int(words[5].rpartition(":")[2]) == inode and int(words[4]) > 0:
                command = Path(f"/proc/{words[4]}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return f"process {words[4]} ({command.strip()[:80]})"
    return None


def subject(name: str) -> str:
    """What a person is filtered by: hexadecimal digits, so that no name can be read as an expression."""
    return hashlib.sha256(folded(name).encode()).hexdigest()


def whose(name: str) -> str:
    """The filter of a person's rows; older collections filter by the name as it was spelled."""
    return f'subject in ["{subject(name)}", "{hashlib.sha256(name.encode()).hexdigest()}"]'
