"""SphereFace's networks (Liu et al. 2017, "SphereFace: Deep Hypersphere Embedding for Face Recognition", Table 2)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ..types import InputSpec
from . import MODELS
from .caffe import CaffeModel, Unit, check_dim, conv, linear


class SphereFace(CaffeModel):
    """Images [B, 3, 112, 96] → features [B, dim]; `units` of each stage; each stage first halves the size."""

    def __init__(self, spec: InputSpec, dim: int, units: tuple[int, int, int, int]) -> None:
        super().__init__(spec, dim)
        layers: list[nn.Module] = []
        inputs = 3
        for channels, count in zip((64, 128, 256, 512), units, strict=True):
            layers += [conv(inputs, channels, 3, stride=2, padding=1), nn.PReLU(channels)]
            layers += [Unit(channels) for _ in range(count)]
            inputs = channels
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = linear(512 * 7 * 6, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to features [B, dim]."""
        return cast(Tensor, self.head(self.body(images)))


@MODELS.register
def sphereface20(dim: int = 512) -> SphereFace:
    """22.7 M parameters, 112×96: 20 convolutions, no batch norm."""
    return _build(dim, (1, 2, 4, 1))


@MODELS.register
def sphereface64(dim: int = 512) -> SphereFace:
    """64 layers, 112×96: stages of 3, 8, 16 and 3 units, no batch norm."""
    return _build(dim, (3, 8, 16, 3))


def _build(dim: int, units: tuple[int, int, int, int]) -> SphereFace:
    check_dim(dim)
    return SphereFace(InputSpec(112, 96, order="BGR", template="112x96"), dim, units)
