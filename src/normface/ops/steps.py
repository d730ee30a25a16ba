"""Rows of class weights, and the steps that are done to a block of them and to its products with the features.

The products themselves are the library's (`blockwise`). `Plain` does the rest by PyTorch's operators on any device,
`triton.Fused` by kernels on a GPU.
B batch, C classes, K sub-centers of each, R = C·K rows of weights, N rows of a block, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .reductions import Reduce
from .reference import EPS


class RowRule(NamedTuple):
    """How rows of class weights form classes.

    Attributes:
        subcenters: K; a class's product is the largest of its rows.
        unit: normalize the rows.
        project: let the weights' gradient pass through the normalization (eq. 4).
    """

    subcenters: int = 1
    unit: bool = True
    project: bool = True


COSINES = RowRule()


@dataclass
class FusedSGD:
    """SGD step of the class weights within the backward pass: their gradient is never stored as a whole.

    The rule is that of torch.optim.SGD without dampening and Nesterov: v ← momentum·v + gradient + weight_decay·w;
    w ← w - lr·v. The weights' `grad` stays None, so an optimizer that also holds them does not change them. One
    backward pass is one step; the loss must not use the weights otherwise.

        update = ops.FusedSGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
        loss = ops.cosine_cross_entropy(x, w, y, scale=30.0, update=update)
        loss.backward()  # w and update.buffer have changed

    Attributes:
        buffer: v [C, D], initially zeros; save it in checkpoints.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    buffer: Tensor | None = None


Update = tuple[FusedSGD, Tensor]  # and the momentum of a block's rows [N, D]


class Steps(Protocol):
    """What one loss does to each block of N rows; slopes as in `reductions.Reduce`.

    Attributes:
        early: `take` gives the slopes; otherwise they are known only after the last block.
        keeps: it saves time to keep slopes or products for the backward pass, where there is room.
    """

    early: bool
    keeps: bool

    def rows(self, w_ND: Tensor, inverse_N: Tensor, out_ND: Tensor, *, measured: bool) -> None:
        """Write normalized or plain rows to `out_ND`, rounded to its dtype; and their factors, unless `measured`."""

    def take(self, z_BN: Tensor, own_B: Tensor, out_BN: Tensor) -> None:
        """Reduce a block's products. Their slopes, if early, go to `out_BN`, which otherwise is room for use.

        `own_B` has the own classes' numbers in the block. Products with them are never used, and may be lost.
        """

    def slopes(self, z_BN: Tensor, own_B: Tensor, out_BN: Tensor) -> None:
        """Write the slopes of a block's products to `out_BN`, after `result`."""

    def result(self) -> Tensor:
        """Return the reduction [B] after the last block."""

    def factor(self) -> Tensor:
        """Return the factor [B] of the slopes, after `result`."""

    def finish(
        self, g_ND: Tensor, w_ND: Tensor, u_ND: Tensor | None, inverse_N: Tensor, size: Tensor, update: Update | None
    ) -> None:
        """Turn the gradient g/size of normalized rows in place into that of the weights w; then update w, if asked.

        `u_ND` has these rows, unless slopes are early.
        """


class Plain:
    """The steps by PyTorch's operators; see `Steps`."""

    keeps = True

    def __init__(self, reduce: Reduce, rule: RowRule, compute: torch.dtype) -> None:
        self.reduce, self.rule = reduce, rule
        reduce.start(compute)
        self.early = reduce.fixed
        self.room_ND: Tensor | None = None  # new memory for each block would cost as much as the work

    def rows(self, w_ND: Tensor, inverse_N: Tensor, out_ND: Tensor, *, measured: bool) -> None:
        """Normalize and round a block's rows."""
        if not self.rule.unit:
            out_ND.copy_(w_ND)
            return
        if not measured:
            inverse_N.copy_(inverse_lengths(w_ND))
        if out_ND.dtype == w_ND.dtype:
            torch.mul(w_ND, inverse_N[:, None], out=out_ND)
        else:
            out_ND.copy_(torch.mul(w_ND, inverse_N[:, None], out=self._room(w_ND)))

    def take(self, z_BN: Tensor, own_B: Tensor, out_BN: Tensor) -> None:
        """Reduce a block's products."""
        self._by_class(self.reduce.take, z_BN, own_B, out_BN)

    def slopes(self, z_BN: Tensor, own_B: Tensor, out_BN: Tensor) -> None:
        """Write the slopes of a block's products."""
        self._by_class(self.reduce.slopes, z_BN, own_B, out_BN)

    def result(self) -> Tensor:
        """Return the reduction [B]."""
        return self.reduce.result()

    def factor(self) -> Tensor:
        """Return the factor [B] of the slopes."""
        return self.reduce.factor()

    def _by_class(
        self, slopes: Callable[[Tensor, Tensor, Tensor], Tensor], z_BN: Tensor, own_B: Tensor, out_BN: Tensor
    ) -> None:
        """Write slopes of products with all rows; of a class only the row with the largest product has one."""
        k = self.rule.subcenters
        if k > 1:
            best = z_BN.view(len(z_BN), -1, k).max(2)
            slopes_BC1 = slopes(best.values, own_B, best.values)[..., None].to(z_BN.dtype)
            out_BN.zero_().view(len(z_BN), -1, k).scatter_(2, best.indices[..., None], slopes_BC1)
        elif (slopes_BN := slopes(z_BN, own_B, out_BN)) is not out_BN:
            out_BN.copy_(slopes_BN)

    def finish(
        self, g_ND: Tensor, w_ND: Tensor, u_ND: Tensor | None, inverse_N: Tensor, size: Tensor, update: Update | None
    ) -> None:
        """Turn the gradient of normalized rows into that of the weights, or into a step."""
        if self.rule.unit and self.rule.project:  # eq. 4: less the part along the weight
            along_N = torch.mul(g_ND, w_ND, out=self._room(g_ND)).sum(1).mul_(inverse_N.square())
            g_ND.addcmul_(w_ND, along_N[:, None], value=-1).mul_((size * inverse_N)[:, None])
        else:
            g_ND.mul_(size)
        if update is not None:
            sgd, v_ND = update
            v_ND.mul_(sgd.momentum).add_(g_ND).add_(w_ND, alpha=sgd.weight_decay)
            w_ND.add_(v_ND, alpha=-sgd.lr)

    def _room(self, like_ND: Tensor) -> Tensor:
        """Return a buffer, reused for every block, of which the first is the largest."""
        if self.room_ND is None:
            self.room_ND = torch.empty_like(like_ND, memory_format=torch.contiguous_format)
        return self.room_ND[: len(like_ND)]


def inverse_lengths(w_RD: Tensor) -> Tensor:
    """1/√(Σw² + ε) of each row [R]."""
    lengths_R: Tensor = torch.linalg.vector_norm(w_RD, dim=1)
    return lengths_R.square_().add_(EPS).rsqrt_()


def scaled_rows(w_RD: Tensor, inverse_R: Tensor, rows_B: Tensor) -> Tensor:
    """Rows of the weights times `inverse_R` [B, D]; zeros for a negative row number."""
    return w_RD[rows_B] * (inverse_R[rows_B] * (rows_B >= 0))[:, None]


def unit_rows(w_RD: Tensor, rows_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Normalized rows [B, K, D] (zeros for negative row numbers), and their factors [B, K]."""
    found_BKD = w_RD[rows_BK]
    inverse_BK = (found_BKD.square().sum(-1) + EPS).rsqrt() * (rows_BK >= 0)
    return found_BKD * inverse_BK[..., None], inverse_BK
