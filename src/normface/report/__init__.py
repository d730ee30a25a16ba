"""Results → JSON, Markdown and one-file HTML. A Result is all a report needs; no image enters one."""

from .render import render_html, render_markdown, write_report

__all__ = ["render_html", "render_markdown", "write_report"]
