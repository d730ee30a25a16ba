"""Networks: images [B, C, H, W] float32 → features [B, dim], each with `.spec` (InputSpec) and `.dim`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import Registry
from ..types import InputSpec

__all__ = ["MODELS", "Model", "Origin", "build", "in_float32"]


@dataclass(frozen=True)
class Origin:
    """Origin of pretrained weights that fit a network here (`normface adopt`).

    Attributes:
        name: of the origin.
        repository: address of the original code.
        licence: of the weights; recorded in checkpoints and ONNX metadata.
        modules: names of this network's modules → original names; parameters within have the same names. A parameter
            of the network itself is named whole.
        left: prefixes of original names to ignore, such as the classifier's.
        options: of the network, which make it the original's.
        constants: ends of original names → the value of parameters that the original lacks.
        asks: options that the weights do not tell, such as the order of the color channels.
    """

    name: str
    repository: str
    licence: str
    modules: Mapping[str, str]
    left: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    asks: tuple[str, ...] = ()


class Model(nn.Module):
    """Base class of all networks, with input specification `spec` and feature length `dim`; features are unnormalized.

    `origins`: the origins of pretrained weights that it can import.
    """

    origins: tuple[Origin, ...] = ()

    def __init__(self, spec: InputSpec, dim: int) -> None:
        super().__init__()
        self.spec, self.dim = spec, dim

    @property
    def origin(self) -> Origin | None:
        """The first of `origins`, if any."""
        return next(iter(self.origins), None)

    def multipliers(self) -> dict[str, tuple[float, float]]:
        """Map each parameter's name to factors of its learning rate and weight decay.

        Default: one learning rate for all, and weight decay for filters and matrices only.
        """
        return {name: (1.0, float(p.ndim > 1)) for name, p in self.named_parameters()}

    def units(self) -> list[nn.Module]:
        """Return the composite layers of `body`, one after another, which training may compute again (`recompute`)."""
        return [layer for layer in getattr(self, "body", ()) if any(True for _ in layer.children())]


def in_float32(layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply layers in float32 where autocast is on; elsewhere in the dtype of `x`."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return layers(x)
    with torch.autocast(x.device.type, enabled=False):
        return layers(x.float())


MODELS: Registry[Model] = Registry("model", __name__)


def build(name: str, **kwargs: Any) -> Model:
    """Build the model called `name`. Raises ConfigError for an unknown name or argument."""
    return MODELS.build(name, **kwargs)
