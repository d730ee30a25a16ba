"""MobileFaceNet (Chen et al. 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification")."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from ..errors import ConfigError
from ..types import InputSpec
from . import MODELS, Model, Origin
from .caffe import check_dim

Activation = Callable[[int], nn.Module]


def _conv(
    inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution and batch norm, no activation; padded to keep the size for 3×3, unpadded otherwise."""
    padding = 1 if kernel == 3 else 0
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias), nn.BatchNorm2d(outputs)
    )


class _Bottleneck(nn.Module):
    """Inverted residual: expand 1×1, depthwise 3×3, project 1×1 without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, active: Activation) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *_conv(inputs, inner, 1), active(inner),
            *_conv(inner, inner, 3, stride, groups=inner), active(inner),
            *_conv(inner, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.body(x))
        return x + y if self.residual else y


# expansion, channels, units, stride of the first: Table 1 of the paper
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class MobileFaceNet(Model):
    """Images [B, 3, H, W] → features [B, dim]; H and W are multiples of 16.

    Args:
        start: the layers before the bottlenecks, from 3 channels to 64 at half the size.
        active: number of channels → the activation after their batch norm.
        bias: of the last convolution.
    """

    def __init__(
        self, spec: InputSpec, dim: int, start: list[nn.Module], active: Activation = nn.PReLU, bias: bool = False
    ) -> None:
        super().__init__(spec, dim)
        layers, channels = start, 64
        for expansion, outputs, units, stride in _STAGES:
            for unit in range(units):
                layers.append(_Bottleneck(channels, outputs, stride if unit == 0 else 1, expansion, active))
                channels = outputs
        layers += [*_conv(channels, 512, 1), active(512)]
        # Global depthwise convolution: one learned weight per position, since faces are aligned.
        layers += [*_conv(512, 512, (spec.height // 16, spec.width // 16), groups=512)]
        layers += [*_conv(512, dim, 1, bias=bias)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to features [B, dim]."""
        return cast(Tensor, self.body(images))


@MODELS.register
def mobilefacenet(dim: int = 128, width: int = 112) -> MobileFaceNet:
    """1.0 M parameters, designed for phones; slow to train on CPUs for its size. `width` 112 or 96."""
    if width not in (96, 112) or dim < 1:
        raise ConfigError("width 96 or 112 and dim ≥ 1", f"width {width}, dim {dim}", "correct the model's options")
    start = [*_conv(3, 64, 3, 2), nn.PReLU(64), *_conv(64, 64, 3, groups=64), nn.PReLU(64)]
    return MobileFaceNet(InputSpec(112, width, template=f"112x{width}"), dim, start)


@MODELS.register
def mobilefacenet_relu6(dim: int = 128) -> MobileFaceNet:
    """1.0 M parameters, as trained by foamliu: ReLU6 for PReLU, one more 1×1 convolution, ImageNet mean and std."""
    check_dim(dim)
    spec = InputSpec(
        112, 112, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), template="112x112"
    )  # fmt: skip
    start = [*_conv(3, 64, 3, 2), nn.ReLU6(), *_conv(64, 64, 3, groups=64), nn.ReLU(), *_conv(64, 64, 1), nn.ReLU()]
    model = MobileFaceNet(spec, dim, start, lambda _: nn.ReLU6(), bias=True)
    licence = "Apache-2.0 (the repository's); trained on MS-Celeb-1M, whose photographs are for research"
    model.origins = (Origin("MobileFaceNet by foamliu", "github.com/foamliu/MobileFaceNet", licence, _foamliu()),)
    return model


def _foamliu() -> dict[str, str]:
    """Map modules here to those of the code of the weights (commit a687c71)."""
    units = sum(units for _, _, units, _ in _STAGES)
    first = {0: "conv1.0", 1: "conv1.1", 3: "dw_conv.depthwise", 4: "dw_conv.bn1"}
    first |= {6: "dw_conv.pointwise", 7: "dw_conv.bn2"}
    unit = {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2", 7: "3"}
    last = {0: "conv2.0", 1: "conv2.1", 3: "gdconv.depthwise", 4: "gdconv.bn", 5: "conv3", 6: "bn"}
    modules = {f"body.{place}": theirs for place, theirs in first.items()}
    for number in range(units):
        modules |= {f"body.{9 + number}.body.{n}": f"features.{number}.conv.{theirs}" for n, theirs in unit.items()}
    return modules | {f"body.{9 + units + place}": theirs for place, theirs in last.items()}
