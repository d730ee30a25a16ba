"""Streaming reductions over the non-target logits: one number per sample, and its slopes, in PyTorch's operators.

Slopes are the derivatives of that number by each product, up to a factor of each sample.
B batch, T classes of a block.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

REACH = 64.0  # exp(-64) is a normal number in float32, and the sum of 10⁹ exp(64) one too; so they are in bfloat16


class Reduce(Protocol):
    """Reduces products z [B, T] with the other classes to one number per sample.

    Attributes:
        fixed: the slopes are known in the first pass already, so `take` gives them.
    """

    fixed: bool

    def start(self, compute: torch.dtype) -> None:
        """Begin; the products come in this dtype."""

    def take(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Add a block, and return its slopes if they are fixed. `out_BT`, which may be the block, is room for them.

        The own classes' columns are left out, and may be overwritten; of classes of other blocks they are outside
        [0, T).
        """

    def slopes(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Return the slopes of a block after `result`; see `take`."""

    def result(self) -> Tensor:
        """Return the reduction [B]."""

    def factor(self) -> Tensor:
        """Return the factor [B] of slopes; available after `result`."""


class Rule(NamedTuple):
    """An elementwise rule for other classes' logits z = s·cos θ.

    Attributes:
        scale_B: s.
        own_B: the own classes' values under the margin, as cosines.
        curriculum: t, a scalar tensor, or None. Cosines above the own value count as cos·(t + cos).
        exclude_above: leave out classes with a larger cosine (logit -∞), or None.
    """

    scale_B: Tensor
    own_B: Tensor
    curriculum: Tensor | None
    exclude_above: float | None

    def __call__(self, z_BT: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return values, and their derivatives by z where these are not all 1."""
        values_BT, change_BT, cos_BT = z_BT, None, z_BT / self.scale_B[:, None]
        if self.curriculum is not None:
            hard_BT, lifted_BT = cos_BT > self.own_B[:, None], self.curriculum + cos_BT
            values_BT = torch.where(hard_BT, z_BT * lifted_BT, z_BT)
            change_BT = torch.where(hard_BT, lifted_BT + cos_BT, 1)
        if self.exclude_above is not None:
            values_BT = values_BT.masked_fill(cos_BT > self.exclude_above, -torch.inf)
        return values_BT, change_BT


class LogSumExp:
    """log Σ_{j≠y} exp(v_j) of the values v = rule(z), or z; values of -∞ are left out.

    Args:
        like_B: gives shape, dtype and device.
        bound_B: no |v| is larger; None: not known. Where it is at most REACH no largest value is needed: exp(v) is as
            accurate as exp(v - largest).

    With a rule, `mean` [B] is Σ_j p_j·v_j under the softmax p over them.
    """

    def __init__(self, like_B: Tensor, bound_B: Tensor | None = None, rule: Rule | None = None) -> None:
        self.bound_B, self.rule = bound_B, rule
        self.total, self.moment = torch.zeros_like(like_B), torch.zeros_like(like_B)

    def start(self, compute: torch.dtype) -> None:
        """Begin with sums of nothing, and decide whether a largest value is needed."""
        # float16 holds no exp(REACH); and a GPU is not asked, which would wait for it.
        able = self.bound_B is not None and compute != torch.float16 and not self.total.is_cuda
        self.fixed = able and bool(self.bound_B.max() <= REACH)  # type: ignore[union-attr]
        self.top = torch.zeros_like(self.total) if self.fixed else torch.full_like(self.total, -torch.inf)

    def _values(self, z_BT: Tensor, own_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values v, and dv/dz where that is not 1."""
        values_BT, change_BT = (z_BT, None) if self.rule is None else self.rule(z_BT.to(self.total.dtype))
        return fill_own(values_BT, own_B, -torch.inf), change_BT

    def _exp(self, values_BT: Tensor, out_BT: Tensor) -> Tensor:
        out_BT = out_BT if self.rule is None else torch.empty_like(values_BT)
        if self.fixed:
            return torch.exp(values_BT, out=out_BT)
        # A largest value of a half precision is one of its numbers: the difference is exact where exp of it counts.
        return torch.sub(values_BT, self.top[:, None].to(values_BT.dtype), out=out_BT).exp_()

    def take(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Add a block z [B, T] to the sums, and return exp(v - top)·dv/dz."""
        values_BT, change_BT = self._values(z_BT, own_B)
        if not self.fixed:
            largest_B = values_BT.amax(1).to(self.top.dtype)
            top = torch.maximum(self.top, largest_B).clamp_(min=torch.finfo(values_BT.dtype).min)
            fading = self.top.sub_(top).exp_()
            self.total *= fading
            self.moment *= fading
            self.top = top
        exp_BT = self._exp(values_BT, out_BT)
        self.total += exp_BT.sum(1, dtype=self.total.dtype)
        if self.rule is not None:
            self.moment += values_BT.masked_fill_(values_BT == -torch.inf, 0).mul_(exp_BT).sum(1)
        return exp_BT if change_BT is None else exp_BT.mul_(change_BT)

    def slopes(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Return exp(v - top)·dv/dz of a block that was added before."""
        values_BT, change_BT = self._values(z_BT, own_B)
        exp_BT = self._exp(values_BT, out_BT)
        return exp_BT if change_BT is None else exp_BT.mul_(change_BT)

    def result(self) -> Tensor:
        """Return the logarithm of the sum [B]; -∞ where nothing was added."""
        self.value = self.top + self.total.log()
        self.mean = (self.moment / self.total).masked_fill_(self.total == 0, 0)
        return self.value

    def factor(self) -> Tensor:
        """Return exp(top - result) [B]; 0 where nothing was added."""
        return (self.top - self.value).exp_().masked_fill_(self.total == 0, 0)


class Hinge:
    """Σ_{j≠y} max(0, m - d_j), or Σ exp(-d_j) over d_j < m if exponential; z are cosines, d = 2 - 2·z, m = `level` [B].

    `weights` [B] is then the number of active negatives, or their summed exp(-d).
    """

    fixed = True

    def __init__(self, level_B: Tensor, *, exponential: bool = False) -> None:
        self.level_B, self.exponential = level_B, exponential
        self.total, self.weights = torch.zeros_like(level_B), torch.zeros_like(level_B)

    def start(self, compute: torch.dtype) -> None:
        """Nothing depends on the products' dtype."""

    def _weights(self, z_BT: Tensor, own_B: Tensor) -> tuple[Tensor, Tensor]:
        d_BT = fill_own(2 - 2 * z_BT.to(self.total.dtype), own_B, torch.inf)
        active_BT = d_BT < self.level_B[:, None]
        return d_BT, active_BT * torch.exp(-d_BT) if self.exponential else active_BT.to(d_BT.dtype)

    def take(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Add a block of cosines z [B, T], and return the slopes: 2 or 2·exp(-d) where active, else 0."""
        d_BT, weights_BT = self._weights(z_BT, own_B)
        weights_B = weights_BT.sum(1)
        self.weights += weights_B
        costs_BT = torch.where(weights_BT > 0, self.level_B[:, None] - d_BT, 0)
        self.total += weights_B if self.exponential else costs_BT.sum(1)
        return weights_BT.mul_(2)

    def slopes(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Return the slopes of a block that was added before."""
        return self._weights(z_BT, own_B)[1].mul_(2)

    def result(self) -> Tensor:
        """Return the sum [B]."""
        return self.total

    def factor(self) -> Tensor:
        """Return ones [B]: the slopes need no factor."""
        return torch.ones_like(self.total)


class SoftplusSum:
    """Σ_{j≠y} log(1 + exp(z_j - level)), `level` a scalar; `weights` [B] is then Σ_{j≠y} sigmoid(z_j - level)."""

    fixed = True

    def __init__(self, like_B: Tensor, level: Tensor) -> None:
        self.level = level
        self.total, self.weights = torch.zeros_like(like_B), torch.zeros_like(like_B)

    def start(self, compute: torch.dtype) -> None:
        """Nothing depends on the products' dtype."""

    def take(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Add a block of products z [B, T], and return the slopes: sigmoid(z - level)."""
        above_BT = fill_own(z_BT.to(self.total.dtype) - self.level, own_B, -torch.inf)
        self.total += functional.softplus(above_BT).sum(1)
        slopes_BT = above_BT.sigmoid_()
        self.weights += slopes_BT.sum(1)
        return slopes_BT

    def slopes(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Return the slopes of a block that was added before."""
        return fill_own(z_BT.to(self.total.dtype) - self.level, own_B, -torch.inf).sigmoid_()

    def result(self) -> Tensor:
        """Return the sum [B]."""
        return self.total

    def factor(self) -> Tensor:
        """Return ones [B]: the slopes need no factor."""
        return torch.ones_like(self.total)


class Nearest:
    """The largest product with another class [B]; `found` [B] is that class. Without gradient."""

    fixed = True

    def __init__(self, like_B: Tensor) -> None:
        self.best, self.found = torch.full_like(like_B, -torch.inf), torch.zeros_like(like_B, dtype=torch.int64)
        self.seen = 0

    def start(self, compute: torch.dtype) -> None:
        """Nothing depends on the products' dtype."""

    def take(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """Compare with a block z [B, T]; there are no slopes."""
        best_B, column_B = fill_own(z_BT, own_B, -torch.inf).max(1)
        self.found = torch.where(best_B > self.best, column_B + self.seen, self.found)
        self.best = torch.maximum(self.best, best_B)
        self.seen += z_BT.shape[1]
        return z_BT

    def slopes(self, z_BT: Tensor, own_B: Tensor, out_BT: Tensor) -> Tensor:
        """There are none."""
        raise NotImplementedError

    def result(self) -> Tensor:
        """Return the largest product [B]."""
        return self.best

    def factor(self) -> Tensor:
        """There is none."""
        raise NotImplementedError


def fill_own(values_BT: Tensor, own_B: Tensor, value: float) -> Tensor:
    """Overwrite the own classes' columns in place; those outside [0, T) have none. No value is looked at."""
    column_B1 = own_B.clamp(0, values_BT.shape[1] - 1)[:, None]
    elsewhere_B1 = own_B[:, None] != column_B1
    return values_BT.scatter_(1, column_B1, values_BT.gather(1, column_B1).where(elsewhere_B1, value))
