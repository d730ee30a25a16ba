"""A question that the paper leaves open: why does the softmax with normalized weights alone need no scale?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import theory
from ..losses import CosineSoftmax
from ..ops.reference import Normalize
from ..report.plots import COLORS, STYLES
from . import FIGURES, mnist
from .drawing import FAINT, INK, Drawing, Progress, panels, title

EPOCHS, DIM, EVERY = 6, 16, 21  # a simplex of ten classes needs 9 dimensions; steps from one look to the next
PROBABILITIES = (0.9, 0.99, 0.9999)
SIDES: dict[Normalize, str] = {"weights": "features", "features": "class weights", "both": "neither"}


def path(normalize: Normalize, progress: Progress, epochs: int = EPOCHS) -> dict[str, list[float]]:
    """Train at scale 1 and record the norm that stands for the scale: of features, or of class weights; 1 for "both".

    Returns `step`, mean `norm`, `loss` on 1,000 training digits (balanced), and Proposition 2's `bound` at that norm.
    """
    torch.manual_seed(0)
    model, loss = mnist.network(DIM), CosineSoftmax(mnist.CLASSES, DIM, normalize=normalize, scale=1, learn_scale=False)
    data = mnist.digits()
    images, labels = data.train[::4], data.train_labels[::4]
    found: dict[str, list[float]] = {"step": [], "norm": [], "loss": [], "bound": []}

    @torch.no_grad()
    def look(done: int, total: int) -> None:
        progress(done, total)
        if done % EVERY and done != 1:
            return
        features = mnist.features(model, images)
        free = {"weights": features, "features": loss.weight}.get(normalize)
        norm = 1.0 if free is None else float(free.norm(dim=1).mean())
        row = done, norm, float(loss(features, labels)), theory.loss_lower_bound(mnist.CLASSES, norm)
        for values, value in zip(found.values(), row, strict=True):
            values.append(value)

    mnist.fit(model, loss, epochs=epochs, seed=0, progress=look)
    return found


@FIGURES.register
def norms(progress: Progress, epochs: int = EPOCHS) -> Drawing:
    """An open question: with weights alone normalized, the features' norm grows until it serves as the scale."""
    advance = mnist.Together(progress, len(SIDES) * mnist.steps(epochs))
    paths = {normalize: path(normalize, advance, epochs) for normalize in SIDES}
    asked = {p: theory.scale_for_probability(mnist.CLASSES, p) for p in PROBABILITIES}
    figure, axes = panels(1, 2, 9, 4.2)
    (left, right), largest = axes[0], max(max(each["norm"]) for each in paths.values())
    for (normalize, each), color, style in zip(paths.items(), COLORS, STYLES, strict=False):
        name = f"{normalize} alone normalized" if normalize != "both" else "both normalized, scale 1"
        left.plot(each["step"], each["norm"], style, color=color, label=name)
        right.plot(each["norm"], each["loss"], style, color=color, marker=".", markersize=4, label=name)
    for p, scale in asked.items():
        left.axhline(scale, color=FAINT, linewidth=0.8, zorder=0)
        left.annotate(f"P = {p:g}", (0, scale), color=INK, fontsize=8, va="bottom")
    scales = np.linspace(0.5, largest, 200)
    right.plot(scales, [theory.loss_lower_bound(mnist.CLASSES, s) for s in scales], color=INK, label="Proposition 2")
    left.set_xlabel("Step", color=INK)
    left.set_ylabel("Mean norm that is not normalized away", color=INK)
    left.legend(frameon=False, fontsize=8, labelcolor=INK)
    title(left, "The norm against the scale that a probability P asks for")
    right.set_xlabel("That norm", color=INK)
    right.set_ylabel("Loss (nats)", color=INK)
    right.set_yscale("log")
    right.legend(frameon=False, fontsize=8, labelcolor=INK)
    title(right, "The loss against the least that the norm allows")
    last = {normalize: each["norm"][-1] for normalize, each in paths.items()}
    caption = (
        "What is not normalized serves as the scale: no projection removes the gradient along it. Ten digits ask for "
        f"{asked[0.99]:.1f} to reach P = 0.99; the features' norm ends at {last['weights']:.1f}, that of the class "
        f"weights at {last['features']:.1f}. With both normalized and scale 1 the loss stays above "
        f"{theory.loss_lower_bound(mnist.CLASSES, 1):.2f}."
    )
    numbers: dict[str, Any] = {
        "paths": paths, "scale_for_probability": {str(p): s for p, s in asked.items()}, "epochs": epochs,
        "dimensions": DIM, "seed": 0,
    }  # fmt: skip
    return Drawing(figure, caption, numbers)
