"""Softmax on the hypersphere: the paper's first strategy (eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import ops, theory
from ..errors import ConfigError
from ..ops import Margin
from ..ops.reference import NORMALIZE, Normalize
from . import LOSSES, class_weights

AUTO_PROBABILITY = 0.99  # scale="auto": a well-classified sample can reach this probability
LEAST_SCALE = 0.01  # a learned scale never falls below


@LOSSES.register
class CosineSoftmax(nn.Module):
    """Scaled cosine softmax: -log softmax(s·W̃ᵀf̃)_y, averaged over the batch (eq. 6).

    Args:
        num_classes, dim: of the class weights `weight` [C, D], which start as random unit vectors.
        scale: s. A positive number; or "auto": the least scale whose loss bound (Proposition 2) lets a sample reach
            probability 0.99, which is `theory.scale_for_probability(num_classes, 0.99)`.
        learn_scale: train s, starting from `scale` (the paper's preference); it never falls below 0.01.
        margin: on the own class's angle (`ops.Margin`, or its arguments as a mapping, as recipes write them).
        normalize: "both" (the paper's), "features", "weights", or "none"; with "none", `scale=1` and
            `learn_scale=False` it is the plain bias-free softmax.
        impl: see `ops.cosine_cross_entropy`.

    Raises:
        ConfigError: fewer than 2 classes, dim < 1, a scale that is not positive, an unknown `normalize`.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        scale: float | Literal["auto"] = "auto",
        learn_scale: bool = True,
        margin: Margin | Mapping[str, Any] | None = None,
        normalize: Normalize = "both",
        impl: Literal["auto", "reference"] = "auto",
    ) -> None:
        super().__init__()
        weight = class_weights(num_classes, dim)
        if normalize not in NORMALIZE:
            raise ConfigError(f"normalize among {', '.join(NORMALIZE)}", repr(normalize), "choose one of them")
        if scale == "auto":
            scale = theory.scale_for_probability(num_classes, AUTO_PROBABILITY)
        if isinstance(scale, str) or not 0 < scale < float("inf"):
            raise ConfigError("a positive scale or 'auto'", repr(scale), "correct it")
        if margin is not None and normalize != "both":
            raise ConfigError('normalize="both" with a margin', repr(normalize), "a margin is defined on cosines only")
        self.normalize, self.impl = normalize, impl
        self.margin = Margin(**margin) if isinstance(margin, Mapping) else margin
        self.weight = weight
        self.scale = nn.Parameter(torch.tensor(float(scale)), requires_grad=learn_scale)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        scale: Tensor = self.scale
        if scale.requires_grad:
            # The value is clamped, not the gradient: a scale below the floor can still grow back.
            scale = scale + (scale.clamp(min=LEAST_SCALE) - scale).detach()
        return ops.cosine_cross_entropy(
            features, self.weight, labels, scale=scale, margin=self.margin, normalize=self.normalize, impl=self.impl
        )

    def extra_repr(self) -> str:
        classes, dim = self.weight.shape
        learnt = "learned" if self.scale.requires_grad else "fixed"
        return f"{classes}, {dim}, scale={self.scale.item():.2f} ({learnt}), normalize={self.normalize!r}"
