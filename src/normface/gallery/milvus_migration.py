"""A Milvus gallery on its way to another model: a second collection, which takes over the alias that searches use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import DataError, InputError, NormfaceError
from .base import Enrolments, Migration, checked_dim, unknown

if TYPE_CHECKING:
    from .milvus import MilvusGallery

CURRENT, NEXT = "normface_current", "normface_next"  # aliases


class MilvusMigration(Migration):
    """See `gallery.Migration`."""

    def __init__(self, gallery: MilvusGallery, model: str) -> None:
        self._gallery, self.model = gallery, model

    def missing(self) -> list[str]:
        """See `Migration`."""
        coming = self._gallery._alias(NEXT)
        have = {row["subject"] for row in self._gallery._rows(coming, ["subject"])}
        return [person.name for person in self._gallery.people() if subject(person.name) not in have]

    def enrol_many(self, enrolments: Enrolments) -> list[int]:
        """See `Migration`."""
        gallery = self._gallery
        with gallery._lock:
            notes = {person.name: person.consent for person in gallery.people()}
            for name in enrolments.people:
                if name not in notes:
                    raise unknown(name)
            dim, coming = enrolments.vectors.shape[1], gallery._alias(NEXT)
            if coming:
                checked_dim(dim, gallery._bound(coming)[1])
            consent = [notes[name] for name in enrolments.people]
            some = Enrolments(enrolments.people, enrolments.vectors, enrolments.quality, enrolments.time, consent)
            return gallery._insert(coming or gallery._make(NEXT, self.model, dim), some)

    def switch(self) -> int:
        """See `Migration`."""
        gallery = self._gallery
        with gallery._lock:
            old, coming = gallery._current()[0], gallery._alias(NEXT)
            if missing := self.missing():
                raise InputError(
                    "templates of the new model for everybody", f"{len(missing)} people without (first: {missing[0]})",
                    "enrol them in the migration, or forget them",
                )  # fmt: skip
            if not coming or not old:
                raise InputError("a migration under way", "one that was switched or abandoned", "begin another")
            count = len(gallery)
            with in_words(gallery._uri):
                gallery._client.alter_alias(coming, CURRENT)
                gallery._client.drop_alias(NEXT)
                gallery._client.drop_collection(old)
            if gallery._asked:
                gallery._asked = self.model
            if gallery._point and gallery._point.model_sha256 != self.model:
                gallery._point = None
            gallery._note("switch", None, f"to {self.model}, {count} old templates erased")
        return count

    def abandon(self) -> int:
        """See `Migration`."""
        gallery = self._gallery
        with gallery._lock:
            coming = gallery._alias(NEXT)
            if not coming:
                return 0
            count = gallery._count(coming)
            with in_words(gallery._uri):
                gallery._client.drop_alias(NEXT)
                gallery._client.drop_collection(coming)
            gallery._note("migrate", None, f"to {self.model} abandoned, {count} templates erased")
        return count


def subject(name: str) -> str:
    """What a person is filtered by: hexadecimal digits, so that no name can be read as an expression."""
    return hashlib.sha256(name.encode()).hexdigest()


@contextmanager
def in_words(uri: str) -> Iterator[None]:
    """Milvus's errors as a DataError of one line."""
    try:
        yield
    except NormfaceError:
        raise
    except Exception as error:  # pymilvus raises its own, gRPC's and plain ones
        raise DataError(
            f"Milvus to answer at {uri}", f"'{error}'", "see that it runs and that the path or URI is right"
        ) from error
