"""A small residual network for CPUs, with most of its work at low resolution."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..types import InputSpec
from . import MODELS, Model


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outputs)]


class _Unit(nn.Module):
    """Two 3×3 convolutions and a shortcut, projected where the shape changes (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        # ReLU, not PReLU: a quarter faster here, and no worse at this size.
        self.body = nn.Sequential(
            *_conv(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *_conv(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class SmallResNet(Model):
    """Images [B, 3, 112, W] → features [B, dim]."""

    def __init__(
        self, spec: InputSpec, dim: int, channels: tuple[int, ...], units: tuple[int, ...], stem: int, dropout: float
    ) -> None:
        super().__init__(spec, dim)
        layers = [*_conv(3, channels[0], 3 if stem == 2 else 7, stem), nn.ReLU(inplace=True)]
        inputs = channels[0]
        for outputs, count in zip(channels[1:], units, strict=True):
            for unit in range(count):
                layers.append(_Unit(inputs, outputs, 2 if unit == 0 else 1))
                inputs = outputs
        self.body = nn.Sequential(*layers, nn.Flatten())
        # Faces are aligned, so every position gets its own weights instead of an average over positions.
        shrink = stem * 2 ** len(units)
        flat = inputs * -(-spec.height // shrink) * -(-spec.width // shrink)
        self.head = nn.Sequential(nn.Linear(flat, dim, bias=False), nn.BatchNorm1d(dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to features [B, dim]."""
        return cast(Tensor, self.dropout(self.head(self.body(images))))


@MODELS.register
def smallresnet(
    dim: int = 128,
    width: int = 96,
    channels: tuple[int, ...] = (16, 64, 128, 256),
    units: tuple[int, ...] = (1, 1, 2),
    stem: int = 2,
    dropout: float = 0.0,
) -> SmallResNet:
    """Small residual network: a stem convolution, then one stage per further entry of `channels`, halving the size.

    The default costs 322 million operations per image; `stem=4, channels=(32, 48, 96, 192), units=(1, 1, 1)` costs 36
    million and suits processors without bfloat16. Channel counts that are multiples of 16 are the fastest on CPUs.

    Args:
        width: of the crops, 112 or 96.
        units: number of residual units of each stage, 1 to 3 stages.
        stem: stride of the first convolution, 2 (3×3) or 4 (7×7).
        dropout: of the features in training, as in Light CNN before its softmax; use none with normalized features.

    Raises ConfigError for other values.
    """
    legal = width in (96, 112) and 1 <= len(units) <= 3 and len(channels) == len(units) + 1 and stem in (2, 4)
    if not legal or dim < 1 or not 0 <= dropout < 1:
        raise ConfigError(
            "width 96 or 112, 1 to 3 units, one more channels than units, stem 2 or 4, dim ≥ 1, 0 ≤ dropout < 1",
            f"width {width}, units {units}, channels {channels}, stem {stem}, dim {dim}, dropout {dropout}",
            "correct the model's options",
        )  # fmt: skip
    spec = InputSpec(112, width, template=f"112x{width}")
    return SmallResNet(spec, dim, tuple(channels), tuple(units), stem, dropout)
