"""Where labels come from in other projects' files: recognized, asked for, or missed with an error, never lost."""

import io
import json
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image as pillow

from normface.data import open_reader
from normface.data.labels import LABELS
from normface.data.recordio import MAGIC
from normface.errors import ConfigError, DataError


def png(seed):
    file = io.BytesIO()
    pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


IMAGES = [png(seed) for seed in range(4)]
PEOPLE = ["Ann", "Bo", "Bo", "Ann"]


def people(reader):
    return reader.identities[reader.labels].tolist()


def images(reader):
    return [reader.encoded(row) for row in range(len(reader))]


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


class TestTables:
    """Hugging Face's folders and Parquet files."""

    def saved(self, path, columns, *, parquet):
        pa = pytest.importorskip("pyarrow")
        rows = {"image": [{"bytes": image, "path": None} for image in IMAGES], **columns}
        table = pa.table(rows)
        if parquet:
            import pyarrow.parquet as pq

            pq.write_table(table, path / "data.parquet", row_group_size=3)
            return path / "data.parquet"
        features = {name: {"_type": "Image" if name == "image" else "Value"} for name in rows}
        (path / "set").mkdir()
        with pa.OSFile(str(path / "set" / "data.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
        (path / "set" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
        (path / "set" / "dataset_info.json").write_text(json.dumps({"features": features}))
        return path / "set"

    @pytest.mark.parametrize("parquet", [False, True])
    @pytest.mark.parametrize("column", LABELS)
    def test_usual_names(self, tmp_path, column, parquet):
        reader = open_reader(self.saved(tmp_path, {column: PEOPLE}, parquet=parquet))
        assert people(reader) == PEOPLE
        assert images(reader) == IMAGES

    @pytest.mark.parametrize("parquet", [False, True])
    def test_another_name_is_asked_for(self, tmp_path, parquet):
        path = self.saved(tmp_path, {"celebrity": PEOPLE, "age": [1, 2, 3, 4]}, parquet=parquet)
        with pytest.raises(DataError, match=r"a column of labels .*got celebrity, age; .*--label-column celebrity"):
            open_reader(path)
        assert people(open_reader(path, label="celebrity")) == PEOPLE
        with pytest.raises(ConfigError, match="did you mean 'celebrity'"):
            open_reader(path, label="celebrties")

    @pytest.mark.parametrize("parquet", [False, True])
    def test_a_missing_label(self, tmp_path, parquet):
        with pytest.raises(DataError, match=r"a label of row 1 of .*got None"):
            open_reader(self.saved(tmp_path, {"label": ["Ann", None, "Bo", "Bo"]}, parquet=parquet))

    @pytest.mark.parametrize("parquet", [False, True])
    def test_images_alone_are_of_nobody(self, tmp_path, parquet):
        assert open_reader(self.saved(tmp_path, {}, parquet=parquet)).identities.tolist() == ["unknown"]

    @pytest.mark.slow
    def test_what_datasets_writes(self, tmp_path, caplog):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(image=datasets.Image(), person=datasets.ClassLabel(names=["Bo", "Ann"]))
        rows = {"image": [{"bytes": i, "path": f"{n}.png"} for n, i in enumerate(IMAGES)], "person": [1, 0, 0, 1]}
        whole = datasets.Dataset.from_dict(rows, features=features)
        datasets.DatasetDict(train=whole, test=whole.select([0])).save_to_disk(tmp_path / "both")
        assert people(open_reader(tmp_path / "both")) == PEOPLE
        assert "reading the split train only" in caplog.text
        assert people(open_reader(tmp_path / "both" / "test")) == ["Ann"]
        datasets.DatasetDict(a=whole, b=whole).save_to_disk(tmp_path / "others")
        with pytest.raises(DataError, match=r"one split of .*got a, b"):
            open_reader(tmp_path / "others")
        (tmp_path / "hub" / "data").mkdir(parents=True)
        whole.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
        reader = open_reader(tmp_path / "hub")
        assert (people(reader), images(reader)) == (PEOPLE, IMAGES)
        assert reader.ids.tolist() == ["0.png", "1.png", "2.png", "3.png"]


class TestWebDataset:
    @pytest.mark.parametrize(
        "label",
        [("txt", lambda who: who), ("cls", lambda who: who), ("cls", lambda who: f"{who}\r\n"),
         ("json", lambda who: json.dumps({"label": who})), ("json", lambda who: json.dumps({"person_id": who}))],
    )  # fmt: skip
    def test_labels(self, tmp_path, label):
        ending, write = label
        members = {}
        for row, (image, person) in enumerate(zip(IMAGES, PEOPLE, strict=True)):
            members |= {f"{row:04d}.png": image, f"{row:04d}.{ending}": write(person).encode()}
        reader = open_reader(tar(tmp_path / "t.tar", members))
        assert (people(reader), images(reader)) == (PEOPLE, IMAGES)

    def test_numbers_in_json(self, tmp_path):
        members = {"a.png": IMAGES[0], "a.json": b'{"label": 3}', "b.png": IMAGES[1], "b.json": b'{"label": 0}'}
        assert people(open_reader(tar(tmp_path / "t.tar", members))) == ["3", "0"]

    def test_another_key(self, tmp_path):
        members = {"a.png": IMAGES[0], "a.json": b'{"who": "Ann"}', "b.png": IMAGES[1], "b.json": b'{"who": "Bo"}'}
        path = tar(tmp_path / "t.tar", members)
        assert people(open_reader(path, label="who")) == ["Ann", "Bo"]

    def test_one_without_a_label(self, tmp_path):
        path = tar(tmp_path / "t.tar", {"a.png": IMAGES[0], "a.cls": b"3", "b.png": IMAGES[1]})
        with pytest.raises(DataError, match=r"a label of every image .*1 without \(first: b\.png\)"):
            open_reader(path)


class TestLists:
    def laid_out(self, folder):
        for row, image in enumerate(IMAGES):
            (folder / f"{row}.png").write_bytes(image)

    @pytest.mark.parametrize(
        ("name", "text"),
        [("list.csv", "0.png,Ann\n1.png,Bo\n2.png,Bo\n3.png,Ann\n"),
         ("list.csv", "\ufeffpath,label\r\n0.png,Ann\r\n1.png,Bo\r\n2.png,Bo\r\n3.png,Ann\r\n"),
         ("list.csv", "person_id;age;file\nAnn;3;0.png\nBo;4;1.png\nBo;5;2.png\nAnn;6;3.png"),
         ("label.txt", "0.png Ann\n1.png Bo\n2.png Bo\n3.png Ann\n"),
         ("labels.txt", "# comment\n\n0.png\tAnn\n1.png\tBo\n2.png\tBo\n3.png\tAnn\n"),
         ("train.lst", "0\tAnn\t0.png\n1\tBo\t1.png\n2\tBo\t2.png\n3\tAnn\t3.png\n")],
    )  # fmt: skip
    def test_forms(self, tmp_path, name, text):
        self.laid_out(tmp_path)
        (tmp_path / name).write_bytes(text.encode())
        for path in [tmp_path / name, *[tmp_path] * name.startswith("label")]:  # or the flat folder around it
            reader = open_reader(path)
            assert (people(reader), images(reader)) == (PEOPLE, IMAGES)
            assert reader.ids.tolist() == ["0.png", "1.png", "2.png", "3.png"]

    def test_the_nearest_name_of_what_is_missing(self, tmp_path):
        self.laid_out(tmp_path)
        (tmp_path / "list.csv").write_text("path,label\n0.jpg,Ann\n1.jpg,Bo\n")
        with pytest.raises(DataError, match=r"2 of 2 missing \(first: 0\.jpg\); .*did you mean 0\.png"):
            open_reader(tmp_path / "list.csv")

    @pytest.mark.parametrize(
        ("text", "message"),
        [("../0.png,Ann\n", "below the folder"), ("/0.png,Ann\n", "below the folder"), ("", "got none"),
         ("0.png,Ann\n0.png,Bo\n", "1 twice"), ("path,age\n0.png,3\n", "path and label"),
         ("0.png,Ann\n1.png\n", "correct that line"), ("0.png,Ann\n1.png,\n", "a label of 1.png")],
    )  # fmt: skip
    def test_refused(self, tmp_path, text, message):
        self.laid_out(tmp_path)
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            open_reader(tmp_path / "list.csv")

    def test_flat_images_without_labels(self, tmp_path):
        self.laid_out(tmp_path)
        with pytest.raises(DataError, match="give a list of path,label"):
            open_reader(tmp_path)


def test_two_labels_in_every_record_of_im2rec(tmp_path):
    """The first is no index of records: it has an image."""

    def framed(data):
        return struct.pack("<II", MAGIC, len(data)) + data + bytes(-len(data) % 4)

    records = [
        framed(struct.pack("<IfQQff", 2, 0.0, row, 0, float(1 + row // 3), 0.5) + IMAGES[row % 4]) for row in range(12)
    ]
    (tmp_path / "train.rec").write_bytes(b"".join(records))
    reader = open_reader(tmp_path / "train.rec")
    assert len(reader) == 12
    assert people(reader) == [f"{1 + row // 3:07d}" for row in range(12)]


def test_a_label_column_where_none_is(tmp_path):
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann" / "0.png").write_bytes(IMAGES[0])
    (tmp_path / "t.zip").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(ConfigError, match="drop --label-column"):
        open_reader(tmp_path / "t.zip", label="person")
