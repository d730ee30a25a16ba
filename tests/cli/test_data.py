"""`normface data check` and `normface fetch` at the command line."""

import hashlib
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from normface.data import fetch, open_reader

from .conftest import one_line


class TestCheck:
    @pytest.fixture
    def faces(self, drawn, tmp_path):
        reader = open_reader(drawn / "train" / "faces-112.zip")
        for row in range(0, len(reader), 2):
            place = tmp_path / "faces" / reader.ids[row]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(reader.encoded(row))
        first = sorted((tmp_path / "faces").rglob("*.jpg"))[0]
        shutil.copy(first, first.with_name("zz-copy.jpg"))
        first.with_name("broken.jpg").write_bytes(b"\xff\xd8\xff")
        return tmp_path / "faces"

    def test_report_and_list_that_pack_takes(self, faces, tmp_path, run):
        code, out, _ = run("data", "check", faces, "--out", tmp_path / "found", "--json")
        assert code == 0
        told = json.loads(out)
        assert told["marked"] == {"unreadable": 1, "duplicate": 1}
        assert told["images"] == len(open_reader(faces))
        page = (tmp_path / "found" / "report.html").read_text("utf-8")
        assert "zz-copy.jpg" in page
        assert "exact of" in page
        code, out, _ = run("pack", faces, tmp_path / "pack", "--exclude", tmp_path / "found" / "exclude.txt", "--json")
        assert code == 0
        assert json.loads(out)["images"] == told["images"] - 2

    def test_against_itself(self, faces, tmp_path, run):
        code, out, _ = run("data", "check", faces, "--against", faces, "--out", tmp_path / "found", "--json")
        assert code == 0
        assert len(json.loads(out)["duplicates_of_test"]) == json.loads(out)["images"] - 1

    def test_mistakes(self, faces, tmp_path, run):
        code, _, err = run("data", "check", faces, "--cutoff", "0.5", "--out", tmp_path / "x")
        assert code == 2
        assert one_line(err, "--model")
        code, _, err = run("data", "check", faces, "--exclude", "everything", "--out", tmp_path / "x")
        assert code == 2
        assert one_line(err, "unreadable, duplicate")
        assert not (tmp_path / "x").exists()


class TestFetch:
    @pytest.fixture
    def entry(self, tmp_path, monkeypatch):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "small.txt").write_bytes(b"pairs\n")
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "there"))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        file = fetch.File(
            f"http://127.0.0.1:{server.server_port}/small.txt", hashlib.sha256(b"pairs\n").hexdigest(), "For research."
        )
        monkeypatch.setitem(fetch.ENTRIES, "small", fetch.Entry("a small file", {"small.txt": file}))
        yield tmp_path
        server.shutdown()

    @pytest.mark.parametrize("offline", [True, False])
    def test_the_same_bytes_either_way(self, entry, run, offline):
        words = ["--from", entry / "there"] if offline else []
        code, _, err = run("fetch", "small", "--to", entry / "here", "--accept-terms", *words)
        assert code == 0
        assert "For research." in err
        assert (entry / "here" / "small.txt").read_bytes() == b"pairs\n"
        assert [p.name for p in (entry / "here").iterdir()] == ["small.txt"]

    @pytest.mark.parametrize("offline", [True, False])
    def test_another_file_is_kept_aside_and_named(self, entry, run, offline):
        (entry / "there" / "small.txt").write_bytes(b"others\n")
        words = ["--from", entry / "there"] if offline else []
        code, _, err = run("fetch", "small", "--to", entry / "here", "--accept-terms", *words)
        assert code == 2
        assert "SHA-256" in err
        assert str(entry / "here" / "small.txt.rejected") in err
        assert [path.name for path in (entry / "here").iterdir()] == ["small.txt.rejected"]

    def test_terms_first(self, entry, run):
        code, _, err = run("fetch", "small", "--to", entry / "here")
        assert code == 2
        assert "For research." in err
        assert not (entry / "here").exists()

    def test_unknown_and_missing(self, entry, run):
        assert one_line(run("fetch", "ms1m", "--accept-terms")[2], "list the names: normface fetch")
        (entry / "empty").mkdir()
        code, _, err = run("fetch", "small", "--from", entry / "empty", "--to", entry / "here", "--accept-terms")
        assert code == 2
        assert "no such file" in err

    def test_list(self, run):
        code, out, _ = run("fetch")
        assert code == 0
        assert "lfw-funneled" in out

    @pytest.mark.real
    def test_pairs_of_lfw(self, data_dir, tmp_path, run):
        code, _, _ = run("fetch", "lfw-pairs", "--from", data_dir / "lfw", "--to", tmp_path, "--accept-terms")
        assert code == 0
