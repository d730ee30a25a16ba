"""Training's options: what each does to a step, against plain arithmetic; people held out; a run killed often."""

import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch

from normface.data import open_reader
from normface.data.bins import write_bin
from normface.embed import Embedder
from normface.embed.listed import embed_listed
from normface.errors import ConfigError, DataError
from normface.models import Model
from normface.protocols import PROTOCOLS, inputs_of
from normface.train import Checkpoint, load_config, load_model, train
from normface.train.augment import draw
from normface.train.config import ValidateConfig
from normface.train.loader import Batch
from normface.train.loop import learn, rate_factor
from normface.train.recompute import recompute
from normface.train.state import State
from normface.train.validation import Listed, hold_out
from normface.types import InputSpec

SMALL = [
    "model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]", "model.options.dim=16", "optim.batch=16",
    "precision=fp32", "optim.epochs=1",
]  # fmt: skip


def configure(*overrides):
    return load_config("normface", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def reader(drawn):
    return open_reader(drawn / "train" / "faces-112.zip")


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def tensors(run):
    checkpoint = Checkpoint.read(run)
    return {name: t for part in ("model", "loss") for name, t in checkpoint.part(part).items()}


def with_gradients(state, seed=0):
    g = torch.Generator().manual_seed(seed)
    for p in state.parameters.values():
        p.grad = torch.randn(p.shape, generator=g)


def test_caffes_momentum():
    """V ← μV + rate·g, W ← W - V, with rates that change; PAPER.md: the solver of the authors."""
    decays = [f"optim.{name}=0" for name in ("weight_decay", "class_decay", "scale_decay")]
    state = State(configure("optim.convention=caffe", *decays), 4)
    w = {name: p.detach().clone().double() for name, p in state.parameters.items()}
    v = {name: torch.zeros_like(p) for name, p in w.items()}
    before = None
    for turn, rate in enumerate((0.1, 0.1, 0.01, 0.03)):
        with_gradients(state, turn)
        for name, p in state.parameters.items():
            v[name] = 0.9 * v[name] + rate * p.grad.double()
            w[name] -= v[name]
        state.set_rate(rate, before)
        state.step(0.0)
        before = rate
    for name, p in state.parameters.items():
        torch.testing.assert_close(p.detach().double(), w[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "oracle"),
    [(["optim.nesterov=false"], lambda p: torch.optim.SGD([p], 0.1, momentum=0.9, weight_decay=0.01)),
     (["optim.algorithm=adamw", "optim.beta=0.99"],
      lambda p: torch.optim.AdamW([p], 0.1, betas=(0.9, 0.99), weight_decay=0.01))],
)  # fmt: skip
def test_pytorchs_own_optimizers(options, oracle):
    """Plain momentum (arcface_torch's), and AdamW with decoupled decay."""
    state = State(configure("optim.weight_decay=0.01", "optim.class_decay=0.01", *options), 4)
    ours = {name: state.parameters[name] for name in ("loss.weight", "model.head.0.weight")}
    copies = {name: torch.nn.Parameter(p.detach().clone()) for name, p in ours.items()}
    theirs = {name: oracle(p) for name, p in copies.items()}
    for turn in range(3):
        with_gradients(state, turn)
        for name, p in ours.items():
            copies[name].grad = p.grad.clone()
            theirs[name].step()
        state.set_rate(0.1)
        state.step(0.0)
    for name, p in ours.items():
        torch.testing.assert_close(p, copies[name])


def test_adamw_takes_no_sparse_gradients():
    with pytest.raises(ConfigError, match="samples classes"):
        State(configure("optim.algorithm=adamw", "loss.options={sample=0.5}"), 4)


def test_clipping_of_the_network_alone():
    state = State(configure("optim.clip_network=0.5", "optim.momentum=0"), 4)
    with_gradients(state)
    before = {name: p.grad.clone() for name, p in state.parameters.items()}
    state.set_rate(0.1, None)
    state.step(0.0)
    network = [p.grad.flatten() for name, p in state.parameters.items() if name.startswith("model.")]
    assert torch.cat(network).norm().item() == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(state.parameters["loss.weight"].grad, before["loss.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("options", [["optim.nesterov=false"], ["optim.algorithm=adamw", "optim.lr=1e-3"]])
def test_every_optimizer_goes_on_to_the_very_same_numbers(reader, tmp_path, options):
    config = configure("save_every=3", *options)

    def stop(done, total, measured):
        if done == 4:
            raise KeyboardInterrupt

    train(config, reader, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, reader, tmp_path / "parts", progress=stop)
    train(config, reader, tmp_path / "parts", resume=True)
    whole, parts = ([m["loss"] for m in metrics(tmp_path / name)] for name in ("whole", "parts"))
    assert whole == parts


def test_clipping_shortens_the_whole_gradient():
    state = State(configure("optim.clip=0.5", "optim.momentum=0", "optim.weight_decay=0", "optim.class_decay=0"), 4)
    with_gradients(state)
    length = torch.cat([p.grad.flatten() for p in state.parameters.values()]).norm().item()
    whole = {name: p.grad.clone() for name, p in state.parameters.items()}
    assert length > 0.5
    state.set_rate(0.1, None)
    state.step(0.0)
    for name, p in state.parameters.items():
        torch.testing.assert_close(p.grad, whole[name] * (0.5 / length))


def test_a_short_gradient_is_left_alone():
    state = State(configure("optim.clip=1e6"), 4)
    with_gradients(state)
    whole = {name: p.grad.clone() for name, p in state.parameters.items()}
    state.step(0.0)
    for name, p in state.parameters.items():
        torch.testing.assert_close(p.grad, whole[name], rtol=0, atol=0)


def test_the_average_follows():
    """a ← k·a + (1 - k)·w from the first step's weights on; it is what is used."""
    state = State(configure("optim.average=0.75"), 4)
    name = "head.0.weight"
    expected = None
    for turn in range(4):
        with_gradients(state, turn)
        state.set_rate(0.1, None)
        state.step(0.0)
        now = dict(state.model.named_parameters())[name].detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    torch.testing.assert_close(dict(state.best.named_parameters())[name], expected)


@pytest.mark.slow
def test_the_average_is_saved_resumed_and_used(reader, tmp_path):
    config = configure("optim.average=0.9", "save_every=3")

    def stop(done, total, measured):
        if done == 4:
            raise KeyboardInterrupt

    train(config, reader, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, reader, tmp_path / "parts", progress=stop)
    train(config, reader, tmp_path / "parts", resume=True)
    one, other = (load_model(tmp_path / name) for name in ("whole", "parts"))
    assert one[1] == other[1]
    state = Checkpoint.read(tmp_path / "whole").part("average")
    for name, t in one[0].state_dict().items():
        torch.testing.assert_close(t, state[name], rtol=0, atol=0)


def test_parts_of_a_batch_add_up():
    """With batch norm's statistics given, the parts' gradients sum to the whole's."""
    rng = np.random.default_rng(0)
    batch = Batch(
        rng.integers(0, 256, (16, 112, 96, 3), np.uint8), rng.integers(4, size=16), draw(16, rng), np.arange(16)
    )
    found = []
    for parts in (1, 4):
        state = State(configure(f"optim.accumulate={parts}"), 4)
        state.model.eval()
        value, features = learn(state, tuple(map(torch.from_numpy, batch)), None, 0)
        found.append((value, features, {name: p.grad for name, p in state.parameters.items()}))
    (one, features, gradients), (four, *others) = found
    torch.testing.assert_close(one, four, rtol=1e-6, atol=0)
    torch.testing.assert_close(features, others[0])
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [(), ("model.name=vit_t", "model.options={width=16, depth=3, heads=2, dim=16}", "optim.algorithm=adamw")],
    ids=["batch norm", "transformer"],
)
def test_computing_units_again_changes_nothing_but_what_is_kept(network):
    """Neither gradients nor the statistics of batch norm nor what is drawn in training; but fewer numbers are held."""
    rng, found = np.random.default_rng(0), []
    width = 112 if network else 96
    batch = Batch(
        rng.integers(0, 256, (8, 112, width, 3), np.uint8), rng.integers(4, size=8), draw(8, rng), np.arange(8)
    )
    for again in (False, True):
        options = [option for option in SMALL if not option.startswith("model.")] if network else SMALL
        config = load_config("normface", [*options, *network, f"recompute={again}".lower()])
        state, held = State(config, 4), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=held: to.append(t.numel()) or t, lambda t: t):
            torch.manual_seed(1)
            value, features = learn(state, tuple(map(torch.from_numpy, batch)), None, 0)
        gradients = {name: p.grad for name, p in state.parameters.items()}
        found.append((value, features, gradients, state.model.state_dict(), sum(held)))
    (one, x, gradients, buffers, many), (two, y, others, same, few) = found
    assert one == two
    assert torch.equal(x, y)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient)
    for name, t in buffers.items():
        assert torch.equal(same[name], t), name
    assert few < many


def test_no_units_to_compute_again():
    with pytest.raises(ConfigError, match="a network of several units"):
        recompute(Model(InputSpec(112, 96), 4))


@pytest.mark.slow
def test_frozen_until(reader, tmp_path):
    options = ("start.freeze=['model.body']", "optim.epochs=1")
    train(configure(*options), reader, tmp_path / "all")
    train(configure(*options, "start.freeze_until=0.5"), reader, tmp_path / "half")
    torch.manual_seed(0)
    start = {f"{name}": p for name, p in State(configure(), 12).model.named_parameters()}
    kept, moved = (tensors(tmp_path / name) for name in ("all", "half"))
    for name, p in start.items():
        if name.startswith("body"):
            torch.testing.assert_close(kept[name], p, rtol=0, atol=0)
            assert not torch.equal(moved[name], p)
        elif name.endswith("weight"):
            assert not torch.equal(kept[name], p)


def test_freezing_what_is_not_there():
    with pytest.raises(ConfigError, match="model\\.boddy"):
        State(configure("start.freeze=['model.boddy']"), 4)


@pytest.mark.parametrize(
    "overrides",
    [("optim.accumulate=3",), ("optim.accumulate=16",), ("optim.accumulate=2", "data.per_person=4"),
     ("data.per_person=4", "data.balance=1")],
)  # fmt: skip
def test_refused(overrides):
    with pytest.raises(ConfigError):
        configure(*overrides)


def test_schedules():
    """Poly as in Caffe: (1 - progress)^power."""
    config = configure("optim.schedule=poly", "optim.power=2", "optim.warmup=0").optim
    assert [rate_factor(config, at) for at in (0, 0.5, 0.9)] == pytest.approx([1, 0.25, 0.01])


class TestHeldOut:
    @pytest.mark.slow
    def test_people_are_apart_and_the_best_is_kept(self, reader, tmp_path):
        config = configure("validate_on.people=8", "validate_on.every=1", "optim.epochs=3", "optim.batch=8")
        ours, apart = hold_out(reader, config)
        assert len(apart.identities) == 8
        assert not set(ours.identities) & set(apart.identities)
        assert len(ours) + len(apart) == len(reader)
        train(config, reader, tmp_path / "run")
        looks = [m for m in metrics(tmp_path / "run") if "validation_tar" in m]
        assert len(looks) == 3
        best = max(looks, key=lambda look: look["validation_tar"])
        kept = Checkpoint.read(tmp_path / "run" / "best")
        assert kept.facts["validation_tar"] == best["validation_tar"]
        assert kept.step == best["step"]
        load_model(tmp_path / "run" / "best")

    @pytest.mark.slow
    def test_patience_ends_the_run(self, reader, tmp_path):
        options = (
            "validate_on.people=8",
            "validate_on.patience=2",
            "optim.epochs=50",
            "optim.lr=1e-12",
            "optim.batch=8",
        )
        outcome = train(configure(*options), reader, tmp_path / "run")
        looks = [m for m in metrics(tmp_path / "run") if "validation_tar" in m]
        assert outcome.finished
        assert outcome.step == outcome.total == looks[-1]["step"]
        best = int(np.argmax([look["validation_tar"] for look in looks]))
        assert len(looks) - 1 - best == 2
        again = train(configure(*options), reader, tmp_path / "run", resume=True)
        assert again.finished
        assert again.loss is None

    def test_too_few(self, reader):
        with pytest.raises(DataError, match="at least 14 people"):
            hold_out(reader, configure("validate_on.people=12"))
        with pytest.raises(DataError, match="impostor"):
            hold_out(reader, configure("validate_on.people=2"))


class TestByProtocol:
    @pytest.mark.slow
    @pytest.mark.parametrize("protocol", ["bin", "lfw", "pairs_csv"])
    def test_the_best_network_is_the_best_by_the_protocol(self, drawn, reader, tmp_path, protocol):
        """And its figure is what `normface evaluate` gives for it."""
        if protocol == "bin":
            rows = [(8 * k % 96, (8 * k + 1 + 8 * (k % 2)) % 96) for k in range(40)]
            write_bin(
                tmp_path / "own.bin",
                [reader.encoded(r) for pair in rows for r in pair],
                [k % 2 == 0 for k in range(40)],
            )
            where, lists = [f"lists=['{tmp_path}/own.bin']"], [tmp_path / "own.bin"]
        elif protocol == "lfw":
            where, lists = [f"data='{drawn}'"], [drawn / "lfw" / "pairs.txt"]
        else:
            ids = reader.ids.tolist()
            lines = [f"{ids[8 * k]},{ids[8 * k + 1]},1\n{ids[8 * k]},{ids[(8 * k + 8) % 96]},0" for k in range(12)]
            lists = [tmp_path / "pairs.csv"]
            lists[0].write_text("a,b,same\n" + "\n".join(lines) + "\n")
            where = [f"lists=['{lists[0]}']", f"crops='{drawn}/train/faces-112.zip'", "metric='auc'"]
        metric = "validation_auc" if protocol == "pairs_csv" else "validation_accuracy"
        config = configure(
            f"validate_on.protocol={protocol}", *(f"validate_on.{each}" for each in where), "optim.epochs=2",
            "validate_on.every=1", "optim.batch=8", "precision=fp32",
        )  # fmt: skip
        train(config, reader, tmp_path / "run")
        looks = [m for m in metrics(tmp_path / "run") if metric in m]
        assert len(looks) == 2
        best = max(looks, key=lambda look: look[metric])
        kept = Checkpoint.read(tmp_path / "run" / "best")
        assert (kept.step, kept.facts[metric]) == (best["step"], best[metric])
        crops = inputs_of(protocol).find_crops(drawn) if protocol == "lfw" else (tmp_path / "own.bin")
        crops = drawn / "train" / "faces-112.zip" if protocol == "pairs_csv" else crops
        vectors = embed_listed(Embedder.load(tmp_path / "run" / "best"), protocol, lists, crops)
        again = PROTOCOLS.build(protocol, vectors, *lists).metrics[metric.removeprefix("validation_")]
        assert again.value == pytest.approx(best[metric], abs=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["validate_on.protocol=lfv"], "did you mean 'lfw'"),
            (["validate_on.protocol=lfw"], "--data, or --list"),
            (["validate_on.protocol=scores"], "of vectors"),
            (["validate_on.protocol=lfw", "validate_on.people=3"], "exclude each other"),
            (["validate_on.data=lfw"], "belong to a validate_on.protocol"),
        ],
    )
    def test_mistakes_before_any_step(self, reader, tmp_path, options, message):
        with pytest.raises(ConfigError, match=message):
            train(configure(*options), reader, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_metric_of_which_less_is_better(self, drawn):
        judge = Listed(ValidateConfig(protocol="lfw", data=str(drawn), metric="eer"))
        with pytest.raises(ConfigError, match="metric among accuracy.*got eer"):
            judge(np.random.default_rng(0).normal(size=(len(judge.images), 8)).astype(np.float32))


@pytest.mark.slow
def test_a_run_describes_itself(reader, tmp_path):
    train(configure("optim.epochs=1"), reader, tmp_path / "run")
    told = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert told["torch"] == torch.__version__
    assert told["data"]["images"] == len(reader)
    assert told["parameters"] == sum(p.numel() for p in load_model(tmp_path / "run")[0].parameters())
    assert any(m.get("memory_mib", 0) > 10 for m in metrics(tmp_path / "run")) or len(metrics(tmp_path / "run")) < 10


def _go(data, run, files=None, pause=0.0):
    """Train on; if `files` is given, die `pause` seconds after so many of the run's were opened, renamed or removed."""
    torch.set_num_threads(1)
    left = itertools.count(1)

    def die():
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGKILL)

    def look(event, args):
        met = event in ("open", "os.rename", "os.remove", "os.mkdir") and str(run) in str(args[0])
        if met and next(left) == files:
            threading.Thread(target=die).start()

    sys.addaudithook(look)
    config = configure("save_every=2", "optim.epochs=4")
    try:
        train(config, open_reader(data), run, resume=True)
    except Exception:
        train(config, open_reader(data), run)


@pytest.mark.slow
def test_killed_five_times(drawn, tmp_path):
    """SIGKILL at random moments: the run always goes on, to the very numbers of one that was left in peace."""
    data, runs = drawn / "train" / "faces-112.zip", [tmp_path / "peace"]
    draws, kills = random.Random(0), 0

    def ended(*death):
        process = multiprocessing.get_context("forkserver").Process(target=_go, args=(data, runs[-1], *death))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode == 0

    assert ended()
    runs.append(tmp_path / "run 0")
    while kills < 5:
        if ended(draws.randrange(1, 60), draws.uniform(0, 0.02)):  # another one
            runs.append(tmp_path / f"run {kills}")
        else:
            kills += 1
    assert ended()
    want, *others = ([(m["step"], m["loss"]) for m in metrics(run)] for run in runs)
    assert len(want) == 24
    assert all(got == want for got in others)
