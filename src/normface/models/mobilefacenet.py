"""MobileFaceNet (Chen et al. 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification")."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ..errors import ConfigError
from ..types import InputSpec
from . import MODELS, Model


def _conv(inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm, no activation; padded to keep the size for 3×3, unpadded otherwise."""
    padding = 1 if kernel == 3 else 0
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class _Bottleneck(nn.Module):
    """Inverted residual: expand 1×1, depthwise 3×3, project 1×1 without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *_conv(inputs, inner, 1), nn.PReLU(inner),
            *_conv(inner, inner, 3, stride, groups=inner), nn.PReLU(inner),
            *_conv(inner, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.body(x))
        return x + y if self.residual else y


# expansion, channels, units, stride of the first: Table 1 of the paper
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class MobileFaceNet(Model):
    """Images [B, 3, H, W] → features [B, dim]; H and W are multiples of 16."""

    def __init__(self, spec: InputSpec, dim: int) -> None:
        super().__init__(spec, dim)
        layers: list[nn.Module] = [*_conv(3, 64, 3, 2), nn.PReLU(64), *_conv(64, 64, 3, groups=64), nn.PReLU(64)]
        channels = 64
        for expansion, outputs, units, stride in _STAGES:
            for unit in range(units):
                layers.append(_Bottleneck(channels, outputs, stride if unit == 0 else 1, expansion))
                channels = outputs
        layers += [*_conv(channels, 512, 1), nn.PReLU(512)]
        # Global depthwise convolution: one learned weight per position, since faces are aligned.
        layers += [*_conv(512, 512, (spec.height // 16, spec.width // 16), groups=512), *_conv(512, dim, 1)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.body(images))


@MODELS.register
def mobilefacenet(dim: int = 128, width: int = 112) -> MobileFaceNet:
    """1.0 M parameters, made for phones; slow to train on CPUs for its size. `width` 112 or 96."""
    if width not in (96, 112) or dim < 1:
        raise ConfigError("width 96 or 112 and dim ≥ 1", f"width {width}, dim {dim}", "correct the model's options")
    return MobileFaceNet(InputSpec(112, width, template=f"112x{width}"), dim)
