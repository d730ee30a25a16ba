"""A small model without weights, drawn photographs, and the service around them."""

import hashlib
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import simplejpeg
from onnx import TensorProto, helper
from starlette.testclient import TestClient

from normface.data.synthetic import photograph
from normface.serve import Settings, create_app, server
from normface.types import Calibration, Estimate, InputSpec, OperatingPoint

POINT = OperatingPoint(
    0.9, 0.01, Estimate(0.008, 0.002, 0.02, 500), Estimate(0.95, 0.93, 0.97, 500), "drawn faces", "", "data",
    Calibration(40.0, -36.0, (0.5, 0.9, 0.99), (-6.0, 0.0, 5.0), 0.2, 0.1),
    Estimate(0.006, 0.001, 0.02, 40), Estimate(0.9, 0.8, 0.95, 30), 0.5,
)  # fmt: skip


def write_model(path, point=POINT):
    """An embedding that needs no training: the crop's means over 14×14 squares."""
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[14, 14], strides=[14, 14]),
            helper.make_node("Flatten", ["pooled"], ["embeddings"]),
        ],
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 192])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    path.with_suffix(".spec.json").write_text(InputSpec(112, 112, template="112x112").to_json())
    if point:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_suffix(".operating_point.json").write_text(replace(point, model_sha256=sha256).to_json())
    return path


def jpeg(image):
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), 92)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "squares.onnx")


@pytest.fixture(scope="session")
def faces():
    """[person][picture]: photographs as JPEGs."""
    return [[jpeg(photograph(0, person, picture, strength=0.4)) for picture in range(2)] for person in range(3)]


@pytest.fixture(scope="session")
def service(model, tmp_path_factory):
    """The service with a gallery, in this process, without keys."""
    gallery = tmp_path_factory.mktemp("gallery") / "people.db"
    app = create_app(Settings(model=model, gallery=f"file:{gallery}", rate=10_000))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def client(service):
    """The same, with nobody enrolled."""
    for person in service.get("/v1/people").json()["people"]:
        service.delete(f"/v1/people/{person['id']}").raise_for_status()
    return service


@pytest.fixture
def listening(model):
    """Start the service on a free port, in a thread; call it with Settings' fields. Ends at the test's end."""
    started = []

    def start(**settings):
        running, listener, url = server.prepare(Settings(**{"model": model, "port": 0, **settings}))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        started.append((running, thread))
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return url

    yield start
    for running, _ in started:
        running.should_exit = True
    for _, thread in started:
        thread.join(600)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def chromium():
    """Where Chromium is."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    return found
