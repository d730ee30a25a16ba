"""What holds of every format: what was written is read back, and nothing damaged is ever taken for whole."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image as pillow

from normface.data import Record, open_reader, writable, write
from normface.data.bins import write_bin
from normface.errors import DataError, NormfaceError

pytestmark = pytest.mark.slow

WRITTEN = {
    "folder": "faces", "zip": "faces.zip", "arrow": "faces", "rec": "faces.rec", "tar": "faces.tar", "hf": "faces",
}  # fmt: skip
ALL = pytest.mark.parametrize("format", WRITTEN)


def test_every_format_is_tested_here():
    assert set(WRITTEN) == set(writable())


def encoded(seed, kind="PNG", mode="RGB", size=(6, 5)):
    shape = (*size, *([] if mode == "L" else [len(mode)]))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    pillow.fromarray(pixels, mode).save(file, kind)
    return file.getvalue()


def record(id, seed, identity=None, landmarks=None, **options):
    return Record(id, encoded(seed, **options), identity or id.partition("/")[0], landmarks)


POINTS = np.arange(10, dtype=np.float32).reshape(5, 2)
RECORDS = [
    record("Ann/1.png", 1, landmarks=POINTS), record("Ann/2.jpg", 2, kind="JPEG"), record("Bo/1.png", 3, mode="L"),
    record("Zoë Ö/ü.png", 4, mode="RGBA"), record("Zoë Ö/z.png", 5, landmarks=POINTS + 0.5),
]  # fmt: skip


@pytest.fixture
def make(tmp_path):
    def call(format, records=RECORDS):
        path = tmp_path / format / WRITTEN[format]
        path.parent.mkdir()
        assert write(records, path, format) == len(records)
        return path

    return call


@ALL
def test_what_was_written_is_read_back(make, format):
    reader = open_reader(make(format), strict=True)
    assert len(reader) == len(RECORDS)
    found = {reader.encoded(row): row for row in range(len(reader))}
    assert set(found) == {r.image for r in RECORDS}  # byte for byte
    people = [reader.identities[reader.labels[found[r.image]]] for r in RECORDS]
    wanted = [r.identity for r in RECORDS]
    if format == "rec":  # knows numbers alone, in the order of writing
        wanted = [f"{['Ann', 'Bo', 'Zoë Ö'].index(name):07d}" for name in wanted]
    else:
        assert [reader.ids[found[r.image]] for r in RECORDS] == [r.id for r in RECORDS]
    assert people == wanted
    assert list(reader.identities) == sorted(set(wanted))
    assert len(set(reader.ids.tolist())) == len(RECORDS)
    for row in range(len(reader)):
        assert reader.read(row).shape == (6, 5, 3)


@pytest.mark.parametrize("format", ["arrow", "tar"])
def test_landmarks(make, format):
    reader = open_reader(make(format))
    rows = [reader.ids.tolist().index(r.id) for r in RECORDS]
    for row, each in zip(rows, RECORDS, strict=True):
        expected = np.full((5, 2), np.nan) if each.landmarks is None else each.landmarks
        np.testing.assert_array_equal(reader.landmarks[row], expected)
    again = [r.landmarks is not None for r in reader.records()]
    assert sum(again) == 2


@ALL
def test_labels_stay_dense(make, format):
    reader = open_reader(make(format))
    last = len(reader) - 1
    part = reader.select([last, 0])
    assert part.labels.tolist() == [1, 0]
    assert part.ids.tolist() == [reader.ids[last], reader.ids[0]]
    assert part.encoded(0) == reader.encoded(last)
    assert len(reader.select(np.zeros(len(reader), bool))) == 0


@ALL
def test_threads_and_processes_share_it(make, format):
    reader = open_reader(make(format))
    twin = pickle.loads(pickle.dumps(reader))
    rows = list(range(len(reader))) * 50
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.encoded, rows))
    assert found == [twin.encoded(row) for row in rows]


@ALL
def test_reads_into_a_place(make, format):
    reader = open_reader(make(format))
    place = np.zeros((6, 5, 3), np.uint8)
    for row in range(len(reader)):
        assert reader.read(row, place) is place
        np.testing.assert_array_equal(place, reader.read(row))
        assert reader.read(row, np.zeros((7, 5, 3), np.uint8)).shape == (6, 5, 3)


@ALL
def test_a_damaged_image_is_named_and_left_out_or_refused(make, format, caplog):
    broken = Record("Bo/2.png", RECORDS[0].image[:40], "Bo", None)
    path = make(format, [*RECORDS[:3], broken, *RECORDS[3:]])
    reader = open_reader(path)
    good = reader.check()
    assert len(good) == len(RECORDS)
    ((id, _),) = good.unreadable
    assert reader.encoded(reader.ids.tolist().index(id)) == broken.image
    with pytest.raises(DataError, match="1 of 6 unreadable"):
        open_reader(path, strict=True).check()


def mutations(data, count, seed):
    """Bytes changed, cut, put in twice, set to extremes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(copy)))
            kind = rng.integers(5)
            if kind == 0:
                copy[at] = rng.integers(256)
            elif kind == 1:
                copy[at : at + 4] = b"\xff\xff\xff\xff"
            elif kind == 2:
                del copy[at : at + int(rng.integers(1, 64))]
            elif kind == 3:
                copy[at:at] = copy[at : at + int(rng.integers(1, 64))]
            else:
                copy[at : at + 8] = int(rng.integers(2**62)).to_bytes(8, "little")
            copy = copy or bytearray(b"\0")
        yield bytes(copy)


def fuzz(path, target, count):
    """Open what `path` has become after each mutation of `target`, and read it all: only NormfaceError may come out."""
    whole, opened = target.read_bytes(), 0
    for data in mutations(whole, count, seed=len(whole)):
        target.write_bytes(data)
        try:
            reader = open_reader(path)
            for row in range(min(len(reader), 8)):
                reader.encoded(row)
            opened += 1
        except NormfaceError:
            pass
    target.write_bytes(whole)
    assert len(open_reader(path)) == len(RECORDS)
    return opened


def targets(path, format):
    if format == "arrow":
        return [path / "pack.json", path / "part-00000.arrow"]
    if format == "hf":
        return [path / "state.json", path / "dataset_info.json", path / "data-00000-of-00001.arrow"]
    return [path, path.with_suffix(".idx")] if format == "rec" else [path]


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("format", [name for name in WRITTEN if name != "folder"])
def test_mutated_files(make, format, count, monkeypatch):
    path = make(format)
    if format == "arrow":  # whoever edits a file can edit what is told of its size as well
        from normface.data import pack

        real = pack.manifest
        monkeypatch.setattr(pack, "manifest", lambda at: real(at) if target.name == "pack.json" else told)
        told = real(path)
    for target in targets(path, format):
        fuzz(path, target, count // len(targets(path, format)))


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.nightly)])
def test_mutated_verification_sets(tmp_path, count):
    path = tmp_path / "set.bin"
    write_bin(path, [r.image for r in [*RECORDS, RECORDS[0]]], [True, False, True])
    whole = path.read_bytes()
    for data in mutations(whole, count, seed=1):
        path.write_bytes(data)
        with suppress(NormfaceError):
            open_reader(path)
