"""Fresh memory for large tensors on CPUs."""

import math
import mmap

import torch
from torch import Tensor

HUGE = 2 * 2**20  # bytes of a huge page
FROM = 16 * HUGE  # glibc takes smaller pieces from what was freed before


def empty(like: Tensor, *shape: int) -> Tensor:
    """A tensor of that shape, its numbers not set, with the dtype and device of `like`.

    Large ones on Linux lie in huge pages, where the system grants them (transparent_hugepage: madvise or always):
    touching fresh memory in pages of 4 KiB takes ten times as long as writing a gradient into it.
    """
    size = math.prod(shape) * like.itemsize
    if like.device.type != "cpu" or size < FROM or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_empty(shape)
    pages = mmap.mmap(-1, -(-size // HUGE) * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=like.dtype, count=math.prod(shape)).view(shape)
