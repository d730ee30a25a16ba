"""A Milvus gallery on its way to another model: a second collection, which takes over the alias that searches use."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import InputError
from .base import Enrolments, Migration, Person, checked_dim, unknown
from .milvus_store import CURRENT, NEXT, MilvusStore
from .names import folded


class MilvusMigration(Migration):
    """See `gallery.Migration`. `people` tells who is enrolled; `switched` is told the new model after a switch."""

    def __init__(
        self, store: MilvusStore, model: str, people: Callable[[], list[Person]], switched: Callable[[str], object]
    ) -> None:
        self._store, self.model, self._people, self._switched = store, model, people, switched

    def missing(self) -> list[str]:
        """See `Migration`."""
        have = {folded(row["person"]) for row in self._store.rows(self._store.alias(NEXT), ["person"])}
        return [person.name for person in self._people() if folded(person.name) not in have]

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Migration`."""
        store = self._store
        with store.lock:
            notes = {folded(person.name): person.consent for person in self._people()}
            for name in enrolments.people:
                if folded(name) not in notes:
                    raise unknown(name)
            dim, coming = enrolments.vectors.shape[1], store.alias(NEXT)
            if coming:
                checked_dim(dim, store.bound(coming)[1])
            consent = [notes[folded(name)] for name in enrolments.people]
            some = Enrolments(enrolments.people, enrolments.vectors, enrolments.quality, enrolments.time, consent)
            return store.insert(coming or store.make(NEXT, self.model, dim), some)

    def switch(self) -> int:
        """See `Migration`."""
        store = self._store
        with store.lock:
            if missing := self.missing():
                raise InputError(
                    "templates of the new model for all people", f"{len(missing)} people without (first: {missing[0]})",
                    "enrol them in the migration, or forget them",
                )  # fmt: skip
            old, coming = store.alias(CURRENT), store.alias(NEXT)
            if not coming or not old:
                raise InputError("a migration in progress", "one that has ended", "call gallery.migrate again")
            count = store.count(old)
            store.replace(old, coming)
            self._switched(self.model)
            store.note("switch", None, f"to {self.model}, {count} old templates erased")
        return count

    def abandon(self) -> int:
        """See `Migration`."""
        store = self._store
        with store.lock:
            coming = store.alias(NEXT)
            if not coming:
                return 0
            count = store.count(coming)
            store.drop(coming, NEXT)
            store.note("migrate", None, f"to {self.model} abandoned, {count} templates erased")
        return count
