"""Some of the classes for a step: the batch's own and a random share of the others (partial FC, An et al. 2021).

Which ones are drawn depends on seed and step only, not on how ranks share the classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import dist
from ..types import ClassShard
from .weights import BLOCK


def sampled(
    weight: Tensor, labels: Tensor, fraction: float, draw: tuple[int, int], *, subcenters: int = 1,
    shard: ClassShard | None = None,
) -> tuple[Tensor, Tensor, ClassShard | None]:  # fmt: skip
    """The classes of one step, numbered anew.

    Args:
        weight: [r·K, D], this rank's classes.
        labels: [b] of this rank's part of the batch, counting all classes.
        fraction: of the classes that are drawn, besides the batch's own.
        draw: seed and number of the step.

    Returns:
        Their weights [s·K, D], whose gradient reaches `weight` as a sparse one of these rows; the labels among
        the classes drawn; the shard of those, where ranks share them.
    """
    group = None if shard is None else shard.group
    start, stop = (0, len(weight) // subcenters) if shard is None else (shard.start, shard.stop)
    labels_B = dist.gather(labels, group) if shard is not None else labels
    here_B = (labels_B >= start) & (labels_B < stop)
    chosen = _drawn(start, stop, fraction, draw).to(weight.device)
    chosen[labels_B[here_B] - start] = True
    places = chosen.cumsum(0) - 1
    classes = chosen.nonzero()[:, 0]
    rows = (classes[:, None] * subcenters + torch.arange(subcenters, device=classes.device)).flatten()
    few: Tensor = _Rows.apply(weight, rows)  # type: ignore[no-untyped-call]
    if shard is None:
        return few, places[labels], None
    counts = dist.gather(torch.tensor([len(classes)]), group)
    before, me = int(counts[: dist.rank(group)].sum()), dist.rank(group)
    own_B = torch.where(here_B, before + places[(labels_B - start).clamp(0, stop - start - 1)], 0)
    own_B = dist.total(own_B, group)
    part = ClassShard(before, before + len(classes), int(counts.sum()), group)
    return few, own_B[me * len(labels) : (me + 1) * len(labels)], part


def _drawn(start: int, stop: int, fraction: float, draw: tuple[int, int]) -> Tensor:
    """Whether each of the classes [start, stop) is drawn: by blocks, each with its own generator."""
    blocks = []
    for at in range(start // BLOCK * BLOCK, stop, BLOCK):
        generator = torch.Generator().manual_seed(hash((*draw, at)) % 2**63)
        blocks.append(torch.rand(BLOCK, generator=generator)[max(start - at, 0) : stop - at] < fraction)
    return torch.cat(blocks)


class _Rows(torch.autograd.Function):
    """Distinct rows in rising order; their gradient is a sparse tensor, where an index would fill one of full size."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return weight[rows]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(rows[None], gradients[0], ctx.shape, check_invariants=False), None
