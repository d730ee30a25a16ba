"""Stateless tensor functions; each validates its arguments, then selects an implementation.

Shape suffixes: B batch, C classes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError, require
from ..types import ClassShard
from . import reference, softmax, threshold
from .agents import Agents, Dense, Streamed, c_contrastive, c_triplet
from .blockwise import Blockwise
from .head import Head
from .margin import Margin
from .reference import agent_distances, directed, l2_normalize, norms
from .sharded import Sharded
from .steps import COSINES, FusedSGD, RowRule

__all__ = [
    "FusedSGD", "Impl", "Margin", "adacos_scale", "before_agents", "c_contrastive", "c_triplet", "check",
    "cosine_cross_entropy", "l2_normalize", "norms", "unified_threshold",
]  # fmt: skip

if TYPE_CHECKING:
    from .triton import Kernels

Impl = Literal["auto", "reference", "blockwise", "triton"]
Reduction = Literal["mean", "none"]
BLOCKS_FROM = 2**20  # cosines: measured by `python -m benchmarks head`


def cosine_cross_entropy(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    *,
    scale: float | Tensor,
    margin: Margin | Callable[[Tensor], Margin] | None = None,
    normalize: reference.Normalize = "both",
    weights: reference.Weights = "soft",
    subcenters: int = 1,
    exclude_above: float | None = None,
    smoothing: float = 0.0,
    reduction: Reduction = "mean",
    impl: Impl | Kernels = "auto",
    update: FusedSGD | None = None,
    shard: ClassShard | None = None,
) -> Tensor:
    """Softmax cross-entropy over scaled cosines, averaged over the batch (eq. 6).

    Args:
        x: features [B, D], floating point, not normalized. Where they are, a zero feature has no direction and gets no
            gradient.
        w: class weights [C·subcenters, D], of the same dtype or float32, not normalized.
        y: labels [B], int64 in [0, C).
        scale: positive number, or a scalar tensor that receives a gradient.
        margin: on the own class's angle; or a function from the own classes' cosines [B] (without gradient) to a
            margin. With normalize="weights" the logits are ‖x‖·cos θ, the own one ‖x‖·ψ(θ) (SphereFace). With
            "features" and "none" there are no cosines, so a margin is not allowed.
        normalize: which sides to normalize: "both" gives cosines; "features", "weights" and "none" are the paper's
            baselines.
        weights: "soft": the gradient of w passes through the normalization (eq. 4); "hard": w receives ∂L/∂W̃
            unchanged.
        subcenters: K, weights per class in rows c·K … c·K + K - 1; the class's cosine is the largest of theirs
            (Deng et al. 2020).
        exclude_above: leave out other classes with a larger cosine, which may be the same person under another label.
            (insightface's filter sets their logit to 0, which still counts as e⁰.)
        smoothing: label smoothing ε: the target is 1 - ε on the own class and ε/C on each, of the logits as they are
            (with margin). Not with exclude_above.
        reduction: "mean" over the batch, or "none": one value per sample [B] (of the whole batch, if ranks share it).
        impl: "reference" is plain PyTorch and defines the result. "blockwise" never materializes [B, C]: products by
            blocks of classes, the rest by PyTorch's operators. "triton" is the same with Triton kernels for the rest,
            on NVIDIA GPUs, not in float64. "auto" selects "reference" for B·C below 2²⁰ (and under torch.compile, and
            with smoothing); above, "triton" on a GPU where it is installed, otherwise "blockwise".
        update: take a step of SGD with w in the backward pass instead of returning its gradient; by blocks.
        shard: the classes whose weights w holds, if ranks share them; x and y are then this rank's part of the batch,
            and the loss is that of the whole batch. Always by blocks.

    Returns:
        Scalar (or [B]), float32 or wider. Under autocast the matrix product runs in autocast's dtype (products of the
        kernels in float16 if normalize="both"); norms, own cosines under a margin, scale and softmax stay in float32.

    Raises:
        InputError: wrong shapes or dtypes, an empty batch, a label out of range (on a GPU the device asserts instead,
            so that nobody waits for it), an unknown name, out of memory.
        MissingDependency: Triton is not installed.
    """
    check(x, w, y, subcenters, shard)
    _among("normalize", normalize, reference.NORMALIZE)
    _among("weights", weights, reference.WEIGHTS)
    if not isinstance(impl, str):
        update = impl.update
        impl = "triton"
    _among("impl", impl, get_args(Impl))
    for name, given in (("margin", margin), ("exclude_above", exclude_above)):
        if given is not None and normalize not in ("both", "weights"):
            raise InputError(
                f'normalize="both" or "weights" with {name}', repr(normalize), f"change normalize, or leave {name} out"
            )
    if not isinstance(scale, Tensor) and not 0 < scale < float("inf"):
        raise InputError("a positive scale", str(scale), "correct scale")
    _among("reduction", reduction, get_args(Reduction))
    smooth = exclude_above is None and shard is None and impl in ("auto", "reference") and update is None
    if not 0 <= smoothing < 1 or (smoothing and not smooth):
        raise InputError(
            '0 ≤ smoothing < 1; above 0 with impl="auto" or "reference", without exclude_above, update and shard',
            str(smoothing), "set smoothing=0, or change the others",
        )  # fmt: skip
    if normalize in ("both", "features"):
        x = directed(x)
    if update is not None and impl == "reference":
        raise InputError('impl other than "reference" with update', repr(impl), 'set impl="blockwise"')
    if shard is None and update is None and (smoothing or _whole(impl, x, w)):
        return reference.cosine_cross_entropy(
            x, w, y, scale=scale, margin=margin, normalize=normalize, weights=weights, subcenters=subcenters,
            exclude_above=exclude_above, smoothing=smoothing, reduction=reduction,
        )  # fmt: skip
    rule = RowRule(subcenters, unit=normalize in ("both", "weights"), project=weights == "soft")
    head = _head(x, w, y, shard, rule, impl, update)
    value_B = softmax.cosine_cross_entropy(
        head, scale=scale, margin=margin, normalize=normalize, exclude_above=exclude_above
    )
    return value_B.mean() if reduction == "mean" else value_B


def adacos_scale(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    *,
    scale: Tensor,
    subcenters: int = 1,
    impl: Impl = "auto",
    shard: ClassShard | None = None,
) -> Tensor:
    """Next scale of AdaCos, log(B_avg)/cos(min(π/4, θ_med)); a scalar without gradient (Zhang et al. 2019).

    B_avg is the batch mean of Σ_{j≠y} exp(scale·cos θ_j) under the current scale, θ_med the median own angle.

    Args:
        x, w, y, subcenters, impl, shard: see `cosine_cross_entropy`.

    Raises:
        InputError: wrong shapes or dtypes, an empty batch, a label out of range.
    """
    check(x, w, y, subcenters, shard)
    if shard is None and _whole(impl, x, w):
        return reference.adacos_scale(x, w, y, scale=scale, subcenters=subcenters)
    return softmax.adacos_scale(_head(x, w, y, shard, RowRule(subcenters), impl), scale=scale)


def before_agents(
    x: Tensor, w: Tensor, y: Tensor, *, nearest: bool = False, impl: Impl = "auto", shard: ClassShard | None = None
) -> Agents:
    """Distances of features to all agents, as input of `c_contrastive` and `c_triplet`.

    Args:
        x, w, y, impl, shard: see `cosine_cross_entropy`. Distances are between unit vectors.
        nearest: set it if only the nearest negative will be needed; "auto" then never selects "reference".

    Raises:
        InputError: wrong shapes or dtypes, an empty batch, a label out of range, an unknown name.
    """
    check(x, w, y, shard=shard)
    _among("impl", impl, get_args(Impl))
    x = directed(x)
    streamed = nearest and not torch.compiler.is_compiling()
    if shard is None and (impl == "reference" or (not streamed and _whole(impl, x, w))):
        return Dense(agent_distances(x, w), y)
    return Streamed(_head(x, w, y, shard, impl=impl))


def unified_threshold(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    *,
    scale: float,
    bias: Tensor,
    margin: float = 0.0,
    impl: Impl = "auto",
    shard: ClassShard | None = None,
) -> Tensor:
    """One threshold for all cosines: log(1 + e^{b - s·(cos_y - m)}) + Σ_{j≠y} log(1 + e^{s·cos_j - b}), per sample [B].

    Li et al. 2023, "UniTSFace", eq. 11. The threshold is b/s: an own cosine above it by the margin costs little, as do
    other cosines below it.

    Args:
        x, w, y, impl, shard: see `cosine_cross_entropy`; w is one vector per class. A class whose vector is 0 is not
            known yet: its own samples are not pulled, and to others its cosine is 0.
        scale, margin: s and m.
        bias: b, a scalar tensor that receives a gradient.

    Raises:
        InputError: wrong shapes or dtypes, an empty batch, a label out of range, an unknown name.
    """
    check(x, w, y, shard=shard)
    _among("impl", impl, get_args(Impl))
    x = directed(x)
    if shard is None and _whole(impl, x, w):
        return reference.unified_threshold(x, w, y, scale=scale, bias=bias, margin=margin)
    return threshold.unified_threshold(_head(x, w, y, shard, impl=impl), scale=scale, bias=bias, margin=margin)


def _whole(impl: Impl, x: Tensor, w: Tensor) -> bool:
    small = len(x) * len(w) < BLOCKS_FROM or torch.compiler.is_compiling()
    return impl == "reference" or (impl == "auto" and small)


def _head(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    shard: ClassShard | None,
    rule: RowRule = COSINES,
    impl: Impl = "auto",
    update: FusedSGD | None = None,
) -> Head:
    """Return the head by blocks."""
    if impl == "auto":
        able = x.is_cuda and torch.float64 not in (x.dtype, w.dtype) and find_spec("triton") is not None
        impl = "triton" if able else "blockwise"
    if impl == "triton":
        require("triton", "gpu")
        from .triton import check_device

        check_device(x)
    products = Blockwise(impl == "triton", update)
    return Head(x, w, y, rule, products) if shard is None else Sharded(x, w, y, shard, rule, products)


def _among(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise InputError(f"{name} among {', '.join(legal)}", repr(value), "choose one of them")


def check(x: Tensor, w: Tensor, y: Tensor, subcenters: int = 1, shard: ClassShard | None = None) -> None:
    """Raise InputError unless features [B, D], class weights [C·subcenters, D] and labels [B] fit together; B ≥ 1."""
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1] or y.shape != x.shape[:1]:
        raise InputError(
            "features [B, D], weights [C, D] and labels [B]",
            f"{list(x.shape)}, {list(w.shape)} and {list(y.shape)}", "make their B and D agree",
        )  # fmt: skip
    if not (x.is_floating_point() and w.is_floating_point()) or y.dtype != torch.int64:
        raise InputError(
            "floating-point features and weights, int64 labels",
            f"{x.dtype}, {w.dtype} and {y.dtype}",
            "convert features and weights with .float(), labels with .long()",
        )
    if not x.device == w.device == y.device:
        raise InputError("tensors on one device", f"{x.device}, {w.device} and {y.device}", "move them to one device")
    if subcenters < 1 or len(w) % subcenters:
        raise InputError(
            "rows of weights that are a multiple of subcenters, and subcenters ≥ 1",
            f"{len(w)} rows with subcenters={subcenters}", "correct subcenters or the weights",
        )  # fmt: skip
    if not len(y):
        raise InputError("at least one sample", "an empty batch", "skip empty batches")
    _check_labels(y, shard.total if shard else len(w) // subcenters)


def _check_labels(y: Tensor, classes: int) -> None:
    """Raise InputError for a label out of range; on a GPU and in compiled code the device asserts, without waiting."""
    if torch._C._functorch.maybe_current_level() is not None:  # within vmap there are no values to look at
        return
    if y.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(((y >= 0) & (y < classes)).all(), f"labels in [0, {classes})")
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels in [0, {classes})",
            f"[{low}, {high}]",
            "number the classes from 0, or increase num_classes",
        )
