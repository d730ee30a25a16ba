"""Triton kernels for the steps beside the products on NVIDIA GPUs: each reads and writes a block once.

They do what `steps.Plain` does. Every number is computed in float32, by one program in a fixed order, so results
repeat exactly. Slopes of the softmax are multiplied by a power of two: in float16 the probability of one class among
millions would be no normal number.
B batch, C classes of a block, K sub-centers of each, N = C·K rows, D dimensions, L classes that a program does at once.

Tests run them in Triton's interpreter (TRITON_INTERPRET=1, tensors on CPUs), and compile them for GPUs that are absent.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from .reductions import REACH, Hinge, LogSumExp, Reduce
from .reference import EPS
from .steps import FusedSGD as FusedSGD
from .steps import Plain, RowRule, Update

INTERPRETED = triton.knobs.runtime.interpret
SCALE, SCALE_WITH_CURRICULUM = 2.0**15, 2.0**12  # of slopes: float16 ends at 2¹⁶; a curriculum multiplies by t + 2·cos
COLUMNS = 2048  # L
TILE = 2048  # numbers of rows that a program does at once
PROGRAMS = 1024  # keep all of a GPU's processors at work
LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def _rows(w, out, inverse, wn, wd, N, D, eps, R: tl.constexpr, T: tl.constexpr):
    """Rows of w over their lengths, and 1/lengths."""
    n, t = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64), tl.arange(0, T)
    squares = tl.zeros((R,), tl.float32)
    for at in range(0, D, T):
        here = (n[:, None] < N) & ((at + t)[None] < D)
        a = tl.load(w + n[:, None] * wn + (at + t)[None] * wd, here, 0.0)
        squares += tl.sum(a * a, 1)
    factor = tl.rsqrt(squares + eps)
    tl.store(inverse + n, factor, n < N)
    for at in range(0, D, T):
        here = (n[:, None] < N) & ((at + t)[None] < D)
        a = tl.load(w + n[:, None] * wn + (at + t)[None] * wd, here, 0.0)
        tl.store(out + n[:, None] * D + (at + t)[None], (a * factor[:, None]).to(out.dtype.element_ty), here)


@triton.jit
def _largest(z, c, C, K: tl.constexpr):
    """Products of classes c [L], of sub-centers the largest, and which one that is."""
    best, place = tl.load(z + c * K, c < C, 0.0).to(tl.float32), tl.zeros(c.shape, tl.int32)
    for k in tl.static_range(1, K):
        row = tl.load(z + c * K + k, c < C, 0.0).to(tl.float32)
        higher = (row > best) | (row != row)  # NaN comes through
        best, place = tl.where(higher, row, best), tl.where(higher, k, place)
    return best, place


@triton.jit
def _value(z, scale, own, t, above, CURRICULUM: tl.constexpr, EXCLUDE: tl.constexpr):
    """`reductions.Rule`: values of logits z, and their derivatives by z."""
    value, change = z, tl.full(z.shape, 1.0, tl.float32)
    if CURRICULUM or EXCLUDE:
        cosine = z / scale
    if CURRICULUM:
        hard = cosine > own
        value, change = tl.where(hard, z * (t + cosine), z), tl.where(hard, t + 2 * cosine, 1.0)
    if EXCLUDE:
        value = tl.where(cosine > above, float("-inf"), value)
    return value, change


@triton.jit
def _take_softmax(
    z, own, state, bound, reach, scale, own_value, t, above, B, C,
    CURRICULUM: tl.constexpr, EXCLUDE: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Largest value, Σ exp(v - largest) and Σ v·exp(v - largest) of other classes: added to the `state` of each part.

    No largest value is needed, and 0 takes its place, where |v| is bounded.
    """
    b, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    state += part * B + b
    first = tl.arange(0, L) == 0
    top = tl.load(state)
    total = tl.where(first, tl.load(state + parts * B), 0.0)
    moment = tl.where(first, tl.load(state + 2 * parts * B), 0.0)
    s, mine, lift = tl.load(scale + b), tl.load(own_value + b), tl.load(t)
    unbounded = tl.load(bound + b) > reach
    own_b = tl.load(own + b)
    for at in range(part * L, C, parts * L):
        c = at + tl.arange(0, L)
        logit, _ = _largest(z + b.to(tl.int64) * C * K, c, C, K)
        value, _ = _value(logit, s, mine, lift, above, CURRICULUM, EXCLUDE)
        value = tl.where((c < C) & (c != own_b), value, float("-inf"))
        if unbounded:
            higher = tl.maximum(top, tl.max(value, 0))
            fading = tl.where(higher == float("-inf"), 1.0, tl.exp2((top - higher) * LOG2E))
            total *= fading
            moment *= fading
            top = higher
        e = tl.exp2((value - tl.where(top == float("-inf"), 0.0, top)) * LOG2E)
        total += e
        if CURRICULUM or EXCLUDE:
            moment += tl.where(value == float("-inf"), 0.0, e * value)
    tl.store(state, top)
    tl.store(state + parts * B, tl.sum(total, 0))
    tl.store(state + 2 * parts * B, tl.sum(moment, 0))


@triton.jit
def _slopes_softmax(
    z, out, own, shift, scale, own_value, t, above, C,
    CURRICULUM: tl.constexpr, EXCLUDE: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """exp(v - shift)·dv/dz of other classes; of the rows of a class only that with the largest product has it."""
    b, c = tl.program_id(0), tl.program_id(1) * L + tl.arange(0, L)
    logit, place = _largest(z + b.to(tl.int64) * C * K, c, C, K)
    value, change = _value(logit, tl.load(scale + b), tl.load(own_value + b), tl.load(t), above, CURRICULUM, EXCLUDE)
    slope = tl.exp2((value - tl.load(shift + b)) * LOG2E) * change
    slope = tl.where(c != tl.load(own + b), slope, 0.0)
    out += b.to(tl.int64) * C * K
    for k in tl.static_range(K):
        tl.store(out + c * K + k, tl.where(place == k, slope, 0.0).to(out.dtype.element_ty), c < C)


@triton.jit
def _active(z, own, level, b, c, C, EXPONENTIAL: tl.constexpr):
    """Distances of classes c, and weights: 1 or exp(-d) where d < level, otherwise 0."""
    d = 2 - 2 * tl.load(z + b.to(tl.int64) * C + c, c < C, 0.0).to(tl.float32)
    active = (c < C) & (c != tl.load(own + b)) & (d < tl.load(level + b))
    return d, tl.where(active, tl.exp2(-d * LOG2E) if EXPONENTIAL else 1.0, 0.0)


@triton.jit
def _take_hinge(z, own, state, level, B, C, EXPONENTIAL: tl.constexpr, L: tl.constexpr):
    """Costs and weights of active negatives: added to the `state` of each part."""
    b, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    total, weights = tl.zeros((L,), tl.float32), tl.zeros((L,), tl.float32)
    for at in range(part * L, C, parts * L):
        d, weight = _active(z, own, level, b, at + tl.arange(0, L), C, EXPONENTIAL)
        weights += weight
        total += weight if EXPONENTIAL else weight * (tl.load(level + b) - d)
    state += part * B + b
    tl.store(state, tl.load(state) + tl.sum(total, 0))
    tl.store(state + parts * B, tl.load(state + parts * B) + tl.sum(weights, 0))


@triton.jit
def _slopes_hinge(z, out, own, level, C, EXPONENTIAL: tl.constexpr, L: tl.constexpr):
    """Twice the weights."""
    b, c = tl.program_id(0), tl.program_id(1) * L + tl.arange(0, L)
    _, weight = _active(z, own, level, b, c, C, EXPONENTIAL)
    tl.store(out + b.to(tl.int64) * C + c, (2 * weight).to(out.dtype.element_ty), c < C)


@triton.jit
def _finish(
    g, u, inverse, size, w, v, N, D, rate, momentum, decay,
    PROJECT: tl.constexpr, UPDATE: tl.constexpr, R: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """(g - u⟨g, u⟩)·size/length, or g·size, in place; or with it a step of SGD: v is the momentum."""
    n, t = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64), tl.arange(0, T)
    along, factor = tl.zeros((R,), tl.float32), tl.load(size) + tl.zeros((R,), tl.float32)
    if PROJECT:
        factor *= tl.load(inverse + n, n < N, 0.0)
        for at in range(0, D, T):
            place, here = n[:, None] * D + (at + t)[None], (n[:, None] < N) & ((at + t)[None] < D)
            along += tl.sum(tl.load(g + place, here, 0.0) * tl.load(u + place, here, 0.0).to(tl.float32), 1)
    for at in range(0, D, T):
        place, here = n[:, None] * D + (at + t)[None], (n[:, None] < N) & ((at + t)[None] < D)
        total = tl.load(g + place, here, 0.0)
        if PROJECT:
            total -= tl.load(u + place, here, 0.0).to(tl.float32) * along[:, None]
        total *= factor[:, None]
        if UPDATE:
            a = tl.load(w + place, here, 0.0)
            total += decay * a + momentum * tl.load(v + place, here, 0.0)
            tl.store(w + place, a - rate * total, here)
            tl.store(v + place, total, here)
        else:
            tl.store(g + place, total, here)


def steps(reduce: Reduce, rule: RowRule, compute: torch.dtype) -> Fused:
    """Return the steps of a reduction."""
    kind: Any = Softmax if isinstance(reduce, LogSumExp) else FusedHinge if isinstance(reduce, Hinge) else Fused
    found: Fused = kind(reduce, rule, compute)
    return found


class Fused(Plain):
    """Rows and their gradients by kernels; a reduction that has no kernel (`Nearest`, `SoftplusSum`) as in `Plain`."""

    keeps = False

    def rows(self, w_ND: Tensor, inverse_N: Tensor, out_ND: Tensor, *, measured: bool) -> None:
        """Normalize and round a block's rows."""
        if not self.rule.unit:
            out_ND.copy_(w_ND)
            return
        (n, d), tile = w_ND.shape, _tile(w_ND)
        _rows[triton.cdiv(n, tile["R"]),](w_ND, out_ND, inverse_N, *w_ND.stride(), n, d, EPS, **tile)

    def finish(
        self, g_ND: Tensor, w_ND: Tensor, u_ND: Tensor | None, inverse_N: Tensor, size: Tensor, update: Update | None
    ) -> None:
        """Turn the gradient of normalized rows into that of the weights, or into a step."""
        (n, d), tile = g_ND.shape, _tile(g_ND)
        sgd, v_ND = update or (FusedSGD(0.0), g_ND)
        _finish[triton.cdiv(n, tile["R"]),](
            g_ND, u_ND, inverse_N, size, w_ND, v_ND, n, d, float(sgd.lr), float(sgd.momentum), float(sgd.weight_decay),
            PROJECT=self.rule.unit and self.rule.project, UPDATE=update is not None, **tile,
        )  # fmt: skip


class Softmax(Fused):
    """`LogSumExp` by kernels."""

    def __init__(self, reduce: LogSumExp, rule: RowRule, compute: torch.dtype) -> None:
        super().__init__(reduce, rule, compute)
        like_B, others = reduce.total, reduce.rule
        self.softmax, self.early = reduce, False
        self.bound_B = torch.full_like(like_B, torch.inf) if reduce.bound_B is None else reduce.bound_B.contiguous()
        self.state_SPB = _state(like_B)
        self.state_SPB[0] = torch.where(self.bound_B <= REACH, 0.0, -torch.inf)
        curriculum, above = (None, None) if others is None else (others.curriculum, others.exclude_above)
        self.scale = SCALE if curriculum is None else SCALE_WITH_CURRICULUM
        self.others = (
            like_B if others is None else others.scale_B.contiguous(),
            like_B if others is None else others.own_B.contiguous(),
            like_B if curriculum is None else curriculum,
            0.0 if above is None else float(above),
        )
        self.kinds = {"CURRICULUM": curriculum is not None, "EXCLUDE": above is not None, "K": rule.subcenters}

    def take(self, z_BN: Tensor, own_B: Tensor, out_BN: Tensor) -> None:
        """Reduce a block's products."""
        samples, classes = len(z_BN), z_BN.shape[1] // self.rule.subcenters
        _take_softmax[samples, self.state_SPB.shape[1]](
            z_BN, own_B, self.state_SPB, self.bound_B, REACH, *self.others, samples, classes, **self.kinds, L=COLUMNS
        )

    def result(self) -> Tensor:
        """Return the reduction [B]."""
        top_PB, total_PB, moment_PB = self.state_SPB
        value_B: Tensor = (top_PB + total_PB.log()).logsumexp(0)
        none_B = value_B == -torch.inf
        self.shift_B = value_B.masked_fill(none_B, 0) - math.log(self.scale)
        mean_B = (moment_PB * (top_PB - value_B).exp()).sum(0).masked_fill(none_B, 0)
        self.softmax.value, self.softmax.mean = value_B, mean_B
        return value_B

    def slopes(self, z_BN: Tensor, own_B: Tensor, out_BN: Tensor) -> None:
        """Write the slopes of a block's products."""
        samples, classes = len(z_BN), z_BN.shape[1] // self.rule.subcenters
        _slopes_softmax[samples, triton.cdiv(classes, COLUMNS)](
            z_BN, out_BN, own_B, self.shift_B, *self.others, classes, **self.kinds, L=COLUMNS
        )

    def factor(self) -> Tensor:
        """Return the factor [B] of the slopes."""
        return torch.full_like(self.shift_B, 1 / self.scale)


class FusedHinge(Fused):
    """`Hinge` by kernels."""

    def __init__(self, reduce: Hinge, rule: RowRule, compute: torch.dtype) -> None:
        super().__init__(reduce, rule, compute)
        self.hinge, self.early = reduce, False
        self.level_B, self.state_SPB = reduce.level_B.contiguous(), _state(reduce.total)

    def take(self, z_BN: Tensor, own_B: Tensor, out_BN: Tensor) -> None:
        """Reduce a block's products."""
        _take_hinge[len(z_BN), self.state_SPB.shape[1]](
            z_BN, own_B, self.state_SPB, self.level_B, *z_BN.shape, EXPONENTIAL=self.hinge.exponential, L=COLUMNS
        )

    def result(self) -> Tensor:
        """Return the reduction [B]."""
        total_B: Tensor = self.state_SPB[0].sum(0)
        self.hinge.total, self.hinge.weights = total_B, self.state_SPB[1].sum(0)
        return total_B

    def slopes(self, z_BN: Tensor, own_B: Tensor, out_BN: Tensor) -> None:
        """Write the slopes of a block's products."""
        samples, classes = z_BN.shape
        _slopes_hinge[samples, triton.cdiv(classes, COLUMNS)](
            z_BN, out_BN, own_B, self.level_B, classes, EXPONENTIAL=self.hinge.exponential, L=COLUMNS
        )


def _state(like_B: Tensor) -> Tensor:
    """Three numbers of each sample, for each part P of the classes, which different programs add up."""
    return like_B.new_zeros(3, min(64, triton.cdiv(PROGRAMS, len(like_B))), len(like_B))


def _tile(w_ND: Tensor) -> dict[str, int]:
    """Rows, and numbers of a row, that a program does at once."""
    width = min(TILE, triton.next_power_of_2(w_ND.shape[1]))
    return {"R": TILE // width, "T": width}


def check_device(x: Tensor) -> None:
    """Raise InputError unless the kernels can do with these features."""
    if not (INTERPRETED or x.is_cuda):
        raise InputError('tensors on a GPU for impl="triton"', str(x.device), 'use impl="auto"')
    if x.dtype == torch.float64:
        raise InputError('float32, bfloat16 or float16 for impl="triton"', "float64", 'use impl="blockwise"')


@dataclass(frozen=True)
class Kernels:
    """Deprecated: pass `impl="triton"` and `update` to `ops.cosine_cross_entropy`. `skip_below` has no effect."""

    skip_below: float = 0.0
    update: FusedSGD | None = None

    def __post_init__(self) -> None:
        warnings.warn(
            'Kernels: pass impl="triton" and update to ops.cosine_cross_entropy', DeprecationWarning, stacklevel=3
        )
