"""Metric learning with agents: C-contrastive and C-triplet (§4), and Wen's center loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import dist, ops
from ..errors import ConfigError
from ..ops import Impl
from ..ops.agents import Agents, Dense, Gradient, c_contrastive, c_triplet
from ..types import ClassShard
from . import LOSSES
from .steps import Stepwise
from .weights import class_weights

MEAN_KEEPS, MEAN_CAP = 0.99, 1.2  # of the adaptive margin's moving average


class _Agents(Stepwise):
    """One agent per class, `weight` [C, D], initialized as random unit vectors."""

    def __init__(self, num_classes: int, dim: int, impl: Impl, shard: ClassShard | None) -> None:
        super().__init__()
        self.weight = class_weights(num_classes, dim, shard=shard)
        self.impl: Impl = impl
        self.shard = shard

    def agents(self, features: Tensor, labels: Tensor, *, nearest: bool) -> Agents:
        return ops.before_agents(features, self.weight, labels, nearest=nearest, impl=self.impl, shard=self.shard)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


@LOSSES.register
class CContrastive(_Agents):
    """C-contrastive loss (eq. 10): pulls features to their own agent, pushes them from agents nearer than the margin.

    Random agents are about 2 apart in many dimensions, none nearer than 1. So at first only the pull acts, and all
    features may collapse. Start from a softmax model or train jointly (`Joint`).

    Args:
        num_classes, dim: of the agents.
        margin: of squared distances; the paper recommends 1.
        adaptive_margin: add a moving average (0.99/0.01) of the mean own distance, at most 1.2, to the margin.
        options: those of `ops.agents.c_contrastive`: positive_margin, positive_weight, negative_weight, cap,
            exponential, hardest_negative, hardest_positive, positive_first, normalize_negatives, reduction.
        impl, shard: see `ops.cosine_cross_entropy`.
    """

    mean_distance: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        margin: float = 1.0,
        adaptive_margin: bool = False,
        impl: Impl = "auto",
        shard: ClassShard | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, dim, impl, shard)
        self.margin, self.adaptive_margin, self.options = margin, adaptive_margin, options
        self.register_buffer("mean_distance", torch.zeros(()))
        _try(c_contrastive, options)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        agents = self.agents(features, labels, nearest=self.options.get("hardest_negative", False))
        margin: float | Tensor = self.margin
        if self.adaptive_margin:
            now = self.of_step(agents.own_B).mean() if self.training else None
            margin = self.margin + self.mean_distance.clone()
            if now is not None:
                with torch.no_grad():
                    self.mean_distance.mul_(MEAN_KEEPS).add_((1 - MEAN_KEEPS) * now).clamp_(max=MEAN_CAP)
        return c_contrastive(agents, margin=margin, **self.options)


@LOSSES.register
class CTriplet(_Agents):
    """C-triplet loss (eq. 11): the own agent must be nearer than every other by the margin.

    Args:
        num_classes, dim: of the agents.
        margin: of squared distances; the paper recommends 0.8.
        hardest: count only the nearest other agent (the paper's choice), or all.
        pull: also pull every sample to its own agent (the paper's choice).
        gradient: "exact", or "caffe" for the original layer's backward pass; see `ops.agents.c_triplet`.
        options: positive_weight, negative_weight, reduction.
        impl, shard: see `ops.cosine_cross_entropy`.

    Users of the original implementation report collapse unless the learning rate is small (0.001).
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        margin: float = 0.8,
        hardest: bool = True,
        pull: bool = True,
        gradient: Gradient = "exact",
        impl: Impl = "auto",
        shard: ClassShard | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, dim, impl, shard)
        if gradient not in ("exact", "caffe"):
            raise ConfigError("gradient among exact, caffe", repr(gradient), "set gradient to one of them")
        self.options = dict(margin=margin, hardest=hardest, pull=pull, gradient=gradient, **options)
        _try(c_triplet, self.options)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        agents = self.agents(features, labels, nearest=bool(self.options["hardest"]))
        return c_triplet(agents, **self.options)


class _WenCenters(torch.autograd.Function):
    """½·factor·Σ‖x - c_y‖²; the centers receive Σ(c - x)/(1 + count) instead of the gradient (Wen et al. 2016, eq. 4).

    Can be differentiated twice: the backward pass computes from the inputs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, centers: Tensor, y: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x, centers, y)
        ctx.factor = factor
        return factor * (x - centers[y]).square().sum() / 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        x, centers, y = ctx.saved_tensors
        away = x - centers[y]
        moves = torch.zeros_like(centers).index_add(0, y, -away.to(centers.dtype))
        counts = centers.new_zeros(len(centers)).index_add_(0, y, centers.new_ones(len(y)))
        return gradient * ctx.factor * away, gradient * moves / (1 + counts)[:, None], None, None


@LOSSES.register
class Center(nn.Module):
    """Wen's center loss, ½‖x - c_y‖²/B on unnormalized features (Wen et al. 2016), times `weight`.

    The centers move by Σ(c - x)/(1 + count), the original's rule, through the optimizer's step. The paper's own
    "softmax + center" runs use `CContrastive(margin=0)` instead: the same pull, on the sphere.

    Args:
        num_classes, dim: of the centers, which start at 0.
        weight: 0.008 in the original. It does not scale the movement of the centers.
        shard: see `CosineSoftmax`.
    """

    def __init__(self, num_classes: int, dim: int, *, weight: float = 0.008, shard: ClassShard | None = None) -> None:
        super().__init__()
        if num_classes < 1 or dim < 1:
            raise ConfigError("num_classes ≥ 1 and dim ≥ 1", f"{num_classes} and {dim}", "correct num_classes and dim")
        self.factor = weight  # not a parameter, so not `weight`
        self.shard = shard
        self.centers = nn.Parameter(torch.zeros(num_classes if shard is None else shard.stop - shard.start, dim))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        shard = self.shard
        ops.check(features, self.centers, labels, shard=shard)
        if shard is not None:
            features, labels = dist.gather(features, shard.group), dist.gather(labels, shard.group)
        factor = self.factor / len(labels)
        if shard is not None:
            here = (labels >= shard.start) & (labels < shard.stop)
            features, labels = features[here], labels[here] - shard.start
        value: Tensor = _WenCenters.apply(features, self.centers, labels, factor)  # type: ignore[no-untyped-call]
        return value if shard is None else dist.total(value, shard.group)


def _try(function: Any, options: dict[str, Any]) -> None:
    """Raise ConfigError for unknown options at construction, not at the first batch."""
    try:
        function(Dense(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64)), **options)
    except TypeError as error:
        raise ConfigError(f"options of {function.__name__}", f"'{error}'", "correct the arguments") from error
