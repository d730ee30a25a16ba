"""Parameters and FLOPs of a network, counted without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..types import InputSpec
from . import build


@dataclass(frozen=True)
class Cost:
    """Cost of a network: `parameters`; `flops` per image, two per multiply-add of convolutions and matrices, nothing
    for the rest; and its `spec` and `dim`."""

    parameters: int
    flops: int
    spec: InputSpec
    dim: int


def cost(name: str, **options: Any) -> Cost:
    """Count the cost of the model called `name`, on the device "meta". Raises ConfigError as `build`."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build(name, **options).eval()
        spec = model.spec
        model(torch.empty(1, spec.channels, spec.height, spec.width))
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops(), spec, model.dim)
