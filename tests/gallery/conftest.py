"""What the tests of galleries share: drawn vectors, and the plainest search that is right."""

import numpy as np
import pytest

from normface.gallery import store

KEY = b"k" * 32


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """However slow the machine is, nobody is told that another connection writes for too long."""
    monkeypatch.setattr(store, "WAIT", 600.0)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "gallery" / "people.db"


def drawn(seed, count, dim=32):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def unit(rows):
    rows = np.atleast_2d(rows).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(enrolled, query, k):
    """[(person, cosine)] of the k best people among {person: vectors}, in float64 on what a gallery keeps: float32."""
    kept = {name: unit(rows).astype(np.float32).astype(np.float64) for name, rows in enrolled.items() if len(rows)}
    scores = {name: float((rows @ unit(query)[0]).max()) for name, rows in kept.items()}
    return sorted(scores.items(), key=lambda pair: -pair[1])[:k]
