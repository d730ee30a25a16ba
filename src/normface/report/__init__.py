"""Results → JSON, Markdown and one-file HTML. A Result is all that its report needs.

Photographs enter a page only where its caller hands them in, for the user's own disk.
"""

from .photographs import render_photographs, thumbnails
from .render import comparison_json, render_html, render_markdown, write_comparison, write_folder, write_report
from .story import Row, Verified, percent, points, story
from .words import certified_rates, estimate, evidence

__all__ = [
    "Row", "Verified", "certified_rates", "comparison_json", "estimate", "evidence", "percent", "points", "render_html",
    "render_markdown", "render_photographs", "story", "thumbnails", "write_comparison", "write_folder", "write_report",
]  # fmt: skip
