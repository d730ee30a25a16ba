"""Pose against rotations that SciPy makes, sharpness against a plain Laplacian."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from normface.errors import FaceError
from normface.faces import TEMPLATES, eye_distance, pose, shape, sharpness, signals
from normface.faces.quality import MEAN_FACE
from normface.types import Face

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("yaw", [-60, 0, 25])
@pytest.mark.parametrize("pitch", [-30, 0, 20])
@pytest.mark.parametrize("roll", [-100, 0, 15])
def test_pose_of_a_turned_mean_face(yaw, pitch, roll):
    turned = Rotation.from_euler("ZYX", [roll, -yaw, -pitch], degrees=True).apply(MEAN_FACE)
    found = pose(turned[:, :2] * 7.3 + (40, 90))
    np.testing.assert_allclose(found, (yaw, pitch, roll), atol=1e-6)


def test_signs_are_as_told():
    """A nose further right, further up, and a right eye further down."""
    for shift, name in (((4, 0), "yaw"), ((0, -4), "pitch")):
        points = MEAN_FACE[:, :2] * 8
        points[2] += shift
        assert getattr(pose(points), name) > 3
    assert pose(TEMPLATES["112x112"].points @ np.array([[0.8, 0.6], [-0.6, 0.8]])).roll == pytest.approx(36.9, abs=1)


def test_pose_of_a_line():
    with pytest.raises(FaceError, match="one line"):
        pose(np.c_[np.arange(5.0), 2 * np.arange(5.0)])


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (50, -20, 15), (-30, 25, -100)])
def test_shape_does_not_depend_on_how_a_head_is_turned(yaw, pitch, roll):
    turned = Rotation.from_euler("ZYX", [roll, -yaw, -pitch], degrees=True).apply(MEAN_FACE)[:, :2] * 7.3
    assert shape(turned) == pytest.approx(1)
    assert shape(turned * (0.7, 1)) == pytest.approx(0.7)
    assert np.isnan(shape(np.c_[np.arange(5.0), np.zeros(5)]))


def test_signals():
    crop = RNG.integers(0, 200, (112, 96, 3), dtype=np.uint8)
    found = signals(crop)
    assert found["sharpness"] == pytest.approx(sharpness(crop), rel=1e-4)
    gray = crop @ [0.299, 0.587, 0.114]
    assert found["light"] == pytest.approx(gray.mean(), abs=0.1)
    assert found["contrast"] == pytest.approx(gray.std(), abs=0.1)
    assert found.keys() == {"sharpness", "light", "contrast", "detail"}
    template = TEMPLATES["112x96"]
    open_ = signals(crop, template=template)
    assert min(open_["eyes"], open_["mouth"]) > 20
    left = crop.copy()
    left[40:62, :48] = 7  # over one eye
    assert signals(left, template=template)["eyes"] == 0
    assert signals(left, template=template)["mouth"] == open_["mouth"]
    face = signals(crop, Face((0, 0, 9, 9), MEAN_FACE[:, :2] * 10, 0.9))
    assert face["eye_distance"] == pytest.approx(63.022)
    assert face["shape"] == pytest.approx(1)
    assert face["detection"] == 0.9
    flat = signals(np.full((112, 96, 3), 7, np.uint8))
    assert (flat["sharpness"], flat["contrast"], flat["detail"]) == (0, 0, 0)


def test_eye_distance():
    assert eye_distance(np.array([(1, 2), (4, 6), (0, 0), (0, 0), (0, 0)])) == 5


def test_sharpness_is_the_laplacians_variance():
    gray = RNG.integers(0, 256, (40, 30), dtype=np.uint8)
    inner = gray.astype(float)
    laplacian = -4 * inner[1:-1, 1:-1] + inner[:-2, 1:-1] + inner[2:, 1:-1] + inner[1:-1, :-2] + inner[1:-1, 2:]
    found = sharpness(np.repeat(gray[..., None], 3, 2))
    assert found == pytest.approx(laplacian.var(), rel=0.1)  # the border, taken as reflected, makes the rest
    smooth = np.repeat(np.linspace(0, 255, 40, dtype=np.uint8)[:, None], 30, 1)
    assert sharpness(np.repeat(smooth[..., None], 3, 2)) < 10
