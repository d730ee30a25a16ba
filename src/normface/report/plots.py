"""Pictures of Results as inline SVG, readable on light and on dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from ..errors import require
from ..types import Result

# Okabe and Ito's colours, told apart by colour-blind people, on white as on black; line styles tell them apart too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", "-.", ":")
GREY = "#808080"


def roc(results: Mapping[str, Result]) -> str:
    """TAR against FAR on a logarithmic axis, one curve a system."""
    figure, axes = _axes("False accept rate (FAR)", "True accept rate (TAR)", width=6.4)
    least = 1.0
    for i, (name, result) in enumerate(results.items()):
        far, tar = (np.asarray(result.curves["roc"][axis]) for axis in ("far", "tar"))
        least = min(least, far[far > 0].min())
        axes.plot(
            np.maximum(far, 1e-12),
            tar,
            STYLES[i % 4],
            color=COLOURS[i % 6],
            label=_literal(name),
            drawstyle="steps-post",
        )
    axes.set(xscale="log", xlim=(min(least, 0.1), 1), ylim=(0, 1.005))
    axes.legend(frameon=False, labelcolor=GREY, loc="lower right")
    return _svg(figure, "ROC: true accept rate against false accept rate")


def histogram(name: str, result: Result) -> str:
    """How genuine and impostor scores lie, with the threshold between them."""
    figure, axes = _axes("Cosine", "Share of comparisons (%)", width=4.6)
    edges = np.asarray(result.curves["histogram"]["edges"])
    for kind, colour, hatch in (("impostor", COLOURS[1], "////"), ("genuine", COLOURS[0], "")):
        counts = np.asarray(result.curves["histogram"][kind])
        share = 100 * counts / counts.sum()
        axes.stairs(share, edges, fill=True, alpha=0.45, color=colour, hatch=hatch, label=kind)
        axes.stairs(share, edges, color=colour)
    axes.axvline(
        result.facts["threshold"], color=GREY, linestyle="--", label=f"threshold {result.facts['threshold']:.3f}"
    )
    axes.set(xlim=(-0.6, 1), ylim=(0, 1.3 * axes.dataLim.ymax))  # room for the legend
    axes.set_title(_literal(name), color=GREY, fontsize=11)
    axes.legend(frameon=False, labelcolor=GREY)
    return _svg(figure, f"Histogram of genuine and impostor cosines of {name}")


def _literal(name: str) -> str:
    """A name as it is written: between dollars matplotlib would set a formula."""
    return name.replace("$", r"\$")


def _axes(x: str, y: str, width: float) -> tuple[Any, Any]:
    matplotlib = require("matplotlib.figure", "report")
    figure = matplotlib.Figure(figsize=(width, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=GREY)
    axes.set_ylabel(y, color=GREY)
    axes.tick_params(colors=GREY, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color=GREY, alpha=0.25)
    return figure, axes


def _svg(figure: Any, description: str) -> str:
    matplotlib = require("matplotlib", "report")
    buffer = io.StringIO()
    # Text stays text (small, selectable); a fixed salt makes equal figures equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
