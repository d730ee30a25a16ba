"""A network that learns from a teacher: the loss, the very same view, unlabelled images, what is kept on disk."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from normface import models
from normface.data import open_reader
from normface.embed import Embedder
from normface.errors import ConfigError, ModelError
from normface.train import load_config, train
from normface.train.augment import prepare
from normface.train.distill import CACHE, Teacher, mixed
from normface.train.loader import UNKNOWN
from normface.types import InputSpec

IDS = [f"{row}.jpg" for row in range(8)]
SMALL = [
    "model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]", "model.options.dim=16", "optim.batch=16",
    "precision=fp32", "optim.epochs=1", "data.occlude=0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Of another template: random mixtures of the crop's means over squares."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    mix = np.random.default_rng(3).standard_normal((192, 16)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["images"], ["squares"], kernel_shape=[14, 14], strides=[14, 14]),
            helper.make_node("Flatten", ["squares"], ["flat"]),
            helper.make_node("MatMul", ["flat", "mix"], ["embeddings"]),
        ],
        "mixture",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(mix, "mix")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    path.with_suffix(".spec.json").write_text(InputSpec(112, 112, template="112x112").to_json())
    return path


@pytest.fixture
def reader(drawn):
    return open_reader(drawn / "train" / "faces-112.zip")


def configure(teacher, *overrides):
    return load_config("distill", [*SMALL, f"distill.teacher={teacher}", *overrides])


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def student(**options):
    return models.build("smallresnet", **{"channels": (4, 8, 8, 8), "units": (1, 1, 1), "dim": 16, **options})


def test_the_loss_is_what_it_says(teacher, tmp_path):
    """labels · loss of the labeled + weight · mean(1 - cos), in float64 by hand; the teacher sees its own crop."""
    config = configure(teacher, "distill.weight=3.0", "distill.labels=0.5")
    of = Teacher(str(teacher), config, student(), tmp_path, IDS)
    assert (of.view_spec.height, of.view_spec.width) == (112, 112)
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (4, 112, 112, 3), dtype=np.uint8)
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    features, labels = torch.from_numpy(rng.standard_normal((4, 16))), torch.tensor([1, UNKNOWN, 0, UNKNOWN])

    class Sum(nn.Module):
        def forward(self, features, labels):
            assert labels.tolist() == [1, 0]
            return features.sum()

    found = of(Sum(), features, labels, pixels, torch.arange(4), 0)
    theirs = Embedder.load(teacher).features(crops, mirror="none").astype(np.float64)
    ours = features.numpy()
    cos = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert found.item() == pytest.approx(0.5 * ours[[0, 2]].sum() + 3 * (1 - cos).mean(), abs=1e-5)


def test_a_network_that_is_the_teacher_has_nothing_to_learn(teacher, tmp_path):
    of = Teacher(str(teacher), configure(teacher), student(), tmp_path, IDS)
    pixels = 255 * torch.rand(3, 3, 112, 112)
    same = of.embedder.network(prepare(pixels, of.embedder.spec).numpy())
    loss = of(nn.Identity(), torch.from_numpy(same), torch.full((3,), UNKNOWN), pixels, torch.arange(3), 0)
    assert loss.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_learns_with_and_without_labels(teacher, reader, tmp_path):
    for name, overrides in {"with": (), "without": ("distill.labels=0.0",)}.items():
        train(configure(teacher, "optim.epochs=6", *overrides), reader, tmp_path / name, unlabelled=reader)
        values = losses(tmp_path / name)
        assert np.mean(values[-5:]) < 0.6 * np.mean(values[:3])
    # Without labels the class weights get no gradient: only their decay moves them.
    assert "accuracy" not in (tmp_path / "without" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_views_are_kept_and_looked_up(teacher, reader, tmp_path, monkeypatch):
    """Two views: the teacher is asked for the images of the first two epochs, never again; a resumed run neither."""
    asked = []
    ask = Teacher._ask
    monkeypatch.setattr(Teacher, "_ask", lambda self, pixels: asked.append(len(pixels)) or ask(self, pixels))
    epochs, each = 5, len(reader) // 16 * 16
    config = configure(teacher, "distill.views=2", f"optim.epochs={epochs}", "save_every=7")
    train(config, reader, tmp_path / "run")
    distinct = [n for n in asked if n != 1]  # one blank crop tells the dimension
    assert sum(distinct) <= 2 * len(reader)
    assert sum(distinct) >= 2 * each
    (file,) = (tmp_path / "run").glob(CACHE.format(key="*"))
    kept = np.load(file)
    assert kept.shape == (2, len(reader), 16)
    norms = np.linalg.norm(kept.astype(np.float32), axis=2)
    np.testing.assert_allclose(norms[np.isfinite(norms)], 1, atol=2e-3)


@pytest.mark.slow
def test_resumed_in_the_middle_gives_the_same_numbers(teacher, reader, tmp_path):
    config = configure(teacher, "distill.views=1", "optim.epochs=2", "save_every=5")
    steps = []

    def stop(done, total, measured):
        if done == 8:
            raise KeyboardInterrupt

    train(config, reader, tmp_path / "whole", unlabelled=reader)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader, tmp_path / "parts", unlabelled=reader, progress=stop)
    train(config, reader, tmp_path / "parts", unlabelled=reader, resume=True, progress=lambda *a: steps.append(a[0]))
    assert steps[0] == 6
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


@pytest.mark.parametrize("change", ["teacher", "augmentation", "seed", "images"])
def test_what_was_kept_answers_for_nothing_else(teacher, tmp_path, change):
    """A run that was killed before its first checkpoint leaves its file behind."""
    pixels, rows = 255 * torch.rand(4, 3, 112, 112), np.arange(4)
    first = Teacher(str(teacher), configure(teacher, "distill.views=1"), student(), tmp_path / "run", IDS)
    before = first.embed(pixels, rows, 0)
    torch.testing.assert_close(first.embed(255 - pixels, rows, 0), before)  # from the file
    del first
    path, overrides, ids = teacher, [], IDS
    if change == "teacher":
        path = tmp_path / "other.onnx"
        model = onnx.load(teacher)
        mix = numpy_helper.to_array(model.graph.initializer[0])[::-1].copy()
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(mix, "mix"))
        onnx.save(model, path)
        path.with_suffix(".spec.json").write_bytes(teacher.with_suffix(".spec.json").read_bytes())
    elif change == "augmentation":
        overrides = ["data.rotate=9.0"]
    elif change == "seed":
        overrides = ["seed=7"]
    else:
        ids = IDS[::-1]
    config = configure(path, "distill.views=1", *overrides)
    other = Teacher(str(path), config, student(), tmp_path / "run", ids)
    new = 255 - pixels
    torch.testing.assert_close(other.embed(new, rows, 0), other._ask(new), rtol=0, atol=2e-3)
    assert len(list((tmp_path / "run").glob("*.npy"))) == 1


class TestRefused:
    def test_another_dimension(self, teacher, reader, tmp_path):
        with pytest.raises(ModelError, match=r"set model\.options\.dim=16"):
            train(configure(teacher, "model.options.dim=8"), reader, tmp_path / "run")

    def test_unlabelled_without_a_teacher(self, reader):
        with pytest.raises(ConfigError, match=r"distill\.teacher"):
            mixed(load_config("normface"), reader, reader)

    def test_unlabelled_with_people_sampled(self, teacher, reader):
        with pytest.raises(ConfigError, match="plain shuffling"):
            mixed(configure(teacher, "data.balance=1.0"), reader, reader)

    def test_no_such_teacher(self, reader, tmp_path):
        with pytest.raises(ModelError, match="nothing at"):
            train(configure(tmp_path / "none.onnx"), reader, tmp_path / "run")
