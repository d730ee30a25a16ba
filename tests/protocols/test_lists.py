"""Files that are absent, no text, or of another kind are told in words, not in another library's."""

import re

import numpy as np
import pytest

from normface.data.bins import read_bin
from normface.errors import DataError
from normface.protocols import (
    read_bin_pairs,
    read_blufr,
    read_groups,
    read_lfw_pairs,
    read_media,
    read_pairs_csv,
    read_roles,
    read_ytf,
)
from normface.protocols.ijb import read_matches
from normface.protocols.lists import read_table
from normface.protocols.named_pairs import rows_of
from normface.types import Embeddings

READERS = {
    "bin": read_bin_pairs, "blufr": read_blufr, "groups": lambda path: read_groups(path, np.array(["a"])),
    "lfw": read_lfw_pairs, "ijb media": read_media, "ijb matches": lambda path: read_matches(path, None),
    "pairs": read_pairs_csv, "roles": read_roles, "ytf": read_ytf, "vectors": Embeddings.load,
}  # fmt: skip
FOREIGN = re.compile(r"Errno|Error|Exception|codec|pickle|zip|\(\)|object has no")


@pytest.mark.parametrize("name", READERS)
class TestEveryReader:
    def told(self, name, path):
        with pytest.raises(DataError) as raised:
            READERS[name](path)
        assert not FOREIGN.search(str(raised.value)), str(raised.value)
        return str(raised.value)

    def test_absent(self, name, tmp_path):
        told = self.told(name, tmp_path / "none")
        assert "no such file or directory" in told
        assert told.count(str(tmp_path / "none")) == 1

    @pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00a,b\xff", b"PK\x03\x04 no archive"])
    def test_another_kind(self, name, data, tmp_path):
        (tmp_path / "list").write_bytes(data)
        assert str(tmp_path / "list") in self.told(name, tmp_path / "list")


def test_a_table(tmp_path):
    (tmp_path / "t.csv").write_text('\ufeffID, Sex\n"a, b/1.jpg", f\n\nc/1.jpg, \n', "utf-8")
    head, rows, sha256 = read_table(tmp_path / "t.csv", "a list", "id, sex", "id")
    assert head == ["id", "sex"]
    assert rows == [(2, {"id": "a, b/1.jpg", "sex": "f"}), (4, {"id": "c/1.jpg", "sex": ""})]
    assert len(sha256) == 64


def test_one_array_is_not_vectors_with_names(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    with pytest.raises(DataError, match=r"got .*a\.npy with no named arrays; write"):
        Embeddings.load(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", features=np.ones((3, 4)), names=np.array(["a"]))
    with pytest.raises(DataError, match=r"got .*b\.npz with features, names; write one"):
        Embeddings.load(tmp_path / "b.npz")


def test_a_bin_with_other_things(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"got a pickle with posix\.system; give a file of InsightFace"):
        read_bin(tmp_path / "a.bin")


def test_the_nearest_id_only_where_one_is_near():
    known = Embeddings(np.eye(3), ["Ann_Lee/Ann_Lee_0001.jpg", "Bo/Bo_0001.jpg", "Bo/Bo_0002.jpg"])
    with pytest.raises(DataError, match=r"first: Ann_Lee/Ann_Lee_0002\.jpg; nearest id: Ann_Lee/Ann_Lee_0001\.jpg"):
        rows_of(known, np.array(["Ann_Lee/Ann_Lee_0002.jpg"]))
    numbered = Embeddings(np.eye(2), ["000000", "000001"])
    with pytest.raises(DataError, match=r"no id is like it, they are as 000000\)"):
        rows_of(numbered, np.array(["Ann_Lee/Ann_Lee_0002.jpg"]))
