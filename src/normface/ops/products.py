"""What a head asks of an implementation of its products, and the rows of class weights that all of them read.

B batch, C classes, K sub-centres of each, R = C·K rows of weights, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .reductions import Reduce
from .reference import EPS


class RowRule(NamedTuple):
    """How rows of class weights count.

    Attributes:
        subcenters: K; the largest product of a class's rows counts.
        unit: bring rows to unit length.
        project: the weights' gradient goes through that (eq. 4), or not.
    """

    subcenters: int = 1
    unit: bool = True
    project: bool = True


COSINES = RowRule()


class Products(Protocol):
    """Products of features with all rows of weights, reduced as they come."""

    def __call__(
        self, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, reduce: Reduce, rule: RowRule, compute: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Products with the own rows [B], and the result over the other classes [B], with gradients of both tensors.

        Args:
            x_BD, w_RD: of one dtype, float32 or float64; the products are computed in `compute`.
            rows_B: own rows; -1 where the own class is not among these.
        """


def inverse_lengths(w_RD: Tensor) -> Tensor:
    """1/√(Σw² + ε) of each row [R]."""
    lengths_R: Tensor = torch.linalg.vector_norm(w_RD, dim=1)
    return lengths_R.square_().add_(EPS).rsqrt_()


def scaled_rows(w_RD: Tensor, inverse_R: Tensor, rows_B: Tensor) -> Tensor:
    """Rows of the weights times `inverse_R` [B, D]; zeros for a negative one."""
    return w_RD[rows_B] * (inverse_R[rows_B] * (rows_B >= 0))[:, None]


def unit_rows(w_RD: Tensor, rows_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows [B, K, D] (zeros for negative ones), and what they were multiplied by [B, K]."""
    found_BKD = w_RD[rows_BK]
    inverse_BK = (found_BKD.square().sum(-1) + EPS).rsqrt() * (rows_BK >= 0)
    return found_BKD * inverse_BK[..., None], inverse_BK
