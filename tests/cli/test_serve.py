"""`normface serve` as a user starts it; what it answers is tested in tests/serve."""

import json

import pytest
from tests.cli.conftest import one_line

from normface.serve import read_keys


def test_a_new_key_is_shown_once(run, tmp_path):
    file = tmp_path / "keys.jsonl"
    code, out, _ = run("serve", "--keys", file, "--new-key", "read, enrol", "--expires", "2999-12-31", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["key"].startswith("nf_")
    line = json.loads(file.read_text())
    assert (line["scopes"], line["expires"]) == (["read", "enrol"], "2999-12-31")
    assert told["key"] not in file.read_text()
    code, out, _ = run("serve", "--keys", file, "--new-key", "admin")
    assert code == 0
    assert out.startswith("nf_")
    assert len(file.read_text().splitlines()) == 2


def test_keys(run, tmp_path):
    file = tmp_path / "keys.jsonl"
    assert json.loads(run("keys", "add", "read,enrol", "--keys", file, "--json")[1])["key"].startswith("nf_")
    assert "Copy this key now" in run("keys", "add", "admin", "--keys", file, "--expires", "2999-12-31")[1]
    first, second = json.loads(run("keys", "list", "--keys", file, "--json")[1])["keys"]
    assert (first["scopes"], second["scopes"], second["expires"]) == (["read", "enrol"], ["admin"], "2999-12-31")
    assert first["id"] in run("keys", "list", "--keys", file)[1]
    assert run("keys", "revoke", first["id"], "--keys", file)[0] == 0
    assert [each.id for each in read_keys(file)] == [second["id"]]
    assert file.stat().st_mode & 0o077 == 0
    assert one_line(run("keys", "revoke", first["id"], "--keys", file)[2], first["id"], "normface keys list")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--new-key", "read"], "--new-key with --keys FILE"),
        (["--keys", "k", "--new-key", "root"], "read, enrol, admin"),
        (["--host", "0.0.0.0"], "API keys for a service on 0.0.0.0"),
        (["--keys", "none.jsonl"], "a file of API keys at none.jsonl"),
        (["--queue", "0"], "positive rate"),
        (["--behind-proxy", "127.0.0.1,proxy"], "addresses or networks"),
        (["--root-path", "faces"], "begin it with /"),
        (["--memory", "1000000"], "12 times the largest request"),
        (["--model", "nowhere.onnx"], "nothing at nowhere.onnx"),
        (["--model", "."], "normface export RUN"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, words, part):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("serve", *words)
    assert code == 2
    assert one_line(err, part)


def test_the_gallery_of_the_environment(run, monkeypatch):
    monkeypatch.setenv("NORMFACE_GALLERY", "nowhere:people.db")
    code, _, err = run("serve")
    assert code == 2
    assert one_line(err, "nowhere:")  # without what may be a password
