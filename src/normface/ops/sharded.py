"""The head sharded over ranks: each rank holds the weights of some classes only.

Features and labels of all ranks are gathered; every rank reduces over its own classes by blocks; then a few numbers per
sample are reduced over the ranks. Every rank computes the loss of the whole batch over all classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import dist
from ..errors import InputError
from ..types import ClassShard
from .blockwise import PLAIN, Blockwise
from .head import Head
from .steps import COSINES, RowRule

_agreed: set[tuple[int, Any]] = set()


def _agree(samples: int, shard: ClassShard, *, once: bool) -> None:
    """Raise InputError unless all ranks have the same number of samples and the shards cover all classes once.

    `once`: not again for this number of samples, as every step would wait for the other ranks' hosts.
    """
    if once and (samples, shard.group) in _agreed:
        return
    _agreed.add((samples, shard.group))
    mine = torch.tensor([[samples, shard.start, shard.stop, shard.total]])
    ranks = sorted(dist.gather(mine, shard.group).tolist(), key=lambda row: row[1])
    ends = [0, *(stop for _, _, stop, _ in ranks)]
    whole = all(start == end and total == shard.total for (_, start, _, total), end in zip(ranks, ends, strict=False))
    if len({row[0] for row in ranks}) > 1 or not whole or ends[-1] != shard.total:
        raise InputError(
            f"the same number of samples on every rank, and shards that cover {shard.total} classes",
            "; ".join(f"{b} samples, classes {start} to {stop} of {total}" for b, start, stop, total in ranks),
            "split the batch evenly, and call dist.class_shard again when the number of ranks changes",
        )


class Sharded(Head):
    """A batch and one rank's classes.

    Args:
        x_bD, y_b: this rank's features and labels; labels count all classes; every rank has the same number of samples.
        w_rD: weights of the classes [shard.start, shard.stop).
        rule, products: see `Head`.

    Attributes:
        x_BD, y_B: of all ranks; labels count from `shard.start`, and are -1 for classes of other ranks.
    """

    def __init__(
        self, x_bD: Tensor, w_rD: Tensor, y_b: Tensor, shard: ClassShard, rule: RowRule = COSINES,
        products: Blockwise = PLAIN,
    ) -> None:  # fmt: skip
        rows = (shard.stop - shard.start) * rule.subcenters
        if len(w_rD) != rows:
            raise InputError(f"{rows} rows of weights for this shard", f"{len(w_rD)}", "pass those of its classes")
        _agree(len(y_b), shard, once=y_b.is_cuda)
        y_B = dist.gather(y_b, shard.group)
        here_B = (y_B >= shard.start) & (y_B < shard.stop)
        local_B = torch.where(here_B, y_B - shard.start, -1)
        super().__init__(dist.gather(x_bD, shard.group), w_rD, local_B, rule, products)
        self.group = shard.group

    def total(self, part: Tensor) -> Tensor:
        """Sum the ranks' parts."""
        return dist.total(part, self.group)

    def shared(self, x: Tensor) -> Tensor:
        """Mark a value as replicated; see `dist.shared`."""
        return dist.shared(x, self.group)

    def log_total(self, part_B: Tensor) -> Tensor:
        """Return log Σ exp over the ranks' parts [B]."""
        top_B = dist.maximum(part_B, self.group).clamp(min=torch.finfo(part_B.dtype).min)
        return top_B + self.total((part_B - top_B).exp()).log()

    def owner(self, best_B: Tensor) -> Tensor:
        """Return whether this rank has the largest value [B]; of equal ones, the first rank has it."""
        # Where ranks find the same number, the first one counts.
        me, ranks = dist.rank(self.group), dist.world(self.group)
        place_B = torch.where(best_B == dist.maximum(best_B, self.group), me, ranks)
        return -dist.maximum(-place_B, self.group) == me
