"""`normface pack`: any format into any, what is left out, what is refused."""

import io
import json
import os

import cv2
import numpy as np
import PIL.Image
import pytest
from pyarrow import ipc

from normface.data import open_reader, write

pytestmark = pytest.mark.slow


@pytest.fixture
def faces(drawn):
    return drawn / "train" / "faces-112.zip"


@pytest.fixture
def packed(run):
    """What `normface pack … --json` tells."""

    def call(*words):
        code, out, _ = run("pack", *words, "--json")
        assert code == 0
        return json.loads(out)

    return call


def test_around_through_all_formats(faces, tmp_path, packed):
    """Zip → pack → rec → tar → Hugging Face → folder → zip: the same images of as many people."""
    first = open_reader(faces)
    source = faces
    for target in ("pack", "faces.rec", "faces.tar", "hf", "folder", "last.zip"):
        options = ["--format", target] if target in ("hf", "folder") else []
        done = packed(source, tmp_path / target, *options)
        assert done["images"] == len(first)
        assert done["identities"] == len(first.identities)
        source = tmp_path / target
    last = open_reader(source)
    images = {first.encoded(i): first.labels[i] for i in range(len(first))}
    pairs = {(images[last.encoded(i)], last.labels[i]) for i in range(len(last))}
    assert len(pairs) == len(first.identities)  # one person to one person


def test_one_person_alone_is_refused_unless_said(drawn, tmp_path, packed, run):
    write(list(open_reader(drawn / "train" / "faces-112.zip").records())[:5], tmp_path / "one.zip", "zip")
    code, _, err = run("pack", tmp_path / "one.zip", tmp_path / "pack")
    assert code == 2
    assert "expected two people or more" in err
    assert "--label-column" in err
    assert not (tmp_path / "pack").exists()
    told = packed(tmp_path / "one.zip", tmp_path / "pack", "--unlabelled")
    assert told["images_a_person"] == {"4 to 7": 1}


def test_the_column_of_labels(faces, tmp_path, packed, run):
    reader = open_reader(faces)
    lines = [f"{row}.jpg,{reader.labels[row]},7" for row in range(6)]
    for row in range(6):
        (tmp_path / f"{row}.jpg").write_bytes(reader.encoded(row))
    (tmp_path / "list.csv").write_text("path,who,age\n" + "\n".join(lines), "utf-8")
    assert run("pack", tmp_path / "list.csv", tmp_path / "pack")[0] == 2
    code, out, _ = run("pack", tmp_path / "list.csv", tmp_path / "pack", "--label-column", "who", "--unlabelled")
    assert code == 0
    assert "people by number of images: " in out


def test_exclude_append_and_verify(faces, tmp_path, packed, run):
    reader = open_reader(faces)
    (tmp_path / "list.txt").write_text("# duplicates\n" + "\n".join(reader.ids[:5].tolist()) + "\n", "utf-8")
    told = packed(faces, tmp_path / "pack", "--exclude", tmp_path / "list.txt")
    assert (told["excluded"], told["images"]) == (5, len(reader) - 5)
    code, _, err = run("pack", faces, tmp_path / "pack", "--append")
    assert code == 2
    assert "ids that are not in" in err
    (tmp_path / "rest.txt").write_text("\n".join(reader.ids[5:].tolist()), "utf-8")
    packed(faces, tmp_path / "pack", "--append", "--exclude", tmp_path / "rest.txt")
    assert sorted(open_reader(tmp_path / "pack").ids.tolist()) == sorted(reader.ids.tolist())
    assert "intact" in run("pack", tmp_path / "pack", "--verify")[1]
    shard = tmp_path / "pack" / "part-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    code, _, err = run("pack", tmp_path / "pack", "--verify")
    assert code == 2
    assert "part-00001.arrow edited since" in err


def test_pixels(faces, tmp_path, packed, run):
    """The same pixels under the same ids, no JPEG left; any program opens them; checks hold; only packs have them."""
    first = open_reader(faces)
    told = packed(faces, tmp_path / "pack", "--pixels")
    assert told["images"] == len(first)
    reader = open_reader(tmp_path / "pack", strict=True).check()
    assert reader.ids.tolist() == first.ids.tolist()
    assert reader.labels.tolist() == first.labels.tolist()
    for i in range(0, len(first), 7):
        expected = first.read(i)
        np.testing.assert_array_equal(reader.read(i), expected)
        assert reader.encoded(i)[:3] == b"P6\n"
        np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(reader.encoded(i)))), expected)
        seen = cv2.imdecode(np.frombuffer(reader.encoded(i), np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(seen[..., ::-1], expected)
    with ipc.open_file(str(tmp_path / "pack" / "part-00000.arrow")) as shard:
        assert shard.read_all()["image"][3].as_py() == reader.encoded(3)
    code, out, _ = run("data", "check", tmp_path / "pack", "--out", tmp_path / "check", "--json")
    assert code == 0
    assert json.loads(out)["unreadable"] == 0 or not json.loads(out)["unreadable"]
    assert "intact" in run("pack", tmp_path / "pack", "--verify")[1]
    shard = tmp_path / "pack" / "part-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[data.index(reader.encoded(5)) + 1000] ^= 1
    shard.write_bytes(data)
    assert [id for id, _ in open_reader(tmp_path / "pack").check().unreadable] == [first.ids[5]]
    code, _, err = run("pack", faces, tmp_path / "x.zip", "--pixels")
    assert code == 2
    assert "expected --pixels with --format arrow, got zip" in err


@pytest.mark.slow
def test_pieces_to_carry(faces, tmp_path, packed, run):
    """Crops cut to 112×96 in files of at most 1 MiB, which arrive in any order and are read as one set."""
    first = open_reader(faces)
    packed(faces, tmp_path / "pack", "--template", "112x96", "--pixels", "--shard-size", "1")
    pieces = sorted((tmp_path / "pack").iterdir())
    assert len(pieces) >= 3
    assert max(path.stat().st_size for path in pieces) <= 1 << 20
    (tmp_path / "there").mkdir()
    for path in reversed(pieces):
        path.rename(tmp_path / "there" / path.name)
    reader = open_reader(tmp_path / "there", strict=True).check()
    assert reader.ids.tolist() == first.ids.tolist()
    assert reader.labels.tolist() == first.labels.tolist()
    for i in range(0, len(first), 17):
        np.testing.assert_array_equal(reader.read(i), first.read(i)[:, 8:104])
    packed(faces, tmp_path / "jpeg", "--template", "112x96")
    assert abs(open_reader(tmp_path / "jpeg").read(4).astype(int) - first.read(4)[:, 8:104]).mean() < 3
    for words, message in ((["--template", "9x9"], "9x9"), (["--template", "144x144"], "aligned crops")):
        code, _, err = run("pack", faces, tmp_path / "other", *words)
        assert code == 2
        assert message in err
        assert not (tmp_path / "other" / "pack.json").exists()


def test_pixels_open_in_hugging_face_datasets(faces, tmp_path, packed):
    datasets = pytest.importorskip("datasets")
    packed(faces, tmp_path / "pack", "--pixels")
    shown = datasets.load_dataset("arrow", data_files=str(tmp_path / "pack" / "*.arrow"), cache_dir=str(tmp_path / "c"))
    shown = shown["train"].cast_column("image", datasets.Image())[3]["image"]
    np.testing.assert_array_equal(np.asarray(shown), open_reader(faces).read(3))


def test_names_that_differ_by_case_are_told(faces, tmp_path, run):
    image = open_reader(faces).encoded(0)
    for name in ("Ann", "ann", "Bo"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        (tmp_path / "faces" / name / "1.jpg").write_bytes(image)
    assert "Ann, ann" in run("pack", tmp_path / "faces", tmp_path / "pack")[2]


def test_damaged_images_are_left_out_or_refused(faces, tmp_path, packed, run):
    image = open_reader(faces).encoded(0)
    for person in ("Ann", "Bo"):
        (tmp_path / "faces" / person).mkdir(parents=True)
    (tmp_path / "faces" / "Bo" / "1.jpg").write_bytes(image)
    for name, data in {"1.jpg": image, "2.jpg": image[:200], "3.jpg": b""}.items():
        (tmp_path / "faces" / "Ann" / name).write_bytes(data)
    told = packed(tmp_path / "faces", tmp_path / "pack")
    assert told["images"] == 2
    assert set(told["unreadable"]) == {"Ann/2.jpg", "Ann/3.jpg"}
    code, _, err = run("pack", tmp_path / "faces", tmp_path / "p2", "--strict")
    assert code == 2
    assert "2 of 4 unreadable" in err
    assert not (tmp_path / "p2").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_target_that_cannot_be_written(faces, tmp_path, run):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run("pack", faces, tmp_path / "locked" / "pack")
    assert code == 2
    assert "Permission denied" in err


@pytest.mark.parametrize("arguments", [(), ("x.zip", "--append"), ("x", "--format", "mxnet")])
def test_mistakes(faces, tmp_path, run, arguments):
    code, _, err = run("pack", faces, *(tmp_path / a if a.startswith("x") else a for a in arguments))
    assert code == 2
    assert "Traceback" not in err
