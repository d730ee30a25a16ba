"""ResNet-27 of center loss (Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition").

The network that the NormFace paper fine-tunes; PAPER.md §3 gives it layer by layer.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ..types import InputSpec
from . import MODELS
from .caffe import CaffeModel, Unit, check_dim, conv, linear

_STAGES = ((64, 1), (128, 2), (256, 5), (512, 3))  # channels, units


class CenterFace(CaffeModel):
    """Images [B, 3, 112, 96] → features [B, dim]."""

    def __init__(self, spec: InputSpec, dim: int) -> None:
        super().__init__(spec, dim)
        layers: list[nn.Module] = [conv(3, 32, 3), nn.PReLU(32)]
        inputs = 32
        for channels, units in _STAGES:
            # Without padding: each stage loses 2 rows and columns, then half of what is left.
            layers += [conv(inputs, channels, 3), nn.PReLU(channels), nn.MaxPool2d(2)]
            layers += [Unit(channels) for _ in range(units)]
            inputs = channels
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = linear(512 * 5 * 4, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to features [B, dim]."""
        return cast(Tensor, self.head(self.body(images)))


@MODELS.register
def centerface(dim: int = 512) -> CenterFace:
    """27.5 M parameters, 112×96, no batch norm: the paper's network, with its authors' initialization and rates."""
    check_dim(dim)
    return CenterFace(InputSpec(112, 96, order="BGR", template="112x96"), dim)
