"""Partial FC (An et al. 2021): in each step, use the batch's own classes and a random share of the others.

The sample depends on seed and step only, not on how ranks share the classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import dist
from ..errors import ConfigError
from ..ops.once import once_differentiable
from ..types import ClassShard

PIECE = {"cpu": 2**17, "cuda": 2**24}  # classes hashed at a time: what a processor's cache holds, and 128 MiB
# Of splitmix64 (Steele, Lea & Flood 2014), as signed numbers.
_STEP, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def sampled(
    weight: Tensor, labels: Tensor, fraction: float, draw: Tensor | tuple[int, int], *, subcenters: int = 1,
    shard: ClassShard | None = None,
) -> tuple[Tensor, Tensor, ClassShard | None]:  # fmt: skip
    """Sample the classes of one step and renumber them.

    Args:
        weight: [r·K, D], this rank's classes.
        labels: [b] of this rank's part of the batch, counting all classes.
        fraction: share of the classes to draw, besides the batch's own.
        draw: seed and number of the step.

    Returns:
        Weights [s·K, D] of the sample, whose gradient reaches `weight` as a sparse one of these rows; labels renumbered
        within the sample; the sample's shard, if ranks share the classes.

    Raises ConfigError on all ranks if one of them has no class in the sample.
    """
    group = None if shard is None else shard.group
    start, stop = (0, len(weight) // subcenters) if shard is None else (shard.start, shard.stop)
    labels_B = dist.gather(labels, group) if shard is not None else labels
    here_B = (labels_B >= start) & (labels_B < stop)
    chosen = _drawn(start, stop, fraction, torch.as_tensor(draw, device=weight.device))
    chosen[labels_B[here_B] - start] = True
    places = chosen.cumsum(0) - 1
    classes = chosen.nonzero()[:, 0]
    rows = (classes[:, None] * subcenters + torch.arange(subcenters, device=classes.device)).flatten()
    few: Tensor = _Rows.apply(weight, rows)  # type: ignore[no-untyped-call]
    if shard is None:
        return few, places[labels], None
    counts = dist.gather(torch.tensor([len(classes)], device=weight.device), group).tolist()
    if not all(counts):
        raise ConfigError(
            f"a class drawn on each of {len(counts)} ranks", f"{counts}", "raise sample, or use fewer ranks"
        )
    before, me = sum(counts[: dist.rank(group)]), dist.rank(group)
    own_B = torch.where(here_B, before + places[(labels_B - start).clamp(0, stop - start - 1)], 0)
    own_B = dist.total(own_B, group)
    part = ClassShard(before, before + len(classes), sum(counts), group)
    return few, own_B[me * len(labels) : (me + 1) * len(labels)], part


def _drawn(start: int, stop: int, fraction: float, draw: Tensor) -> Tensor:
    """Return a mask of the classes [start, stop) that are drawn: by a hash of seed, step and class, on every device."""
    seed, step = draw
    key, size = _mixed(step, _mixed(seed, 1)), PIECE["cuda" if draw.is_cuda else "cpu"]
    pieces = (torch.arange(at, min(at + size, stop), device=draw.device) for at in range(start, stop, size))
    return torch.cat([_shifted(_mixed(classes, key), 2) < int(fraction * 2**62) for classes in pieces])


def _mixed(number: Tensor, state: Tensor | int) -> Tensor:
    """Mix integers [n] into a state by splitmix64. Returns random bits, int64 [n]."""
    z = (number * _STEP).add_(state)
    z.bitwise_xor_(_shifted(z, 30)).mul_(_FIRST)
    z.bitwise_xor_(_shifted(z, 27)).mul_(_SECOND)
    return z.bitwise_xor_(_shifted(z, 31))


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros, not with the sign."""
    return (z >> bits).bitwise_and_((1 << 64 - bits) - 1)


class _Rows(torch.autograd.Function):
    """Select distinct rows in rising order, with a sparse gradient; plain indexing would allocate a dense one."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return weight[rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(rows[None], gradients[0], ctx.shape, check_invariants=False), None
