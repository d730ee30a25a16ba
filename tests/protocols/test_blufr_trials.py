"""BLUFR against its definition, written as loops over every pair and every probe."""

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from normface.errors import DataError
from normface.protocols import blufr, blufr_trials, read_blufr
from normface.protocols.intervals import percentiles, resampled
from normface.types import Embeddings

PEOPLE, TRIALS = 60, 3


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A configuration of 60 people with 1 to 6 images, and vectors with some noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(PEOPLE), rng.integers(1, 7, PEOPLE))
    names = [f"P_{label:02d}_{i:04d}.jpg" for i, label in enumerate(labels)]
    trials = []
    for _ in range(TRIALS):
        test = np.sort(rng.permutation(len(labels))[: int(0.8 * len(labels))])
        people = rng.permutation(np.unique(labels[test]))[:20]
        gallery = np.array([test[labels[test] == person][0] for person in people])
        probes = np.setdiff1d(test, gallery)
        trials.append((test, gallery, probes))

    def cells(place):
        found = np.empty((TRIALS, 1), object)
        for i, trial in enumerate(trials):
            found[i, 0] = (trial[place] + 1).reshape(-1, 1).astype(np.uint16)
        return found

    listed = np.empty((len(names), 1), object)
    listed[:, 0] = names
    path = tmp_path_factory.mktemp("blufr") / "config.mat"
    savemat(path, {"imageList": listed, "labels": labels.reshape(-1, 1) + 1, "testIndex": cells(0),
                   "galIndex": cells(1), "probIndex": cells(2)})  # fmt: skip
    vectors = np.eye(PEOPLE, 32)[labels] + np.random.default_rng(1).standard_normal((len(labels), 32)) * 0.35
    ids = np.array([f"{name.rpartition('_')[0]}/{name}" for name in names])
    return path, Embeddings(vectors.astype(np.float32), ids), labels, trials


def literal(vectors, labels, trial, far, dir_far=0.01):
    """VR and DIR of one trial as the protocol's words have it."""
    test, gallery, probes = trial
    genuine, impostor, whose = [], [], []
    for a, i in enumerate(test):
        for j in test[:a]:
            (genuine if labels[i] == labels[j] else impostor).append(float(np.float32(vectors[i] @ vectors[j])))
            whose += [labels[i]] * int(labels[i] == labels[j])
    impostor.sort(reverse=True)
    threshold = impostor[max(round(far * len(impostor)), 1) - 1]
    accepted = np.array([score >= threshold for score in genuine])
    by_person = np.mean([accepted[np.array(whose) == person].mean() for person in set(whose)])
    best, found = [], []
    for probe in probes:
        scores = [float(np.float32(vectors[probe] @ vectors[g])) for g in gallery]
        if labels[probe] in labels[gallery]:
            own = scores[list(labels[gallery]).index(labels[probe])]
            found.append((own, 1 + sum(score > own for score in scores)))
        else:
            best.append(max(scores))
    best.sort(reverse=True)
    bound = best[max(round(dir_far * len(best)), 1) - 1]
    identified = [np.mean([own >= bound and at <= rank for own, at in found]) for rank in (1, 10)]
    return [accepted.mean(), by_person, *identified]


def test_equals_the_definition(setting, monkeypatch):
    path, embeddings, labels, trials = setting
    monkeypatch.setattr(blufr_trials, "BLUFR_FARS", (0.01, 0.002))
    monkeypatch.setattr("normface.protocols.tally._CELLS", 1 << 13)
    result = blufr(embeddings, path, replicates=5)
    for far in (0.01, 0.002):
        wanted = np.array([literal(embeddings.vectors, labels, trial, far) for trial in trials])
        by_trial = result.facts["by_trial"]
        np.testing.assert_allclose(by_trial[f"vr@far={far:g}"], wanted[:, 0], atol=1e-12)
        np.testing.assert_allclose(by_trial[f"vr_per_person@far={far:g}"], wanted[:, 1], atol=1e-12)
        np.testing.assert_allclose(by_trial["dir@far=0.01,rank=1"], wanted[:, 2], atol=1e-12)
        np.testing.assert_allclose(by_trial["dir@far=0.01,rank=10"], wanted[:, 3], atol=1e-12)
        mean = result.metrics[f"vr@far={far:g}"]
        assert mean.value == pytest.approx(wanted[:, 0].mean())
        assert mean.low <= mean.value <= mean.high
        told = result.facts["mean_minus_std"][f"vr@far={far:g}"]
        assert told == pytest.approx(wanted[:, 0].mean() - wanted[:, 0].std(ddof=1))


def test_too_few_impostors(setting, monkeypatch):
    path, embeddings, *_ = setting
    monkeypatch.setattr(blufr_trials, "BLUFR_FARS", (0.01, 1e-6))
    with pytest.raises(DataError, match="1,000,000 impostor pairs and more"):
        blufr(embeddings, path)


def test_images_without_a_vector(setting):
    path, embeddings, *_ = setting
    with pytest.raises(DataError, match="none for 1"):
        blufr(Embeddings(embeddings.vectors[1:], embeddings.ids[1:]), path)


@pytest.mark.parametrize("change", ["swap two labels", "merge two people", "leave one out"])
def test_labels_that_contradict_the_names(setting, tmp_path, change):
    raw = {key: value for key, value in loadmat(setting[0]).items() if not key.startswith("__")}
    labels = raw["labels"].copy()
    if change == "swap two labels":
        labels[[0, -1]] = labels[[-1, 0]]
    elif change == "merge two people":
        labels[labels == labels[-1]] = labels[0]
    else:
        labels = labels[1:]
    savemat(tmp_path / "config.mat", raw | {"labels": labels})
    with pytest.raises(DataError, match="agree with|a label for each|one gallery image"):
        read_blufr(tmp_path / "config.mat")


@pytest.mark.parametrize("data", [b"", b"no MATLAB file", None])
def test_another_file(tmp_path, data):
    path = tmp_path / "config.mat"
    if data is None:
        savemat(path, {"other": np.eye(3)})
    else:
        path.write_bytes(data)
    message = "none of imageList, .*, but other; take" if data is None else "no MATLAB file.*; take"
    with pytest.raises(DataError, match=f"{message} blufr_lfw_config"):
        read_blufr(path)


@pytest.mark.nightly
def test_coverage_of_the_bootstrap():
    """Nominal 95 % of a mean over subjects' pairs, which are alike within a person, covers 93 to 97 %."""
    rng, hits, rounds = np.random.default_rng(4), 0, 1200
    for seed in range(rounds):
        sizes = rng.integers(1, 6, 150)
        truth = rng.normal(0.5, 1.0, 150)  # how well each person is recognized
        of = np.repeat(np.arange(150), sizes)
        accepted = rng.normal(truth[of], 0.5) > 0

        def mean(weights, accepted=accepted, of=of):
            return np.array([np.average(accepted, weights=weights[of])])

        low, high = percentiles(resampled(mean, 150, 300, seed))
        hits += low[0] <= 0.672640 <= high[0]  # Φ(0.5 / √1.25)
    assert 0.93 <= hits / rounds <= 0.97
