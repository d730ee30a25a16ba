"""Softmax over a head: own products, and log Σ exp over the others; `reference` does the same with a matrix [B, C]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .head import Head
from .margin import Margin
from .reductions import LogSumExp, Rule
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
    rule = _rule(s_B1[:, 0].detach(), margin, cosines_B, exclude_above)
    bound_B = None
    if head.rule.unit and normalize in ("both", "weights"):  # cosines cannot exceed 1
        bound_B = s_B1[:, 0].detach()
        if rule is not None and rule.curriculum is not None:
            bound_B = bound_B * (1 + rule.curriculum.abs())
    x_BD = head.x_BD if normalize == "none" else l2_normalize(head.x_BD)
    reduce, s_B = LogSumExp(cosines_B, bound_B, rule), head.shared(s_B1[:, 0])
    if rule is None:
        own_B, rest_B = head.reduce(s_B1 * x_BD, rows_B, reduce, small=normalize == "both")
        own_B = head.total(own_B)
        cosines_B = own_B / s_B
    else:
        # The scale is at work within: it is kept out of the products' gradient, and gets its own.
        own_B, rest_B = head.reduce(s_B1.detach() * x_BD, rows_B, reduce, small=normalize == "both")
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
    _, rest_B = head.reduce(scale * l2_normalize(head.x_BD), rows_B, LogSumExp(cosines_B))
    log_mean = head.log_total(rest_B).logsumexp(0) - math.log(len(cosines_B))
    return log_mean / -(-cosines_B).median().clamp(max=-math.sqrt(0.5))


def _rule(s_B: Tensor, margin: Margin | None, cosines_B: Tensor, exclude_above: float | None) -> Rule | None:
    """Return the rule for other classes' logits, or None for logits as they are."""
    curriculum = None if margin is None else margin.curriculum
    if curriculum is None and exclude_above is None:
        return None
    own_B = cosines_B if margin is None else margin(cosines_B).detach()
    if curriculum is not None:
        curriculum = curriculum.to(s_B) if isinstance(curriculum, Tensor) else s_B.new_full((), curriculum)
    return Rule(s_B, own_B, curriculum, exclude_above)
