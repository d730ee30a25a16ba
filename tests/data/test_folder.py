"""A folder and a zip of the same images are the same reader; every refusal names the file and the way out."""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
import socket
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pillow

from normface.data import Images, Reader, open_reader
from normface.data.folder import open_folder
from normface.errors import DataError


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def as_folder(base: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (base / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "folder" / name).write_bytes(data)
    return base / "folder"


def as_zip(base: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(base / "faces.zip", "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return base / "faces.zip"


BOTH = pytest.mark.parametrize("make", [as_folder, as_zip])
PEOPLE = {name: png(i) for i, name in enumerate(["Bo/Bo_0001.png", "Ann/Ann_0002.png", "Ann/Ann_0001.png"])}


def same(a: Reader, b: Reader) -> None:
    for field in ("ids", "identities", "labels"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert len(a) == len(b)
    for i in range(len(a)):
        np.testing.assert_array_equal(a.read(i), b.read(i))


@BOTH
def test_ids_identities_labels_and_pixels(make, tmp_path):
    reader = open_reader(make(tmp_path, PEOPLE))
    assert reader.ids.tolist() == ["Ann/Ann_0001.png", "Ann/Ann_0002.png", "Bo/Bo_0001.png"]
    assert reader.identities.tolist() == ["Ann", "Bo"]
    assert reader.labels.tolist() == [0, 0, 1]
    assert reader.labels.dtype == np.int64
    assert len(reader) == 3
    np.testing.assert_array_equal(reader.read(2), np.asarray(pillow.open(io.BytesIO(png(0)))))


part = st.text("ab.-_ éß李", min_size=1, max_size=4).filter(lambda text: text.strip(". ") == text)
path = st.tuples(part, part, st.sampled_from([".png", ".PNG", ".txt"])).map(lambda p: f"{p[0]}/{p[1]}{p[2]}")


@pytest.mark.slow
@settings(max_examples=40)
@given(st.sets(path, min_size=1, max_size=8), st.sampled_from(["", "lfw/", "a/b c/"]), st.booleans())
def test_folder_and_zip_agree(names, root, stored):
    files = {root + name: png(i) for i, name in enumerate(sorted(names))}
    method = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with tempfile.TemporaryDirectory() as base:
        paths = as_folder(Path(base), files), as_zip(Path(base), files, method)
        wanted = sorted(name for name in names if not name.endswith(".txt"))
        if not wanted:
            for path in paths:
                with pytest.raises(DataError, match="got no image among"):
                    open_folder(path)
            return
        folder, archive = map(open_folder, paths)
        assert folder.ids.tolist() == wanted
        assert folder.ignored == archive.ignored == len(names) - len(wanted)
        same(folder, archive)
        assert folder.identities[folder.labels].tolist() == [name.split("/")[0] for name in wanted]


@BOTH
def test_a_wrapper_is_taken_off_unless_it_is_the_only_person(make, tmp_path):
    (tmp_path / "1").mkdir(), (tmp_path / "2").mkdir()
    wrapped = open_folder(make(tmp_path / "1", {f"data/lfw/{name}": data for name, data in PEOPLE.items()}))
    assert wrapped.identities.tolist() == ["Ann", "Bo"]
    assert wrapped.ids[0] == "Ann/Ann_0001.png"
    only = open_folder(make(tmp_path / "2", {"Ann/1.png": png(), "Ann/2.png": png()}))
    assert only.identities.tolist() == ["Ann"]
    assert only.ids.tolist() == ["Ann/1.png", "Ann/2.png"]
    assert only.read(0).shape == (6, 5, 3)


@BOTH
def test_what_is_ignored_is_counted(make, tmp_path, caplog):
    junk = ["loose.png", ".hidden.png", "Ann/.h.png", ".git/a/b.png", "__MACOSX/Ann/._1.png", "lfw/__MACOSX/x.png"]
    junk += ["Ann/Thumbs.db", "Ann/notes.txt", "Ann/noextension"]
    written = ["align.jsonl", "report.html"]  # what `normface align` leaves beside its crops is no news
    path = make(tmp_path, PEOPLE | dict.fromkeys([*junk, *written], b""))
    reader = open_folder(path)
    assert caplog.messages == [
        f"{path}: not read: 5 hidden files, 1 .db file, 1 .txt file, 1 file without extension, "
        "1 image outside any person's folder"
    ]
    assert reader.identities.tolist() == ["Ann", "Bo"]
    assert len(reader) == 3
    assert reader.ignored == len(junk) + len(written)


@BOTH
def test_select_numbers_labels_densely(make, tmp_path):
    reader = open_folder(make(tmp_path, PEOPLE | {"Cy/1.png": png(7)}))
    part = reader.select([3, 0])
    assert part.ids.tolist() == ["Cy/1.png", "Ann/Ann_0001.png"]
    assert part.identities.tolist() == ["Ann", "Cy"]
    assert part.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(part.read(0), reader.read(3))
    same(reader.select(reader.labels == 2), reader.select(np.array([3])))
    assert len(reader.select([])) == 0


@BOTH
def test_check_names_counts_and_skips(make, tmp_path, caplog):
    damaged = {f"Zed/{i}.jpg": b"no image" for i in range(6)}
    reader = open_folder(make(tmp_path, PEOPLE | {"Ann/0.png": PEOPLE["Bo/Bo_0001.png"][:-30]} | damaged))
    calls = []
    with caplog.at_level(logging.WARNING, "normface"):
        good = reader.check(lambda done, total: calls.append((done, total)))
    assert calls == [(10, 10)]
    assert good.ids.tolist() == sorted(PEOPLE)
    assert good.identities.tolist() == ["Ann", "Bo"]
    assert [id for id, _ in good.unreadable] == ["Ann/0.png", *damaged]
    assert "truncated" in good.unreadable[0][1]
    (line,) = caplog.messages
    assert line.startswith("7 of 10 images unreadable and skipped: Ann/0.png (image file is truncated")
    assert line.count("Zed/") == 4
    assert line.endswith(", …")
    caplog.clear()
    assert good.check().unreadable == []
    assert caplog.messages == []


@BOTH
def test_strict_refuses_what_is_skipped_otherwise(make, tmp_path):
    path = make(tmp_path, PEOPLE | {"Ann/Ann_0000.jpg": b"text"})
    with pytest.raises(DataError, match=r"1 of 4 unreadable \(first: Ann/Ann_0000\.jpg, bytes.*; replace") as caught:
        open_reader(path, strict=True).check()
    assert str(path) in str(caught.value)
    assert len(open_reader(path).check()) == 3
    with pytest.raises(DataError, match=rf"expected {path}/Ann/Ann_0000.jpg to be an image"):
        open_folder(path).read(0)


@BOTH
def test_nothing_readable_is_refused_without_strict_too(make, tmp_path):
    with pytest.raises(DataError, match=r"expected readable images in .*, got 2 of 2 unreadable"):
        open_folder(make(tmp_path, {"A/1.jpg": b"", "B/1.jpg": b"x"})).check()


@pytest.mark.slow
@BOTH
def test_threads_and_pickles_read_the_same_pixels(make, tmp_path):
    reader = open_folder(make(tmp_path, {f"P{i % 7}/{i:03}.png": png(i) for i in range(60)}))
    order = np.random.default_rng(0).integers(0, 60, 600).tolist()
    wanted = [reader.read(i) for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        for i, image in zip(order, pool.map(reader.read, order), strict=True):
            np.testing.assert_array_equal(image, wanted[i])
    same(pickle.loads(pickle.dumps(reader)), reader)


def test_linked_people_are_followed(tmp_path):
    folder = as_folder(tmp_path, {"Ann/1.png": png()})
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder / "Ann", elsewhere)
    (folder / "Bo").symlink_to(elsewhere, target_is_directory=True)
    assert open_folder(folder).identities.tolist() == ["Ann", "Bo"]
    (folder / "Bo" / "self").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(DataError, match=r"expected readable folders in .*self leading back .*; correct the perm"):
        open_folder(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_fifos_and_sockets_are_refused_not_waited_for(tmp_path, monkeypatch):
    folder = as_folder(tmp_path, {"Ann/1.png": png()})
    os.mkfifo(folder / "Ann" / "2.png")
    monkeypatch.chdir(folder / "Ann")  # a socket's whole path may be too long
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("3.png")
        found = open_folder(folder).check()
        assert found.ids.tolist() == ["Ann/1.png"]
        assert found.unreadable == [("Ann/2.png", "a FIFO"), ("Ann/3.png", "a socket")]


def test_names_other_tools_write_into_zips(tmp_path):
    names = ["./Ann/1.png", "Bo\\1.png", "/Cy/1.png", "../Di/1.png", "Ann/", "Bo\\"]
    reader = open_folder(as_zip(tmp_path, {name: b"" if name[-1] in "/\\" else png() for name in names}))
    assert reader.ids.tolist() == ["Ann/1.png", "Bo/1.png", "Cy/1.png"]
    assert reader.ignored == 1


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_folder(path).check()
    assert str(path) in str(caught.value)
    assert all((caught.value.expected, caught.value.got, caught.value.do))
    return str(caught.value)


def test_what_is_no_folder_of_folders(tmp_path):
    assert "got nothing there; correct the path" in refusal(tmp_path / "absent")
    assert "got no image among 0 files; put each person's images" in refusal(tmp_path)
    (tmp_path / "1.png").write_bytes(png())
    assert "expected one folder of images per person" in refusal(tmp_path)
    assert "got 1 images and no folder of them" in refusal(tmp_path)
    assert "to be a folder or a zip archive, got 'File is not a zip file'" in refusal(tmp_path / "1.png")
    assert "no image among 1 files" in refusal(as_zip(tmp_path, {"a/readme.txt": b""}))


def test_files_that_vanish(tmp_path):
    folder = as_folder(tmp_path, PEOPLE)
    reader = open_folder(folder)
    (folder / "Bo" / "Bo_0001.png").unlink()
    with pytest.raises(DataError, match=r"Bo_0001\.png to be readable, got No such file"):
        reader.read(2)
    assert [id for id, _ in reader.check().unreadable] == ["Bo/Bo_0001.png"]


def test_broken_zips(tmp_path):
    path = as_zip(tmp_path, PEOPLE, zipfile.ZIP_STORED)
    whole = path.read_bytes()

    path.write_bytes(whole[:-40])
    assert "to be a folder or a zip archive" in refusal(path)

    flagged = bytearray(whole)
    directory = whole.index(b"PK\1\2")
    flagged[directory + 8] |= 1
    path.write_bytes(flagged)
    assert "zip without password, got Bo/Bo_0001.png encrypted; make it again" in refusal(path)

    at = whole.index(b"IDAT") + 20
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert open_folder(path).check().unreadable == [("Bo/Bo_0001.png", "a damaged zip entry")]

    path.write_bytes(whole.replace(b"PK\3\4", b"PK\0\0"))
    assert "3 of 3 unreadable (first: Ann/Ann_0001.png, a damaged zip entry)" in refusal(path)

    as_zip(tmp_path, {"Ann/1.png": png(1), "Ann//1.png": png(2)})
    assert "to hold each file once, got Ann/1.png twice; make it again" in refusal(path)

    assert "compression method 14" in refusal(as_zip(tmp_path, PEOPLE, zipfile.ZIP_LZMA))


@pytest.mark.slow
def test_a_listing_of_many_files_opens_none(tmp_path, monkeypatch):
    class Many:
        path, names = tmp_path, [f"{i // 10}/{i}.jpg" for i in range(100_000)]

        def read(self, name: str) -> bytes:
            raise AssertionError("the listing must not read")

    monkeypatch.setattr("normface.data.folder.open_source", lambda path: Many())
    reader = open_folder(tmp_path)
    assert isinstance(reader, Images)
    assert (len(reader), len(reader.identities)) == (100_000, 10_000)
