"""Collectives with gradients, for ranks that compute one loss together.

Every rank computes the same loss and differentiates it with respect to its own part; the sum over ranks is the
gradient. So the gradient of `total` goes back to each summand unchanged, the gradient of `gather` is summed over ranks,
and that of a replicated value (`shared`) is divided by the world size. Errors of torch.distributed (a rank that died, a
timeout) become TrainingError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor

from .errors import ConfigError, TrainingError
from .types import ClassShard

TIMEOUT = timedelta(minutes=5)  # a rank without a message for this long counts as dead


@contextmanager
def joined() -> Iterator[None]:
    """Join the process group of `torchrun` for the block; without its environment variables, do nothing.

    Uses gloo for CPU tensors and NCCL for GPU tensors; each rank uses the GPU of its local rank.
    Raises TrainingError if the other ranks cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or td.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _told(lambda: td.init_process_group(backend, timeout=TIMEOUT))
    try:
        yield
    finally:
        td.destroy_process_group()


@contextmanager
def together(group: Any = None) -> Iterator[None]:
    """Wait at the end of the block for all ranks. Raises TrainingError if another rank failed in it."""
    failed = True
    try:
        yield
        failed = False
    finally:
        elsewhere = bool(maximum(torch.tensor(float(failed)), group))
    if elsewhere:
        raise TrainingError("every rank to succeed", "a failure on another rank", "see the other ranks' logs")


def rank(group: Any = None) -> int:
    """Rank of this process in the group; 0 without a process group."""
    return td.get_rank(group) if td.is_available() and td.is_initialized() else 0


def world(group: Any = None) -> int:
    """World size of the group; 1 without a process group."""
    return td.get_world_size(group) if td.is_available() and td.is_initialized() else 1


def class_shard(classes: int, group: Any = None) -> ClassShard:
    """Return this rank's even share of the classes. Raises ConfigError for fewer classes than ranks."""
    ranks, me = world(group), rank(group)
    if classes < ranks:
        raise ConfigError(f"at least {ranks} classes, one per rank", f"{classes}", "use fewer ranks")
    return ClassShard(me * classes // ranks, (me + 1) * classes // ranks, classes, group)


def gather(x: Tensor, group: Any = None) -> Tensor:
    """Gather equally shaped tensors [b, …] of all ranks as [world·b, …]. The gradient is summed over ranks."""
    return x if world(group) == 1 else _Gather.apply(x, group)  # type: ignore[no-untyped-call]


def total(x: Tensor, group: Any = None) -> Tensor:
    """Sum over ranks. The gradient is passed to every summand unchanged."""
    return x if world(group) == 1 else _Total.apply(x, group)  # type: ignore[no-untyped-call]


def shared(x: Tensor, group: Any = None) -> Tensor:
    """Mark a value as replicated: its gradient is divided by the world size."""
    return x if world(group) == 1 else x.detach() + (x - x.detach()) / world(group)


def maximum(x: Tensor, group: Any = None) -> Tensor:
    """Elementwise maximum over ranks; without gradient."""
    x = x.detach()
    if world(group) > 1:
        x = x.clone()
        _told(lambda: td.all_reduce(x, td.ReduceOp.MAX, group=group))
    return x


def first(x: Tensor, group: Any = None) -> Tensor:
    """The first rank's tensor, on all ranks; without gradient. It makes the decisions of all ranks equal."""
    x = x.detach()
    if world(group) > 1:
        x = x.clone()
        _told(lambda: td.broadcast(x, group=group, group_src=0))
    return x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world(group))]
        _told(lambda: td.all_gather(parts, x.contiguous(), group=group))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(gradients[0], ctx.group), None  # type: ignore[no-untyped-call]


class _Scatter(torch.autograd.Function):
    """Sum over ranks, of which each rank gets its part: the adjoint of `_Gather`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        parts = [part.contiguous() for part in x.chunk(world(group))]
        own = torch.empty_like(parts[0])
        _told(lambda: td.reduce_scatter(own, parts, group=group))
        return own

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradients[0], ctx.group), None  # type: ignore[no-untyped-call]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        _told(lambda: td.all_reduce(x, group=group))
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _told(work: Callable[[], Any]) -> None:
    try:
        work()
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"all {world()} ranks to answer", f"'{error}' on rank {rank()}",
            "see the other ranks' logs; --resume continues from the last checkpoint",
        ) from error  # fmt: skip
