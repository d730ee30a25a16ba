"""What a network costs, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..types import InputSpec
from . import build


@dataclass(frozen=True)
class Cost:
    """`parameters` of a network; `flops` of one image: two for each multiplication and addition of its convolutions
    and matrices, nothing for the rest; with `spec` and `dim` as the network has them."""

    parameters: int
    flops: int
    spec: InputSpec
    dim: int


def cost(name: str, **options: Any) -> Cost:
    """Of the model called `name`, on the device "meta": nothing is filled in. Raises ConfigError as `build`."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build(name, **options).eval()
        spec = model.spec
        model(torch.empty(1, spec.channels, spec.height, spec.width))
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops(), spec, model.dim)
