"""Failures counted against the definition, on vectors alone."""

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import Failures, all_pairs, every_pair, lfw, of_list, operating_point, pairs_csv, read_lfw_pairs
from normface.protocols.csv_pairs import read_pairs_csv
from normface.protocols.diagnostics import certified
from normface.protocols.failures import calibrated, evaluated, require_others
from normface.protocols.named_pairs import people
from normface.types import Embeddings

RNG = np.random.default_rng(0)
IDS = np.array([f"P{p:02d}/{k}.jpg" for p in range(30) for k in range(3)])
VECTORS = np.repeat(RNG.normal(size=(30, 8)), 3, 0) + 0.5 * RNG.normal(size=(90, 8))
LOST = {"P00/0.jpg": "no face found", "P01/1.jpg": "no face found", "P02/0.jpg": "not readable as an image",
        "P02/1.jpg": "outside the certificate's conditions: too dark", "P02/2.jpg": "no face found"}  # fmt: skip


@pytest.fixture
def embeddings():
    kept = ~np.isin(IDS, list(LOST))
    return Embeddings(VECTORS[kept], IDS[kept])


@pytest.fixture
def listed(tmp_path):
    """Every genuine pair, and as many of neighbors."""
    lines = ["a,b,same"]
    for p in range(30):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            lines.append(f"P{p:02d}/{one}.jpg,P{p:02d}/{other}.jpg,1")
            lines += [f"P{p:02d}/{one}.jpg,P{(p + step) % 30:02d}/{other}.jpg,0" for step in (1, 2, 3)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


def test_rates_of_photographs_and_people():
    found = Failures(IDS, LOST).rates()
    assert (found["fta"].value, found["fta"].n) == (5 / 90, 90)
    assert (found["fte"].value, found["fte"].n) == (1 / 30, 30)  # of P02 there is no photograph left
    assert found["fte"].low == pytest.approx(8.44e-4, rel=0.01)  # Clopper and Pearson of 1 of 30, from tables
    assert found["fte"].high == pytest.approx(0.1722, rel=0.01)
    assert found["fta"].low < 5 / 90 < found["fta"].high
    assert Failures(IDS, {}).rates()["fta"].value == 0
    told = Failures(IDS, LOST, counted=False).facts()["failures"]
    assert told == {
        "counted": False, "photographs": 90, "failed": 5,
        "reasons": {"no face found": 3, "not readable as an image": 1, "outside the certificate's conditions": 1},
    }  # fmt: skip


def test_listed_pairs(embeddings, listed):
    named = read_pairs_csv(listed)[0]
    result = pairs_csv(embeddings, listed, partial=True, replicates=10)
    counted = evaluated(result, embeddings, named, Failures(IDS, LOST))
    lost = named.same & (np.isin(named.left, list(LOST)) | np.isin(named.right, list(LOST)))
    assert lost.sum() == 7  # two of P00, two of P01, three of P02
    tar, without = counted.metrics["tar@far=0.01"], counted.metrics["tar_without_failures@far=0.01"]
    assert without == result.metrics["tar@far=0.01"]
    assert (without.n, tar.n) == (83, 90)
    assert tar.value == pytest.approx(without.value * 83 / 90)
    assert tar.low <= tar.value <= tar.high
    # Of each person their own rate: 1 of 3 pairs of P00 and P01 is left, none of P02
    each = counted.metrics["tar_per_person@far=0.01"]
    assert each.n == 30
    assert each.value < counted.metrics["tar_per_person_without_failures@far=0.01"].value
    assert counted.metrics["eer"] == result.metrics["eer"]
    assert "partial" not in counted.facts
    assert counted.facts["failures"]["counted"] is True

    left_out = evaluated(result, embeddings, named, Failures(IDS, LOST, counted=False))
    assert left_out.metrics["tar@far=0.01"] == without
    assert not any("without" in name for name in left_out.metrics)
    assert left_out.metrics["fta"].value == 5 / 90


def test_accuracy_takes_what_is_not_compared_for_wrong(embeddings, tmp_path):
    names = [f"P{p:02d}" for p in range(30)]
    lines = ["2 10"]
    for fold in (0, 1):
        some = names[15 * fold : 15 * fold + 10]
        lines += [f"{name} 1 2" for name in some] + [f"{name} 1 {names[15 * fold + 11]} 1" for name in some]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    ids = [f"{name}/{name}_{k:04d}.jpg" for name in names for k in (1, 2, 3)]
    lost = {"P01/P01_0001.jpg": "no face found"}  # in one genuine and one impostor pair
    kept = np.array([each not in lost for each in ids])
    some = Embeddings(VECTORS[kept], np.array(ids)[kept])
    result = lfw(some, tmp_path / "pairs.txt", partial=True)
    counted = evaluated(result, some, read_lfw_pairs(tmp_path / "pairs.txt"), Failures(np.array(ids), lost))
    first, second = result.facts["fold_accuracy"]
    assert counted.metrics["accuracy"].value == pytest.approx((first * 18 / 20 + second) / 2)
    assert counted.metrics["accuracy"].n == 40
    assert counted.metrics["accuracy_without_failures"] == result.metrics["accuracy"]
    assert counted.facts["fold_accuracy"] == pytest.approx([first * 18 / 20, second])


@pytest.mark.parametrize("every", [False, True])
def test_calibration(embeddings, listed, every):
    named = None if every else read_pairs_csv(listed)[0]
    if named is None:
        comparisons = every_pair(embeddings, people(embeddings.ids.tolist())[1], 0.01)
    else:
        comparisons = of_list(embeddings, named.available(embeddings)[0])
    point = operating_point(comparisons, target_far=0.01, protocol="p", model_sha256="m", data_sha256="d")
    result = certified(point, comparisons)
    found = calibrated(result, point, comparisons, named, Failures(IDS, LOST)).metrics
    assert found["far"] == result.metrics["far"]
    assert found["tar_without_failures"] == result.metrics["tar"]
    assert found["tar"].n == 90
    assert found["tar"].value == pytest.approx(result.metrics["tar"].value * 83 / 90)
    # The mean over people, straight from the definition: 30 people, P02's rate is 0
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    accepted = {}
    for person in range(30):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            rows = 3 * person + one, 3 * person + other
            made = not any(IDS[row] in LOST for row in rows)
            score = unit[rows[0]] @ unit[rows[1]]
            accepted.setdefault(person, []).append(made and score >= point.threshold - 1e-6)
    assert found["tar_per_person"].value == pytest.approx(np.mean([np.mean(each) for each in accepted.values()]))


def test_a_protocol_without_pairs_says_what_it_leaves_out(embeddings):
    result = all_pairs(embeddings)
    found = evaluated(result, embeddings, None, Failures(IDS, LOST))
    assert found.metrics.keys() - result.metrics.keys() == {"fta", "fte"}
    assert "leave failures out" in found.facts["notes"][-1]


def test_what_is_neither_embedded_nor_a_failure_is_an_error(embeddings, listed):
    named = read_pairs_csv(listed)[0]
    require_others(Failures(IDS, LOST), named, embeddings)
    with pytest.raises(DataError, match="none for 1"):
        require_others(Failures(IDS, dict(list(LOST.items())[1:])), named, embeddings)
