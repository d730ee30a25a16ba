"""IResNet as InsightFace trains it (Deng et al. 2019, "ArcFace"; units of He et al. 2016 with batch norm first)."""

from __future__ import annotations

from typing import Literal, cast, get_args

from torch import Tensor, nn

from ..errors import ConfigError
from ..types import InputSpec
from . import MODELS, Model, Origin, in_float32
from .caffe import check_dim

LICENCE = "for non-commercial research only, as InsightFace says of its model zoo; its code is MIT"
RESEARCH = "trained on MS1M or WebFace, whose photographs are for research"
THEIR_PAGE = f"as the page of the weights says; {RESEARCH}"

Like = Literal["arcface_torch", "adaface", "magface"]
Order = Literal["RGB", "BGR"]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.normal_(conv.weight, std=0.1)
    return conv


class _Unit(nn.Module):
    """Batch norm, 3×3, batch norm, PReLU, 3×3 with stride, batch norm; plus the input, projected where it shrinks.

    plain: without new channels take every second pixel instead.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, plain: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.PReLU(outputs),
            _conv(outputs, outputs, 3, stride), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut: nn.Module
        if stride == 1:
            self.shortcut = nn.Identity()
        elif plain and inputs == outputs:
            self.shortcut = nn.MaxPool2d(1, stride)
        else:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x)) + cast(Tensor, self.shortcut(x))


class IResNet(Model):
    """Images [B, 3, 112, 112] → features [B, dim], by a fully connected layer on the last 7×7 maps.

    That layer and its batch norm compute in float32 under autocast too, as arcface_torch has them.

    Args:
        units: of each stage.
        like: whose network: "arcface_torch", RGB in [-1, 1]; "adaface", BGR in [-1, 1], with a first shortcut without
            weights; "magface", BGR in [0, 1].
        order: of the color channels, if another than theirs.
    """

    def __init__(self, dim: int, units: tuple[int, int, int, int], like: Like, order: Order | None) -> None:
        check_dim(dim)
        if like not in get_args(Like):
            raise ConfigError(f"like among {', '.join(get_args(Like))}", repr(like), "correct the model's options")
        mean, std = (0.0, 255.0) if like == "magface" else (127.5, 127.5)
        order = order or ("RGB" if like == "arcface_torch" else "BGR")
        super().__init__(InputSpec(112, 112, order=order, mean=(mean,) * 3, std=(std,) * 3, template="112x112"), dim)
        self.stem = nn.Sequential(_conv(3, 64, 3), nn.BatchNorm2d(64), nn.PReLU(64))
        body: list[nn.Module] = []
        inputs = 64
        for channels, count in zip((64, 128, 256, 512), units, strict=True):
            for unit in range(count):
                body.append(_Unit(inputs, channels, 1 if unit else 2, plain=like == "adaface"))
                inputs = channels
        self.body = nn.Sequential(*body)
        self.head = nn.Sequential(
            nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 7 * 7, dim), nn.BatchNorm1d(dim)
        )  # fmt: skip
        # The last batch norm divides by the batch's deviation: a learned factor would undo that.
        self.head[3].weight.requires_grad_(False)
        if like == "magface":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.eps = 2e-5
        self.origins = _origins(units)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to features [B, dim]."""
        norm, flatten, linear, last = self.head
        maps = flatten(norm(self.body(self.stem(images))))
        return in_float32(lambda x: cast(Tensor, last(linear(x))), maps)


def _origins(units: tuple[int, int, int, int]) -> tuple[Origin, ...]:
    """Whose weights fit: arcface_torch's and MagFace's names are alike, AdaFace's and CVLface's too."""
    first = {"stem.0": "conv1", "stem.1": "bn1", "stem.2": "prelu", "head.0": "bn2", "head.2": "fc"}
    arcface = first | {"head.3": "features"}
    adaface = {f"stem.{place}": f"input_layer.{place}" for place in range(3)}
    adaface |= {"head.0": "output_layer.0", "head.2": "output_layer.3", "head.3": "output_layer.4"}
    places = [(stage, unit) for stage, count in enumerate(units, 1) for unit in range(count)]
    for number, (stage, unit) in enumerate(places):
        for place, name in enumerate(("bn1", "conv1", "bn2", "prelu", "conv2", "bn3")):
            arcface[f"body.{number}.body.{place}"] = f"layer{stage}.{unit}.{name}"
            adaface[f"body.{number}.body.{place}"] = f"body.{number}.res_layer.{place}"
        if unit == 0:
            arcface |= {f"body.{number}.shortcut.{n}": f"layer{stage}.{unit}.downsample.{n}" for n in (0, 1)}
            adaface |= {f"body.{number}.shortcut.{n}": f"body.{number}.shortcut_layer.{n}" for n in (0, 1)}
    cvlface = {ours: f"net.{theirs}" for ours, theirs in adaface.items()}
    # Their last batch norm has neither factors nor summands.
    constants = {"output_layer.4.weight": 1.0, "output_layer.4.bias": 0.0}
    like, magface = {"like": "adaface"}, {"like": "magface"}
    mit = f"MIT (the repository's); {RESEARCH}"
    wrapped = ({ours: f"{at}{theirs}" for ours, theirs in arcface.items()} for at in ("features.module.", "features."))
    return (
        Origin("arcface_torch", "github.com/deepinsight/insightface", LICENCE, arcface),
        Origin("AdaFace", "github.com/mk-minchul/AdaFace", mit, adaface, (), like, constants),
        Origin("CVLface", "github.com/mk-minchul/CVLface", THEIR_PAGE, cvlface, (), like, constants, asks=("order",)),
        *(Origin("MagFace", "github.com/IrvingMeng/MagFace", THEIR_PAGE, each, options=magface) for each in wrapped),
    )


@MODELS.register
def iresnet18(dim: int = 512, like: Like = "arcface_torch", order: Order | None = None) -> IResNet:
    """24.0 M parameters, 112×112: the smallest of the usual networks for millions of faces."""
    return IResNet(dim, (2, 2, 2, 2), like, order)


@MODELS.register
def iresnet34(dim: int = 512, like: Like = "arcface_torch", order: Order | None = None) -> IResNet:
    """34.1 M parameters, 112×112."""
    return IResNet(dim, (3, 4, 6, 3), like, order)


@MODELS.register
def iresnet50(dim: int = 512, like: Like = "arcface_torch", order: Order | None = None) -> IResNet:
    """43.6 M parameters, 112×112: the usual baseline in papers."""
    return IResNet(dim, (3, 4, 14, 3), like, order)


@MODELS.register
def iresnet100(dim: int = 512, like: Like = "arcface_torch", order: Order | None = None) -> IResNet:
    """65.2 M parameters, 112×112."""
    return IResNet(dim, (3, 13, 30, 3), like, order)
