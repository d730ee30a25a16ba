"""How a network meets its teachers: a loss of its features [b, D] and the teachers' unit embeddings, each [b, Dₜ].

Notation: f are the features of an image, uₜ the unit embedding of teacher t of T, cos the cosine. A head is an isometry
W [Dₜ, D], WᵀW = 1 (or WWᵀ = 1 where D > Dₜ): lengths and cosines of Wf are those of f, so that the features themselves
are compared as the teachers' embeddings are, and the heads can be dropped after training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from ..errors import ModelError
from ..ops import l2_normalize
from ..ops.reference import directed


class Matching(nn.Module):
    """Base class; `forward(features, targets)` returns the loss of each image, and its cosine to the teachers [b].

    Args:
        dim: of the features.
        dims: of the teachers.

    Raises:
        ModelError: dimensions that do not fit.
    """

    def __init__(self, dim: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.dims = dim, tuple(dims)


class Features(Matching):
    """The features themselves meet one teacher: 1 - cos(f, u)."""

    def __init__(self, dim: int, dims: Sequence[int]) -> None:
        super().__init__(dim, dims)
        if (dim,) != self.dims:
            raise ModelError(
                f"a network with the teacher's {dims[0]} dimensions", f"{dim}",
                f"set model.options.dim={dims[0]}, or distill.match=heads",
            )  # fmt: skip

    def forward(self, features: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        cos = _cos(features, targets[0])
        return 1 - cos, cos


class Concatenate(Matching):
    """One head for all teachers, side by side: 1 - cos(W f, [u₁, …, u_T] / √T).

    At its minimum cos(f, g) is the mean of the teachers' cosines, as far as D dimensions can hold it.
    """

    def __init__(self, dim: int, dims: Sequence[int]) -> None:
        super().__init__(dim, dims)
        self.head = _isometry(dim, sum(dims))

    def forward(self, features: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        cos = _cos(self.head(features), torch.cat(list(targets), 1) / math.sqrt(len(targets)))
        return 1 - cos, cos


class Heads(Matching):
    """A head for each teacher: 1/T Σₜ (1 - cos(Wₜ f, uₜ))."""

    def __init__(self, dim: int, dims: Sequence[int]) -> None:
        super().__init__(dim, dims)
        self.heads = nn.ModuleList(_isometry(dim, each) for each in dims)

    def forward(self, features: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        cosines = [_cos(head(features), target) for head, target in zip(self.heads, targets, strict=True)]
        cos = torch.stack(cosines).mean(0)
        return 1 - cos, cos


class Similarity(Matching):
    """No head; the cosines within a batch: of image i, the mean over j ≠ i of (cos(fᵢ, fⱼ) - 1/T Σₜ uₜᵢ·uₜⱼ)².

    There is no cosine to the teachers: NaN.
    """

    def forward(self, features: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        unit = l2_normalize(directed(features))
        wanted = torch.stack([target @ target.T for target in targets]).mean(0)
        apart = 1 - torch.eye(len(unit), device=unit.device, dtype=unit.dtype)
        off = apart * (unit @ unit.T - wanted)
        return off.square().sum(1) / max(len(unit) - 1, 1), torch.full_like(unit[:, 0], torch.nan)


MATCHINGS: dict[str, type[Matching]] = {
    "features": Features, "concatenate": Concatenate, "heads": Heads, "similarity": Similarity,
}  # fmt: skip


def trust(features: Tensor, cos: Tensor) -> Tensor:
    """The loss of a confidence, per image: (|f| / √D - max(cos, 0))², without gradient to cos.

    It moves the length of a feature and the matching moves its direction, so that neither disturbs the other.
    """
    length = features.square().sum(1).sqrt() / math.sqrt(features.shape[1])
    return (length - cos.detach().clamp(min=0)).square()


def _cos(features: Tensor, targets: Tensor) -> Tensor:
    return (l2_normalize(directed(features)) * targets).sum(1)


def _isometry(dim: int, target: int) -> nn.Module:
    head = nn.Linear(dim, target, bias=False)
    nn.init.orthogonal_(head.weight)
    return orthogonal(head)
