"""Laws of every protocol: perfect vectors score 1, random ones chance, equal ones nothing; rotation is nothing.

A new protocol needs a stage here: images, who is on them, and its lists.
"""

from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from normface.data.bins import write_bin
from normface.errors import DataError
from normface.protocols import PROTOCOLS, inputs_of, read_pairs_csv, scores
from normface.protocols.bins import PAIRS
from normface.types import Embeddings, Result

FOLDS, DIM = 4, 64
STAGES = {}


@dataclass
class Stage:
    """A small set: `ids` and `people` [N], the protocol's lists, how large its galleries are."""

    ids: list[str]
    people: np.ndarray
    lists: list[Path] = field(default_factory=list)
    gallery: int = 1
    unit: str = ""  # what --partial must lose whole, by the beginning of its ids


def stage(*names):
    def keep(build):
        STAGES.update(dict.fromkeys(names, build))
        return build

    return keep


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def faces(people, images):
    ids = [f"P{p:03d}/P{p:03d}_{k:04d}.jpg" for p in range(people) for k in range(1, images + 1)]
    return ids, np.repeat(np.arange(people), images)


@stage("lfw")
def _(folder, name, header=f"{FOLDS}\t30"):
    ids, people = faces(FOLDS * 15, 3)
    lines = [header]
    for fold in range(FOLDS):
        own = [f"P{fold * 15 + k:03d}" for k in range(15)]
        lines += [f"{own[k % 15]}\t1\t{2 + k // 15}" for k in range(30)]
        lines += [f"{own[k % 15]}\t1\t{own[(k + 1 + k // 15) % 15]}\t2" for k in range(30)]
    return Stage(ids, people, [write(folder / "pairs.txt", lines)])


@stage("lfw_view1")
def _(folder, name):
    whole = STAGES["lfw"](folder, name)
    lines = whole.lists[0].read_text().splitlines()[1:]
    train, test = (write(folder / f"{k}.txt", ["2\t30", *lines[k * 120 : k * 120 + 120]]) for k in range(2))
    return Stage(whole.ids, whole.people, [train, test])


@stage("pairs_csv")
def _(folder, name):
    ids, people = faces(60, 3)
    lines = ["a, b, same, sex"]
    for p in range(60):
        lines += [f"{ids[3 * p]}, {ids[3 * p + k]}, 1, {'fm'[p % 2]}" for k in (1, 2)]
        lines += [f"{ids[3 * p]}, {ids[(3 * p + 3 * k) % 180]}, 0, {'fm'[p % 2]}" for k in (1, 2)]
    return Stage(ids, people, [write(folder / "pairs.csv", lines)])


@stage("scores")
def _(folder, name):
    whole = STAGES["pairs_csv"](folder, "pairs_csv")
    return Stage(whole.ids, whole.people, [folder / "scores.csv"])


@stage(*PAIRS)
def _(folder, name):
    same = np.arange(PAIRS[name] or 400) % 2 == 0
    people = np.arange(2 * len(same))
    people[1::2][same] = people[::2][same]
    write_bin(folder / "set.bin", [b"image"] * len(people), same.tolist())
    return Stage([f"{k:06d}" for k in range(len(people))], people, [folder / "set.bin"])


@stage("blufr")
def _(folder, name):
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(160), rng.integers(1, 5, 160))
    names = [f"P{p:03d}_{k:04d}.jpg" for k, p in enumerate(people)]
    trials = []
    for _ in range(2):
        gallery = np.array([np.flatnonzero(people == p)[0] for p in rng.permutation(160)[:50]])
        trials.append((np.arange(len(people)), gallery, np.setdiff1d(np.arange(len(people)), gallery)))
    cells = {}
    for place, key in enumerate(("testIndex", "galIndex", "probIndex")):
        cells[key] = np.empty((2, 1), object)
        for k, trial in enumerate(trials):
            cells[key][k, 0] = (trial[place] + 1).reshape(-1, 1)
    listed = np.empty((len(names), 1), object)
    listed[:, 0] = names
    savemat(folder / "config.mat", {"imageList": listed, "labels": people.reshape(-1, 1) + 1, **cells})
    return Stage([f"{n.rpartition('_')[0]}/{n}" for n in names], people, [folder / "config.mat"], 50)


@stage("ytf")
def _(folder, name):
    ids = [f"P{p:02d}/{v}/{k}.jpg" for p in range(24) for v in range(2) for k in range(3)]
    lines = ["split, number, first, second, same"]
    for p in range(24):
        lines += [f"{p // 6 + 1}, {p}, P{p:02d}/0, P{p:02d}/1, 1"]
        lines += [f"{p // 6 + 1}, {p}, P{p:02d}/0, P{p // 6 * 6 + (p + 1) % 6:02d}/1, 0"]
    return Stage(ids, np.repeat(np.arange(24), 6), [write(folder / "splits.txt", lines)], unit="P00/0/")


@stage("ijb_verification")
def _(folder, name):
    """40 people of 2 templates, each of 3 media of 1, 2 and 1 images."""
    ids = [f"{k}.jpg" for k in range(40 * 2 * 4)]
    media = [f"{i} {k // 4 + 100} {k - (k % 4 == 2)}" for k, i in enumerate(ids)]
    pairs = [f"{2 * p + 100} {2 * q + 101} {int(p == q)}" for p in range(40) for q in range(40)]
    lists = [write(folder / "tid_mid.txt", media), write(folder / "pair_label.txt", pairs)]
    return Stage(ids, np.repeat(np.arange(40), 8), lists, unit="0.jpg")


@stage("ijb_identification")
def _(folder, name):
    base = STAGES["ijb_verification"](folder, name)
    head = "TEMPLATE_ID,SUBJECT_ID,FILENAME"
    probes = [f"{2 * p + 100},{p},x" for p in range(40)]
    galleries = [[f"{2 * p + 101},{p},x" for p in range(40) if p % 2 == g] for g in (0, 1)]
    lists = [write(folder / f"{k}.csv", [head, *lines]) for k, lines in enumerate((probes, *galleries))]
    return Stage(base.ids, base.people, [base.lists[0], *lists], 20, "0.jpg")


@stage("identification", "distractors")
def _(folder, name):
    ids, people = faces(90, 3)
    role = ["gallery" if p < 40 and k % 3 == 0 else "probe" if p < 70 else "distractor" for k, p in enumerate(people)]
    if name == "distractors":
        role = ["probe" if p < 40 else "distractor" for p in people]
    lines = ["id,person,role", *(f"{i},P{p},{r}" for i, p, r in zip(ids, people, role, strict=True))]
    return Stage(ids, people, [write(folder / "roles.csv", lines)], 60)


@stage("all_pairs")
def _(folder, name):
    return Stage(*faces(60, 3))


@pytest.fixture(scope="module", autouse=True)
def small_bins():
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(PAIRS.get, PAIRS):
            patch.setitem(PAIRS, name, 400)
        yield


@pytest.fixture(scope="module", params=list(PROTOCOLS))
def staged(request, tmp_path_factory):
    return request.param, STAGES[request.param](tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def judge(staged):
    name, set_up = staged
    replicates = signature(PROTOCOLS[name]).parameters.get("replicates")
    quick = {"replicates": 20} if replicates and replicates.default else {}

    def run(vectors, ids=set_up.ids, **options):
        if not inputs_of(name).vectors:
            write_scores(set_up.lists[0], Embeddings(vectors, ids))
            return PROTOCOLS.build(name, *set_up.lists, **quick, **options)
        return PROTOCOLS.build(name, Embeddings(vectors, ids), *set_up.lists, **quick, **options)

    return run


def write_scores(path, embeddings):
    """The cosines of the pairs listed beside `path`, as a table."""
    named, _ = read_pairs_csv(path.with_name("pairs.csv"))
    found = scores(embeddings, named.within(embeddings))
    rows = zip(found.scores.tolist(), found.same.astype(int).tolist(), named.left, named.right, strict=True)
    write(path, ["score,same,a,b", *(",".join(map(str, row)) for row in rows)])


def vectors(set_up, noise, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(set_up.people.max() + 1, DIM))
    return centers[set_up.people] + noise * rng.normal(size=(len(set_up.people), DIM))


def values(result):
    return {name: found.value for name, found in result.metrics.items()}


def chance(metric, gallery):
    """What guessing scores, and whether that is only a bound from above."""
    kind, _, at = metric.partition("@")
    number = float(at.partition("=")[2].partition(",")[0] or 0)
    if kind.removesuffix("_per_person") in ("tar", "vr"):
        return number, False
    if kind == "cmc":
        return number / gallery, False
    if kind == "rank1":
        return 1 / (number + 1), False
    return (number, True) if kind == "dir" else (0.5, False)


def test_perfect_vectors_score_one(staged, judge):
    found = values(judge(vectors(staged[1], 0)))
    assert found.pop("eer", 0) == pytest.approx(0, abs=1e-12)
    assert found
    assert found == pytest.approx(dict.fromkeys(found, 1.0))


def test_random_vectors_score_chance(staged, judge):
    set_up = staged[1]
    rounds = 4
    rng = np.random.default_rng(1)
    runs = [values(judge(rng.normal(size=(len(set_up.ids), DIM)))) for _ in range(rounds)]
    for metric in runs[0]:
        found = np.array([run[metric] for run in runs])
        expected, bound = chance(metric, set_up.gallery)
        error = found.mean() - expected
        assert (error if bound else abs(error)) < 4 * found.std(ddof=1) / np.sqrt(rounds) + 0.02, metric


def test_equal_vectors_are_refused(staged, judge):
    """Whoever calls everybody the same has made a mistake: it is no system with rates."""
    with pytest.raises(DataError, match=r"(scores|embeddings) that differ"):
        judge(np.ones((len(staged[1].ids), DIM)))


def test_ties_are_no_merit(staged, judge):
    """Whoever tells one image from all others, which are equal, is not first, and below no false accept rate."""
    nearly = np.ones((len(staged[1].ids), DIM))
    nearly[0, 0] = 1.5
    for metric, value in values(judge(nearly)).items():
        assert value <= 0.55, metric


def test_rotation_and_scale_change_nothing(staged, judge):
    x = vectors(staged[1], 1.5)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(DIM, DIM)))[0]
    assert values(judge(7 * x @ turn)) == pytest.approx(values(judge(x)), abs=1e-9)


def test_order_of_rows_changes_nothing(staged, judge):
    x, order = vectors(staged[1], 1.5), np.random.default_rng(3).permutation(len(staged[1].ids))
    one, other = judge(x), judge(x[order], np.array(staged[1].ids)[order])
    assert values(one) == pytest.approx(values(other), abs=1e-9)
    assert list(one.curves) == list(other.curves)


def test_a_result_survives_json_and_has_intervals(staged, judge):
    result = judge(vectors(staged[1], 1.5), conditions={"model": "m"})
    assert Result.from_json(result.to_json()) == result
    assert (result.protocol, result.facts["model"]) == (staged[0], "m")
    assert "partial" not in result.facts
    for metric, found in result.metrics.items():
        assert found.low <= found.value <= found.high, metric
        assert found.low < found.high, metric
        assert found.n > 0


def test_partial_tells_of_what_is_missing(staged, judge):
    name, set_up = staged
    if "partial" not in signature(PROTOCOLS[name]).parameters:
        assert not set_up.lists or not inputs_of(name).vectors  # nothing can be missing
        return
    kept = [k for k, i in enumerate(set_up.ids) if not i.startswith(set_up.unit or set_up.ids[0])]
    x, ids = vectors(set_up, 1.5)[kept], [set_up.ids[k] for k in kept]
    with pytest.raises(DataError, match=r"none (for|of) 1.*--partial"):
        judge(x, ids)
    told = judge(x, ids, partial=True).facts["partial"]
    assert told.startswith("Partial: 1 ")
    assert "were evaluated" in told
    assert "partial" not in judge(vectors(set_up, 1.5), partial=True).facts
    with pytest.raises(DataError, match=r"none for|none of"):
        judge(x[:3], ["of", "another", "set"], partial=True)
