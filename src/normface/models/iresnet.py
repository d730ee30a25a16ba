"""IResNet as InsightFace trains it (Deng et al. 2019, "ArcFace"; units of He et al. 2016 with batch norm first)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ..types import InputSpec
from . import MODELS, Model, Origin, in_float32
from .caffe import check_dim

_LICENCE = "for non-commercial research only, as InsightFace says of its model zoo; its code is MIT"


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.normal_(conv.weight, std=0.1)
    return conv


class _Unit(nn.Module):
    """Batch norm, 3×3, batch norm, PReLU, 3×3 with stride, batch norm; plus the input, projected where it shrinks."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.PReLU(outputs),
            _conv(outputs, outputs, 3, stride), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = (
            nn.Identity() if stride == 1 else nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x)) + cast(Tensor, self.shortcut(x))


class IResNet(Model):
    """RGB images [B, 3, 112, 112] in [-1, 1] → features [B, dim], by a fully connected layer on the last 7×7 maps.

    That layer and its batch norm compute in float32 under autocast too, as arcface_torch has them.
    """

    def __init__(self, dim: int, units: tuple[int, int, int, int]) -> None:
        super().__init__(InputSpec(112, 112, std=(127.5,) * 3, template="112x112"), dim)
        self.stem = nn.Sequential(_conv(3, 64, 3), nn.BatchNorm2d(64), nn.PReLU(64))
        body: list[nn.Module] = []
        modules = {"stem.0": "conv1", "stem.1": "bn1", "stem.2": "prelu"}
        inputs = 64
        for stage, (channels, count) in enumerate(zip((64, 128, 256, 512), units, strict=True), 1):
            for unit in range(count):
                ours, theirs = f"body.{len(body)}", f"layer{stage}.{unit}"
                for place, name in enumerate(("bn1", "conv1", "bn2", "prelu", "conv2", "bn3")):
                    modules[f"{ours}.body.{place}"] = f"{theirs}.{name}"
                if unit == 0:
                    modules |= {f"{ours}.shortcut.{n}": f"{theirs}.downsample.{n}" for n in (0, 1)}
                body.append(_Unit(inputs, channels, 1 if unit else 2))
                inputs = channels
        self.body = nn.Sequential(*body)
        self.head = nn.Sequential(
            nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 7 * 7, dim), nn.BatchNorm1d(dim)
        )  # fmt: skip
        # The last batch norm divides by the batch's deviation: a learned factor would undo that.
        self.head[3].weight.requires_grad_(False)
        modules |= {"head.0": "bn2", "head.2": "fc", "head.3": "features"}
        self.origin = Origin("arcface_torch", "github.com/deepinsight/insightface", _LICENCE, modules)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to features [B, dim]."""
        norm, flatten, linear, last = self.head
        maps = flatten(norm(self.body(self.stem(images))))
        return in_float32(lambda x: cast(Tensor, last(linear(x))), maps)


@MODELS.register
def iresnet18(dim: int = 512) -> IResNet:
    """24.0 M parameters, 112×112: the smallest of the usual networks for millions of faces."""
    return _build(dim, (2, 2, 2, 2))


@MODELS.register
def iresnet34(dim: int = 512) -> IResNet:
    """34.1 M parameters, 112×112."""
    return _build(dim, (3, 4, 6, 3))


@MODELS.register
def iresnet50(dim: int = 512) -> IResNet:
    """43.6 M parameters, 112×112: the usual baseline in papers."""
    return _build(dim, (3, 4, 14, 3))


@MODELS.register
def iresnet100(dim: int = 512) -> IResNet:
    """65.2 M parameters, 112×112."""
    return _build(dim, (3, 13, 30, 3))


def _build(dim: int, units: tuple[int, int, int, int]) -> IResNet:
    check_dim(dim)
    return IResNet(dim, units)
