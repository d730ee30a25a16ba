"""The head without its logits: tiles of classes, reduced as they come, computed again in the backward pass.

Nothing of size B×C is held: a tile of T classes costs B·T numbers, and the weights' gradient is written tile by tile.
The first tiles' products, as many as a fixed number of bytes holds, are kept and need not be computed again: that is a
quarter of the arithmetic. Weights are read as they are; their lengths divide the columns of a tile afterwards.
B batch, C classes, K sub-centres of each, R = C·K rows of weights, T classes of a tile, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .agents import Level, Negatives
from .margin import Margin
from .reference import EPS, Normalize, l2_normalize, norms, widened

if TYPE_CHECKING:
    from .triton import Kernels

TILE = 2048  # rows of weights: 256 features × 2048 then lie in a core's cache
KEEP = 96 * 2**20  # bytes of products kept from the forward to the backward pass
PIECE = 8  # of them in one piece of memory: glibc uses up to 32 MB again without the kernel's help
REACH = 80.0  # exp(-80) is still a normal number in float32

Own = tuple[Tensor, Tensor]  # rows and columns of own classes in a tile


class Reduce(Protocol):
    """What becomes of products z [B, T] with the other classes, tile after tile: one number a sample."""

    def take(self, z_BT: Tensor, own: Own) -> None:
        """Take a tile, which may be overwritten; at `own` stands nothing that counts."""

    def result(self) -> Tensor:
        """What was reduced [B]."""

    def slope(self, z_BT: Tensor, own: Own) -> Tensor:
        """Derivative of the result after z, in a new tensor; 0 at `own`."""


class LogSumExp:
    """log Σ_{j≠y} exp(v_j), v the values that others(z) gives, or z itself; -∞ is left out.

    Args:
        bound_B: largest possible v; None where it is not known, and is then carried along.
        others: changes each number by itself.

    With `others`, `mean` [B] is Σ_j p_j·v_j under the softmax p over them.
    """

    def __init__(self, like_B: Tensor, bound_B: Tensor | None, others: Callable[[Tensor], Tensor] | None) -> None:
        self.known, self.others = bound_B is not None, others
        self.top = torch.full_like(like_B, -torch.inf) if bound_B is None else bound_B
        self.total, self.moment = torch.zeros_like(like_B), torch.zeros_like(like_B)

    def take(self, z_BT: Tensor, own: Own) -> None:
        if self.others is not None:
            z_BT = self.others(z_BT)
        z_BT[own] = -torch.inf
        if not self.known:
            top = torch.maximum(self.top, z_BT.amax(1)).clamp(min=torch.finfo(z_BT.dtype).min)
            fading = (self.top - top).exp_()
            self.total *= fading
            self.moment *= fading
            self.top = top
        if self.others is None:
            self.total += z_BT.sub_(self.top[:, None]).exp_().sum(1)
        else:
            p_BT = (z_BT - self.top[:, None]).exp_()
            self.total += p_BT.sum(1)
            self.moment += p_BT.mul_(z_BT.masked_fill_(z_BT == -torch.inf, 0)).sum(1)

    def result(self) -> Tensor:
        self.value = self.top + self.total.log()
        self.mean = (self.moment / self.total).masked_fill_(self.total == 0, 0)
        return self.value

    def slope(self, z_BT: Tensor, own: Own) -> Tensor:
        if self.others is None:
            p_BT = (z_BT - self.value[:, None]).exp_()
        else:
            with torch.enable_grad():
                z_BT = z_BT.detach().requires_grad_()
                v_BT = self.others(z_BT)
            p_BT = (v_BT.detach() - self.value[:, None]).exp_().masked_fill_(v_BT == -torch.inf, 0)
            (p_BT,) = torch.autograd.grad(v_BT, z_BT, p_BT)
        p_BT[own] = 0
        return p_BT


class Hinge:
    """Σ_{j≠y} max(0, m - d_j) or, exponential, Σ exp(-d_j) over d_j < m; z are cosines, d = 2 - 2·z, m = `level` [B].

    `weights` [B] then is the active negatives' number, or their summed exp(-d).
    """

    def __init__(self, level_B: Tensor, *, exponential: bool = False) -> None:
        self.level_B1, self.exponential = level_B[:, None], exponential
        self.total, self.weights = torch.zeros_like(level_B), torch.zeros_like(level_B)

    def _weights(self, z_BT: Tensor, own: Own) -> tuple[Tensor, Tensor]:
        d_BT = 2 - 2 * z_BT
        active_BT = d_BT < self.level_B1
        active_BT[own] = False
        return d_BT, active_BT * torch.exp(-d_BT) if self.exponential else active_BT.to(d_BT.dtype)

    def take(self, z_BT: Tensor, own: Own) -> None:
        d_BT, weights_BT = self._weights(z_BT, own)
        weights_B = weights_BT.sum(1)
        self.weights += weights_B
        self.total += weights_B if self.exponential else torch.where(weights_BT > 0, self.level_B1 - d_BT, 0).sum(1)

    def result(self) -> Tensor:
        return self.total

    def slope(self, z_BT: Tensor, own: Own) -> Tensor:
        return 2 * self._weights(z_BT, own)[1]


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
        device = x_BD.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BD.dtype
        with torch.autocast(device, enabled=False):
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
    # Cosines cannot exceed 1, nor (t + cos)·cos 2.
    bound_B = (2 if others else 1) * s_B1.detach()[:, 0] if head.unit and normalize in ("both", "weights") else None
    if bound_B is not None and not bound_B.max() <= REACH / 2:
        bound_B = None
    x_BD = head.x_BD if normalize == "none" else l2_normalize(head.x_BD)
    reduce, s_B = LogSumExp(cosines_B, bound_B, others), head.shared(s_B1[:, 0])
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
    _, rest_B = head.reduce(scale * l2_normalize(head.x_BD), rows_B, LogSumExp(cosines_B, None, None))
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
    @staticmethod
    def forward(
        ctx: Any, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, head: Tiled, reduce: Reduce, compute: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        inverse_R = _inverse(w_RD) if head.unit else w_RD.new_ones(len(w_RD))
        own_B = (x_BD * _rows(w_RD, inverse_R, rows_B)).sum(1)
        x_compute, tiles = x_BD.to(compute), _tiles(w_RD, head.subcenters)
        each = len(x_BD) * len(tiles[0][1])
        room = min(KEEP // (each * x_compute.itemsize), len(tiles)) if any(ctx.needs_input_grad) else 0
        # Several in one piece: single ones, between tiles that come and go, leave holes.
        kept = [row for at in range(0, room, PIECE) for row in x_compute.new_empty(min(PIECE, room - at), each)]
        for i, (at, w_TD) in enumerate(tiles):
            out = kept[i][: len(x_BD) * len(w_TD)].view(len(x_BD), -1) if i < room else None
            z_BT = torch.mm(x_compute, w_TD.to(compute).T, out=out)
            z_BT = _scaled(z_BT, inverse_R[at : at + len(w_TD)])
            if head.subcenters > 1:
                z_BT = z_BT.view(len(z_BT), -1, head.subcenters).amax(2)
            reduce.take(z_BT, _own(rows_B // head.subcenters, at // head.subcenters, z_BT.shape[1]))
        ctx.save_for_backward(x_BD, w_RD, rows_B, inverse_R, own_B, *kept)
        ctx.head, ctx.reduce, ctx.compute = head, reduce, compute
        return own_B, reduce.result()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        down_own_B, down_B = gradients
        x_BD, w_RD, rows_B, inverse_R, own_B, *kept = ctx.saved_tensors
        head, reduce, compute = ctx.head, ctx.reduce, ctx.compute
        k, project = head.subcenters, head.unit and head.project
        x_compute, down_x = x_BD.to(compute), (x_BD * down_B[:, None]).to(compute)
        dx_BD, dw_RD = torch.zeros_like(x_BD), torch.empty_like(w_RD)
        for i, (at, w_TD) in enumerate(_tiles(w_RD, k)):
            inverse_T, w_compute = inverse_R[at : at + len(w_TD)], w_TD.to(compute)
            known = i < len(kept)
            z_BT = kept[i][: len(x_BD) * len(w_TD)].view(len(x_BD), -1) if known else torch.mm(x_compute, w_compute.T)
            z_BT = _scaled(z_BT, inverse_T)
            best = z_BT.view(len(z_BT), -1, k).max(2) if k > 1 else None
            z_best = z_BT if best is None else best.values
            slope_BT = reduce.slope(z_best, _own(rows_B // k, at // k, z_best.shape[1]))
            if best is not None:
                zeros = z_BT.new_zeros(*z_best.shape, k)
                slope_BT = zeros.scatter_(2, best.indices[..., None], slope_BT[..., None]).flatten(1)
            pull_T = z_BT.mul_(slope_BT).T @ down_B if project else None  # Σ_i of the gradient times z
            slope_BT = torch.mul(slope_BT, inverse_T, out=torch.empty_like(slope_BT, dtype=compute))
            dx_BD += torch.mm(slope_BT, w_compute)
            dw_TD = dw_RD[at : at + len(w_TD)].copy_(torch.mm(slope_BT.T, down_x))
            if pull_T is not None:  # eq. 4: less the part along the weight
                dw_TD.addcmul_(w_TD, (-pull_T * inverse_T.square())[:, None])
            elif head.unit:
                dw_TD /= inverse_T[:, None]
        dx_BD *= down_B[:, None]
        own_BD = _rows(w_RD, inverse_R, rows_B)
        dx_BD.addcmul_(own_BD, down_own_B[:, None])
        along_BD = x_BD - own_B[:, None] * own_BD if project else x_BD
        factor_B = down_own_B * inverse_R[rows_B] if project else down_own_B
        here_B = rows_B >= 0
        dw_RD.index_add_(0, rows_B[here_B], (along_BD * factor_B[:, None])[here_B])
        return dx_BD, dw_RD, None, None, None, None


def nearest_other(x_BD: Tensor, w_CD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of another class [B], and which class it is [B] int64; without gradient."""
    best_B, found_B = x_BD.new_full((len(x_BD),), -torch.inf), torch.zeros_like(y_B)
    with torch.no_grad():
        for at, w_TD in _tiles(w_CD, 1):
            z_BT = torch.mm(x_BD, w_TD.T) * _inverse(w_TD)
            z_BT[_own(y_B, at, len(w_TD))] = -torch.inf
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


def _scaled(z_BT: Tensor, columns_T: Tensor) -> Tensor:
    """Products times numbers of the columns, in their precision; widened first, as mixed it takes 20 times as long."""
    return z_BT * columns_T if z_BT.dtype == columns_T.dtype else z_BT.to(columns_T.dtype).mul_(columns_T)


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


def _own(columns_B: Tensor, at: int, size: int) -> Own:
    """Where own classes stand in the tile [at, at + size): rows and columns."""
    rows = ((columns_B >= at) & (columns_B < at + size)).nonzero()[:, 0]
    return rows, columns_B[rows] - at
