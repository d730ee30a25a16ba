"""Results → JSON, Markdown and one-file HTML. A Result is all that its report needs; no image enters it.

`render_photographs` alone shows photographs, the user's own, for the user's disk.
"""

from .photographs import render_photographs
from .render import render_html, render_markdown, write_report

__all__ = ["render_html", "render_markdown", "render_photographs", "write_report"]
