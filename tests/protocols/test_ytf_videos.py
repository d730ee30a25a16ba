"""YTF against its definition written as loops over frames."""

import math

import numpy as np
import pytest
from sklearn.svm import SVC

from normface.errors import DataError
from normface.protocols import read_ytf, ytf, ytf_videos
from normface.protocols.ytf_videos import intersection
from normface.types import Embeddings

RNG = np.random.default_rng(0)
FOLDS, EACH = 3, 12


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """36 people with two videos of 2 to 5 frames, drawn around a common mean."""
    frames, lines = {}, ["split number, pair number, first name, second name, is same"]
    shift = RNG.normal(size=8)
    for person in range(FOLDS * EACH):
        center = RNG.normal(size=8)
        for video in (0, 1):
            noise = 1.1 * RNG.normal(size=8)
            for frame in range(RNG.integers(2, 6)):
                frames[f"P{person:02d}/{video}/{frame}.jpg"] = 2 * shift + center + noise + 0.3 * RNG.normal(size=8)
    for person in range(FOLDS * EACH):
        fold, other = person // EACH, person // EACH * EACH + (person + 1) % EACH
        lines.append(f"{fold + 1}, {2 * person}, P{person:02d}/0, P{person:02d}/1, 1")
        lines.append(f"{fold + 1}, {2 * person + 1}, P{person:02d}/1, P{other:02d}/0, 0")
    path = tmp_path_factory.mktemp("ytf") / "splits.txt"
    path.write_text("\n".join(lines) + "\n")
    return path, frames, lines[1:]


def literal(frames, lines):
    unit = {name: v / np.linalg.norm(v) for name, v in frames.items()}
    videos = {}
    for name, v in unit.items():
        videos.setdefault(name.rpartition("/")[0], []).append(v)
    pairs = [tuple(part.strip() for part in line.split(",")) for line in lines]
    accuracies = []
    for fold in range(1, FOLDS + 1):
        center, count = np.zeros(8), 0
        for f, _, a, b, _ in pairs:
            if int(f) != fold:
                for video in (a, b):
                    center += sum(videos[video]) / len(videos[video])
                    count += 1
        center /= count
        means, bars = [], []
        for _, _, a, b, _ in pairs:
            cosines = []
            for x in videos[a]:
                for y in videos[b]:
                    u, v = x - center, y - center
                    cosines.append(float(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
            bar = [0.0] * 100
            for c in cosines:
                bar[min(99, math.floor((c + 1) / 0.02))] += 1 / len(cosines)
            means.append([sum(cosines) / len(cosines)])
            bars.append(bar)
        same, test = np.array([s == "1" for *_, s in pairs]), np.array([int(f) == fold for f, *_ in pairs])
        kernel = np.array([[sum(map(min, p, q)) for q in bars] for p in bars])
        linear = SVC(kernel="linear", C=1).fit(np.array(means)[~test], same[~test])
        overlap = SVC(kernel="precomputed", C=1).fit(kernel[np.ix_(~test, ~test)], same[~test])
        accuracies.append((
            np.mean(linear.predict(np.array(means)[test]) == same[test]),
            np.mean(overlap.predict(kernel[np.ix_(test, ~test)]) == same[test]),
        ))  # fmt: skip
    return np.array(accuracies)


def test_equals_the_definition(setting):
    path, frames, lines = setting
    result = ytf(Embeddings(np.array(list(frames.values())), list(frames)), path)
    wanted = literal(frames, lines)
    assert 0.5 < wanted.mean() < 1
    np.testing.assert_allclose(result.facts["fold_accuracy_mean"], wanted[:, 0])
    np.testing.assert_allclose(result.facts["fold_accuracy"], wanted[:, 1])
    assert result.metrics["accuracy_mean"].value == pytest.approx(wanted[:, 0].mean())
    assert result.metrics["accuracy_histogram"].value == pytest.approx(wanted[:, 1].mean())


def test_kernel_is_a_sum_of_minima(monkeypatch):
    monkeypatch.setattr(ytf_videos, "_ROWS", 3)
    a, b = RNG.random((7, 100)), RNG.random((4, 100))
    np.testing.assert_allclose(intersection(a, b), [[sum(map(min, p, q)) for q in b] for p in a])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "none"),
        ("head\n1, 1, A/0, A/1\n", "line 2"),
        ("1, 1, A/0, A/1, 2\n", "line 1"),
        ("1, 1, A/0, B/1, 1\n", "agree with the names"),
        ("x\n1, 1, A/0, A/1, 0\n", "agree with the names"),
    ],
)
def test_malformed_lists(tmp_path, text, message):
    (tmp_path / "splits.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_ytf(tmp_path / "splits.txt")


def test_one_fold(tmp_path):
    (tmp_path / "splits.txt").write_text("1, 1, A/0, A/1, 1\n1, 2, A/0, B/1, 0\n")
    ids = ["A/0/1", "A/1/1", "B/1/1"]
    with pytest.raises(DataError, match="at least 2 folds"):
        ytf(Embeddings(np.eye(3), ids), tmp_path / "splits.txt")
