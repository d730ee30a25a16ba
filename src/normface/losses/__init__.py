"""Losses: modules that own class weights and map (features [B, D], labels [B] int64) → scalar."""

from torch import nn

from ..registry import Registry

__all__ = [
    "LOSSES", "MARGINS", "CContrastive", "CTriplet", "Center", "Contrastive", "CosineSoftmax", "Joint", "Triplet",
    "UnifiedThreshold", "progress",
]  # fmt: skip

LOSSES: Registry[nn.Module] = Registry("loss", __name__)

from .agents import CContrastive, Center, CTriplet  # noqa: E402 - they register themselves above
from .joint import Joint  # noqa: E402
from .margins import MARGINS  # noqa: E402
from .pairwise import Contrastive, Triplet  # noqa: E402
from .softmax import CosineSoftmax  # noqa: E402
from .steps import progress  # noqa: E402
from .threshold import UnifiedThreshold  # noqa: E402
