"""Sessions of ONNX Runtime: models with inputs nobody reads, accelerators that are absent or fail, copies and forks."""

import copy
import multiprocessing
import pickle

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tests.embed.networks import constant

from normface.errors import ConfigError, MissingDependency, ModelError
from normface.inference import CPU, PROVIDERS, Session
from normface.onnx_graph import count_inputs, without_spare_inputs

CUDA = PROVIDERS["cuda"].name


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(path, spare=0):
    """y = 2·x, with the constant 2 and others among the inputs, and `spare` inputs that no node reads."""
    branch = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["b"])], "b", [], [info("b", ["N", 3])])
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    inputs = [info("x", ["N", 3]), *(info(f"spare{i}", [i + 1]) for i in range(spare))]
    inputs += [info("two", [1])] * bool(spare)
    constants = [constant("two", np.float32([2])), constant("yes", np.bool_(True))]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", ["N", 3])], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Accelerated:
    """ONNX Runtime's session as one on a GPU, which fails from the second call on."""

    real = onnxruntime.InferenceSession
    fails_at, loads = 1, True

    def __init__(self, model, options, providers):
        self.name = providers[0]
        if self.name != CPU and not self.loads:
            raise RuntimeError("no such graphics card")
        self.inner, self.calls = Accelerated.real(model, options, [CPU]), 0

    def get_providers(self):
        return [self.name]

    def run(self, *given):
        self.calls += 1
        if self.name != CPU and self.calls > self.fails_at:
            raise RuntimeError("out of memory")
        return self.inner.run(*given)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Accelerated)
    monkeypatch.setattr(Accelerated, "loads", True)


def test_inputs_that_nobody_reads_are_removed(tmp_path):
    path = model(tmp_path / "m.onnx", spare=29)
    data = path.read_bytes()
    assert count_inputs(data) == 31
    left = onnx.load_from_string(without_spare_inputs(data))
    onnx.checker.check_model(left, full_check=True)
    assert [each.name for each in left.graph.input] == ["x"]  # read in the branches alone
    np.testing.assert_array_equal(Session(path).run({"x": X})[0], 2 * X)
    assert count_inputs(b"\xff not a model") == 0


def test_a_provider_that_fails_hands_over_to_the_processor(gpu, tmp_path, caplog):
    session = Session(model(tmp_path / "m.onnx"))
    assert session.device == "cuda"
    np.testing.assert_array_equal(session.run({"x": X})[0], 2 * X)
    assert caplog.messages == []
    np.testing.assert_array_equal(session.run({"x": X})[0], 2 * X)
    assert session.device == "cpu"
    assert [line for line in caplog.messages if "the processor goes on ('out of memory')" in line and CUDA in line]
    session.run({"x": X})
    assert len(caplog.messages) == 1
    with pytest.raises(Exception, match="Required inputs"):  # the caller's own mistake
        session.run({"z": X})


def test_a_provider_that_cannot_load(gpu, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(Accelerated, "loads", False)
    session = Session(model(tmp_path / "m.onnx"), "cuda")
    assert session.device == "cpu"
    assert "cannot be loaded by CUDAExecutionProvider: the processor runs it" in caplog.text


@pytest.mark.parametrize("device", [name for name in PROVIDERS if name != "cpu"])
def test_absent_providers_are_named_with_their_package(device, monkeypatch, tmp_path):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(MissingDependency) as caught:
        Session(model(tmp_path / "m.onnx"), device)
    provider = PROVIDERS[device]
    assert f"an ONNX Runtime with {provider.name} for --device {device}, got one for cpu" in str(caught.value)
    assert f"pip install {provider.package}" in str(caught.value)


def test_mistakes(tmp_path):
    with pytest.raises(ConfigError, match="a device among auto, cpu, cuda.*got 'gpu'"):
        Session(model(tmp_path / "m.onnx"), "gpu")
    with pytest.raises(ModelError, match=r"the model at .*none\.onnx, got 'No such file"):
        Session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"<html>")
    with pytest.raises(ModelError, match="a readable ONNX model"):
        Session(tmp_path / "bad.onnx")


def test_copies_and_pickles_open_the_file_again(tmp_path, caplog):
    path = model(tmp_path / "m.onnx")
    session = Session(path)
    for other in (copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        np.testing.assert_array_equal(other.run({"x": X})[0], 2 * X)
    kept = pickle.dumps(session)
    model(path, spare=1)
    with pytest.raises(ModelError, match="as it was when it was loaded, got other bytes"):
        pickle.loads(kept)
    assert Session(path.read_bytes()).run({"x": X})
    assert caplog.messages == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no forks here")
def test_a_forked_process_opens_its_own(tmp_path):
    session = Session(model(tmp_path / "m.onnx"))
    mine = id(session.session)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put((id(session.session) != mine, session.run({"x": X})[0])))
    child.start()
    own, found = queue.get()
    child.join()
    assert own
    np.testing.assert_array_equal(found, 2 * X)
