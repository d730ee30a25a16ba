"""Ranks that compute one loss together: gathering and summing, with the gradients that this needs.

Every rank ends with the same loss and differentiates it for its own part: the sum of the ranks' gradients is the
gradient. So a sum's gradient goes back to each summand as it is, what was gathered gets back the sum of what the ranks
found, and what all ranks hold alike (`shared`) counts once. All raises of torch.distributed (a rank that died, a
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

TIMEOUT = timedelta(minutes=5)  # a rank that has said nothing for so long is taken for dead


@contextmanager
def joined() -> Iterator[None]:
    """A process group for the block, where `torchrun` (its environment variables) says there are several ranks.

    Tensors on CPUs travel by gloo, on GPUs by NCCL; each rank takes the GPU of its local number.
    Raises TrainingError where the others cannot be reached.
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
    """A block that ends once every rank has done it. Raises TrainingError where another rank failed in it."""
    failed = True
    try:
        yield
        failed = False
    finally:
        elsewhere = bool(maximum(torch.tensor(float(failed)), group))
    if elsewhere:
        raise TrainingError("every rank to succeed", "another rank's failure", "look at the other ranks' messages")


def rank(group: Any = None) -> int:
    """This process's place in the group; 0 where nothing is distributed."""
    return td.get_rank(group) if td.is_available() and td.is_initialized() else 0


def world(group: Any = None) -> int:
    """Processes in the group; 1 where nothing is distributed."""
    return td.get_world_size(group) if td.is_available() and td.is_initialized() else 1


def class_shard(classes: int, group: Any = None) -> ClassShard:
    """This rank's even share of the classes. Raises ConfigError for fewer classes than ranks."""
    ranks, me = world(group), rank(group)
    if classes < ranks:
        raise ConfigError(f"a class for each of {ranks} ranks", f"{classes}", "use fewer ranks")
    return ClassShard(me * classes // ranks, (me + 1) * classes // ranks, classes, group)


def gather(x: Tensor, group: Any = None) -> Tensor:
    """Tensors [b, …] of all ranks, in their order [world·b, …]; equal shapes. The gradient is summed over ranks."""
    return x if world(group) == 1 else _Gather.apply(x, group)  # type: ignore[no-untyped-call]


def total(x: Tensor, group: Any = None) -> Tensor:
    """The sum over ranks. The gradient of the common loss goes back to every summand unchanged."""
    return x if world(group) == 1 else _Total.apply(x, group)  # type: ignore[no-untyped-call]


def shared(x: Tensor, group: Any = None) -> Tensor:
    """What all ranks hold and use alike: the gradient is divided by their number, as all of them give it."""
    return x if world(group) == 1 else x.detach() + (x - x.detach()) / world(group)


def maximum(x: Tensor, group: Any = None) -> Tensor:
    """The largest over ranks, element by element; without gradient."""
    x = x.detach()
    if world(group) > 1:
        x = x.clone()
        _told(lambda: td.all_reduce(x, td.ReduceOp.MAX, group=group))
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
        (down,) = gradients
        parts = [part.contiguous() for part in down.chunk(world(ctx.group))]
        own = torch.empty_like(parts[0])
        _told(lambda: td.reduce_scatter(own, parts, group=ctx.group))
        return own, None


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
            "look at the other ranks' messages; --resume goes on from the last checkpoint",
        ) from error  # fmt: skip
