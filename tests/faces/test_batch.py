"""Whole folders: what is written, what is refused, and that a run may end anywhere and go on."""

import errno
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image as pillow

from normface.data import decode
from normface.data.synthetic import photograph
from normface.errors import ConfigError, DataError, FaceError
from normface.faces import DETECTORS, TEMPLATES, align, central
from normface.faces.batch import Work, align_all, crop_names
from normface.faces.photographs import open_photographs, read_landmarks
from normface.types import Face

pytestmark = pytest.mark.slow

GOAL = TEMPLATES["112x112"]
ODD = "c/дом\n'\".jpg"


@pytest.fixture(scope="module")
def mtcnn():
    return DETECTORS.build("mtcnn")


@pytest.fixture(scope="module")
def pictures():
    return [photograph(seed, 0, 0, strength=0.3) for seed in range(4)]


def encode(image, format, **options) -> bytes:
    file = io.BytesIO()
    pillow.fromarray(image).save(file, format, **options)
    return file.getvalue()


def huge_png() -> bytes:
    """A header of 20,000 × 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="module")
def tree(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("photographs")
    jpeg = simplejpeg.encode_jpeg(pictures[0], 92)
    more = [pillow.fromarray(pictures[1])]
    files = {
        "a/one.jpg": jpeg, "a/one.png": encode(pictures[1], "PNG"), "a/deep/er/two.webp": encode(pictures[2], "WEBP"),
        "b/moving.gif": encode(pictures[3], "GIF", save_all=True, append_images=more), ODD: jpeg,
        "bad/blank.png": encode(np.full((200, 300, 3), 99, np.uint8), "PNG"), "bad/cut.jpg": jpeg[:-4000],
        "bad/empty.jpg": b"", "bad/huge.png": huge_png(), "bad/text.jpg": b"not an image",
        "notes.txt": b"passed over", ".hidden/x.jpg": jpeg,
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def work(detector, **options) -> Work:
    return Work(GOAL, {"any": 1}, detector=detector, **options)


def test_crops_journal_and_reasons(tree, tmp_path, mtcnn, pictures):
    photographs = open_photographs(tree)
    entries = align_all(photographs, tmp_path, work(mtcnn, format="png"))
    told = {entry["photograph"]: entry for entry in entries}
    assert list(told) == sorted(told) == list(photographs.names)
    reasons = {name: entry["refused"] for name, entry in told.items() if "refused" in entry}
    assert {name.removeprefix("bad/") for name in reasons} == {
        "blank.png", "cut.jpg", "empty.jpg", "huge.png", "text.jpg"
    }  # fmt: skip
    assert reasons["bad/blank.png"] == "no face found"
    assert reasons["bad/empty.jpg"] == "an empty file"
    assert reasons["bad/huge.png"].startswith("more than")
    assert set(content(tmp_path)) == {
        "align.jsonl", "a/one.jpg.png", "a/one.png.png", "a/deep/er/two.png", "b/moving.png", "c/дом\n'\".png"
    }  # fmt: skip
    (face,) = told["a/one.png"]["faces"]
    expected = central(mtcnn.detect(pictures[1]), pictures[1].shape)
    np.testing.assert_allclose(face["landmarks"], expected.landmarks, atol=0.006)
    assert face["score"] == pytest.approx(expected.score, abs=1e-4)
    crop = decode((tmp_path / face["crop"]).read_bytes(), "crop")
    np.testing.assert_array_equal(crop, align(pictures[1], expected.landmarks))
    assert set(face) == {
        "crop", "landmarks", "box", "score", "turn", "eye_distance", "yaw", "pitch", "roll", "sharpness"
    }  # fmt: skip
    lines = (tmp_path / "align.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"any": 1}, *entries]


def test_any_number_of_threads_writes_the_same_bytes(tree, tmp_path, mtcnn, monkeypatch):
    monkeypatch.setattr("normface.faces.batch.AT_ONCE", 2)
    for workers in (1, 3):
        align_all(open_photographs(tree), tmp_path / str(workers), work(mtcnn), workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "3")


@pytest.mark.parametrize("cut", [0, 40])
def test_goes_on_behind_the_journal(tree, tmp_path, mtcnn, cut):
    photographs = open_photographs(tree)
    align_all(photographs, tmp_path / "whole", work(mtcnn))
    align_all(photographs, tmp_path / "part", work(mtcnn))
    journal = tmp_path / "part" / "align.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:cut])  # the last line half written
    (tmp_path / "part" / "b" / "moving.jpg").unlink()
    (tmp_path / "part" / "b" / ".moving.jpg.77.tmp").write_bytes(b"half a crop")
    seen = []
    align_all(photographs, tmp_path / "part", work(mtcnn), progress=lambda done, total: seen.append((done, total)))
    assert content(tmp_path / "part") == content(tmp_path / "whole")
    assert seen[-1] == (10, 10)
    assert align_all(photographs, tmp_path / "part", work(None)) == align_all(
        photographs, tmp_path / "whole", work(None)
    )


def test_another_runs_folder_is_refused(tree, tmp_path, mtcnn):
    photographs = open_photographs(tree)
    align_all(photographs, tmp_path, work(mtcnn))
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="of others; give another folder"):
        align_all(photographs, tmp_path, Work(GOAL, {"any": 2}, detector=mtcnn))
    with pytest.raises(ConfigError, match="of others"):
        align_all(open_photographs(tree / "a"), tmp_path, work(mtcnn))
    assert content(tmp_path) == before
    (tmp_path / "align.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="of others"):
        align_all(photographs, tmp_path, work(mtcnn))
    assert (tmp_path / "align.jsonl").read_text() == "mine"


@pytest.mark.parametrize("cut", [0, 20])
def test_killed_in_the_journals_first_line(tree, tmp_path, mtcnn, cut):
    photographs = open_photographs(tree / "a")
    align_all(photographs, tmp_path / "whole", work(mtcnn))
    begun = (tmp_path / "whole" / "align.jsonl").read_bytes()[:cut]
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "align.jsonl").write_bytes(begun)
    align_all(photographs, tmp_path / "part", work(mtcnn))
    assert content(tmp_path / "part") == content(tmp_path / "whole")


def test_two_runs_at_once(tree, tmp_path, mtcnn):
    """The second is refused and changes nothing; when the first has ended, the folder is free."""
    photographs, begun, go_on = open_photographs(tree), threading.Event(), threading.Event()

    class Slow:
        def detect_many(self, images):
            begun.set()
            assert go_on.wait(600)
            return mtcnn.detect_many(images)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(align_all, photographs, tmp_path / "out", work(Slow()))
        assert begun.wait(600)
        with pytest.raises(ConfigError, match=r"out unused by other runs, got another .* wait until"):
            align_all(photographs, tmp_path / "out", work(mtcnn))
        go_on.set()
        entries = first.result()
    assert align_all(photographs, tmp_path / "out", work(None)) == entries
    align_all(photographs, tmp_path / "alone", work(mtcnn))
    assert content(tmp_path / "out") == content(tmp_path / "alone")


def test_full_disk_keeps_what_is_done(tree, tmp_path, mtcnn, monkeypatch):
    monkeypatch.setattr("normface.faces.batch.AT_ONCE", 1)
    photographs, write, left = open_photographs(tree), Path.write_bytes, [2]

    def full(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"No space left.*[2-9] of 10 photographs are done"):
        align_all(photographs, tmp_path / "full", work(mtcnn))
    monkeypatch.setattr(Path, "write_bytes", write)
    assert not list((tmp_path / "full").rglob("*.tmp"))
    align_all(photographs, tmp_path / "full", work(mtcnn))
    align_all(photographs, tmp_path / "whole", work(mtcnn))
    assert content(tmp_path / "full") == content(tmp_path / "whole")


def test_a_place_that_cannot_be_written(tree, tmp_path, mtcnn):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="to write"):
        align_all(open_photographs(tree), tmp_path / "file" / "dst", work(mtcnn))


def test_names_lead_nowhere_else(tmp_path, mtcnn, pictures):
    jpeg = simplejpeg.encode_jpeg(pictures[0], 92)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("../up.jpg", "x/../../up.jpg", "..\\back.jpg", "/rooted.jpg", "fine/ok.jpg"):
            archive.writestr(name, jpeg)
    entries = align_all(open_photographs(tmp_path / "in.zip"), tmp_path / "out" / "in", work(mtcnn))
    refused = [
        entry["photograph"] for entry in entries if entry.get("refused") == "a name that leads out of the folder"
    ]
    assert len(refused) == 3
    assert set(content(tmp_path / "out")) == {"in/align.jsonl", "in/rooted.jpg", "in/fine/ok.jpg"}
    assert set(os.listdir(tmp_path)) == {"in.zip", "out"}
    assert crop_names(["/etc/x.jpg", "a/../b.jpg", "ok/x.jpg"]) == {"ok/x.jpg": "ok/x"}


def test_crops_never_share_a_name():
    names = ["p/a.jpg", "p/A.png", "p/b.jpg", "p/b~2.jpg", "q/a.jpg"]
    assert crop_names(names) == {
        "p/a.jpg": "p/a.jpg", "p/A.png": "p/A.png", "p/b.jpg": "p/b", "p/b~2.jpg": "p/b~2.jpg", "q/a.jpg": "q/a"
    }  # fmt: skip


def test_all_faces(tmp_path, mtcnn, pictures):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "two.png").write_bytes(encode(np.concatenate(pictures[:2], 1), "PNG"))
    (entry,) = align_all(open_photographs(tmp_path / "in"), tmp_path / "out", work(mtcnn, choice="all"))
    assert [face["crop"] for face in entry["faces"]][:2] == ["two.jpg", "two~2.jpg"]
    assert set(content(tmp_path / "out")) == {"align.jsonl", *(face["crop"] for face in entry["faces"])}


def test_landmarks_instead_of_a_detector(tmp_path, pictures):
    (tmp_path / "in").mkdir()
    for name in ("a b.png", "other.png", "line.png"):
        (tmp_path / "in" / name).write_bytes(encode(pictures[0], "PNG"))
    points = GOAL.points * 1.3 + (60, 50)
    text = f"a b.png {' '.join(map(str, points.T.ravel()))}\n\nline.png 1 2 3 4 5 1 2 3 4 5\n"
    (tmp_path / "points.txt").write_text(text)
    landmarks = read_landmarks(tmp_path / "points.txt")
    done = Work(GOAL, {}, landmarks=landmarks, format="png")
    first, line, other = align_all(open_photographs(tmp_path / "in"), tmp_path / "out", done)
    np.testing.assert_allclose(first["faces"][0]["landmarks"], points, atol=0.006)
    assert "score" not in first["faces"][0]
    crop = decode((tmp_path / "out" / "a b.png").read_bytes(), "crop")
    np.testing.assert_array_equal(crop, align(pictures[0], points))
    assert other["refused"] == "not in the file of landmarks"
    assert "one line" in line["refused"] or "degenerate" in line["refused"]


@pytest.mark.parametrize("text", ["a.jpg 1 2 3", "a.jpg 1 2 3 4 5 6 7 8 9 x", "a.jpg 1 2 3 4 5 6 7 8 9 nan"])
def test_other_landmarks_are_refused(tmp_path, text):
    (tmp_path / "points.txt").write_text(text)
    with pytest.raises(DataError, match=r"lines `name x1 … x5 y1 … y5` .*line 1"):
        read_landmarks(tmp_path / "points.txt")
    with pytest.raises(DataError, match="a text file of landmarks"):
        read_landmarks(tmp_path / "missing.txt")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_large_photographs_are_looked_at_reduced(tmp_path, mtcnn, pictures, format):
    """At a quarter; the landmarks are the whole photograph's, and the crop has the detail of as much as it can use."""
    large = np.asarray(pillow.fromarray(pictures[0]).resize((2001, 2003), pillow.Resampling.BICUBIC))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jpg").write_bytes(encode(large, format, **({"quality": 95} if format == "JPEG" else {})))
    seen = []

    class Spy:
        def detect_many(self, images):
            seen.extend(image.shape for image in images)
            return mtcnn.detect_many(images)

    (entry,) = align_all(open_photographs(tmp_path / "in"), tmp_path / "out", work(Spy(), format="png"))
    assert seen == [(500, 500, 3)]
    (face,) = entry["faces"]
    small = central(mtcnn.detect(pictures[0]), pictures[0].shape).landmarks
    assert np.abs(np.array(face["landmarks"]) - ((small + 0.5) * 8.008 - 0.5)).mean() < 10
    crop = decode((tmp_path / "out" / face["crop"]).read_bytes(), "crop").astype(int)
    assert np.abs(crop - align(large, np.array(face["landmarks"]))).mean() < 2


def test_lists(tree, tmp_path, mtcnn):
    files = [tree / "a" / "one.jpg", tree / "b" / "moving.gif"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, files)) + "\n\n")
    assert list(open_photographs(tmp_path / "list.txt").names) == ["a/one.jpg", "b/moving.gif"]
    (tmp_path / "list0").write_bytes(os.fsencode("\0".join([str(tree / ODD), str(files[0]), str(tree / "gone.jpg")])))
    entries = align_all(open_photographs(tmp_path / "list0"), tmp_path / "out", work(mtcnn))
    assert [entry["photograph"] for entry in entries] == ["a/one.jpg", ODD, "gone.jpg"]
    assert entries[2]["refused"] == "No such file or directory"
    relative = os.path.relpath(files[0], tmp_path)
    (tmp_path / "relative.txt").write_text(relative)
    assert list(open_photographs(tmp_path / "relative.txt").names) == ["one.jpg"]


def test_sources_that_are_none(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "a/one.jpg"):
        with pytest.raises(DataError, match="a folder, a zip or a list of images"):
            open_photographs(tree / name)
    with pytest.raises(DataError, match="none among 0 files"):
        open_photographs(tmp_path / "empty")
    with pytest.raises(DataError, match="nothing there"):
        open_photographs(tmp_path / "missing")


def test_degenerate_faces_are_refused(tmp_path, tree):
    class Broken:
        def detect_many(self, images):
            return [[Face((0, 0, 1, 1), np.ones((5, 2)), 1.0)] for _ in images]

    entries = align_all(open_photographs(tree / "a"), tmp_path, work(Broken()))
    assert all("degenerate" in entry["refused"] for entry in entries)
    with pytest.raises(FaceError):
        GOAL.fit(np.ones((5, 2)))


@pytest.mark.slow
def test_killed_in_the_middle(tmp_path, pictures):
    """SIGKILL, then the same command: what an undisturbed run writes."""
    (tmp_path / "in").mkdir()
    for number in range(64):
        (tmp_path / "in" / f"{number:03}.jpg").write_bytes(
            simplejpeg.encode_jpeg(pictures[number % 4], 80 + number % 15)
        )
    code = "import sys; from normface.cli import main; sys.argv[0] = 'normface'; main()"
    death = """import os, signal, sys
def look(event, args):
    if event == "open" and str(args[0]).endswith(".tmp") and open("out/align.jsonl").read().count("\\n") > 8:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
"""

    def align(target, before=""):
        words = [sys.executable, "-c", before + code, "align", "in", target, "--workers", "2", "--json"]
        return subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    assert align("out", death).returncode == -signal.SIGKILL
    assert 8 < (tmp_path / "out" / "align.jsonl").read_bytes().count(b"\n") < 65
    for target in ("out", "whole"):
        assert json.loads(align(target).stdout)["aligned"] == 64
    assert content(tmp_path / "out") == content(tmp_path / "whole")
