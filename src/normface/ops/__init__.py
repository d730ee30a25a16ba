"""Stateless tensor functions; each checks its arguments, then picks an implementation.

Shape suffixes: B batch, C classes, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from . import reference
from .margin import Margin
from .reference import l2_normalize

__all__ = ["Margin", "check", "cosine_cross_entropy", "l2_normalize"]


def cosine_cross_entropy(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    *,
    scale: float | Tensor,
    margin: Margin | None = None,
    normalize: reference.Normalize = "both",
    impl: Literal["auto", "reference"] = "auto",
) -> Tensor:
    """Softmax cross-entropy over scaled cosines, averaged over the batch (eq. 6).

    Args:
        x: features [B, D], floating point, not normalised.
        w: class weights [C, D], of the same dtype or float32, not normalised.
        y: labels [B], int64 in [0, C).
        scale: positive number, or a scalar tensor that receives a gradient.
        margin: on the own class's angle; needs normalize="both".
        normalize: which sides are brought to unit length: "both" gives cosines; "features", "weights" and "none"
            are the paper's comparisons.
        impl: "reference" is plain PyTorch, the definition of right; "auto" picks the fastest equal one.

    Returns:
        Scalar, float32 or better. Under autocast the matrix product runs in autocast's dtype; norms, scale and
        softmax stay in float32.

    Raises:
        InputError: wrong shapes or dtypes, an empty batch, a label out of range, an unknown name.
    """
    check(x, w, y)
    _among("normalize", normalize, reference.NORMALIZE)
    _among("impl", impl, ("auto", "reference"))
    if margin is not None and normalize != "both":
        raise InputError('normalize="both" with a margin', repr(normalize), "a margin is defined on cosines only")
    return reference.cosine_cross_entropy(x, w, y, scale=scale, margin=margin, normalize=normalize)


def _among(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise InputError(f"{name} among {', '.join(legal)}", repr(value), "choose one of them")


def check(x: Tensor, w: Tensor, y: Tensor) -> None:
    """Raise InputError unless features [B, D], class weights [C, D] and labels [B] fit together; B ≥ 1."""
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1] or y.shape != x.shape[:1]:
        raise InputError(
            "features [B, D], weights [C, D] and labels [B]",
            f"{list(x.shape)}, {list(w.shape)} and {list(y.shape)}", "make the shapes agree",
        )  # fmt: skip
    if not (x.is_floating_point() and w.is_floating_point()) or y.dtype != torch.int64:
        raise InputError(
            "floating-point features and weights, int64 labels",
            f"{x.dtype}, {w.dtype} and {y.dtype}",
            "convert them",
        )
    if not len(y):
        raise InputError("at least one sample", "an empty batch", "drop empty batches")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= len(w):
        raise InputError(
            f"labels in [0, {len(w)})",
            f"[{low}, {high}]",
            "number the classes from 0, or give the loss more classes",
        )
