"""Small networks written node by node: there at once, unlike an export; and crops for them."""

import hashlib

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from normface.types import Estimate, InputSpec, OperatingPoint


def constant(name, value):
    return onnx.numpy_helper.from_array(np.asarray(value), name)


def save(path, nodes, constants, shape, dim):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", dim])], constants,
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(proto, path)
    return proto


def network(path, groups=1):
    """Three convolutions and a projection, with specification and certificate."""
    rng = np.random.default_rng(0)
    nodes, constants, before, inputs = [], [], "x", 3
    for i, outputs in enumerate((9, 18, 18)):
        group = groups if i == 2 else 1
        weights = rng.normal(size=(outputs, inputs // group, 3, 3)) / np.sqrt(9 * inputs / group)
        constants += [constant(f"w{i}", weights.astype("f4")), constant(f"b{i}", rng.normal(size=outputs).astype("f4"))]
        nodes += [
            helper.make_node("Conv", [before, f"w{i}", f"b{i}"], [f"c{i}"], strides=[2, 2], pads=[1] * 4, group=group),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        before, inputs = f"r{i}", outputs
    nodes += [helper.make_node("Flatten", [before], ["f"]), helper.make_node("Gemm", ["f", "v"], ["y"])]
    constants.append(constant("v", rng.normal(size=(18 * 14 * 12, 16)).astype("f4")))
    save(path, nodes, constants, (3, 112, 96), 16)
    path.with_suffix(".spec.json").write_text(InputSpec(112, 96).to_json())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    point = OperatingPoint(0.3, None, Estimate(0.01, 0, 0.1, 9), Estimate(0.9, 0.8, 1, 9), "lfw", sha256, "d")
    path.with_suffix(".operating_point.json").write_text(point.to_json())
    return path


def write_crops(folder, people, bright=110):
    """Crops of noise, one a person, of this mean light."""
    rng = np.random.default_rng(bright)
    for person in range(people):
        path = folder / f"p{person}" / "0.png"
        path.parent.mkdir(parents=True)
        coarse = rng.integers(0, 256, (14, 12, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((96, 112), Image.Resampling.BICUBIC), np.float64)
        Image.fromarray(np.clip(pixels - pixels.mean() + bright, 0, 255).astype(np.uint8)).save(path)
    return folder


def vector(embedder, picture):
    """Of the one face in a picture; here because processes import this file in a moment."""
    return embedder.faces(picture)[0].vector
