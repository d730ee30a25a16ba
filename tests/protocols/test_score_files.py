"""Tables of scores: what is read, refused and judged; long tables are judged as short ones."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from normface.errors import ConfigError, DataError
from normface.protocols import (
    metrics,
    operating_point,
    pairs_csv,
    read_scores,
    score_comparisons,
    score_file,
    score_files,
    slices,
)
from normface.protocols.score_files import group_columns, score_set
from normface.types import Embeddings

PEOPLE, IMAGES = 50, 3
RNG = np.random.default_rng(0)


def table(folder, rows, head="score,same,a,b", name="s.csv"):
    path = folder / name
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """All pairs of 50 people's 3 images: vectors, their list and the table of their cosines."""
    folder = tmp_path_factory.mktemp("scores")
    ids = np.array([f"P{p:02d}_{k}" for p in range(PEOPLE) for k in range(IMAGES)])  # people only by genuine pairs
    vectors = np.repeat(RNG.normal(size=(PEOPLE, 16)), IMAGES, 0) + RNG.normal(size=(PEOPLE * IMAGES, 16))
    embeddings = Embeddings(vectors, ids)
    i, j = np.tril_indices(len(ids), -1)
    same = i // IMAGES == j // IMAGES
    rows = list(zip(same.astype(int), ids[i], ids[j], strict=True))
    pairs = table(folder, rows, "same,a,b", "pairs.csv")
    cosines = np.einsum("nd,nd->n", embeddings.vectors[i], embeddings.vectors[j])
    scores = table(folder, [(repr(s), *row) for s, row in zip(cosines.tolist(), rows, strict=True)])
    return embeddings, pairs, scores, cosines, same


def told(result):
    return {name: (found.value, found.low, found.high, found.n) for name, found in result.metrics.items()}


def same_figures(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == pytest.approx(other[name], abs=1e-9), name


class TestFigures:
    def test_as_the_vectors_they_came_from(self, system):
        """EER, AUC, TAR and TAR per person with their intervals are those of `pairs_csv`."""
        embeddings, pairs, scores, cosines, same = system
        found, known = score_file(scores), pairs_csv(embeddings, pairs)
        same_figures({name: told(found)[name] for name in known.metrics}, told(known))
        assert found.metrics["auc"].value == pytest.approx(roc_auc_score(same, cosines))
        assert found.facts["people"] == PEOPLE
        assert "tar_per_person@far=0.0001" in found.metrics  # 11,025 impostors resolve it
        assert found.few_errors["tar@far=0.0001"] == 1

    def test_of_any_scale(self, system, tmp_path):
        """Scores that are no cosines: the same rates, and thresholds, histograms and edges in their own units."""
        _, _, scores, cosines, _ = system
        lines = scores.read_text().splitlines()
        larger = [(repr(1000 + 50 * float(score)), *rest) for score, *rest in (line.split(",") for line in lines[1:])]
        one, other = score_file(scores), score_file(table(tmp_path, larger))
        same_figures(told(one), told(other))
        edges = other.curves["histogram"]["edges"]
        assert (edges[0], edges[-1]) == pytest.approx((1000 + 50 * cosines.min(), 1000 + 50 * cosines.max()))
        point = operating_point(
            score_comparisons(read_scores(tmp_path / "s.csv"), 0.01), target_far=0.01, protocol="scores",
            model_sha256="unknown", data_sha256="d",
        )  # fmt: skip
        assert point.far.value <= 0.01
        assert point.threshold > 1000

    @pytest.mark.parametrize("part", [1000, 1 << 14])
    def test_a_long_table_is_judged_as_a_short_one(self, system, monkeypatch, part):
        """In parts, with most impostors only counted: rates and their intervals the same, EER and AUC to a bin."""
        whole = score_file(system[2])
        monkeypatch.setattr(score_files, "LISTED", 10)
        monkeypatch.setattr("normface.protocols.score_table.ROWS", part)
        counted = score_file(system[2])
        shared = {name: told(whole)[name] for name in whole.metrics if name not in ("eer", "auc")}
        same_figures(told(counted), shared)
        assert counted.facts["eer"] == pytest.approx(whole.metrics["eer"].value, abs=1e-4)
        assert counted.facts["auc"] == pytest.approx(whole.metrics["auc"].value, abs=1e-4)
        assert counted.facts["d_prime"] == pytest.approx(whole.facts["d_prime"])
        assert counted.facts["false_accepts"] == whole.facts["false_accepts"]
        assert sum(counted.curves["histogram"]["impostor"]) == sum(whole.curves["histogram"]["impostor"])

    def test_certificates_and_groups_of_a_long_table(self, system, monkeypatch):
        """The threshold, its rates and those by group are those of the table held at once."""
        known = read_scores(system[2])
        sex = np.where(np.arange(len(known.ids)) % 2, "f", "m")
        found = []
        for most in (score_files.LISTED, 10):
            monkeypatch.setattr(score_files, "LISTED", most)
            pairs = score_comparisons(known, 0.01)
            point = operating_point(
                pairs, target_far=0.01, protocol="scores", model_sha256="unknown", data_sha256="d"
            )  # fmt: skip
            found.append((point, slices(pairs, point.threshold, {"sex": sex})))
        (one, groups), (other, others) = found
        assert other.threshold == one.threshold
        for name in ("far", "tar", "far_per_person", "tar_per_person"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a.value, a.low, a.high, a.n) == pytest.approx((b.value, b.low, b.high, b.n), abs=1e-9)
        assert len(groups["rows"]) == 3
        for a, b in zip(groups["rows"], others["rows"], strict=True):
            assert a["group"] == b["group"]
            assert a["far"] == pytest.approx(b["far"], rel=0.02)  # of a group fewer of the next likest are listed
            assert a["frr"] == pytest.approx(b["frr"], abs=1e-9)
        assert other.calibration.cllr == pytest.approx(one.calibration.cllr, abs=1e-4)
        with pytest.raises(ConfigError, match="--far for more than 10"):
            score_comparisons(known, None)
        with pytest.raises(ConfigError, match="at most 10 comparisons"):
            score_set(known)

    def test_without_names_comparisons_pass_as_independent(self, tmp_path):
        """Of independent ones the interval is Jeffreys' where the threshold is known for sure: far above all else."""
        rng = np.random.default_rng(1)
        same = np.arange(4000) < 1000
        values = np.where(same, rng.normal(2, 1, 4000), rng.normal(0, 1, 4000))
        found = score_file(table(tmp_path, zip(values.tolist(), same.astype(int), strict=True), "score,same"))
        assert "tar_per_person@far=0.01" not in found.metrics
        assert {"people", "commonest_five"}.isdisjoint(found.facts)
        assert any("pairs taken as independent" in note for note in found.facts["notes"])
        tar = found.metrics["tar@far=0.01"]
        impostor = np.sort(values[~same])[::-1]
        assert tar.value == np.mean(values[same] > impostor[30])
        assert tar.low < tar.value < tar.high
        eer = metrics.eer(metrics.roc(score_set(read_scores(tmp_path / "s.csv"))[0]))
        assert found.metrics["eer"].value == pytest.approx(eer)
        assert found.metrics["eer"].low < eer < found.metrics["eer"].high
        with pytest.raises(ConfigError, match="columns a and b"):
            score_comparisons(read_scores(tmp_path / "s.csv"), 0.01)

    def test_folds_give_accuracy_and_other_columns_are_groups(self, tmp_path):
        rng = np.random.default_rng(2)
        same, fold = np.arange(400) % 2, np.arange(400) // 2 % 4
        values = rng.normal(2.0 * same, 1)
        rows = zip(values.tolist(), same, fold, np.where(fold < 2, "old", "new"), strict=True)
        found = score_file(table(tmp_path, rows, "score,same,fold,camera"))
        right = []
        for each in range(4):
            test = fold == each
            at = metrics.accuracy_threshold(values[~test], same[~test] == 1)
            right.append(np.mean((values[test] >= at) == same[test]))
        assert found.metrics["accuracy"].value == pytest.approx(np.mean(right))
        assert found.facts["groups"] == ["camera"]
        assert group_columns(read_scores(tmp_path / "s.csv"))["camera"][:5].tolist() == ["old"] * 4 + ["new"]

    def test_distances_are_noticed(self, tmp_path):
        rows = [(1.5 - k / 100, int(k > 50)) for k in range(100)]
        assert any("a distance?" in note for note in score_file(table(tmp_path, rows, "score,same")).facts["notes"])


class TestReading:
    def test_spellings(self, tmp_path):
        """A byte order mark, CRLF, spaces, empty lines, capitals, any order of columns."""
        text = "\ufeffSame, SCORE ,b,A\r\n\r\n Yes,0.5, x ,y\r\nFALSE, 1e-1,x,z\r\n  \r\n0,-.25,y,z\r\ntrue,.5,x,y"
        (tmp_path / "s.csv").write_bytes(text.encode())
        found = read_scores(tmp_path / "s.csv")
        whole = found.whole()
        assert whole["score"].tolist() == [0.5, 0.1, -0.25, 0.5]
        assert whole["same"].tolist() == [True, False, False, True]
        assert found.ids[whole["left"]].tolist() == ["y", "z", "z", "y"]
        assert found.ids[whole["right"]].tolist() == ["x", "x", "y", "x"]
        assert (found.rows, found.genuine, found.low, found.high) == (4, 2, -0.25, 0.5)
        assert found.subjects[found.ids == "x"] == found.subjects[found.ids == "y"]

    @pytest.mark.parametrize("part", [2, 1000])
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "a header score, same"),
            ("score,same", "at least one comparison"),
            ("a,b,same\nx,y,1", "a header score, same"),
            ("score,same,score\n1,1,1", "each name once"),
            ("score,same,a\n1,1,x", "a header score, same[, a, b]"),
            ("score;same\n1;1", "got 'score;same'"),
            ("score,same\n.1,0\n.2,0\n\n.3", r"2 values, got '.3' in line 5 of"),
            ("score,same\n.1,0\n.2,1\n.3,1,1", r"2 values, got '.3,1,1' in line 4 of"),
            ("score,same\n.1,0\n.2,1\nnan,1", r"a finite number under `score`, got 'nan' in line 4 of"),
            ("score,same\n.1,0\ninf,1", "got 'inf' in line 3"),
            ("score,same\nhigh,1", "got 'high' in line 2"),
            ("score,same\n.1,0\n,1", "got '' in line 3"),
            ("score,same\n.1,0\n.2,genuine", "1 or 0 (true or false, yes or no) under `same`, got 'genuine'"),
            ("score,same\n.1,0\n.2,-1", "got '-1' in line 3"),
            ("score,same,a,b\n.1,0,x,y\n.2,0,x, ", "the name of an image under `b`, got '' in line 3"),
            ("score,same,a,b\n.1,0,x,y\n.2,1,x,x", "x against itself"),
            ("score,same,a,b\n.1,1,x,y\n.2,1,y,z\n.3,0,z,x", "z and x are different, but other comparisons"),
            ("score,same\n.1,1\n.2,1", "only genuine ones"),
            ("score,same,a,b\n.1,1,P/1,P/2\n.2,1,P/1,P/3", "of at least two people"),  # one person alone
            ("score,same\n.1,0\n.2,0", "only impostor ones"),
            ("score,same\n.5,1\n.5,0\n.5,0", "scores that differ, got 0.5 for all 3 comparisons"),
        ],
    )  # fmt: skip
    def test_mistakes(self, tmp_path, monkeypatch, part, text, message):
        monkeypatch.setattr("normface.protocols.score_table.ROWS", part)
        (tmp_path / "s.csv").write_text(text)
        with pytest.raises(DataError, match=re.escape(message)):
            read_scores(tmp_path / "s.csv")

    def test_no_text_and_no_file(self, tmp_path):
        (tmp_path / "s.csv").write_bytes(b"score,same\n\xff\xfe,1\n")
        with pytest.raises(DataError, match="text that is not UTF-8"):
            read_scores(tmp_path / "s.csv")
        with pytest.raises(DataError, match=r"none\.csv: no such file"):
            read_scores(tmp_path / "none.csv")

    def test_parquet_is_read_alike(self, system, tmp_path):
        pa = pytest.importorskip("pyarrow")
        from pyarrow import csv, parquet

        parquet.write_table(csv.read_csv(system[2]), tmp_path / "s.parquet")
        table = csv.read_csv(system[2])
        categories = [each.dictionary_encode() if each.type == "string" else each for each in table.columns]
        parquet.write_table(table.from_arrays(categories, table.column_names), tmp_path / "c.parquet")  # as of pandas
        assert read_scores(tmp_path / "c.parquet").pairs_sha256 == read_scores(tmp_path / "s.parquet").pairs_sha256
        one, other = (read_scores(path) for path in (system[2], tmp_path / "s.parquet"))
        assert (one.whole()["score"] == other.whole()["score"]).all()
        assert (one.ids[one.whole()["left"]] == other.ids[other.whole()["left"]]).all()
        assert one.pairs_sha256 == other.pairs_sha256
        broken = pa.table({"score": [0.5, None], "same": [True, False]})
        parquet.write_table(broken, tmp_path / "null.parquet")
        with pytest.raises(DataError, match=r"a finite number under `score`, got 'nan' in row 2 of"):
            read_scores(tmp_path / "null.parquet")
        (tmp_path / "bad.parquet").write_text("score,same\n")
        with pytest.raises(DataError, match="a Parquet file"):
            read_scores(tmp_path / "bad.parquet")

    def test_the_same_comparisons_have_one_hash_whatever_their_scores(self, tmp_path):
        rows = [(0.1, 0, "x", "y"), (0.2, 1, "x", "z")]
        one = read_scores(table(tmp_path, rows, name="1.csv"))
        other = read_scores(table(tmp_path, [(0.3, *row[1:]) for row in rows[:1]] + rows[1:], name="2.csv"))
        third = read_scores(table(tmp_path, [rows[0], (0.2, 1, "x", "w")], name="3.csv"))
        assert one.pairs_sha256 == other.pairs_sha256 != third.pairs_sha256
        assert len({one.sha256, other.sha256, third.sha256}) == 3
