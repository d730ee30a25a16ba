"""The bridge: our own export, anybody's ONNX, and what must not be mixed up."""

import hashlib
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from normface import models
from normface.data import open_reader
from normface.embed import Embedder, Network, export, pytorch
from normface.errors import ConfigError, DataError, FaceError, InputError, ModelError
from normface.types import Embeddings, Estimate, InputSpec, OperatingPoint, Result

RNG = np.random.default_rng(0)


def point(sha256, threshold=0.3):
    return OperatingPoint(threshold, None, Estimate(0.01, 0, 0.1, 9), Estimate(0.9, 0.8, 1, 9), "lfw", sha256, "d")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = models.build("smallresnet", channels=(4, 8, 8, 8), units=(1, 1, 1), dim=16).eval()
    for module in model.modules():  # statistics other than 0 and 1, as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module", autouse=True)
def converted(model):
    """torch's exporter takes seconds: it runs once, and every export below starts from a copy of what it made."""
    once = export._to_onnx(model, torch.zeros(8, 3, 112, 96)).SerializeToString()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_to_onnx", lambda *_: onnx.load_from_string(once))
        yield


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    made = export.export(model, path, sha256="ab12", operating_point=point("ab12"))
    assert made.difference < 1e-5
    assert made.cosine == pytest.approx(1)
    assert (made.precision, made.sha256, made.operating_point, made.gate) == ("fp32", "ab12", point("ab12"), None)
    return path


def foreign(path, spec=None, width=6, batch="N"):
    """Somebody's network: adds up each channel of a 4×6 image."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    if spec:
        path.with_suffix(".spec.json").write_text(spec.to_json())
    return path


@pytest.mark.slow
class TestExport:
    @pytest.mark.parametrize("count", [1, 3, 33])
    def test_equals_torch_for_any_batch(self, model, exported, count):
        crops = RNG.integers(0, 256, (count, 112, 96, 3), dtype=np.uint8)
        with torch.no_grad():
            features = model(torch.from_numpy(model.spec.prepare(crops))).double().numpy()
        expected = features / np.linalg.norm(features, axis=1, keepdims=True)
        found = Embedder.load(exported).embed(crops, aligned=True, mirror="none")
        np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
        np.testing.assert_allclose(found.norms, np.linalg.norm(features, axis=1), rtol=1e-4)
        assert found.ids.tolist() == [str(i) for i in range(count)]

    def test_carries_its_specification_and_certificate(self, model, exported):
        embedder = Embedder.load(exported)
        assert embedder.spec == model.spec
        assert embedder.sha256 == "ab12"
        assert embedder.operating_point == point("ab12")

    def test_a_network_that_exports_wrongly_is_not_kept(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "_parity", lambda *a: (0.5, 0.9))
        with pytest.raises(ModelError, match="a difference of 0.5"):
            export.export(model, tmp_path / "m.onnx", sha256="ab")
        with pytest.raises(ModelError, match=r"in int8 at a cosine of 0\.99 .* got 0\.90000"):
            export.export(model, tmp_path / "m.onnx", sha256="ab", precision="int8")
        assert not list(tmp_path.iterdir())

    def test_names_no_file_of_the_machine_that_made_it(self, exported):
        assert b".py" not in exported.read_bytes()
        assert b"/torch/" not in exported.read_bytes()

    def test_a_certificate_of_other_weights_is_refused_by_its_models_name(self, model, tmp_path):
        with pytest.raises(ModelError, match=r"calibrate m\.onnx again"):
            export.export(model, tmp_path / "m.onnx", sha256="ab", operating_point=point("cd"))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(("precision", "least"), [("int8", 0.999), ("fp16", 0.999999)])
    def test_in_fewer_bits_it_is_another_model(self, model, exported, tmp_path, precision, least):
        """Its own hash; the original's certificate is left behind, and only a judge gives it another."""
        path, crops = tmp_path / "m.onnx", RNG.integers(0, 256, (3, 112, 96, 3), dtype=np.uint8)
        options = dict(sha256="ab12", operating_point=point("ab12"), precision=precision)
        made = export.export(model, path, **options)
        small, full = Embedder.load(path), Embedder.load(exported)
        assert small.sha256 == made.sha256 != "ab12"
        assert small.operating_point is made.operating_point is None
        assert (small.embed(crops, aligned=True).vectors * full.embed(crops, aligned=True).vectors).sum(1).min() > least
        judged = Result("gate", {}, {}, {"passed": True})

        def judge(original, smaller):
            assert (original.sha256, smaller.sha256) == ("ab12", made.sha256)
            assert original.operating_point == point("ab12")
            return point(smaller.sha256, 0.7), judged

        assert export.export(model, path, **options, judge=judge).gate == judged
        assert Embedder.load(path).operating_point == point(made.sha256, 0.7)
        kept = {each.key: each.value for each in onnx.load(path).metadata_props}
        assert (kept["normface.precision"], kept["normface.source_sha256"]) == (precision, "ab12")
        assert Result.from_json(kept["normface.gate"]) == judged
        parity = json.loads(kept["normface.parity"])
        assert parity == {"max_difference": made.difference, "min_cosine": made.cosine, "images": 8}

    def test_what_the_judge_refuses_is_not_written(self, model, tmp_path):
        def judge(original, smaller):
            raise ModelError("less loss", "more", "do without")

        (tmp_path / "m.onnx").write_text("an older one")
        with pytest.raises(ModelError, match="less loss"):
            export.export(model, tmp_path / "m.onnx", sha256="ab", precision="int8", judge=judge)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["an older one"]

    def test_nowhere_to_write(self, model, tmp_path):
        with pytest.raises(DataError, match="to write"):
            export.export(model, tmp_path, sha256="ab")


class TestEmbed:
    def test_mirror_adds_the_mirrored_features(self, exported):
        embedder = Embedder.load(exported)
        crops = RNG.integers(0, 256, (2, 112, 96, 3), dtype=np.uint8)
        both = embedder.features(crops, "none") + embedder.features(crops[:, :, ::-1], "none")
        np.testing.assert_allclose(embedder.features(crops, "sum"), both, atol=1e-4)
        a, b = (embedder.embed(each, aligned=True) for each in (crops, crops[:, :, ::-1]))
        np.testing.assert_allclose(a.vectors, b.vectors, atol=1e-5)
        with pytest.raises(ConfigError, match="mirror among sum, max, concatenate, none"):
            embedder.features(crops, "mean")

    @pytest.mark.parametrize("mirror", ["max", "concatenate"])
    def test_other_ways_to_merge(self, exported, mirror):
        embedder = Embedder.load(exported)
        crops = RNG.integers(0, 256, (2, 112, 96, 3), dtype=np.uint8)
        one, other = embedder.features(crops, "none"), embedder.features(crops[:, :, ::-1], "none")
        wanted = np.maximum(one, other) if mirror == "max" else np.concatenate([one, other], 1)
        np.testing.assert_allclose(embedder.features(crops, mirror), wanted, atol=1e-4)

    def test_reader_gives_ids_and_templates_are_converted(self, exported, drawn):
        embedder = Embedder.load(exported)
        wide = open_reader(drawn / "train" / "faces-112.zip").select(np.arange(40))
        seen = []
        found = embedder.embed(wide, progress=lambda *p: seen.append(p))
        assert found.ids.tolist() == wide.ids.tolist()
        assert seen == [(40, 40)]
        np.testing.assert_array_equal(found.vectors, embedder.embed(drawn / "train" / "faces-112.zip").vectors[:40])
        narrow = np.stack([wide.read(i)[:, 8:104] for i in range(40)])
        np.testing.assert_allclose(found.vectors, embedder.embed(narrow, aligned=True).vectors, atol=1e-6)

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("batch", [1, 5, 64])
    def test_neither_batches_nor_threads_change_a_bit(self, exported, threads, batch):
        crops = RNG.integers(0, 256, (11, 112, 96, 3), dtype=np.uint8)
        embedder = Embedder.load(exported)
        whole = embedder.features(crops)
        embedder.threads, embedder.batch = threads, batch
        np.testing.assert_array_equal(embedder.features(crops), whole)
        np.testing.assert_array_equal(embedder.features(crops[4:5]), whole[4:5])

    def test_one_image(self, exported):
        crop = RNG.integers(0, 256, (112, 96, 3), dtype=np.uint8)
        found = Embedder.load(exported).embed(crop, aligned=True)
        assert found.vectors.shape == (1, 16)
        assert found.ids.tolist() == ["0"]

    def test_nothing_or_photographs(self, exported):
        embedder = Embedder.load(exported)
        with pytest.raises(InputError, match="at least one image"):
            embedder.embed(np.zeros((0, 112, 96, 3), np.uint8), aligned=True)
        with pytest.raises(InputError, match="align the photographs first"):
            embedder.embed(np.zeros((1, 250, 250, 3), np.uint8), aligned=True)


class TestVerify:
    def test_decides_at_the_operating_point(self, exported):
        crops = RNG.integers(0, 256, (2, 112, 96, 3), dtype=np.uint8)
        embedder = Embedder.load(exported)
        same = embedder.verify(crops[0], crops[0], aligned=True)
        assert same.score == pytest.approx(1, abs=1e-6)
        assert same.decision is True
        other = embedder.verify(crops[0], crops[1], aligned=True)
        vectors = embedder.embed(crops, aligned=True).vectors
        assert other.score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
        assert other.decision == (other.score >= 0.3)

    def test_without_one_there_is_no_decision(self, model):
        embedder = Embedder(Network(pytorch.torch_runner(model), model.spec, "ab"))
        crop = RNG.integers(0, 256, (112, 96, 3), dtype=np.uint8)
        assert embedder.verify(crop, crop, aligned=True).decision is None

    def test_made_of_a_bare_function_for_one_more_version(self, model):
        run = pytorch.torch_runner(model)
        with pytest.warns(DeprecationWarning, match=r"use Embedder\(Network\(run, spec"):
            embedder = Embedder(run, model.spec, sha256="ab", operating_point=point("ab"))
        assert (embedder.sha256, embedder.spec, embedder.operating_point) == ("ab", model.spec, point("ab"))

    def test_detects_and_aligns_photographs(self, exported, drawn):
        raw = open_reader(drawn / "lfw" / "lfw-raw-fold1.zip")
        embedder = Embedder.load(exported)
        assert embedder.crop(raw.read(0)).shape == (1, 112, 96, 3)
        assert embedder.verify(raw.read(0), raw.read(0)).score == pytest.approx(1, abs=1e-6)

    def test_of_several_faces_the_central_one_with_a_warning(self, exported, drawn, caplog):
        one = open_reader(drawn / "lfw" / "lfw-raw-fold1.zip").read(0)
        embedder = Embedder.load(exported)
        embedder.crop(np.concatenate([one, one], 1))
        assert "2 faces in the photograph: using the one nearest the center" in caplog.text

    def test_no_face(self, exported):
        with pytest.raises(FaceError, match="none found"):
            Embedder.load(exported).verify(*np.zeros((2, 100, 100, 3), np.uint8))


class TestLoad:
    def test_foreign_model_with_specification_beside_it(self, tmp_path):
        spec = InputSpec(4, 6, order="BGR", mean=(0, 0, 0), std=(1, 1, 1), template="own")
        path = foreign(tmp_path / "m.onnx", spec)
        embedder = Embedder.load(path)
        assert embedder.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert embedder.operating_point is None
        pixels = spec.prepare(RNG.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8))
        np.testing.assert_allclose(embedder.network(pixels), pixels.sum((2, 3)), rtol=1e-6)

    def test_certificate_beside_the_model(self, tmp_path):
        path = foreign(tmp_path / "m.onnx", InputSpec(4, 6))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "m.operating_point.json").write_text(point(sha256, 0.7).to_json())
        assert Embedder.load(path).operating_point.threshold == 0.7

    def test_certificate_of_another_model_is_refused(self, tmp_path):
        path = foreign(tmp_path / "m.onnx", InputSpec(4, 6))
        (tmp_path / "m.operating_point.json").write_text(point("feed" * 16).to_json())
        with pytest.raises(ModelError, match="certified on feedfeedfeed…; calibrate m.onnx again"):
            Embedder.load(path)

    def test_a_new_certificate_can_be_made_over_a_stale_one(self, tmp_path):
        path = foreign(tmp_path / "m.onnx", InputSpec(4, 6))
        (tmp_path / "m.operating_point.json").write_text(point("feed" * 16).to_json())
        assert Embedder.load(path, certified=False).operating_point is None

    @pytest.mark.parametrize("batch", [1, 4])
    def test_fixed_batch_size(self, tmp_path, batch):
        embedder = Embedder.load(foreign(tmp_path / "m.onnx", InputSpec(4, 6), batch=batch))
        pixels = RNG.normal(size=(6, 3, 4, 6)).astype(np.float32)
        np.testing.assert_allclose(embedder.network(pixels), pixels.sum((2, 3)), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", ["spec", "operating_point"])
    def test_damaged_side_files(self, tmp_path, kind):
        path = foreign(tmp_path / "m.onnx", InputSpec(4, 6))
        (tmp_path / f"m.{kind}.json").write_bytes(b"\xff\xfe{")
        with pytest.raises(ConfigError, match="as JSON"):
            Embedder.load(path)

    def test_no_specification(self, tmp_path):
        with pytest.raises(ModelError, match=r"m\.spec\.json, for example \{"):
            Embedder.load(foreign(tmp_path / "m.onnx"))

    def test_specification_of_another_size(self, tmp_path):
        with pytest.raises(ModelError, match=r"\[N, 3, 4, 6\].*correct the InputSpec"):
            Embedder.load(foreign(tmp_path / "m.onnx", InputSpec(4, 6), width=7))

    def test_the_default_model(self, exported, tmp_path, monkeypatch):
        monkeypatch.setattr("normface.embed.loading.DEFAULT", exported)
        assert Embedder.load().sha256 == "ab12"

    def test_no_model(self, tmp_path, monkeypatch):
        monkeypatch.setattr("normface.embed.loading.DEFAULT", tmp_path / "none.onnx")
        with pytest.raises(ModelError, match="no default model ships yet"):
            Embedder.load()
        with pytest.raises(ModelError, match="nothing at"):
            Embedder.load(tmp_path / "absent.onnx")
        (tmp_path / "text.onnx").write_text("not a model")
        with pytest.raises(ModelError, match="a readable ONNX model"):
            Embedder.load(tmp_path / "text.onnx")


def test_embeddings_need_one_id_a_vector():
    with pytest.raises(DataError, match="one id"):
        Embeddings(np.ones((2, 3)), ["a"])
