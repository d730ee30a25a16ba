"""Initial class weights."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ConfigError
from ..ops import l2_normalize
from ..types import ClassShard

BLOCK = 4096  # classes drawn together where ranks share them: any share then gets what the whole would


def class_weights(num_classes: int, dim: int, subcenters: int = 1, shard: ClassShard | None = None) -> nn.Parameter:
    """Draw random unit vectors [C·subcenters, D], or only the rows of a shard's classes.

    Ranks with the same seed together draw the same rows, however the classes are shared.

    Raises ConfigError for num_classes < 2, dim < 1 or subcenters < 1, or a shard of another number of classes.
    """
    if num_classes < 2 or dim < 1 or subcenters < 1:
        raise ConfigError(
            "num_classes ≥ 2, dim ≥ 1 and subcenters ≥ 1",
            f"{num_classes}, {dim} and {subcenters}",
            "correct the one that is too small",
        )
    if shard is None:
        return nn.Parameter(l2_normalize(torch.randn(num_classes * subcenters, dim)))
    if shard.total != num_classes:
        raise ConfigError(f"a shard of {num_classes} classes", f"one of {shard.total}", "pass the same num_classes")
    seed = int(torch.randint(2**62, ()))
    rows = []
    for at in range(shard.start // BLOCK * BLOCK, shard.stop, BLOCK):
        generator = torch.Generator().manual_seed((seed + at) % 2**63)
        block = torch.randn(BLOCK, subcenters, dim, generator=generator)
        rows.append(block[max(shard.start - at, 0) : shard.stop - at])
    return nn.Parameter(l2_normalize(torch.cat(rows).flatten(0, 1)))
