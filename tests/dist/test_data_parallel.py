"""Networks on 2 ranks (gloo): batch norm by rank or over ranks, gradients that travel in bfloat16, compiled networks."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as td
from torch.multiprocessing import start_processes
from torch.nn.functional import batch_norm

from normface.models import MODELS, Model
from normface.train import TrainConfig
from normface.train import state as states
from normface.train.augment import draw, prepare
from normface.train.loader import Batch
from normface.train.loop import learn
from normface.train.state import State
from normface.types import InputSpec

WORLD, EACH, CLASSES, DIM = 2, 8, 5, 6
SETTINGS = {
    "by rank": {}, "over ranks": {"sync_batch_norm": True}, "compressed": {"optim": {"compress": "bf16"}},
    "averaged": {"optim": {"average": 0.5}}, "compiled": {"compile": True, "optim": {"accumulate": 2}},
    "accumulated": {"optim": {"accumulate": 2}},
}  # fmt: skip


class normed(Model):
    """Means over squares, a matrix, batch norm."""

    def __init__(self):
        super().__init__(InputSpec(112, 96), DIM)
        self.linear, self.norm = torch.nn.Linear(3 * 7 * 6, DIM), torch.nn.BatchNorm1d(DIM)

    def forward(self, images):
        return self.norm(self.linear(torch.nn.functional.avg_pool2d(images, 16).flatten(1)))


def batch(rank):
    rng = np.random.default_rng(rank)
    images = rng.integers(0, 256, (EACH, 112, 96, 3), np.uint8)
    return Batch(images, rng.integers(CLASSES, size=EACH), draw(EACH, rng), np.arange(EACH))


def run(name, rank, folder):
    changes = SETTINGS[name]
    optim = {"batch": EACH * WORLD, **changes.get("optim", {})}
    raw = {"model": {"name": "normed"}, "precision": "fp32", "data": {"mirror": False}, "save_every": 1}
    state = State(TrainConfig.model_validate({**raw, **changes, "optim": optim}), CLASSES)
    state.set_rate(0.05)
    found = {"start": {key: t.clone() for key, t in state.model.state_dict().items()}}
    part = tuple(map(torch.from_numpy, batch(rank)))
    found["loss"], found["features"] = learn(state, part, None, 0)
    found["gradient"] = state.model.linear.weight.grad.clone()
    found["statistics"] = state.model.norm.running_mean.clone(), state.model.norm.running_var.clone()
    state.step(0.0)
    state.save(folder / name, 1, {})
    found["saved"] = {key: t.clone() for key, t in state.best.state_dict().items()}
    return found


def work(rank, folder):
    torch.set_num_threads(1)
    MODELS.register(normed)
    os.environ["CXX"] = sys.executable  # which is never called
    real = torch.compile
    states.torch.compile = lambda net, **_: real(net, backend="aot_eager")  # the same graphs without a C++ compiler
    td.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    torch.save({name: run(name, rank, Path(folder)) for name in SETTINGS}, f"{folder}/{rank}.pt")
    td.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(work, (str(folder),), WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def by_hand(start, parts):
    """Features of each part, normalized together or not."""
    found = []
    for images in parts:
        pixels = prepare(torch.from_numpy(images).permute(0, 3, 1, 2).float(), InputSpec(112, 96))
        x = torch.nn.functional.avg_pool2d(pixels, 16).flatten(1)
        found.append(x @ start["linear.weight"].T + start["linear.bias"])
    return found


pytestmark = pytest.mark.slow


def test_batch_norm_is_of_each_rank_and_its_averages_of_all(ranks):
    start = ranks[0]["by rank"]["start"]
    parts = by_hand(start, [batch(rank).images for rank in range(WORLD)])
    for rank, z in zip(ranks, parts, strict=True):
        torch.testing.assert_close(rank["by rank"]["features"], batch_norm(z, None, None, training=True))
    means = torch.stack([z.mean(0) for z in parts]), torch.stack([z.var(0) for z in parts])
    for rank in ranks:
        saved = rank["by rank"]["saved"]
        torch.testing.assert_close(saved["norm.running_mean"], 0.1 * means[0].mean(0))
        torch.testing.assert_close(saved["norm.running_var"], 0.9 + 0.1 * means[1].mean(0))


def test_batch_norm_over_ranks_is_that_of_the_whole_batch(ranks):
    start = ranks[0]["over ranks"]["start"]
    whole = torch.cat(by_hand(start, [batch(rank).images for rank in range(WORLD)]))
    found = torch.cat([rank["over ranks"]["features"] for rank in ranks])
    torch.testing.assert_close(found, batch_norm(whole, None, None, training=True), rtol=1e-4, atol=1e-5)
    mean, variance = ranks[0]["over ranks"]["statistics"]
    torch.testing.assert_close(mean, 0.1 * whole.mean(0))
    torch.testing.assert_close(variance, 0.9 + 0.1 * whole.var(0))


@pytest.mark.parametrize("name", SETTINGS)
def test_all_ranks_save_one_network(ranks, name):
    one, other = (rank[name]["saved"] for rank in ranks)
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=0)


def test_gradients_in_bfloat16_are_rounded_and_no_more(ranks):
    """Each summand, and the sum, errs by 2⁻⁹ of it at most."""
    exact, rounded = (ranks[0][name]["gradient"] for name in ("by rank", "compressed"))
    assert not torch.equal(exact, rounded)
    assert (rounded - exact).abs().max() <= 4 * 2**-9 * exact.abs().max()
    assert torch.equal(rounded, ranks[1]["compressed"]["gradient"])


def test_compiled_networks_on_several_ranks(ranks):
    """In parts too, of which the last one alone sums gradients over the ranks."""
    for rank in ranks:
        for what in ("loss", "features", "gradient"):
            torch.testing.assert_close(rank["compiled"][what], rank["accumulated"][what])
