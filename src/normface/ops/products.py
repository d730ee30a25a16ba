"""The interface of a head's products, and the rows of class weights that all implementations read.

B batch, C classes, K sub-centres of each, R = C·K rows of weights, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .reductions import Reduce
from .reference import EPS


class RowRule(NamedTuple):
    """How rows of class weights form classes.

    Attributes:
        subcenters: K; a class's product is the largest of its rows.
        unit: normalize the rows.
        project: let the weights' gradient pass through the normalization (eq. 4).
    """

    subcenters: int = 1
    unit: bool = True
    project: bool = True


COSINES = RowRule()


class Products(Protocol):
    """Products of features with all rows of weights, reduced while they are computed."""

    def __call__(
        self, x_BD: Tensor, w_RD: Tensor, rows_B: Tensor, reduce: Reduce, rule: RowRule, compute: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Products with the own rows [B], and the reduction over the other classes [B], with gradients of both tensors.

        Args:
            x_BD, w_RD: of one dtype, float32 or float64; the products are computed in `compute`.
            rows_B: own rows; -1 if the own class is not among these.
        """


def inverse_lengths(w_RD: Tensor) -> Tensor:
    """1/√(Σw² + ε) of each row [R]."""
    lengths_R: Tensor = torch.linalg.vector_norm(w_RD, dim=1)
    return lengths_R.square_().add_(EPS).rsqrt_()


def scaled_rows(w_RD: Tensor, inverse_R: Tensor, rows_B: Tensor) -> Tensor:
    """Rows of the weights times `inverse_R` [B, D]; zeros for a negative row number."""
    return w_RD[rows_B] * (inverse_R[rows_B] * (rows_B >= 0))[:, None]


def unit_rows(w_RD: Tensor, rows_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Normalized rows [B, K, D] (zeros for negative row numbers), and their factors [B, K]."""
    found_BKD = w_RD[rows_BK]
    inverse_BK = (found_BKD.square().sum(-1) + EPS).rsqrt() * (rows_BK >= 0)
    return found_BKD * inverse_BK[..., None], inverse_BK
