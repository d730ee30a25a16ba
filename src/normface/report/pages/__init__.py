"""HTML pages: Jinja templates in this folder. Values are escaped unless a template says otherwise."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(template: str, **values: Any) -> Markup:
    """Fill a template of this folder, such as `report.html`."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    # Imported here, because few commands write a page and all start faster without Jinja.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__name__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "base64": _base64,
        "breakable": _breakable,
        "commands": _commands,
        "href": _href,
        "printable": _printable,
    }
    return environment


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _breakable(id: str) -> Markup:
    """Allow line breaks in an image's name at word ends, and drop a folder of the same name."""
    from markupsafe import Markup, escape

    folder, _, file = id.rpartition("/")
    name = escape(_printable(file if folder and file.startswith(folder) else id))
    return name.replace("_", Markup("_<wbr>")).replace("/", Markup("/<wbr>"))


def _commands(text: str) -> Markup:
    """Mark up commands between backticks."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _href(path: str) -> str:
    """Quote a relative path for a link."""
    return quote(path.encode("utf-8", "surrogateescape"))


def _printable(text: str) -> str:
    """Escape line ends and bytes that are not UTF-8."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
