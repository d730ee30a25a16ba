"""A gallery in Qdrant: a server or cluster, or its client's local mode (a folder, one process) for trying it out.

`normface_templates_N` holds version N of the gallery, its model in the collection's metadata; the alias
`normface_current` names the one that searches see, `normface_next` the one to come; `normface_audit` is the log.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

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
MODEL, KEY_VARIABLE = "normface.model", "QDRANT_API_KEY"
PORT, TIMEOUT = 6333, 60  # seconds
POINTS_AT_ONCE = 1000  # points in one request: Qdrant takes 32 MB


class Qdrant(Database):
    """See `Database`. `place`: `//host:port`, `http://…`, `https://…`, or the folder of local mode.

    A server's key is the value of QDRANT_API_KEY. A forked child opens new connections to a server.
    """

    kind = "Qdrant"
    backup = "use Qdrant's snapshots, copy the folder of local mode while it is closed"

    def __init__(self, place: str, *, create: bool) -> None:
        self._qdrant = require("qdrant_client", "qdrant")
        self._url = f"http:{place}" if place.startswith("//") else place if "://" in place else None
        self.place = self._url or str(Path(place).expanduser().resolve())
        if not self._url and not create and not (Path(self.place) / "meta.json").exists():
            raise InputError(f"a gallery at {self.place}", "nothing there", "correct the path, or enrol people first")
        self._folder = None if self._url else _Folder.open(self.place, id(self), self._local)
        self._lock = self._folder.lock if self._folder else threading.RLock()
        self._server: tuple[int, Any] | None = None  # process and client

    def _local(self) -> Any:
        with self._in_words():
            try:
                return self._qdrant.QdrantClient(path=self.place)
            except RuntimeError as error:
                raise DataError(
                    f"no other process to use {self.place}, because Qdrant's local mode serves one process",
                    lock_holder(Path(self.place) / ".lock") or "another one",
                    "end that process, start a Qdrant server, or use file:PATH, which serves many",
                ) from error  # fmt: skip

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """Qdrant's client, in local mode for one thread at a time."""
        if self._folder:
            with self._folder.lock, self._in_words():
                yield self._folder.client
            return
        with self._in_words():
            if self._server is None or self._server[0] != os.getpid():
                key = os.environ.get(KEY_VARIABLE) or None
                made = self._qdrant.QdrantClient(
                    url=self._url, port=PORT, api_key=key, timeout=TIMEOUT, check_compatibility=False
                )
                self._server = os.getpid(), made
            yield self._server[1]

    def writing(self) -> threading.RLock:
        """See `Database`."""
        return self._lock

    # Versions.

    def version(self, state: State) -> Version | None:
        """See `Database`."""
        with self._client() as client:
            names = {each.alias_name: each.collection_name for each in client.get_aliases().aliases}
            name = names.get(alias_of(state))
            if name is None:
                return None
            config = client.get_collection(name).config
        return Version(name, (config.metadata or {}).get(MODEL) or None, int(config.params.vectors.size))

    def make(self, state: State, model: str | None, dim: int) -> Version:
        """See `Database`."""
        models = self._qdrant.models
        with self._client() as client:
            names = [each.name for each in client.get_collections().collections]
            numbers = [int(name.removeprefix(TEMPLATES)) for name in names if name.startswith(TEMPLATES)]
            name = f"{TEMPLATES}{max(numbers, default=0) + 1}"
            shape = models.VectorParams(size=dim, distance=models.Distance.DOT)  # cosines would change the vectors
            client.create_collection(name, vectors_config=shape, metadata={MODEL: model})
            if model and (client.get_collection(name).config.metadata or {}).get(MODEL) != model:
                client.delete_collection(name)
                raise DataError(
                    f"Qdrant 1.16 or later at {self.place}, which keeps the name of the model", "an older one",
                    "update Qdrant",
                )  # fmt: skip
            if self._url:
                for field in ("subject", "source"):
                    client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD)
            made = models.CreateAlias(collection_name=name, alias_name=alias_of(state))
            client.update_collection_aliases([models.CreateAliasOperation(create_alias=made)])
        return Version(name, model, dim)

    def replace(self, old: Version, coming: Version) -> None:
        """See `Database`."""
        models = self._qdrant.models
        with self._client() as client:
            client.update_collection_aliases([
                models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias_of("current"))),
                models.RenameAliasOperation(
                    rename_alias=models.RenameAlias(old_alias_name=alias_of("next"), new_alias_name=alias_of("current"))
                ),
            ])  # fmt: skip
            client.delete_collection(old.name)

    def drop(self, version: Version) -> None:
        """See `Database`. Its alias goes with it."""
        with self._client() as client:
            client.delete_collection(version.name)

    # Templates.

    def insert(self, version: Version, rows: list[Record]) -> list[int]:
        """See `Database`. What was written before an error is deleted again."""
        start = secrets.randbits(62)  # so many that no two calls meet; those of one are in order
        numbers = list(range(start, start + len(rows)))
        points = [
            self._qdrant.models.PointStruct(
                id=number, vector=row["vector"].tolist(),
                payload={
                    "subject": subject(row["person"]), "person": row["person"], "quality": row["quality"],
                    "time": row["time"], "consent": row["consent"], "source": row["source"],
                },
            )
            for number, row in zip(numbers, rows, strict=True)
        ]  # fmt: skip
        with self._client() as client:
            try:
                for start in range(0, len(points), POINTS_AT_ONCE):
                    client.upsert(version.name, points[start : start + POINTS_AT_ONCE], wait=True)
            except BaseException:
                with suppress(Exception):
                    client.delete(version.name, numbers, wait=True)
                raise
        return numbers

    def rows(
        self, version: Version, columns: Iterable[str], *, person: str | None = None, sources: list[str] | None = None
    ) -> Iterator[Record]:
        """See `Database`."""
        names, wanted = set(columns), self._wanted(person, sources)
        for point in self._points(version.name, sorted(names - {"vector"}), "vector" in names, wanted):
            yield {"id": point.id, **point.payload, "vector": point.vector}

    def _points(self, collection: str, columns: list[str], vectors: bool = False, wanted: Any = None) -> Iterator[Any]:
        offset = None
        while True:
            with self._client() as client:
                points, offset = client.scroll(
                    collection, wanted, POINTS_AT_ONCE, offset=offset, with_payload=columns, with_vectors=vectors
                )
            yield from points
            if offset is None:
                return

    def nearest(self, version: Version, query: Floats, count: int, exact: bool | None) -> list[Record]:
        """See `Database`. Exact, unless exact=False lets Qdrant use its index."""
        way = self._qdrant.models.SearchParams(exact=exact is not False) if self._url else None  # local mode is exact
        with self._client() as client:
            found = client.query_points(
                version.name, query.tolist(), limit=count, with_payload=["person"], with_vectors=True, search_params=way
            )
        return [{**point.payload, "vector": point.vector} for point in found.points]

    def count(self, version: Version, person: str | None = None) -> int:
        """See `Database`."""
        with self._client() as client:
            return int(client.count(version.name, self._wanted(person), exact=True).count)

    def erase(self, version: Version, person: str) -> None:
        """See `Database`."""
        with self._client() as client:
            client.delete(version.name, self._qdrant.models.FilterSelector(filter=self._wanted(person)), wait=True)

    def _wanted(self, person: str | None, sources: list[str] | None = None) -> Any:
        """The filter of templates of a person, or of photographs; None for all."""
        models = self._qdrant.models
        found = []
        if person is not None:
            found.append(models.FieldCondition(key="subject", match=models.MatchValue(value=subject(person))))
        if sources is not None:
            found.append(models.FieldCondition(key="source", match=models.MatchAny(any=sources)))
        return models.Filter(must=found) if found else None

    def compact(self) -> None:
        """See `Database`. Qdrant does this by itself."""

    # The log.

    def note(self, *notes: Note) -> None:
        """See `Database`. Ids begin with the time, so they are in the order of happening, as far as clocks agree."""
        models, now = self._qdrant.models, time.time_ns()
        points = [
            models.PointStruct(
                id=str(uuid.UUID(int=(now + number << 64) | secrets.randbits(64))), vector={},
                payload={
                    "time": note.time, "action": note.action, "person": note.person, "detail": note.detail,
                    "actor": note.actor,
                },
            )
            for number, note in enumerate(notes)
        ]  # fmt: skip
        with self._lock, self._client() as client:
            if not client.collection_exists(AUDIT):
                client.create_collection(AUDIT, vectors_config={})
            for start in range(0, len(points), POINTS_AT_ONCE):
                client.upsert(AUDIT, points[start : start + POINTS_AT_ONCE], wait=True)

    def events(self) -> Iterator[Event]:
        """See `Database`."""
        with self._client() as client:
            if not client.collection_exists(AUDIT):
                return
        points = sorted(self._points(AUDIT, ["time", "action", "person", "detail", "actor"]), key=lambda p: p.id)
        for number, point in enumerate(points, 1):
            line = point.payload
            told = datetime.fromtimestamp(line["time"], UTC)
            yield Event(number, told, line["action"], line["person"], line["detail"], line["actor"])

    def close(self) -> None:
        """See `Database`."""
        if self._folder:
            self._folder.close(id(self))
        elif self._server and self._server[0] == os.getpid():
            self._server[1].close()

    def _in_words(self) -> AbstractContextManager[None]:
        advice = f"check that Qdrant is running, the URL, and {KEY_VARIABLE}"
        return in_words("Qdrant", self.place, advice, lambda error: str(error).strip().replace("\n", " ")[:300])


class _Folder:
    """A folder in local mode, and its client, which one thread at a time may use.

    Qdrant lets a process open a folder once, so the galleries in it share the client. `users`: their ids.
    """

    opened: ClassVar[dict[str, _Folder]] = {}
    opening = threading.Lock()

    def __init__(self, place: str, client: Any) -> None:
        self.place, self.client, self.lock = place, client, threading.RLock()
        self.users: set[int] = set()

    @classmethod
    def open(cls, place: str, user: int, connect: Callable[[], Any]) -> _Folder:
        """Open a folder, or share it."""
        with cls.opening:
            found = cls.opened.get(place)
            if found is None:
                found = cls.opened[place] = cls(place, connect())
            found.users.add(user)
            return found

    def close(self, user: int) -> None:
        """Close it if nobody else uses it."""
        with self.opening:
            self.users.discard(user)
            if not self.users and self.opened.get(self.place) is self:
                del self.opened[self.place]
                self.client.close()


@GALLERIES.register
def qdrant(
    place: str,
    *,
    model: str | None,
    operating_point: OperatingPoint | None,
    key: bytes | str | None,
    create: bool,
    templates: bool = True,  # it reads none when it opens
) -> DatabaseGallery:
    """Qdrant, a server or a folder in local mode: `qdrant://host:6333`, `qdrant:https://host:6333`, `qdrant:FOLDER`."""
    no_key(key, "Qdrant")
    return DatabaseGallery(Qdrant(place, create=create), model=model, operating_point=operating_point)
