"""Keys: what the file holds, who gets in, and how fast a key is withdrawn."""

import hashlib
import json
import subprocess
import sys

import pytest

from normface.errors import ConfigError
from normface.serve import KeyFile, Settings, new_key, read_keys
from normface.serve.gate import needed


def test_a_key_is_found_and_its_file_does_not_hold_it(tmp_path):
    file = tmp_path / "keys.jsonl"
    token, other = new_key(file, ("read",)), new_key(file, ("enrol", "read"))
    text = file.read_text()
    assert token not in text
    assert token[12:] not in text
    assert hashlib.sha256(token.encode()).hexdigest() in text
    assert file.stat().st_mode & 0o077 == 0
    keys = KeyFile(file)
    assert keys.find(token).scopes == ("read",)
    assert keys.find(other).scopes == ("enrol", "read")


@pytest.mark.parametrize("wrong", ["", "nf_", "x" * 10_000, "nf_00000000_" + 64 * "0", "nf_\ud800_é"])
def test_anything_else_is_not(tmp_path, wrong):
    new_key(tmp_path / "k", ("read",))
    assert KeyFile(tmp_path / "k").find(wrong) is None


def test_one_character_of_a_key_is_wrong(tmp_path):
    token = new_key(tmp_path / "k", ("read",))
    keys = KeyFile(tmp_path / "k")
    for place in (3, 12, -1):
        wrong = list(token)
        wrong[place] = "0" if token[place] != "0" else "1"
        assert keys.find("".join(wrong)) is None


def test_a_withdrawn_key_is_out_at_once_and_so_is_an_expired_one(tmp_path):
    file = tmp_path / "k"
    first, second = new_key(file, ("read",)), new_key(file, ("read",))
    keys = KeyFile(file)
    file.write_text(file.read_text().splitlines()[1] + "\n")
    assert keys.find(first) is None
    assert keys.find(second)
    old, young = new_key(file, ("read",), "2020-01-01"), new_key(file, ("read",), "2999-01-01")
    assert keys.find(old) is None
    assert keys.find(young)


def test_a_damaged_file_lets_nobody_in_until_it_is_mended(tmp_path):
    file = tmp_path / "k"
    token = new_key(file, ("read",))
    keys, good = KeyFile(file), file.read_text()
    file.write_text(good + "{")
    assert keys.find(token) is None
    file.write_text(good + "\n")
    assert keys.find(token)
    file.unlink()
    assert keys.find(token) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"id": "x"}', "\x00"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "k").write_text(text)
    with pytest.raises(ConfigError, match="a file of API keys"):
        KeyFile(tmp_path / "k")


def test_scopes_and_dates(tmp_path):
    with pytest.raises(ConfigError, match="read, enrol, admin"):
        new_key(tmp_path / "k", ("root",))
    with pytest.raises(ConfigError, match="a date"):
        new_key(tmp_path / "k", ("read",), "tomorrow")
    assert not (tmp_path / "k").exists()
    new_key(tmp_path / "k", ("admin",))
    key = KeyFile(tmp_path / "k")._keys[json.loads((tmp_path / "k").read_text())["id"]]
    assert all(key.allows(scope) for scope in ("read", "enrol", "admin"))


def test_what_needs_which_scope():
    assert needed("GET", "/") is None
    assert needed("GET", "/healthz") is None
    assert needed("GET", "/v1/about") is None
    assert needed("POST", "/v1/verify") == "read"
    assert needed("GET", "/v1/people") == "read"
    assert needed("GET", "/metrics") == "read"
    assert needed("POST", "/v1/people") == "enrol"
    assert needed("DELETE", "/v1/people/Ann") == "admin"
    assert needed("DELETE", "/v1/anything") == "admin"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "faces.example"])
def test_others_are_not_let_in_without_keys(host, tmp_path):
    with pytest.raises(ConfigError, match="API keys for a service on"):
        Settings(host=host)
    Settings(host=host, keys=tmp_path / "k")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_is_free(host):
    assert Settings(host=host).host == host


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="positive rate"):
        Settings(queue=0)
    with pytest.raises(ConfigError, match="a port below"):
        Settings(port=65536)


@pytest.mark.slow
def test_processes_that_make_keys_at_once_lose_none(tmp_path):
    path = tmp_path / "keys"
    code = "import sys; from normface.serve import new_key; [new_key(sys.argv[1], ('read',)) for _ in range(20)]"
    run = [subprocess.Popen([sys.executable, "-c", code, path]) for _ in range(3)]
    assert [process.wait() for process in run] == [0] * 3
    assert len(read_keys(path)) == 60
