"""Digits on the sphere under various scales, and under every softmax, C-contrastive and C-triplet variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import theory
from ..losses import LOSSES
from ..ops import l2_normalize
from ..protocols.intervals import proportion
from . import FIGURES, mnist
from .drawing import DIGITS, Drawing, Progress, Sphere, panels, title

EPOCHS, TUNING = 10, 4  # of a softmax model; of a variant that continues from one
TUNING_RATE = 1e-3
PAPER = {1: 99.51, 2: 99.46, 4: 99.46, 7: 99.49, 11: 99.44}  # scale: accuracy in percent on all of MNIST
START = "both"  # the softmax variant from which the agents' variants start

COLUMNS = 7

Variant = tuple[str, Mapping[str, Any]]
AT_16: Mapping[str, Any] = {"scale": 16.0, "learn_scale": False}  # ten classes need far less than the authors' 64
SOFTMAX: dict[str, Variant] = {
    "none": ("CosineSoftmax", {"normalize": "none"}),
    "features": ("CosineSoftmax", {"normalize": "features"}),
    "weights": ("CosineSoftmax", {"normalize": "weights"}),
    "both": ("CosineSoftmax", {}),
    "hard weights": ("CosineSoftmax", {"weights": "hard"}),
    "AdaCos": ("CosineSoftmax", {"scale": "adacos"}),
    "AdaCos, dynamic": ("CosineSoftmax", {"scale": "adacos-dynamic"}),
    "CosFace": ("CosineSoftmax", {"margin": {"name": "CosFace", "cosine": 0.2}, **AT_16}),
    "ArcFace": ("CosineSoftmax", {"margin": {"name": "ArcFace", "angle": 0.2}, **AT_16}),
    "CurricularFace": ("CosineSoftmax", {"margin": {"name": "CurricularFace", "angle": 0.2}, **AT_16}),
    "AdaFace": ("CosineSoftmax", {"margin": {"name": "AdaFace", "margin": 0.2}, **AT_16}),
    "MagFace": (
        "CosineSoftmax",
        {"margin": {"name": "MagFace", "least_angle": 0.1, "most_angle": 0.3, "weight": 1.0}, **AT_16},
    ),
    "SphereFace": ("CosineSoftmax", {"margin": "SphereFace", "normalize": "weights"}),
    "SphereFace-R": ("CosineSoftmax", {"margin": "SphereFaceR", **AT_16}),
}
CONTRASTIVE: dict[str, Variant] = {
    "C-contrastive": ("CContrastive", {}),
    "exponential": ("CContrastive", {"exponential": True}),
    "hardest negative": ("CContrastive", {"hardest_negative": True}),
    "hardest positive": ("CContrastive", {"hardest_positive": True}),
    "positive first": ("CContrastive", {"positive_first": True}),
    "normalized negatives": ("CContrastive", {"normalize_negatives": 1.0}),
    "adaptive margin": ("CContrastive", {"adaptive_margin": True}),
}
TRIPLET: dict[str, Variant] = {
    "C-triplet": ("CTriplet", {}),
    "hardest, no pull": ("CTriplet", {"pull": False}),
    "all": ("CTriplet", {"hardest": False, "pull": False}),
    "all, Caffe": ("CTriplet", {"hardest": False, "pull": False, "gradient": "caffe"}),
    "hardest, Caffe": ("CTriplet", {"gradient": "caffe"}),
}
FAMILIES = {"softmax": SOFTMAX, "C-contrastive": CONTRASTIVE, "C-triplet": TRIPLET}


def measure(features: Tensor, labels: Tensor, agents: Tensor) -> dict[str, Any]:
    """Measure features [N, 3] and agents [C, 3] as directions.

    Returns the accuracy by the nearest agent with its 95 % interval, and two angles in degrees: the mean angle between
    samples and their own agents, and the smallest angle between two agents.
    """
    cosines = l2_normalize(features.double()) @ l2_normalize(agents.double()).T
    right = proportion(int((cosines.argmax(1) == labels).sum()), len(labels))
    own = cosines.gather(1, labels[:, None]).clamp(-1, 1)
    between = l2_normalize(agents.double()) @ l2_normalize(agents.double()).T
    nearest = between.fill_diagonal_(-1).max().clamp(-1, 1)
    return {
        "accuracy": {"value": right.value, "low": right.low, "high": right.high, "n": right.n},
        "mean_genuine_angle": float(torch.rad2deg(torch.acos(own)).mean()),
        "smallest_angle_between_agents": float(torch.rad2deg(torch.acos(nearest))),
    }


@dataclass(frozen=True)
class SphereRun:
    """A network with 3-D features and its loss, trained on the digits."""

    model: nn.Module
    loss: nn.Module

    @property
    def agents(self) -> Tensor:
        """Class weights [10, 3]."""
        weight = self.loss.weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    @property
    def test(self) -> Tensor:
        """Features of the test digits [1000, 3]."""
        return mnist.features(self.model, mnist.digits().test)

    def loss_on_training_digits(self) -> float:
        """Mean loss over all 4,000 training digits, whose classes are balanced, as the bound requires."""
        data = mnist.digits()
        with torch.no_grad():
            return float(self.loss(mnist.features(self.model, data.train), data.train_labels))


def train_on_sphere(
    variant: Variant, *, epochs: int, rate: float, progress: Progress, start: SphereRun | None = None
) -> SphereRun:
    """Train a variant from scratch, or from the network and agents of `start`."""
    torch.manual_seed(0)
    name, options = variant
    model, loss = mnist.network(3), LOSSES.build(name, mnist.CLASSES, 3, **options)
    if start:
        model.load_state_dict(start.model.state_dict())
        loss.load_state_dict({**loss.state_dict(), "weight": start.agents})
    mnist.fit(model, loss, epochs=epochs, seed=0, progress=progress, rate=rate)
    return SphereRun(model, loss)


@FIGURES.register
def scales(progress: Progress, epochs: int = EPOCHS) -> Drawing:
    """Fixed scales 1, 2, 4, 7, 11: digits in 3-D under NormFace softmax."""
    labels, numbers, advance = (
        mnist.digits().test_labels,
        {},
        mnist.Together(progress, len(PAPER) * mnist.steps(epochs)),
    )
    figure, axes = panels(1, len(PAPER), 12, 3.3)
    for (scale, paper), ax in zip(PAPER.items(), axes[0], strict=True):
        variant = ("CosineSoftmax", {"scale": float(scale), "learn_scale": False})
        run = train_on_sphere(variant, epochs=epochs, rate=mnist.RATE, progress=advance)
        found, loss = measure(run.test, labels, run.agents), run.loss_on_training_digits()
        least = theory.loss_lower_bound(mnist.CLASSES, scale)
        numbers[str(scale)] = {
            **found, "papers_accuracy": paper / 100, "loss_on_training_digits": loss, "loss_lower_bound": least,
        }  # fmt: skip
        _draw(ax, run)
        title(ax, f"s = {scale}: {found['accuracy']['value']:.1%} right\nloss {loss:.2g}, bound {least:.2g}")
    caption = (
        f"1,000 test digits, normalized, after {epochs} passes over 4,000 others (loss: of these). The paper's 99.51, "
        "99.46, 99.46, 99.49 and 99.44 % are those of all 60,000 training digits. Crosses are class weights; what lies "
        "behind is fainter. Ten directions in 3-D are no simplex, so the bound cannot be reached."
    )
    return Drawing(figure, caption, {"scales": numbers, "epochs": epochs, "seed": 0})


@FIGURES.register
def spheres(progress: Progress, epochs: int = EPOCHS, tuning: int = TUNING) -> Drawing:
    """Variants of softmax, C-contrastive and C-triplet: digits in 3-D."""
    labels = mnist.digits().test_labels
    numbers: dict[str, dict[str, Any]] = {}
    whole = len(SOFTMAX) * mnist.steps(epochs) + (len(CONTRASTIVE) + len(TRIPLET)) * mnist.steps(tuning)
    advance = mnist.Together(progress, whole)
    rows = {family: -(-len(variants) // COLUMNS) for family, variants in FAMILIES.items()}
    figure, axes = panels(sum(rows.values()), COLUMNS, 12, 0.5 + 2.1 * sum(rows.values()))
    for ax in axes.ravel():
        ax.axis("off")
    softmax = {
        name: train_on_sphere(variant, epochs=epochs, rate=mnist.RATE, progress=advance)
        for name, variant in SOFTMAX.items()
    }
    free = iter(axes)
    for family, variants in FAMILIES.items():
        numbers[family] = {}
        own = [ax for _ in range(rows[family]) for ax in next(free)]
        for ax, (name, variant) in zip(own, variants.items(), strict=False):
            run = softmax.get(name) or train_on_sphere(
                variant, epochs=tuning, rate=TUNING_RATE, progress=advance, start=softmax[START]
            )
            found = measure(run.test, labels, run.agents)
            numbers[family][name] = {"loss": variant[0], "options": dict(variant[1]), **found}
            _draw(ax, run)
            title(ax, f"{name}\n{found['accuracy']['value']:.1%}, {found['mean_genuine_angle']:.0f}°, "
                  f"{found['smallest_angle_between_agents']:.0f}°")  # fmt: skip
    caption = (
        "Below each name: test digits nearest to their own agent, mean angle to it, smallest angle between two agents. "
        f"First: softmax, {epochs} epochs from scratch. Last two rows: C-contrastive and C-triplet, {tuning} "
        f"epochs from the softmax model {START!r} and its class weights, at a lower rate, as the paper fine-tunes. "
        "Features are normalized for drawing."
    )
    training = {"epochs": epochs, "tuning_epochs": tuning, "rate": mnist.RATE, "tuning_rate": TUNING_RATE, "seed": 0}
    return Drawing(figure, caption, {"variants": numbers, "start": START, **training})


def _draw(axes: Any, run: SphereRun) -> None:
    ball, directions, labels = Sphere(axes), l2_normalize(run.test).numpy(), mnist.digits().test_labels.numpy()
    for digit, color in enumerate(DIGITS):
        ball.scatter(directions[labels == digit], color)
    ball.agents(l2_normalize(run.agents).numpy(), [str(digit) for digit in range(len(DIGITS))], list(DIGITS))
