"""The head split over ranks: each holds some classes' weights, none ever sees the others'.

Features and labels of all ranks are gathered; every rank reduces over its own classes by tiles; a few numbers a sample
are then reduced over the ranks. Each rank ends with the loss of the whole batch over all classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import dist
from ..errors import InputError
from ..types import ClassShard
from .blockwise import Tiled


class Sharded(Tiled):
    """A batch before one rank's classes.

    Args:
        x_bD, y_b: this rank's features and labels; labels count all classes, and every rank brings as many samples.
        w_rD: weights of the classes [shard.start, shard.stop).
        options: `Tiled`'s.

    Attributes:
        x_BD, y_B: of all ranks; labels count from `shard.start`, and are -1 where the class is another rank's.
    """

    def __init__(
        self, x_bD: Tensor, w_rD: Tensor, y_b: Tensor, shard: ClassShard, *, subcenters: int = 1, **options: bool
    ) -> None:
        rows = (shard.stop - shard.start) * subcenters
        if len(w_rD) != rows:
            raise InputError(f"{rows} rows of weights for this shard", f"{len(w_rD)}", "give each rank its own")
        y_B = dist.gather(y_b, shard.group)
        here_B = (y_B >= shard.start) & (y_B < shard.stop)
        local_B = torch.where(here_B, y_B - shard.start, -1)
        super().__init__(dist.gather(x_bD, shard.group), w_rD, local_B, subcenters=subcenters, **options)
        self.group = shard.group

    def total(self, part: Tensor) -> Tensor:
        return dist.total(part, self.group)

    def shared(self, x: Tensor) -> Tensor:
        return dist.shared(x, self.group)

    def log_total(self, part_B: Tensor) -> Tensor:
        top_B = dist.maximum(part_B, self.group).clamp(min=torch.finfo(part_B.dtype).min)
        return top_B + self.total((part_B - top_B).exp()).log()

    def owner(self, best_B: Tensor) -> Tensor:
        # Where ranks find the same number, the first one counts.
        me, ranks = dist.rank(self.group), dist.world(self.group)
        place_B = torch.where(best_B == dist.maximum(best_B, self.group), me, ranks)
        return -dist.maximum(-place_B, self.group) == me
