"""The first screen of the demo's report: experiment, results and next steps, for a newcomer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..types import Estimate, Match
from . import pages
from .plots import COLORS, GRAY, STYLES, single, svg


@dataclass(frozen=True)
class Row:
    """One way of training and its result.

    Attributes:
        name, idea: its name, and a sentence on what it does.
        accuracy: share of pairs decided correctly.
        difference: of the accuracy to the first row, on the same pairs; None for the first row.
        losses: of the training steps, in order, with `batch` images each.
        bound: lower bound of the loss (Proposition 2), if the row demonstrates it.
        compared: whether to draw the losses with the others (a margin makes them incomparable).
    """

    name: str
    idea: str
    accuracy: Estimate
    difference: Estimate | None
    losses: Sequence[float]
    batch: int
    bound: float | None = None
    compared: bool = True


@dataclass(frozen=True)
class Verified:
    """A verified pair: two photographs as JPEGs, the network's decision, and the truth."""

    left: bytes
    right: bytes
    match: Match
    threshold: float
    same: bool


def story(introduction: str, rows: Sequence[Row], saw: str, following: str, verified: Sequence[Verified]) -> str:
    """Render the HTML for `render_html(opening=…)`."""
    head = ["Trained with", "What it does", "Pairs decided correctly", "Difference from the first row"]
    cells = [
        [row.name, row.idea, percent(row.accuracy), points(row.difference) if row.difference else "–"] for row in rows
    ]
    return pages.render(
        "story.html",
        introduction=introduction,
        results=[head, *cells],
        saw=saw,
        pictures=[accuracies(rows), losses(rows)],
        verified=verified,
        following=following,
    )


def accuracies(rows: Sequence[Row]) -> str:
    """Plot the accuracy of each row with its interval, as SVG."""
    figure, axes = single("Pairs decided correctly (%)", "", width=5.4)
    places = np.arange(len(rows))[::-1]
    for i, (place, row) in enumerate(zip(places, rows, strict=True)):
        low, value, high = (100 * each for each in (row.accuracy.low, row.accuracy.value, row.accuracy.high))
        spread = [[value - low], [high - value]]
        axes.errorbar(value, place, xerr=spread, fmt="o", color=COLORS[i % 6], capsize=4)
    axes.set_yticks(places, [row.name.replace(" with", "\nwith") for row in rows])
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_title("On new people, with 95 % intervals", color=GRAY, fontsize=11)
    return svg(figure, "The accuracy of each way of training, with 95 % intervals")


def losses(rows: Sequence[Row]) -> str:
    """Plot the loss during training and the lower bound of Proposition 2, as SVG."""
    figure, axes = single("Images seen in training", "Loss", width=5.4)
    for i, row in enumerate(rows):
        if not row.compared:
            continue
        smooth = _smooth(row.losses)
        axes.plot(row.batch * np.arange(1, len(smooth) + 1), smooth, STYLES[i % 4], color=COLORS[i % 6], label=row.name)
        if row.bound is not None:
            axes.axhline(row.bound, color=COLORS[i % 6], linestyle=":", linewidth=1)
            axes.annotate(
                f"no lower without a scale: {row.bound:.2f}", (1, row.bound), (0, -12), color=GRAY, fontsize=9,
                xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
            )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_title("How the loss falls, and where it cannot", color=GRAY, fontsize=11)
    axes.legend(frameon=False, labelcolor=GRAY, fontsize=9)
    return svg(figure, "The loss during training, and its lower bound without a scale")


def percent(share: Estimate) -> str:
    """Format a share as `93.8 % [92.1, 95.5]`, without line breaks inside the brackets."""
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f},\N{NO-BREAK SPACE}{100 * share.high:.1f}]"


def points(difference: Estimate) -> str:
    """Format a difference in percentage points as `+3.2 [+1.4, +5.0]`."""
    value, low, high = (f"{100 * each:+.1f}" for each in (difference.value, difference.low, difference.high))
    return f"{value} [{low},\N{NO-BREAK SPACE}{high}]".replace("-", "−")


def _smooth(values: Sequence[float]) -> Any:
    """Average over up to 25 steps, to make the line readable."""
    sums = np.cumsum(np.insert(np.asarray(values, float), 0, 0))
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - 25, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
