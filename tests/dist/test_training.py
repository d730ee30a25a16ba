"""Training on 1 to 4 ranks (gloo) is one training, saved on any number and resumed on any other."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as td
from torch import nn
from torch.multiprocessing import get_context, start_processes

from normface.data import open_reader
from normface.errors import ConfigError
from normface.losses import LOSSES
from normface.train import load_config, load_model, train
from normface.checkpoint import Checkpoint

WORLD, STOP, STEPS = 4, 4, 8
OVERRIDES = [
    "model.name=smallresnet", "model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]",
    "model.options.dim=16", "optim.batch=12", "optim.epochs=1", "optim.lr=0.05", "save_every=100", "precision=fp32",
    "data.shift=2.0", "sync_batch_norm=true",
]  # fmt: skip
TERMS = "[{name='CosineSoftmax', weight=1, sample=0.5}, {name='CContrastive', weight=0.1}]"
OVERRIDES += ["loss.name=Joint", f"loss.options={{terms={TERMS}}}"]


CONFIG = load_config("normface", OVERRIDES)


class Whole(nn.Module):
    """A plug-in's loss that knows nothing of ranks."""

    def __init__(self, num_classes, dim):
        super().__init__()

    def forward(self, features, labels):
        return features.square().mean()


def interrupt(done, total, measured):
    """The first rank is asked to stop; the others hear of it from it."""
    if done == STOP:
        os.kill(os.getpid(), signal.SIGINT)


def work(rank, folder, data):
    LOSSES.register(Whole)
    torch.set_num_threads(1)
    folder, reader = Path(folder), open_reader(data)
    for k in range(1, WORLD + 1):
        saved = folder / f"on {k}"
        once(rank, k, f"{saved} group", lambda to=saved: train(CONFIG, reader, to, progress=interrupt))
        for m in range(1, WORLD + 1):
            run = folder / f"on {k} then {m}"
            if rank == 0:
                shutil.copytree(saved, run)
            once(rank, m, f"{run} group", lambda to=run: train(CONFIG, reader, to, resume=True))
    once(rank, 1, f"{folder}/group", lambda: train(CONFIG, reader, folder / "whole"))
    uneven = load_config("normface", [*OVERRIDES, "optim.batch=14"])
    once(rank, 4, f"{folder}/uneven group", lambda: refused(rank, folder, uneven, reader))
    whole = load_config("normface", [*OVERRIDES, "loss.name=Whole", "loss.options={}"])
    once(rank, 2, f"{folder}/whole group", lambda: refused(rank, folder, whole, reader))


def refused(rank, folder, config, reader):
    try:
        train(config, reader, folder / "uneven")
    except ConfigError as error:
        with (folder / f"refused {rank}").open("a") as file:
            file.write(f"{error}\n")


def once(rank, world, meeting, job):
    """Do a job on the first `world` processes."""
    if rank < world:
        td.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
        job()
        td.destroy_process_group()


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    data = drawn / "train" / "faces-112.zip"
    start_processes(work, (str(folder), str(data)), WORLD, start_method="forkserver")
    return folder


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("m", range(1, WORLD + 1))
@pytest.mark.parametrize("k", range(1, WORLD + 1))
def test_saved_on_k_ranks_resumed_on_m(folder, k, m):
    assert Checkpoint.read(folder / f"on {k}").step == STOP
    run, straight = folder / f"on {k} then {m}", folder / f"on {k} then {k}"
    assert len(losses(run)) == STEPS
    torch.testing.assert_close(losses(run)[: STOP + 1], losses(straight)[: STOP + 1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses(run), losses(straight), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_run_without_ranks_goes_on_to_the_very_same_numbers(folder):
    assert losses(folder / f"on 1 then 1") == losses(folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("m", range(1, WORLD + 1))
def test_the_end_is_the_same_model(folder, m):
    a, b = (load_model(folder / f"on 2 then {n}")[0].state_dict() for n in (m, 1))
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=1e-3, atol=1e-3)  # rounding grows from step to step


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused_on_every_rank(folder):
    for rank in range(WORLD):
        batch, *loss = (folder / f"refused {rank}").read_text().splitlines()
        assert "an optim.batch that is a multiple of 4 ranks, got 14" in batch
        assert all("a loss whose classes can be sharded, got Whole" in line for line in loss)
        assert len(loss) == (rank < 2)


def killed(run, data):
    """A process that dies in the middle of its second save: the tensors are there, the header is not yet."""
    from normface import checkpoint

    real, calls = checkpoint.replacing, []

    def replacing(path):
        calls.append(path)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    checkpoint.replacing = replacing
    train(load_config("normface", [*OVERRIDES, "save_every=3"]), open_reader(data), Path(run))


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save(drawn, tmp_path):
    data, config = drawn / "train" / "faces-112.zip", load_config("normface", [*OVERRIDES, "save_every=3"])
    process = get_context("forkserver").Process(target=killed, args=(str(tmp_path / "run"), str(data)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoint").iterdir()) == ["step-00000003", "step-00000006"]
    assert Checkpoint.read(tmp_path / "run").step == 3
    assert train(config, open_reader(data), tmp_path / "run", resume=True).finished
    train(config, open_reader(data), tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
