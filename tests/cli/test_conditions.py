"""Decisions that are not made: what the certificate does not cover is undecided, and refused at enrolment."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import one_line
from tests.embed.networks import network, write_crops

from normface.conditions import Conditions
from normface.embed import Embedder, certificate, refuse_outside
from normface.errors import FaceError
from normface.types import OperatingPoint

pytestmark = pytest.mark.slow

DARK = Conditions(
    {"light": (50, 250)}, ("odd",), (), ((*[0.0] * 16, -1.0),), 0.0, (-10.0,), (0.025,)
)  # all but the dark is inside


@pytest.fixture
def covered(tmp_path):
    """A model whose certificate covers no dark crops; a bright and a dark crop, and one without conditions."""
    path = network(tmp_path / "model.onnx")
    kept = certificate(path)
    kept.write_text(replace(OperatingPoint.from_json(kept.read_bytes()), conditions=DARK).to_json())
    crops = []
    for name, light in (("a", 110), ("b", 110), ("dark", 25)):
        folder = write_crops(tmp_path / name, 1, light)
        crops.append(folder / "p0" / "0.png")
    return path, *crops


class TestDecisions:
    def test_python(self, covered):
        model, bright, _, dark = covered
        embedder = Embedder.load(model)
        a, b = (np.asarray(Image.open(path)) for path in (bright, dark))
        match = embedder.verify(a, b, aligned=True, names=("a.jpg", "b.jpg"))
        assert match.undecided
        assert match.outside[0].startswith("b.jpg: too dark (light ")
        assert match.risk == 0.025
        anyway = embedder.verify(a, b, aligned=True, anyway=True)
        assert anyway.decision == (anyway.score >= embedder.operating_point.threshold)
        assert anyway.outside
        assert embedder.verify(a, a, aligned=True).decision is True

    def test_verify(self, covered, run):
        model, bright, _, dark = covered
        code, out, _ = run("verify", bright, dark, "--aligned", "--model", model)
        assert code == 3
        assert out.startswith("undecided: cosine ")
        assert "too dark" in out
        assert "about 1 in 40 strangers" in out
        assert "--anyway" in out
        code, out, _ = run("verify", bright, dark, "--aligned", "--model", model, "--json")
        told = json.loads(out)
        assert (code, told["decision"], told["same"], told["risk"]) == (3, "undecided", None, 0.025)
        assert "too dark" in told["outside"][0]
        code, out, _ = run("verify", bright, dark, "--aligned", "--model", model, "--anyway")
        assert code == 0
        assert "warning: decided although" in out
        assert "evidence" not in out  # it was measured on other photographs
        code, out, _ = run("verify", bright, bright, "--aligned", "--model", model, "--json")
        assert (code, json.loads(out)["decision"]) == (0, "same")

    def test_an_older_certificate_decides_as_before_and_says_so(self, covered, run):
        model, bright, _, dark = covered
        kept = certificate(model)
        raw = json.loads(kept.read_bytes())
        del raw["conditions"]
        kept.write_text(json.dumps(raw))
        for words in ([], ["--json"]):
            code, _, err = run("verify", bright, dark, "--aligned", "--model", model, *words)
            assert code == 0
            assert "warning: the certificate of model.onnx has no conditions" in err

    def test_enrol_and_search(self, covered, run, tmp_path):
        model, bright, other, dark = covered
        place = ["--gallery", f"file:{tmp_path / 'people.db'}", "--model", model]
        code, _, err = run("enrol", "Ann", bright, dark, "--aligned", *place)
        assert code == 2
        assert one_line(err, "the model's certificate covers", "too dark", "--anyway")
        assert run("enrol", "Ann", bright, "--aligned", *place)[0] == 0
        assert run("enrol", "Bo", dark, "--aligned", *place, "--anyway", "--twin")[0] == 0
        code, out, _ = run("search", dark, "--aligned", *place, "--json")
        told = json.loads(out)
        assert (code, told["undecided"], {each["accepted"] for each in told["matches"]}) == (3, True, {None})
        code, out, _ = run("search", dark, "--aligned", *place)
        assert code == 3
        assert "undecided" in out
        assert "too dark" in out
        code, out, _ = run("search", dark, "--aligned", *place, "--anyway", "--json")
        assert (code, json.loads(out)["matches"][0]["accepted"]) == (0, True)
        assert run("search", other, "--aligned", *place)[0] == 0

    def test_enrol_many(self, covered, run, tmp_path):
        model = covered[0]
        place = ["--gallery", f"file:{tmp_path / 'many.db'}", "--model", model, "--json"]
        source = write_crops(tmp_path / "source", 3)
        write_crops(tmp_path / "more", 1, 20)
        (tmp_path / "more" / "p0").rename(source / "night")
        code, _, err = run("enrol", "--from", source, *place, "--strict")
        assert code == 2
        assert one_line(err, "crops that the model's certificate covers", "1 others")
        code, out, err = run("enrol", "--from", source, *place, "--twin")
        assert (code, json.loads(out)["templates"]) == (0, 3)
        assert "left out: night/0.png: too dark" in err
        code, out, _ = run("enrol", "--from", source, *place, "--anyway", "--twin")
        told = json.loads(out)
        assert (code, told["templates"], told["duplicates"]) == (0, 1, 3)

    def test_refusal_by_the_library(self, covered):
        model, _, _, dark = covered
        embedder = Embedder.load(model)
        seen = embedder.see([embedder.portrait(np.asarray(Image.open(dark)), aligned=True)])
        with pytest.raises(FaceError, match=r"ann\.jpg: too dark"):
            refuse_outside(seen, ["ann.jpg"])


def test_calibrate_writes_them(tmp_path, run):
    model = network(tmp_path / "model.onnx")
    certificate(model).unlink()
    crops, faces, bright = (write_crops(tmp_path / name, 60, light) for name, light in
                            (("crops", 110), ("faces", 110), ("bright", 240)))  # fmt: skip
    for person in range(60):
        (crops / f"p{person}" / "1.png").write_bytes((crops / f"p{person}" / "0.png").read_bytes())
    calibrating = ["calibrate", "all_pairs", "--crops", crops, "--model", model, "--far", 0.1]
    code, _, err = run(*calibrating, "--conditions", f"bright={bright}")
    assert code == 2
    assert one_line(err, "--conditions FACES")
    code, _, err = run(*calibrating, "--conditions", faces, "--conditions", f"bright={bright}", "--json")
    assert code == 0, err
    made = OperatingPoint.from_json(certificate(model).read_bytes())
    assert made.conditions
    assert made.conditions.kinds[-1] == "bright"
    assert made.conditions.facts["inside"] == 120
    assert Embedder.load(model).operating_point.conditions == made.conditions
    assert asdict(made.conditions)["ranges"].keys() >= {"sharpness", "eye_distance"}
