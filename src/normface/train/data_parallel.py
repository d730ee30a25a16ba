"""Data parallelism: gradients, and batch norm's statistics, over ranks that each process a part of the batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from .. import dist

Compression = Literal["none", "bf16"]


def data_parallel(model: nn.Module, *, compress: Compression = "none") -> DistributedDataParallel:
    """Wrap a network for this rank's part of each batch.

    Gradients are summed over ranks during the backward pass (the losses give each rank its own part of them).

    Args:
        compress: "bf16" sends them in bfloat16.
    """
    device = next(model.parameters()).device
    ids = [device.index or 0] if device.type == "cuda" else None
    with warnings.catch_warnings():  # that the argument will once be called otherwise
        warnings.simplefilter("ignore", FutureWarning)
        parallel = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    parallel.register_comm_hook(None, _summed if compress == "none" else _summed_in_bf16)
    return parallel


def _summed(_, bucket):  # type: ignore[no-untyped-def] # torch looks at annotations, and takes none or its own class
    return td.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def _summed_in_bf16(_, bucket):  # type: ignore[no-untyped-def]
    whole = bucket.buffer()
    sent = td.all_reduce(whole.to(torch.bfloat16), async_op=True)
    return sent.get_future().then(lambda done: whole.copy_(done.value()[0]))


def synchronize_batch_norm(model: nn.Module) -> None:
    """Let batch norm use statistics of the whole batch, so that a run does not depend on the number of ranks.

    On GPUs by PyTorch's own SyncBatchNorm. That one refuses CPU tensors, for which plain operations compute the same.
    """
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_batch_norm, module)  # type: ignore[method-assign]


@torch.no_grad()
def average_buffers(modules: Iterable[nn.Module]) -> None:
    """Replace floating-point buffers by their mean over ranks.

    Running statistics are means over steps, so it does not matter how often this is done, only that it is done before
    they are used.
    """
    buffers = [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    sums = dist.total(torch.cat([buffer.flatten() for buffer in buffers]))
    means = torch.split(sums / dist.world(), [buffer.numel() for buffer in buffers])
    for buffer, mean in zip(buffers, means, strict=True):
        buffer.copy_(mean.view_as(buffer))


def _batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Batch norm over equally sized parts [b, C, …] of all ranks."""
    if not norm.training:
        return type(norm).forward(norm, x)
    wide = x.float()
    others = [0, *range(2, x.ndim)]
    variance, mean = torch.var_mean(wide, others, correction=0)
    variances, means = dist.gather(torch.stack([variance, mean])[None]).unbind(1)
    mean = means.mean(0)
    variance = variances.mean(0) + (means - mean).square().mean(0)
    count = x.numel() / x.shape[1] * dist.world()
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.detach(), share)
        norm.running_var.lerp_(variance.detach() * (count / (count - 1)), share)
    shape = [1, -1, *[1] * (x.ndim - 2)]
    factor = (variance + norm.eps).rsqrt()
    shift = -mean * factor
    if norm.affine:
        factor, shift = factor * norm.weight, shift * norm.weight + norm.bias
    return (wide * factor.view(shape) + shift.view(shape)).to(x.dtype)
