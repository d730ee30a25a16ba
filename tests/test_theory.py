"""Proposition 2 against PAPER.md's table and its own algebra."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normface import theory
from normface.errors import InputError

# (n, scale, bound, absolute tolerance: half of the last digit printed); the third column of n ≥ 1000 is for scale 11
TABLE = [
    (10, 1, 1.377, 5e-4), (10, 4, 0.1005, 5e-5), (10, 10, 1.3e-4, 5e-6),
    (1000, 1, 5.908, 5e-4), (1000, 4, 2.956, 5e-4), (1000, 11, 0.0164, 5e-5), (1000, 15, 3e-4, 5e-5),
    (10_000, 1, 8.210, 5e-4), (10_000, 4, 5.215, 5e-4), (10_000, 11, 0.1543, 5e-5), (10_000, 15, 3.05e-3, 5e-6),
    (10_000, 20, 2e-5, 5e-6),
    (100_000, 1, 10.513, 5e-4), (100_000, 4, 7.513, 5e-4), (100_000, 11, 0.982, 5e-4), (100_000, 15, 0.0301, 5e-5),
    (100_000, 20, 2e-4, 5e-5), (10_575, 1, 8.27, 5e-3),
]  # fmt: skip


@pytest.mark.parametrize(("n", "scale", "bound", "tolerance"), TABLE)
def test_bound_is_the_papers(n, scale, bound, tolerance):
    assert theory.loss_lower_bound(n, scale) == pytest.approx(bound, abs=tolerance)


@pytest.mark.parametrize(("probability", "scale"), [(0.9, 11.46), (0.99, 13.86), (0.9999, 18.47)])
def test_scale_for_probability_is_the_papers(probability, scale):
    assert theory.scale_for_probability(10_572, probability) == pytest.approx(scale, abs=5e-3)


def test_adacos_scale_is_the_papers():
    assert theory.adacos_scale(10_572) == pytest.approx(13.10, abs=5e-3)
    # Own angles of π/4, all others π/2: the sum of the others' exponentials is the own class's.
    assert math.exp(theory.adacos_scale(1000) * math.cos(math.pi / 4)) == pytest.approx(999 * math.exp(0))
    with pytest.raises(InputError, match="at least 3 classes"):
        theory.adacos_scale(2)


@given(st.integers(2, 10**8), st.floats(1e-6, 1 - 1e-9))
def test_the_two_are_inverse(n, probability):
    scale = theory.scale_for_probability(n, probability)
    if scale > 0:
        assert theory.loss_lower_bound(n, scale) == pytest.approx(-math.log(probability), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 10, 50])
@pytest.mark.parametrize("scale", [0.5, 4.0, 30.0])
def test_a_simplex_attains_the_bound(n, scale):
    vectors = np.eye(n) - 1 / n
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    logits = scale * vectors @ vectors.T
    loss = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    np.testing.assert_allclose(loss, theory.loss_lower_bound(n, scale), rtol=1e-9, atol=1e-14)


def test_extreme_arguments_stay_finite():
    assert theory.loss_lower_bound(2, 1e6) == 0.0
    assert theory.loss_lower_bound(10**12, 1e-9) == pytest.approx(math.log(10**12))


@pytest.mark.parametrize(("n", "scale"), [(1, 1.0), (0, 1.0), (10, 0.0), (10, -1.0), (10, math.nan), (10, math.inf)])
def test_bad_bound_arguments(n, scale):
    with pytest.raises(InputError, match="expected"):
        theory.loss_lower_bound(n, scale)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.5, math.nan])
def test_bad_probability(probability):
    with pytest.raises(InputError, match="between 0 and 1"):
        theory.scale_for_probability(10, probability)
