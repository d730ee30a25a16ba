"""Margins on the own class's angle in one formula: CosFace, ArcFace, SphereFace and sample-adaptive ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError

EDGE = 1e-7  # cosines are kept this far from ±1 where an arccosine is taken


@dataclass(frozen=True)
class Margin:
    """Replaces the own class's cosine, cos θ, by ψ = cos(multiply·θ + angle) - cosine.

    CosFace is `Margin(cosine=0.35)`, ArcFace `Margin(angle=0.5)`, SphereFace `Margin(multiply=4)`.

    Attributes:
        multiply: at least 1.
        angle: radians, at least 0; or a tensor [B], one per sample, of any sign.
        cosine: at least 0; or a tensor [B]. Both tensors receive gradients if they require them.
        gradient: "exact", or "straight-through": the same value with the gradient of cos θ, as in insightface's
            ArcFace. The exact gradient is larger by multiply·sin(multiply·θ + angle) / sin θ.
        beyond: the value for multiply·θ + angle outside [0, π]. "continue": the cosine keeps falling as
            (-1)ᵏ·cos(…) - 2k from kπ on (SphereFace's continuation), so a larger angle always costs more.
            "clamp": the angle is clamped to [0, π], where the exact gradient is 0.
        blend: λ ≥ 0; the value is (λ·cos θ + ψ)/(1 + λ) (SphereFace's annealing).
        curriculum: t, or None. Other classes with a cosine above the own class's value (hard ones) count as
            cos·(t + cos) (Huang et al. 2020).

    At cos θ = ±1, where the exact derivative is infinite, the angle is computed from cos θ = ±(1 - 1e-7), so value
    and gradient are finite.
    """

    multiply: float = 1.0
    angle: float | Tensor = 0.0
    cosine: float | Tensor = 0.0
    gradient: Literal["exact", "straight-through"] = "exact"
    beyond: Literal["continue", "clamp"] = "continue"
    blend: float | Tensor = 0.0
    curriculum: float | Tensor | None = None

    def __post_init__(self) -> None:
        numbers = (self.multiply, self.angle, self.cosine, self.blend)
        # Tensors are what a batch gave: broken ones must reach the loss as NaN, where training looks for it.
        sound = all(isinstance(n, Tensor) or (math.isfinite(n) and n >= 0) for n in numbers) and self.multiply >= 1
        named = self.gradient in ("exact", "straight-through") and self.beyond in ("continue", "clamp")
        if not (sound and named):
            raise ConfigError(
                "multiply ≥ 1; angle, cosine and blend ≥ 0; gradient exact or straight-through; beyond continue or "
                "clamp", repr(self), "correct it",
            )  # fmt: skip

    def __call__(self, cosines: Tensor) -> Tensor:
        """Map own classes' cosines, of any shape ([B] if the margin has tensors), to their values under the margin."""
        values = self._of_the_angle(cosines) - self.cosine
        values = (self.blend * cosines + values) / (1 + self.blend)
        return values if self.gradient == "exact" else cosines + (values - cosines).detach()

    def others(self, cosines: Tensor, own: Tensor) -> Tensor:
        """Map other classes' cosines [B, any number], given the own classes' values [B, 1], to their values.

        Columns are independent. The caller overwrites the own class's column, if present.
        """
        if self.curriculum is None:
            return cosines
        return torch.where(cosines > own, cosines * (self.curriculum + cosines), cosines)

    def _of_the_angle(self, cosines: Tensor) -> Tensor:
        if self.multiply == 1 and not isinstance(self.angle, Tensor) and self.angle == 0:
            return cosines  # no arccosine, so nothing is kept away from ±1
        angles = self.multiply * _angles(cosines) + self.angle
        if self.beyond == "clamp":
            return torch.cos(angles.clamp(0, math.pi))
        turns = torch.floor(angles.detach() / math.pi)
        return torch.cos(angles) * (1 - 2 * (turns % 2)) - 2 * turns


@dataclass(frozen=True)
class Quadratic(Margin):
    """Replaces cos θ by ψ = curve·(θ - vertex)² + top, whose distance to cos θ grows with θ (X2-Softmax).

    Of the other attributes only gradient and blend apply.

    Attributes:
        curve: below 0.
        vertex: radians, at most 0, so that ψ falls from θ = 0 to π.
        top: largest value, below 1 for a margin at θ = vertex = 0.
    """

    curve: float = -0.9
    vertex: float = 0.0
    top: float = 0.65

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (-math.inf < self.curve < 0 and -math.inf < self.vertex <= 0 and math.isfinite(self.top)):
            raise ConfigError(
                "curve < 0, vertex ≤ 0 and a finite top", f"{self.curve}, {self.vertex} and {self.top}", "correct them"
            )

    def _of_the_angle(self, cosines: Tensor) -> Tensor:
        return self.curve * (_angles(cosines) - self.vertex).square() + self.top


def _angles(cosines: Tensor) -> Tensor:
    inside = cosines + (cosines.clamp(-1 + EDGE, 1 - EDGE) - cosines).detach()  # never zeroes the gradient
    return torch.acos(inside)
