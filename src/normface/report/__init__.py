"""Reports of Results as JSON, Markdown and one-file HTML.

A page contains photographs only if the caller passes them, for the user's own disk.
"""

from typing import TYPE_CHECKING

from ..lazy import attach
from .wording import certified_rates, estimate, evidence, llr

if TYPE_CHECKING:
    from .first_screen import Row, Verified, percent, points, story
    from .photographs import render_faces, render_photographs, thumbnails
    from .render import comparison_json, render_html, render_markdown, write_comparison, write_folder, write_report

__all__ = [
    "Row", "Verified", "certified_rates", "comparison_json", "estimate", "evidence", "llr", "percent", "points",
    "render_faces", "render_html", "render_markdown", "render_photographs", "story", "thumbnails", "write_comparison",
    "write_folder", "write_report",
]  # fmt: skip

__getattr__ = attach(  # loaded on first use, because sentences need no page code
    __name__,
    first_screen="Row Verified percent points story",
    photographs="render_faces render_photographs thumbnails",
    render="comparison_json render_html render_markdown write_comparison write_folder write_report",
)
