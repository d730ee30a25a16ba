"""Gradient checkpointing (Chen et al. 2016): less memory for about a third more time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError
from ..models import Model


def recompute(model: Model) -> None:
    """Keep only the inputs of the network's units in training, and compute each again in the backward pass.

    Gradients, and the statistics of batch norm, are those without it. Raises ConfigError for a network without units.
    """
    units = model.units()
    if not units:
        raise ConfigError("recompute=true with a network of several units", type(model).__name__, "set recompute=false")
    for unit in units:
        unit.forward = partial(_again, unit, unit.forward)


def _again(unit: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not (unit.training and torch.is_grad_enabled()):
        return forward(x)
    again: Tensor = checkpoint(forward, x, use_reentrant=False, context_fn=partial(_contexts, unit))
    return again


def _contexts(unit: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _same_buffers(unit)


@contextmanager
def _same_buffers(unit: nn.Module) -> Iterator[None]:
    """Set back what batch norm averages: a batch counts once."""
    before = [buffer.clone() for buffer in unit.buffers()]
    try:
        yield
    finally:
        for buffer, kept in zip(unit.buffers(), before, strict=True):
            buffer.data.copy_(kept)
