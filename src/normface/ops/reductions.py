"""Streaming reductions over the non-target logits: one number per sample, and its slopes.

The slopes, the derivatives of that number by each product, are needed before the number is known. They are given up
to a factor per sample, which follows: Σ_j e_j·w_j is summed first and divided by Σ_j e_j at the end.
B batch, T classes of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Own = tuple[Tensor, Tensor]  # rows and columns of own classes in a tile
REACH = 64.0  # exp(-64) is a normal number in float32, and the sum of 10⁹ exp(64) one too; so they are in bfloat16


class Reduce(Protocol):
    """Reduces products z [B, T] with the other classes to one number per sample."""

    top: Tensor  # [B]; slopes are divided by exp(top), and `take` may raise it

    def take(self, z_BT: Tensor, own: Own) -> Tensor:
        """Add a tile, which may be overwritten, and return its slopes; entries at `own` are ignored."""

    def slopes(self, z_BT: Tensor, own: Own) -> Tensor:
        """Return the slopes of a tile that was added before; the tile may be overwritten."""

    def result(self) -> Tensor:
        """Return the reduction [B]."""

    def factor(self, top_B: Tensor) -> Tensor:
        """Return the factor [B] of slopes that were divided by exp(top); available after the last tile."""


class LogSumExp:
    """log Σ_{j≠y} exp(v_j) of the values v = others(z), or z; values of -∞ are left out.

    Args:
        bounded: all |v| are at most REACH, so exp(v) is as accurate as exp(v - largest).
        others: an elementwise function.

    With `others`, `mean` [B] is Σ_j p_j·v_j under the softmax p over them.
    """

    def __init__(self, like_B: Tensor, bounded: bool, others: Callable[[Tensor], Tensor] | None) -> None:
        self.bounded, self.others = bounded, others
        self.top = torch.zeros_like(like_B) if bounded else torch.full_like(like_B, -torch.inf)
        self.total, self.moment = torch.zeros_like(like_B), torch.zeros_like(like_B)

    def _values(self, z_BT: Tensor, own: Own) -> tuple[Tensor, Tensor | None]:
        """Values v, and dv/dz where that is not 1."""
        if self.others is None:
            values_BT, change_BT = z_BT, None
        else:
            with torch.enable_grad():
                z_BT = z_BT.to(self.total.dtype, copy=True).requires_grad_()
                values_BT = self.others(z_BT)
            (change_BT,) = torch.autograd.grad(values_BT, z_BT, torch.ones_like(z_BT))
            values_BT = values_BT.detach()
        values_BT[own] = -torch.inf
        return values_BT, change_BT

    def _exp(self, values_BT: Tensor) -> Tensor:
        # A largest value of a half precision is one of its numbers: the difference is exact where exp of it counts.
        return (values_BT if self.bounded else values_BT.sub_(self.top[:, None].to(values_BT.dtype))).exp_()

    def take(self, z_BT: Tensor, own: Own) -> Tensor:
        """Add a tile z [B, T] to the sums, and return exp(v - top)·dv/dz."""
        values_BT, change_BT = self._values(z_BT, own)
        if not self.bounded:
            largest_B = values_BT.amax(1).to(self.top.dtype)
            top = torch.maximum(self.top, largest_B).clamp(min=torch.finfo(values_BT.dtype).min)
            fading = (self.top - top).exp_()
            self.total *= fading
            self.moment *= fading
            self.top = top
        if change_BT is None:
            exp_BT = self._exp(values_BT)
            self.total += exp_BT.sum(1, dtype=self.total.dtype)
            return exp_BT
        exp_BT = self._exp(values_BT.clone())
        self.total += exp_BT.sum(1)
        self.moment += values_BT.masked_fill_(values_BT == -torch.inf, 0).mul_(exp_BT).sum(1)
        return exp_BT.mul_(change_BT)

    def slopes(self, z_BT: Tensor, own: Own) -> Tensor:
        """Return exp(v - top)·dv/dz of a tile that was added before."""
        values_BT, change_BT = self._values(z_BT, own)
        exp_BT = self._exp(values_BT)
        return exp_BT if change_BT is None else exp_BT.mul_(change_BT)

    def result(self) -> Tensor:
        """Return the logarithm of the sum [B]; -∞ where nothing was added."""
        self.value = self.top + self.total.log()
        self.mean = (self.moment / self.total).masked_fill_(self.total == 0, 0)
        return self.value

    def factor(self, top_B: Tensor) -> Tensor:
        """Return exp(top - result) [B]; 0 where nothing was added."""
        return (top_B - self.value).exp_().masked_fill_(self.total == 0, 0)


class Hinge:
    """Σ_{j≠y} max(0, m - d_j), or Σ exp(-d_j) over d_j < m if exponential; z are cosines, d = 2 - 2·z, m = `level` [B].

    `weights` [B] is then the number of active negatives, or their summed exp(-d).
    """

    def __init__(self, level_B: Tensor, *, exponential: bool = False) -> None:
        self.level_B1, self.exponential = level_B[:, None], exponential
        self.total, self.weights = torch.zeros_like(level_B), torch.zeros_like(level_B)
        self.top = torch.zeros_like(level_B)

    def _weights(self, z_BT: Tensor, own: Own) -> tuple[Tensor, Tensor]:
        d_BT = 2 - 2 * z_BT.to(self.total.dtype)
        active_BT = d_BT < self.level_B1
        active_BT[own] = False
        return d_BT, active_BT * torch.exp(-d_BT) if self.exponential else active_BT.to(d_BT.dtype)

    def take(self, z_BT: Tensor, own: Own) -> Tensor:
        """Add a tile of cosines z [B, T], and return the slopes: 2 or 2·exp(-d) where active, else 0."""
        d_BT, weights_BT = self._weights(z_BT, own)
        weights_B = weights_BT.sum(1)
        self.weights += weights_B
        self.total += weights_B if self.exponential else torch.where(weights_BT > 0, self.level_B1 - d_BT, 0).sum(1)
        return weights_BT.mul_(2)

    def slopes(self, z_BT: Tensor, own: Own) -> Tensor:
        """Return the slopes of a tile that was added before."""
        return self._weights(z_BT, own)[1].mul_(2)

    def result(self) -> Tensor:
        """Return the sum [B]."""
        return self.total

    def factor(self, top_B: Tensor) -> Tensor:
        """Return ones [B]: the slopes need no factor."""
        return torch.ones_like(top_B)
