"""Networks: images [B, C, H, W] float32 → features [B, dim], each with `.spec` (InputSpec) and `.dim`."""

from typing import Any, Protocol, cast

from torch import Tensor, nn

from ..registry import Registry
from ..types import InputSpec

__all__ = ["MODELS", "Model", "build"]


class Model(Protocol):
    """What every model offers beside being an `nn.Module`; features come un-normalised."""

    spec: InputSpec
    dim: int

    def __call__(self, images: Tensor) -> Tensor: ...


MODELS: Registry[nn.Module] = Registry("model", __name__)


def build(name: str, **kwargs: Any) -> nn.Module:
    """Make the model called `name`; raises ConfigError for a name or argument it does not have."""
    return cast(nn.Module, MODELS.build(name, **kwargs))
