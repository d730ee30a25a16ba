"""Published weights from their address to a run: `normface fetch`, then `normface adopt`; made ones, served here."""

import hashlib
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from normface import models
from normface.data import fetch
from normface.train import Checkpoint, load_model

from .conftest import one_line

pytestmark = pytest.mark.slow

MODEL, OPTIONS = "mobilefacenet_relu6", {"dim": 16}


@pytest.fixture(scope="module")
def published():
    """A file as the authors publish theirs: their names, and the format before PyTorch 1.6."""
    torch.manual_seed(0)
    model = models.build(MODEL, **OPTIONS)
    state = {}
    for key, t in model.state_dict().items():
        module, _, parameter = key.rpartition(".")
        state[f"{model.origin.modules[module]}.{parameter}"] = t
    path = io.BytesIO()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return model.eval(), path.getvalue()


@pytest.fixture
def place(published, monkeypatch):
    """Where it lies: what is served there can be changed, and broken off."""
    _, data = published

    class Serve(BaseHTTPRequestHandler):
        content, told = data, len(data)

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(Serve.told))
            self.end_headers()
            self.wfile.write(Serve.content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    file = fetch.File(
        f"http://127.0.0.1:{server.server_port}/theirs.pt", hashlib.sha256(data).hexdigest(), "For all purposes."
    )
    entry = fetch.Weights("weights: made here", {"made.pt": file}, size=len(data), model=MODEL, options=OPTIONS)
    monkeypatch.setitem(fetch.ENTRIES, "made", entry)
    yield Serve
    server.shutdown()
    server.server_close()


def fetched(run, tmp_path):
    return run("fetch", "made", "--to", tmp_path / "data", "--accept-terms")


def test_from_the_address_to_a_run(published, place, tmp_path, run):
    """The network, its options and the licence follow from the file's SHA-256, under any name."""
    model, data = published
    code, out, err = fetched(run, tmp_path)
    assert code == 0, err
    assert "For all purposes." in err
    file = tmp_path / "data" / "made.pt"
    assert out.strip() == str(file)
    file = file.rename(tmp_path / "another-name.bin")
    code, out, _ = run("adopt", file, "--out", tmp_path / "run", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["model"], told["sha256"]) == (MODEL, hashlib.sha256(data).hexdigest())
    assert told["licence"].startswith("Apache-2.0")
    assert Checkpoint.read(tmp_path / "run").config["model"]["options"] == OPTIONS
    ours, _ = load_model(tmp_path / "run")
    x = torch.randn(2, 3, 112, 112)
    torch.testing.assert_close(ours(x), model(x))


def test_another_file_at_the_address_is_kept_aside(place, tmp_path, run):
    place.content = place.content[:-1] + bytes([place.content[-1] ^ 1])
    code, _, err = fetched(run, tmp_path)
    assert code == 2
    assert "check the rejected file, which differs from the pinned one:" in err
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["made.pt.rejected"]


def test_a_download_that_breaks_off_leaves_nothing(published, place, tmp_path, run):
    place.content = place.content[: len(published[1]) // 2]
    code, _, err = fetched(run, tmp_path)
    assert code == 2
    assert "expected to fetch made.pt from http" in err
    assert "try again" in err
    assert list((tmp_path / "data").iterdir()) == []


def test_without_a_network_the_way_by_hand_is_told(published, monkeypatch, tmp_path, run):
    """Nobody listens at port 9 here; what is then brought by hand is adopted as what is fetched would be."""
    data = published[1]
    file = fetch.File("http://127.0.0.1:9/theirs.pt", hashlib.sha256(data).hexdigest(), "For all purposes.")
    entry = fetch.Weights("weights: made here", {"made.pt": file}, size=len(data), model=MODEL, options=OPTIONS)
    monkeypatch.setitem(fetch.ENTRIES, "made", entry)
    code, _, err = fetched(run, tmp_path)
    assert code == 2
    assert "http://127.0.0.1:9/theirs.pt" in err
    assert "download it as made.pt yourself: normface adopt FILE knows it" in err.splitlines()[-1]
    (tmp_path / "by-hand.pt").write_bytes(data)
    assert run("adopt", tmp_path / "by-hand.pt", "--out", tmp_path / "run")[0] == 0
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "made.pt").write_bytes(data)
    code, _, _ = run("fetch", "made", "--from", tmp_path / "usb", "--to", tmp_path / "data", "--accept-terms")
    assert code == 0
    assert (tmp_path / "data" / "made.pt").read_bytes() == data


def test_mistakes(published, place, tmp_path, run, monkeypatch):
    (tmp_path / "unknown.pt").write_bytes(published[1][:-1])
    code, _, err = run("adopt", tmp_path / "unknown.pt", "--out", tmp_path / "run")
    assert code == 2
    assert one_line(err, "--model", "made", hashlib.sha256(published[1][:-1]).hexdigest())
    monkeypatch.chdir(tmp_path)
    code, _, err = run("adopt", "made", "--out", tmp_path / "run")
    assert code == 2
    assert one_line(err, "first: normface fetch made")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [n for n, entry in fetch.ENTRIES.items() if isinstance(entry, fetch.Weights)])
def test_what_is_pinned_is_whole(name):
    """A network that has a key map, the terms it passes on, an address whose content does not change."""
    entry = fetch.ENTRIES[name]
    (file,) = entry.files.values()
    with torch.device("meta"):
        model = models.build(entry.model, **entry.options)
    assert file.terms == model.origin.licence
    assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    assert re.search(r"/releases/download/|/[0-9a-f]{40}/", file.url)
    assert file.url.startswith(f"https://{model.origin.repository}/")
    # Its size is that of the tensors, and what PyTorch writes around each of them.
    tensors = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert tensors < entry.size < tensors + 250 * len(model.state_dict())


def test_sizes_are_told(run):
    code, out, _ = run("fetch", "--json")
    assert code == 0
    for name, told in json.loads(out).items():
        entry = fetch.ENTRIES[name]
        if isinstance(entry, fetch.Weights):
            assert told["bytes"] == entry.size
            assert told["model"] == entry.model
            assert f"({entry.size / 1e6:.1f} MB)" in entry.about
