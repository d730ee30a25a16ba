"""Data parallelism with the same gradient and batch statistics as on one rank."""

from __future__ import annotations

import warnings
from functools import partial

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from .. import dist


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap a network for this rank's part of each batch; returns the model itself on a single rank.

    Gradients are summed over ranks during the backward pass (the losses give each rank its own part of them); batch
    norm uses statistics of the whole batch, so that a run does not depend on the number of ranks.
    """
    if dist.world() == 1:
        return model
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_batch_norm, module)  # type: ignore[method-assign]
    device = next(model.parameters()).device
    ids = [device.index or 0] if device.type == "cuda" else None
    with warnings.catch_warnings():  # that the argument will once be called otherwise
        warnings.simplefilter("ignore", FutureWarning)
        parallel = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
    parallel.register_comm_hook(None, _summed)
    return parallel


def _summed(_, bucket):  # type: ignore[no-untyped-def] # torch looks at annotations, and takes none or its own class
    return td.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


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
