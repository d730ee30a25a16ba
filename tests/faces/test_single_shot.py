"""SCRFD and RetinaFace decode what networks with known answers give.

Each network here scores an anchor by the redness of the pixel under it, and gives all anchors the same box and
landmarks relative to themselves. So a red spot on black is a face whose box follows by hand from the papers' formulas.
"""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tests.embed.networks import constant

from normface.data import catalogue
from normface.errors import ConfigError, InputError, ModelError
from normface.faces import DETECTORS, open_detector

SIDES = np.float32([1, 2, 3, 4])  # SCRFD: of left, top, right, bottom, in strides
OFFSETS = np.float32([-1, 0, 1, 0, 0, 0.5, -0.5, 1, 0.5, 1])  # of the landmarks, x and y in turn
SHIFTS = np.float32([1, -2, math.log(2) / 0.2, math.log(0.5) / 0.2])  # RetinaFace: twice as wide, half as high


def redness(kind, stride):
    """Nodes for [places, 1] between 0 and 1: the red of the pixel at each place of a level."""
    channel, scale, shift = (0, 128 / 255, 127.5 / 255) if kind == "scrfd" else (2, 1 / 255, 123 / 255)
    n = f"{stride}"
    first = 0 if kind == "scrfd" else stride // 2  # of RetinaFace's anchors each lies in the middle of its place
    constants = [
        constant(f"start{n}", np.int64([channel, first, first])),
        constant(f"end{n}", np.int64([channel + 1, 9999, 9999])), constant(f"axes{n}", np.int64([1, 2, 3])),
        constant(f"steps{n}", np.int64([1, stride, stride])),
        constant(f"scale{n}", np.float32(scale)), constant(f"shift{n}", np.float32(shift)),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["x", f"start{n}", f"end{n}", f"axes{n}", f"steps{n}"], [f"p{n}"]),
        helper.make_node("Mul", [f"p{n}", f"scale{n}"], [f"m{n}"]),
        helper.make_node("Add", [f"m{n}", f"shift{n}"], [f"a{n}"]),
        helper.make_node("Reshape", [f"a{n}", "column"], [f"red{n}"]),
        helper.make_node("Sub", [f"red{n}", f"red{n}"], [f"none{n}"]),
        # Of the two anchors at a place, the second has no face.
        helper.make_node("Concat", [f"red{n}", f"none{n}"], [f"both{n}"], axis=1),
        helper.make_node("Reshape", [f"both{n}", "column"], [f"score{n}"]),
    ]
    return nodes, constants


def repeated(score, values, name):
    """Nodes for [N, C]: the same values for each of N scores."""
    return [
        helper.make_node("Sub", [score, score], [f"{name}0"]),
        helper.make_node("Add", [f"{name}0", values], [name]),
    ]


def network(path, kind, size=("H", "W")):
    nodes, constants = [], [constant("column", np.int64([-1, 1])), constant("ten", OFFSETS[None])]
    constants += [constant("four", (SIDES if kind == "scrfd" else SHIFTS)[None]), constant("one", np.float32(1))]
    for stride in (8, 16, 32):
        more, held = redness(kind, stride)
        nodes, constants = nodes + more, constants + held
    if kind == "scrfd":
        names = [f"{part}{stride}" for part in ("score", "box", "kps") for stride in (8, 16, 32)]
        for stride in (8, 16, 32):
            nodes += repeated(f"score{stride}", "four", f"box{stride}") + repeated(
                f"score{stride}", "ten", f"kps{stride}"
            )
    else:
        names = ["box", "class", "kps"]
        nodes += [
            helper.make_node("Concat", [f"score{stride}" for stride in (8, 16, 32)], ["face"], axis=0),
            helper.make_node("Sub", ["one", "face"], ["other"]),
            helper.make_node("Concat", ["other", "face"], ["pair"], axis=1),
            helper.make_node("Unsqueeze", ["pair", "zero"], ["class"]),
            *repeated("face", "four", "box1"), *repeated("face", "ten", "kps1"),
            helper.make_node("Unsqueeze", ["box1", "zero"], ["box"]),
            helper.make_node("Unsqueeze", ["kps1", "zero"], ["kps"]),
        ]  # fmt: skip
        constants.append(constant("zero", np.int64([0])))
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "g", [source], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def expected(kind, x, y, stride):
    """Box and landmarks by the formulas, for the first anchor of the place at (x, y)."""
    if kind == "scrfd":
        at, unit = np.array([x, y]), stride
        box = [x - stride, y - 2 * stride, x + 3 * stride, y + 4 * stride]
    else:
        side = {8: 16, 16: 64, 32: 256}[stride]
        at, unit = np.array([x, y]), 0.1 * side
        center = at + 0.1 * side * np.array([1, -2])
        box = [center[0] - side, center[1] - side / 4, center[0] + side, center[1] + side / 4]
    return np.array(box), at + unit * OFFSETS.reshape(5, 2)


KINDS = pytest.mark.parametrize("kind", ["scrfd", "retinaface"])


@pytest.mark.parametrize(
    ("kind", "x", "y", "strides"),
    [
        ("scrfd", 40, 24, [8]), ("scrfd", 48, 16, [8, 16]), ("scrfd", 64, 32, [8, 16, 32]),
        ("retinaface", 44, 28, [8]), ("retinaface", 40, 24, [16]), ("retinaface", 48, 48, [32]),
    ],
)  # fmt: skip
def test_one_red_pixel_is_one_face_a_level(kind, x, y, strides, tmp_path):
    """On each level that has an anchor there: SCRFD's lie at multiples of the stride, RetinaFace's between them."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[y, x] = 230, 0, 0
    detector = DETECTORS.build(kind, network(tmp_path / "n.onnx", kind, (96, 128)))
    faces = sorted(detector.detect(image), key=lambda face: face.box[2] - face.box[0])
    assert len(faces) == len(strides)
    for face, stride in zip(faces, strides, strict=True):
        box, landmarks = expected(kind, x, y, stride)
        np.testing.assert_allclose(face.box, box, atol=1e-3)
        np.testing.assert_allclose(face.landmarks, landmarks, atol=1e-3)
        assert face.score == pytest.approx(230 / 255, abs=1e-5)
    assert detector.device == "cpu"


@KINDS
def test_photographs_are_fitted_into_the_input(kind, tmp_path):
    """A photograph twice as large as the input, of another shape: everything doubles."""
    detector = DETECTORS.build(kind, network(tmp_path / "n.onnx", kind), size=96)
    image = np.zeros((192, 120, 3), np.uint8)
    middle = 4 if kind == "retinaface" else 0
    x, y = 24 + middle, 40 + middle
    image[2 * y - 2 : 2 * y + 4, 2 * x - 2 : 2 * x + 4] = 255, 0, 0
    box, landmarks = expected(kind, x, y, 8)
    faces = [face for face in detector.detect(image) if np.abs(np.array(face.box) - 2 * box).max() < 1e-3]
    assert len(faces) == 1
    np.testing.assert_allclose(faces[0].landmarks, 2 * landmarks, atol=1e-3)
    assert detector.detect_many([image, np.zeros((1, 1, 3), np.uint8), np.zeros((1, 5000, 3), np.uint8)])[1:] == [
        [],
        [],
    ]
    blue = image[..., ::-1].copy()
    assert detector.detect(blue) == []


@KINDS
def test_of_overlapping_faces_the_better_one_is_kept(kind, tmp_path):
    detector = DETECTORS.build(kind, network(tmp_path / "n.onnx", kind, (128, 128)))
    middle = 4 if kind == "retinaface" else 0
    image = np.zeros((128, 128, 3), np.uint8)
    image[40 + middle, 40 + middle] = 200, 0, 0
    image[40 + middle, 48 + middle] = 255, 0, 0
    shared, area = (24 * 48, 32 * 48) if kind == "scrfd" else (24 * 8, 32 * 8)
    assert shared / (2 * area - shared) > 0.4
    assert [face.score for face in detector.detect(image)] == [pytest.approx(1)]


@KINDS
def test_mistakes(kind, tmp_path):
    fetch = rf"normface fetch {'scrfd-10g' if kind == 'scrfd' else 'retinaface-mv2'}, or give --weights FILE"
    with pytest.raises(ModelError, match=f"the weights of {kind}, got none; fetch one: {fetch}"):
        DETECTORS.build(kind)
    with pytest.raises(ModelError, match="nothing at"):
        DETECTORS.build(kind, tmp_path / "none.onnx")
    other = network(tmp_path / "other.onnx", "retinaface" if kind == "scrfd" else "scrfd")
    with pytest.raises(ModelError, match=f"the weights of {kind}, got .*other.onnx"):
        DETECTORS.build(kind, other)
    good = network(tmp_path / "good.onnx", kind)
    for options in ({"size": 100}, {"threshold": 1}):
        with pytest.raises(InputError, match="size a multiple of 32"):
            DETECTORS.build(kind, good, **options)
    with pytest.raises(InputError, match="uint8 RGB"):
        DETECTORS.build(kind, good).detect(np.zeros((30, 200), np.uint8))


def test_detectors_by_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv(catalogue.FOLDER, str(tmp_path))
    with pytest.raises(
        ModelError, match="the file of scrfd-10g, got nothing at .*; fetch it: normface fetch scrfd-10g"
    ):
        open_detector("scrfd-10g")
    with pytest.raises(ModelError, match="normface fetch yunet"):
        open_detector("yunet")
    with pytest.raises(
        ConfigError, match=r"a detector among mtcnn, retinaface, scrfd, yunet, yunet-2023mar, .*'scrfd-10g'\?"
    ):
        open_detector("scrfd-10")
    made = network(tmp_path / "scrfd-10g.onnx", "scrfd", (64, 64))
    listed = catalogue.catalogue()["scrfd-10g"]
    known = {"scrfd-10g": catalogue.Listed(**{**vars(listed), "sha256": catalogue.sha256_of(made)})}
    monkeypatch.setattr("normface.faces.catalogue", lambda: known)
    assert type(open_detector("scrfd-10g")).__name__ == "scrfd"
    assert type(open_detector("scrfd", weights=made)).__name__ == "scrfd"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ImportError, match="CUDAExecutionProvider"):
        open_detector("scrfd-10g", device="cuda")
    with pytest.raises(ImportError, match="CUDAExecutionProvider"):
        open_detector("mtcnn", device="cuda")
    with pytest.raises(ConfigError, match="--device cpu for YuNet"):
        open_detector("yunet", weights=Path("any.onnx"), device="cuda")
