"""What became of many photographs, as one HTML file without scripts: counts, reasons, pictures of the refused."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from ..data import open_reader
from .render import STYLE

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
    grid = "".join(
        f"<figure>{_picture(name, jpeg)}<figcaption>{_text(name)}<br>{_text(reason)}</figcaption></figure>"
        for name, reason, jpeg in refused
    )
    names = "".join(f"<li>{_text(name)}: {_text(reason)}</li>" for name, reason in more[:LISTED])
    rest = f"<p>… and {len(more) - LISTED:,} more: see the files beside this page.</p>" if len(more) > LISTED else ""
    sections = [
        ("", _table(facts)),
        (heading, _table({reason: f"{n:,}" for reason, n in reasons.items()}) if reasons else "<p>None.</p>"),
        *([("Which", f"<div class=photographs>{grid}</div><ul>{names}</ul>{rest}")] if refused else []),
    ]
    body = "".join(f"<section>{f'<h2>{head}</h2>' if head else ''}{content}</section>" for head, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text('utf-8')}</style></head>"
        f"<body><main><h1>{_text(title)}</h1>{body}</main></body></html>\n"
    )


def thumbnails(crops: Path) -> Callable[[str], bytes | None]:
    """Small JPEGs of aligned crops by id; None for ids that are not there."""
    import simplejpeg

    reader = open_reader(crops)
    rows = {id: row for row, id in enumerate(reader.ids.tolist())}

    def jpeg(id: str) -> bytes | None:
        return bytes(simplejpeg.encode_jpeg(reader.read(rows[id]), quality=80)) if id in rows else None

    return jpeg


def _picture(name: str, jpeg: bytes | None) -> str:
    if jpeg is None:
        return "<div class=none>no picture</div>"
    return f'<img alt="{_text(name)}" src="data:image/jpeg;base64,{b64encode(jpeg).decode()}">'


def _table(rows: Mapping[str, str]) -> str:
    lines = "".join(f'<tr><th scope="row">{_text(k)}</th><td>{_text(v)}</td></tr>' for k, v in rows.items())
    return f'<div class="scroll wrap"><table><tbody>{lines}</tbody></table></div>'


def _text(text: str) -> str:
    """For HTML; bytes of names that are no UTF-8 are shown as escapes, and so are line ends."""
    return escape(text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n"))
