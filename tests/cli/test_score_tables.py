"""`evaluate`, `calibrate` and `compare` of any system by tables of its scores."""

import json

import jsonschema
import numpy as np
import pytest
from tests.cli.conftest import one_line
from tests.cli.test_calibrate import SCHEMA

from normface.types import Embeddings, OperatingPoint


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two systems' scores of the same comparisons of 40 people in 4 folds: good.csv and poor.csv; and sex.csv."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    ids = [f"P{p:02d}/{k}.jpg" for p in range(40) for k in range(2)]
    i, j = np.tril_indices(80, -1)
    chosen = i // 20 == j // 20  # folds share nobody
    i, j = i[chosen], j[chosen]
    same = i // 2 == j // 2
    for name, apart in (("good", 4.0), ("poor", 1.5)):
        scores = rng.normal(apart * same, 1)
        rows = (
            f"{s!r},{int(g)},{ids[a]},{ids[b]},{a // 20}"
            for s, g, a, b in zip(scores.tolist(), same, i, j, strict=True)
        )
        (folder / f"{name}.csv").write_text("\n".join(["score,same,a,b,fold", *rows]) + "\n")
    (folder / "sex.csv").write_text("\n".join(["id,sex", *(f"{x},{'fm'[k // 2 % 2]}" for k, x in enumerate(ids))]))
    return folder


@pytest.mark.slow
def test_evaluate(run, tables, tmp_path):
    """By --scores, --list and --data alike; with groups and a report; in words of scores, not cosines."""
    words = ["evaluate", "scores", "--scores", tables / "good.csv"]
    code, out, err = run(*words, "--json", "--groups", tables / "sex.csv", "--out", tmp_path / "r")
    assert code == 0, err
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    assert found["metrics"]["accuracy"]["n"] == 4 * 190
    assert {row["group"] for row in found["facts"]["slices"]["rows"]} == {"f", "m", "f × m"}
    assert found["facts"]["hardest"]["false_rejects"]
    page = (tmp_path / "r" / "report.html").read_text("utf-8")
    assert "Cosine" not in page
    assert ">Score<" in page
    assert not (tmp_path / "r" / "embeddings.npz").exists()
    (tmp_path / "scores.csv").write_bytes((tables / "good.csv").read_bytes())
    one, other = (
        json.loads(run("evaluate", "scores", option, path, "--json")[1])
        for option, path in (("--list", tables / "good.csv"), ("--data", tmp_path))
    )
    assert one["metrics"] == other["metrics"] == found["metrics"]
    assert one_line(run(*words, "--strict")[2], "at least 30 errors")


@pytest.mark.slow
def test_calibrate(run, tables, tmp_path):
    words = ["calibrate", "scores", "--scores", tables / "poor.csv", "--far", 0.1, "--out", tmp_path]
    code, out, err = run(*words, "--groups", tables / "sex.csv")
    assert code == 0, err
    point = OperatingPoint.from_json((tmp_path / "operating_point.json").read_bytes())
    assert (point.far.value, point.far.n, point.model_sha256) == (72 / 720, 720, "unknown")
    assert point.tar_per_person.n == 40
    assert f"accept from score {point.threshold:.4f} on" in out
    assert "poor.csv accepts from score" in out
    assert one_line(run(*words[:4], "--far", 0.1)[2], "--out with --scores")
    words = [*words[:4], "--far", 0.1, "--confident", "--out", tmp_path / "c", "--json", "--replicates", 9]
    _, out, err = run(*words)
    assert "--replicates has no effect" in err
    sure = json.loads(out)
    assert sure["metrics"]["far"]["high"] <= 0.1


@pytest.mark.slow
def test_compare(run, tables, tmp_path):
    """With folds accuracy and TAR, without folds TAR alone."""
    code, out, err = run("compare", tables / "good.csv", tables / "poor.csv", "--far", 0.01, "--replicates", 100)
    assert code == 0, err
    assert "good.csv is more accurate than poor.csv" in out
    for name in ("good", "poor"):
        rows = [line.rpartition(",")[0] for line in (tables / f"{name}.csv").read_text().splitlines()]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
    code, out, err = run("compare", tmp_path / "good.csv", tmp_path / "poor.csv", "--json")
    assert code == 0, err
    (found,) = json.loads(out)["differences"]
    assert found["metrics"].keys() == {"tar_difference"}
    assert found["metrics"]["tar_difference"]["low"] > 0
    out = run("compare", tmp_path / "poor.csv", tmp_path / "good.csv")[1]
    assert "good.csv is more often right about one person at FAR 1 % than poor.csv" in out
    (tmp_path / "other.csv").write_text("\n".join((tmp_path / "good.csv").read_text().splitlines()[:-1]))
    assert one_line(
        run("compare", tmp_path / "good.csv", tmp_path / "other.csv")[2],
        "results on the same comparisons",
        "different lists: ",
    )


def test_mistakes(run, tables, tmp_path):
    """One line each, exit code 2."""
    scores = ["--scores", tables / "good.csv"]
    Embeddings(np.eye(3), ["a", "b", "c"]).save(tmp_path / "f.npz")
    for words, part in (
        (["evaluate", "lfw", *scores], "--scores with the protocol scores"),
        (["evaluate", "scores"], "--data"),
        (["evaluate", "scores", *scores, "--embeddings", tmp_path / "f.npz"], "options of scores, got --embeddings"),
        (["evaluate", "scores", *scores, "--certify"], "got --certify"),
        (["calibrate", "scores", *scores, "--partial", "--out", tmp_path], "got --partial"),
        (["evaluate", "scores", "--scores", tmp_path / "none.csv"], "no such file"),
        (["evaluate", "scores", "--scores", tmp_path / "f.npz"], "text that is not UTF-8"),
        (["compare", tables / "good.csv", tmp_path], "--data"),
    ):
        code, _, err = run(*words)
        assert code == 2
        assert one_line(err, part)
    (tmp_path / "plain.csv").write_text("score,same\n.1,0\n.9,1\n.2,0\n.3,1\n")
    plain = ["--scores", tmp_path / "plain.csv"]
    assert one_line(run("calibrate", "scores", *plain, "--out", tmp_path)[2], "columns a and b")
    assert one_line(run("evaluate", "scores", *plain, "--groups", tables / "sex.csv")[2], "--groups with named images")
    assert one_line(run("calibrate", "scores", *scores, "--far", 1e-6, "--out", tmp_path)[2], "at least 1/720")
