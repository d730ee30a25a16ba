"""Figure 8: accuracy against the weight of the second loss."""

from __future__ import annotations

from copy import deepcopy
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from ..losses import CosineSoftmax, Joint
from ..ops import l2_normalize
from ..protocols import metrics
from ..report.plots import COLORS
from ..types import ScoreSet
from . import FIGURES, mnist
from .drawing import INK, Drawing, Progress, panels

EPOCHS, TUNING, TUNING_RATE, SEEDS, DIM = 4, 2, 1e-3, 3, 16
WEIGHTS = (0.001, 0.01, 0.1, 1.0)
LINES = {"C-contrastive": 1.0, "center": 0.0}  # margins: without one, only the pull to the own agent is left


def accuracy(model: nn.Module) -> float:
    """1 - EER over all pairs of the 1,000 test digits: "same person" is the same digit."""
    data = mnist.digits()
    unit = l2_normalize(mnist.features(model, data.test).double())
    left, right = np.triu_indices(len(unit), 1)
    cosines, labels = (unit @ unit.T).numpy()[left, right], data.test_labels.numpy()
    scores = ScoreSet(cosines, labels[left] == labels[right], np.zeros(len(left), np.int64))
    return 1 - metrics.eer(metrics.roc(scores))


def tuned(model: nn.Module, agents: torch.Tensor, weight: float, margin: float, **fit: Any) -> float:
    """Go on from a softmax model with softmax + weight · C-contrastive, and return its accuracy."""
    terms = [{"name": "CosineSoftmax", "weight": 1.0}, {"name": "CContrastive", "weight": weight, "margin": margin}]
    model, loss = deepcopy(model), Joint(mnist.CLASSES, DIM, terms=terms)
    with torch.no_grad():
        for term in loss.terms:
            term.weight.copy_(agents)  # type: ignore[operator]
    mnist.fit(model, loss, rate=TUNING_RATE, **fit)
    return accuracy(model)


@FIGURES.register
def loss_weight(progress: Progress, epochs: int = EPOCHS, tuning: int = TUNING) -> Drawing:
    """Figure 8: accuracy against the weight of C-contrastive, and of center loss, beside a softmax."""
    advance = mnist.Together(progress, SEEDS * (mnist.steps(epochs) + len(LINES) * len(WEIGHTS) * mnist.steps(tuning)))
    found: dict[str, dict[float, list[float]]] = {line: {weight: [] for weight in WEIGHTS} for line in LINES}
    start = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model, softmax = mnist.network(DIM), CosineSoftmax(mnist.CLASSES, DIM)
        mnist.fit(model, softmax, epochs=epochs, seed=seed, progress=advance)
        start.append(accuracy(model))
        for line, margin in LINES.items():
            for weight in WEIGHTS:
                how = {"epochs": tuning, "seed": seed, "progress": advance}
                found[line][weight].append(tuned(model, softmax.weight.detach(), weight, margin, **how))
    figure, axes = panels(1, 1, 5.6, 4.2)
    for (line, by_weight), color, shift in zip(found.items(), COLORS, (0.97, 1.03), strict=False):
        means = [100 * mean(values) for values in by_weight.values()]
        spread = [100 * stdev(values) for values in by_weight.values()]
        axes[0, 0].errorbar(
            np.array(WEIGHTS) * shift, means, spread, color=color, marker="o", markersize=4, capsize=3,
            label=f"softmax + {line}",
        )  # fmt: skip
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_xlabel("Weight of the second loss", color=INK)
    axes[0, 0].set_ylabel("1 - EER (%)", color=INK)
    axes[0, 0].legend(frameon=False, fontsize=9, labelcolor=INK)
    ranges = {line: np.ptp([mean(values) for values in by_weight.values()]) for line, by_weight in found.items()}
    caption = (
        f"Pairs of test digits, mean and standard deviation of {SEEDS} seeds, {tuning} epochs of fine-tuning from a "
        f"softmax model ({mean(start):.2%}). From weight {min(WEIGHTS)} to {max(WEIGHTS):g} the means differ by "
        f"{ranges['C-contrastive']:.2%} with C-contrastive and {ranges['center']:.2%} with center loss. "
        "docs/tables.md has the figure of faces."
    )
    numbers = {
        "accuracy": {line: {str(w): values for w, values in each.items()} for line, each in found.items()},
        "softmax_model": start, "epochs": epochs, "tuning_epochs": tuning, "seeds": SEEDS, "dimensions": DIM,
    }  # fmt: skip
    return Drawing(figure, caption, numbers)
