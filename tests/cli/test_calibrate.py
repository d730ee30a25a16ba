"""`calibrate` and `compare` on vectors that are the truth, and on noisy ones."""

import json

import jsonschema
import numpy as np
import pytest
from tests.cli.conftest import one_line
from tests.conftest import ROOT

from normface.embed import Embedder, Network
from normface.errors import ModelError
from normface.protocols import read_lfw_pairs
from normface.types import Embeddings, InputSpec, OperatingPoint, Result

SCHEMA = json.loads((ROOT / "docs" / "result.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def systems(drawn, tmp_path_factory):
    """A folder with good.npz, poor.npz and noise.npz of all images on the drawn list."""
    folder = tmp_path_factory.mktemp("systems")
    named = read_lfw_pairs(drawn / "lfw" / "pairs.txt")
    ids = np.unique(np.concatenate([named.left, named.right]))
    people = np.unique([id.partition("/")[0] for id in ids.tolist()], return_inverse=True)[1]
    rng = np.random.default_rng(0)
    for name, noise in (("good", 0.1), ("poor", 0.6), ("noise", 100)):
        vectors = np.eye(people.max() + 1)[people] + noise * rng.standard_normal((len(ids), people.max() + 1))
        Embeddings(vectors, ids).save(folder / f"{name}.npz")
    pairs = np.sort(np.stack([named.left, named.right], 1), 1)  # the drawn list repeats some
    lines = [f"{a},{b},{int(same)}" for (a, b), same in zip(pairs.tolist(), named.same, strict=True)]
    (folder / "pairs.csv").write_text("\n".join(["a,b,same", *dict.fromkeys(lines)]) + "\n")
    sex = [f"{id},{'FM'[person % 2]}" for id, person in zip(ids.tolist(), people.tolist(), strict=True)]
    (folder / "groups.csv").write_text("\n".join(["id,sex", *sex]) + "\n")
    return folder


def own(systems):
    return ["pairs_csv", "--list", systems / "pairs.csv", "--embeddings", systems / "poor.npz"]


class TestCalibrate:
    @pytest.mark.slow
    def test_own_pairs_with_groups(self, run, systems, tmp_path):
        words = [
            "calibrate",
            "pairs_csv",
            "--list",
            systems / "pairs.csv",
            "--embeddings",
            systems / "poor.npz",
        ]
        code, out, err = run(
            *words, "--far", 0.2, "--groups", systems / "groups.csv", "--out", tmp_path / "c", "--json"
        )
        assert code == 0, err
        found = json.loads(out)
        jsonschema.validate(found, SCHEMA)
        assert {p.name for p in (tmp_path / "c").iterdir()} == {
            "operating_point.json", "report.html", "report.md", "result.json",
        }  # fmt: skip
        point = OperatingPoint.from_json((tmp_path / "c" / "operating_point.json").read_text())
        assert point.far.value <= 0.2
        assert found["facts"]["threshold"] == point.threshold
        assert {row["column"] for row in found["facts"]["slices"]["rows"]} == {"sex"}

        # Held to a rate with its whole interval: a higher threshold; too few errors are refused where asked
        code, out, err = run(*words, "--far", 0.5, "--confident", "--out", tmp_path / "e", "--json")
        assert code == 0, err
        sure = json.loads(out)
        jsonschema.validate(sure, SCHEMA)
        assert sure["metrics"]["far"]["high"] <= 0.5
        assert sure["facts"]["confident"] is True
        assert one_line(run(*words, "--far", 0.2, "--confident", "--out", tmp_path / "e")[2], "97.5 % confidence")
        assert one_line(run(*words, "--far", 0.1, "--strict", "--out", tmp_path / "e")[2], "at least 30 errors", "FAR")

        # In words, and compared with itself
        code, out, _ = run(*words, "--far", 0.2, "--out", tmp_path / "d")
        assert f"accept from cosine {point.threshold:.4f} on; a score there is" in out
        assert run("compare", tmp_path / "c", tmp_path / "d")[0] == 0

    @pytest.mark.slow
    def test_every_pair_of_ones_own(self, run, systems):
        """A false accept rate that the list's impostors cannot resolve."""
        vectors = Embeddings.load(systems / "poor.npz")
        words = ["calibrate", "all_pairs", "--embeddings", systems / "poor.npz", "--out", systems / "every"]
        code, out, err = run(*words, "--far", 0.01, "--json")
        assert code == 0, err
        metrics = json.loads(out)["metrics"]
        assert metrics["far"]["n"] + metrics["tar"]["n"] == len(vectors) * (len(vectors) - 1) / 2
        assert metrics["far"]["value"] <= 0.01
        assert one_line(run(*words)[2], "--far")

        # A certificate of vectors is no model's
        point = OperatingPoint.from_json((systems / "every" / "operating_point.json").read_text())
        with pytest.raises(ModelError, match="certified on unknown"):
            Embedder(Network(lambda pixels: pixels, InputSpec(4, 4), "ab12", point))

    @pytest.mark.slow
    def test_in_part(self, run, systems, tmp_path):
        """What has no vector is left out only where asked to; the certificate and the result say so."""
        vectors = Embeddings.load(systems / "poor.npz")
        Embeddings(vectors.vectors[1:], vectors.ids[1:]).save(tmp_path / "some.npz")
        words = ["calibrate", "pairs_csv", "--list", systems / "pairs.csv", "--embeddings", tmp_path / "some.npz"]
        words += ["--far", 0.2, "--out", tmp_path / "c"]
        assert one_line(run(*words)[2], "none for 1", "--partial")
        code, out, err = run(*words, "--partial")
        assert code == 0, err
        assert out.startswith(f"Partial: 1 of {len(vectors)} images have no vector (first: {vectors.ids[0]})")
        point = OperatingPoint.from_json((tmp_path / "c" / "operating_point.json").read_text())
        assert point.protocol == "pairs_csv, some.npz, partial"
        assert "Partial: 1 of" in (tmp_path / "c" / "report.html").read_text("utf-8")
        words = ["calibrate", "all_pairs", *words[4:], "--partial"]
        assert one_line(run(*words)[2], "--partial with a list")

    def test_mistakes(self, run, drawn, systems, tmp_path):
        vectors = ["--embeddings", systems / "poor.npz", "--out", tmp_path]
        assert one_line(run("calibrate", "lfw", "--data", drawn)[2], "--out with --embeddings or the default model")
        assert one_line(run("calibrate", "lfw", *vectors[:2])[2], "--out")
        assert one_line(run("calibrate", "lfw", *vectors)[2], "--data")
        assert one_line(run("calibrate", "lwf", "--data", drawn, *vectors)[2], "did you mean 'lfw'")
        assert one_line(run("calibrate", "blufr", "--data", drawn, *vectors)[2], "--far")
        assert one_line(run("calibrate", "blufr", "--data", drawn, "--far", 0.1, *vectors)[2], "blufr_lfw_config.mat")
        assert one_line(run("calibrate", "pairs_csv", "--list", tmp_path / "none.csv", *vectors)[2], "none.csv")
        impostors = int((~read_lfw_pairs(drawn / "lfw" / "pairs.txt").same).sum())
        words = ["calibrate", "lfw", "--data", drawn, *vectors]
        assert one_line(run(*words, "--far", 1e-6)[2], f"at least 1/{impostors}")
        (tmp_path / "g.csv").write_text("name,sex\n")
        assert one_line(run(*words, "--groups", tmp_path / "g.csv")[2], "a header")
        assert not (tmp_path / "result.json").exists()


class TestCompare:
    @pytest.mark.slow
    def test_three_systems(self, run, drawn, systems, tmp_path):
        """Vectors that are the truth against noise, on the drawn list."""
        code, out, _ = run(
            "compare", *(systems / f"{name}.npz" for name in ("good", "noise", "poor")), "--data", drawn, "--far", 0.1,
            "--out", tmp_path,
        )  # fmt: skip
        assert code == 0
        assert "good.npz is more accurate than noise.npz" in out
        assert "| accuracy | 100.00 %" in out
        page = (tmp_path / "report.html").read_text()
        assert page.count("<svg") == 8  # ROC and DET of all; scores and evidence of each
        assert "good.npz is more accurate" in page

    def test_a_system_and_itself(self, run, drawn, systems):
        code, out, _ = run(
            "compare", systems / "good.npz", systems / ".." / systems.name / "good.npz", "--data", drawn, "--far", 0.1,
            "--json",
        )  # fmt: skip
        assert code == 0
        (difference,) = json.loads(out)["differences"]
        assert difference["facts"]["p_mcnemar"] == difference["facts"]["p_tar"] == 1

    @pytest.mark.slow
    def test_results_of_folders(self, run, drawn, systems, tmp_path):
        for name in ("good", "poor"):
            words = ["--embeddings", systems / f"{name}.npz", "--out", tmp_path / name]
            assert run("evaluate", "lfw", "--data", drawn, *words)[0] == 0
        code, out, _ = run("compare", tmp_path / "good", tmp_path / "poor" / "result.json", "--json")
        assert code == 0
        found = json.loads(out)
        assert list(found["results"]) == ["good", "poor"]
        assert found["differences"] == []
        kept = Result.from_json((tmp_path / "poor" / "result.json").read_text())
        assert found["results"]["poor"] == json.loads(kept.to_json())
        # With the list, vectors beside the results are compared pair by pair
        code, out, _ = run("compare", tmp_path / "good", tmp_path / "poor", "--data", drawn, "--far", 0.1)
        assert code == 0
        assert "McNemar p =" in out

        (tmp_path / "poor" / "embeddings.npz").unlink()
        assert one_line(run("compare", tmp_path / "good", tmp_path / "poor", "--data", drawn)[2], "none of poor")
        other = json.loads(kept.to_json())
        other["facts"]["pairs_sha256"] = "other"
        (tmp_path / "poor" / "result.json").write_text(json.dumps(other))
        assert one_line(
            run("compare", tmp_path / "good", tmp_path / "poor")[2],
            "results on the same comparisons",
            "different lists: ",
        )
        (tmp_path / "poor" / "result.json").write_text("[]")
        assert one_line(run("compare", tmp_path / "good", tmp_path / "poor")[2], "a result.json")

    def test_mistakes(self, run, systems):
        assert one_line(run("compare", systems / "good.npz")[2], "at least two")
        assert one_line(run("compare", systems / "good.npz", systems / "poor.npz")[2], "--data")
