"""A Ray cluster of two machines, each with processes, ports and an object store of its own, and one of them is lost."""

import time
from functools import partial

import pytest
from tests.embed.test_bulk import crops, model, parts_of_20, same_files  # noqa: F401

from normface.embed import Embedder
from normface.embed.bulk import embed_all
from normface.embed.source import open_source


@pytest.fixture
def two_machines(monkeypatch):
    """A cluster of Ray's, and the second of its nodes; RAY_ADDRESS names it."""
    from ray.cluster_utils import Cluster

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
    source, seen = open_source(crops, "112x96"), []
    (tmp_path / "nodes").mkdir()

    def load():  # says where it is, and is slow enough to be met there
        import ray

        embedder = Embedder.load(model)
        quick, here = embedder.network, ray.get_runtime_context().get_node_id() if ray.is_initialized() else "command"

        def network(pixels):
            time.sleep(0.05)
            (tmp_path / "nodes" / here).touch()
            return quick(pixels)

        embedder.network = network
        return embedder

    def lose(done, total):
        seen.append(done)
        if done and second is not None and (tmp_path / "nodes" / second.node_id).exists() and not lost:
            lost.append(done)
            cluster.remove_node(second, allow_graceful=False)

    lost = []
    refused = embed_all(source, tmp_path / "ray", load, engine="ray", progress=lose)
    assert lost
    assert lost[0] < 97
    assert len(list((tmp_path / "nodes").iterdir())) == 2
    assert refused == embed_all(source, tmp_path / "local", partial(Embedder.load, model))
    assert same_files(tmp_path / "ray", tmp_path / "local")
    assert len(seen) == 6  # nothing, then each part once
    assert seen == sorted(set(seen))
