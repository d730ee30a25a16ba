"""bfloat16 by torch: the same network, as exact as it claims, and refused where it is not."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tests.embed.networks import constant, network, save

from normface import cpu
from normface.embed import Embedder, bf16, torch_graph
from normface.embed.precision import store
from normface.errors import ConfigError, ModelError
from normface.types import InputSpec


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return network(tmp_path_factory.mktemp("m") / "dense.onnx")


def test_close_to_float32_and_without_certificate(dense):
    exact, fast = Embedder.load(dense), Embedder.load(dense, precision="bf16")
    assert (exact.precision, fast.precision) == ("fp32", "bf16")
    assert exact.operating_point is not None
    assert fast.operating_point is None
    crops = np.random.default_rng(0).integers(0, 256, (40, 112, 96, 3), dtype=np.uint8)
    a, b = exact.embed(crops, aligned=True), fast.embed(crops, aligned=True)
    assert (a.vectors * b.vectors).sum(1).min() > 0.9995
    np.testing.assert_allclose(b.norms, a.norms, rtol=0.02)
    assert (a.vectors != b.vectors).any()


def test_operators_against_onnxs_own_reference(tmp_path):
    """Every operator, with its odd attributes."""
    rng = np.random.default_rng(0)

    def const(name, *shape):
        return constant(name, rng.normal(size=shape).astype("f4"))

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 0, 0, 1], strides=[2, 1], dilations=[1, 2]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "mean", "var"], ["n"], epsilon=0.1),
        helper.make_node("PRelu", ["n", "slope"], ["p"]),
        helper.make_node("Clip", ["p", "", "high"], ["k"]),
        helper.make_node("Sigmoid", ["k"], ["g"]), helper.make_node("Mul", ["g", "p"], ["m"]),
        helper.make_node("Relu", ["c"], ["r"]), helper.make_node("Add", ["m", "r"], ["a"]),
        helper.make_node("Sub", ["a", "slope"], ["u"]), helper.make_node("Div", ["u", "two"], ["d"]),
        helper.make_node("Resize", ["d", "", "scales"], ["z"], mode="linear"),
        helper.make_node("AveragePool", ["z"], ["t"], kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["t"], ["q"]), helper.make_node("Flatten", ["q"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "o"], ["h"], transB=1, alpha=0.5, beta=2.0),
        helper.make_node("Reshape", ["h", "shape"], ["i"]), helper.make_node("Identity", ["i"], ["j"]),
        helper.make_node("MatMul", ["j", "square"], ["y"]),
    ]  # fmt: skip
    constants = [
        const("w", 4, 3, 3, 3), const("b", 4), const("s", 4), const("mean", 4), const("slope", 4, 1, 1),
        const("v", 5, 4), const("o", 5), const("square", 5, 5), constant("var", np.float32([0.5, 1, 2, 3])),
        constant("shape", [0, -1]), constant("high", np.float32(1.5)), constant("two", np.float32(2)),
        constant("scales", np.float32([1, 1, 1.4, 2])),
    ]  # fmt: skip
    assert {node.op_type for node in nodes} == set(torch_graph.OPERATORS)
    proto = save(tmp_path / "all.onnx", nodes, constants, (3, 9, 8), 5)
    x = rng.normal(size=(6, 3, 9, 8)).astype(np.float32)
    expected = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bf16, "BF16", torch.float32)
        np.testing.assert_allclose(bf16.bf16_runner(tmp_path / "all.onnx")(x), expected, rtol=1e-4, atol=1e-5)
    rounded = bf16.bf16_runner(tmp_path / "all.onnx")(x)
    np.testing.assert_allclose(rounded, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_weights_stored_in_fewer_bits_are_computed(dense, tmp_path, precision):
    proto = onnx.load(str(dense))
    store(proto, precision)
    onnx.save(proto, str(tmp_path / "small.onnx"))
    source = proto.graph.input[0]
    shape = [each.dim_value for each in source.type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected = ReferenceEvaluator(proto).run(None, {source.name: x})[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bf16, "BF16", torch.float32)
        np.testing.assert_allclose(bf16.bf16_runner(tmp_path / "small.onnx")(x), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def processor(monkeypatch):
    """Say what the processor has; no variable restricts it."""

    def has(*abilities):
        monkeypatch.setattr(cpu, "_abilities", lambda: set(abilities))

    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    for name in cpu.RESTRICTIONS:
        monkeypatch.delenv(name, raising=False)
    has("avx2", "avx512f", "avx512_bf16")
    return has


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("", True), ("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("ALL", True)],
)
def test_a_limit_on_onednn_counts(dense, processor, monkeypatch, limit, expected):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert bf16.pays(dense) == expected


def test_auto_takes_it_where_it_pays(dense, tmp_path, processor):
    assert Embedder.load(dense, precision="auto").precision == "bf16"
    depthwise = network(tmp_path / "d.onnx", groups=18)
    assert Embedder.load(depthwise, precision="auto").precision == "fp32"
    processor("avx2", "avx512f")
    assert Embedder.load(dense, precision="auto").precision == "fp32"


@pytest.mark.usefixtures("processor")
def test_too_inexact_is_refused(dense, monkeypatch):
    monkeypatch.setattr(bf16, "COSINE", 1.1)
    with pytest.raises(ModelError, match=r"use --precision fp32"):
        Embedder.load(dense, precision="bf16")
    kept = Embedder.load(dense, precision="auto")
    assert kept.precision == "fp32"
    assert kept.operating_point is not None
    with pytest.raises(ConfigError, match="precision among"):
        Embedder.load(dense, precision="int8")


def test_another_kind_of_resizing_is_refused(tmp_path):
    """ONNX's default is the nearest pixel."""
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["z"]), helper.make_node("Flatten", ["z"], ["y"])]
    save(tmp_path / "m.onnx", nodes, [constant("scales", np.float32([1, 1, 2, 2]))], (3, 4, 6), 288)
    with pytest.raises(ModelError, match="Resize with another mode"):
        torch_graph.TorchGraph(tmp_path / "m.onnx")


def test_unknown_operators_are_named(tmp_path):
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    save(tmp_path / "m.onnx", nodes, [constant("axes", [2, 3])], (3, 4, 6), 3)
    (tmp_path / "m.spec.json").write_text(InputSpec(4, 6).to_json())
    with pytest.raises(ModelError, match=r"got ReduceSum; use --precision fp32"):
        Embedder.load(tmp_path / "m.onnx", precision="bf16")
    assert Embedder.load(tmp_path / "m.onnx", precision="auto").precision == "fp32"
