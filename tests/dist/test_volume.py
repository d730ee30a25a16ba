"""What ranks send each other in a training step, counted on 1 to 4 ranks (gloo), is what docs/scale.md computes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as td
from benchmarks.harness import scale
from torch.multiprocessing import start_processes

from normface.train import load_config
from normface.train.augment import draw
from normface.train.loader import Batch
from normface.train.loop import learn
from normface.train.state import State

WORLD, EACH, CLASSES, DIM = 4, 6, 17, 32
SETTINGS = {"plain": [], "compressed": ["optim.compress=bf16"]}
OVERRIDES = [
    "model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]", f"model.options.dim={DIM}",
    "loss.options={scale=30.0, learn_scale=false, margin='ArcFace'}", "precision=fp32",
]  # fmt: skip


def counting(counts):
    """Let every collective count the bytes of the whole tensor that it gathers, sums or scatters."""
    size = lambda t: t.numel() * t.itemsize
    sizes = {
        "all_gather": lambda parts, x, **_: size(x) * len(parts),
        "reduce_scatter": lambda own, parts, **_: sum(map(size, parts)),
        "all_reduce": lambda x, *_, **__: size(x),
        "broadcast": lambda x, *_, **__: size(x),
    }

    def counted(name, real):
        def call(*args, **options):
            counts[name] += sizes[name](*args, **options)
            counts[name, "calls"] += 1
            return real(*args, **options)

        return call

    for name in sizes:
        setattr(td, name, counted(name, getattr(td, name)))


def work(rank, folder):
    torch.set_num_threads(1)
    counts, found = Counter(), {}
    counting(counts)
    for world in range(1, WORLD + 1):
        if rank >= world:
            continue
        td.init_process_group("gloo", init_method=f"file://{folder}/{world}", rank=rank, world_size=world)
        for name, options in SETTINGS.items():
            config = load_config("normface", [*OVERRIDES, f"optim.batch={EACH * world}", *options])
            state, rng = State(config, CLASSES), np.random.default_rng(rank)
            state.set_rate(0.01)
            images = rng.integers(0, 256, (EACH, 112, 96, 3), np.uint8)
            part = Batch(images, rng.integers(CLASSES, size=EACH), draw(EACH, rng), np.arange(EACH))
            counts.clear()
            learn(state, tuple(map(torch.from_numpy, part)), None, 0)
            state.step(0.5)
            parameters = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
            found[world, name] = Counter(counts), parameters
        td.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(work, (str(folder),), WORLD, start_method="forkserver")
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_send_what_the_page_says(ranks, world, name):
    counts, parameters = ranks[0][world, name]
    assert all(rank[world, name] == ranks[0][world, name] for rank in ranks[:world])
    run = scale.Run(CLASSES, world, EACH, DIM, parameters, compress=name == "compressed")
    said = {kind: sum(each.values()) for kind, each in scale.collectives(run).items()}
    assert counts["reduce_scatter"] == said["reduce_scatter"]
    # `train` sums the wish to stop, which is no part of these steps; ranks check each other's batch and classes.
    assert said["all_reduce"] - counts["all_reduce"] == scale.collectives(run)["all_reduce"]["whether to stop"]
    assert counts["all_gather"] - said["all_gather"] == 4 * 8 * world
    assert counts["broadcast"] == 0


@pytest.mark.slow
def test_one_rank_sends_nothing(ranks):
    assert not ranks[0][1, "plain"][0]


def test_the_constants_give_the_times_that_were_measured():
    """On one H200, B = 1,024, D = 512: 11.7 ms of a million classes, and 1.25 of 100,000 (docs/benchmarks.md)."""
    for classes, measured in ((1_000_000, 11.7), (100_000, 1.25)):
        parts = scale.seconds(scale.Run(classes, 1, 1024))
        assert 1000 * (parts["products of the head"] + parts["traffic of the head"]) == pytest.approx(measured, rel=0.1)


def test_what_the_page_says_of_ten_million_people():
    for gpus in (8, 64):
        parts = scale.seconds(scale.Run(10_000_000, gpus))
        assert max(parts, key=parts.get) == "network"
        assert parts["features and their gradient over the link"] < 0.02 * sum(parts.values())
    eight, many = (scale.seconds(scale.Run(10_000_000, gpus)) for gpus in (8, 64))
    assert eight["products of the head"] == pytest.approx(many["products of the head"])
    at_once = scale.seconds(scale.Run(65_000_000, 8))
    assert at_once["products of the head"] == pytest.approx(at_once["network"], rel=0.02)


def test_the_page_is_the_computed_one():
    assert scale.PAGE.read_text("utf-8") == scale.render(), "write it anew: python -m benchmarks page"


def test_the_parameters_are_iresnet50s():
    from normface import models

    with torch.device("meta"):
        model = models.build("iresnet50")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == scale.PARAMETERS
