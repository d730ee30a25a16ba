"""Networks: images [B, C, H, W] float32 → features [B, dim], each with `.spec` (InputSpec) and `.dim`."""

from typing import Any

from torch import nn

from ..registry import Registry
from ..types import InputSpec

__all__ = ["MODELS", "Model", "build"]


class Model(nn.Module):
    """Base of all networks: what to feed it, and how long its features are; they come un-normalised."""

    def __init__(self, spec: InputSpec, dim: int) -> None:
        super().__init__()
        self.spec, self.dim = spec, dim


MODELS: Registry[Model] = Registry("model", __name__)


def build(name: str, **kwargs: Any) -> Model:
    """Make the model called `name`; raises ConfigError for a name or argument it does not have."""
    return MODELS.build(name, **kwargs)
