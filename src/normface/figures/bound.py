"""Figure 5: lower bound of the loss (Proposition 2) against the scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import theory
from ..report.plots import COLORS, STYLES
from . import FIGURES
from .drawing import INK, Drawing, Progress, panels

CLASSES = (10, 100, 1_000, 10_000, 100_000)
SCALES = np.arange(0.5, 40.01, 0.5)


def bounds() -> dict[str, Any]:
    """Compute `scale` [80] and `loss_lower_bound` [80] in nats for each number of classes."""
    curves = {str(n): [theory.loss_lower_bound(n, s) for s in SCALES.tolist()] for n in CLASSES}
    return {"scale": SCALES.tolist(), "loss_lower_bound": curves}


@FIGURES.register
def bound(progress: Progress) -> Drawing:
    """Figure 5: lower bound of the loss (Proposition 2) against the scale, for 10 to 100,000 classes."""
    numbers = bounds()
    figure, axes = panels(1, 1, 5.6, 4.2)
    for (n, curve), color, style in zip(
        numbers["loss_lower_bound"].items(), COLORS, (*STYLES, (0, (5, 1, 1, 1, 1, 1))), strict=False
    ):
        axes[0, 0].plot(numbers["scale"], curve, color=color, linestyle=style, label=f"{int(n):,} classes")
    axes[0, 0].set(xlim=(0, 40), ylim=(0, 12))
    axes[0, 0].set_xlabel("Scale ℓ²", color=INK)
    axes[0, 0].set_ylabel("Least possible loss (nats)", color=INK)
    axes[0, 0].legend(frameon=False, fontsize=9, labelcolor=INK)
    progress(1, 1)
    caption = (
        "At scale 1 the softmax of cosines cannot learn many classes; from about 20 on its bound no longer matters."
    )
    return Drawing(figure, caption, numbers)
