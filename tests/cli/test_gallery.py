"""enrol, search, people and forget as a user runs them, with a network of averages."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.cli.conftest import one_line

from normface.data import open_reader
from normface.gallery import open_gallery
from normface.types import Embeddings, InputSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Averages of 16×16 pixels: [N, 3, 112, 96] → [N, 126]."""
    path = tmp_path_factory.mktemp("model") / "averages.onnx"
    graph = helper.make_graph(
        [helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[16, 16], strides=[16, 16]),
         helper.make_node("Flatten", ["p"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 112, 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 126])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    path.with_suffix(".spec.json").write_text(InputSpec(112, 96).to_json())
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("NORMFACE_GALLERY", f"file:{tmp_path / 'people.db'}")
    return tmp_path / "people.db"


def shown(output):
    return json.loads(output)


def test_from_photographs_to_oblivion(run, model, place, drawn, tmp_path):
    crops = extracted(drawn, tmp_path, 3)
    code, out, err = run(
        "enrol", "Ann [b]", *crops[:2], "--aligned", "--model", model, "--consent", "form 12", "--json"
    )
    assert code == 0, err
    assert (shown(out)["templates"], shown(out)["templates_in_all"]) == (3, 3)
    code, out, _ = run("enrol", "Bo", crops[2], "--aligned", "--model", model)
    assert "Bo enrolled with 1 template, 4 in all" in out
    code, out, _ = run("search", crops[2], "--aligned", "--model", model, "-k", 1, "--json")
    assert shown(out)["matches"][0]["person"] == "Bo"
    assert shown(out)["matches"][0]["score"] == pytest.approx(1, abs=1e-6)
    assert shown(out)["matches"][0]["accepted"] is None
    code, out, _ = run("search", crops[0], "--aligned", "--model", model)
    assert "Ann [b]" in out
    assert "no operating point" in out
    code, out, _ = run("people")
    assert "Ann [b]" in out
    assert "form 12" in out
    code, out, _ = run("people", "--json", "--backup", tmp_path / "b.db", "--export", tmp_path / "v.npz")
    assert [(p["person"], p["templates"]) for p in shown(out)["people"]] == [("Ann [b]", 3), ("Bo", 1)]
    assert Embeddings.load(tmp_path / "v.npz").ids.tolist() == [*(f"Ann [b]/000{i}" for i in (1, 2, 3)), "Bo/0001"]
    code, out, _ = run("forget", "Ann [b]", "--compact", "--json")
    assert shown(out) == {"person": "Ann [b]", "templates": 3, "wiped": True, "templates_left": 1}
    code, out, _ = run("people", "--log", "--json")
    assert [e["action"] for e in shown(out)["log"]].count("forget") == 1
    with open_gallery(tmp_path / "b.db") as backup:
        assert len(backup) == 4


def test_management(run, model, place, drawn, tmp_path):
    """The group `gallery`: lists, log, backup, export, and moving to another model person by person."""
    faces = drawn / "train" / "faces-112.zip"
    assert run("enrol", "--from", faces, "--model", model)[0] == 0
    code, out, _ = run("gallery", "list", "--json")
    assert (code, out) == (0, run("people", "--json")[1])
    total, people = shown(out)["templates"], [each["person"] for each in shown(out)["people"]]
    assert people[0] in run("gallery", "list")[1]
    assert {event["action"] for event in shown(run("gallery", "log", "--json")[1])["log"]} >= {"enrol"}
    assert shown(run("gallery", "backup", "--out", tmp_path / "b.db", "--json")[1])["templates"] == total
    assert shown(run("gallery", "export", "--out", tmp_path / "v.npz", "--json")[1])["people"] == len(people)
    assert len(Embeddings.load(tmp_path / "v.npz")) == total
    assert shown(run("gallery", "compact", "--json")[1])["templates"] == total
    other = tmp_path / "other.onnx"
    graph = onnx.load(model)
    graph.doc_string = "another file, so another model"
    onnx.save(graph, other)
    other.with_suffix(".spec.json").write_text(InputSpec(112, 96).to_json())
    for name in ("some", "rest"):
        (tmp_path / name).mkdir()
    reader = open_reader(faces)
    for row, id in enumerate(reader.ids.tolist()):
        file = tmp_path / ("some" if id.startswith(people[0]) else "rest") / id
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(reader.encoded(row))
    code, out, _ = run("gallery", "migrate", "--from", tmp_path / "some", "--model", other, "--json")
    assert (code, shown(out)["switched"], shown(out)["missing"]) == (1, False, people[1:])
    code, out, err = run("gallery", "migrate", "--from", tmp_path / "rest", "--model", other, "--json")
    assert code == 0, err
    assert (shown(out)["switched"], shown(out)["erased"]) == (True, total)
    assert shown(run("gallery", "list", "--json")[1])["model"] == shown(out)["model"]


def extracted(drawn, folder, count):
    """Some aligned crops as files."""
    reader = open_reader(drawn / "train" / "faces-112.zip")
    files = [folder / f"crop{number}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(reader.encoded(5 * number))
    return files


def test_in_bulk(run, model, place, drawn, tmp_path):
    reader = open_reader(drawn / "train" / "faces-112.zip")
    code, out, err = run("enrol", "--from", drawn / "train" / "faces-112.zip", "--model", model, "--json")
    assert code == 0, err
    assert (shown(out)["people"], shown(out)["templates"]) == (len(reader.identities), len(reader))
    Embeddings(np.eye(4, 126), np.array(["Zoë/1", "Zoë/2", "../x/1", "Yo/1"])).save(tmp_path / "v.npz")
    code, out, err = run("enrol", "--embeddings", tmp_path / "v.npz", "--json")
    assert code == 0, err
    assert (shown(out)["people"], shown(out)["templates"]) == (3, 4)
    _, out, _ = run("people", "--json")
    assert {"Zoë", "..", "Yo"} <= {p["person"] for p in shown(out)["people"]}


def test_mistakes(run, model, place, drawn, tmp_path, monkeypatch):
    crop = extracted(drawn, tmp_path, 1)[0]
    for words in (["people"], ["forget", "Ann"], ["search", crop, "--aligned", "--model", model]):
        assert one_line(run(*words)[2], "nothing there")
    assert run("enrol", "Ann")[0] == 2
    assert run("enrol", "Ann", crop, "--from", tmp_path)[0] == 2
    assert run("enrol", "Ann", crop, "--aligned", "--model", model)[0] == 0
    assert one_line(run("forget", "Bo")[2], "'Bo'", "normface people")
    assert one_line(run("enrol", "A\nb", crop, "--aligned", "--model", model)[2], "printable")
    Embeddings(np.eye(2, 16), np.array(["A/1", "B/1"])).save(tmp_path / "v.npz")
    assert one_line(run("enrol", "--embeddings", tmp_path / "v.npz")[2], "length 126", "length 16")
    Embeddings(np.eye(2, 126), np.array(["A", "B"])).save(tmp_path / "v.npz")
    assert one_line(run("enrol", "--embeddings", tmp_path / "v.npz")[2], "Name/0001.jpg")
    monkeypatch.setenv("NORMFACE_GALLERY_KEY", "ab" * 32)
    assert one_line(run("people")[2], "is not encrypted")
    assert one_line(run("people", "--gallery", f"milvus:{tmp_path / 'm.db'}")[2], "no key")
