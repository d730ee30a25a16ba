"""What networks of the Caffe years share: how their weights start and learn, and the unit without batch norm."""

from __future__ import annotations

import math
from typing import TypeVar, cast

from torch import Tensor, nn

from ..errors import ConfigError
from . import Model

M = TypeVar("M", nn.Conv2d, nn.Linear)


class CaffeModel(Model):
    """A network that learns as its authors' prototxt says: biases twice as fast and without decay, all else alike."""

    def multipliers(self) -> dict[str, tuple[float, float]]:
        """As Caffe's lr_mult and decay_mult; PReLU's slopes, which the files leave out, at the default of 1."""
        return {name: (2.0, 0.0) if name.endswith(".bias") else (1.0, 1.0) for name, _ in self.named_parameters()}


class Unit(nn.Module):
    """x + two times (3×3 convolution, PReLU): no bias, no batch norm, nothing after the sum.

    (The authors' files list biases, of rate 0 and value 0.)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            nn.init.normal_(conv.weight, std=0.01)
            layers += [conv, nn.PReLU(channels)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.body(x))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, *, bias: float = 0) -> nn.Conv2d:
    """A convolution with Caffe's "xavier" weights and all biases at `bias`."""
    return xavier(nn.Conv2d(inputs, outputs, kernel, stride, padding), bias)


def linear(inputs: int, outputs: int, *, bias: float = 0) -> nn.Linear:
    """A matrix likewise."""
    return xavier(nn.Linear(inputs, outputs), bias)


def xavier(module: M, bias: float) -> M:
    """Caffe's "xavier" filler, uniform in ±√(3 / fan-in), and all biases at `bias`."""
    limit = math.sqrt(3 / module.weight[0].numel())
    nn.init.uniform_(module.weight, -limit, limit)
    assert module.bias is not None
    nn.init.constant_(module.bias, bias)
    return module


def check_dim(dim: int, dropout: float = 0) -> None:
    """Raise ConfigError for options that no network can have."""
    if dim < 1 or not 0 <= dropout < 1:
        raise ConfigError("dim ≥ 1 and 0 ≤ dropout < 1", f"{dim} and {dropout}", "correct the model's options")
