"""Cosines do not depend on tiles, layout or order, and lie within float32's rounding of the true ones."""

from fractions import Fraction

import numpy as np
import pytest

from normface import cosine

RNG = np.random.default_rng(0)


def unit(count, dim):
    rows = RNG.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2, 3, 128, 513])
def test_no_tile_and_no_order_changes_a_cosine(dim):
    left, right = unit(70, dim), unit(90, dim)
    right[5:40] = left[3]  # equal vectors in many tiles
    a, b = cosine.exact(left), cosine.exact(right)
    whole = cosine.matrix(a, b)
    for rows, columns in ((1, 1), (1, 90), (7, 13), (64, 32)):
        for i in range(0, 70, rows):
            for j in range(0, 90, columns):
                part = cosine.matrix(a[i : i + rows], b[j : j + columns])
                np.testing.assert_array_equal(part, whole[i : i + rows, j : j + columns])
    order = RNG.permutation(dim)
    np.testing.assert_array_equal(cosine.matrix(np.asfortranarray(a[:, order]), b[:, order]), whole)
    np.testing.assert_array_equal(cosine.matrix(b, a).T, whole)
    np.testing.assert_array_equal(cosine.paired(a[:, None], b), whole)
    assert np.unique(whole[3, 5:40]).size == 1
    assert whole.min() >= -1
    assert whole.max() <= 1


def test_agrees_with_rational_arithmetic():
    left, right = unit(20, 64), unit(20, 64)
    found = cosine.paired(cosine.exact(left), cosine.exact(right))
    for score, a, b in zip(found, left.tolist(), right.tolist(), strict=True):
        truth = sum(Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True))
        assert abs(Fraction(float(score)) - truth) < 8e-8  # half a step of float32 below 1, and the entries' rounding


def test_the_same_vector_has_cosine_1_and_the_opposite_minus_1():
    rows = cosine.exact(unit(200, 512))
    np.testing.assert_allclose(cosine.paired(rows, rows), 1, atol=3e-7)
    np.testing.assert_array_equal(cosine.paired(rows, -rows), -cosine.paired(rows, rows))


def test_an_exact_vector_stays_as_it_is_and_the_argument_too():
    given = unit(4, 8)
    before, once = given.copy(), cosine.exact(given)
    np.testing.assert_array_equal(cosine.exact(once), once)
    np.testing.assert_array_equal(given, before)
    assert cosine.paired(once[0], once[1]).shape == ()
