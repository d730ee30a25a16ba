"""Pairs of the user's own and InsightFace's bins: what is read, judged and refused."""

import numpy as np
import pytest

from normface.data.bins import write_bin
from normface.errors import DataError
from normface.protocols import cfp_fp, lfw, lfw_bin, metrics, pairs_csv, read_bin_pairs, read_pairs_csv
from normface.protocols.csv_pairs import subjects
from normface.types import Embeddings, ScoreSet

RNG = np.random.default_rng(0)


def written(folder, text):
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_in_any_order_with_groups_and_folds(tmp_path):
    text = "\ufeffsame, A, b, Fold, sex, age\n1, x, y, late, f, 30\nNo, x, z, early, f, \n\nyes, v, w, late, m, 7\n"
    named, groups = read_pairs_csv(written(tmp_path, text))
    assert (named.left.tolist(), named.right.tolist()) == (["x", "x", "v"], ["y", "z", "w"])
    assert (named.same.tolist(), named.fold.tolist()) == ([True, False, True], [0, 1, 0])
    assert {k: v.tolist() for k, v in groups.items()} == {"sex": ["f", "f", "m"], "age": ["30", "", "7"]}


def test_people_are_whom_genuine_pairs_join(tmp_path):
    text = "a,b,same\n1,2,1\n2,3,1\n3,4,0\n4,5,1\n6,1,0\n"
    left, right = subjects(read_pairs_csv(written(tmp_path, text))[0])
    assert left[0] == right[0] == left[1] == right[1] == left[2] == right[4]
    assert len({left[0], right[2], left[4]}) == 3
    assert left[3] == right[3] == right[2]


def test_people_are_the_folders_where_every_label_agrees(tmp_path):
    """Ann's two pairs share no image: she is one person all the same, as in a calibration by the same list."""
    text = "a,b,same\nAnn/1,Ann/2,1\nAnn/3,Ann/4,1\nAnn/1,Bob/1,0\n"
    left, right = subjects(read_pairs_csv(written(tmp_path, text))[0])
    assert left[0] == right[0] == left[1] == right[1] == left[2] != right[2]
    mistaken = text.replace("Ann/3,Ann/4,1", "Ann/3,Ann/4,0")
    left, right = subjects(read_pairs_csv(written(tmp_path, mistaken))[0])
    assert len({left[0], left[1], right[1], right[2]}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got 'nothing'"),
        ("a,b\nx,y\n", "header a, b, same"),
        ("a,b,same,a\n", "each name once"),
        ("a,b,same\n", "at least one pair"),
        ("a,b,same\nx,y\n", r"3 values, got 'x,y' in line 2"),
        ("a,b,same\nx,,1\n", "line 2"),
        ("a,b,same\nx,y,2\n", "1 or 0 under `same`, got '2' in line 2"),
        ("a,b,same\nx,x,1\n", "two images a pair, got x and x are one"),
        ("a,b,same\nx,y,1\nz,w,0\ny,x,0\n", r"y and x are both same and different \(see line 2\) \(line 4"),
        ("a,b,same\nx,y,1\ny,x,1\n", "listed twice"),
        ("a,b,same\nx,y,1\ny,z,1\nx,z,0\n", "x and z are different, but other pairs make them one person"),
    ],
)
def test_malformed_lists(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_pairs_csv(written(tmp_path, text))


def test_not_text(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(b"a,b,same\n\xff\xfe,x,1\n")
    with pytest.raises(DataError, match=r"pairs\.csv"):
        read_pairs_csv(tmp_path / "pairs.csv")


@pytest.fixture(scope="module")
def system():
    x = np.repeat(RNG.normal(size=(80, 12)), 2, 0) + 1.2 * RNG.normal(size=(160, 12))
    return Embeddings(x, [f"P{k // 2:02d}_{k % 2 + 1:04d}" for k in range(160)])


def pairs(folds, per_fold=20):
    lines = [
        (f"P{(f * per_fold + k) % 80:02d}_0001", f"P{(f * per_fold + k + d) % 80:02d}_0002", int(not d), f)
        for f in range(folds) for k in range(per_fold) for d in (0, 1)
    ]  # fmt: skip
    return "\n".join(["a,b,same,fold", *(",".join(map(str, line)) for line in lines)])


def test_with_folds_it_is_lfws_protocol(tmp_path, system):
    """The same comparisons by both lists give the same accuracy, EER, AUC and TAR."""
    one = pairs_csv(system, written(tmp_path, pairs(4)))
    lines = ["4\t20"]
    for fold in range(4):
        own = [f"P{fold * 20 + k:02d}" for k in range(20)]
        lines += [f"{name}\t1\t2" for name in own]
        lines += [f"{name}\t1\tP{(fold * 20 + k + 1) % 80:02d}\t2" for k, name in enumerate(own)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    named = Embeddings(system.vectors, [f"{i[:3]}/{i}.jpg" for i in system.ids])
    two = lfw(named, tmp_path / "pairs.txt")
    values = [{k: v.value for k, v in each.metrics.items()} for each in (one, two)]
    assert values[0] == pytest.approx(values[1])
    assert one.facts["fold_threshold"] == pytest.approx(two.facts["fold_threshold"])
    assert len(one.facts["notes"]) == 2  # 80 impostor pairs resolve neither rate


def test_without_folds_no_threshold_is_chosen(tmp_path, system):
    text = pairs(4).replace("fold", "group")
    result = pairs_csv(system, written(tmp_path, text))
    assert "accuracy" not in result.metrics
    assert result.facts["groups"] == ["group"]
    assert result.facts["people"] == 80
    with pytest.raises(DataError, match="column `fold`"):
        pairs_csv(system, tmp_path / "pairs.csv", pca=0.9)
    for name in ("eer", "auc"):
        found = result.metrics[name]
        assert found.low < found.value < found.high


def test_weighted_errors_are_those_of_repeated_comparisons():
    scores = ScoreSet(RNG.integers(-9, 9, 300) / 9, RNG.random(300) < 0.5, np.zeros(300, int))
    times = RNG.integers(0, 4, 300)
    again = ScoreSet(*(np.repeat(each, times) for each in (scores.scores, scores.same, scores.fold)))
    curve = metrics.roc(again)
    found = metrics.weighted(scores, np.argsort(scores.scores)[::-1], times.astype(float))
    assert found == pytest.approx((metrics.eer(curve), metrics.auc(curve)), abs=1e-12)
    assert np.isnan(metrics.weighted(scores, np.arange(300), np.where(scores.same, 0.0, 1))).all()


def test_unequal_folds_and_folds_of_one_kind(tmp_path, system):
    lines = pairs(2).splitlines()
    with pytest.raises(DataError, match="folds of one size, got 39, 40 pairs"):
        pairs_csv(system, written(tmp_path, "\n".join([lines[0], *lines[2:]])))
    genuine = [line for line in lines if ",0," not in line or line.endswith(",0")]
    with pytest.raises(DataError, match="20 and 0 in fold 1"):
        pairs_csv(system, written(tmp_path, "\n".join(genuine)))


def test_one_kind_of_pair(tmp_path, system):
    text = "\n".join(line for line in pairs(1).splitlines() if ",0,0" not in line)
    with pytest.raises(DataError, match="only genuine ones"):
        pairs_csv(system, written(tmp_path, text))


class TestBins:
    def test_ten_folds_in_order(self, tmp_path):
        same = [k % 3 == 0 for k in range(40)]
        write_bin(tmp_path / "a.bin", [bytes([k]) for k in range(80)], same)
        named = read_bin_pairs(tmp_path / "a.bin")
        assert named.same.tolist() == same
        assert (named.left[3], named.right[3]) == ("000006", "000007")
        assert named.fold.tolist() == [k // 4 for k in range(40)]

    def test_another_set(self, tmp_path):
        write_bin(tmp_path / "a.bin", [b"x"] * 80, [True] * 40)
        x = Embeddings(np.eye(80), [f"{k:06d}" for k in range(80)])
        with pytest.raises(DataError, match="7,000 pairs, got 40"):
            cfp_fp(x, tmp_path / "a.bin")
        with pytest.raises(DataError, match="6,000 pairs, got 40"):
            lfw_bin(x, tmp_path / "a.bin")
        write_bin(tmp_path / "b.bin", [b"x"] * 50, [True] * 25)
        with pytest.raises(DataError, match="a multiple of 10 pairs"):
            read_bin_pairs(tmp_path / "b.bin")
