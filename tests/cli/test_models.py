"""`normface models` and `normface adopt`."""

import json

import torch
from tests.cli.conftest import one_line

from normface.models import build


def test_models_are_listed_with_their_cost(run):
    code, out, _ = run("models", "sphereface20", "lightcnn_b", "centerface", "--json")
    rows = {row["model"]: row for row in json.loads(out)}
    assert code == 0
    assert rows.keys() == {"lightcnn_b", "sphereface20", "centerface"}
    assert rows["centerface"]["parameters"] == 27_536_800
    assert (rows["lightcnn_b"]["channels"], rows["lightcnn_b"]["template"]) == (1, "128x128")
    flops = [row["flops"] for row in rows.values()]
    assert flops == sorted(flops)


def test_measured(run, monkeypatch):
    monkeypatch.setattr("normface.cli.models.SECONDS", 0.1)
    code, out, err = run("models", "smallresnet", "--measure")
    assert code == 0
    assert "images/s" in out
    assert "3.75 M" in out
    assert "speeds vary with load" in err


def test_a_wrong_name(run):
    code, _, err = run("models", "iresnet51")
    assert code == 2
    assert one_line(err, "did you mean 'iresnet50'")


def test_adopting(run, tmp_path):
    theirs = dict(build("lightcnn_b").state_dict().items())
    names = build("lightcnn_b").origin.modules
    state = {}
    for key, t in theirs.items():
        module = next(m for m in names if key.startswith(f"{m}."))
        state[names[module] + key.removeprefix(module)] = t
    torch.save(state, tmp_path / "theirs.pt")
    code, out, _ = run("adopt", tmp_path / "theirs.pt", "--model", "lightcnn_b", "--out", tmp_path / "run")
    assert code == 0
    assert "license of the weights: MIT" in out
    code, _, err = run("adopt", tmp_path / "theirs.pt", "--model", "iresnet18", "--out", tmp_path / "other")
    assert code == 2
    assert one_line(err, "arcface_torch", "missing")
