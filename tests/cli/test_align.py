"""`normface align` as a user runs it."""

import json

import numpy as np
import pytest
import simplejpeg
from tests.cli.conftest import one_line

from normface.data.synthetic import photograph
from normface.faces.batch import kind_of


@pytest.fixture
def folder(tmp_path):
    for name, image in {
        "in/a/one.jpg": photograph(0, 0, 0, strength=0.3), "in/a/<b>.jpg": np.full((200, 200, 3), 9, np.uint8)
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(simplejpeg.encode_jpeg(image, 92))
    (tmp_path / "in" / "broken.png").write_bytes(b"")
    return tmp_path


def test_crops_summary_and_report(run, folder):
    code, out, _ = run("align", folder / "in", folder / "out", "--template", "112x96", "--workers", 2, "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["photographs"], told["aligned"], told["crops"]) == (3, 1, 1)
    assert told["refused"] == {"no face found": 1, "not readable as an image": 1}
    assert simplejpeg.decode_jpeg((folder / "out" / "a" / "one.jpg").read_bytes()).shape == (112, 96, 3)
    page = (folder / "out" / "report.html").read_text("utf-8")
    assert "a/&lt;b&gt;.jpg" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert "an empty file" in page
    code, out, _ = run("align", folder / "in", folder / "out", "--template", "112x96")
    assert code == 0
    assert "1 crops from 1 of 3 photographs" in out
    assert "1 no face found" in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["in", "out", "--template", "96x96"], "a template among"),
        (["in", "out", "--faces", "biggest"], "center, largest, best, all"),
        (["in", "out", "--format", "tiff"], "jpg or png"),
        (["in", "out", "--workers", "0"], "--workers of 1 or more"),
        (["in", "out", "--detector", "mtcn"], "did you mean 'mtcnn'"),
        (["in", "out", "--detector", "yunet"], "normface fetch yunet"),
        (["in", "out", "--detector", "yunet", "--weights", "in/a/one.jpg"], "the weights of YuNet"),
        (["in", "out", "--weights", "in/a/one.jpg"], "arguments of mtcnn"),
        (["in", "out", "--landmarks", "nowhere.txt"], "a text file of landmarks"),
        (["nowhere", "out"], "nothing there"),
        (["in", "in/broken.png"], "to write"),
    ],
)
def test_mistakes(run, folder, monkeypatch, words, part):
    monkeypatch.chdir(folder)
    code, _, err = run("align", *words)
    assert code == 2
    assert one_line(err, part)
    assert not (folder / "out").exists()


def test_kinds():
    assert kind_of("degenerate landmarks [[1, 2]]") == "degenerate landmarks"
    assert kind_of("a damaged JPEG") == "not readable as an image"
