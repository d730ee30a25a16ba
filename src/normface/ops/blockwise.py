"""The head without its cosines: tiles of classes, reduced as they come, computed again in the backward pass.

Nothing of size B×C is ever held: a tile of T classes costs B·T numbers, and the weights' gradient is written tile by
tile. Weights are read as they are; their lengths divide the columns of a tile afterwards. B batch, C classes, T tile.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .agents import Level, Negatives
from .reference import l2_normalize, widened

TILE = 2048  # classes a tile: 256 features × 2048 classes lie in a core's cache
EPS = 1e-12  # as `l2_normalize`'s
SMALLEST = 80.0  # exp(-80) is a normal number in float32


class Reduce(Protocol):
    """What becomes of the other classes' cosines z [B, T], tile after tile, times `factor`; one number a sample."""

    factor: float

    def take(self, z_BT: Tensor, own: tuple[Tensor, Tensor]) -> None:
        """Take a tile, which may be overwritten. `own` (rows, columns) are the places of own classes: not to count."""

    def result(self) -> Tensor:
        """What was reduced [B]."""

    def slope(self, z_BT: Tensor, own: tuple[Tensor, Tensor]) -> Tensor:
        """Derivative of the result after z, in a new tensor; 0 at `own`."""


class LogSumExp:
    """log Σ_{j≠y} exp(s·cos_j) for `count` samples.

    Cosines are bounded by 1, so for scales up to 40 the largest exponent is known beforehand; above, or where the
    products are no cosines (`bounded` False), it is carried along.
    """

    def __init__(self, scale: float, like_B: Tensor, *, bounded: bool) -> None:
        self.factor, self.bounded = scale, bounded and 2 * scale <= SMALLEST
        self.total = torch.zeros_like(like_B)
        self.top = torch.full_like(like_B, scale if self.bounded else -torch.inf)

    def take(self, z_BT: Tensor, own: tuple[Tensor, Tensor]) -> None:
        z_BT[own] = -torch.inf
        if not self.bounded:
            top = torch.maximum(self.top, z_BT.amax(1)).clamp(min=torch.finfo(z_BT.dtype).min)
            self.total *= (self.top - top).exp_()
            self.top = top
        self.total += z_BT.sub_(self.top[:, None]).exp_().sum(1)

    def result(self) -> Tensor:
        self.value = self.top + self.total.log()
        return self.value

    def slope(self, z_BT: Tensor, own: tuple[Tensor, Tensor]) -> Tensor:
        p_BT = (z_BT - self.value[:, None]).exp_()
        p_BT[own] = 0
        return p_BT


class Hinge:
    """Σ_{j≠y} max(0, m - d_j) or, exponential, Σ exp(-d_j) over d_j < m; d = 2 - 2·cos, m = `level` [B].

    `weights` [B] then is the active negatives' number, or their summed exp(-d).
    """

    factor = 1.0

    def __init__(self, level_B: Tensor, *, exponential: bool = False) -> None:
        self.level_B1, self.exponential = level_B[:, None], exponential
        self.total, self.weights = torch.zeros_like(level_B), torch.zeros_like(level_B)

    def _weights(self, z_BT: Tensor, own: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        d_BT = 2 - 2 * z_BT
        active_BT = d_BT < self.level_B1
        active_BT[own] = False
        return d_BT, active_BT * torch.exp(-d_BT) if self.exponential else active_BT.to(d_BT.dtype)

    def take(self, z_BT: Tensor, own: tuple[Tensor, Tensor]) -> None:
        d_BT, weights_BT = self._weights(z_BT, own)
        weights_B = weights_BT.sum(1)
        self.weights += weights_B
        self.total += weights_B if self.exponential else torch.where(weights_BT > 0, self.level_B1 - d_BT, 0).sum(1)

    def result(self) -> Tensor:
        return self.total

    def slope(self, z_BT: Tensor, own: tuple[Tensor, Tensor]) -> Tensor:
        return 2 * self._weights(z_BT, own)[1]


def reduce_others(
    x_BD: Tensor, w_CD: Tensor, y_B: Tensor, reduce: Reduce, *, scale: Tensor | None = None, unit: bool = True
) -> tuple[Tensor, Tensor]:
    """Own products x·ŵ_y [B] and `reduce`'s result over the other classes [B], both with gradient.

    Args:
        x_BD: features, already of the length they shall have; float32 or float64.
        w_CD: class weights of the same dtype, as they are.
        y_B: labels; a negative one has no own class here (its own product is 0).
        reduce: used for this call alone.
        scale: what `reduce.factor` is the value of, if it is to get a gradient.
        unit: bring weights to unit length.
    """
    device = x_BD.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BD.dtype
    with torch.autocast(device, enabled=False):
        return _Tiled.apply(x_BD, w_CD, y_B, scale, reduce, unit, compute)  # type: ignore[no-untyped-call,no-any-return]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        w_CD: Tensor,
        y_B: Tensor,
        scale: Tensor | None,
        reduce: Reduce,
        unit: bool,
        compute: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        inverse_C = _inverse(w_CD) if unit else w_CD.new_ones(len(w_CD))
        own_B = (x_BD * _rows(w_CD, inverse_C, y_B)).sum(1)
        x_compute = x_BD.to(compute)
        for at in range(0, len(w_CD), TILE):
            w_TD = w_CD[at : at + TILE].to(compute)
            z_BT = torch.mm(x_compute, w_TD.T) * (reduce.factor * inverse_C[at : at + TILE])
            reduce.take(z_BT, _own(y_B, at, len(w_TD)))
        ctx.save_for_backward(x_BD, w_CD, y_B, inverse_C, own_B)
        ctx.reduce, ctx.unit, ctx.compute = reduce, unit, compute
        return own_B, reduce.result()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        down_own_B, down_B = gradients
        x_BD, w_CD, y_B, inverse_C, own_B = ctx.saved_tensors
        reduce, compute = ctx.reduce, ctx.compute
        x_compute, down_x = x_BD.to(compute), (x_BD * down_B[:, None]).to(compute)
        dx_BD, dw_CD, heat = torch.zeros_like(x_BD), torch.empty_like(w_CD), x_BD.new_zeros(())
        for at in range(0, len(w_CD), TILE):
            w_TD, inverse_T = w_CD[at : at + TILE], inverse_C[at : at + TILE]
            w_compute = w_TD.to(compute)
            column_T = reduce.factor * inverse_T
            z_BT = torch.mm(x_compute, w_compute.T) * column_T
            slope_BT = reduce.slope(z_BT, _own(y_B, at, len(w_TD)))
            pull_T = z_BT.mul_(slope_BT).T @ down_B  # Σ_i of the gradient times z
            heat += pull_T.sum()
            slope_BT = torch.mul(slope_BT, column_T, out=torch.empty_like(slope_BT, dtype=compute))
            dx_BD += torch.mm(slope_BT, w_compute)
            dw_TD = dw_CD[at : at + TILE].copy_(torch.mm(slope_BT.T, down_x))
            if ctx.unit:  # eq. 4: less the part along the weight
                dw_TD.addcmul_(w_TD, (-pull_T * inverse_T.square())[:, None])
        dx_BD *= down_B[:, None]
        own_BD = _rows(w_CD, inverse_C, y_B)
        dx_BD.addcmul_(own_BD, down_own_B[:, None])
        tangent_BD = x_BD - own_B[:, None] * own_BD if ctx.unit else x_BD
        here = y_B >= 0
        dw_CD.index_add_(0, y_B[here], (tangent_BD * (down_own_B * inverse_C[y_B])[:, None])[here])
        dscale = heat / reduce.factor if ctx.needs_input_grad[3] else None
        return dx_BD, dw_CD, None, dscale, None, None, None


def nearest_other(x_BD: Tensor, w_CD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of another class [B], and which class it is [B] int64; without gradient."""
    best_B, found_B = x_BD.new_full((len(x_BD),), -torch.inf), torch.zeros_like(y_B)
    with torch.no_grad():
        for at in range(0, len(w_CD), TILE):
            w_TD = w_CD[at : at + TILE]
            z_BT = torch.mm(x_BD, w_TD.T) * _inverse(w_TD)
            z_BT[_own(y_B, at, len(w_TD))] = -torch.inf
            value_B, column_B = z_BT.max(1)
            found_B = torch.where(value_B > best_B, column_B + at, found_B)
            best_B = torch.maximum(best_B, value_B)
    return best_B, found_B


def some_cosines(x_BD: Tensor, w_CD: Tensor, classes_BK: Tensor) -> Tensor:
    """Cosines [B, K] between unit features and a few classes each; negative ones stand for none and give 0."""
    return _Some.apply(x_BD, w_CD, classes_BK)  # type: ignore[no-untyped-call,no-any-return]


class _Some(torch.autograd.Function):
    """Indexing twice would make two gradients of the weights' size; here the rows are added into one."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, w_CD: Tensor, classes_BK: Tensor) -> Tensor:
        rows_BKD, _ = _unit_rows(w_CD, classes_BK)
        cos_BK = torch.einsum("bd,bkd->bk", x_BD, rows_BKD)
        ctx.save_for_backward(x_BD, w_CD, classes_BK, cos_BK)
        return cos_BK

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (down_BK,) = gradients
        x_BD, w_CD, classes_BK, cos_BK = ctx.saved_tensors
        rows_BKD, inverse_BK = _unit_rows(w_CD, classes_BK)
        tangent_BKD = x_BD[:, None] - cos_BK[..., None] * rows_BKD
        tangent_BKD *= (down_BK * inverse_BK)[..., None]
        here = classes_BK >= 0
        dw_CD = torch.zeros_like(w_CD).index_add_(0, classes_BK[here], tangent_BKD[here])
        return torch.einsum("bk,bkd->bd", down_BK, rows_BKD), dw_CD, None


class Tiled:
    """Distances to all agents by tiles: `ops.agents.Agents` of features [B, D], agents [C, D] and labels [B]."""

    def __init__(self, x_BD: Tensor, w_CD: Tensor, y_B: Tensor) -> None:
        self.x_BD, self.w_CD, self.y_B = l2_normalize(widened(x_BD)), widened(w_CD).to(widened(x_BD).dtype), y_B

    def negatives(self, level: Level, *, exponential: bool = False, hardest: bool = False) -> Negatives:
        if not hardest:
            with torch.no_grad():
                known_B = 2 - 2 * some_cosines(self.x_BD, self.w_CD, self.y_B[:, None])[:, 0]
            reduce = Hinge(level(known_B), exponential=exponential)
            own_B, push_B = reduce_others(self.x_BD, self.w_CD, self.y_B, reduce)
            return Negatives(2 - 2 * own_B, push_B, reduce.weights)
        _, other_B = nearest_other(self.x_BD, self.w_CD, self.y_B)
        own_B, d_B = (2 - 2 * some_cosines(self.x_BD, self.w_CD, torch.stack([self.y_B, other_B], 1))).unbind(1)
        return nearest_only(own_B, d_B, level, exponential)


def nearest_only(own_B: Tensor, other_B: Tensor, level: Level, exponential: bool) -> Negatives:
    """The negatives where only the nearest other agent, at distance `other_B`, counts."""
    level_B = level(own_B).detach()
    cost_B = torch.exp(-other_B) if exponential else level_B - other_B
    push_B = torch.where(other_B < level_B, cost_B, 0)
    return Negatives(own_B, push_B, push_B.detach() if exponential else (other_B < level_B).to(own_B.dtype))


def _inverse(w_CD: Tensor) -> Tensor:
    lengths_C: Tensor = torch.linalg.vector_norm(w_CD, dim=1)
    return lengths_C.square_().add_(EPS).rsqrt_()


def _rows(w_CD: Tensor, inverse_C: Tensor, y_B: Tensor) -> Tensor:
    """Rows y of the weights, times `inverse` [B, D]; zeros for a negative label."""
    return w_CD[y_B] * (inverse_C[y_B] * (y_B >= 0))[:, None]


def _unit_rows(w_CD: Tensor, classes_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows [B, K, D] (zeros for negative classes), and what their lengths were divided by."""
    rows_BKD = w_CD[classes_BK]
    inverse_BK = (rows_BKD.square().sum(-1) + EPS).rsqrt() * (classes_BK >= 0)
    return rows_BKD * inverse_BK[..., None], inverse_BK


def _own(y_B: Tensor, at: int, size: int) -> tuple[Tensor, Tensor]:
    """Where own classes stand in the tile [at, at + size): rows and columns."""
    rows = ((y_B >= at) & (y_B < at + size)).nonzero()[:, 0]
    return rows, y_B[rows] - at
