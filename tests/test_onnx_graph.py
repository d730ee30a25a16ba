"""A rewritten network gives the same bits."""

import numpy as np
import onnxruntime
import pytest

from normface.onnx_graph import _encoded, _varint, without_prelu

onnx = pytest.importorskip("onnx")


def run(model: bytes, x):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_the_same_bits():
    rng = np.random.default_rng(0)
    slope = rng.normal(size=(3, 1, 1)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("PRelu", ["x", "slope"], ["y"], name="first"),
        onnx.helper.make_node("MaxPool", ["y"], ["z"], kernel_shape=[2, 2]),
        onnx.helper.make_node("PRelu", ["z", "slope"], ["out"]),
    ]
    shape = ["N", 3, 8, 8]
    info = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s)
        for n, s in (("x", shape), ("out", ["N", 3, 7, 7]))
    ]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:], [onnx.numpy_helper.from_array(slope, "slope")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 12)], ir_version=7)
    rewritten = without_prelu(model.SerializeToString())
    onnx.checker.check_model(onnx.load_from_string(rewritten), full_check=True)
    assert b"PRelu" not in rewritten
    x = rng.normal(size=(5, 3, 8, 8)).astype(np.float32)
    x[0, 0, 0, :3] = 0, -0.0, 1e-40
    np.testing.assert_array_equal(run(rewritten, x), run(model.SerializeToString(), x))


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**60])
def test_numbers_go_there_and_back(number):
    coded = _encoded(number)
    assert _varint(b"\xff" + coded + b"\xff", 1) == (number, 1 + len(coded))


@pytest.mark.parametrize("broken", [b"\x3a\x7f\x01", b"\x80", b"\x3b", b"\x3c\x00"])
def test_other_bytes_are_refused(broken):
    with pytest.raises((ValueError, IndexError)):
        without_prelu(broken)
