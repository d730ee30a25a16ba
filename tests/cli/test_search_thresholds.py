"""`calibrate identification`, and searches that decide by its table or say that they do not."""

import json

import jsonschema
import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import one_line
from tests.conftest import ROOT
from tests.embed.networks import network, write_crops

from normface.embed import certificate
from normface.gallery import open_gallery
from normface.types import Embeddings, Estimate, OperatingPoint

pytestmark = pytest.mark.slow
SCHEMA = json.loads((ROOT / "docs" / "result.schema.json").read_text("utf-8"))


@pytest.fixture
def model(tmp_path):
    return network(tmp_path / "model.onnx")


@pytest.fixture
def crops(tmp_path):
    """Forty people, two alike crops each."""
    folder = write_crops(tmp_path / "crops", 40)
    for person in folder.iterdir():
        pixels = np.asarray(Image.open(person / "0.png")).astype(int)
        Image.fromarray(np.clip(pixels + 9, 0, 255).astype(np.uint8)).save(person / "1.png")
    return folder


def test_from_crops_to_a_search(run, model, crops, tmp_path):
    calibrating = ["calibrate", "identification", "--crops", crops, "--model", model, "--fpir", 0.1]
    place = ["--gallery", f"file:{tmp_path / 'people.db'}", "--model", model]
    assert run("enrol", "--from", crops, *place, "--twin")[0] == 0  # crops of noise are alike
    who = crops / "p3" / "1.png"

    # Without a table: by verification's threshold, and never in silence
    code, out, err = run("search", who, "--aligned", *place, "--json")
    told = json.loads(out)
    assert (code, told["threshold"], told["search"]["point"]) == (0, 0.3, None)
    assert told["search"]["false_matches"] == pytest.approx(80 * 0.01)  # templates · FAR of the certificate
    assert "decided by a verification threshold" in told["warning"]
    assert "decided by a verification threshold" in err
    assert "0.8 people" in err

    code, out, err = run(*calibrating, "--enrolled", "100,10,30", "--json")
    assert one_line(err, "at most 39 enrolled at FPIR 0.1", "40 people", "got 100")
    code, out, err = run(*calibrating, "--enrolled", "10,30", "--json")
    assert code == 0, err
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    point = OperatingPoint.from_json(certificate(model).read_bytes())
    assert point.threshold == 0.3  # verification's stays
    assert point.search
    few, many = point.search.points
    assert found["facts"]["thresholds"] == {"enrolled=10": few.threshold, "enrolled=30": many.threshold}
    assert found["metrics"]["fpir@enrolled=30"]["value"] == many.fpir.value <= 0.1

    # 80 templates are more than the table has: its last row, with a warning
    code, out, err = run("search", who, "--aligned", *place, "--json")
    told = json.loads(out)
    assert told["threshold"] == many.threshold
    assert "the most in the certificate's table" in err
    assert told["matches"][0]["accepted"] == (told["matches"][0]["score"] >= many.threshold)
    place[1] = f"file:{tmp_path / 'few.db'}"
    assert run("enrol", "Ann", *crops.glob("p[1-4]/*.png"), "--aligned", *place, "--same-person")[0] == 0
    code, out, err = run("search", who, "--aligned", *place)
    assert (code, err.count("\n")) == (0, 1)
    assert "has no conditions" in err  # the only warning: the toy certificate's rows decide
    assert f"threshold {few.threshold:.4f} for up to 10 templates" in out
    with open_gallery(place[1]) as opened:
        count = len(opened)
    assert f"expected false matches among the {count} here: {few.false_matches * count / 10:.2g}" in out


def test_of_vectors_and_lists(run, tmp_path):
    rng = np.random.default_rng(0)
    ids = [f"{name}{k}.jpg" for k in range(60) for name in "ab"]
    vectors = np.repeat(rng.normal(size=(60, 8)), 2, 0) + 0.3 * rng.normal(size=(120, 8))
    Embeddings(vectors, ids).save(tmp_path / "v.npz")
    lines = [f"{each},{each[1:-4]},{'gallery' if each[0] == 'a' else 'probe'}" for each in ids]
    (tmp_path / "list.csv").write_text("\n".join(["id,person,role", *lines]) + "\n")
    words = ["calibrate", "identification", "--embeddings", tmp_path / "v.npz", "--list", tmp_path / "list.csv"]
    words += ["--fpir", 0.2, "--out", tmp_path]
    assert one_line(run(*words, "--enrolled", "20")[2], "a certificate to add", "calibrate all_pairs")
    rate = Estimate(0.01, 0.0, 0.1, 9)
    kept = tmp_path / "operating_point.json"
    kept.write_text(OperatingPoint(0.3, None, rate, rate, "lfw", "unknown", "d").to_json())
    code, out, err = run(*words, "--enrolled", "20,30")
    assert code == 0, err
    assert "FPIR at 20 enrolled" in out
    assert "up to 20 templates: accept from cosine" in out
    assert OperatingPoint.from_json(kept.read_bytes()).search.people == 60

    assert one_line(run(*words, "--enrolled", "many")[2], "in whole numbers", "'many'")
    assert one_line(run(*words, "--enrolled", "0")[2], "sizes of galleries", "got 0")
    assert one_line(run(*words[:-4], "--out", tmp_path)[2], "--fpir and --enrolled")
    assert one_line(run(*words, "--enrolled", "20", "--far", 0.1)[2], "--far")
    assert one_line(run("calibrate", "all_pairs", *words[2:4], "--enrolled", "9")[2], "with identification")
