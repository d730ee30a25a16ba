"""What a training run must withstand or refuse; killed, resumed and teachers: test_scale, test_loop, test_distill."""

import json

import numpy as np
import pytest
import torch

from normface.data import open_reader
from normface.data import write as write_images
from normface.data.images import Record
from normface.errors import InputError, TrainingError
from normface.losses import LOSSES
from normface.train import Checkpoint, diagnose, load_config, train
from normface.train.doctor import read

SMALL = [
    "model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]", "model.options.dim=16", "optim.batch=16",
    "precision=fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def reader(drawn):
    return open_reader(drawn / "train" / "faces-112.zip")  # 96 images of 12 people: 6 steps an epoch


def records(reader, people):
    return [
        Record(f"{people[label]}/{row}.jpg", bytes(reader.encoded(row)), people[label], None)
        for row, label in enumerate(reader.labels.tolist())
        if label < len(people)
    ]


def test_a_class_with_one_image_takes_part_where_asked(reader, tmp_path):
    few = reader.select(np.r_[0:40, 48])
    config = load_config("normface", [*SMALL, "optim.epochs=0.5", "data.min_images=1"])
    assert train(config, few, tmp_path / "run").finished
    assert Checkpoint.read(tmp_path / "run").facts["classes"] == 6


def test_people_with_too_few_images_are_counted(reader, tmp_path, caplog):
    few = reader.select(np.r_[0:40, 48, 56])  # five whole people, and two with one image
    config = load_config("normface", [*SMALL, "optim.epochs=0.5"])
    train(config, few, tmp_path / "run")
    assert "2 of 7 people left out: they have fewer than 2 images (2 images in all)" in caplog.text
    facts = Checkpoint.read(tmp_path / "run").facts
    assert (facts["classes"], facts["left_out"]) == (5, {"people": 2, "images": 2})


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 12])
def test_a_schedule_ends_with_the_run_however_short(reader, tmp_path, epochs):
    """Also with accumulated gradients: it counts steps, not calls."""
    config = load_config("scratch", [*SMALL, f"optim.epochs={epochs}", "optim.accumulate=4"])
    train(config, reader, tmp_path / "run")
    loss = Checkpoint.read(tmp_path / "run").part("loss")
    assert loss["scale"].item() == 64
    assert loss["margin.share"].item() == 1


@pytest.mark.slow
def test_doctor_finds_a_schedule_that_the_run_does_not_finish(reader, tmp_path):
    options = "{scale=64, learn_scale=false, growth=[12.0, 2600], margin={name='Gradual', of='ArcFace', steps=2600}}"
    config = load_config("normface", [*SMALL, "optim.epochs=4", f"loss.options={options}"])
    with pytest.warns(DeprecationWarning, match="fraction of the run"):
        train(config, reader, tmp_path / "run")
    found = {diagnosis.name: diagnosis for diagnosis in diagnose(read(tmp_path / "run"))}
    assert found["schedule-unfinished"].severity == "warning"
    assert "at 1% of their growth" in found["schedule-unfinished"].seen


def test_labels_that_skip_numbers(reader, tmp_path):
    """A .rec with labels 0, 7 and 1,000,000: three classes, not a million and one."""
    people = ["0000000", "0000007", "1000000"]
    write_images(records(reader, people), tmp_path / "faces.rec", "rec")
    skipping = open_reader(tmp_path / "faces.rec")
    assert sorted(set(skipping.labels.tolist())) == [0, 1, 2]
    config = load_config("normface", [*SMALL, "optim.epochs=1"])
    assert train(config, skipping, tmp_path / "run").finished
    assert Checkpoint.read(tmp_path / "run").part("loss")["weight"].shape == (3, 16)


@pytest.mark.parametrize("sample", [1.0, 0.01])
@pytest.mark.slow
def test_a_million_empty_classes(sample):
    """Five of 10⁶ classes have images: the loss starts near what the theory says, and the gradient is finite."""
    from normface import theory

    torch.manual_seed(0)
    loss = LOSSES.build("CosineSoftmax", 1_000_000, 4, sample=sample)
    features = torch.randn(8, 4, requires_grad=True)
    value = loss(features, torch.tensor([0, 1, 2, 999_999, 3, 0, 1, 2]))
    value.backward()
    assert features.grad.isfinite().all()
    assert 0 < value.item() < 2 * theory.initial_loss(1_000_000, loss.scale.item(), 4)


def test_crops_of_another_template_are_refused_before_anything_is_written(reader, tmp_path):
    """Both templates are named; 112×112 for 112×96 differ by a border, which is cut."""
    config = load_config("normface", ["model.name=lightcnn_a", "optim.batch=2"])
    with pytest.raises(
        InputError, match=r"template '128x128', 144×144 or 128×128, got 112×112 of the template '112x112'"
    ):
        train(config, reader, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_rate_that_diverges_is_stopped_and_named(reader, tmp_path):
    """The plain softmax at a rate that rises until it bursts: the checkpoint kept is of before."""
    plain = ["loss.options.normalize=none", "loss.options.scale=1.0", "loss.options.learn_scale=false"]
    rising = ["optim.lr=20", "optim.warmup=0.9", "optim.epochs=30", "save_every=3"]
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"expected a (finite loss|loss below).* lower optim\.lr \(now 20\.0\)"):
        train(load_config("normface", [*SMALL, *plain, *rising]), reader, run)
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = Checkpoint.read(run)
    assert 0 < kept.step < told[-1]["step"]
    assert told[kept.step - 1]["loss"] < 10 * (told[0]["loss"] + 1)
    assert all(t.isfinite().all() for t in kept.part("model").values() if t.is_floating_point())
    found = diagnose(read(run))[0]
    assert found.severity == "error"
    assert "Lower optim.lr" in found.do
