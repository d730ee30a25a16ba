"""Qualities of the images that were judged: which there are, what each needs, and its order."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.cli.test_conditions import DARK
from tests.embed.networks import constant, network, write_crops

from normface.data import fetch, open_reader
from normface.embed import Embedder, certificate
from normface.embed.image_quality import image_quality
from normface.errors import ConfigError, DataError, ModelError
from normface.types import Embeddings, OperatingPoint

pytestmark = pytest.mark.slow


def brightness(path):
    """A network of eDifFIQA's form whose quality is the mean red of RGB from -1 to 1; a batch of one."""
    picked = np.zeros((3, 1), "f4")
    picked[0] = 1
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["f"]),
         helper.make_node("Gemm", ["f", "w"], ["y"])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])], [constant("w", picked)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def judged(tmp_path):
    """A model, crops of three lights, and their vectors in another order than the crops'."""
    model = network(tmp_path / "model.onnx")
    for light in (60, 110, 160):
        write_crops(tmp_path / f"{light}", 2, light)
        for person in range(2):
            (tmp_path / "crops").mkdir(exist_ok=True)
            (tmp_path / f"{light}" / f"p{person}").rename(tmp_path / "crops" / f"{light}p{person}")
    found = Embedder.load(model).embed(tmp_path / "crops")
    order = np.random.default_rng(0).permutation(len(found))
    vectors = Embeddings(found.vectors[order] * found.norms[order, None], found.ids[order])
    return model, tmp_path / "crops", vectors


def test_each_in_the_order_of_the_vectors(judged, tmp_path):
    model, crops, vectors = judged
    reader = open_reader(crops)
    images = {name: reader.read(row) for row, name in enumerate(reader.ids.tolist())}
    assert (image_quality("norm", vectors, None) == vectors.norms).all()
    found = image_quality(f"ediffiqa={brightness(tmp_path / 'red.onnx')}", vectors, crops)
    red = [float(np.pad(images[id], ((0, 0), (8, 8), (0, 0)), "edge")[..., 0].mean()) for id in vectors.ids.tolist()]
    assert found == pytest.approx(np.array(red) / 127.5 - 1, abs=1e-5)
    sharp = image_quality("sharpness", vectors, crops)
    assert len(set(sharp.tolist())) == len(vectors)
    with pytest.raises(ConfigError, match=r"certificate has conditions.*calibrate --conditions"):
        image_quality("risk", vectors, crops, model=model)
    kept = certificate(model)
    conditions = replace(DARK, signals=("light",), weights=((*[0.0] * 16, -1.0, 0.0),))
    kept.write_text(replace(OperatingPoint.from_json(kept.read_bytes()), conditions=conditions).to_json())
    light = [float(id.partition("p")[0]) for id in vectors.ids.tolist()]
    assert np.corrcoef(image_quality("risk", vectors, crops, model=model), np.log1p(light))[0, 1] > 0.99


def test_mistakes(judged, tmp_path, monkeypatch):
    _, crops, vectors = judged
    monkeypatch.setenv("NORMFACE_MODELS", str(tmp_path / "nothing"))
    for name, given, error, message in (
        ("beauty", crops, ConfigError, "a quality among sharpness, norm, risk, ediffiqa"),
        ("sharpness", None, ConfigError, "--crops"),
        ("ediffiqa", crops, ModelError, "normface fetch ediffiqa"),
        (f"ediffiqa={tmp_path / 'none.onnx'}", crops, ModelError, "none.onnx"),
        (f"ediffiqa={tmp_path / 'model.onnx'}", crops, ModelError, "the network eDifFIQA"),
        ("sharpness=3", crops, ConfigError, "a quality among"),
    ):
        with pytest.raises(error, match=message):
            image_quality(name, vectors, given)
    unit = Embeddings(vectors.vectors, vectors.ids)
    with pytest.raises(DataError, match="norms that differ"):
        image_quality("norm", unit, None)
    other = Embeddings(vectors.vectors, np.array([f"other/{k}" for k in range(len(vectors))]))
    with pytest.raises(DataError, match="a crop of each image"):
        image_quality("sharpness", other, crops)


def test_it_is_fetched_by_its_hash(tmp_path):
    brightness(tmp_path / "ediffiqa.onnx")
    with pytest.raises(DataError, match="SHA-256 9426c899"):
        fetch.fetch("ediffiqa", tmp_path / "out", source=tmp_path)
