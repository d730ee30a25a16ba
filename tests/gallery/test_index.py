"""The exact search is exact: against float64 at 20,000 templates, where codes mislead as far as their bound allows."""

import numpy as np
import pytest

pytest.importorskip("numkong")

from normface import cosine
from normface.gallery.index import Index

TEMPLATES, BEST = 20_000, 5


def filled(vectors):
    index = Index(vectors.shape[1], lambda ids: vectors[ids], len(vectors))
    every = np.arange(len(vectors))
    index.add(every, every, vectors)
    return index


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def misled(dim, seed=0):
    """A query, and templates whose codes are wrong along it as far as codes can be: 5 too low, all others too high.

    Codes are whole numbers; what is lost of each entry is 0.49 of a step, towards the query or away from it. By their
    codes the five lie below all others, by nearly twice the bound; in truth they are the best.
    """
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], dim)
    codes = np.where(np.arange(dim) % 2, 59, 61)[None].repeat(TEMPLATES, 0)
    codes = rng.permuted(codes, axis=1) + 0.49 * np.where(np.arange(TEMPLATES) < BEST, 1, -1)[:, None]
    codes[:, 0] = 127  # sets the scale
    order = rng.permutation(TEMPLATES)
    return unit(signs), unit(codes * signs)[order], np.flatnonzero(order < BEST)


def truth(query, vectors, count):
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    best = np.argsort(-scores, kind="stable")[:count]
    return best, scores[best]


@pytest.mark.parametrize("dim", [128, 512])
def test_the_best_are_found_where_codes_mislead(dim):
    query, vectors, best = misled(dim)
    expected, scores = truth(query, vectors, BEST)
    assert set(expected.tolist()) == set(best.tolist())
    index = filled(vectors)
    found = index.search(query.astype(np.float64), BEST, exact=True)
    assert {owner for owner, _ in found} == set(best.tolist())
    assert [score for _, score in found] == pytest.approx(scores.tolist(), abs=np.sqrt(dim) * 2**-26)

    index._error *= (
        0.9  # a bound a tenth too narrow passes them over: so the search rests on the bound, and it is tight
    )
    found = index.search(query.astype(np.float64), BEST, exact=True)
    assert not set(best.tolist()) & {owner for owner, _ in found}
    index.close()


@pytest.mark.parametrize("dim", [128, 512])
def test_the_best_of_many_alike(dim):
    """Templates around 40 directions, so that hundreds have nearly the best score."""
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(40, dim))
    vectors = unit(centers[rng.integers(0, 40, TEMPLATES)] + 0.05 * rng.normal(size=(TEMPLATES, dim)))
    index = filled(vectors)
    for row in range(8):
        query = unit(vectors[row] + 0.05 * rng.normal(size=dim) / np.sqrt(dim))
        expected, scores = truth(query, vectors, 10)
        found = index.search(query.astype(np.float64), 10, exact=True)
        assert [score for _, score in found] == pytest.approx(scores.tolist(), abs=1e-7)
        exact = cosine.paired(cosine.exact(vectors), cosine.exact(query.astype(np.float64)))
        # In the order of the exact cosines, whose ties go to the smaller number
        assert [owner for owner, _ in found] == np.lexsort((np.arange(TEMPLATES), -exact))[:10].tolist()
        assert {owner for owner, _ in found} == set(expected.tolist())
    index.close()


def test_the_approximate_search_finds_whom_it_is_near_to():
    """Cosine 0.9, where signs of 512 projections differ in 74 places, and in 256 ± 11 from each of the others."""
    dim, later, rng = 128, 500, np.random.default_rng(2)
    vectors = unit(rng.normal(size=(TEMPLATES, dim)))
    index = Index(dim, lambda ids: vectors[ids])
    parts = np.split(np.arange(TEMPLATES), [TEMPLATES - later])
    index.add(parts[0], parts[0], vectors[parts[0]])

    def check(row, there=True):
        noise = rng.normal(size=dim)
        noise -= noise @ vectors[row] * vectors[row]
        query = unit(0.9 * vectors[row] + np.sqrt(1 - 0.9**2) * noise / np.linalg.norm(noise)).astype(np.float64)
        found = index.search(query, 3, exact=False)
        owners, scores = zip(*found, strict=True)
        assert (owners[0] == row) == there
        assert len(set(owners)) == 3
        assert sorted(scores, reverse=True) == list(scores)
        assert list(scores) == pytest.approx(vectors[list(owners)].astype(np.float64) @ query, abs=1e-7)

    check(7)
    index.add(parts[1], parts[1], vectors[parts[1]])  # after the first search has made the sketches
    for row in (7, *parts[1][:3], TEMPLATES - 1):
        check(row)
    assert index.remove(7) == 1  # the last template takes its place
    assert len(index) == TEMPLATES - 1
    check(7, there=False)
    check(TEMPLATES - 1)
    index.close()
