"""Light CNN (Wu et al. 2018, "A Light CNN for Deep Face Representation with Noisy Labels"): Max-Feature-Map.

Each layer computes twice the channels that it outputs, and takes the elementwise maximum of the two halves.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..types import InputSpec
from . import MODELS, Origin
from .caffe import CaffeModel, check_dim, conv, linear

BIAS = 0.1  # where the authors' biases start
_AUTHORS = "github.com/AlfredXiangWu/LightCNN"
_LICENCE = "MIT (the repository's); trained on CASIA-WebFace and MS-Celeb-1M, whose photographs are for research"


class _Max(nn.Module):
    """A convolution or matrix, and the maximum of the two halves of its outputs."""

    def __init__(self, filter: nn.Module) -> None:
        super().__init__()
        self.filter = filter

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(*cast(Tensor, self.filter(x)).chunk(2, 1))


class _Residual(nn.Module):
    """x + two 3×3 Max-Feature-Map layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_max(channels, channels, 3, 1) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.body(x))


class LightCNN(CaffeModel):
    """Gray images [B, 1, 128, 128] in [0, 1] → features [B, dim], with dropout in training."""

    def __init__(self, dim: int, dropout: float, layers: list[nn.Module], flat: int, origin: Origin | None) -> None:
        spec = InputSpec(128, 128, channels=1, mean=(0.0,), std=(255.0,), template="128x128")
        super().__init__(spec, dim)
        self.origins = () if origin is None else (origin,)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = _Max(linear(flat, 2 * dim, bias=BIAS))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to features [B, dim]."""
        return cast(Tensor, self.dropout(self.head(self.body(images))))


@MODELS.register
def lightcnn_a(dim: int = 256, dropout: float = 0.7) -> LightCNN:
    """4.1 M parameters, gray 128×128: four convolutions without padding, the smallest of the three."""
    check_dim(dim, dropout)
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((1, 48, 9), (48, 96, 5), (96, 128, 5), (128, 192, 4)):
        # Rounded up, as Caffe does: 9 → 5 at the end, without effect before.
        layers += [_max(inputs, outputs, kernel, 0), nn.MaxPool2d(2, ceil_mode=True)]
    return LightCNN(dim, dropout, layers, 192 * 5 * 5, None)


@MODELS.register
def lightcnn_b(dim: int = 256, dropout: float = 0.75) -> LightCNN:
    """5.5 M parameters, gray 128×128: the paper's "Wu B", also called Light CNN-9."""
    check_dim(dim, dropout)
    layers: list[nn.Module] = [_max(1, 48, 5, 2), nn.MaxPool2d(2)]
    layers += [*_group(48, 96), nn.MaxPool2d(2), *_group(96, 192), nn.MaxPool2d(2)]
    layers += [*_group(192, 128), *_group(128, 128), nn.MaxPool2d(2)]
    groups = {2: 2, 5: 4, 8: 6, 10: 7}  # first of the two layers here → number of the group there
    modules = {"body.0": "features.0", "head": "fc1"}
    for ours, theirs in groups.items():
        modules |= {f"body.{ours}": f"features.{theirs}.conv_a", f"body.{ours + 1}": f"features.{theirs}.conv"}
    return LightCNN(dim, dropout, layers, 128 * 8 * 8, _origin("LightCNN-9", modules))


@MODELS.register
def lightcnn_29(dim: int = 256, dropout: float = 0.5) -> LightCNN:
    """12.6 M parameters, gray 128×128: ten residual units between the layers of B."""
    check_dim(dim, dropout)
    layers: list[nn.Module] = [_max(1, 48, 5, 2), nn.MaxPool2d(2)]
    modules = {"body.0": "conv1", "head": "fc"}
    stages = ((48, 96, 1, True), (96, 192, 2, True), (192, 128, 3, False), (128, 128, 4, True))
    for stage, (inputs, outputs, units, pooled) in enumerate(stages, 1):
        for unit in range(units):
            for part in range(2):
                modules[f"body.{len(layers)}.body.{part}"] = f"block{stage}.{unit}.conv{part + 1}"
            layers.append(_Residual(inputs))
        for theirs, layer in zip(("conv_a", "conv"), _group(inputs, outputs), strict=True):
            modules[f"body.{len(layers)}"] = f"group{stage}.{theirs}"
            layers.append(layer)
        if pooled:
            layers.append(nn.MaxPool2d(2))
    return LightCNN(dim, dropout, layers, 128 * 8 * 8, _origin("LightCNN-29", modules))


def _max(inputs: int, outputs: int, kernel: int, padding: int) -> _Max:
    return _Max(conv(inputs, 2 * outputs, kernel, padding=padding, bias=BIAS))


def _group(inputs: int, outputs: int) -> tuple[_Max, _Max]:
    """1×1, then 3×3."""
    return _max(inputs, inputs, 1, 0), _max(inputs, outputs, 3, 1)


def _origin(name: str, modules: dict[str, str]) -> Origin:
    return Origin(name, _AUTHORS, _LICENCE, modules, left=("fc2.",))
