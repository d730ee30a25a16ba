"""`evaluate` and `calibrate` from photographs, of which some give no template."""

import json

import jsonschema
import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import one_line
from tests.conftest import ROOT
from tests.embed.networks import network

from normface.data.synthetic import photograph
from normface.embed import certificate
from normface.types import OperatingPoint

pytestmark = pytest.mark.slow
SCHEMA = json.loads((ROOT / "docs" / "result.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of six people, two each, of which one shows nobody and one is no image; and pairs of them."""
    folder = tmp_path_factory.mktemp("photographs")
    for person in range(6):
        (folder / f"p{person}").mkdir()
        for picture in range(2):
            place = folder / f"p{person}" / f"{picture}.jpg"
            Image.fromarray(photograph(0, person, picture, strength=0.3)).save(place)
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(folder / "p0" / "0.jpg")
    (folder / "p1" / "1.jpg").write_bytes(b"no image")
    lines = [f"p{p}/0.jpg,p{p}/1.jpg,1" for p in range(6)]
    lines += [f"p{p}/0.jpg,p{q}/1.jpg,0" for p in range(6) for q in range(6) if p != q]
    (folder / "pairs.csv").write_text("\n".join(["a,b,same", *lines]) + "\n")
    return folder


def test_evaluate_counts_them(run, photographs, tmp_path):
    model = network(tmp_path / "model.onnx")
    words = ["evaluate", "pairs_csv", "--list", photographs / "pairs.csv", "--photographs", photographs]
    words += ["--model", model]
    code, out, err = run(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    assert found["facts"]["failures"] == {
        "counted": True, "photographs": 12, "failed": 2,
        "reasons": {"no face found": 1, "not readable as an image": 1},
    }  # fmt: skip
    assert found["metrics"]["fta"]["value"] == pytest.approx(2 / 12)
    assert found["metrics"]["fte"]["value"] == 0
    code, out, _ = run(*words, "--failures", "leave-out")
    assert "2 of 12 photographs gave no template (1 no face found, 1 not readable as an image)" in out
    assert "left out of the rates" in out
    assert one_line(run(*words[:4], "--failures", "count", "--crops", photographs)[2], "--failures alone")
    assert one_line(run(*words, "--crops", photographs)[2], "--photographs", "give one of them")


def test_calibrate_counts_them(run, photographs, tmp_path):
    model = network(tmp_path / "model.onnx")
    words = ["calibrate", "pairs_csv", "--list", photographs / "pairs.csv", "--photographs", photographs]
    words += ["--model", model, "--far", 0.2]
    code, out, err = run(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    metrics = found["metrics"]
    assert (metrics["tar"]["n"], metrics["tar_without_failures"]["n"]) == (6, 4)
    assert metrics["tar"]["value"] == pytest.approx(metrics["tar_without_failures"]["value"] * 4 / 6)
    kept = OperatingPoint.from_json(certificate(model).read_bytes())
    assert kept.tar.n == 4  # a certificate is of comparisons made
    code, out, err = run(*words, "--failures", "leave-out", "--json")
    assert json.loads(out)["metrics"]["tar"]["n"] == 4
