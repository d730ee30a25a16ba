"""Initial class weights."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ConfigError
from ..ops import l2_normalize
from ..types import ClassShard

WHOLE = 2**24  # numbers up to which every rank draws all and keeps its own: 64 MiB
BLOCK = 4096  # classes drawn together where there are more


def class_weights(num_classes: int, dim: int, subcenters: int = 1, shard: ClassShard | None = None) -> nn.Parameter:
    """Draw random unit vectors [C·subcenters, D], or only the rows of a shard's classes.

    Under one seed the rows are the same on one rank and on several, however the classes are shared.

    Raises: see `check_classes`.
    """
    check_classes(num_classes, dim, subcenters, shard)
    shard = shard or ClassShard(0, num_classes, num_classes)
    if num_classes * subcenters * dim <= WHOLE:
        drawn = l2_normalize(torch.randn(num_classes * subcenters, dim))
        return nn.Parameter(drawn[shard.start * subcenters : shard.stop * subcenters].clone())
    seed = int(torch.randint(2**62, (), device="cpu"))
    rows = []
    for at in range(shard.start // BLOCK * BLOCK, shard.stop, BLOCK):
        generator = torch.Generator().manual_seed((seed + at) % 2**63)
        size = min(BLOCK, num_classes - at), subcenters, dim
        block = torch.randn(size, generator=generator, device="cpu")
        rows.append(block[max(shard.start - at, 0) : shard.stop - at])
    return nn.Parameter(l2_normalize(torch.cat(rows).flatten(0, 1)).to(torch.get_default_device()))


def check_classes(num_classes: int, dim: int, subcenters: int = 1, shard: ClassShard | None = None) -> int:
    """Return the number of classes that this rank holds.

    Raises ConfigError for num_classes < 2, dim < 1 or subcenters < 1, or a shard of another number of classes.
    """
    if num_classes < 2 or dim < 1 or subcenters < 1:
        raise ConfigError(
            "num_classes ≥ 2, dim ≥ 1 and subcenters ≥ 1",
            f"{num_classes}, {dim} and {subcenters}",
            "correct the one that is too small",
        )
    if shard is None:
        return num_classes
    if shard.total != num_classes:
        raise ConfigError(f"a shard of {num_classes} classes", f"one of {shard.total}", "pass the same num_classes")
    return shard.stop - shard.start
