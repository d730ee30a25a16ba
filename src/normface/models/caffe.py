"""Shared by networks from Caffe: initialization, learning rates, and the residual unit without batch norm."""

from __future__ import annotations

import math
from typing import TypeVar, cast

from torch import Tensor, nn

from ..errors import ConfigError
from . import Model

M = TypeVar("M", nn.Conv2d, nn.Linear)


class CaffeModel(Model):
    """A network with the learning rates of its authors' prototxt: biases twice as fast and without weight decay."""

    def multipliers(self) -> dict[str, tuple[float, float]]:
        """Caffe's lr_mult and decay_mult; 1 for PReLU slopes, which the files do not mention."""
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
        """Add the two convolutions to their input [B, C, H, W]."""
        return x + cast(Tensor, self.body(x))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, *, bias: float = 0) -> nn.Conv2d:
    """Build a convolution with Caffe's "xavier" weights and all biases at `bias`."""
    return xavier(nn.Conv2d(inputs, outputs, kernel, stride, padding), bias)


def linear(inputs: int, outputs: int, *, bias: float = 0) -> nn.Linear:
    """Build a fully connected layer with Caffe's "xavier" weights and all biases at `bias`."""
    return xavier(nn.Linear(inputs, outputs), bias)


def xavier(module: M, bias: float) -> M:
    """Initialize by Caffe's "xavier" filler, uniform in ±√(3 / fan-in), with all biases at `bias`."""
    limit = math.sqrt(3 / module.weight[0].numel())
    nn.init.uniform_(module.weight, -limit, limit)
    assert module.bias is not None
    nn.init.constant_(module.bias, bias)
    return module


def check_dim(dim: int, dropout: float = 0) -> None:
    """Raise ConfigError unless dim ≥ 1 and 0 ≤ dropout < 1."""
    if dim < 1 or not 0 <= dropout < 1:
        raise ConfigError("dim ≥ 1 and 0 ≤ dropout < 1", f"{dim} and {dropout}", "correct the model's options")
