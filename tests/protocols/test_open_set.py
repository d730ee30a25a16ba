"""Identification and distractors against loops over probes; lists that cannot be used."""

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import distractors, identification, open_set, read_roles
from normface.types import Embeddings

RNG = np.random.default_rng(0)
PEOPLE = 50
IDS = [f"P{p:02d}/{k}.jpg" for p in range(PEOPLE) for k in range(4)]
X = np.repeat(RNG.normal(size=(PEOPLE, 16)), 4, 0) + 1.3 * RNG.normal(size=(4 * PEOPLE, 16))
UNIT = X / np.linalg.norm(X, axis=1, keepdims=True)


def listed(path, role):
    lines = ["id,person,role", *(f"{i},{i[:3]},{role(int(i[1:3]), int(i[4]))}" for i in IDS)]
    path.write_text("\n".join(line for line in lines if not line.endswith("None")))
    return path


def test_identification_equals_the_definition(tmp_path, monkeypatch):
    monkeypatch.setattr(open_set, "_CELLS", 500)
    # People 0 to 29 are enrolled, with two images each; 25 to 49 are no probes or strangers
    path = listed(tmp_path / "list.csv", lambda p, k: "gallery" if p < 30 and k < 2 else "probe" if k > 1 else None)
    result = identification(Embeddings(X, IDS), path, replicates=20)
    strangers, found = [], []
    for row, name in enumerate(IDS):
        if name[4] not in "23":
            continue
        best = {}
        for other, enrolled in enumerate(IDS):
            if int(enrolled[1:3]) < 30 and enrolled[4] in "01":
                best[enrolled[:3]] = max(best.get(enrolled[:3], -2), UNIT[row] @ UNIT[other])
        if name[:3] in best:
            own = best[name[:3]]
            found.append((own, 1 + sum(score > own for score in best.values())))
        else:
            strangers.append(max(best.values()))
    for rank in (1, 5, 10):
        assert result.metrics[f"cmc@rank={rank}"].value == pytest.approx(np.mean([at <= rank for _, at in found]))
    bound = sorted(strangers, reverse=True)[int(0.1 * len(strangers))]
    expected = np.mean([own > bound and at == 1 for own, at in found])
    assert result.metrics["dir@fpir=0.1,rank=1"].value == pytest.approx(expected)
    assert (result.facts["gallery"], result.facts["gallery_people"]) == (60, 30)
    assert (result.facts["probes_with_mate"], result.facts["probes_without_mate"]) == (len(found), len(strangers))
    assert result.facts["notes"][0] == "DIR at FPIR 0.01 left out: 40 probes without a mate cannot resolve it"
    assert result.curves["cmc"]["rate"][:10:9] == [result.metrics[f"cmc@rank={k}"].value for k in (1, 10)]
    at = dict(zip(*(result.curves["dir"][k] for k in ("fpir", "dir")), strict=True))
    assert at[0.1] == pytest.approx(expected)
    # Everybody is found wherever any stranger may be, but for those of a lower rank
    assert at[1.0] == result.metrics["cmc@rank=1"].value


def test_distractors_equal_the_definition(tmp_path, monkeypatch):
    monkeypatch.setattr("normface.protocols.exhaustive._CELLS", 300)
    path = listed(tmp_path / "list.csv", lambda p, k: "distractor" if p >= 20 else "gallery" if k == 0 else "probe")
    result = distractors(Embeddings(X.astype(np.float32), IDS), path, replicates=20)
    probes = [k for k, name in enumerate(IDS) if int(name[1:3]) < 20 and name[4] != "0"]
    others = [k for k, name in enumerate(IDS) if int(name[1:3]) >= 20]
    few = np.random.default_rng(0).permutation(others)
    pairs = [(p, m) for p in probes for m in range(80) if IDS[p][:3] == IDS[m][:3] and p != m]
    for size in (10, 100, len(others)):
        first = [all(UNIT[p] @ UNIT[d] < UNIT[p] @ UNIT[m] for d in few[:size]) for p, m in pairs]
        assert result.metrics[f"rank1@distractors={size}"].value == pytest.approx(np.mean(first))
    impostor = sorted((UNIT[p] @ UNIT[d] for p in probes for d in others), reverse=True)
    genuine = [UNIT[p] @ UNIT[m] for p, m in pairs]
    expected = np.mean([score > impostor[int(1e-3 * len(impostor))] for score in genuine])
    assert result.metrics["tar@far=0.001"].value == pytest.approx(expected)
    assert (result.facts["searches"], result.facts["distractors"]) == (len(pairs), len(others))
    assert result.curves["distractors"]["count"] == [10, 100, len(others)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got 'nothing'"),
        ("id,person\nA/1,A\n", "header id, person, role"),
        ("id,person,role\n", "at least one image"),
        ("id,person,role\nA/1,A,galery\n", "line 2"),
        ("id,person,role\nA/1,,probe\n", "line 2"),
        ("id,person,role\nA/1,A,probe\nA/1,A,gallery\n", "A/1 again"),
        ("id,person,role\nA/1,A,probe\nA/2,A,distractor\n", "no image is a probe"),
    ],
)
def test_malformed_lists(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_roles(tmp_path / "list.csv")


def test_lists_without_what_is_asked_for(tmp_path):
    path = listed(tmp_path / "list.csv", lambda p, k: "gallery" if p < 20 else "probe")
    with pytest.raises(DataError, match="probes of people in the gallery"):
        identification(Embeddings(X, IDS), path)
    with pytest.raises(DataError, match="expected distractors"):
        distractors(Embeddings(X, IDS), path)
    path = listed(tmp_path / "list.csv", lambda p, k: "distractor" if p else "probe" if k == 0 else None)
    with pytest.raises(DataError, match="second image"):
        distractors(Embeddings(X, IDS), path)


def test_distractors_need_no_person(tmp_path):
    (tmp_path / "list.csv").write_text("id,person,role\nA/1,A,probe\nA/2,A,gallery\nx,,distractor\ny,,distractor\n")
    _, person, *_ = read_roles(tmp_path / "list.csv")
    assert len(set(person.tolist())) == 3
