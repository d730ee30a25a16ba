"""`normface models` and `normface adopt`."""

import json

import pytest
import torch
from tests.cli.conftest import one_line
from tests.embed.networks import network, write_crops

from normface.data import catalogue, fetch
from normface.models import build
from normface.types import Embeddings, InputSpec

pytestmark = pytest.mark.slow


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


def test_fetchable_models_are_listed_with_what_their_license_allows(run, tmp_path, monkeypatch):
    monkeypatch.setenv(catalogue.FOLDER, str(tmp_path))
    code, out, _ = run("models", "sface", "scrfd-10g", "--json")
    assert code == 0
    sface, scrfd = json.loads(out)
    assert (sface["model"], sface["kind"], sface["commercial"], sface["fetched"]) == (
        "sface",
        "recognizer",
        "yes",
        False,
    )
    assert sface["spec"]["template"] == "112x112"
    assert (scrfd["detector"], scrfd["commercial"], scrfd["spec"]) == ("scrfd", "no", None)
    assert "non-commercial" in scrfd["license"]
    code, out, _ = run("models", "yunet", "smallresnet")
    assert code == 0
    assert "fetchable" in out
    assert "trainable" in out
    assert "normface fetch NAME" in out


def test_without_pytorch_the_fetchable_ones_are_listed(run, monkeypatch):
    monkeypatch.setattr("normface.cli.models.find_spec", lambda name: None)
    code, out, err = run("models", "--json")
    assert code == 0
    assert {row["model"] for row in json.loads(out)} == set(catalogue.catalogue())
    assert "pip install 'normface[train]'" in err


def test_from_the_catalogue_to_vectors(run, tmp_path, monkeypatch):
    """Fetched, used by its name, refused when its bytes change; terms first where the license asks for it."""
    monkeypatch.setenv(catalogue.FOLDER, str(tmp_path / "models"))
    made = network(tmp_path / "made.onnx")
    (tmp_path / "usb").mkdir()
    made.rename(tmp_path / "usb" / "toy.onnx")
    spec = InputSpec(112, 96)
    sha256 = catalogue.sha256_of(tmp_path / "usb" / "toy.onnx")
    toy = catalogue.Listed(
        "toy", "a toy", "tests", "recognizer", "http://127.0.0.1:9/", sha256, "MIT", "yes", ("here", "there"), spec=spec
    )
    files = {toy.file: fetch.File(toy.url, toy.sha256, toy.terms)}
    monkeypatch.setattr(catalogue, "catalogue", lambda: {"toy": toy})
    monkeypatch.setitem(fetch.ENTRIES, "toy", fetch.Published(toy.about, files, toy))
    crops = write_crops(tmp_path / "crops", 2)
    words = ["embed", crops, "--model", "toy", "--out", tmp_path / "o.npz", "--json"]
    code, _, err = run(*words)
    assert code == 2
    assert one_line(err, "fetch it: normface fetch toy")
    code, _, err = run("fetch", "toy")
    assert code == 2
    assert "expected to fetch toy.onnx from http://127.0.0.1:9/, got connection refused; " in err
    assert "give its folder: --from DIR" in err
    code, out, err = run("fetch", "toy", "--from", tmp_path / "usb")
    assert code == 0
    assert out.strip() == str(tmp_path / "models" / "toy.onnx")
    assert "MIT. Commercial use: yes." in err
    code, out, _ = run(*words)
    assert code == 0
    told = json.loads(out)
    assert (told["model"], told["weights_sha256"], told["device"]) == ("toy.onnx", toy.sha256, "cpu")
    assert Embeddings.load(tmp_path / "o.npz").vectors.shape == (2, 16)
    code, _, err = run(*words[:-2], tmp_path / "p.npz", "--device", "tensorrt")
    assert code == 2
    assert one_line(err, "TensorrtExecutionProvider for --device tensorrt", "pip install onnxruntime-gpu")
    no = catalogue.Listed(**{**vars(toy), "commercial": "no"})
    monkeypatch.setitem(fetch.ENTRIES, "toy", fetch.Published(toy.about, files, no))
    code, _, err = run("fetch", "toy", "--from", tmp_path / "usb")
    assert code == 2
    assert "--accept-terms" in err
