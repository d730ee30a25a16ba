"""The paper's second strategy (§4): distances between features and learned agents, one per class.

All distances are squared, on the unit sphere: d = ‖f̃ - W̃‖² = 2 - 2·cos, in [0, 4]. B batch, C classes, D dimensions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from .head import Head, some_cosines
from .reductions import Hinge, Nearest
from .reference import l2_normalize

Gradient = Literal["exact", "caffe"]


class Negatives(NamedTuple):
    """Sums over each sample's active negatives; all [B].

    Attributes:
        own: distance to the own agent.
        push: Σ over active negatives of m - d, or of exp(-d); m is treated as a constant.
        weights: Σ over active negatives of 1, or of exp(-d); without gradient.
    """

    own: Tensor
    push: Tensor
    weights: Tensor


class Agents(Protocol):
    """Distances of a batch to all agents, by any implementation."""

    own_B: Tensor  # to the own agents, without gradient

    def negatives(self, level_B: Tensor, *, exponential: bool = False, hardest: bool = False) -> Negatives:
        """Reduce over the active negatives: other agents with d < m = `level_B`, or only the nearest (`hardest`)."""


class Dense:
    """Distances as a matrix d [B, C], with labels [B]."""

    def __init__(self, d_BC: Tensor, y_B: Tensor) -> None:
        self.d_BC, self.y_B = d_BC, y_B
        self.own_BC = torch.zeros_like(d_BC, dtype=torch.bool).scatter_(1, y_B[:, None], True)
        self.own_B = d_BC.detach().gather(1, y_B[:, None])[:, 0]

    def negatives(self, level_B: Tensor, *, exponential: bool = False, hardest: bool = False) -> Negatives:
        """Reduce over the active negatives of the matrix; see `Agents`."""
        own_B = self.d_BC.gather(1, self.y_B[:, None])[:, 0]
        level_B1 = level_B[:, None]
        active_BC = (self.d_BC < level_B1) & ~self.own_BC
        if hardest:
            nearest_B1 = self.d_BC.detach().masked_fill(self.own_BC, torch.inf).argmin(1, keepdim=True)
            active_BC &= torch.zeros_like(self.own_BC).scatter_(1, nearest_B1, True)
        cost_BC = torch.exp(-self.d_BC) if exponential else level_B1 - self.d_BC
        push_B = torch.where(active_BC, cost_BC, 0).sum(1)
        weights_B = push_B.detach() if exponential else active_BC.sum(1).to(push_B.dtype)
        return Negatives(own_B, push_B, weights_B)


class Streamed:
    """Distances computed tile by tile, without holding d [B, C]; ranks may share the classes."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.rows_B, cosines_B = head.own()
        self.own_B = 2 - 2 * cosines_B

    def negatives(self, level_B: Tensor, *, exponential: bool = False, hardest: bool = False) -> Negatives:
        """Reduce over the active negatives tile by tile; see `Agents`."""
        head, x_BD = self.head, l2_normalize(self.head.x_BD)
        if not hardest:
            reduce = Hinge(level_B, exponential=exponential)
            own_B, push_B = head.reduce(x_BD, self.rows_B, reduce)
            return Negatives(2 - 2 * head.total(own_B), head.total(push_B), head.total(reduce.weights))
        nearest = Nearest(self.own_B)
        with torch.no_grad():
            head.reduce(x_BD, self.rows_B, nearest)
        classes_B2 = torch.stack([head.y_B, torch.where(head.owner(nearest.best), nearest.found, -1)], 1)
        own_B, d_B = (2 - 2 * head.total(some_cosines(x_BD, head.w_RD, classes_B2))).unbind(1)
        active_B = d_B < level_B
        push_B = torch.where(active_B, torch.exp(-d_B) if exponential else level_B - d_B, 0)
        return Negatives(own_B, push_B, push_B.detach() if exponential else active_B.to(d_B.dtype))


def c_contrastive(
    agents: Agents,
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
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """C-contrastive loss (eq. 10): 1/B Σ_i [w₊·min(cap, max(0, d_iy - m₊)) + w₋·Σ_{j≠y} max(0, m₋ - d_ij)].

    Args:
        agents: distances of the batch.
        margin, positive_margin: m₋ and m₊, of squared distances.
        positive_weight, negative_weight, cap: w₊, w₋, and the largest pull on a sample.
        exponential: let an active negative (d < m₋) cost w₋·exp(-d) instead.
        hardest_negative: only the nearest other agent pushes.
        hardest_positive: pull only the farthest sample of the batch.
        positive_first: samples with d_iy > 1 are only pulled, not pushed.
        normalize_negatives: ν. If the summed weight of active negatives / (ν·B) exceeds w₊, divide them by it.

    Returns:
        Scalar: summed over classes, divided by B. Without options it equals `reference.c_contrastive`. With
        reduction="none", the values of the samples [B].
    """
    level_B = torch.where((agents.own_B > 1) & positive_first, -torch.inf, torch.as_tensor(margin).to(agents.own_B))
    own_B, push_B, weights_B = agents.negatives(level_B, exponential=exponential, hardest=hardest_negative)
    pull_B = (own_B - positive_margin).clamp(0, cap)
    if hardest_positive:
        pull_B = pull_B * (torch.arange(len(own_B), device=own_B.device) == own_B.argmax())
    if normalize_negatives is not None:
        total = negative_weight * weights_B.sum() / (normalize_negatives * len(own_B))
        push_B = push_B / torch.where(total > positive_weight, total, 1)
    value_B = positive_weight * pull_B + negative_weight * push_B
    return value_B.mean() if reduction == "mean" else value_B


def c_triplet(
    agents: Agents,
    *,
    margin: float = 0.8,
    hardest: bool = True,
    pull: bool = True,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
    gradient: Gradient = "exact",
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """C-triplet loss (eq. 11): w₋/B Σ_i Σ_j max(0, m + d_iy - d_ij) over all j ≠ y, or the nearest (`hardest`).

    Args:
        agents: distances of the batch.
        pull: pull every sample to its own agent, active or not: adds w₊·d_iy ("exact"), or applies w₊/B to every
            sample ("caffe").
        gradient: "exact": that of the loss returned; "caffe": the original layer's backward pass, -w₋/B for each
            active negative, and w₊/B *once* for the own agent if any is active or `pull`. The value then is the
            original's, without the pull.

    Returns:
        Scalar. With hardest=False and pull=False it equals `reference.c_triplet`. With reduction="none", the values of
        the samples [B].
    """
    own_B, push_B, active_B = agents.negatives(margin + agents.own_B, hardest=hardest)
    if gradient == "exact":
        # `push_B` takes the level m + d_iy for a constant. It is not: d_iy counts once for each active negative.
        value_B = negative_weight * (push_B + active_B * (own_B - own_B.detach()))
        value_B = value_B + positive_weight * own_B if pull else value_B
    else:
        drawn_B = torch.ones_like(own_B) if pull else (active_B > 0).to(own_B.dtype)
        value_B = negative_weight * push_B + positive_weight * drawn_B * (own_B - own_B.detach())
    return value_B.mean() if reduction == "mean" else value_B
