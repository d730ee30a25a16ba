"""Report on a set of photographs as one HTML file without scripts: counts, reasons, pictures of refused ones."""

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
    """Render a page with `facts`, counts by `reasons`, and `refused` photographs: name, reason, JPEG.

    Lists up to LISTED of `more` without pictures.
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


def render_faces(title: str, facts: Mapping[str, str], faces: Sequence[tuple[str, str, str]]) -> str:
    """Render a page with `facts` and a picture for each face: (file of the picture, target of its link, caption).

    Files and targets are paths relative to the page's folder, which the pictures must lie in or beside.
    """
    return pages.render("faces.html", title=title, facts=facts, faces=faces)


def thumbnails(crops: Path) -> Callable[[str], bytes | None]:
    """Return a function from ids to small JPEGs of aligned crops; None for unknown ids."""
    import simplejpeg

    reader = open_reader(crops)
    rows = {id: row for row, id in enumerate(reader.ids.tolist())}

    def jpeg(id: str) -> bytes | None:
        return bytes(simplejpeg.encode_jpeg(reader.read(rows[id]), quality=80)) if id in rows else None

    return jpeg
