"""Bulk embedding by Ray: an actor is killed; a cluster of two machines loses one. The bytes are those of one process.

In one file: tests of two files may run at the same time, and `ray.init` joins a cluster that it finds.
"""

import os
import signal
import time
from functools import partial

import pytest
from tests.embed.test_bulk import crops, model, parts_of_20, same_files  # noqa: F401

from normface.embed import Embedder
from normface.embed.bulk import embed_all
from normface.embed.source import open_source


@pytest.mark.nightly  # it can hang: after an actor was killed, the rest of the work may never come
@pytest.mark.usefixtures("parts_of_20")
def test_an_actor_killed(model, crops, tmp_path):  # noqa: F811
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


@pytest.mark.slow
@pytest.mark.usefixtures("parts_of_20")
def test_a_machine_lost_in_the_middle(model, crops, tmp_path, two_machines):  # noqa: F811
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
