"""The paper's second strategy (§4): distances between features and one learned agent a class.

All distances are squared, on the unit sphere: d = ‖f̃ - W̃‖² = 2 - 2·cos, in [0, 4]. B batch, C classes, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .reference import l2_normalize

Gradient = Literal["exact", "caffe"]


def agent_distances(x: Tensor, w: Tensor) -> Tensor:
    """d [B, C] between features [B, D] and agents [C, D], neither normalised; float32 or better."""
    x, w = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, w))
    with torch.autocast(x.device.type, enabled=False):
        return 2 - 2 * l2_normalize(x) @ l2_normalize(w).to(x.dtype).T


def c_contrastive(
    d_BC: Tensor,
    y_B: Tensor,
    *,
    margin: float | Tensor = 1.0,
    positive_margin: float = 0.0,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
    cap: float = 4.0,
    exponential: bool = False,
    hardest_negative: bool = False,
    hardest_positive: bool = False,
    positive_first: bool = False,
    normalize_negatives: float | None = None,
) -> Tensor:
    """C-contrastive loss (eq. 10): 1/B Σ_i [w₊·min(cap, max(0, d_iy - m₊)) + w₋·Σ_{j≠y} max(0, m₋ - d_ij)].

    Args:
        d_BC, y_B: distances [B, C] and labels [B].
        margin, positive_margin: m₋ and m₊, of squared distances.
        positive_weight, negative_weight, cap: w₊, w₋, and the largest pull of a sample.
        exponential: an active negative (d < m₋) costs w₋·exp(-d) instead.
        hardest_negative: only the nearest other agent pushes.
        hardest_positive: only the batch's farthest sample is pulled.
        positive_first: a sample with d_iy > 1 is pulled only.
        normalize_negatives: ν. Where the active negatives' summed weight / (ν·B) exceeds w₊, they are divided by it.

    Returns:
        Scalar: summed over classes, divided by B only.
    """
    own_BC, own_B = _own(d_BC, y_B)
    pull_B = (own_B - positive_margin).clamp(0, cap)
    if hardest_positive:
        pull_B = pull_B * (torch.arange(len(y_B), device=y_B.device) == own_B.argmax())
    active_BC = (d_BC < margin) & ~own_BC
    if hardest_negative:
        active_BC &= _nearest(d_BC, own_BC)
    if positive_first:
        active_BC &= (own_B <= 1)[:, None]
    cost_BC = torch.exp(-d_BC) if exponential else margin - d_BC
    push_B = torch.where(active_BC, cost_BC, 0).sum(1)
    if normalize_negatives is not None:
        weights = (torch.exp(-d_BC.detach()) if exponential else torch.ones_like(d_BC)) * active_BC
        total = negative_weight * weights.sum() / (normalize_negatives * len(y_B))
        push_B = push_B / torch.where(total > positive_weight, total, 1)
    return (positive_weight * pull_B + negative_weight * push_B).mean()


def c_triplet(
    d_BC: Tensor,
    y_B: Tensor,
    *,
    margin: float = 0.8,
    hardest: bool = True,
    pull: bool = True,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
    gradient: Gradient = "exact",
) -> Tensor:
    """C-triplet loss (eq. 11): w₋/B Σ_i Σ_j max(0, m + d_iy - d_ij) over all j ≠ y, or the nearest (`hardest`).

    Args:
        d_BC, y_B: distances [B, C] and labels [B].
        pull: draw every sample to its own agent, active or not: adds w₊·d_iy ("exact"), or switches w₊/B on for
            every sample ("caffe").
        gradient: "exact", of the loss returned; or "caffe", the original layer's backward pass: -w₋/B for each
            active negative, and w₊/B *once* for the own agent if any is active or `pull`. The value then is the
            reported one, without the pull.

    Returns:
        Scalar.
    """
    own_BC, own_B = _own(d_BC, y_B)
    chosen_BC = _nearest(d_BC, own_BC) if hardest else ~own_BC
    cost_BC = torch.where(chosen_BC, (margin + own_B[:, None] - d_BC).clamp(min=0), 0)
    value = negative_weight * cost_BC.sum(1).mean()
    if gradient == "exact":
        return value + positive_weight * own_B.mean() if pull else value
    active_BC = cost_BC.detach() > 0
    drawn_B = torch.ones_like(own_B) if pull else active_BC.any(1).to(own_B.dtype)
    surrogate = (positive_weight * drawn_B * own_B - negative_weight * (active_BC * d_BC).sum(1)).mean()
    return value.detach() + surrogate - surrogate.detach()


def _own(d_BC: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """Which agent is each sample's own [B, C], and its distance [B]."""
    column_B1 = y_B[:, None]
    return torch.zeros_like(d_BC, dtype=torch.bool).scatter_(1, column_B1, True), d_BC.gather(1, column_B1)[:, 0]


def _nearest(d_BC: Tensor, own_BC: Tensor) -> Tensor:
    """Which agent is nearest to each sample, its own left out [B, C]."""
    column_B1 = d_BC.detach().masked_fill(own_BC, torch.inf).argmin(1, keepdim=True)
    return torch.zeros_like(own_BC).scatter_(1, column_B1, True)
