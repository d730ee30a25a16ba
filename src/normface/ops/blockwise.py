"""Products with all class weights by the library, one block of classes at a time, computed again in the backward pass.

Forward: rows of a block, normalized → products → reduced. Backward: the same products → slopes → both gradients.
Nothing of size B×C is held, and the weights' gradient is written block by block. On CPUs slopes or products of the
first blocks are kept, up to a fixed number of bytes, which saves a quarter of the arithmetic. The host never waits for
a GPU here, so a step can be captured as a CUDA graph.
B batch, C classes, K sub-centers of each, R = C·K rows of weights, N rows of a block, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .once import once_differentiable
from .reductions import Reduce
from .steps import FusedSGD, Plain, RowRule, Steps, scaled_rows

MEMORY = 160 * 2**20  # bytes of a block's products and rows on a GPU
ROWS = 2048  # of a block on a CPU: 256 features × 2048 rows in float32 lie in a core's cache
KEEP = 96 * 2**20  # bytes of slopes or products that a CPU keeps from the forward to the backward pass
PIECE = 8  # of them in one piece of memory: glibc uses up to 32 MB again without the kernel's help


@dataclass(frozen=True)
class Blockwise:
    """How a head's products are computed.

    Attributes:
        kernels: do the steps beside the products by Triton's kernels.
        update: update the class weights in the backward pass.
    """

    kernels: bool = False
    update: FusedSGD | None = None

    def compute(self, x_BD: Tensor, *, small: bool) -> torch.dtype:
        """Dtype of the products: autocast's if it is on, but float16 for the kernels if all products are `small`.

        Of cosines float16 keeps three more bits than bfloat16, and the kernels scale the softmax to its range.
        """
        device = x_BD.device.type
        if not torch.is_autocast_enabled(device):
            return x_BD.dtype
        return torch.float16 if self.kernels and small else torch.get_autocast_dtype(device)

    def steps(self, reduce: Reduce, rule: RowRule, compute: torch.dtype) -> Steps:
        """Return the steps of a reduction."""
        if self.kernels:
            from .triton import steps

            return steps(reduce, rule, compute)
        return Plain(reduce, rule, compute)

    def __call__(
        self, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, reduce: Reduce, rule: RowRule, *, small: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Products with the own rows [B], and the reduction over the other classes [B], with gradients of both tensors.

        Args:
            x_BD, w_RD: of one dtype, float32 or float64.
            rows_B: own rows; -1 if the own class is not among these.
            small: no product is larger than 65504, the largest number of float16.

        Raises:
            InputError: out of memory; or a step of SGD with weights that are no parameter.
        """
        if self.update is not None and not (w_RD.dtype == torch.float32 and w_RD.is_leaf and w_RD.is_contiguous()):
            raise InputError(
                "a parameter in float32, contiguous, for FusedSGD", f"{w_RD.dtype}, leaf: {w_RD.is_leaf}",
                "pass the parameter itself to the loss",
            )  # fmt: skip
        compute = self.compute(x_BD, small=small)
        with torch.autocast(x_BD.device.type, enabled=False), _memory(x_BD, w_RD):
            steps = self.steps(reduce, rule, compute)
            return _Blockwise.apply(x_BD, w_RD, rows_B, rule, compute, steps, self.update)  # type: ignore[no-any-return,no-untyped-call]


PLAIN = Blockwise()


class _Pass:
    """One pass over the blocks, in buffers that are reused for each.

    Attributes:
        classes: of a block.
        spare: room for one block's products.
    """

    def __init__(self, x_BD: Tensor, w_RD: Tensor, inverse_R: Tensor, rule: RowRule, compute: torch.dtype) -> None:
        self.x_BD, self.w_RD, self.inverse_R = x_BD.to(compute), w_RD, inverse_R
        self.classes = max(1, block_rows(len(x_BD), x_BD.shape[1], compute, x_BD.device) // rule.subcenters)
        self.size = min(self.classes * rule.subcenters, len(w_RD))
        self.spare = self.x_BD.new_empty(len(x_BD) * self.size)
        self.as_they_are = not rule.unit and w_RD.dtype == compute
        self.rows_ND = w_RD if self.as_they_are else self.x_BD.new_empty(self.size, w_RD.shape[1])

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        """Number and rows of each block."""
        for i, start in enumerate(range(0, len(self.w_RD), self.size)):
            yield i, slice(start, min(start + self.size, len(self.w_RD)))

    def rows(self, at: slice, steps: Steps, *, measured: bool) -> Tensor:
        """Return a block's rows as they are multiplied; see `Steps.rows`."""
        if self.as_they_are:
            return self.w_RD[at]
        rows_ND = self.rows_ND[: at.stop - at.start]
        steps.rows(self.w_RD[at], self.inverse_R[at], rows_ND, measured=measured)
        return rows_ND

    def room(self, place: Tensor, at: slice) -> Tensor:
        """Return a buffer as a block's products [B, N]."""
        return place[: len(self.x_BD) * (at.stop - at.start)].view(len(self.x_BD), -1)

    def products(self, rows_ND: Tensor, z_BN: Tensor) -> Tensor:
        """Write all features' products with a block's rows."""
        return torch.mm(self.x_BD, rows_ND.T, out=z_BN)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, rule: RowRule, compute: torch.dtype, steps: Steps,
        update: FusedSGD | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        inverse_R, kept = w_RD.new_ones(len(w_RD)), []
        whole, classes_B = _Pass(x_BD, w_RD, inverse_R, rule, compute), _classes(rows_B, rule)
        sum_BD, part_BD = torch.zeros_like(x_BD), torch.empty_like(x_BD)
        if steps.keeps and any(ctx.needs_input_grad) and not x_BD.is_cuda:
            each = len(whole.spare)
            room = min(KEEP // (each * whole.spare.itemsize), -(-len(w_RD) // whole.size))
            # Several in one piece: single ones, between blocks that come and go, leave holes.
            kept = [row for at in range(0, room, PIECE) for row in whole.spare.new_empty(min(PIECE, room - at), each)]
        for i, at in whole:
            rows_ND = whole.rows(at, steps, measured=False)
            z_BN = whole.products(rows_ND, whole.room(kept[i] if i < len(kept) else whole.spare, at))
            steps.take(z_BN, classes_B - i * whole.classes, z_BN if steps.early else whole.room(whole.spare, at))
            if steps.early and ctx.needs_input_grad[0]:
                sum_BD += _product(z_BN, rows_ND, part_BD)
        own_B = (x_BD * scaled_rows(w_RD, inverse_R, rows_B)).sum(1)
        ctx.save_for_backward(x_BD, w_RD, rows_B, inverse_R, own_B, sum_BD, *kept)
        ctx.rule, ctx.compute, ctx.steps, ctx.update = rule, compute, steps, update
        return own_B, steps.result()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        down_own_B, down_B = gradients
        x_BD, w_RD, rows_B, inverse_R, own_B, sum_BD, *_ = ctx.saved_tensors
        rule, update = ctx.rule, ctx.update
        own_BD = scaled_rows(w_RD, inverse_R, rows_B)  # before the weights change
        factor_B = ctx.steps.factor() * down_B
        with _memory(x_BD, w_RD):
            sum_BD, dw_RD = _through_others(ctx, factor_B)
        dx_BD = (sum_BD * factor_B[:, None]).addcmul_(own_BD, down_own_B[:, None]) if ctx.needs_input_grad[0] else None
        if dw_RD is None:
            return dx_BD, *[None] * 6
        project = rule.unit and rule.project
        along_BD = x_BD - own_B[:, None] * own_BD if project else x_BD
        factor_B = (down_own_B * inverse_R[rows_B] if project else down_own_B) * (rows_B >= 0)
        down_BD, at_B = along_BD * factor_B[:, None], rows_B.clamp(min=0)
        dw_RD.index_add_(0, at_B, down_BD)
        if update is None:
            return dx_BD, dw_RD, *[None] * 5
        w_RD.index_add_(0, at_B, down_BD, alpha=-update.lr)
        return dx_BD, *[None] * 6


def _through_others(ctx: Any, down_B: Tensor) -> tuple[Tensor, Tensor | None]:
    """Sum of slopes times rows [B, D], and the weights' gradient through the other classes.

    With an update, the momentum after it instead of the gradient. `down_B` is the gradient of each sample's slopes.
    """
    x_BD, w_RD, rows_B, inverse_R, _, sum_BD, *kept = ctx.saved_tensors
    steps, update = ctx.steps, ctx.update
    late_x, needs_w = ctx.needs_input_grad[0] and not steps.early, ctx.needs_input_grad[1]
    if not late_x and not needs_w:
        return sum_BD, None
    whole, classes_B = _Pass(x_BD, w_RD, inverse_R, ctx.rule, ctx.compute), _classes(rows_B, ctx.rule)
    sum_BD, part_BD = sum_BD.clone(), torch.empty_like(x_BD)
    down_BD = x_BD * down_B[:, None]
    size = down_BD.abs().amax().clamp_(min=torch.finfo(down_BD.dtype).tiny)
    down_BD = down_BD.div_(size).to(ctx.compute)  # a half precision's small numbers lose digits
    dw_RD = None
    if update is not None:
        dw_RD = update.buffer = torch.zeros_like(w_RD) if update.buffer is None else update.buffer
        g_ND = w_RD.new_empty(whole.size, w_RD.shape[1])
    elif needs_w:
        dw_RD = torch.empty_like(w_RD, memory_format=torch.contiguous_format)
    for i, at in whole:
        rows_ND, z_BN = None, whole.room(whole.spare, at)
        if i < len(kept) and steps.early:
            z_BN = whole.room(kept[i], at)
        else:
            rows_ND = whole.rows(at, steps, measured=True)
            products_BN = whole.room(kept[i], at) if i < len(kept) else whole.products(rows_ND, z_BN)
            steps.slopes(products_BN, classes_B - i * whole.classes, z_BN)
        if late_x and rows_ND is not None:  # they are there where slopes are late
            sum_BD += _product(z_BN, rows_ND, part_BD)
        if dw_RD is not None:
            out_ND = dw_RD[at] if update is None else g_ND[: at.stop - at.start]
            step = None if update is None else (update, dw_RD[at])
            steps.finish(_product(z_BN.T, down_BD, out_ND), w_RD[at], rows_ND, inverse_R[at], size, step)
    return sum_BD, dw_RD


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a @ b; half precisions are summed in float32."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out.dtype, out=out)
    if a.dtype == torch.float16:  # it has no room for sums of scaled slopes
        return torch.mm(a.float(), b.float(), out=out)
    return out.copy_(torch.mm(a, b))


def _classes(rows_B: Tensor, rule: RowRule) -> Tensor:
    """Numbers of the own classes; negative for those of other ranks."""
    return rows_B.div(rule.subcenters, rounding_mode="floor")


def block_rows(samples: int, dim: int, compute: torch.dtype, device: torch.device) -> int:
    """Rows of a block: their products stay in the cache between the steps; on a GPU, within MEMORY."""
    if device.type != "cuda":
        return min(ROWS, max(ROWS // 4, ROWS * 256 // samples))
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    rows = min(cache // samples, MEMORY // (samples + dim)) // compute.itemsize
    return max(128, rows // 128 * 128)


@contextmanager
def _memory(x_BD: Tensor, w_RD: Tensor) -> Iterator[None]:
    """Let a lack of memory say what can be made smaller."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"memory for the gradients of {len(x_BD)} features and {len(w_RD)} rows of weights in {x_BD.shape[1]} "
            f"dimensions, and {MEMORY >> 20} MiB for a block of their products", "out of memory",
            "lower normface.ops.blockwise.MEMORY or the batch, or pass update=ops.FusedSGD(…): it stores no gradient",
        ) from error  # fmt: skip
