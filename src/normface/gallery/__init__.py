"""Galleries of enrolled people: one protocol, and the place a URL names.

```python
import numpy as np
from normface.gallery import open_gallery

with open_gallery("file:people.db", model="of which weights the vectors are") as gallery:
    gallery.enrol("Ann", np.random.default_rng(0).normal(size=(3, 128)), consent="form 12, 2026-11-24")
    print(gallery.search(np.ones(128), k=1))
```
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..registry import Registry
from .base import Enrolments, Event, Gallery, Migration, Person

if TYPE_CHECKING:
    from ..types import OperatingPoint

__all__ = ["GALLERIES", "Enrolments", "Event", "Gallery", "Migration", "Person", "open_gallery"]

GALLERIES: Registry[Gallery] = Registry("gallery", __name__)  # by the kind that a URL begins with


def open_gallery(
    url: str | Path,
    *,
    model: str | None = None,
    operating_point: OperatingPoint | None = None,
    key: bytes | str | None = None,
    create: bool = True,
) -> Gallery:
    """Open a gallery, or make it.

    Args:
        url: `file:people.db` or a path: one SQLite file on this machine, searched in memory;
            `milvus:people.milvus.db` (Milvus Lite, a file) or `milvus:http://host:19530` (a cluster).
        model: SHA-256 of the weights that vectors come from (`Embedder.sha256`). A gallery is bound to one when made;
            None takes the vectors on trust.
        operating_point: decides matches; without one decisions are None.
        key: the master key: 32 bytes, 64 hexadecimal digits, or the path of a file with these; by default what
            NORMFACE_GALLERY_KEY holds. A gallery made with a key keeps its templates encrypted (docs/gallery.md).
        create: False refuses to make a new one.

    Raises:
        ModelError: the gallery or the operating point belongs to another model.
        ConfigError: an unknown kind of URL, a key that is wrong, missing or not wanted.
        DataError: a damaged or foreign file; its message names the damage.
    """
    kind, colon, place = str(url).partition(":")
    if not colon or len(kind) == 1:  # a bare path; `C:\…` is one too
        kind, place = "file", str(url)
    if kind not in GALLERIES or not place:
        raise ConfigError(
            "file:PATH, a path, milvus:PATH or milvus:http://HOST:PORT", repr(str(url)), "name a gallery so"
        )
    return GALLERIES.build(kind, place, model=model, operating_point=operating_point, key=key, create=create)
