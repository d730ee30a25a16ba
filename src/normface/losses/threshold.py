"""A loss between samples with one threshold for all people, as verification needs one."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .. import dist, ops, theory
from ..errors import ConfigError
from ..ops import Impl
from ..ops.reference import l2_normalize, widened
from ..types import ClassShard
from . import LOSSES
from .steps import Stepwise
from .weights import check_classes


@LOSSES.register
class UnifiedThreshold(Stepwise):
    """UniTSFace's loss (Li et al. 2023, eq. 11): cosines of one person above a learned threshold, others below.

    Mean of log(1 + e^{b - s·(cos_y - m)}) + Σ_{j≠y} log(1 + e^{s·cos_j - b}) over the batch, with cosines to the last
    feature seen of each class, which the buffer `memory` [C, D] keeps without gradient. Classes not seen yet do not
    pull their samples, and their cosine to others is 0. The learned threshold of the cosine is b/s: `threshold`.

    The authors train with a softmax beside it: `Joint(terms=[{"name": "CosineSoftmax", "weight": 1, "scale": 64,
    "learn_scale": False, "margin": {"name": "CosFace", "cosine": 0.4}}, {"name": "UnifiedThreshold", "weight": 1}])`;
    in the first epoch with the softmax alone. The sum over classes is not divided by their number, so a small set wants
    a small weight.

    Args:
        num_classes, dim: of the memory.
        scale, margin: s and m, 64 and 0.1 as the authors.
        impl, shard: see `CosineSoftmax`.

    b is learned. It starts at the expected log Σ_j e^{s·cos_j} of random features (`theory.initial_loss`), where the
    authors' code starts by its first batch.

    Raises:
        ConfigError: fewer than 2 classes, dim < 2, a scale that is not positive, a negative margin.
    """

    memory: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        scale: float = 64.0,
        margin: float = 0.1,
        impl: Impl = "auto",
        shard: ClassShard | None = None,
    ) -> None:
        super().__init__()
        shard_size = check_classes(num_classes, dim, shard=shard)
        if dim < 2 or not 0 < scale < float("inf") or not 0 <= margin < float("inf"):
            raise ConfigError(
                "dim ≥ 2, a positive scale and margin ≥ 0", f"{dim}, {scale} and {margin}", "correct the arguments"
            )
        self.scale, self.margin, self.impl, self.shard = float(scale), float(margin), impl, shard
        self.bias = nn.Parameter(torch.tensor(theory.initial_loss(num_classes, scale, dim)))
        self.register_buffer("memory", torch.zeros(shard_size, dim))
        # Classes and features of a step, which enter the memory when it is over: the backward pass reads it as it was.
        self._new: list[tuple[Tensor, Tensor]] = []
        self.register_state_dict_pre_hook(_remember)  # type: ignore[no-untyped-call]
        if shard is not None:
            self.bias.register_hook(partial(dist.total, group=shard.group))  # type: ignore[no-untyped-call]

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        if self._at_start is None or not self.training:
            self.remember()
        value = ops.unified_threshold(
            features, self.memory, labels, scale=self.scale, bias=self.bias, margin=self.margin, impl=self.impl,
            shard=self.shard,
        ).mean()  # fmt: skip
        if self.training:
            self._new.append(self._latest(features.detach(), labels))
        return value

    @property
    def threshold(self) -> float:
        """The learned threshold of the cosine."""
        return self.bias.item() / self.scale

    def begin_step(self, progress: float) -> None:
        """Begin a step at a fraction of the run: the features of the last one enter the memory."""
        super().begin_step(progress)
        self.remember()

    def once_a_step(self) -> dict[str, Tensor]:
        """Return nothing: the memory changes between steps."""
        return {}

    @torch.no_grad()
    def remember(self) -> None:
        """Put the features of the last step into the memory; the next step does, and `state_dict`."""
        for classes, features in self._new:
            self.memory[classes] = features
        self._new = []

    def _latest(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of this rank's classes in a batch, the last unit feature of each."""
        if self.shard is not None:
            features, labels = dist.gather(features, self.shard.group), dist.gather(labels, self.shard.group)
            here = (labels >= self.shard.start) & (labels < self.shard.stop)
            features, labels = features[here], labels[here] - self.shard.start
        order = torch.arange(len(labels), device=labels.device)
        last = ((labels[:, None] == labels) * order).amax(1) == order if len(labels) else labels.bool()
        return labels[last], l2_normalize(widened(features[last])).to(self.memory.dtype)

    def extra_repr(self) -> str:
        return f"{self.memory.shape[0]}, {self.memory.shape[1]}, scale={self.scale}, margin={self.margin}"


def _remember(loss: UnifiedThreshold, *_: object) -> None:
    loss.remember()
