"""Figures 2 and 3: features in the plane under plain softmax, without and with a bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..types import Floats, Ints
from . import FIGURES, mnist
from .drawing import INK, Drawing, Progress, panels, plane, title

EPOCHS, SEEDS = 12, 3
BIAS_RATE = 10  # learning rate of the bias relative to the weights
NEAR = 1 / 3  # mean distance from the origin, relative to the median cluster, that counts as at the origin


class Softmax(nn.Module):
    """Softmax cross-entropy of W·f + bias_rate·b; without a bias if `bias_rate` is 0."""

    def __init__(self, bias_rate: float) -> None:
        super().__init__()
        self.weight = nn.Linear(2, mnist.CLASSES, bias=False)
        self.bias, self.bias_rate = nn.Parameter(torch.zeros(mnist.CLASSES)), bias_rate

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits [B, classes] of features [B, 2]."""
        scores: Tensor = self.weight(features)
        return scores + self.bias_rate * self.bias

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of features [B, 2] with labels [B]."""
        return functional.cross_entropy(self.logits(features), labels)


@dataclass(frozen=True)
class PlaneRun:
    """Features [N, 2] and labels [N] of training and test digits, and the trained softmax."""

    train: Floats
    train_labels: Ints
    test: Floats
    test_labels: Ints
    softmax: Softmax

    def accuracies(self) -> dict[str, float]:
        """Test accuracies by the softmax, by the nearest class mean, and by the nearest mean direction."""
        means, directions = means_of(self.train, self.train_labels), means_of(unit(self.train), self.train_labels)
        with torch.no_grad():
            softmax = self.softmax.logits(torch.from_numpy(self.test)).argmax(1).numpy()
        nearest = np.linalg.norm(self.test[:, None] - means, axis=2).argmin(1)
        normalized = (unit(self.test) @ unit(directions).T).argmax(1)
        found = {"softmax": softmax, "nearest_mean": nearest, "nearest_mean_normalised": normalized}
        return {name: float((labels == self.test_labels).mean()) for name, labels in found.items()}


def train_in_plane(bias_rate: float, seed: int, progress: Progress, epochs: int = EPOCHS) -> PlaneRun:
    """Train the digit network with 2-D features and plain softmax."""
    torch.manual_seed(seed)
    model, softmax, data = mnist.network(2), Softmax(bias_rate), mnist.digits()
    mnist.fit(model, softmax, epochs=epochs, seed=seed, progress=progress)
    train, test = (mnist.features(model, images).numpy() for images in (data.train, data.test))
    return PlaneRun(train, data.train_labels.numpy(), test, data.test_labels.numpy(), softmax)


def radiality(features: Floats, labels: Ints) -> dict[str, Any]:
    """Compute the share of the variance within classes along the class's mean direction, for each class and in total.

    1: the features of a class differ in length only. 1/D: they spread equally in all D directions.
    """
    along, whole = [], []
    for digit in np.unique(labels):
        cluster = features[labels == digit]
        mean = cluster.mean(0)
        along.append(float(((cluster - mean) @ unit(mean)).var()))
        whole.append(float(np.square(cluster - mean).sum(1).mean()))
    shares = [a / w for a, w in zip(along, whole, strict=True)]
    return {"radial_share": sum(along) / sum(whole), "radial_share_by_digit": shares}


def origin(features: Floats, labels: Ints) -> dict[str, Any]:
    """Compute each class's mean feature length relative to the median class, and the spread of its directions.

    `angular_spread` is the circular standard deviation √(-2·log R) in degrees, R the length of the mean direction.
    """
    length = np.array([np.linalg.norm(features[labels == digit], axis=1).mean() for digit in np.unique(labels)])
    relative = length / np.median(length)
    resultant = np.linalg.norm(means_of(unit(features), labels), axis=1)
    spread = np.degrees(np.sqrt(-2 * np.log(resultant.clip(1e-12, 1))))
    near = np.flatnonzero(relative < NEAR)
    return {
        "distance_from_origin": relative.tolist(),
        "angular_spread": spread.tolist(),
        "at_origin": near.tolist(),
        "angular_spread_at_origin": float(spread[near].mean()) if len(near) else None,
        "angular_spread_elsewhere": float(np.delete(spread, near).mean()),
    }


@FIGURES.register
def radial(progress: Progress, epochs: int = EPOCHS) -> Drawing:
    """Figure 2: radial softmax features without a bias, and the largest class probability over the plane."""
    run = train_in_plane(0, 0, progress, epochs)
    numbers = {**radiality(run.test, run.test_labels), "accuracy": run.accuracies(), "epochs": epochs, "seed": 0}
    figure, axes = panels(1, 2, 9, 4.4)
    plane(axes[0, 0], run.test, run.test_labels)
    title(axes[0, 0], "Test features, colored by digit")
    reach = float(np.abs(run.test).max())
    ticks = torch.linspace(-reach, reach, 200)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), 2)
    with torch.no_grad():
        largest = run.softmax.logits(grid).softmax(2).amax(2).numpy()
    extent = (-reach, reach, -reach, reach)
    image = axes[0, 1].imshow(largest, origin="lower", extent=extent, cmap="cividis", vmin=0.1, vmax=1)
    figure.colorbar(image, ax=axes[0, 1], shrink=0.8).ax.tick_params(labelsize=8, colors=INK)
    title(axes[0, 1], "Largest class probability")
    caption = (
        "Along a direction the probability only grows (Proposition 1), so lengthening a feature lowers its loss: "
        f"{numbers['radial_share']:.0%} of the variance within classes lies along the radius."
    )
    return Drawing(figure, caption, numbers)


@FIGURES.register
def bias(progress: Progress, epochs: int = EPOCHS) -> Drawing:
    """Figure 3: with a bias, some clusters lie at the origin, and normalization spreads them around the circle."""
    together = mnist.Together(progress, 2 * SEEDS * mnist.steps(epochs))
    runs, without = ([train_in_plane(rate, seed, together, epochs) for seed in range(SEEDS)] for rate in (BIAS_RATE, 0))
    found, control = (
        [{"seed": seed, **origin(r.test, r.test_labels), "accuracy": r.accuracies()} for seed, r in enumerate(group)]
        for group in (runs, without)
    )
    shown, anyway = (sum(bool(numbers["at_origin"]) for numbers in group) for group in (found, control))
    numbers = {
        "runs": found, "without_bias": control, "bias_rate": BIAS_RATE, "epochs": epochs,
        "seeds_with_a_cluster_at_the_origin": shown, "seeds_with_one_without_bias": anyway,
    }  # fmt: skip
    first, accuracy = runs[0], found[0]["accuracy"]
    figure, axes = panels(1, 2, 9, 4.4)
    plane(axes[0, 0], first.test, first.test_labels)
    title(axes[0, 0], f"Test features; nearest mean {accuracy['nearest_mean']:.1%} right")
    plane(axes[0, 1], ringed(first.test, first.test_labels), first.test_labels)
    title(axes[0, 1], f"Normalized, one ring per digit; nearest mean {accuracy['nearest_mean_normalised']:.1%} correct")
    caption = (
        f"The bias learns {BIAS_RATE} times faster than the weights here. Clusters within a third of the median "
        f"distance from the origin appear with {shown} of {SEEDS} seeds (shown: seed 0, digits "
        f"{', '.join(map(str, found[0]['at_origin'])) or 'none'}), without a bias with {anyway} of {SEEDS}."
    )
    return Drawing(figure, caption, numbers)


def means_of(features: Floats, labels: Ints) -> Floats:
    """Mean of each class [C, D]."""
    return np.stack([features[labels == digit].mean(0) for digit in np.unique(labels)])


def unit(vectors: Floats) -> Floats:
    """Normalize rows."""
    lengths: Floats = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def ringed(features: Floats, labels: Ints) -> Floats:
    """Return directions [N, 2] with each class on its own circle (radii 1 to 2), so that none hides another."""
    radii: Floats = 1 + labels / labels.max()
    return unit(features) * radii[:, None]
