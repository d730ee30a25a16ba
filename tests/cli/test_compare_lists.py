"""`normface compare --list`: two systems on a user's own pairs."""

import csv
import json

import numpy as np
import pytest

from normface.types import Embeddings


@pytest.mark.slow
def test_on_pairs_of_ones_own(run, tmp_path):
    rng = np.random.default_rng(0)
    people = [f"P{k}" for k in range(40)]
    ids = [f"{name}/{i}.jpg" for name in people for i in range(2)]
    centers = np.repeat(rng.normal(size=(40, 64)), 2, axis=0)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "same", "fold"])
        for k, name in enumerate(people):
            rows.writerow([f"{name}/0.jpg", f"{name}/1.jpg", 1, k % 4])
            rows.writerow([f"{name}/0.jpg", f"{people[k - 1]}/1.jpg", 0, k % 4])
    for name, noise in (("good", 0.3), ("bad", 3.0)):
        Embeddings(centers + noise * rng.normal(size=centers.shape), np.array(ids)).save(tmp_path / f"{name}.npz")
        words = ["--list", tmp_path / "pairs.csv", "--embeddings", tmp_path / f"{name}.npz", "--out", tmp_path / name]
        assert run("evaluate", "pairs_csv", *words)[0] == 0
    words = [
        "compare",
        tmp_path / "good",
        tmp_path / "bad",
        "--list",
        tmp_path / "pairs.csv",
        "--far",
        "0.05",
        "--replicates",
        100,
    ]
    code, told, err = run(*words, "--json", "--out", tmp_path / "both")
    assert code == 0, err
    kept = {path.name: path.read_text("utf-8") for path in (tmp_path / "both").iterdir()}
    assert kept.keys() == {"report.html", "report.md", "comparison.json"}
    assert json.loads(kept["comparison.json"]) == json.loads(told)
    verdict = f"on {tmp_path / 'pairs.csv'}, good is more accurate than bad"
    assert all(verdict in kept[name] for name in ("report.html", "report.md"))
    (found,) = json.loads(told)["differences"]
    right = {name: result["metrics"]["accuracy"]["value"] for name, result in json.loads(told)["results"].items()}
    assert right["good"] > right["bad"]
    assert found["metrics"]["accuracy_difference"]["value"] == pytest.approx(right["good"] - right["bad"])
    assert found["facts"]["pairs"] == 80
    tars = []
    for name in ("good", "bad"):
        first, second = Embeddings.load(tmp_path / f"{name}.npz").vectors.reshape(40, 2, 64).swapaxes(0, 1)
        refused = np.sort(np.sum(first * np.roll(second, 1, axis=0), axis=1))[-1 - 2]  # of 40 impostors 2 are 5 %
        tars.append(np.mean(np.sum(first * second, axis=1) > refused))
    assert found["facts"]["far"] == 0.05
    assert found["metrics"]["tar_difference"]["value"] == pytest.approx(tars[0] - tars[1])
    assert found["facts"]["p_tar"] < 1e-3
    assert "p < 1e-06)" in kept["report.md"] or f"p = {found['facts']['p_tar']:.2g})" in kept["report.md"]
