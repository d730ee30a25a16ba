"""Class weights to start from."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ConfigError
from ..ops import l2_normalize
from ..types import ClassShard

BLOCK = 4096  # classes drawn together where ranks share them: any share then gets what the whole would


def class_weights(num_classes: int, dim: int, subcenters: int = 1, shard: ClassShard | None = None) -> nn.Parameter:
    """Random unit vectors [C·subcenters, D] to start from, or the rows of a shard's classes.

    Ranks with the same seed draw rows that together are the same however the classes are shared.

    Raises ConfigError where there are too few of anything, or for a shard of another number of classes.
    """
    if num_classes < 2 or dim < 1 or subcenters < 1:
        raise ConfigError(
            "num_classes ≥ 2, dim ≥ 1 and subcenters ≥ 1", f"{num_classes}, {dim} and {subcenters}", "correct them"
        )
    if shard is None:
        return nn.Parameter(l2_normalize(torch.randn(num_classes * subcenters, dim)))
    if shard.total != num_classes:
        raise ConfigError(f"a shard of {num_classes} classes", f"one of {shard.total}", "correct one of them")
    seed = int(torch.randint(2**62, ()))
    rows = []
    for at in range(shard.start // BLOCK * BLOCK, shard.stop, BLOCK):
        generator = torch.Generator().manual_seed((seed + at) % 2**63)
        block = torch.randn(BLOCK, subcenters, dim, generator=generator)
        rows.append(block[max(shard.start - at, 0) : shard.stop - at])
    return nn.Parameter(l2_normalize(torch.cat(rows).flatten(0, 1)))
