"""Each format beyond the laws: what other programs read and write, what is refused, what a full disk leaves."""

import io
import json
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image as pillow

from normface.data import Record, open_reader, write
from normface.data.bins import read_bin, write_bin
from normface.data.pack import verify, write_pack
from normface.data.recordio import MAGIC
from normface.errors import ConfigError, DataError


def png(seed, size=(6, 5)):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


RECORDS = [Record(f"P{i // 3}/{i}.png", png(i), f"P{i // 3}", None) for i in range(9)]


class TestPack:
    @pytest.fixture
    def path(self, tmp_path):
        write_pack(RECORDS[:6], tmp_path / "pack")
        return tmp_path / "pack"

    def test_opens_in_pyarrow(self, path):
        pa = pytest.importorskip("pyarrow")
        with pa.memory_map(str(path / "part-00000.arrow")) as file:
            table = pa.ipc.open_file(file).read_all()
        assert table["identity"].to_pylist() == [r.identity for r in RECORDS[:6]]
        assert table["image"].to_pylist() == [r.image for r in RECORDS[:6]]

    def test_opens_in_duckdb(self, path):
        duckdb = pytest.importorskip("duckdb")
        dataset = pytest.importorskip("pyarrow.dataset").dataset(str(path / "part-00000.arrow"), format="ipc")
        counted = duckdb.sql("select identity, count(*), min(octet_length(image)) from dataset group by 1 order by 1")
        found = counted.fetchall()
        assert [row[:2] for row in found] == [("P0", 3), ("P1", 3)]
        assert found[0][2] == min(len(r.image) for r in RECORDS[:3])
        del dataset

    @pytest.mark.slow
    def test_opens_in_hugging_face_datasets(self, path, tmp_path):
        datasets = pytest.importorskip("datasets")
        found = datasets.load_dataset(
            "arrow", data_files=str(path / "*.arrow"), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert found["identity"][:] == [r.identity for r in RECORDS[:6]]
        shown = found.cast_column("image", datasets.Image())[4]["image"]
        np.testing.assert_array_equal(np.asarray(shown), open_reader(path).read(4))

    def test_append(self, path):
        write_pack(RECORDS[6:], path, append=True)
        reader = open_reader(path)
        assert reader.ids.tolist() == [r.id for r in RECORDS]
        assert reader.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert [reader.encoded(i) for i in range(9)] == [r.image for r in RECORDS]
        verify(path)

    def test_nothing_is_appended_twice(self, path):
        before = (path / "pack.json").read_bytes()
        with pytest.raises(DataError, match=r"P1/5\.png"):
            write_pack(RECORDS[5:], path, append=True)
        assert (path / "pack.json").read_bytes() == before
        assert sorted(p.name for p in path.iterdir()) == ["pack.json", "part-00000.arrow"]

    def test_no_shard_is_larger_than_asked(self, tmp_path):
        """Two images of 400 kB fit into a MiB."""
        big = [r._replace(image=r.image + bytes(400_000)) for r in RECORDS]
        write_pack(big, tmp_path / "pack", shard_mib=1)
        sizes = [path.stat().st_size for path in (tmp_path / "pack").glob("*.arrow")]
        assert len(sizes) == 5
        assert max(sizes) <= 1 << 20
        reader = open_reader(tmp_path / "pack")
        assert [reader.encoded(i) for i in range(9)] == [r.image for r in big]

    def test_an_edited_image_is_named(self, path):
        shard = path / "part-00000.arrow"
        data = shard.read_bytes()
        at = data.index(RECORDS[4].image) + 50
        shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        reader = open_reader(path)
        assert reader.encoded(3) == RECORDS[3].image
        with pytest.raises(DataError, match=r"P1/4\.png in .*part-00000\.arrow as it was packed"):
            reader.encoded(4)
        assert [id for id, _ in reader.check().unreadable] == ["P1/4.png"]
        with pytest.raises(DataError, match=r"part-00000\.arrow edited since"):
            verify(path)

    def test_a_truncated_file_is_named(self, path):
        shard = path / "part-00000.arrow"
        shard.write_bytes(shard.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"bytes in .*part-00000\.arrow.*copy the whole pack"):
            open_reader(path)
        shard.unlink()
        with pytest.raises(DataError, match="no such file"):
            open_reader(path)

    def test_without_its_list(self, path):
        (path / "pack.json").unlink()
        with pytest.raises(DataError, match=r"a pack of format .*No such file.*pack\.json.*pack it again"):
            open_reader(path)

    def test_files_outside_are_refused(self, path):
        told = json.loads((path / "pack.json").read_text())
        told["shards"][0]["file"] = "../pack/part-00000.arrow"
        (path / "pack.json").write_text(json.dumps(told))
        with pytest.raises(DataError, match="outside the pack"):
            open_reader(path)

    def test_another_folder_is_left_alone(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "mine.txt").write_text("mine")
        with pytest.raises(ConfigError, match="files in it"):
            write_pack(RECORDS, tmp_path / "there")
        with pytest.raises(DataError, match="a pack of format"):
            write_pack(RECORDS, tmp_path / "there", append=True)
        assert [p.name for p in (tmp_path / "there").iterdir()] == ["mine.txt"]

    def test_full_disk(self, path, monkeypatch):
        """While the second of the new files is written: the pack is what it was."""
        real, calls = os.fsync, []

        def fsync(number):
            calls.append(number)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            real(number)

        monkeypatch.setattr(os, "fsync", fsync)
        big = [r._replace(image=r.image + bytes(2**20)) for r in RECORDS[6:]]
        with pytest.raises(DataError, match="No space left"):
            write_pack(big, path, append=True, shard_mib=1)
        assert sorted(p.name for p in path.iterdir()) == ["pack.json", "part-00000.arrow"]
        assert len(open_reader(path)) == 6


class TestRecordIO:
    @pytest.fixture
    def path(self, tmp_path):
        write(RECORDS, tmp_path / "train.rec", "rec")
        return tmp_path / "train.rec"

    def test_as_insightface_lays_it_out(self, path):
        """Record 0: the first number behind the images, and the last; `property`: people, height, width."""
        data = path.read_bytes()
        lines = [tuple(map(int, line.split("\t"))) for line in path.with_suffix(".idx").read_text().splitlines()]
        magic, length, flag, _, number, _, first, last = struct.unpack_from("<IIIfQQff", data)
        assert (magic, length, flag, number, first, last) == (0xCED7230A, 32, 2, 0, 10, 13)
        assert [key for key, _ in lines] == list(range(13))
        at = dict(lines)[4]
        magic, length, flag, label, number, _ = struct.unpack_from("<IIIfQQ", data, at)
        assert (magic, length, flag, label, number) == (0xCED7230A, 24 + len(RECORDS[3].image), 0, 1.0, 4)
        assert data[at + 32 : at + 8 + length] == RECORDS[3].image
        flag, _, _, _, begin, end = struct.unpack_from("<IfQQff", data, dict(lines)[11] + 8)
        assert (flag, begin, end) == (2, 4, 7)
        assert (path.parent / "property").read_text() == "3,6,5\n"

    def test_without_index(self, path):
        before = open_reader(path)
        path.with_suffix(".idx").unlink()
        after = open_reader(path)
        assert before.ids.tolist() == after.ids.tolist()
        assert [before.encoded(i) for i in range(9)] == [after.encoded(i) for i in range(9)]

    def test_without_the_record_of_records_and_with_more_labels(self, tmp_path):
        def framed(data):
            return struct.pack("<II", MAGIC, len(data)) + data + bytes(-len(data) % 4)

        one = framed(struct.pack("<IfQQ", 0, 7.0, 0, 0) + RECORDS[0].image)
        two = framed(struct.pack("<IfQQff", 2, 0.0, 1, 0, 9.0, 0.5) + RECORDS[1].image)
        (tmp_path / "some.rec").write_bytes(one + two)
        reader = open_reader(tmp_path / "some.rec")
        assert reader.identities.tolist() == ["0000007", "0000009"]
        assert [reader.encoded(0), reader.encoded(1)] == [r.image for r in RECORDS[:2]]

    @pytest.mark.parametrize("aligned", [0, 1, 2, 3])
    def test_the_magic_word_inside_an_image(self, tmp_path, aligned):
        word = struct.pack("<I", MAGIC)
        records = [
            r._replace(image=r.image + bytes(-len(r.image) % 4) + b"x" * aligned + word * 3 + b"end") for r in RECORDS
        ]
        write(records, tmp_path / "t.rec", "rec")
        for index in (True, False):
            reader = open_reader(tmp_path / "t.rec")
            assert [reader.encoded(i) for i in range(9)] == [r.image for r in records]
            if index:
                (tmp_path / "t.idx").unlink()

    def test_an_absurd_length(self, path):
        path.with_suffix(".idx").unlink()
        data = bytearray(path.read_bytes())
        data[4:8] = struct.pack("<I", 2**29 - 1)
        path.write_bytes(data)
        with pytest.raises(DataError, match="invalid length, at byte 0"):
            open_reader(path)

    def test_truncated(self, path):
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match="index of"):
            open_reader(path)

    def test_people_apart(self, tmp_path):
        with pytest.raises(DataError, match="person by person"):
            write([RECORDS[0], RECORDS[3], RECORDS[1]], tmp_path / "t.rec", "rec")
        assert not (tmp_path / "t.rec").exists()


IMAGES = [r.image for r in RECORDS[:4]]


class TestBin:
    def test_round_trip(self, tmp_path):
        write_bin(tmp_path / "set.bin", IMAGES, [True, False])
        images, left, right, same = read_bin(tmp_path / "set.bin")
        assert [images.encoded(i) for i in range(4)] == IMAGES
        assert (left.tolist(), right.tolist(), same.tolist()) == ([0, 2], [1, 3], [True, False])

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_pickles_of_all_ages(self, tmp_path, protocol):
        same = [np.True_, np.False_]
        (tmp_path / "set.bin").write_bytes(pickle.dumps((IMAGES, same), protocol))
        images, *_, found = read_bin(tmp_path / "set.bin")
        assert [images.encoded(i) for i in range(4)] == IMAGES
        assert found.tolist() == [True, False]

    def test_of_python_2(self, tmp_path):
        """Strings are bytes there: opcode U, length, data."""
        each = b"".join(b"T" + struct.pack("<I", len(image)) + image for image in IMAGES[:2])
        (tmp_path / "set.bin").write_bytes(b"\x80\x02](" + each + b"e](I01\nee".replace(b"ee", b"e") + b"\x86.")
        images, *_, same = read_bin(tmp_path / "set.bin")
        assert [images.encoded(i) for i in range(2)] == IMAGES[:2]
        assert same.tolist() == [True]

    @pytest.mark.parametrize(
        "evil", [b"cposix\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"\x80\x04r\xff\xff\xff\x7f."]
    )
    def test_programs_are_refused(self, tmp_path, evil):
        (tmp_path / "set.bin").write_bytes(evil)
        with pytest.raises(DataError, match="verification set"):
            read_bin(tmp_path / "set.bin")

    def test_other_numbers(self, tmp_path):
        (tmp_path / "set.bin").write_bytes(pickle.dumps((IMAGES, [True])))
        with pytest.raises(DataError, match="got 4 for 1;"):
            read_bin(tmp_path / "set.bin")


class TestTar:
    def tar(self, path, members):
        with tarfile.open(path, "w") as archive:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                if isinstance(data, str):
                    member.type, member.linkname = tarfile.SYMTYPE, data
                    data = b""
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path

    def test_webdataset_reads_what_we_write(self, tmp_path):
        wds = pytest.importorskip("webdataset")
        write(RECORDS, tmp_path / "faces.tar", "tar")
        found = list(wds.WebDataset(str(tmp_path / "faces.tar"), shardshuffle=False))
        assert [sample["png"] for sample in found] == [r.image for r in RECORDS]
        assert [int(sample["cls"]) for sample in found] == [i // 3 for i in range(9)]

    def test_we_read_what_webdataset_writes(self, tmp_path):
        wds = pytest.importorskip("webdataset")
        for shard in range(2):
            with wds.TarWriter(str(tmp_path / f"s-{shard:03d}.tar")) as sink:
                for i in range(3):
                    sink.write({"__key__": f"{shard}{i:04d}", "png": RECORDS[3 * shard + i].image, "cls": 40 + shard})
        for path in (tmp_path, tmp_path / "s-{000..001}.tar"):
            reader = open_reader(path)
            assert reader.identities.tolist() == ["40", "41"]
            assert [reader.encoded(i) for i in range(6)] == [r.image for r in RECORDS[:6]]

    def test_a_missing_shard(self, tmp_path):
        write(RECORDS, tmp_path / "s-000.tar", "tar")
        with pytest.raises(DataError, match=r"s-001\.tar"):
            open_reader(tmp_path / "s-{000..001}.tar")

    @pytest.mark.parametrize(
        "members",
        [{"../a.png": b"x"}, {"/a.png": b"x"}, {"C:/a.png": b"x"}, {"a.png": "/etc/passwd"},
         {"a.png": b"1", "./a.png": b"2"}],
    )  # fmt: skip
    def test_refused(self, tmp_path, members):
        with pytest.raises(DataError):
            open_reader(self.tar(tmp_path / "t.tar", {"b.png": RECORDS[0].image, **members}))

    def test_truncated(self, tmp_path):
        write(RECORDS, tmp_path / "t.tar", "tar")
        data = (tmp_path / "t.tar").read_bytes()
        (tmp_path / "t.tar").write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match=r"t\.tar"):
            open_reader(tmp_path / "t.tar")


@pytest.mark.slow
class TestHuggingFace:
    def test_datasets_reads_what_we_write(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        write(RECORDS, tmp_path / "set", "hf")
        found = datasets.load_from_disk(str(tmp_path / "set"))
        assert found.features["label"].names == ["P0", "P1", "P2"]
        assert found["label"][:] == [i // 3 for i in range(9)]
        reader = open_reader(tmp_path / "set")
        np.testing.assert_array_equal(np.asarray(found[5]["image"]), reader.read(5))

    def test_we_read_what_datasets_writes(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["Zoë", "Ann"]))
        rows = {"image": [{"bytes": r.image, "path": None} for r in RECORDS[:4]], "label": [0, 1, 1, 0]}
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set", num_shards=2)
        reader = open_reader(tmp_path / "set")
        assert reader.identities[reader.labels].tolist() == ["Zoë", "Ann", "Ann", "Zoë"]
        assert [reader.encoded(i) for i in range(4)] == [r.image for r in RECORDS[:4]]


@pytest.mark.parametrize("id", ["A/../../b.png", "A/.."])
@pytest.mark.parametrize("format", ["folder", "zip"])
def test_no_name_leads_out_of_a_folder(tmp_path, format, id):
    where = {"folder": tmp_path / "faces", "zip": tmp_path / "faces.zip"}[format]
    evil = Record(id, RECORDS[0].image, id.partition("/")[0], None)
    with pytest.raises(DataError, match="inside the folder"):
        write([evil], where, format)
    assert {p.name for p in tmp_path.iterdir()} <= {"faces", "faces.zip"}


def test_names_with_newlines_and_letters_of_all_kinds(tmp_path):
    records = [Record(f"{name}/1.png", RECORDS[0].image, name, None) for name in ("a\nb", "Zoë", "李", "🙂")]
    for format, name in {"folder": "f", "zip": "f.zip", "arrow": "p", "tar": "t.tar", "hf": "h"}.items():
        write(records, tmp_path / format / name, format)
        assert set(open_reader(tmp_path / format / name).identities) == {"a\nb", "Zoë", "李", "🙂"}
