"""ONNX models as other projects publish them: their pixels, their outputs, their spare inputs."""

import hashlib
import pickle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.embed.networks import constant, network

from normface.data import catalogue
from normface.data.synthetic import photograph
from normface.embed import Embedder
from normface.embed.loading import load_network
from normface.embed.session import open_onnx
from normface.errors import ModelError
from normface.faces import DETECTORS
from normface.types import InputSpec

HEIGHT, WIDTH, DIM = 8, 6, 5
PLAIN = InputSpec(HEIGHT, WIDTH, mean=(0, 0, 0), std=(1, 1, 1))
WEIGHTS = np.random.default_rng(0).integers(-4, 5, (3 * HEIGHT * WIDTH, DIM)).astype(np.float32)
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def model(path, *, kind="float32", last=False, output=("flat",), batch="N", spare=0, spec=PLAIN):
    """Features are the pixels, channel by channel, times WEIGHTS."""
    shape = [batch, HEIGHT, WIDTH, 3] if last else [batch, 3, HEIGHT, WIDTH]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3])]
    nodes += [helper.make_node("Flatten", ["t"], ["v"]), helper.make_node("MatMul", ["v", "w"], ["flat"])]
    nodes += [helper.make_node("ReduceL2", ["flat"], ["norm"], axes=[1])]
    nodes += [helper.make_node("Unsqueeze", ["flat", "axes"], ["map"])]
    shapes = {"flat": [batch, DIM], "norm": [batch, 1], "map": [batch, DIM, 1, 1]}
    inputs = [helper.make_tensor_value_info("x", KINDS[kind], shape)]
    inputs += [helper.make_tensor_value_info(f"spare{i}", TensorProto.FLOAT, [i + 1]) for i in range(spare)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in output]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [constant("w", WEIGHTS), constant("axes", np.int64([2, 3]))])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    if spec:
        path.with_suffix(".spec.json").write_text(spec.to_json())
    return path


@pytest.mark.parametrize(
    "form",
    [
        {}, {"last": True}, {"kind": "float16"}, {"kind": "uint8"}, {"kind": "uint8", "last": True}, {"batch": 1},
        {"batch": 2, "last": True}, {"output": ("map",)}, {"output": ("norm", "flat")}, {"output": ("flat", "norm")},
        {"output": ("norm", "map")}, {"spare": 29},
    ],
    ids=str,
)  # fmt: skip
def test_forms_of_published_models(form, tmp_path):
    """The product is exact in float32: pixels and weights are small integers."""
    images = np.random.default_rng(1).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    opened = open_onnx(model(tmp_path / "m.onnx", **form))
    found = opened(opened.spec.prepare(images))
    assert (found.dtype, opened.device) == (np.float32, "cpu")
    np.testing.assert_array_equal(found, images.transpose(0, 3, 1, 2).reshape(5, -1) @ WEIGHTS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened))(opened.spec.prepare(images)), found)


def test_what_is_refused(tmp_path):
    with pytest.raises(ModelError, match="an InputSpec with mean 0 and std 1 for a model that takes uint8 pixels"):
        open_onnx(model(tmp_path / "a.onnx", kind="uint8", spec=InputSpec(HEIGHT, WIDTH)))
    with pytest.raises(ModelError, match=r"one input \[N, 3, 9, 6\] or \[N, 9, 6, 3\]"):
        open_onnx(model(tmp_path / "b.onnx", spec=InputSpec(9, WIDTH)))
    with pytest.raises(ModelError, match=r"an output \[N, D\]"):
        open_onnx(model(tmp_path / "c.onnx", output=("norm",)))
    with pytest.raises(ModelError, match="an InputSpec in the model's metadata or beside it"):
        open_onnx(model(tmp_path / "d.onnx", spec=None))


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A catalogue of one model and one detector, whose files lie in a folder of fetched models."""
    monkeypatch.setenv(catalogue.FOLDER, str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    data = model(tmp_path / "x.onnx", spec=None).read_bytes()
    known = dict(
        url="http://127.0.0.1:9/", license="MIT", commercial="yes", hash_sources=("here", "there"), project="p"
    )
    found = {
        "small": catalogue.Listed("small", "a model", kind="recognizer", sha256=hashlib.sha256(data).hexdigest(),
                                  spec=PLAIN, **known),
        "finder": catalogue.Listed("finder", "a detector", kind="detector", sha256="0", detector="scrfd", **known),
    }  # fmt: skip
    monkeypatch.setattr(catalogue, "catalogue", lambda: found)
    return found["small"], data


def test_a_model_by_its_name(listed, tmp_path, monkeypatch):
    small, data = listed
    with pytest.raises(ModelError, match="the file of small, got nothing at .*; fetch it: normface fetch small"):
        load_network("small")
    small.path.write_bytes(data)
    opened = load_network("small")
    assert (opened.spec, opened.sha256, opened.name) == (PLAIN, small.sha256, "small.onnx")
    assert load_network(tmp_path / "x.onnx").spec == PLAIN  # known by its bytes, under any name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_bytes(b"a file of the user's own comes first")
    with pytest.raises(ModelError, match="a readable ONNX model"):
        load_network("small")


def test_a_fetched_file_that_changed_is_moved_aside_and_named(listed):
    small, data = listed
    small.path.write_bytes(data + b"\0")
    with pytest.raises(ModelError, match=r"moved to small\.onnx\.rejected; fetch it again: normface fetch small"):
        load_network("small")
    assert [path.name for path in small.path.parent.iterdir()] == ["small.onnx.rejected"]


def test_wrong_names(listed):
    with pytest.raises(ValueError, match="a recognizer among small, got 'finder'"):
        load_network("finder")
    with pytest.raises(ModelError, match="nothing at smal; .*list the names: normface models"):
        load_network("smal")


def test_the_detector_and_its_device_are_told(tmp_path, monkeypatch, caplog):
    """In the place of a fetched one stands MTCNN, which needs no file."""
    monkeypatch.setattr("normface.embed.embedder.open_detector", lambda name, device: DETECTORS.build("mtcnn"))
    embedder = Embedder.load(network(tmp_path / "m.onnx"), detector="scrfd-10g")
    assert embedder.tools() == {"device": "cpu"}  # crops need none
    embedder.portrait(photograph(0, 0, 0, strength=0.3))
    assert embedder.tools() == {"device": "cpu", "detector": "scrfd-10g", "detector_device": "cpu"}
    assert "were measured on faces as MTCNN finds them: with scrfd-10g they may differ" in caplog.text
    caplog.clear()
    plain = Embedder.load(tmp_path / "m.onnx")
    plain.portrait(photograph(0, 0, 0, strength=0.3))
    assert plain.tools() == {"device": "cpu", "detector": "mtcnn", "detector_device": "cpu"}
    assert caplog.messages == []
