"""Products by tiles of classes, reduced one by one and recomputed in the backward pass.

Nothing of size B×C is held: a tile of T classes costs B·T numbers, and the weights' gradient is written tile by tile.
The slopes of the first tiles are kept, up to a fixed number of bytes, which saves a quarter of their arithmetic.
B batch, C classes, K sub-centers of each, R = C·K rows of weights, T classes of a tile, D dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .once import once_differentiable
from .products import RowRule, inverse_lengths, scaled_rows
from .reductions import Own, Reduce

TILE = 2048  # rows of weights: 256 features × 2048 then lie in a core's cache
KEEP = 96 * 2**20  # bytes of slopes kept from the forward to the backward pass
PIECE = 8  # of them in one piece of memory: glibc uses up to 32 MB again without the kernel's help


def blockwise_products(
    x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, reduce: Reduce, rule: RowRule, compute: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `products.Products`."""
    return _Tiled.apply(x_BD, w_RD, rows_B, reduce, rule, compute)  # type: ignore[no-untyped-call,no-any-return]


class _Tiled(torch.autograd.Function):
    """One forward pass over the weights, which also sums the features' gradient: slopes are known up to a factor.

    The backward pass computes only the weights' gradient, from slopes that were kept or are recomputed.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, reduce: Reduce, rule: RowRule, compute: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        needs_x, needs_w = ctx.needs_input_grad[:2]
        k, tiles, x_compute = rule.subcenters, _tiles(w_RD, rule.subcenters), x_BD.to(compute)
        size = len(tiles[0][1])
        units, each = _Units(w_RD, size, rule.unit, compute), len(x_BD) * size
        room = min(KEEP // (each * x_compute.itemsize), len(tiles)) if needs_w else 0
        # Several in one piece: single ones, between tiles that come and go, leave holes.
        kept = [row for at in range(0, room, PIECE) for row in x_compute.new_empty(min(PIECE, room - at), each)]
        spare, tops = x_compute.new_empty(each), []
        sum_BD, own = torch.zeros_like(x_BD), _own(rows_B // k, len(w_RD) // k, size // k)
        for i, (at, w_TD) in enumerate(tiles):
            unit_TD = units.measure(at, w_TD)
            z_BT = _tile(kept[i] if i < room else spare, len(x_BD), len(w_TD))
            torch.mm(x_compute, unit_TD.T, out=z_BT)
            before_B = reduce.top
            _slopes(reduce.take, z_BT, own[i], k)
            tops.append(reduce.top)
            if needs_x:
                if reduce.top is not before_B:
                    sum_BD *= (before_B - reduce.top).exp_()[:, None]
                sum_BD += torch.mm(z_BT, unit_TD)
        own_B = (x_BD * scaled_rows(w_RD, units.inverse_R, rows_B)).sum(1)
        ctx.save_for_backward(x_BD, w_RD, rows_B, units.inverse_R, own_B, sum_BD, *kept)
        ctx.rule, ctx.reduce, ctx.compute, ctx.tops = rule, reduce, compute, tops
        return own_B, reduce.result()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        down_own_B, down_B = gradients
        x_BD, w_RD, rows_B, inverse_R, own_B, sum_BD, *_ = ctx.saved_tensors
        rule, reduce = ctx.rule, ctx.reduce
        own_BD = scaled_rows(w_RD, inverse_R, rows_B)
        dx_BD = sum_BD * (reduce.factor(reduce.top) * down_B)[:, None] + down_own_B[:, None] * own_BD
        if not ctx.needs_input_grad[1]:
            return dx_BD, None, None, None, None, None
        dw_RD = _Tiled._weights(ctx, down_B)
        project = rule.unit and rule.project
        along_BD = x_BD - own_B[:, None] * own_BD if project else x_BD
        factor_B = down_own_B * inverse_R[rows_B] if project else down_own_B
        here_B = rows_B >= 0
        dw_RD.index_add_(0, rows_B[here_B], (along_BD * factor_B[:, None])[here_B])
        return dx_BD, dw_RD, None, None, None, None

    @staticmethod
    def _weights(ctx: Any, down_B: Tensor) -> Tensor:
        """The weights' gradient through the other classes' products."""
        x_BD, w_RD, rows_B, inverse_R, _, _, *kept = ctx.saved_tensors
        rule, reduce, compute = ctx.rule, ctx.reduce, ctx.compute
        k, tiles, x_compute = rule.subcenters, _tiles(w_RD, rule.subcenters), x_BD.to(compute)
        units = _Units(w_RD, len(tiles[0][1]), rule.unit, compute, inverse_R)
        spare, top_B = x_compute.new_empty(len(x_BD) * len(tiles[0][1])), None
        dw_RD = torch.empty_like(w_RD, memory_format=torch.contiguous_format)
        own = _own(rows_B // k, len(w_RD) // k, len(tiles[0][1]) // k)
        for i, (at, w_TD) in enumerate(tiles):
            known = i < len(kept)
            z_BT = _tile(kept[i] if known else spare, len(x_BD), len(w_TD))
            if not known:
                torch.mm(x_compute, units.tile(at, w_TD).T, out=z_BT)
                _slopes(reduce.slopes, z_BT, own[i], k)
            if (ctx.tops[i] if known else reduce.top) is not top_B:
                top_B = ctx.tops[i] if known else reduce.top
                down_BD = x_BD * (reduce.factor(top_B) * down_B)[:, None]
                size = down_BD.abs().amax().clamp_(min=torch.finfo(down_BD.dtype).tiny)
                down_compute = (down_BD / size).to(compute)  # a half precision's small numbers lose digits
            dw_TD = units.product(z_BT, down_compute, dw_RD[at : at + len(w_TD)])
            if rule.unit and rule.project:  # eq. 4: less the part along the weight
                inverse_T = inverse_R[at : at + len(w_TD)]
                along_T = torch.mul(dw_TD, w_TD, out=units.wide_TD[: len(w_TD)]).sum(1).mul_(inverse_T.square())
                dw_TD.addcmul_(w_TD, along_T[:, None], value=-1).mul_((size * inverse_T)[:, None])
            else:
                dw_TD.mul_(size)
        return dw_RD


class _Units:
    """Tiles of normalized or plain rows in the products' precision: one buffer, reused for every tile.

    Attributes:
        inverse_R: factors of the rows.
    """

    def __init__(self, w_RD: Tensor, size: int, unit: bool, compute: torch.dtype, inverse_R: Tensor | None = None):
        self.unit, self.inverse_R = unit, w_RD.new_ones(len(w_RD)) if inverse_R is None else inverse_R
        self.wide_TD = w_RD.new_empty(size, w_RD.shape[1])
        self.compute_TD = self.wide_TD.to(compute)

    def measure(self, at: int, w_TD: Tensor) -> Tensor:
        """Measure the rows of a tile, then return it as `tile` does."""
        if self.unit:
            self.inverse_R[at : at + len(w_TD)] = inverse_lengths(w_TD)
        return self.tile(at, w_TD)

    def tile(self, at: int, w_TD: Tensor) -> Tensor:
        """Return the rows w [T, D] that begin at `at`, normalized."""
        if self.unit:
            w_TD = torch.mul(w_TD, self.inverse_R[at : at + len(w_TD), None], out=self.wide_TD[: len(w_TD)])
        return w_TD if w_TD.dtype == self.compute_TD.dtype else self.compute_TD[: len(w_TD)].copy_(w_TD)

    def product(self, slopes_BT: Tensor, down_BD: Tensor, out_TD: Tensor) -> Tensor:
        """Sum slopes times features; half precisions are widened."""
        if down_BD.dtype == out_TD.dtype:
            return torch.mm(slopes_BT.T, down_BD, out=out_TD)
        return out_TD.copy_(torch.mm(slopes_BT.T, down_BD, out=self.compute_TD[: len(out_TD)]))


def _tile(place: Tensor, samples: int, rows: int) -> Tensor:
    """Return a tile [samples, rows] of a buffer."""
    return place[: samples * rows].view(samples, rows)


def _slopes(slopes: Callable[[Tensor, Own], Tensor], z_BT: Tensor, own: Own, subcenters: int) -> None:
    """Overwrite products of all rows by their slopes; of a class only the row with the largest product has one."""
    if subcenters > 1:
        best = z_BT.view(len(z_BT), -1, subcenters).max(2)
        slopes_BC1 = slopes(best.values, own)[..., None].to(z_BT.dtype)
        z_BT.zero_().view(len(z_BT), -1, subcenters).scatter_(2, best.indices[..., None], slopes_BC1)
    elif (slopes_BT := slopes(z_BT, own)) is not z_BT:
        z_BT.copy_(slopes_BT)


def nearest_other(x_BD: Tensor, w_CD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest cosine of another class [B], and that class [B] int64; without gradient."""
    best_B, found_B = x_BD.new_full((len(x_BD),), -torch.inf), torch.zeros_like(y_B)
    with torch.no_grad():
        for (at, w_TD), own in zip(_tiles(w_CD, 1), _own(y_B, len(w_CD), TILE), strict=True):
            z_BT = torch.mm(x_BD, w_TD.T) * inverse_lengths(w_TD)
            z_BT[own] = -torch.inf
            value_B, column_B = z_BT.max(1)
            found_B = torch.where(value_B > best_B, column_B + at, found_B)
            best_B = torch.maximum(best_B, value_B)
    return best_B, found_B


def _tiles(w_RD: Tensor, subcenters: int) -> list[tuple[int, Tensor]]:
    """Yield the start and the rows of each tile; tiles hold whole classes."""
    size = max(1, TILE // subcenters) * subcenters
    return [(at, w_RD[at : at + size]) for at in range(0, len(w_RD), size)]


def _own(columns_B: Tensor, columns: int, size: int) -> list[Own]:
    """Return rows and columns of the own classes in each tile of that size."""
    tile_B = columns_B.div(size, rounding_mode="floor")
    order_B = tile_B.argsort()
    ends = torch.searchsorted(tile_B[order_B], torch.arange(-(-columns // size) + 1, device=tile_B.device)).tolist()
    columns_B = columns_B[order_B] % size
    return [(order_B[a:b], columns_B[a:b]) for a, b in itertools.pairwise(ends)]
