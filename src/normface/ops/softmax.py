"""Softmax over a head: own products, and log Σ exp over the others; `reference` does the same with a matrix [B, C]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .head import Head
from .margin import Margin
from .reductions import REACH, LogSumExp
from .reference import Normalize, l2_normalize, norms


def cosine_cross_entropy(
    head: Head,
    *,
    scale: float | Tensor,
    margin: Margin | Callable[[Tensor], Margin] | None,
    normalize: Normalize,
    exclude_above: float | None,
) -> Tensor:
    """Return the loss of each sample [B]; see `ops.cosine_cross_entropy`."""
    lengths_B1 = norms(head.x_BD)[:, None]
    s_B1 = scale * (lengths_B1 if normalize == "weights" else torch.ones_like(lengths_B1))
    rows_B, cosines_B = head.own()
    if margin is not None and not isinstance(margin, Margin):
        margin = margin(cosines_B)
    others = None
    if exclude_above is not None or (margin is not None and margin.curriculum is not None):
        others = _others(s_B1.detach(), margin, None if margin is None else margin(cosines_B).detach(), exclude_above)
    # Cosines cannot exceed 1. float16 holds no exp(REACH).
    bounded = head.rule.unit and normalize in ("both", "weights") and others is None and head.compute != torch.float16
    bounded = bounded and bool(s_B1.max() <= REACH)
    x_BD = head.x_BD if normalize == "none" else l2_normalize(head.x_BD)
    reduce, s_B = LogSumExp(cosines_B, bounded, others), head.shared(s_B1[:, 0])
    if others is None:
        own_B, rest_B = head.reduce(s_B1 * x_BD, rows_B, reduce)
        own_B = head.total(own_B)
        cosines_B = own_B / s_B
    else:
        # The scale is at work within: it is kept out of the products' gradient, and gets its own.
        own_B, rest_B = head.reduce(s_B1.detach() * x_BD, rows_B, reduce)
        cosines_B = head.total(own_B) / s_B.detach()
        own_B = s_B * cosines_B
        rest_B = rest_B + ((s_B1 - s_B1.detach()) / s_B1.detach())[:, 0] * reduce.mean
    if margin is not None:
        own_B = s_B * margin(cosines_B)
    rest_B = head.log_total(rest_B)
    return functional.softplus(rest_B - own_B)


@torch.no_grad()
def adacos_scale(head: Head, *, scale: Tensor) -> Tensor:
    """See `ops.adacos_scale`."""
    rows_B, cosines_B = head.own()
    _, rest_B = head.reduce(scale * l2_normalize(head.x_BD), rows_B, LogSumExp(cosines_B, False, None))
    log_mean = head.log_total(rest_B).logsumexp(0) - math.log(len(cosines_B))
    return log_mean / -(-cosines_B).median().clamp(max=-math.sqrt(0.5))


def _others(
    s_B1: Tensor, margin: Margin | None, own_B: Tensor | None, exclude_above: float | None
) -> Callable[[Tensor], Tensor]:
    """Return the elementwise rule for other classes' logits z = s·cos, or None."""

    def others(z_BT: Tensor) -> Tensor:
        cosines_BT = values_BT = z_BT / s_B1
        if margin is not None and own_B is not None:
            values_BT = margin.others(cosines_BT, own_B[:, None])
        z_BT = s_B1 * values_BT
        return z_BT if exclude_above is None else z_BT.masked_fill(cosines_BT.detach() > exclude_above, -torch.inf)

    return others
