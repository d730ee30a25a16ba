"""Losses: modules that own class weights and map (features [B, D], labels [B] int64) → scalar."""

import torch
from torch import nn

from ..errors import ConfigError
from ..ops import l2_normalize
from ..registry import Registry

__all__ = [
    "LOSSES", "MARGINS", "CContrastive", "CTriplet", "Center", "Contrastive", "CosineSoftmax", "Joint", "Triplet",
]  # fmt: skip

LOSSES: Registry[nn.Module] = Registry("loss", __name__)


def class_weights(num_classes: int, dim: int, subcenters: int = 1) -> nn.Parameter:
    """Random unit vectors [C·subcenters, D] to start from. Raises ConfigError where there are too few of anything."""
    if num_classes < 2 or dim < 1 or subcenters < 1:
        raise ConfigError(
            "num_classes ≥ 2, dim ≥ 1 and subcenters ≥ 1", f"{num_classes}, {dim} and {subcenters}", "correct them"
        )
    return nn.Parameter(l2_normalize(torch.randn(num_classes * subcenters, dim)))


from .agents import CContrastive, Center, CTriplet  # noqa: E402 - they register themselves above
from .joint import Joint  # noqa: E402
from .margins import MARGINS  # noqa: E402
from .pairwise import Contrastive, Triplet  # noqa: E402
from .softmax import CosineSoftmax  # noqa: E402
