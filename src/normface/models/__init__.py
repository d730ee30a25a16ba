"""Networks: images [B, C, H, W] float32 → features [B, dim], each with `.spec` (InputSpec) and `.dim`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..registry import Registry
from ..types import InputSpec

__all__ = ["MODELS", "Model", "Origin", "build"]


@dataclass(frozen=True)
class Origin:
    """Weights that others trained for a network here (`normface adopt`).

    Attributes:
        name: of the origin, as people say it.
        repository: where their code lies.
        licence: of the weights, in words that go with them into checkpoints and ONNX metadata.
        modules: this network's modules → theirs, by name; the parameters within are called alike.
        left: beginnings of their names that have no place here, such as the classifier's.
    """

    name: str
    repository: str
    licence: str
    modules: Mapping[str, str]
    left: tuple[str, ...] = ()


class Model(nn.Module):
    """Base of all networks: what to feed it, and how long its features are; they come un-normalised.

    `origin`: whose weights it can take over, if anybody's.
    """

    origin: Origin | None = None

    def __init__(self, spec: InputSpec, dim: int) -> None:
        super().__init__()
        self.spec, self.dim = spec, dim

    def multipliers(self) -> dict[str, tuple[float, float]]:
        """Each parameter's name → what its learning rate and its weight decay are multiplied by.

        Here: all learn alike, and only filters and matrices decay.
        """
        return {name: (1.0, float(p.ndim > 1)) for name, p in self.named_parameters()}


MODELS: Registry[Model] = Registry("model", __name__)


def build(name: str, **kwargs: Any) -> Model:
    """Make the model called `name`; raises ConfigError for a name or argument it does not have."""
    return MODELS.build(name, **kwargs)
