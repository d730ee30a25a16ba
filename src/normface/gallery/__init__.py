"""Galleries of enrolled people: one protocol, with back ends selected by URL.

```python
import numpy as np
from normface.gallery import open_gallery

with open_gallery("file:people.db", model="SHA-256 of the weights") as gallery:
    gallery.enrol("Ann", np.random.default_rng(0).normal(size=(3, 128)), consent="form 12, 2026-11-24")
    print(gallery.search(np.ones(128), k=1))
```
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..registry import Registry
from .audit import acting
from .base import Doubt, Enrolments, Erased, Event, Gallery, Migration, Person, Template, Unknown
from .doubts import settle
from .names import PersonId

if TYPE_CHECKING:
    from ..types import OperatingPoint

__all__ = [
    "GALLERIES", "Doubt", "Enrolments", "Erased", "Event", "Gallery", "Migration", "Person", "PersonId", "Template",
    "Unknown", "acting", "open_gallery", "settle",
]  # fmt: skip

GALLERIES: Registry[Gallery] = Registry("gallery", __name__)  # by the kind that a URL begins with


def open_gallery(
    url: str | Path,
    *,
    model: str | None = None,
    operating_point: OperatingPoint | None = None,
    key: bytes | str | None = None,
    create: bool = True,
    read_only: bool = False,
    templates: bool = True,
) -> Gallery:
    """Open a gallery, or create it.

    Args:
        url: `file:people.db` or a path: one SQLite file on this machine, searched in memory;
            `postgres://user@host/database` (with pgvector); `qdrant://host:6333` (a server), `qdrant:https://host:6333`
            or `qdrant:FOLDER` (Qdrant's local mode); `milvus:http://host:19530` (a cluster) or
            `milvus:people.milvus.db` (Milvus Lite).
        model: SHA-256 of the weights that compute the vectors (`Embedder.sha256`). A new gallery is bound to it; None
            disables the check.
        operating_point: decides matches; without one, decisions are None.
        key: the master key: 32 bytes, 64 hexadecimal digits, or the path of a file with these. Default: the value of
            NORMFACE_GALLERY_KEY. A gallery created with a key encrypts its templates (docs/gallery.md).
        create: if False, do not create a new gallery.
        read_only: never write, not even that somebody was searched; works on read-only disks.
        templates: if False, read no templates: the gallery opens at once, also without its key, to list people, forget
            and tag them, read the log and back up. It cannot search.

    Raises:
        ModelError: the gallery or the operating point belongs to another model.
        ConfigError: an unknown kind of URL; a wrong, missing or unexpected key.
        DataError: a damaged file, or a file of another application.
    """
    kind, colon, place = str(url).partition(":")
    if not colon or len(kind) == 1:  # a bare path; `C:\…` is one too
        kind, place = "file", str(url)
    if kind not in GALLERIES or not place:
        raise ConfigError(
            "file:PATH, a path, postgres://USER@HOST/DATABASE, qdrant://HOST, qdrant:FOLDER, milvus:http://HOST:PORT "
            "or milvus:PATH",
            repr(f"{kind}:…"),
            "correct the gallery's URL",
        )
    # What is not the default is passed only then: a plug-in's gallery may not know it.
    options = {"read_only": True} if read_only else {}
    options |= {} if templates else {"templates": False}
    return GALLERIES.build(kind, place, model=model, operating_point=operating_point, key=key, create=create, **options)
