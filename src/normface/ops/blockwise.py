"""The head without its logits: tiles of classes, reduced as they come, computed again in the backward pass.

Nothing of size B×C is held: a tile of T classes costs B·T numbers, and the weights' gradient is written tile by tile.
The first tiles' slopes, as many as a fixed number of bytes holds, are kept and need not be computed again: that is a
quarter of the arithmetic.
B batch, C classes, K sub-centres of each, R = C·K rows of weights, T classes of a tile, D dimensions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from .agents import Level, Negatives
from .margin import Margin
from .reductions import REACH, Hinge, LogSumExp, Own, Reduce
from .reference import EPS, Normalize, l2_normalize, norms, widened

if TYPE_CHECKING:
    from .triton import Kernels

TILE = 2048  # rows of weights: 256 features × 2048 then lie in a core's cache
KEEP = 96 * 2**20  # bytes of slopes kept from the forward to the backward pass
PIECE = 8  # of them in one piece of memory: glibc uses up to 32 MB again without the kernel's help


class Tiled:
    """A batch before the classes.

    Args:
        x_BD: features.
        w_RD: class weights as they are, class-major.
        y_B: labels; -1 for a class that is not here.
        subcenters: K; the largest product of a class's rows counts.
        unit: bring weights to unit length.
        project: the weights' gradient goes through that (eq. 4), or not.
        kernels: take LogSumExp's products by `ops.triton`.
    """

    def __init__(
        self, x_BD: Tensor, w_RD: Tensor, y_B: Tensor, *, subcenters: int = 1, unit: bool = True, project: bool = True,
        kernels: Kernels | None = None,
    ) -> None:  # fmt: skip
        self.x_BD, self.y_B = widened(x_BD), y_B
        self.w_RD = w_RD.to(self.x_BD.dtype)
        self.subcenters, self.unit, self.project, self.kernels = subcenters, unit, project, kernels
        if kernels is not None:
            kernels.check(self, w_RD)

    @property
    def compute(self) -> torch.dtype:
        """What products are taken in: autocast's precision where it is on."""
        device = self.x_BD.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.x_BD.dtype

    def total(self, part: Tensor) -> Tensor:
        """The sum of what each holder of classes found; all classes are here."""
        return part

    def shared(self, x: Tensor) -> Tensor:
        """What all holders of classes use alike."""
        return x

    def owner(self, best_B: Tensor) -> Tensor:
        """Whether the largest of all holders' numbers is this one's [B]."""
        return torch.ones_like(best_B, dtype=torch.bool)

    def log_total(self, part_B: Tensor) -> Tensor:
        """log Σ exp over the holders."""
        return part_B

    @torch.no_grad()
    def own(self) -> tuple[Tensor, Tensor]:
        """Rows of the own classes' nearest sub-centres [B] (-1 where not here), and their products with x̃ [B]."""
        rows_BK = self.y_B[:, None] * self.subcenters + torch.arange(self.subcenters, device=self.y_B.device)
        rows_BK = torch.where(self.y_B[:, None] >= 0, rows_BK, -1)
        own_BKD = _unit_rows(self.w_RD, rows_BK)[0] if self.unit else self.w_RD[rows_BK] * (rows_BK >= 0)[..., None]
        best_B, place_B = (l2_normalize(self.x_BD)[:, None] * own_BKD).sum(2).max(1)
        return rows_BK.gather(1, place_B[:, None])[:, 0], self.total(best_B)

    def reduce(self, x_BD: Tensor, rows_B: Tensor, reduce: Reduce) -> tuple[Tensor, Tensor]:
        """Products with the own rows [B], and the result over other classes [B]; both of the classes here."""
        compute = self.compute
        with torch.autocast(x_BD.device.type, enabled=False):
            if self.kernels is not None and isinstance(reduce, LogSumExp) and self.kernels.able(reduce):
                return self.kernels.reduce(x_BD, self.w_RD, rows_B, self, reduce, compute)
            return _Tiled.apply(x_BD, self.w_RD, rows_B, self, reduce, compute)  # type: ignore[no-untyped-call,no-any-return]

    def own_distances(self) -> Tensor:
        """See `ops.agents.Agents`."""
        return 2 - 2 * self.own()[1]

    def negatives(self, level: Level, *, exponential: bool = False, hardest: bool = False) -> Negatives:
        """See `ops.agents.Agents`."""
        x_BD = l2_normalize(self.x_BD)
        if not hardest:
            rows_B, cosines_B = self.own()
            reduce = Hinge(level(2 - 2 * cosines_B), exponential=exponential)
            own_B, push_B = self.reduce(x_BD, rows_B, reduce)
            return Negatives(2 - 2 * self.total(own_B), self.total(push_B), self.total(reduce.weights))
        best_B, other_B = nearest_other(x_BD, self.w_RD, self.y_B)
        classes_B2 = torch.stack([self.y_B, torch.where(self.owner(best_B), other_B, -1)], 1)
        own_B, d_B = (2 - 2 * self.total(some_cosines(x_BD, self.w_RD, classes_B2))).unbind(1)
        level_B = level(own_B).detach()
        active_B = d_B < level_B
        push_B = torch.where(active_B, torch.exp(-d_B) if exponential else level_B - d_B, 0)
        return Negatives(own_B, push_B, push_B.detach() if exponential else active_B.to(d_B.dtype))


def cosine_cross_entropy(
    head: Tiled,
    *,
    scale: float | Tensor,
    margin: Margin | Callable[[Tensor], Margin] | None,
    normalize: Normalize,
    exclude_above: float | None,
) -> Tensor:
    """See `ops.cosine_cross_entropy`."""
    lengths_B1 = norms(head.x_BD)[:, None]
    s_B1 = scale * (lengths_B1 if normalize == "weights" else torch.ones_like(lengths_B1))
    rows_B, cosines_B = head.own()
    if margin is not None and not isinstance(margin, Margin):
        margin = margin(cosines_B)
    others = None
    if exclude_above is not None or (margin is not None and margin.curriculum is not None):
        others = _others(s_B1.detach(), margin, None if margin is None else margin(cosines_B).detach(), exclude_above)
    # Cosines cannot exceed 1. float16 holds no exp(REACH).
    bounded = head.unit and normalize in ("both", "weights") and others is None and head.compute != torch.float16
    bounded = bounded and bool(s_B1.max() <= REACH)
    x_BD = head.x_BD if normalize == "none" else l2_normalize(head.x_BD)
    reduce, s_B = LogSumExp(cosines_B, bounded, others), head.shared(s_B1[:, 0])
    if others is None:
        own_B, rest_B = head.reduce(s_B1 * x_BD, rows_B, reduce)
        own_B = head.total(own_B)
        cosines_B = own_B / s_B
    else:
        # The scale is at work within: it is kept out of the products' gradient, and gets its own.
        own_B, rest_B = head.reduce(s_B1.detach() * x_BD, rows_B, reduce)
        cosines_B = head.total(own_B) / s_B.detach()
        own_B = s_B * cosines_B
        rest_B = rest_B + ((s_B1 - s_B1.detach()) / s_B1.detach())[:, 0] * reduce.mean
    if margin is not None:
        own_B = s_B * margin(cosines_B)
    rest_B = head.log_total(rest_B)
    return functional.softplus(rest_B - own_B).mean()


@torch.no_grad()
def adacos_scale(head: Tiled, *, scale: Tensor) -> Tensor:
    """See `ops.adacos_scale`."""
    rows_B, cosines_B = head.own()
    _, rest_B = head.reduce(scale * l2_normalize(head.x_BD), rows_B, LogSumExp(cosines_B, False, None))
    log_mean = head.log_total(rest_B).logsumexp(0) - math.log(len(cosines_B))
    return log_mean / -(-cosines_B).median().clamp(max=-math.sqrt(0.5))


def _others(
    s_B1: Tensor, margin: Margin | None, own_B: Tensor | None, exclude_above: float | None
) -> Callable[[Tensor], Tensor]:
    """What happens to other classes' logits z = s·cos."""

    def others(z_BT: Tensor) -> Tensor:
        cosines_BT = values_BT = z_BT / s_B1
        if margin is not None and own_B is not None:
            values_BT = margin.others(cosines_BT, own_B[:, None])
        z_BT = s_B1 * values_BT
        return z_BT if exclude_above is None else z_BT.masked_fill(cosines_BT.detach() > exclude_above, -torch.inf)

    return others


class _Tiled(torch.autograd.Function):
    """One pass over the weights forward: slopes are known up to factors, so the features' gradient is summed with them.

    Backward, only the weights' gradient is left: from slopes that were kept, or from those of products taken again.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, head: Tiled, reduce: Reduce, compute: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        needs_x, needs_w = ctx.needs_input_grad[:2]
        k, tiles, x_compute = head.subcenters, _tiles(w_RD, head.subcenters), x_BD.to(compute)
        size = len(tiles[0][1])
        units, each = _Units(w_RD, size, head.unit, compute), len(x_BD) * size
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
        own_B = (x_BD * _rows(w_RD, units.inverse_R, rows_B)).sum(1)
        ctx.save_for_backward(x_BD, w_RD, rows_B, units.inverse_R, own_B, sum_BD, *kept)
        ctx.head, ctx.reduce, ctx.compute, ctx.tops = head, reduce, compute, tops
        return own_B, reduce.result()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        down_own_B, down_B = gradients
        x_BD, w_RD, rows_B, inverse_R, own_B, sum_BD, *_ = ctx.saved_tensors
        head, reduce = ctx.head, ctx.reduce
        own_BD = _rows(w_RD, inverse_R, rows_B)
        dx_BD = sum_BD * (reduce.factor(reduce.top) * down_B)[:, None] + down_own_B[:, None] * own_BD
        if not ctx.needs_input_grad[1]:
            return dx_BD, None, None, None, None, None
        dw_RD = _Tiled._weights(ctx, down_B)
        project = head.unit and head.project
        along_BD = x_BD - own_B[:, None] * own_BD if project else x_BD
        factor_B = down_own_B * inverse_R[rows_B] if project else down_own_B
        here_B = rows_B >= 0
        dw_RD.index_add_(0, rows_B[here_B], (along_BD * factor_B[:, None])[here_B])
        return dx_BD, dw_RD, None, None, None, None

    @staticmethod
    def _weights(ctx: Any, down_B: Tensor) -> Tensor:
        """The weights' gradient through the other classes' products."""
        x_BD, w_RD, rows_B, inverse_R, _, _, *kept = ctx.saved_tensors
        head, reduce, compute = ctx.head, ctx.reduce, ctx.compute
        k, tiles, x_compute = head.subcenters, _tiles(w_RD, head.subcenters), x_BD.to(compute)
        units = _Units(w_RD, len(tiles[0][1]), head.unit, compute, inverse_R)
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
            if head.unit and head.project:  # eq. 4: less the part along the weight
                inverse_T = inverse_R[at : at + len(w_TD)]
                along_T = torch.mul(dw_TD, w_TD, out=units.wide_TD[: len(w_TD)]).sum(1).mul_(inverse_T.square())
                dw_TD.addcmul_(w_TD, along_T[:, None], value=-1).mul_((size * inverse_T)[:, None])
            else:
                dw_TD.mul_(size)
        return dw_RD


class _Units:
    """Tiles of unit rows, or of rows as they are, in the products' precision; each takes the place of the one before.

    Attributes:
        inverse_R: what rows are multiplied by.
    """

    def __init__(self, w_RD: Tensor, size: int, unit: bool, compute: torch.dtype, inverse_R: Tensor | None = None):
        self.unit, self.inverse_R = unit, w_RD.new_ones(len(w_RD)) if inverse_R is None else inverse_R
        self.wide_TD = w_RD.new_empty(size, w_RD.shape[1])
        self.compute_TD = self.wide_TD.to(compute)

    def measure(self, at: int, w_TD: Tensor) -> Tensor:
        """The tile, after its rows were measured."""
        if self.unit:
            self.inverse_R[at : at + len(w_TD)] = _inverse(w_TD)
        return self.tile(at, w_TD)

    def tile(self, at: int, w_TD: Tensor) -> Tensor:
        """The rows w [T, D] that begin at `at`, brought to unit length."""
        if self.unit:
            w_TD = torch.mul(w_TD, self.inverse_R[at : at + len(w_TD), None], out=self.wide_TD[: len(w_TD)])
        return w_TD if w_TD.dtype == self.compute_TD.dtype else self.compute_TD[: len(w_TD)].copy_(w_TD)

    def product(self, slopes_BT: Tensor, down_BD: Tensor, out_TD: Tensor) -> Tensor:
        """Σ of slopes times features; a half precision's is widened."""
        if down_BD.dtype == out_TD.dtype:
            return torch.mm(slopes_BT.T, down_BD, out=out_TD)
        return out_TD.copy_(torch.mm(slopes_BT.T, down_BD, out=self.compute_TD[: len(out_TD)]))


def _tile(place: Tensor, samples: int, rows: int) -> Tensor:
    """A tile [samples, rows] at that place in memory."""
    return place[: samples * rows].view(samples, rows)


def _slopes(slopes: Callable[[Tensor, Own], Tensor], z_BT: Tensor, own: Own, subcenters: int) -> None:
    """Put slopes after all rows' products in the products' place; those of a class count by their largest."""
    if subcenters > 1:
        best = z_BT.view(len(z_BT), -1, subcenters).max(2)
        slopes_BC1 = slopes(best.values, own)[..., None].to(z_BT.dtype)
        z_BT.zero_().view(len(z_BT), -1, subcenters).scatter_(2, best.indices[..., None], slopes_BC1)
    elif (slopes_BT := slopes(z_BT, own)) is not z_BT:
        z_BT.copy_(slopes_BT)


def nearest_other(x_BD: Tensor, w_CD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of another class [B], and which class it is [B] int64; without gradient."""
    best_B, found_B = x_BD.new_full((len(x_BD),), -torch.inf), torch.zeros_like(y_B)
    with torch.no_grad():
        for (at, w_TD), own in zip(_tiles(w_CD, 1), _own(y_B, len(w_CD), TILE), strict=True):
            z_BT = torch.mm(x_BD, w_TD.T) * _inverse(w_TD)
            z_BT[own] = -torch.inf
            value_B, column_B = z_BT.max(1)
            found_B = torch.where(value_B > best_B, column_B + at, found_B)
            best_B = torch.maximum(best_B, value_B)
    return best_B, found_B


def some_cosines(x_BD: Tensor, w_RD: Tensor, rows_BK: Tensor) -> Tensor:
    """Cosines [B, K] between unit features and a few rows each; negative ones stand for none and give 0."""
    return _Some.apply(x_BD, w_RD, rows_BK)  # type: ignore[no-untyped-call,no-any-return]


class _Some(torch.autograd.Function):
    """Indexing twice would make two gradients of the weights' size; here the rows are added into one."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, w_RD: Tensor, rows_BK: Tensor) -> Tensor:
        own_BKD, _ = _unit_rows(w_RD, rows_BK)
        cos_BK = (x_BD[:, None] * own_BKD).sum(2)
        ctx.save_for_backward(x_BD, w_RD, rows_BK, cos_BK)
        return cos_BK

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (down_BK,) = gradients
        x_BD, w_RD, rows_BK, cos_BK = ctx.saved_tensors
        own_BKD, inverse_BK = _unit_rows(w_RD, rows_BK)
        tangent_BKD = x_BD[:, None] - cos_BK[..., None] * own_BKD
        tangent_BKD *= (down_BK * inverse_BK)[..., None]
        here = rows_BK >= 0
        dw_RD = torch.zeros_like(w_RD).index_add_(0, rows_BK[here], tangent_BKD[here])
        return (down_BK[..., None] * own_BKD).sum(1), dw_RD, None


def _tiles(w_RD: Tensor, subcenters: int) -> list[tuple[int, Tensor]]:
    """Where each tile begins, and its rows: whole classes."""
    size = max(1, TILE // subcenters) * subcenters
    return [(at, w_RD[at : at + size]) for at in range(0, len(w_RD), size)]


def _inverse(w_RD: Tensor) -> Tensor:
    lengths_R: Tensor = torch.linalg.vector_norm(w_RD, dim=1)
    return lengths_R.square_().add_(EPS).rsqrt_()


def _rows(w_RD: Tensor, inverse_R: Tensor, rows_B: Tensor) -> Tensor:
    """Rows of the weights, times `inverse` [B, D]; zeros for a negative one."""
    return w_RD[rows_B] * (inverse_R[rows_B] * (rows_B >= 0))[:, None]


def _unit_rows(w_RD: Tensor, rows_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows [B, K, D] (zeros for negative ones), and what their lengths were divided by."""
    found_BKD = w_RD[rows_BK]
    inverse_BK = (found_BKD.square().sum(-1) + EPS).rsqrt() * (rows_BK >= 0)
    return found_BKD * inverse_BK[..., None], inverse_BK


def _own(columns_B: Tensor, columns: int, size: int) -> list[Own]:
    """Where own classes stand in each tile of that size: rows and columns."""
    tile_B = columns_B.div(size, rounding_mode="floor")
    order_B = tile_B.argsort()
    ends = torch.searchsorted(tile_B[order_B], torch.arange(-(-columns // size) + 1, device=tile_B.device)).tolist()
    columns_B = columns_B[order_B] % size
    return [(order_B[a:b], columns_B[a:b]) for a, b in itertools.pairwise(ends)]
