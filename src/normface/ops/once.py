"""Backward passes that can be differentiated no further say so, instead of leaving terms out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate `Function.backward`: a second differentiation raises InputError.

    torch.autograd.function.once_differentiable is silent where `torch.autograd.grad` names its inputs: its refusal
    leads to none of them. This one depends on all that the gradient depends on.
    """

    @wraps(backward)
    def once(ctx: Any, *gradients: Tensor) -> Any:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():  # no create_graph
            return found
        found = found if isinstance(found, tuple) else (found,)
        on = [t for t in (*ctx.saved_tensors, *gradients) if isinstance(t, Tensor) and t.requires_grad]
        refusing = [
            _Refuse.apply(each, *on) if isinstance(each, Tensor) else each  # type: ignore[no-untyped-call]
            for each in found
        ]
        return tuple(refusing)

    return once


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *_: Tensor) -> Tensor:
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise InputError(
            'impl="reference" without a shard to differentiate twice', "a second derivative (create_graph=True)",
            'set impl="reference"',
        )  # fmt: skip
