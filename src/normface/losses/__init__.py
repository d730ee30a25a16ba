"""Losses: modules that own class weights and map (features [B, D], labels [B] int64) → scalar."""

from torch import nn

from ..registry import Registry

__all__ = ["LOSSES"]

LOSSES: Registry[nn.Module] = Registry("loss", __name__)
