"""Softmax heads of others for language models, on our cosines: unit features times the scale, and unit weights.

Each function returns a loss of (scale, features, weights, labels).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from benchmarks.harness.sheet import peer

Loss = Callable[[float, Tensor, Tensor, Tensor], Tensor]


def cut_cross_entropy() -> Loss:
    """apple/ml-cross-entropy, exact: without leaving out small gradients."""
    module: Any = peer("cut_cross_entropy", "pip install cut-cross-entropy")

    def loss(scale: float, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        found: Tensor = module.linear_cross_entropy(*_half(scale, x, w), y, impl="cce_exact")
        return found

    return loss


def liger() -> Loss:
    """linkedin/Liger-Kernel's fused linear cross-entropy."""
    module: Any = peer("liger_kernel.transformers", "pip install liger-kernel")
    fused = module.LigerFusedLinearCrossEntropyLoss()

    def loss(scale: float, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        features, weights = _half(scale, x, w)
        found: Tensor = fused(weights, features, y)
        return found

    return loss


def _half(scale: float, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return scale * functional.normalize(x).bfloat16(), functional.normalize(w).bfloat16()
