"""A network that learns from a teacher: the loss, the very same view, unlabelled images, what is kept on disk."""

import hashlib
import json

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from normface import models
from normface.data import open_reader
from normface.data.held_out import held_out
from normface.embed import Embedder
from normface.errors import ConfigError, ModelError
from normface.train import Checkpoint, load_config, train
from normface.train.augment import prepare
from normface.train.distill import CACHE, Distillation, Teacher, mixed
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


@pytest.fixture(scope="module")
def another(teacher):
    """A second teacher, of 24 numbers on the template 112x96."""
    path = teacher.with_name("another.onnx")
    model = onnx.load(teacher)
    mix = np.random.default_rng(4).standard_normal((144, 24)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(mix, "mix"))
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 96
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 24
    for side in range(2):
        model.graph.node[0].attribute[side].ints[1] = 16
    onnx.save(model, path)
    path.with_suffix(".spec.json").write_text(InputSpec(112, 96, order="BGR").to_json())
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
    of = Distillation(config, student(), tmp_path, IDS)
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
    of = Distillation(configure(teacher), student(), tmp_path, IDS)
    pixels = 255 * torch.rand(3, 3, 112, 112)
    same = of.teachers[0].network(prepare(pixels, of.teachers[0].spec).numpy())
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
    ask = Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda self, pixels: asked.append(len(pixels)) or ask(self, pixels))
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


class TestSeveral:
    """Teachers of other templates and dimensions, met in every way."""

    @pytest.fixture
    def both(self, teacher, another):
        return f"distill.teacher={json.dumps([str(teacher), str(another)])}"

    def test_each_sees_its_own_crop_of_the_view(self, teacher, another, both, tmp_path):
        config = load_config("distill", [*SMALL, both, "distill.match=heads", "distill.views=1"])
        of = Distillation(config, student(), tmp_path, IDS)
        crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
        for _ in range(2):  # asked, and from two files
            for path, found in zip((teacher, another), of.embed(pixels, np.arange(3), 0), strict=True):
                theirs = Embedder.load(path).embed(crops, aligned=True, mirror="none").vectors
                np.testing.assert_allclose(found.numpy(), theirs, atol=2e-3)
        assert len(list(tmp_path.glob("*.npy"))) == 2

    def config(self, both, match, *overrides):
        settings = [both, f"distill.match={match}", "distill.weight=50", "distill.labels=0.0", "save_every=5",
                    "data.mix=0.5", "data.blur=0.5", "distill.clean=0.5"]  # fmt: skip
        return load_config("distill", [*SMALL, *settings, *overrides])

    @pytest.mark.slow
    @pytest.mark.parametrize("match", ["concatenate", "heads", "similarity"])
    def test_learns(self, both, reader, tmp_path, match):
        """The heads are no part of the network."""
        train(self.config(both, match, "optim.epochs=4"), reader, tmp_path / "run")
        values = losses(tmp_path / "run")
        assert np.mean(values[-5:]) < 0.8 * np.mean(values[:3])
        names = set(Checkpoint.read(tmp_path / "run").layout)
        assert any(name.startswith("distill.") for name in names) == (match != "similarity")
        assert Embedder.load(tmp_path / "run").features(reader.read(0)[None]).shape == (1, 16)

    @pytest.mark.slow
    def test_resumed_in_the_middle_gives_the_same_numbers(self, both, reader, tmp_path):
        """The heads are in checkpoints, with their momentum."""
        config = self.config(both, "heads", "optim.epochs=2", "distill.confidence=1.0")

        def stop(done, total, measured):
            if done == 8:
                raise KeyboardInterrupt

        train(config, reader, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(config, reader, tmp_path / "parts", progress=stop)
        train(config, reader, tmp_path / "parts", resume=True)
        assert losses(tmp_path / "parts") == losses(tmp_path / "whole")

    def test_how_is_asked_for(self, both):
        with pytest.raises(ConfigError, match=r"distill\.match: set it to concatenate"):
            load_config("distill", [both])

    def test_mixing_needs_new_views(self, teacher):
        with pytest.raises(ConfigError, match=r"drop distill\.views"):
            configure(teacher, "data.mix=0.5", "distill.views=2")

    def test_no_confidence_without_a_cosine(self, both):
        with pytest.raises(ConfigError, match=r"distill\.match=concatenate or heads"):
            load_config("distill", [both, "distill.match=similarity", "distill.confidence=1.0"])


@pytest.mark.nightly
def test_the_norm_tells_how_far_a_vector_is_to_be_trusted(teacher, reader, tmp_path):
    """A network that learns its confidence predicts the cosine better than any one number does."""
    config = configure(
        teacher,
        "optim.epochs=12",
        "distill.labels=0.0",
        "distill.confidence=10.0",
        "data.blur=0.5",
        "distill.clean=1.0",
    )
    train(config, reader, tmp_path / "run", unlabelled=reader)
    embedder, crops = Embedder.load(tmp_path / "run"), np.stack([reader.read(row) for row in range(len(reader))])
    clear = Embedder.load(teacher).embed(crops, aligned=True, mirror="none").vectors
    spoiled = np.stack([cv2.GaussianBlur(crop, (0, 0), 4 * share) if share else crop
                        for crop, share in zip(crops, np.linspace(0, 1, len(crops)), strict=True)])  # fmt: skip
    found = embedder.embed(spoiled, aligned=True, mirror="none")
    assert np.corrcoef(found.norms, (found.vectors * clear).sum(1))[0, 1] > 0.3


def test_a_tenth_is_held_out(teacher, reader):
    """Of the images under a folder, by their names; the labeled ones are all kept."""
    ids = reader.ids.tolist()
    folder = ids[0].split("/")[0][:1]
    config = configure(teacher, f"distill.hold_out={folder}")
    apart = [id for id in ids if id.startswith(folder) and held_out(id)]
    assert 0 < len(apart) < len(ids) / 4
    found = mixed(config, reader, reader)
    assert len(found) == 2 * len(ids) - len(apart)
    assert not set(found.ids[len(ids) :].tolist()) & set(apart)


def test_the_rule_of_the_tenth():
    """A tenth of many names; the rule is public, so that others can hold out the same."""
    names = [f"utk/{n}.jpg" for n in range(20_000)]
    part = [name for name in names if held_out(name)]
    assert abs(len(part) - 2000) < 4 * (20_000 * 0.09) ** 0.5
    assert all(int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % 10 == 0 for name in part)


@pytest.mark.parametrize("change", ["teacher", "augmentation", "clean", "seed", "images"])
def test_what_was_kept_answers_for_nothing_else(teacher, tmp_path, change):
    """A run that was killed before its first checkpoint leaves its file behind."""
    pixels, rows = 255 * torch.rand(4, 3, 112, 112), np.arange(4)
    first = Distillation(configure(teacher, "distill.views=1"), student(), tmp_path / "run", IDS)
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
    elif change == "clean":
        overrides = ["distill.clean=0.5"]
    elif change == "seed":
        overrides = ["seed=7"]
    else:
        ids = IDS[::-1]
    config = configure(path, "distill.views=1", *overrides)
    other = Distillation(config, student(), tmp_path / "run", ids)
    new = 255 - pixels
    torch.testing.assert_close(other.embed(new, rows, 0)[0], other.teachers[0](new), rtol=0, atol=2e-3)
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
