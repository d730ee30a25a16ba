"""Bulk embedding: the Embedder's own numbers in files, whoever computes them and however often it is stopped.

Also by Ray: an actor is killed; a cluster of two machines loses one. All in one file: tests of two files may run at the
same time, and `ray.init` joins a cluster that it finds.
"""

import json
import os
import signal
import time
import zipfile
from functools import partial

import numpy as np
import pytest
from tests.cli.conftest import one_line, run  # noqa: F401
from tests.embed.networks import network

from normface.data import open_reader
from normface.embed import Embedder, bulk
from normface.embed.bulk import embed_all, gather, part_file
from normface.embed.source import open_source
from normface.errors import ConfigError, DataError
from normface.types import Embeddings

pytestmark = pytest.mark.slow

BROKEN = "Person_0003/broken.jpg"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def crops(drawn, tmp_path_factory):
    """96 crops, and a file that is none."""
    path = tmp_path_factory.mktemp("crops") / "crops.zip"
    reader = open_reader(drawn / "train" / "faces-112.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for row, id in enumerate(reader.ids.tolist()):
            archive.writestr(id, reader.encoded(row))
        archive.writestr(BROKEN, b"no image")
    return path


@pytest.fixture
def parts_of_20(monkeypatch):
    monkeypatch.setattr(bulk, "PART", 20)


def same_files(a, b):
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())
    return all(p.read_bytes() == (b / p.name).read_bytes() for p in a.iterdir())


def test_a_folder_is_read_at_any_depth(model, drawn, tmp_path, run, caplog):  # noqa: F811
    """Three crops at the top and one in a folder: four embeddings; a text file is counted."""
    reader = open_reader(drawn / "train" / "faces-112.zip")
    for row, name in enumerate(["a.jpg", "b.jpg", "c.jpg", "more/d.jpg", "cut.jpg"]):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(reader.encoded(row)[: -2 if name == "cut.jpg" else None])
    (tmp_path / "in" / "notes.txt").write_text("not read")
    call = ["embed", tmp_path / "in", "--model", model, "--out", tmp_path / "out.npz", "--json"]
    code, out, _ = run(*call)
    assert code == 0
    assert json.loads(out)["unread"] == {".txt file": 1}
    assert Embeddings.load(tmp_path / "out.npz").ids.tolist() == ["a.jpg", "b.jpg", "c.jpg", "cut.jpg", "more/d.jpg"]
    assert any("not read: 1 .txt file" in line for line in caplog.messages)
    assert any("cut.jpg lacks its last bytes" in line for line in caplog.messages)
    code, _, err = run(*call[:-2], tmp_path / "strict.npz", "--strict")
    assert code == 2
    assert "1 refused (first: cut.jpg: Premature end" in err


@pytest.mark.usefixtures("parts_of_20")
class TestLocal:
    def test_the_embedders_vectors_in_order(self, model, crops, drawn, tmp_path):
        source = open_source(crops, "112x96")
        assert not source.photographs
        seen = []
        refused = embed_all(source, tmp_path, partial(Embedder.load, model), progress=lambda *p: seen.append(p))
        assert refused == [(BROKEN, "bytes of none of these formats")]
        assert seen == [(0, 97), (20, 97), (40, 97), (60, 97), (80, 97), (97, 97)]
        expected = Embedder.load(model).embed(drawn / "train" / "faces-112.zip")
        found = gather(tmp_path)
        assert found.ids.tolist() == expected.ids.tolist()
        np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
        np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-6)
        assert len(Embeddings.load(part_file(tmp_path, 1))) == 19  # a part is a file of Embeddings

    def test_goes_on_where_it_stopped(self, model, crops, tmp_path):
        source, load = open_source(crops, "112x96"), partial(Embedder.load, model)

        def stop(done, total):
            if done >= 40:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embed_all(source, tmp_path / "a", load, progress=stop)
        there = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
        assert {p.name for p in there} == {"embed.json", "part-00000.npz", "part-00001.npz"}
        seen = []
        embed_all(source, tmp_path / "a", load, progress=lambda *p: seen.append(p))
        assert seen[0] == (40, 97)
        assert all(p.stat().st_mtime_ns == at for p, at in there.items())
        embed_all(source, tmp_path / "b", load)
        assert same_files(tmp_path / "a", tmp_path / "b")

    def test_a_folder_of_another_job(self, model, crops, tmp_path):
        source, load = open_source(crops, "112x96"), partial(Embedder.load, model)
        embed_all(source, tmp_path / "a", load)
        with pytest.raises(ConfigError, match=r"of another \(mirror\)"):
            embed_all(source, tmp_path / "a", load, mirror="none")
        with pytest.raises(ConfigError, match="with other files"):
            embed_all(source, model.parent, load)
        with pytest.raises(ConfigError, match="local, ray"):
            embed_all(source, tmp_path / "c", load, engine="spark")
        part_file(tmp_path / "a", 2).write_bytes(b"PK half")
        with pytest.raises(DataError, match=r"part-00002\.npz to be intact"):
            gather(tmp_path / "a")

    def test_photographs_are_aligned_first(self, model, drawn, tmp_path):
        raw = open_reader(drawn / "lfw" / "lfw-raw-fold1.zip")
        rows = range(3)
        (tmp_path / "photographs").mkdir()
        for row in rows:
            (tmp_path / "photographs" / f"{row}.jpg").write_bytes(raw.encoded(row))
        (tmp_path / "photographs" / "text.jpg").write_text("no image")
        (tmp_path / "list.txt").write_text("photographs/1.jpg\nphotographs/0.jpg\n")
        source = open_source(tmp_path / "photographs", "112x96")
        assert source.photographs
        embed_all(source, tmp_path / "out", partial(Embedder.load, model))
        embedder = Embedder.load(model)
        expected = embedder.embed(np.concatenate([embedder.crop(raw.read(row)) for row in rows]), aligned=True)
        found = gather(tmp_path / "out")
        assert found.ids.tolist() == ["0.jpg", "1.jpg", "2.jpg"]
        np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
        assert open_source(tmp_path / "list.txt", "112x96").ids == ["0.jpg", "1.jpg"]


class TestCommand:
    def test_one_file(self, run, model, crops, tmp_path):  # noqa: F811
        words = ["embed", crops, "--model", model, "--out", tmp_path / "f.npz"]
        code, out, err = run(*words, "--json")
        assert code == 0
        assert f"1 of 97 images refused: {BROKEN}" in err
        told = json.loads(out)
        assert (told["images"], told["embedded"], told["precision"]) == (97, 96, "fp32")
        assert [p.name for p in tmp_path.iterdir()] == ["f.npz"]
        assert len(Embeddings.load(tmp_path / "f.npz")) == 96
        assert "96 embeddings of 97 crops" in run(*words)[1]
        assert one_line(run(*words, "--strict")[2], "a usable face in every image", BROKEN)

    def test_nothing_usable(self, run, model, tmp_path):  # noqa: F811
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.jpg").write_text("no image")
        words = ["embed", tmp_path / "a", "--model", model, "--out"]
        assert one_line(run(*words, tmp_path / "f.npz")[2], "at least one usable face", "1 images refused")
        assert one_line(run("embed", tmp_path / "b", "--model", model, "--out", "o")[2], "nothing there")
        assert one_line(
            run(*words, tmp_path / "f.npz", "--precision", "bf16", "--model", tmp_path)[2], "export it: normface export"
        )


@pytest.mark.nightly  # it can hang: after an actor was killed, the rest of the work may never come
@pytest.mark.usefixtures("parts_of_20")
def test_an_actor_killed(model, crops, tmp_path):
    source, seen, dead = open_source(crops, "112x96"), [], tmp_path / "dead"
    here, actors = os.getpid(), tmp_path / "actors"
    actors.mkdir()

    def load():  # the actors say who they are; once a part has come, they wait until one of them is killed
        if os.getpid() != here:
            (actors / str(os.getpid())).touch()
        embedder = Embedder.load(model)
        quick = embedder.network

        def network(pixels):
            while any((tmp_path / "ray").glob("part-*")) and not dead.exists():
                time.sleep(0.01)
            return quick(pixels)

        embedder.network = network
        return embedder

    def kill(done, total):
        seen.append(done)
        if done and not dead.exists():
            os.kill(int(next(actors.iterdir()).name), signal.SIGKILL)
            dead.touch()

    refused = embed_all(source, tmp_path / "ray", load, engine="ray", progress=kill)
    assert dead.exists()
    assert refused == embed_all(source, tmp_path / "local", partial(Embedder.load, model))
    assert same_files(tmp_path / "ray", tmp_path / "local")
    assert len(seen) == 6  # nothing, then each part once
    assert seen == sorted(set(seen))
    seen.clear()
    embed_all(source, tmp_path / "ray", load, engine="ray", progress=lambda done, total: seen.append(done))
    assert seen == [97]  # nothing left to do: Ray is not even started


@pytest.fixture
def two_machines(monkeypatch):
    """A cluster of Ray's, and the second of its nodes; RAY_ADDRESS names it."""
    from ray.cluster_utils import Cluster  # here: it takes a second, which the tests that are not slow would pay, too

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster, second
    finally:
        cluster.shutdown()


@pytest.mark.usefixtures("parts_of_20")
def test_a_machine_lost_in_the_middle(model, crops, tmp_path, two_machines):
    cluster, second = two_machines
    source, seen, begun, there = open_source(crops, "112x96"), [], tmp_path / "begun", second.node_id

    def load():  # on the second machine, says that it has begun, and never ends
        import ray

        embedder = Embedder.load(model)
        if ray.is_initialized() and ray.get_runtime_context().get_node_id() == there:
            embedder.network = lambda pixels: (begun.touch(), time.sleep(600))
        return embedder

    def lose(done, total):
        seen.append(done)
        if len(seen) == 2:  # the first part has come, from the other machine
            wait_for(begun)
            cluster.remove_node(second, allow_graceful=False)

    refused = embed_all(source, tmp_path / "ray", load, engine="ray", progress=lose)
    assert begun.exists()
    assert refused == embed_all(source, tmp_path / "local", partial(Embedder.load, model))
    assert same_files(tmp_path / "ray", tmp_path / "local")
    assert len(seen) == 6  # nothing, then each part once
    assert seen == sorted(set(seen))


def wait_for(file, seconds=600):
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
