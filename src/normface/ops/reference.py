"""Plain PyTorch reference, against which every faster implementation is tested."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .margin import Margin

Normalize = Literal["both", "features", "weights", "none"]
NORMALIZE: tuple[Normalize, ...] = ("both", "features", "weights", "none")
Weights = Literal["soft", "hard"]
WEIGHTS: tuple[Weights, ...] = ("soft", "hard")
EPS = 1e-12


def widened(x: Tensor) -> Tensor:
    """Convert half precisions to float32: their norms overflow or lose digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def norms(x: Tensor, eps: float = EPS) -> Tensor:
    """√(Σx² + ε) over the last dimension, which is removed (eq. 3); float32 or wider, finite gradient at zero."""
    return (widened(x).square().sum(-1) + eps).sqrt()


def l2_normalize(x: Tensor, eps: float = EPS) -> Tensor:
    """Normalize over the last dimension: x / √(Σx² + ε) (eq. 3); any shape, dtype preserved.

    ε is inside the root, so value and gradient are finite at zero, and the gradient
    (u - x̃⟨u, x̃⟩)/‖x‖ (eq. 4) is tangent to the sphere. Half precisions are computed in float32.
    """
    wide = widened(x)
    return (wide * (wide.square().sum(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def directed(x: Tensor) -> Tensor:
    """x [B, D], whose rows without a direction (‖x‖² ≤ ε) get no gradient: that of x̃ would be of length 1/√ε there."""
    has_direction = widened(x.detach()).square().sum(-1, keepdim=True) > EPS
    return torch.where(has_direction, x, x.detach())


def cosine_cross_entropy(
    x_BD: Tensor,
    w_RD: Tensor,
    y_B: Tensor,
    *,
    scale: float | Tensor,
    margin: Margin | Callable[[Tensor], Margin] | None,
    normalize: Normalize,
    weights: Weights,
    subcenters: int,
    exclude_above: float | None,
    smoothing: float = 0.0,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """See `ops.cosine_cross_entropy`. R = C·subcenters rows of class weights."""
    x_BD, w_RD = widened(x_BD), widened(w_RD)
    if normalize == "weights":
        scale = scale * norms(x_BD)[:, None]  # W̃ᵀx = ‖x‖·cos θ
    if normalize != "none":
        x_BD = l2_normalize(x_BD)
    if normalize in ("both", "weights"):
        # Hard: the value is normalized, the gradient is not projected.
        w_RD = l2_normalize(w_RD) if weights == "soft" else w_RD + (l2_normalize(w_RD) - w_RD).detach()
    cosines_BC = logits_BC = _products(x_BD, w_RD, subcenters)
    column_B1 = y_B[:, None]
    if margin is not None:
        own_B = _own(x_BD, w_RD, y_B, subcenters)
        margin = margin if isinstance(margin, Margin) else margin(own_B.detach())
        value_B1 = margin(own_B)[:, None]
        logits_BC = margin.others(cosines_BC, value_B1).scatter(1, column_B1, value_B1.to(logits_BC.dtype))
    logits_BC = scale * logits_BC
    if exclude_above is not None:  # after the scale, whose gradient would be 0·∞
        excluded_BC = (cosines_BC > exclude_above).scatter(1, column_B1, False)
        logits_BC = logits_BC.masked_fill(excluded_BC, -torch.inf)
    return functional.cross_entropy(logits_BC, y_B, reduction=reduction, label_smoothing=smoothing)


@torch.no_grad()
def adacos_scale(x_BD: Tensor, w_RD: Tensor, y_B: Tensor, *, scale: Tensor, subcenters: int) -> Tensor:
    """See `ops.adacos_scale`."""
    x_BD, w_RD = l2_normalize(widened(x_BD)), l2_normalize(widened(w_RD))
    others_BC = _products(x_BD, w_RD, subcenters).scatter(1, y_B[:, None], -torch.inf)
    log_mean = (scale * others_BC).logsumexp((0, 1)) - math.log(len(y_B))
    # cos(min(π/4, θ)) = max(√½, cos θ); of an even number θ is the smaller middle angle, as in the original.
    median = -(-_own(x_BD, w_RD, y_B, subcenters)).median()
    return log_mean / median.clamp(min=math.sqrt(0.5))


def agent_distances(x: Tensor, w: Tensor) -> Tensor:
    """d [B, C] = 2 - 2·cos between features [B, D] and agents [C, D], neither normalized; float32 or wider.

    Under autocast the matrix product runs in autocast's dtype.
    """
    x, w = widened(x), widened(w)
    cosines = functional.linear(l2_normalize(x), l2_normalize(w).to(x.dtype))
    return 2 - 2 * widened(cosines)


def c_contrastive(d_BC: Tensor, y_B: Tensor, *, margin: float = 1.0) -> Tensor:
    """C-contrastive loss (eq. 10): 1/B Σ_i [d_iy + Σ_{j≠y} max(0, m - d_ij)]."""
    own_BC = functional.one_hot(y_B, d_BC.shape[1]).bool()
    pull_B = d_BC[own_BC]
    push_B = (margin - d_BC).clamp(min=0).masked_fill(own_BC, 0).sum(1)
    return (pull_B + push_B).mean()


def c_triplet(d_BC: Tensor, y_B: Tensor, *, margin: float = 0.8) -> Tensor:
    """C-triplet loss (eq. 11): 1/B Σ_i Σ_{j≠y} max(0, m + d_iy - d_ij)."""
    own_BC = functional.one_hot(y_B, d_BC.shape[1]).bool()
    own_B1 = d_BC[own_BC][:, None]
    push_B = (margin + own_B1 - d_BC).clamp(min=0).masked_fill(own_BC, 0).sum(1)
    return push_B.mean()


def unified_threshold(x_BD: Tensor, w_CD: Tensor, y_B: Tensor, *, scale: float, bias: Tensor, margin: float) -> Tensor:
    """See `ops.unified_threshold`."""
    x_BD, w_CD = l2_normalize(widened(x_BD)), widened(w_CD)
    known_B = w_CD[y_B].any(1)
    w_CD = l2_normalize(w_CD)
    own_B = _own(x_BD, w_CD, y_B, 1)
    own_BC = functional.one_hot(y_B, len(w_CD)).bool()
    push_BC = functional.softplus(scale * _products(x_BD, w_CD, 1) - bias).masked_fill(own_BC, 0)
    return functional.softplus(bias - scale * (own_B - margin)) * known_B + push_BC.sum(1)


def _products(x_BD: Tensor, w_RD: Tensor, subcenters: int) -> Tensor:
    """x·w [B, C], the largest over each class's sub-centers; float32 or wider, computed in autocast's dtype."""
    if not torch.is_autocast_enabled(x_BD.device.type):
        w_RD = w_RD.to(x_BD.dtype)
    products_BR = functional.linear(x_BD, w_RD).to(torch.promote_types(x_BD.dtype, torch.float32))
    return products_BR if subcenters == 1 else products_BR.view(len(x_BD), -1, subcenters).amax(2)


def _own(x_BD: Tensor, w_RD: Tensor, y_B: Tensor, subcenters: int) -> Tensor:
    """x·w_y [B], the largest over the own class's sub-centers; never in half precision, too coarse for margins."""
    own_BKD = w_RD.reshape(-1, subcenters, w_RD.shape[1])[y_B].to(x_BD.dtype)
    return (x_BD[:, None] * own_BKD).sum(2).amax(1)
