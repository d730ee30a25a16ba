"""The official list, and a strong third-party model brought along by its InputSpec."""

import numpy as np
import pytest

from normface.data import open_reader
from normface.embed import Embedder
from normface.protocols import lfw, read_blufr, read_lfw_pairs

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_official_list(data_dir):
    pairs = read_lfw_pairs(data_dir / "lfw" / "pairs.txt")
    assert len(pairs.same) == 6000
    for fold in range(10):
        assert np.bincount(pairs.same[pairs.fold == fold].astype(int)).tolist() == [300, 300]
    assert (pairs.left[0], pairs.right[0]) == (
        "Abel_Pacheco/Abel_Pacheco_0001.jpg",
        "Abel_Pacheco/Abel_Pacheco_0004.jpg",
    )
    for name, count in (("pairsDevTest.txt", 1000), ("pairsDevTrain.txt", 2200)):
        assert len(read_lfw_pairs(data_dir / "lfw" / name).same) == count


def test_official_blufr_configuration(data_dir):
    config = read_blufr(data_dir / "lfw" / "blufr_lfw_config.mat")
    assert (len(config.ids), config.subjects.max() + 1, len(config.trials)) == (13_233, 5_749, 10)
    for trial in config.trials:
        people = config.subjects
        assert len(trial.gallery) == 1_000  # of as many people, one image each
        assert set(trial.test) == set(trial.gallery) | set(trial.probes)
        assert not set(trial.gallery) & set(trial.probes)
        known = np.isin(people[trial.probes], people[trial.gallery])
        assert 0 < known.sum() < len(known)


def test_bring_your_own_model(data_dir, foamliu, tmp_path):
    """The teacher, on two of the ten folds: it is published with 99.4 % on all of LFW."""
    lines = (data_dir / "lfw" / "pairs.txt").read_text().splitlines()
    (tmp_path / "pairs.txt").write_text("\n".join(["2\t300", *lines[1:1201]]) + "\n")
    pairs = read_lfw_pairs(tmp_path / "pairs.txt")
    reader = open_reader(data_dir / "lfw" / "lfw-112x96.zip")
    reader = reader.select(np.isin(reader.ids, [*pairs.left, *pairs.right]))
    embeddings = Embedder.load(foamliu).embed(reader, mirror="none")
    result = lfw(embeddings, tmp_path / "pairs.txt")
    print(f"{result.metrics['accuracy'].value:.4f} on {result.metrics['accuracy'].n} pairs")
    assert result.metrics["accuracy"].value > 0.985
    embeddings.save(tmp_path / "f.npz")
    again = type(embeddings).load(tmp_path / "f.npz")
    assert lfw(again, tmp_path / "pairs.txt").metrics["accuracy"] == result.metrics["accuracy"]
