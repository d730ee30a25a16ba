"""Margins on the own class's angle: one formula for CosFace, ArcFace and SphereFace."""

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
    """Replaces the own class's cosine, cos θ, by cos(multiply·θ + angle) - cosine.

    CosFace is `Margin(cosine=0.35)`, ArcFace `Margin(angle=0.5)`, SphereFace `Margin(multiply=4)`.

    Attributes:
        multiply: at least 1.
        angle: radians, not negative.
        cosine: not negative.
        gradient: "exact", or "straight-through": the value is the same, but the gradient is that of cos θ, as in
            insightface's ArcFace. The exact one is larger by multiply·sin(multiply·θ + angle) / sin θ.

    Where multiply·θ + angle exceeds kπ the cosine goes on falling as (-1)ᵏ·cos(…) - 2k (SphereFace's continuation), so
    a larger angle always costs more. At cos θ = ±1, where the exact derivative is infinite, the angle is taken at
    cos θ = ±(1 - 1e-7): value and gradient are finite.
    """

    multiply: float = 1.0
    angle: float = 0.0
    cosine: float = 0.0
    gradient: Literal["exact", "straight-through"] = "exact"

    def __post_init__(self) -> None:
        numbers = (self.multiply, self.angle, self.cosine)
        sound = all(math.isfinite(n) for n in numbers) and self.multiply >= 1 and min(numbers) >= 0
        if not sound or self.gradient not in ("exact", "straight-through"):
            raise ConfigError(
                "multiply ≥ 1, angle ≥ 0, cosine ≥ 0, gradient exact or straight-through", repr(self), "correct it"
            )

    def __call__(self, cosines: Tensor) -> Tensor:
        """Own classes' cosines, any shape → the values to take their place."""
        if self.multiply == 1 and self.angle == 0:
            return cosines - self.cosine  # no arccosine, so nothing is kept away from ±1
        inside = cosines + (cosines.clamp(-1 + EDGE, 1 - EDGE) - cosines).detach()  # never zeroes the gradient
        angles = self.multiply * torch.acos(inside) + self.angle
        turns = torch.floor(angles.detach() / math.pi)
        values = torch.cos(angles) * (1 - 2 * (turns % 2)) - 2 * turns - self.cosine
        return values if self.gradient == "exact" else cosines + (values - cosines).detach()
