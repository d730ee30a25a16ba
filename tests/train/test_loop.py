"""Runs on a handful of drawn faces: resuming, stopping, failing."""

import json
import os
import pickle
import shutil
import signal
import threading

import numpy as np
import pytest
import torch

from normface import models
from normface.checkpoint import FOLDER, HEADER, Checkpoint, write
from normface.data import open_reader
from normface.embed import Embedder
from normface.errors import ConfigError, DataError, ModelError, TrainingError
from normface.train import TrainConfig, embedder, load_config, load_model, logs, loop, train

pytestmark = pytest.mark.slow

OVERRIDES = [
    "model.name=smallresnet", "model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]",
    "model.options.dim=16", "optim.batch=16", "optim.epochs=2", "optim.lr=0.05", "save_every=5",
]  # fmt: skip


def configure(*overrides) -> TrainConfig:
    return load_config("normface", [*OVERRIDES, *overrides])


@pytest.fixture(scope="module")
def reader(drawn):
    return open_reader(drawn / "train" / "faces-112.zip")  # 96 images of 12 people: 6 steps an epoch


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def tensors(run):
    saved = Checkpoint.read(run)
    return {f"{part}.{n}": t for part in ("model", "loss", "momentum") for n, t in saved.part(part).items()}


class Stop(Exception):
    pass


def stop_after(step):
    """A progress that dies there, as a killed process would."""

    def progress(done, total, measured):
        if done == step:
            raise Stop

    return progress


class TestRuns:
    @pytest.mark.slow
    def test_learns_and_leaves_a_run(self, reader, tmp_path):
        outcome = train(configure("optim.epochs=25", "save_every=75"), reader, tmp_path / "run")
        assert outcome.finished
        assert outcome.step == outcome.total == 150
        found = losses(tmp_path / "run")
        assert len(found) == 150
        assert np.mean(found[-6:]) < 0.5 * np.mean(found[:6])
        assert (tmp_path / "run" / "config.json").exists()
        assert list((tmp_path / "run" / "tensorboard").iterdir())
        model, sha256 = load_model(tmp_path / "run")
        assert not model.training
        assert len(sha256) == 64
        crops = np.stack([reader.read(0), reader.read(1)])
        found = Embedder.load(tmp_path / "run")
        assert found.embed(crops, aligned=True).vectors.shape == (2, 16)
        assert found.sha256 == sha256
        with pytest.warns(DeprecationWarning, match=r"use Embedder\.load\(RUN\)"):
            assert embedder(tmp_path / "run").sha256 == sha256
        with pytest.raises(ConfigError, match="export it: normface export"):
            Embedder.load(tmp_path / "run", precision="bf16")

    def test_same_seed_same_numbers(self, reader, tmp_path):
        for name in "ab":
            train(configure("optim.epochs=0.5"), reader, tmp_path / name)
        train(configure("optim.epochs=0.5", "seed=1"), reader, tmp_path / "c")
        assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("killed_at", [5, 8])
    def test_resumes_to_the_same_numbers(self, reader, tmp_path, killed_at, precision):
        """Killed at a checkpoint or between two: the steps since are done again, the log keeps each step once."""
        config = configure(f"precision={precision}")
        with pytest.raises(Stop):
            train(config, reader, tmp_path / "run", progress=stop_after(killed_at))
        if killed_at == 5:  # died before the checkpoint of its last step was written
            with pytest.raises(ModelError, match="train it first"):
                train(config, reader, tmp_path / "run", resume=True)
            return
        train(config, reader, tmp_path / "whole")
        outcome = train(config, reader, tmp_path / "run", resume=True)
        assert outcome.finished
        assert losses(tmp_path / "run") == losses(tmp_path / "whole")
        a, b = (tensors(tmp_path / name) for name in ("whole", "run"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)

    @pytest.mark.slow
    def test_dropout_too_is_resumed_to_the_same_numbers(self, reader, tmp_path, monkeypatch):
        """What a step draws depends on seed and step, not on the steps before it in this process."""
        build = models.build

        def dropping(*args, **options):
            model = build(*args, **options)
            model.body.append(torch.nn.Dropout(0.3))
            return model

        monkeypatch.setattr(models, "build", dropping)
        config = configure("optim.epochs=0.7", "save_every=2", "precision=fp32")
        train(config, reader, tmp_path / "whole")
        with pytest.raises(Stop):
            train(config, reader, tmp_path / "run", progress=stop_after(3))
        train(config, reader, tmp_path / "run", resume=True)
        assert losses(tmp_path / "run") == losses(tmp_path / "whole")

    def test_softmax_and_normface_start_alike(self, reader, tmp_path):
        start = []
        for recipe in ("softmax", "normface"):
            with pytest.raises(Stop):
                train(load_config(recipe, [*OVERRIDES, "optim.lr=1e-12", "save_every=1"]), reader, tmp_path / recipe,
                      progress=stop_after(2))  # fmt: skip
            start.append(tensors(tmp_path / recipe))
        for key in ("model.body.0.weight", "model.head.0.weight", "loss.weight"):
            torch.testing.assert_close(start[0][key], start[1][key], rtol=0, atol=1e-9)

    def test_people_with_too_few_images_are_left_out(self, reader, tmp_path):
        few = reader.select(np.r_[0:40, 48])  # the last person has one image
        train(configure("optim.epochs=0.1"), few, tmp_path / "run")
        assert Checkpoint.read(tmp_path / "run").facts["classes"] == 5


@pytest.fixture(scope="module")
def origin(reader, tmp_path_factory):
    run = tmp_path_factory.mktemp("origin") / "run"
    train(configure("optim.epochs=1"), reader, run)
    return run


class TestStarting:
    def first(self, reader, run, *overrides):
        train(configure("optim.epochs=0.2", "optim.lr=1e-12", *overrides), reader, run)
        return tensors(run)

    def test_takes_the_network_and_leaves_the_classes_random(self, reader, origin, tmp_path):
        old, new = tensors(origin), self.first(reader, tmp_path / "run", f"start.run={origin}")
        for name in (n for n in old if n.startswith("model.") and n.endswith("weight")):
            torch.testing.assert_close(new[name], old[name])
        assert (new["loss.weight"] - old["loss.weight"]).abs().max() > 0.05

    def test_takes_the_classes_for_every_loss_of_a_joint_one(self, reader, origin, tmp_path):
        joint = ["loss.name=Joint", "loss.options={}", f"start.run={origin}", "start.agents=true"]
        old, new = tensors(origin), self.first(reader, tmp_path / "run", *joint)
        for term in (0, 1):
            torch.testing.assert_close(new[f"loss.terms.{term}.weight"], old["loss.weight"])

    def test_takes_the_network_if_none_is_named(self, reader, origin, tmp_path):
        config = load_config(
            "finetune", [f"start.run={origin}", "optim.epochs=0.3", "optim.batch=16", "precision=fp32"]
        )
        train(config, reader, tmp_path / "run")
        assert Checkpoint.read(tmp_path / "run").config["model"] == Checkpoint.read(origin).config["model"]
        assert train(config, reader, tmp_path / "run", resume=True).finished

    def test_takes_the_classes_by_name(self, reader, tmp_path):
        """Of people 0 to 7 there and 4 to 11 here: four keep their weights, with an image fewer too."""
        train(configure("optim.epochs=0.5"), reader.select(np.flatnonzero(reader.labels < 8)), tmp_path / "old")
        later = reader.select(np.flatnonzero(reader.labels >= 4)[1:])
        start = [f"start.run={tmp_path / 'old'}", "start.agents=true"]
        old, new = tensors(tmp_path / "old"), self.first(later, tmp_path / "new", *start)
        torch.testing.assert_close(new["loss.weight"][:4], old["loss.weight"][4:])
        assert (new["loss.weight"][4:] @ old["loss.weight"].T).max() < 0.98
        assert json.loads((tmp_path / "new" / "people.json").read_text("utf-8")) == later.identities.tolist()

    def test_nobody_in_common_and_a_run_without_names(self, reader, tmp_path):
        first, last = (reader.select(np.flatnonzero(each)) for each in (reader.labels < 6, reader.labels >= 6))
        train(configure("optim.epochs=0.5"), first, tmp_path / "old")
        start = [f"start.run={tmp_path / 'old'}", "start.agents=true"]
        with pytest.raises(DataError, match=r"none among 6; .*start\.agents=false"):
            self.first(last, tmp_path / "new", *start)
        (tmp_path / "old" / "people.json").unlink()
        with pytest.raises(DataError, match=r"a run that keeps no names.*start\.agents=false"):
            self.first(last, tmp_path / "new", *start)
        self.first(first, tmp_path / "new", *start)

    def test_snapshots_are_kept(self, reader, tmp_path):
        train(configure("optim.epochs=1", "save_every=2", "keep=2"), reader, tmp_path / "run")
        kept = sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir())
        assert kept == ["step-00000004", "step-00000006"]
        assert [Checkpoint.read(tmp_path / "run" / "checkpoint" / name).step for name in kept] == [4, 6]

    def test_what_does_not_fit_is_refused(self, reader, origin, tmp_path):
        start = f"start.run={origin}"
        for overrides, images, error, message in (
            ((start, "model.options.dim=8"), reader, ModelError, "model 'smallresnet'"),
            ((start, "start.agents=true", "loss.name=Triplet", "loss.options={}"), reader, ModelError, "class weights"),
            (("start.agents=true",), reader, ConfigError, r"start\.run"),
            (("start.run=nowhere",), reader, ModelError, "nothing at nowhere"),
            (("start.run=theirs.onnx",), reader, ConfigError, r"theirs\.onnx.*distill from it.*distill\.teacher=FILE"),
        ):
            with pytest.raises(error, match=message):
                self.first(images, tmp_path / "refused", *overrides)
        assert not (tmp_path / "refused" / "config.json").exists()


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.slow
    def test_a_signal_saves_and_the_run_goes_on_later(self, reader, tmp_path, number):
        def progress(done, total, measured):
            if done == 3:
                os.kill(os.getpid(), number)

        before = signal.getsignal(number)
        outcome = train(configure(), reader, tmp_path / "run", progress=progress)
        assert not outcome.finished
        assert outcome.step == Checkpoint.read(tmp_path / "run").step == 3
        assert signal.getsignal(number) == before
        assert train(configure(), reader, tmp_path / "run", resume=True).finished
        train(configure(), reader, tmp_path / "whole")
        assert losses(tmp_path / "run") == losses(tmp_path / "whole")

    def test_works_outside_the_main_thread(self, reader, tmp_path):
        outcomes = []
        thread = threading.Thread(
            target=lambda: outcomes.append(train(configure("optim.epochs=0.2"), reader, tmp_path / "run"))
        )
        thread.start()
        thread.join()
        assert outcomes[0].finished


class TestFailing:
    def test_nan_stops_with_a_clear_error(self, reader, tmp_path):
        with pytest.raises(
            TrainingError,
            match=r"a finite loss, got (nan|inf) at step \d+ of 12( \(features .*\))?; lower optim.lr",
        ):
            train(configure("optim.lr=1e18", "optim.warmup=0", "precision=fp32"), reader, tmp_path / "run")

    def test_features_that_are_not_finite_are_named(self, reader, tmp_path, monkeypatch):
        real = loop.learn

        def learn(*args):
            value, features = real(*args)
            features[:3, 1] = torch.nan
            return value * torch.nan, features

        monkeypatch.setattr(loop, "learn", learn)
        with pytest.raises(TrainingError, match=r"got nan at step 1 of 12 \(features of 3 images are not finite\)"):
            train(configure(), reader, tmp_path / "run")

    def test_a_gpu_without_enough_memory(self, reader, tmp_path, monkeypatch):
        def learn(*_):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB.")

        monkeypatch.setattr(loop, "learn", learn)
        with pytest.raises(TrainingError, match=r"memory for batches of 16 images in 1 parts.*optim\.accumulate to 2"):
            train(configure(), reader, tmp_path / "run")

    def test_a_checkpoint_never_holds_nan(self, reader, tmp_path):
        with pytest.raises(TrainingError):
            train(configure("optim.lr=1e18", "optim.warmup=0", "save_every=1"), reader, tmp_path / "run")
        if (tmp_path / "run" / FOLDER).exists():
            assert all(t.isfinite().all() for t in tensors(tmp_path / "run").values())

    def test_full_disk_in_the_logs(self, reader, tmp_path, monkeypatch):
        class Full:
            name = "metrics.jsonl"

            def write(self, text):
                raise OSError(28, "No space left on device")

            def close(self):
                raise OSError(28, "No space left on device")

        real = logs.Logs.__init__

        def start(self, run, *, after):
            real(self, run, after=after)
            self._file = Full()

        monkeypatch.setattr(logs.Logs, "__init__", start)
        with pytest.raises(DataError, match=r"metrics\.jsonl.*No space left on device"):
            train(configure(), reader, tmp_path / "run")

    def test_damaged_lines_in_the_log_are_dropped(self, reader, tmp_path):
        config = configure("optim.epochs=0.2")
        train(config, reader, tmp_path / "run")
        whole = losses(tmp_path / "run")
        with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
            file.write(b"\xff garbage\n{\n")
        outcome = train(config, reader, tmp_path / "run", resume=True)
        assert (outcome.finished, outcome.loss, outcome.images_per_second) == (True, None, 0)
        assert losses(tmp_path / "run") == whole

    def test_one_person(self, reader, tmp_path):
        with pytest.raises(DataError, match="at least 2 people with 2 images or more, got 1"):
            train(configure(), reader.select(np.arange(8)), tmp_path / "run")

    def test_less_than_a_batch(self, reader, tmp_path):
        with pytest.raises(DataError, match="lower optim.batch"):
            train(configure("optim.batch=97"), reader, tmp_path / "run")

    def test_photographs_instead_of_crops(self, drawn, tmp_path):
        raw = open_reader(drawn / "lfw" / "lfw-raw-fold1.zip")
        with pytest.raises(Exception, match="250×250; align the photographs first"):
            train(configure("optim.batch=2"), raw, tmp_path / "run")

    def test_another_run_in_the_folder(self, reader, tmp_path):
        train(configure("optim.epochs=0.2"), reader, tmp_path / "run")
        with pytest.raises(ConfigError, match="--resume"):
            train(configure("optim.epochs=0.2"), reader, tmp_path / "run")

    def test_resuming_with_another_configuration_or_other_images(self, reader, tmp_path):
        train(configure("optim.epochs=0.2"), reader, tmp_path / "run")
        with pytest.raises(ConfigError, match="seed was 0, now 5"):
            train(configure("optim.epochs=0.2", "seed=5"), reader, tmp_path / "run", resume=True)
        with pytest.raises(DataError, match=r"\(96\), got others \(88\)"):
            train(configure("optim.epochs=0.2"), reader.select(np.arange(88)), tmp_path / "run", resume=True)
        assert train(configure("optim.epochs=0.2", "compile=false"), reader, tmp_path / "run", resume=True).finished

    @pytest.mark.slow
    def test_full_disk_during_a_checkpoint(self, reader, tmp_path, monkeypatch):
        """The run ends with a clear error, and the checkpoint before is whole."""
        real = os.fsync
        saved = []

        def fsync(number):
            if len(saved) >= 5:  # three JSON files and the first checkpoint's two were written
                raise OSError(28, "No space left on device")
            saved.append(number)
            real(number)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(DataError, match=r"step-00000010.*No space left on device.*previous checkpoint is intact"):
            train(configure(), reader, tmp_path / "run")
        assert Checkpoint.read(tmp_path / "run").step == 5
        monkeypatch.undo()
        assert train(configure(), reader, tmp_path / "run", resume=True).finished
        assert len(list((tmp_path / "run" / FOLDER).iterdir())) == 1


@pytest.fixture(scope="module")
def run(reader, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(configure("optim.epochs=0.2"), reader, run)
    return run


def rewrite(saved, run, **changes):
    """The same state under another configuration."""
    found = {f"{part}.{name}": t for part in ("model", "loss") for name, t in saved.part(part).items()}
    write(run, found, **{"config": saved.config, "step": saved.step, "facts": saved.facts, **changes})


class TestCheckpoints:
    def test_of_another_model(self, run, tmp_path):
        saved = Checkpoint.read(run)
        rewrite(saved, tmp_path, config={**saved.config, "model": {"name": "mobilefacenet", "options": {}}})
        with pytest.raises(ModelError, match="a checkpoint of this model 'mobilefacenet', got tensors .* missing"):
            load_model(tmp_path)

    def test_of_other_sizes(self, run, tmp_path):
        saved = Checkpoint.read(run)
        model = saved.config["model"]
        options = {**model["options"], "dim": 8}
        rewrite(saved, tmp_path, config={**saved.config, "model": {**model, "options": options}})
        with pytest.raises(ModelError, match=r"head\.0\.weight \[.*\] instead of"):
            load_model(tmp_path)

    def test_of_no_model(self, run, tmp_path):
        saved = Checkpoint.read(run)
        rewrite(saved, tmp_path, config={name: part for name, part in saved.config.items() if name != "model"})
        with pytest.raises(ModelError, match="a model's name and options in the configuration"):
            load_model(tmp_path)

    def test_what_was_written_is_read_back(self, run, tmp_path):
        rewrite(Checkpoint.read(run), tmp_path)
        written, read = tensors(run), tensors(tmp_path)
        assert read.keys() == {n for n in written if not n.startswith("momentum.")}
        assert all(torch.equal(t, written[name]) for name, t in read.items())

    @pytest.fixture
    def copied(self, run, tmp_path):
        shutil.copytree(run, tmp_path / "run")
        return next((tmp_path / "run" / FOLDER).iterdir())

    def test_truncated(self, copied):
        (file,) = copied.glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ModelError, match="copy the whole folder again"):
            Checkpoint.read(copied)

    def test_damaged(self, copied):
        (file,) = copied.glob("*.safetensors")
        file.write_bytes(b"\xff" * file.stat().st_size)
        with pytest.raises(ModelError, match="intact safetensors"):
            Checkpoint.read(copied.parents[1])

    def test_unfinished_ones_do_not_count(self, copied):
        """A process killed in the middle of a save leaves a folder without header, and the one before."""
        later = copied.with_name("step-00000099")
        shutil.copytree(copied, later, ignore=shutil.ignore_patterns(HEADER))
        assert Checkpoint.read(copied.parents[1]).step == Checkpoint.read(copied).step < 99

    def test_foreign_and_absent(self, copied, tmp_path):
        header = json.loads((copied / HEADER).read_text())
        for content, message in (
            ({**header, "format": "normface-checkpoint-1"}, "a checkpoint of format"),
            ({**header, "step": None, "files": {}}, "files and bytes"),
            ({key: value for key, value in header.items() if key != "facts"}, "format, config, step, facts and files"),
            ([], "format, config, step, facts and files"),
        ):
            (copied / HEADER).write_text(json.dumps(content))
            with pytest.raises(ModelError, match=message):
                Checkpoint.read(copied)
        with pytest.raises(ModelError, match="train it first"):
            Checkpoint.read(tmp_path / "nowhere")

    def test_nothing_is_unpickled(self, run, monkeypatch):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(pickle, name, None)
        load_model(run)
