"""normface group: from a pile of photographs to people."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import one_line
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

PHOTOGRAPHS = ROOT / "examples" / "photographs"


@pytest.fixture(scope="module")
def pile(tmp_path_factory):
    """Two photographs of Ann, one of Bob, one without a face, one unreadable."""
    place = tmp_path_factory.mktemp("pile")
    (place / "sub").mkdir()
    for name in ("ann-1.jpg", "sub/ann-2.jpg", "bob-1.jpg"):
        shutil.copy(PHOTOGRAPHS / Path(name).name, place / name)
    Image.new("RGB", (120, 90), "gray").save(place / "wall.png")
    (place / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    return place


def test_who_is_who(pile, run, tmp_path):
    result = tmp_path / "people"
    code, out, err = run("group", pile, "--out", result, "--anyway", "--json")
    assert code == 0, err
    told = json.loads(out)
    counts = {key: told[key] for key in ("photographs", "faces", "people", "singles", "without_a_face")}
    assert counts == {"photographs": 5, "faces": 3, "people": 1, "singles": 1, "without_a_face": 1}
    assert list(told["unreadable"]) == ["torn.jpg"]
    assert "1 of 5 photographs unreadable: torn.jpg" in err
    (ann,) = told["groups"]
    folder = result / ann["folder"]
    files = sorted(folder.glob("*.jpg"))
    assert [file.name for file in files] == ["ann-1.jpg", "ann-2.jpg"]
    assert [str(file.resolve()) for file in files] == [str(Path(each).resolve()) for each in ann["photographs"]]
    page = (folder / "index.html").read_text("utf-8")
    assert all(page.count(f'href="{file.name}"') == 1 for file in files)
    assert [file.name for file in (result / "singles").glob("*.jpg")] == ["bob-1.jpg"]
    assert (result / "index.html").read_text("utf-8").count("<figure>") == 2
    with np.load(result / "faces.npz") as saved:
        assert saved["vectors"].shape == (3, 128)

    more = tmp_path / "more"  # an earlier single meets a second photograph; what was seen is not read again
    more.mkdir()
    shutil.copy(PHOTOGRAPHS / "bob-2.jpg", more / "bob-2.jpg")
    shutil.copy(PHOTOGRAPHS / "ann-1.jpg", more / "ann-3.jpg")
    again = tmp_path / "again"
    code, out, err = run("group", more, "--into", result, "--out", again, "--anyway", "--json")
    assert code == 0, err
    told = json.loads(out)
    found = {each["person"]: {path.rpartition("/")[2] for path in each["photographs"]} for each in told["groups"]}
    assert found == {
        "person-0001": {"ann-1.jpg", "ann-2.jpg", "ann-3.jpg"}, "person-0002": {"bob-1.jpg", "bob-2.jpg"}
    }  # fmt: skip
    assert (told["carried"], told["faces"]) == (3, 5)
    assert len(list((again / "crops").glob("*.jpg"))) == 5


def test_the_people_of_a_gallery_come_first(pile, run, tmp_path):
    gallery = f"file:{tmp_path / 'people.db'}"
    assert run("enrol", "A/nn", pile / "ann-1.jpg", "--gallery", gallery, "--anyway")[0] == 0
    archive = tmp_path / "pile.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for name in ("ann-2.jpg", "bob-1.jpg", "bob-2.jpg"):
            opened.write(PHOTOGRAPHS / name, name)
    code, out, err = run("group", archive, "--into", gallery, "--out", tmp_path / "who", "--anyway", "--json")
    assert code == 0, err
    told = {each["person"]: each for each in json.loads(out)["groups"]}
    assert set(told) == {"A/nn", "person-0001"}
    assert told["A/nn"]["folder"] == "A_nn"
    copied = tmp_path / "who" / "A_nn" / "ann-2.jpg"
    assert copied.read_bytes() == (PHOTOGRAPHS / "ann-2.jpg").read_bytes()
    assert not copied.is_symlink()


class TestBadInput:
    def test_one_face_is_a_single(self, run, tmp_path):
        (tmp_path / "one.txt").write_text(str(PHOTOGRAPHS / "ann-1.jpg"))
        code, out, _ = run("group", tmp_path / "one.txt", "--out", tmp_path / "r", "--anyway")
        assert code == 0
        assert "1 faces in 1 photographs: 0 people, 1 faces of nobody else" in out

    def test_no_faces(self, run, tmp_path):
        (tmp_path / "in").mkdir()
        Image.new("RGB", (120, 90), "gray").save(tmp_path / "in" / "wall.png")
        code, _, err = run("group", tmp_path / "in", "--out", tmp_path / "r")
        assert code == 2
        assert one_line(err, "faces in the photographs", "none in 1, 0 unreadable")
        assert not (tmp_path / "r").exists()

    def test_no_photographs(self, run, tmp_path):
        (tmp_path / "in").mkdir()
        code, _, err = run("group", tmp_path / "in", "--out", tmp_path / "r")
        assert code == 2
        assert one_line(err, "images in")

    def test_an_existing_result(self, run, tmp_path):
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "mine.txt").write_text("mine")
        code, _, err = run("group", PHOTOGRAPHS, "--out", tmp_path / "r")
        assert code == 2
        assert one_line(err, "a new folder for --out", "which exists")

    def test_an_earlier_result_that_is_none(self, run, tmp_path):
        code, _, err = run("group", PHOTOGRAPHS, "--out", tmp_path / "r", "--into", tmp_path / "nothing")
        assert code == 2
        assert one_line(err, "nothing")
        assert not (tmp_path / "r").exists()

    def test_strict_refuses_an_unreadable_photograph(self, pile, run, tmp_path):
        code, _, err = run("group", pile, "--out", tmp_path / "r", "--strict")
        assert code == 2
        assert one_line(err, "torn.jpg")
        assert not (tmp_path / "r").exists()
