"""Plots of the loss bound and of runs, and shared functions: SVG readable on light and dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .. import theory
from ..atomic import replacing
from ..errors import ConfigError, require

# Okabe and Ito's colors, distinct for color-blind people, on white and on black; the line styles differ too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", "-.", ":")
GRAY = "#808080"


def bound(num_classes: int, dim: int, scale: float | None = None) -> Any:
    """Plot the lower bound of the loss (Proposition 2) and the initial loss against the scale; marks `scale`."""
    needed = {p: theory.scale_for_probability(num_classes, p) for p in (0.5, 0.9, 0.99, 0.9999)}
    most = 1.15 * max(needed[0.9999], scale or 0, 5)
    scales = np.linspace(most / 200, most, 200)
    figure, axes = single("Scale s of the cosines", "Loss (nats)", width=6.4)
    least = [theory.loss_lower_bound(num_classes, s) for s in scales]
    start = [theory.initial_loss(num_classes, s, dim) for s in scales]
    axes.plot(scales, start, STYLES[1], color=COLORS[1], label=f"start: random vectors in {dim} dimensions")
    axes.plot(scales, least, STYLES[0], color=COLORS[0], label="least: Proposition 2")
    for probability, at in needed.items():
        if at > 0:
            axes.plot(at, -np.log(probability), "o", color=COLORS[0], markersize=4)
            axes.annotate(
                f"{probability:g}",
                (at, -np.log(probability)),
                (0, 6),
                textcoords="offset points",
                color=GRAY,
                fontsize=8,
            )
    if scale is not None:
        reached = theory.loss_lower_bound(num_classes, scale)
        axes.axvline(scale, color=GRAY, linestyle=":")
        axes.plot(scale, reached, "D", color=COLORS[2], label=f"s = {scale:.4g}: {reached:.3g} at least")
    axes.set(xlim=(0, most), ylim=(0, None))
    axes.set_title(f"{num_classes:,} classes (dots: probability reachable)", color=GRAY, fontsize=11)
    axes.legend(frameon=False, labelcolor=GRAY)
    return figure


def monitors(records: Sequence[Mapping[str, float | None]], name: str) -> Any:
    """Plot a run's monitored figures (`train.monitors`), one panel per subject, for the figures measured."""
    panels = {
        "Loss": {"loss": "loss", "bound": "least at this scale"},
        "Scale": {"scale": "scale"},
        "Norms": {"feature_norm": "features", "class_weight_norm": "class weights"},
        "Angles (degrees)": {"genuine_angle": "own class", "nearest_angle": "nearest other"},
        "Negatives": {"active_negatives": "active share", "wrong_mass": "probability on wrong classes"},
        "Effective rank": {"features_rank": "features", "agents_rank": "class weights"},
    }
    matplotlib = require("matplotlib.figure", "report")
    figure = matplotlib.Figure(figsize=(9.6, 5.4), layout="constrained")
    figure.suptitle(literal(name), color=GRAY, fontsize=11)
    steps = np.array([record["step"] for record in records])
    for axes, (title, lines) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        _styled(axes)
        axes.set_title(title, color=GRAY, fontsize=10)
        for i, (key, label) in enumerate(lines.items()):
            values = np.array([record.get(key, np.nan) for record in records], float)
            if np.isfinite(values).any():
                axes.plot(steps, values, STYLES[i], color=COLORS[i], label=label)
        if axes.lines:
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False, labelcolor=GRAY, fontsize=8)
        else:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "not measured", color=GRAY, ha="center", transform=axes.transAxes)
    figure.supxlabel("Step", color=GRAY, fontsize=10)
    return figure


def save(figure: Any, path: Path, description: str) -> None:
    """Write a figure as .svg or .png, by the file's extension. Raises ConfigError for another."""
    if path.suffix not in (".svg", ".png"):
        raise ConfigError("a picture named .svg or .png", path.name, "change the extension")
    with replacing(path) as temporary:
        if path.suffix == ".svg":
            temporary.write_text(svg(figure, description) + "\n", encoding="utf-8")
        else:
            figure.savefig(temporary, format="png", dpi=150)


def literal(name: str) -> str:
    """Escape a name, so that matplotlib does not read dollar signs as a formula."""
    return name.replace("$", r"\$")


def single(x: str, y: str, width: float) -> tuple[Any, Any]:
    """Create a figure with a single pair of axes. Returns both."""
    matplotlib = require("matplotlib.figure", "report")
    figure = matplotlib.Figure(figsize=(width, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=GRAY)
    axes.set_ylabel(y, color=GRAY)
    _styled(axes)
    return figure, axes


def _styled(axes: Any) -> None:
    axes.tick_params(colors=GRAY, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.grid(color=GRAY, alpha=0.25)


def svg(figure: Any, description: str) -> str:
    """Convert a figure to SVG for a page, with a text alternative."""
    matplotlib = require("matplotlib", "report")
    buffer = io.StringIO()
    # Text stays text (small, selectable); a fixed salt makes equal figures equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
