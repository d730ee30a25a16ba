import numpy as np
import pytest

from normface.errors import ConfigError, FaceError, InputError
from normface.faces import TEMPLATES, align, retarget, similarity

RNG = np.random.default_rng(0)


def known(angle, scale, shift):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def apply(transform, points):
    return points @ transform[:, :2].T + transform[:, 2]


@pytest.mark.parametrize("angle", [0, 0.3, 3, -2])
@pytest.mark.parametrize("scale", [0.01, 1, 40])
def test_similarity_recovers_a_known_transform(angle, scale):
    points, transform = RNG.normal(size=(5, 2)) * 50 + 100, known(angle, scale, (-30, 70))
    np.testing.assert_allclose(similarity(points, apply(transform, points)), transform, rtol=1e-9, atol=1e-9)


def test_similarity_is_the_least_squares_one():
    source, target = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 2))
    # x' = a x - b y + tx, y' = b x + a y + ty, solved as a linear system
    rows = np.zeros((10, 4))
    rows[0::2] = np.c_[source[:, 0], -source[:, 1], np.ones(5), np.zeros(5)]
    rows[1::2] = np.c_[source[:, 1], source[:, 0], np.zeros(5), np.ones(5)]
    a, b, tx, ty = np.linalg.lstsq(rows, target.ravel(), rcond=None)[0]
    np.testing.assert_allclose(similarity(source, target), [[a, -b, tx], [b, a, ty]], atol=1e-12)


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_degenerate_landmarks(points):
    with pytest.raises(FaceError, match="use another photograph"):
        similarity(points, TEMPLATES["112x96"].points)
    with pytest.raises(FaceError, match="use another photograph"):
        similarity(TEMPLATES["112x96"].points, points)
    with pytest.raises(FaceError, match="use another photograph"):
        align(np.zeros((50, 50, 3), np.uint8), points)


def test_points_of_other_shapes_are_refused():
    points = TEMPLATES["112x96"].points
    for other in (points[:4], points.ravel(), np.c_[points, points]):
        with pytest.raises(InputError, match="points"):
            similarity(other, points)


@pytest.mark.parametrize("image", [np.zeros((50, 50, 3)), np.zeros((50, 50), np.uint8), np.zeros((0, 0, 3), np.uint8)])
def test_align_refuses_other_arrays(image):
    with pytest.raises(InputError, match="uint8 RGB"):
        align(image, TEMPLATES["112x96"].points)


def test_templates_are_the_papers():
    narrow, wide = TEMPLATES["112x96"], TEMPLATES["112x112"]
    assert narrow.points[0].tolist() == [30.2946, 51.6963]
    np.testing.assert_allclose(wide.points - narrow.points, [[8, 0]] * 5)
    assert (narrow.height, narrow.width, wide.height, wide.width) == (112, 96, 112, 112)


@pytest.mark.slow
@pytest.mark.parametrize("template", ["112x96", "112x112"])
@pytest.mark.parametrize("scale", [0.5, 1, 3, 8])
def test_landmarks_land_on_the_template(template, scale):
    """Blobs drawn at the landmarks are found where the template says, turned and shrunk as they may be."""
    goal = TEMPLATES[template]
    landmarks = apply(known(0.4, scale, (250, 60)), goal.points)
    y, x = np.mgrid[0:1200, 0:1300]
    for k, point in enumerate(landmarks):
        blob = 255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * (2 * max(scale, 1)) ** 2))
        crop = align(np.repeat(blob.astype(np.uint8)[..., None], 3, 2), landmarks, template)[..., 0].astype(float)
        assert crop.shape == (goal.height, goal.width)
        rows, columns = np.mgrid[0 : goal.height, 0 : goal.width]
        center = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
        assert np.abs(center - goal.points[k]).max() < 0.3


def test_the_fit_counts_errors_in_the_photograph():
    """MATLAB's cp2tform: the template is laid on the landmarks by least squares; its inverse takes the crop."""
    goal, landmarks = TEMPLATES["112x112"], apply(known(0.2, 2, (30, 40)), TEMPLATES["112x112"].points)
    landmarks = landmarks + RNG.normal(size=(5, 2)) * 6
    rows = np.zeros((10, 4))
    x, y = goal.points.T
    rows[0::2], rows[1::2] = np.c_[x, -y, np.ones(5), np.zeros(5)], np.c_[y, x, np.zeros(5), np.ones(5)]
    a, b, tx, ty = np.linalg.lstsq(rows, landmarks.ravel(), rcond=None)[0]
    np.testing.assert_allclose(goal.fit(landmarks), [[a, -b, tx], [b, a, ty]], rtol=1e-9)


def test_shrinking_does_not_alias():
    board = (np.indices((1000, 1000)).sum(0) % 2 * 255).astype(np.uint8)
    landmarks = apply(known(0, 7.3, (50, 50)), TEMPLATES["112x112"].points)
    crop = align(np.repeat(board[..., None], 3, 2), landmarks)[10:-10, 10:-10]
    assert np.abs(crop.astype(float) - 127.5).max() < 3


def test_outside_is_black():
    white = np.full((112, 112, 3), 255, np.uint8)
    shifted = TEMPLATES["112x112"].points - (40, 0)
    crop = align(white, shifted)
    assert (crop[:, :38] == 0).all()
    assert (crop[:, 42:] == 255).all()


def test_retarget_cuts_and_pads():
    crops = RNG.integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    narrow = retarget(crops, "112x96")
    np.testing.assert_array_equal(narrow, crops[:, :, 8:104])
    back = retarget(narrow, "112x112")
    np.testing.assert_array_equal(back[:, :, 8:104], narrow)
    np.testing.assert_array_equal(back[:, :, :8], np.repeat(narrow[:, :, :1], 8, 2))
    assert retarget(crops, "112x112") is crops
    large = RNG.integers(0, 256, (2, 144, 144, 3), dtype=np.uint8)
    np.testing.assert_array_equal(retarget(large, "128x128"), large[:, 8:136, 8:136])  # Light CNN's center crop
    np.testing.assert_array_equal(retarget(large[:, 8:136, 8:136], "144x144")[:, 8:136, 8:136], large[:, 8:136, 8:136])


def test_retarget_refuses_photographs():
    with pytest.raises(InputError, match=r"112×96 or 112×112, got 250×250; align"):
        retarget(np.zeros((1, 250, 250, 3), np.uint8), "112x96")
    with pytest.raises(InputError, match=r"144×144 or 128×128, got 112×112"):  # another rule, not a shift
        retarget(np.zeros((1, 112, 112, 3), np.uint8), "128x128")
    with pytest.raises(ConfigError, match="a template among"):
        retarget(np.zeros((1, 112, 112, 3), np.uint8), "96x96")
