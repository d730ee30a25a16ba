"""Losses: modules that own class weights and map (features [B, D], labels [B] int64) → scalar."""

from torch import nn

from ..registry import Registry

__all__ = ["LOSSES", "CosineSoftmax"]

LOSSES: Registry[nn.Module] = Registry("loss", __name__)

from .softmax import CosineSoftmax  # noqa: E402 - registers itself above
