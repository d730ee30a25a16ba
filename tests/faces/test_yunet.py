"""The second detector: its errors here; its landmarks, with the weights, on real photographs."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from normface.data import open_reader
from normface.errors import InputError, ModelError
from normface.faces import DETECTORS, central
from normface.faces.photographs import read_landmarks


def test_without_weights(tmp_path):
    with pytest.raises(
        ModelError, match=r"the weights of YuNet, got none; fetch it: normface fetch yunet, or give .* --weights FILE"
    ):
        DETECTORS.build("yunet")
    with pytest.raises(ModelError, match="nothing at"):
        DETECTORS.build("yunet", weights=tmp_path / "missing.onnx")


@pytest.mark.parametrize("data", [b"", b"not a network"])
def test_foreign_weights(tmp_path, data):
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="the weights of YuNet"):
        DETECTORS.build("yunet", weights=tmp_path / "net.onnx")


@pytest.mark.real
def test_another_network(data_dir):
    with pytest.raises(ModelError, match="the weights of YuNet"):
        DETECTORS.build("yunet", weights=data_dir.parent / "weights" / "mobilefacenet-foamliu.onnx")


@pytest.mark.real
def test_landmarks_are_where_mtcnns_are(data_dir):
    """In the same order, to a pixel in the same frame; from several threads."""
    known = read_landmarks(data_dir / "lfw" / "landmarks-mtcnn.txt")
    reader = open_reader(data_dir / "lfw" / "lfw-raw-fold1.zip").select(np.arange(0, 807, 8))
    yunet = DETECTORS.build("yunet", weights=data_dir.parent / "weights" / "yunet_n_dynamic.onnx")
    images = [reader.read(row) for row in range(len(reader))]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(yunet.detect, images))
    assert all(found)
    pairs = zip(found, images, reader.ids.tolist(), strict=True)
    offsets = np.array([central(faces, image.shape).landmarks - known[name] for faces, image, name in pairs])
    distance = np.hypot(*np.moveaxis(offsets, 2, 0)).mean(1)
    print(f"median {np.median(distance):.2f} px, mean shift {offsets.mean((0, 1)).round(2)}")
    assert np.median(distance) < 4
    assert np.abs(offsets.mean((0, 1))).max() < 1
    assert all(0 <= face.score <= 1 for faces in found for face in faces)
    assert yunet.detect(np.zeros((30, 200, 3), np.uint8)) == []
    with pytest.raises(InputError, match="uint8 RGB"):
        yunet.detect(np.zeros((30, 200), np.uint8))
