"""The gate: exact where losses are known, and doubt is no pass."""

import numpy as np
import pytest

from normface.errors import ConfigError, DataError
from normface.protocols import gate, read_lfw_pairs, scores
from normface.protocols.metrics import at_far, roc
from normface.types import Embeddings

EACH = 200


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """One fold: each person with herself, and with the next; two images each."""
    people = [f"P{i:03d}" for i in range(EACH)]
    lines = [str(EACH), *(f"{name}\t1\t2" for name in people)]
    lines += [f"{name}\t1\t{people[(i + 1) % EACH]}\t2" for i, name in enumerate(people)]
    path = tmp_path_factory.mktemp("list") / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path, people


def system(people, noise, seed=1):
    centers = np.random.default_rng(0).standard_normal((EACH, 32))
    vectors = np.repeat(centers, 2, axis=0) + noise * np.random.default_rng(seed).standard_normal((2 * EACH, 32))
    return Embeddings(vectors, np.array([f"{name}/{name}_{i:04d}.jpg" for name in people for i in (1, 2)]))


def test_a_model_loses_nothing_to_itself(listed):
    path, people = listed
    full = system(people, 1.5)
    found = gate(full, full, path, far=0.01, max_loss=0)
    loss = found.metrics["tar_loss"]
    assert (loss.value, loss.low, loss.high, loss.n) == (0, 0, 0, EACH)
    assert found.facts["passed"] is True
    assert found.facts["min_cosine"] == pytest.approx(1)
    curve = roc(scores(full, read_lfw_pairs(path).within(full)))
    assert found.metrics["tar_full"].value == curve.tar[at_far(curve, 0.01)]


def test_a_known_loss(listed):
    """40 accepted people have their second image turned round: exactly so many genuine pairs are lost, no impostor
    pair is made, and the interval is about a binomial's."""
    path, people = listed
    full = system(people, 0.3)
    vectors = full.vectors.copy()
    vectors[1 : 2 * 40 : 2] *= -1
    order = np.random.default_rng(0).permutation(len(full))  # rows are found by their ids
    smaller = Embeddings(vectors[order], full.ids[order])
    found = gate(full, smaller, path, far=0.01, max_loss=0.2)
    loss = found.metrics["tar_loss"]
    assert found.metrics["tar_full"].value == 1
    assert loss.value == pytest.approx(40 / EACH)
    half = 1.96 * np.sqrt(0.2 * 0.8 / EACH)
    assert loss.low == pytest.approx(0.2 - half, abs=0.02)
    assert loss.high == pytest.approx(0.2 + half, abs=0.02)
    assert found.facts["passed"] is False  # the value is at the limit, the interval is not
    assert found.facts["min_cosine"] == pytest.approx(-1)
    assert gate(full, smaller, path, far=0.01, max_loss=0.3).facts["passed"] is True


def test_doubt_is_no_pass(listed):
    """Two models that are equally good, and independent: no loss is expected, and none is ruled out."""
    path, people = listed
    found = gate(system(people, 1.5), system(people, 1.5, seed=2), path, far=0.01, max_loss=0.005)
    loss = found.metrics["tar_loss"]
    assert loss.low < 0 < loss.high
    assert not found.facts["passed"]


def test_mistakes(listed):
    path, people = listed
    full = system(people, 1)
    with pytest.raises(DataError, match="1/200"):
        gate(full, full, path, far=0.001, max_loss=0)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        gate(full, full, path, far=0.01, max_loss=2)
    with pytest.raises(DataError, match="one length"):
        gate(full, Embeddings(full.vectors[:, :8], full.ids), path, far=0.01, max_loss=0)
    with pytest.raises(DataError, match="a vector for each"):
        gate(full, Embeddings(full.vectors[1:], full.ids[1:]), path, far=0.01, max_loss=0)
