"""Vision transformers for aligned faces, as InsightFace's arcface_torch trains them (Dosovitskiy et al. 2020)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError
from ..types import InputSpec
from . import MODELS, Model, Origin, in_float32
from .iresnet import LICENCE, THEIR_PAGE, Order

SIZE, DEVIATION = 112, 0.02  # pixels a side; of initial weights


class _Block(nn.Module):
    """x + attention(norm(x)), then x + layers(norm(x)); in training each sum is left out at random (`drop_path`)."""

    def __init__(self, width: int, heads: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.heads, self.drop_path = heads, drop_path
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, ratio * width), nn.ReLU6(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self._kept(self.mix(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return x + self._kept(self.layers(self.norm2(x)))

    def _kept(self, x: Tensor) -> Tensor:
        """Zero whole samples with probability `drop_path`; the others grow, so that the mean stays."""
        if not (self.training and self.drop_path):
            return x
        keep = 1 - self.drop_path
        return x * (torch.rand(len(x), 1, 1, device=x.device) < keep) / keep


class VisionTransformer(Model):
    """Images [B, 3, 112, 112] in [-1, 1] → features [B, dim], by a fully connected layer on all patches.

    That layer and its batch norms compute in float32 under autocast too, as arcface_torch has them.

    Args:
        width, depth: numbers of a patch, and blocks.
        heads, ratio: attention heads of a block, and the inner width of its layers over `width`.
        patch: pixels of a patch's side; with 9 the last 4 pixels of 112 are not seen.
        drop_path: probability that the last block leaves out a sum in training; it rises linearly from 0.
        mask: fraction of the patches that are hidden from the blocks in training.
        order: of the color channels.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        *,
        heads: int = 8,
        ratio: int = 4,
        patch: int = 9,
        drop_path: float = 0.1,
        mask: float = 0.1,
        order: Order = "RGB",
    ) -> None:
        shares = 0 <= drop_path < 1 and 0 <= mask < 1
        sizes = min(dim, width, depth, heads, ratio) >= 1 and 1 <= patch <= SIZE
        if not (shares and sizes) or width % heads:
            raise ConfigError(
                "dim ≥ 1, depth ≥ 1, a width that heads divides, a patch of 1 to 112 pixels, 0 ≤ drop_path < 1 and "
                "0 ≤ mask < 1",
                f"dim {dim}, depth {depth}, width {width}, heads {heads}, ratio {ratio}, patch {patch}, drop_path "
                f"{drop_path}, mask {mask}", "correct the model's options",
            )  # fmt: skip
        super().__init__(InputSpec(SIZE, SIZE, order=order, std=(127.5,) * 3, template="112x112"), dim)
        self.mask, self.count = mask, (SIZE // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.zeros(1, self.count, width))
        # Stands for a masked patch after the blocks. Weights of others have it even where nothing was masked.
        self.hidden = nn.Parameter(torch.zeros(1, 1, width), requires_grad=mask > 0)
        paths = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.body = nn.Sequential(*(_Block(width, heads, ratio, path) for path in paths))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Linear(width * self.count, width, bias=False), nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, dim, bias=False), nn.BatchNorm1d(dim, eps=2e-5),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=DEVIATION)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for parameter in (self.positions, self.hidden):
            nn.init.trunc_normal_(parameter, std=DEVIATION)
        self.origins = (Origin("arcface_torch", "github.com/deepinsight/insightface", LICENCE, _theirs(depth)),)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to features [B, dim]."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        if not (self.training and self.mask):
            return self._features(self.norm(self.body(x)))
        seen = int(self.count * (1 - self.mask))
        order = torch.rand(x.shape[:2], device=x.device).argsort(1)[:, :seen, None].expand(-1, -1, x.shape[2])
        seen_x = self.norm(self.body(x.gather(1, order)))
        x = self.hidden.to(seen_x.dtype).expand_as(x).scatter(1, order, seen_x)
        return self._features(x)

    def _features(self, x: Tensor) -> Tensor:
        return in_float32(lambda patches: cast(Tensor, self.head(patches)), x.flatten(1))

    def multipliers(self) -> dict[str, tuple[float, float]]:
        """Neither positions nor the hidden patch decay."""
        return super().multipliers() | {"positions": (1.0, 0.0), "hidden": (1.0, 0.0)}


def _theirs(depth: int) -> dict[str, str]:
    """Map names here to those of arcface_torch's vit.py."""
    names = {"patches": "patch_embed.proj", "positions": "pos_embed", "hidden": "mask_token", "norm": "norm"}
    names |= {f"head.{place}": f"feature.{place}" for place in range(4)}
    block = {"norm1": "norm1", "qkv": "attn.qkv", "mix": "attn.proj", "norm2": "norm2"}
    block |= {"layers.0": "mlp.fc1", "layers.2": "mlp.fc2"}
    return names | {f"body.{n}.{ours}": f"blocks.{n}.{theirs}" for n in range(depth) for ours, theirs in block.items()}


@MODELS.register
def vit_t(
    dim: int = 512,
    width: int = 256,
    depth: int = 12,
    heads: int = 8,
    drop_path: float = 0.1,
    mask: float = 0.1,
) -> VisionTransformer:
    """19.1 M parameters, 112×112: arcface_torch's smallest transformer; its options make smaller ones."""
    return VisionTransformer(dim, width, depth, heads=heads, drop_path=drop_path, mask=mask)


@MODELS.register
def vit_s(
    dim: int = 512,
    heads: int = 8,
    ratio: int = 4,
    patch: int = 9,
    drop_path: float = 0.1,
    mask: float = 0.1,
    order: Order = "RGB",
) -> VisionTransformer:
    """76.0 M parameters, 112×112: half of them in the layer on all patches. Train it with AdamW."""
    model = VisionTransformer(
        dim, 512, 12, heads=heads, ratio=ratio, patch=patch, drop_path=drop_path, mask=mask, order=order
    )
    model.origins += (_cvlface(12, ratio=5),)
    return model


@MODELS.register
def vit_b(
    dim: int = 512,
    heads: int = 8,
    ratio: int = 4,
    patch: int = 9,
    drop_path: float = 0.1,
    mask: float = 0.1,
    order: Order = "RGB",
) -> VisionTransformer:
    """114 M parameters, 112×112: twice the blocks of `vit_s`. With recompute=true it needs less memory."""
    model = VisionTransformer(
        dim, 512, 24, heads=heads, ratio=ratio, patch=patch, drop_path=drop_path, mask=mask, order=order
    )
    model.origins += (_cvlface(24, ratio=3, heads=16),)
    return model


def _cvlface(depth: int, **different: int) -> Origin:
    names = {ours: f"net.{theirs}" for ours, theirs in _theirs(depth).items()}
    return Origin(
        "CVLface", "github.com/mk-minchul/CVLface", THEIR_PAGE, names,
        options={"patch": 8, **different}, constants={"mask_token": 0.0}, asks=("order",),
    )  # fmt: skip
