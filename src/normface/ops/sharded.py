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
from .agents import Level, Negatives
from .blockwise import Hinge, nearest_only, nearest_other, reduce_others, some_cosines
from .reference import l2_normalize, widened


class Shard:
    """A batch before one rank's classes.

    Args:
        x_bD, y_b: this rank's features and labels; labels count all classes, and every rank brings as many samples.
        w_cD: weights of the classes [shard.start, shard.stop).

    Attributes:
        x_BD, y_B: of all ranks; labels count from `shard.start`, and are -1 where the class is another rank's.
    """

    def __init__(self, x_bD: Tensor, w_cD: Tensor, y_b: Tensor, shard: ClassShard, *, unit: bool = True) -> None:
        if len(w_cD) != shard.stop - shard.start:
            raise InputError(
                f"weights of {shard.stop - shard.start} classes", f"{len(w_cD)}", "give each rank its own shard's"
            )
        self.shard, self.group, self.unit = shard, shard.group, unit
        self.x_BD = dist.gather(widened(x_bD), self.group)
        self.w_cD = widened(w_cD).to(self.x_BD.dtype)
        y_B = dist.gather(y_b, self.group)
        here_B = (y_B >= shard.start) & (y_B < shard.stop)
        self.y_B = torch.where(here_B, y_B - shard.start, -1)

    def negatives(self, level: Level, *, exponential: bool = False, hardest: bool = False) -> Negatives:
        """`ops.agents.Agents` of the whole batch before all classes."""
        x_BD = l2_normalize(self.x_BD)
        if not hardest:
            with torch.no_grad():
                known_B = 2 - 2 * dist.total(some_cosines(x_BD, self.w_cD, self.y_B[:, None])[:, 0], self.group)
            reduce = Hinge(level(known_B), exponential=exponential)
            own_B, push_B = reduce_others(x_BD, self.w_cD, self.y_B, reduce)
            weights_B = dist.total(reduce.weights, self.group)
            return Negatives(2 - 2 * dist.total(own_B, self.group), dist.total(push_B, self.group), weights_B)
        value_B, other_B = nearest_other(x_BD, self.w_cD, self.y_B)
        best_B = dist.maximum(value_B, self.group)
        # Where ranks find the same cosine, the first one's class counts.
        place_B = torch.where(value_B == best_B, dist.rank(self.group), dist.world(self.group))
        mine_B = -dist.maximum(-place_B, self.group) == dist.rank(self.group)
        classes_B2 = torch.stack([self.y_B, torch.where(mine_B, other_B, -1)], 1)
        own_B, d_B = (2 - 2 * dist.total(some_cosines(x_BD, self.w_cD, classes_B2), self.group)).unbind(1)
        return nearest_only(own_B, d_B, level, exponential)
