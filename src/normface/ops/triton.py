"""Triton kernels for the head on NVIDIA GPUs: products, lengths of the weights, softmax and its gradient, tile by tile.

They do what `blockwise_products` does for `LogSumExp`, without writing tiles to memory in the forward pass. The
backward pass recomputes one block of classes at a time; its slopes, the softmax over the weights' lengths, stay in the
L2 cache for the two products that need them. One program sums each number in a fixed order: results repeat exactly.
Shapes as in `blockwise`; N classes of a block, S parts that a sum is split in.

The kernels are tested in Triton's interpreter (TRITON_INTERPRET=1, tensors on CPUs). Their speed is not measured yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from . import blockwise
from .once import once_differentiable
from .products import RowRule, scaled_rows
from .reductions import LogSumExp, Reduce
from .reference import EPS

INTERPRETED = triton.knobs.runtime.interpret
WIDEN = tl.constexpr(INTERPRETED)
BLOCK = 8192  # classes of a backward block: with 1024 samples in bfloat16 16 MiB of slopes
PARTS = 4  # of the features' gradient, and (at least) of the forward pass: they keep all of a GPU's processors at work
FORWARD_PARTS = 32
KINDS = (torch.float32, torch.bfloat16, torch.float16)


def _configs(*sizes: tuple[int, int, int, int, int]) -> list[triton.Config]:
    """Tile sizes M, N, K, warps and stages to choose from by measurement, once for each shape."""
    if INTERPRETED:
        sizes = ((16, 16, 16, 4, 1),)
    return [triton.Config({"M": m, "N": n, "K": k}, num_warps=w, num_stages=s) for m, n, k, w, s in sizes]


SIZES = ((128, 128, 64, 8, 3), (128, 256, 64, 8, 3), (64, 128, 64, 4, 4), (128, 128, 32, 4, 4))


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr):
    """total + a·b in float32. The interpreter multiplies bfloat16 bitwise, so there numbers are widened first."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _products(x, w, xm, wn, m, n, B, R, D, K: tl.constexpr, M: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr):
    """x·w [M, N] and the squared lengths of w [N], in float32."""
    z = tl.zeros((M, N), tl.float32)
    squares = tl.zeros((N,), tl.float32)
    k = tl.arange(0, K)
    for at in range(0, D, K):
        x_MK = tl.load(x + m[:, None] * xm + (at + k)[None], (m[:, None] < B) & ((at + k)[None] < D), 0.0)
        w_NK = tl.load(w + n[:, None] * wn + (at + k)[None], (n[:, None] < R) & ((at + k)[None] < D), 0.0)
        wide = w_NK.to(tl.float32)
        squares += tl.sum(wide * wide, 1)
        z = _dot(x_MK, tl.trans(w_NK.to(x_MK.dtype)), z, PRECISION)
    return z, squares


@triton.autotune(_configs(*SIZES), ["B", "D"])
@triton.jit
def _forward(
    x, w, own, tops, totals, inverses, xm, wn, B, R, D, PER, eps,
    UNIT: tl.constexpr, PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Largest logit and Σ exp(logit - largest) of other classes, of rows [part·PER, …); 1/lengths of the rows."""
    m, part = tl.program_id(0) * M + tl.arange(0, M), tl.program_id(1)
    own_M = tl.load(own + m, m < B, -1)
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    last = tl.minimum((part + 1) * PER, R)
    for at in range(part * PER, last, N):
        n = (at + tl.arange(0, N)).to(tl.int64)
        z, squares = _products(x, w, xm, wn, m, n, B, R, D, K, M, N, PRECISION)
        if UNIT:
            inverse = tl.rsqrt(squares + eps)
            z *= inverse[None]
            if tl.program_id(0) == 0:
                tl.store(inverses + n, inverse, n < last)
        z = tl.where((n[None] == own_M[:, None]) | (n[None] >= last), float("-inf"), z)
        higher = tl.maximum(top, tl.max(z, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(z - base[:, None]), 1)
        top = higher
    tl.store(tops + part * B + m, top, m < B)
    tl.store(totals + part * B + m, total, m < B)


@triton.autotune(_configs(*SIZES), ["B", "D"])
@triton.jit
def _slopes(
    x, w, own, value, down, inverses, slopes, pull, xm, wn, B, R, D, START, STOP, skip_below,
    UNIT: tl.constexpr, SKIP: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Softmax of other classes over the weights' lengths [N, B], and Σ_i of its gradient times the logit [N]."""
    n = (START + tl.program_id(0) * N + tl.arange(0, N)).to(tl.int64)
    inverse = tl.load(inverses + n, n < STOP, 0.0) if UNIT else tl.full((N,), 1.0, tl.float32)
    pulled = tl.zeros((N,), tl.float32)
    for at in range(0, B, M):
        m = at + tl.arange(0, M)
        z, _ = _products(x, w, xm, wn, m, n, B, R, D, K, M, N, PRECISION)
        z *= inverse[None]
        other = (n[None] != tl.load(own + m, m < B, -1)[:, None]) & (n[None] < STOP) & (m[:, None] < B)
        p = tl.where(other, tl.exp(z - tl.load(value + m, m < B, 0.0)[:, None]), 0.0)
        if SKIP:
            p = tl.where(tl.max(p) < skip_below, 0.0, p)
        pulled += tl.sum(p * z * tl.load(down + m, m < B, 0.0)[:, None], 0)
        place = (n - START)[None] * B + m[:, None]
        tl.store(slopes + place, (p * inverse[None]).to(slopes.dtype.element_ty), (n[None] < STOP) & (m[:, None] < B))
    tl.store(pull + n - START, pulled, n < STOP)


@triton.autotune(_configs(*SIZES), ["B", "D"], restore_value=["out"])
@triton.jit
def _features(
    slopes, w, out, wn, B, D, START, STOP, PER,
    SKIP: tl.constexpr, PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Add to `out` [S, B, D] this block's slopes times w, each part over PER of its classes."""
    m, d = tl.program_id(0) * M + tl.arange(0, M), tl.program_id(1) * N + tl.arange(0, N)
    part = tl.program_id(2)
    here = (m[:, None] < B) & (d[None] < D)
    place = part.to(tl.int64) * B * D + m[:, None] * D + d[None]
    total = tl.load(out + place, here, 0.0)
    last = tl.minimum(START + (part + 1) * PER, STOP)
    for at in range(START + part * PER, last, K):
        n = (at + tl.arange(0, K)).to(tl.int64)
        s = tl.load(slopes + (n - START)[None] * B + m[:, None], (n[None] < last) & (m[:, None] < B), 0.0)
        if not SKIP or tl.max(s.to(tl.float32)) > 0:
            w_KN = tl.load(w + n[:, None] * wn + d[None], (n[:, None] < last) & (d[None] < D), 0.0)
            total = _dot(s, w_KN.to(s.dtype), total, PRECISION)
    tl.store(out + place, total, here)


@triton.autotune(_configs(*SIZES), ["B", "D"], restore_value=["w", "out"])
@triton.jit
def _weights(
    slopes, x, w, out, inverses, pull, wn, B, D, START, STOP, rate, momentum, decay,
    UNIT: tl.constexpr, PROJECT: tl.constexpr, UPDATE: tl.constexpr, SKIP: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The gradient of the block's weights into `out`; or, with it, `out` is the momentum and w takes a step."""
    n, d = (START + tl.program_id(0) * M + tl.arange(0, M)).to(tl.int64), tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros((M, N), tl.float32)
    for at in range(0, B, K):
        k = at + tl.arange(0, K)
        s = tl.load(slopes + (n - START)[:, None] * B + k[None], (n[:, None] < STOP) & (k[None] < B), 0.0)
        if not SKIP or tl.max(s.to(tl.float32)) > 0:
            x_KN = tl.load(x + k[:, None] * D + d[None], (k[:, None] < B) & (d[None] < D), 0.0)
            total = _dot(s, x_KN, total, PRECISION)
    here = (n[:, None] < STOP) & (d[None] < D)
    w_MN = tl.load(w + n[:, None] * wn + d[None], here, 0.0).to(tl.float32)
    if UNIT:
        inverse = tl.load(inverses + n, n < STOP, 1.0)
        if PROJECT:
            total -= w_MN * (tl.load(pull + n - START, n < STOP, 0.0) * inverse * inverse)[:, None]
        else:
            total /= inverse[:, None]
    place = n[:, None] * D + d[None]
    if UPDATE:
        total += decay * w_MN + momentum * tl.load(out + place, here, 0.0)
        tl.store(w + n[:, None] * wn + d[None], w_MN - rate * total, here)
    tl.store(out + place, total.to(out.dtype.element_ty), here)


@dataclass
class FusedSGD:
    """SGD step of the class weights fused with the computation of their gradient, which is never stored.

    The rule is that of torch.optim.SGD without dampening and Nesterov: v ← momentum·v + gradient + weight_decay·w;
    w ← w - lr·v. The weights' `grad` stays None, so an optimizer that also holds them does not change them. One
    backward pass is one step; the loss must not use the weights otherwise.

        update = FusedSGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
        loss = ops.cosine_cross_entropy(x, w, y, scale=30.0, impl=Kernels(update=update))
        loss.backward()  # w and update.buffer have changed

    Attributes:
        buffer: v [C, D], initially zeros; save it in checkpoints.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    buffer: Tensor | None = None


@dataclass(frozen=True)
class Kernels:
    """Options of the kernels, for `ops.cosine_cross_entropy(impl=…)`; impl="triton" is `Kernels()`.

    Attributes:
        skip_below: skip tiles in the gradients whose softmax values are all smaller. 2⁻²⁴ is the precision of float32
            next to 1; the error of a feature's gradient is below this value times the number of classes.
        update: update the class weights in the backward pass.
    """

    skip_below: float = 0.0
    update: FusedSGD | None = None

    def check(self, x: Tensor, w: Tensor, subcenters: int) -> None:
        """Raise InputError if the kernels do not support these features [B, D] and class weights [C, D]."""
        if not (INTERPRETED or x.is_cuda):
            raise InputError('tensors on a GPU for impl="triton"', str(x.device), 'use impl="auto"')
        if x.dtype not in KINDS or subcenters > 1:
            raise InputError(
                'float32, bfloat16 or float16 and no sub-centers for impl="triton"',
                f"{x.dtype} and {subcenters}", 'use impl="blockwise"',
            )  # fmt: skip
        if self.update is not None and not (w.dtype == torch.float32 and w.is_leaf and w.is_contiguous()):
            raise InputError(
                "a parameter in float32, contiguous, for FusedSGD", f"{w.dtype}, leaf: {w.is_leaf}",
                "pass the parameter itself to the loss",
            )  # fmt: skip

    def __call__(
        self, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, reduce: Reduce, rule: RowRule, compute: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """See `products.Products`. The kernels support a plain LogSumExp; other reductions run blockwise.

        Raises InputError if that would skip the update of the weights.
        """
        if isinstance(reduce, LogSumExp) and reduce.others is None:
            return _Kernels.apply(x_BD, w_RD, rows_B, reduce, rule, compute, self)  # type: ignore[no-any-return]
        if self.update is not None:
            raise InputError("no curriculum and no exclude_above with FusedSGD", "one of them", "drop it, or FusedSGD")
        return blockwise.blockwise_products(x_BD, w_RD, rows_B, reduce, rule, compute)


class _Kernels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, reduce: LogSumExp, rule: RowRule, compute: torch.dtype,
        kernels: Kernels,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        w_RD = w_RD if w_RD.stride(1) == 1 else w_RD.contiguous()
        x_compute = x_BD.to(compute).contiguous()
        (batch, dim), rows = x_BD.shape, len(w_RD)
        inverse_R = x_BD.new_ones(rows)
        tops, totals = x_BD.new_empty(2, FORWARD_PARTS, batch)
        per = triton.cdiv(rows, FORWARD_PARTS)
        _forward[lambda meta: (triton.cdiv(batch, meta["M"]), FORWARD_PARTS)](
            x_compute, w_RD, rows_B, tops, totals, inverse_R, dim, w_RD.stride(0), batch, rows, dim, per, EPS,
            UNIT=rule.unit, PRECISION=_precision(),
        )  # fmt: skip
        own_B = (x_BD * scaled_rows(w_RD, inverse_R, rows_B)).sum(1)
        reduce.value = (tops + totals.log()).logsumexp(0)
        ctx.save_for_backward(x_BD, w_RD, rows_B, inverse_R, own_B, reduce.value)
        ctx.rule, ctx.compute, ctx.kernels = rule, compute, kernels
        return own_B, reduce.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        down_own_B, down_B = (down.contiguous() for down in gradients)
        x_BD, w_RD, rows_B, inverse_R, own_B, value_B = ctx.saved_tensors
        rule, compute, update = ctx.rule, ctx.compute, ctx.kernels.update
        project, skip = rule.unit and rule.project, ctx.kernels.skip_below
        (batch, dim), rows = x_BD.shape, len(w_RD)
        x_compute, down_x = x_BD.to(compute).contiguous(), (x_BD * down_B[:, None]).to(compute).contiguous()
        slopes = x_BD.new_empty(min(BLOCK, rows), batch, dtype=compute)
        pull_N = x_BD.new_empty(len(slopes))
        dx_SBD = x_BD.new_zeros(PARTS, batch, dim)
        own_BD = scaled_rows(w_RD, inverse_R, rows_B)
        if update is None:
            out = torch.empty_like(w_RD, memory_format=torch.contiguous_format)
        else:
            if update.buffer is None:
                update.buffer = torch.zeros_like(w_RD)
            out = update.buffer
        step = (update.lr, update.momentum, update.weight_decay) if update else (0.0, 0.0, 0.0)
        same: dict[str, Any] = {"SKIP": skip > 0, "PRECISION": _precision()}
        for start, stop in _blocks(rows):
            size, per = stop - start, triton.cdiv(stop - start, PARTS)
            _slopes[lambda meta, size=size: (triton.cdiv(size, meta["N"]),)](
                x_compute, w_RD, rows_B, value_B, down_B, inverse_R, slopes, pull_N, dim, w_RD.stride(0), batch, rows,
                dim, start, stop, skip, UNIT=rule.unit, **same,
            )  # fmt: skip
            _features[lambda meta: (triton.cdiv(batch, meta["M"]), triton.cdiv(dim, meta["N"]), PARTS)](
                slopes, w_RD, dx_SBD, w_RD.stride(0), batch, dim, start, stop, per, **same
            )
            _weights[lambda meta, size=size: (triton.cdiv(size, meta["M"]), triton.cdiv(dim, meta["N"]))](
                slopes, down_x, w_RD, out, inverse_R, pull_N, w_RD.stride(0), batch, dim, start, stop, *step,
                UNIT=rule.unit, PROJECT=project, UPDATE=update is not None, **same,
            )  # fmt: skip
        dx_BD = dx_SBD.sum(0).mul_(down_B[:, None]).addcmul_(own_BD, down_own_B[:, None])
        along_BD = x_BD - own_B[:, None] * own_BD if project else x_BD
        factor_B = down_own_B * inverse_R[rows_B] if project else down_own_B
        here_B = rows_B >= 0
        own_rows, down_own = rows_B[here_B], (along_BD * factor_B[:, None])[here_B]
        out.index_add_(0, own_rows, down_own.to(out.dtype))
        if update is None:
            return dx_BD, out, None, None, None, None, None
        w_RD.index_add_(0, own_rows, down_own, alpha=-update.lr)
        return dx_BD, None, None, None, None, None, None


def _blocks(rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))


def _precision() -> str:
    """Return the precision of float32 products, following torch's setting."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
