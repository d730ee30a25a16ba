"""Shared drawing functions: colors, plane and sphere axes, and atomic file output."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from PIL import Image

from ..atomic import replacing
from ..errors import require
from ..types import Floats

# Ten colors that color-blind people can distinguish (Tol's "muted" scheme and gray); clusters also have labels.
DIGITS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777",
)  # fmt: skip
INK, FAINT = "#333333", "#bbbbbb"

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Drawing:
    """A matplotlib figure, its caption, and its numbers."""

    figure: Any
    caption: str
    numbers: Mapping[str, Any]


def write(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Write NAME.png, NAME.svg and NAME.json into `folder`. Raises DataError on failure."""
    matplotlib = require("matplotlib", "figures")
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg", "json")]
    drawing.figure.supxlabel(fill(drawing.caption, int(15 * drawing.figure.get_figwidth())), fontsize=8, color=INK)
    with replacing(paths[0]) as temporary:
        raster = BytesIO()
        drawing.figure.savefig(raster, format="png", dpi=110)
        # 256 colors are enough for dots and lines, and reduce the file to a third.
        with Image.open(raster) as image:
            image.convert("RGB").quantize(256).save(temporary, format="PNG", optimize=True)
    # Text stays text; a fixed salt and no date: equal figures are equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), replacing(paths[1]) as temporary:
        drawing.figure.savefig(temporary, format="svg", dpi=110, metadata={"Date": None, "Creator": None})
    with replacing(paths[2]) as temporary:
        numbers = {"figure": name, "caption": drawing.caption, **drawing.numbers}
        temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return paths


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Create a white figure of `width` × `height` inches with axes [rows, columns]. Returns both."""
    figure = require("matplotlib.figure", "figures").Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.ravel():
        one.tick_params(colors=INK, labelsize=8)
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(FAINT)
    return figure, axes


def title(axes: Any, text: str) -> None:
    """Set a panel's title."""
    axes.set_title(text, fontsize=9, color=INK)


def label(axes: Any, xy: Floats, text: str, color: str = INK, alpha: float = 1) -> None:
    """Write a word with a white halo, readable over points."""
    halo = require("matplotlib.patheffects", "figures").withStroke(linewidth=2.5, foreground="white")
    axes.text(
        *xy, text, color=color, alpha=alpha, fontsize=9, weight="bold", ha="center", va="center", path_effects=[halo]
    )


def plane(axes: Any, points: Floats, labels: Any, *, size: float = 3) -> None:
    """Plot points [N, 2] colored by digit, with equal units, the origin, and each digit written at its mean."""
    axes.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    axes.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    for digit in np.unique(labels):
        cluster, color = points[labels == digit], DIGITS[digit]
        axes.scatter(*cluster.T, s=size, color=color, linewidths=0, rasterized=True)
        label(axes, cluster.mean(0), str(digit), color)
    axes.set_aspect("equal", "datalim")


class Sphere:
    """The unit sphere in orthographic projection; its back side is drawn fainter.

    Args:
        axes: matplotlib axes to draw in.
        azimuth, elevation: of the viewer, in degrees.
    """

    def __init__(self, axes: Any, azimuth: float = 30, elevation: float = 20) -> None:
        a, e = np.radians((azimuth, elevation))
        self.axes = axes
        # Rows: to the right, upwards, towards the viewer.
        self.view = np.array(
            [
                [-np.sin(a), np.cos(a), 0],
                [-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)],
                [np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)],
            ]
        )
        turn = np.linspace(0, 2 * np.pi, 121)
        axes.plot(np.cos(turn), np.sin(turn), color=FAINT, linewidth=0.8)
        for height in np.sin(np.radians((-60, -30, 0, 30, 60))):
            radius = np.sqrt(1 - height**2)
            self._grid(np.stack([radius * np.cos(turn), radius * np.sin(turn), np.full_like(turn, height)], 1))
        for longitude in np.radians(np.arange(0, 180, 30)):
            ring = (np.cos(turn) * np.cos(longitude), np.cos(turn) * np.sin(longitude), np.sin(turn))
            self._grid(np.stack(ring, 1))
        axes.set_aspect("equal")
        axes.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12))
        axes.axis("off")

    def project(self, points: Floats) -> tuple[Floats, Any]:
        """Project points [N, 3] to [N, 2], with a mask of those in front [N]."""
        seen = points @ self.view.T
        return seen[:, :2], seen[:, 2] >= 0

    def scatter(self, points: Floats, color: str, size: float = 3) -> None:
        """Draw points [N, 3]."""
        seen, front = self.project(points)
        for part, alpha in ((~front, 0.18), (front, 1.0)):
            self.axes.scatter(*seen[part].T, s=size, color=color, alpha=alpha, linewidths=0, rasterized=True)

    def agents(self, points: Floats, names: list[str], colors: list[str]) -> None:
        """Draw agents [C, 3] as crosses with their names; those behind are partly transparent."""
        seen, front = self.project(points)
        for xy, ahead, name, color in zip(seen, front, names, colors, strict=True):
            alpha = 1.0 if ahead else 0.45
            self.axes.scatter(*xy, s=22, marker="X", color=color, edgecolors=INK, linewidths=0.6, alpha=alpha)
            label(self.axes, xy * (1 + 0.13 / max(float(np.linalg.norm(xy)), 0.3)), name, color, alpha)

    def curve(self, points: Floats, color: str) -> None:
        """Draw a line through points [N, 3]; its hidden parts are dotted."""
        seen, front = self.project(points)
        self.axes.plot(*np.where(front[:, None], seen, np.nan).T, color=color, linewidth=1.3)
        self.axes.plot(*np.where(front[:, None], np.nan, seen).T, color=color, linewidth=0.8, linestyle=":", alpha=0.6)

    def arrows(self, starts: Floats, vectors: Floats, color: str) -> None:
        """Draw vectors [N, 3] at points [N, 3], in the sphere's units; only those in front."""
        (seen, front), (ends, _) = self.project(starts), self.project(starts + vectors)
        self.axes.quiver(
            *seen[front].T, *(ends - seen)[front].T, color=color, angles="xy", scale_units="xy", scale=1,
            width=0.006, headwidth=4, zorder=5,
        )  # fmt: skip

    def _grid(self, ring: Floats) -> None:
        seen, front = self.project(ring)
        self.axes.plot(*np.where(front[:, None], seen, np.nan).T, color=FAINT, linewidth=0.3, zorder=0)
