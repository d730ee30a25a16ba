"""Losses: modules that own class weights and map (features [B, D], labels [B] int64) → scalar."""

import torch
from torch import nn

from ..errors import ConfigError
from ..ops import l2_normalize
from ..registry import Registry

__all__ = ["LOSSES", "CContrastive", "CTriplet", "Center", "Contrastive", "CosineSoftmax", "Joint", "Triplet"]

LOSSES: Registry[nn.Module] = Registry("loss", __name__)


def class_weights(num_classes: int, dim: int) -> nn.Parameter:
    """Random unit vectors [C, D] to start from. Raises ConfigError for fewer than 2 classes or no dimension."""
    if num_classes < 2 or dim < 1:
        raise ConfigError("num_classes ≥ 2 and dim ≥ 1", f"{num_classes} and {dim}", "correct them")
    return nn.Parameter(l2_normalize(torch.randn(num_classes, dim)))


from .agents import CContrastive, Center, CTriplet  # noqa: E402 - they register themselves above
from .joint import Joint  # noqa: E402
from .pairwise import Contrastive, Triplet  # noqa: E402
from .softmax import CosineSoftmax  # noqa: E402
