"""Several losses on the same features, each with its own class weights (the paper's best results)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError
from ..types import ClassShard
from . import LOSSES

PAPERS: tuple[Mapping[str, Any], ...] = (
    {"name": "CosineSoftmax", "weight": 1.0, "scale": 4.0},
    {"name": "CContrastive", "weight": 0.01},
)


@LOSSES.register
class Joint(nn.Module):
    """Weighted sum of registered losses, each with its own class weights or agents.

    Args:
        num_classes, dim: of every loss.
        terms: mappings with `name`, `weight` and the loss's own options. Default: the paper's best, softmax (scale 4,
            learned) + 0.01 · C-contrastive.
        shard: of every loss; see `CosineSoftmax`.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        terms: Sequence[Mapping[str, Any]] = PAPERS,
        shard: ClassShard | None = None,
    ) -> None:
        super().__init__()
        shared = {} if shard is None else {"shard": shard}
        if not terms or not all({"name", "weight"} <= set(term) for term in terms):
            raise ConfigError("terms, each with name and weight", repr(terms), "add what is missing")
        self.weights = [float(term["weight"]) for term in terms]
        self.terms = nn.ModuleList(
            LOSSES.build(
                term["name"],
                num_classes,
                dim,
                **{k: v for k, v in term.items() if k not in ("name", "weight")},
                **shared,
            )
            for term in terms
        )

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        values = (weight * term(features, labels) for weight, term in zip(self.weights, self.terms, strict=True))
        return sum(values, start=features.new_zeros(()))
