"""Plain PyTorch: the definition of right, against which every faster path is tested."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .margin import Margin

Normalize = Literal["both", "features", "weights", "none"]
NORMALIZE: tuple[Normalize, ...] = ("both", "features", "weights", "none")


def l2_normalize(x: Tensor, eps: float = 1e-12) -> Tensor:
    """x / √(Σx² + ε) over the last dimension (eq. 3); any shape, the same dtype back.

    ε stands inside the root, so value and gradient are finite at zero, and the gradient
    (u - x̃⟨u, x̃⟩)/‖x‖ (eq. 4) is tangent to the sphere. Half precisions are computed in float32.
    """
    wide = widened(x)
    return (wide * (wide.square().sum(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def widened(x: Tensor) -> Tensor:
    """In float32 where it was half precision, or else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cosine_cross_entropy(
    x_BD: Tensor,
    w_CD: Tensor,
    y_B: Tensor,
    *,
    scale: float | Tensor,
    margin: Margin | None,
    normalize: Normalize,
) -> Tensor:
    """See `ops.cosine_cross_entropy`."""
    x_BD = widened(x_BD)  # norms of half-precision features overflow or lose digits
    if normalize in ("both", "features"):
        x_BD = l2_normalize(x_BD)
    if normalize in ("both", "weights"):
        w_CD = l2_normalize(w_CD)
    if not torch.is_autocast_enabled(x_BD.device.type):
        w_CD = w_CD.to(x_BD.dtype)
    logits_BC = functional.linear(x_BD, w_CD).to(torch.promote_types(x_BD.dtype, torch.float32))
    if margin is not None:
        own_B1 = logits_BC.gather(1, y_B[:, None])
        logits_BC = logits_BC.scatter(1, y_B[:, None], margin(own_B1))
    return functional.cross_entropy(scale * logits_BC, y_B)
