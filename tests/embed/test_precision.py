"""Fewer bytes a weight: exact where it can be, bounded where it cannot, and worked out when the file is loaded."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from normface.embed.precision import quantised, store
from normface.embed.weights import fingerprint

RNG = np.random.default_rng(0)


def codes(*shape, axis):
    """Weights that int8 holds exactly: whole numbers to 127, the largest in each output, times a power of two."""
    whole = RNG.integers(-127, 128, shape).astype(np.float32)
    whole = np.moveaxis(whole, axis, 0)
    whole.reshape(len(whole), -1)[:, 0] = 127
    scales = 2.0 ** RNG.integers(-9, 9, len(whole)).reshape(-1, *[1] * (whole.ndim - 1))
    return np.ascontiguousarray(np.moveaxis(whole * scales, 0, axis), np.float32)


def graph(weights, rows):
    """Images [N, 3, 5, 5] through a convolution, two kinds of Gemm and a MatMul; outputs [N, 4]."""
    nodes = [
        helper.make_node("Conv", ["x", "conv", "bias"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "rows"], ["c"], transB=1),
        helper.make_node("Gemm", ["c", "columns"], ["d"]),
        helper.make_node("MatMul", ["d", "matrix"], ["y"]),
    ]
    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in
            (("x", ["N", 3, 5, 5]), ("y", ["N", rows]))]  # fmt: skip
    made = helper.make_graph(nodes, "g", *ends, held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def model():
    return graph(
        {
            "conv": codes(6, 3, 3, 3, axis=0), "bias": RNG.normal(size=6).astype(np.float32),
            "rows": codes(7, 54, axis=0), "columns": codes(7, 5, axis=1), "matrix": codes(5, 4, axis=1),
        }, 4,
    )  # fmt: skip


def run(proto, pixels):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert (session.get_inputs()[0].type, session.get_outputs()[0].type) == ("tensor(float)", "tensor(float)")
    return session.run(None, {"x": pixels})[0]


def test_an_int8_weight_errs_by_half_a_step_at_most_and_zeros_stay():
    weights = RNG.normal(size=(5, 40)).astype(np.float32) * np.array([[1e-6], [1], [1e6], [0], [3]], np.float32)
    found, scale = quantised(weights, 0)
    assert found.dtype == np.int8
    assert scale.shape == (5, 1)
    assert (np.abs(found).max(1) == [127, 127, 127, 0, 127]).all()
    np.testing.assert_allclose(np.abs(weights).max(1)[[0, 1, 2, 4]] / 127, scale[[0, 1, 2, 4], 0], rtol=1e-6)
    assert (np.abs(found * scale - weights) <= scale / 2 * (1 + 1e-5)).all()


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_what_fits_is_kept_exactly(model, precision):
    pixels = RNG.normal(size=(3, 3, 5, 5)).astype(np.float32)
    before, size = run(model, pixels), len(model.SerializeToString())
    store(model, precision)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model, pixels), before)
    kinds = {held.name: held.data_type for held in model.graph.initializer}
    stored = {"int8": TensorProto.INT8, "fp16": TensorProto.FLOAT16}[precision]
    assert {name for name, kind in kinds.items() if kind == stored} == {
        f"{name}.{precision}" for name in ("conv", "rows", "columns", "matrix")
    }
    assert kinds["bias"] == TensorProto.FLOAT
    assert len(model.SerializeToString()) < size


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_runtime_works_the_weights_out_once(model, precision, tmp_path):
    store(model, precision)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}.isdisjoint({"Cast", "Mul"})


def test_the_hash_is_of_the_weights_alone(model):
    first = fingerprint(model.SerializeToString())
    model.metadata_props.add(key="a", value="b")
    model.graph.initializer.insert(0, model.graph.initializer.pop())
    assert fingerprint(model.SerializeToString()) == first
    held = model.graph.initializer[0]
    values = numpy_helper.to_array(held).copy()
    values.ravel()[0] += 1
    held.CopyFrom(numpy_helper.from_array(values, held.name))
    assert fingerprint(model.SerializeToString()) != first
