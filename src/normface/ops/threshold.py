"""One threshold for all cosines over a head; `reference` does the same with a matrix [B, C]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from .head import Head
from .reductions import SoftplusSum
from .reference import l2_normalize


def unified_threshold(head: Head, *, scale: float, bias: Tensor, margin: float) -> Tensor:
    """Return the loss of each sample [B]; see `ops.unified_threshold`."""
    rows_B, cosines_B = head.own()
    known_B = head.total((head.w_RD[rows_B].any(1) & (rows_B >= 0)).to(cosines_B.dtype))
    level = bias.detach().to(cosines_B.dtype)
    reduce = SoftplusSum(cosines_B, level)
    own_B, push_B = head.reduce(scale * l2_normalize(head.x_BD), rows_B, reduce)
    push_B = push_B - (bias - level) * reduce.weights  # its value is known, its gradient by the bias is not
    pull_B = functional.softplus(head.shared(bias) - head.total(own_B) + scale * margin)
    return pull_B * known_B + head.total(push_B)
