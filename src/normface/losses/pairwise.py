"""Classic pair and triplet losses on normalized features (eq. 7, 8), which agents replace."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .. import dist
from ..errors import ConfigError, InputError
from ..ops.reference import agent_distances, directed
from ..types import ClassShard
from . import LOSSES

Mining = Literal["all", "hard", "semi-hard"]


class _Pairwise(nn.Module):
    """A loss without weights, 0 for a batch of one.

    Accepts and ignores `num_classes` and `dim`, so that recipes can name any loss.

    Args:
        shard: given if ranks share the batch; pairs then are those of the whole batch. Only its group is used.
    """

    def __init__(
        self, num_classes: int | None = None, dim: int | None = None, *, margin: float, shard: ClassShard | None = None
    ) -> None:
        super().__init__()
        if not 0 < margin < float("inf"):
            raise ConfigError("a positive margin", str(margin), "correct margin")
        self.margin, self.shard = margin, shard

    def compare(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared distances [B, B], and masks of genuine and of impostor pairs, without the diagonal."""
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise InputError(
                "features [B, D] and labels [B] with B ≥ 1", f"{list(features.shape)} and {list(labels.shape)}",
                "make their B agree, and skip empty batches",
            )  # fmt: skip
        if self.shard is not None:
            features = dist.shared(dist.gather(features, self.shard.group), self.shard.group)
            labels = dist.gather(labels, self.shard.group)
        same = labels[:, None] == labels
        apart = ~same
        same.fill_diagonal_(False)
        features = directed(features)
        # Distances of a genuine pair are near 0, the difference of 2 and 2·cos: half precisions keep little of it.
        with torch.autocast(features.device.type, enabled=False):
            return agent_distances(features, features), same, apart


@LOSSES.register
class Contrastive(_Pairwise):
    """Contrastive loss (eq. 7): mean of d over genuine pairs + mean of max(0, m - d) over impostor pairs.

    d are squared distances of normalized features; all pairs of the batch count; a kind without pairs contributes 0.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        dim: int | None = None,
        *,
        margin: float = 1.0,
        shard: ClassShard | None = None,
    ) -> None:
        super().__init__(num_classes, dim, margin=margin, shard=shard)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        d, same, apart = self.compare(features, labels)
        pull = (d * same).sum() / same.sum().clamp(min=1)
        return pull + ((self.margin - d).clamp(min=0) * apart).sum() / apart.sum().clamp(min=1)


@LOSSES.register
class Triplet(_Pairwise):
    """Triplet loss (eq. 8): mean of max(0, m + d₊ - d₋) over mined triplets, on squared distances of unit features.

    Args:
        margin: m.
        mining: "all" triplets of the batch; "hard": each anchor's farthest positive and nearest negative;
            "semi-hard": for each positive pair the nearest negative that is farther than the positive, or the farthest
            negative if there is none (Schroff et al. 2015).

    A batch without triplets gives 0.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        dim: int | None = None,
        *,
        margin: float = 0.8,
        mining: Mining = "all",
        shard: ClassShard | None = None,
    ) -> None:
        super().__init__(num_classes, dim, margin=margin, shard=shard)
        if mining not in get_args(Mining):
            raise ConfigError(f"mining among {', '.join(get_args(Mining))}", repr(mining), "choose one of them")
        self.mining = mining

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        d, same, apart = self.compare(features, labels)
        if self.mining == "hard":
            usable = same.any(1) & apart.any(1)
            farthest = torch.where(usable, d.masked_fill(~same, -torch.inf).amax(1), 0)
            nearest = torch.where(usable, d.masked_fill(~apart, torch.inf).amin(1), 0)
            cost = (self.margin + farthest - nearest).clamp(min=0) * usable
            return cost.sum() / usable.sum().clamp(min=1)
        # [anchor, positive, negative]
        cost = (self.margin + d[:, :, None] - d[:, None, :]).clamp(min=0)
        triplets = same[:, :, None] & apart[:, None, :]
        if self.mining == "semi-hard":
            beyond = triplets & (d[:, None, :] > d[:, :, None])
            nearest = d[:, None, :].masked_fill(~beyond, torch.inf).argmin(2)
            farthest = d[:, None, :].masked_fill(~triplets, -torch.inf).argmax(2)
            chosen = torch.where(beyond.any(2), nearest, farthest)
            triplets = triplets & torch.zeros_like(triplets).scatter_(2, chosen[:, :, None], True)
        return (cost * triplets).sum() / triplets.sum().clamp(min=1)
