"""Reproducible cosines of unit vectors, independent of tiling, threads and processor.

Floating-point sums depend on their order, so matrix kernels compute cosines of the same pair that differ in the last
bit from tile to tile, and rates at a threshold vary. Here every entry is first rounded to a multiple of 2⁻²⁶. A product
of two entries is then a multiple of 2⁻⁵², and every partial sum stays below 2 (Cauchy-Schwarz), so float64 represents
each of them exactly: any order of summation gives the same number. It is rounded to float32 and clipped to [-1, 1].
Rounding the entries moves a cosine by about 1e-8, less than the rounding to float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP = 2.0**-26

ExactRows = NDArray[np.float64]


def exact(unit: ArrayLike) -> ExactRows:
    """Round unit vectors [..., D] to multiples of 2⁻²⁶, in float64: the input of `matrix` and `paired`."""
    rows = np.array(unit, np.float64)
    rows /= STEP
    np.rint(rows, out=rows)
    rows *= STEP
    return rows


def matrix(left: ExactRows, right: ExactRows) -> NDArray[np.float32]:
    """Cosines [N, M] of the rows [N, D] with the rows [M, D], both from `exact`."""
    return _finished(left @ right.T)


def paired(left: ExactRows, right: ExactRows) -> NDArray[np.float32]:
    """Cosines [N] of rows [N, D] with rows [N, D] or with one vector [D]; a scalar for two vectors."""
    return _finished(np.vecdot(left, right))


def _finished(cosines: Any) -> NDArray[np.float32]:
    rounded = np.asarray(cosines, np.float32)
    return np.clip(rounded, -1, 1, out=rounded)
