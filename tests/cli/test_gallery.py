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

pytestmark = pytest.mark.slow


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


def test_who_is_enrolled_twice(run, model, place, drawn, tmp_path):
    crops = extracted(drawn, tmp_path, 2)
    words = ("--aligned", "--model", model)
    assert run("enrol", "Ann", crops[0], *words)[0] == 0
    code, out, _ = run("enrol", " ann", *crops, *words, "--keep", "each", "--json")
    assert (code, shown(out)["templates"], shown(out)["duplicates"]) == (0, 1, 1)
    code, _, err = run("enrol", "Bo", crops[0], *words)
    assert code == 2
    assert one_line(err, "a face known as Ann", "--same-person", "--twin")
    assert "Bo" not in run("people")[1]
    assert run("enrol", "Bo", crops[0], *words, "--twin")[0] == 0
    assert run("enrol", "Cy", crops[0], *words, "--same-person")[0] == 0  # known as Ann or Bo already
    assert "Cy" not in run("people")[1]
    assert one_line(run("enrol", "Cy", crops[0], *words, "--twin", "--same-person")[2], "both")
    assert "nearly called as Ann" in run("enrol", "Ánn", crops[0], *words, "--twin")[2]


def test_an_interrupted_bulk_enrolment_goes_on(run, model, place, drawn, tmp_path, monkeypatch):
    """What was enrolled before is neither embedded nor enrolled again."""
    from normface.cli import enrol as verb
    from normface.embed import Embedder

    faces = drawn / "train" / "faces-112.zip"
    total, embed, asked = len(open_reader(faces)), Embedder.embed, []

    def counted(self, reader, **options):
        asked.append(len(reader))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return embed(self, reader, **options)

    monkeypatch.setattr(verb, "PART", 7)
    monkeypatch.setattr(Embedder, "embed", counted)
    assert run("enrol", "--from", faces, "--model", model)[0] == 130
    with open_gallery(place) as gallery:
        assert len(gallery) == 14
    code, out, err = run("enrol", "--from", faces, "--model", model, "--json")
    assert code == 0, err
    told = shown(out)
    assert told["templates_in_all"] + told["left_out"] == total
    assert told["templates"] + told["duplicates"] + told["left_out"] == total
    assert sum(asked[3:]) == total - 14
    asked.clear()
    assert shown(run("enrol", "--from", faces, "--model", model, "--json")[1])["templates"] == 0


def test_people_by_command(run, model, place, drawn, tmp_path):
    """show, remove, rename, merge, split, tag, and the log's retention; without the key where none is needed."""
    Embeddings(np.eye(5, 16), np.array(["Ann/1", "Ann/2", "a/b/1", "Bo/1", "Bo/2"])).save(tmp_path / "v.npz")
    assert run("enrol", "--embeddings", tmp_path / "v.npz")[0] == 0
    told = shown(run("gallery", "show", "ann", "--json")[1])
    numbers = [each["template"] for each in told["templates"]]
    assert (told["person"], len(numbers)) == ("Ann", 2)
    assert str(numbers[0]) in run("gallery", "show", f"id:{told['id']}")[1]
    assert one_line(run("gallery", "show", "id:../x")[2], "16 hexadecimal digits")
    assert "Ann B" in run("gallery", "rename", f"id:{told['id']}", "Ann B")[1]
    assert shown(run("gallery", "split", "Ann B", "Cy", "--template", numbers[1], "--json")[1])["person"] == "Cy"
    assert shown(run("gallery", "merge", "Cy", "Bo", "--json")[1])["templates"] == 3
    assert run("gallery", "remove", "Bo", "--template", numbers[1])[0] == 0
    assert shown(run("gallery", "tag", "Bo", "--add", "staff", "--json")[1])["tags"] == ["staff"]
    people = shown(run("gallery", "list", "--tag", "staff", "--json")[1])["people"]
    assert [each["person"] for each in people] == ["Bo"]
    assert one_line(run("gallery", "log", "--prune")[2], "--before")
    assert one_line(run("gallery", "log", "--prune", "--before", "soon")[2], "2026-01-31")
    assert run("gallery", "log", "--prune", "--before", "2100-01-01")[0] == 0
    assert [e["action"] for e in shown(run("gallery", "log", "--json")[1])["log"]] == ["prune"]


def test_an_export_is_enrolled_elsewhere(run, place, tmp_path, monkeypatch):
    with open_gallery(place) as gallery:
        for number, name in enumerate(["a/b", "a/c"]):
            gallery.enrol(name, np.eye(2)[number], consent=f"form {number}")
        people = gallery.people()
    for path in (place, place.with_name("people.db-reserve")):
        assert one_line(run("gallery", "export", "--out", path)[2], "other than the gallery's own")
        assert one_line(run("gallery", "backup", "--out", path)[2], "other than the gallery's own")
    assert one_line(run("gallery", "backup", "--out", ".")[2], "a file")
    assert run("gallery", "export", "--out", tmp_path / "v.npz")[0] == 0
    monkeypatch.setenv("NORMFACE_GALLERY_KEY", "ab" * 32)
    new = f"file:{tmp_path / 'new.db'}"
    assert run("enrol", "--embeddings", tmp_path / "v.npz", "--gallery", new)[0] == 0
    with open_gallery(new) as gallery:
        assert gallery.people() == people
    monkeypatch.delenv("NORMFACE_GALLERY_KEY")
    assert "a/b" in run("people", "--gallery", new)[1]  # needs no key
    assert run("forget", "a/b", "--gallery", new)[0] == 0


def test_an_enrolment_that_fails_leaves_no_gallery(run, model, place, drawn, tmp_path):
    crops = extracted(drawn, tmp_path, 1)
    assert run("enrol", "A\nb", crops[0], "--aligned", "--model", model)[0] == 2
    assert not place.exists()
