"""The classification head: a batch and the class weights, as the softmax and the agent losses use them.

`sharded.Sharded` is the same head for ranks that share the classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .blockwise import PLAIN, Blockwise
from .reductions import Reduce
from .reference import l2_normalize, widened
from .steps import COSINES, RowRule, unit_rows


class Head:
    """A batch and all classes.

    Args:
        x_BD: features.
        w_RD: class weights, not normalized, class-major.
        y_B: labels; -1 for a class that another rank holds.
        rule: how rows of weights form classes.
        products: computes the products.
    """

    def __init__(
        self, x_BD: Tensor, w_RD: Tensor, y_B: Tensor, rule: RowRule = COSINES, products: Blockwise = PLAIN
    ) -> None:
        self.x_BD, self.y_B = widened(x_BD), y_B
        self.w_RD = w_RD.to(self.x_BD.dtype)
        self.rule, self.products = rule, products

    def total(self, part: Tensor) -> Tensor:
        """Sum over the ranks that share the classes; here, all classes are on one."""
        return part

    def shared(self, x: Tensor) -> Tensor:
        """Mark a value as replicated on all ranks that share the classes."""
        return x

    def owner(self, best_B: Tensor) -> Tensor:
        """Return True [B] where this rank holds the largest of all ranks' numbers."""
        return torch.ones_like(best_B, dtype=torch.bool)

    def log_total(self, part_B: Tensor) -> Tensor:
        """log Σ exp over the ranks that share the classes."""
        return part_B

    @torch.no_grad()
    def own(self) -> tuple[Tensor, Tensor]:
        """Rows of the own classes' nearest sub-centers [B] (-1 on other ranks), and their products with x̃ [B]."""
        rows_BK = self.y_B[:, None] * self.rule.subcenters + torch.arange(self.rule.subcenters, device=self.y_B.device)
        rows_BK = torch.where(self.y_B[:, None] >= 0, rows_BK, -1)
        own_BKD = unit_rows(self.w_RD, rows_BK)[0] if self.rule.unit else self.w_RD[rows_BK] * (rows_BK >= 0)[..., None]
        best_B, place_B = (l2_normalize(self.x_BD)[:, None] * own_BKD).sum(2).max(1)
        return rows_BK.gather(1, place_B[:, None])[:, 0], self.total(best_B)

    def reduce(self, x_BD: Tensor, rows_B: Tensor, reduce: Reduce, *, small: bool = True) -> tuple[Tensor, Tensor]:
        """See `Blockwise`; over this rank's classes."""
        return self.products(x_BD, self.w_RD, rows_B, reduce, self.rule, small=small)


def some_cosines(x_BD: Tensor, w_RD: Tensor, rows_BK: Tensor) -> Tensor:
    """Cosines [B, K] of unit features with a few rows each; a negative row number gives 0."""
    return _Some.apply(x_BD, w_RD, rows_BK)  # type: ignore[no-untyped-call,no-any-return]


class _Some(torch.autograd.Function):
    """Indexing with one gradient of the weights' size: indexing twice would make two."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, w_RD: Tensor, rows_BK: Tensor) -> Tensor:
        own_BKD, _ = unit_rows(w_RD, rows_BK)
        cos_BK = (x_BD[:, None] * own_BKD).sum(2)
        ctx.save_for_backward(x_BD, w_RD, rows_BK, cos_BK)
        return cos_BK

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (down_BK,) = gradients
        x_BD, w_RD, rows_BK, cos_BK = ctx.saved_tensors
        own_BKD, inverse_BK = unit_rows(w_RD, rows_BK)
        tangent_BKD = x_BD[:, None] - cos_BK[..., None] * own_BKD
        tangent_BKD *= (down_BK * inverse_BK)[..., None]
        tangent_BKD = tangent_BKD.flatten(0, 1)  # zeros for negative row numbers
        dw_RD = torch.zeros_like(w_RD).index_add_(0, rows_BK.clamp(min=0).flatten(), tangent_BKD)
        return (down_BK[..., None] * own_BKD).sum(1), dw_RD, None
