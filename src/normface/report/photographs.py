"""What became of many photographs, as one HTML file without scripts: counts, reasons, pictures of the refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..data import open_reader
from . import pages

LISTED = 2000  # names of refused photographs


def render_photographs(
    title: str,
    facts: Mapping[str, str],
    reasons: Mapping[str, int],
    refused: Sequence[tuple[str, str, bytes | None]],
    more: Sequence[tuple[str, str]] = (),
    heading: str = "Refused",
) -> str:
    """A page of `facts`, of how many were refused for which of the `reasons`, and of the `refused`: name, reason, JPEG.

    `more` are named without a picture, up to LISTED of them.
    """
    return pages.render(
        "photographs.html",
        title=title,
        counts=facts,
        heading=heading,
        reasons={reason: f"{n:,}" for reason, n in reasons.items()},
        refused=refused,
        listed=more[:LISTED],
        unlisted=max(len(more) - LISTED, 0),
    )


def thumbnails(crops: Path) -> Callable[[str], bytes | None]:
    """Small JPEGs of aligned crops by id; None for ids that are not there."""
    import simplejpeg

    reader = open_reader(crops)
    rows = {id: row for row, id in enumerate(reader.ids.tolist())}

    def jpeg(id: str) -> bytes | None:
        return bytes(simplejpeg.encode_jpeg(reader.read(rows[id]), quality=80)) if id in rows else None

    return jpeg
