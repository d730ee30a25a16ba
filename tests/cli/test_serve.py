"""`normface serve` as a user starts it; what it answers is tested in tests/serve."""

import json

import pytest
from tests.cli.conftest import one_line


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


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--new-key", "read"], "the file for the key"),
        (["--keys", "k", "--new-key", "root"], "read, enrol, admin"),
        (["--host", "0.0.0.0"], "API keys for a service on 0.0.0.0"),
        (["--keys", "none.jsonl"], "a file of API keys at none.jsonl"),
        (["--queue", "0"], "positive rate"),
        (["--model", "nowhere.onnx"], "nothing at nowhere.onnx"),
        (["--model", "."], "normface export RUN"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, words, part):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("serve", *words)
    assert code == 2
    assert one_line(err, part)
