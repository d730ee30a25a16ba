"""The one path from photographs to faces: which face, which way up, at which size."""

import cv2
import numpy as np
import pytest
import simplejpeg

from normface.data.synthetic import photograph
from normface.errors import DataError, FaceError
from normface.faces import DETECTORS, align, alignment, choose, photographs, shape, signals
from normface.faces.draw import USED, draw_faces, side_by_side
from normface.faces.finding import find_faces, find_portraits
from normface.faces.photographs import Photograph
from normface.faces.template import TEMPLATES
from normface.types import Face

GOAL = TEMPLATES["112x112"]
POINTS = np.array([(40.0, 50), (70, 50), (55, 70), (42, 90), (68, 90)])


@pytest.fixture(scope="module")
def mtcnn():
    return DETECTORS.build("mtcnn")


@pytest.fixture(scope="module")
def portrait():
    return photograph(0, 0, 0, strength=0.3)


def opened(image, name="it"):
    return Photograph.open(image, name)


class Scripted:
    """A detector that finds the given scores in each view of a photograph, in the order in which it is asked."""

    plausible, sure = 0.95, 0.999

    def __init__(self, *views):
        self.views, self.seen = list(views), []

    def detect_many(self, images):
        self.seen += images
        return [[Face((1, 2, 11, 22), POINTS, score) for score in self.views.pop(0)] for _ in images]


def face(x, y, r, score):
    return Face((x - r, y - r, x + r, y + r), POINTS, score)


class TestChoice:
    """A hand at .86 in the middle of the picture, a face at 1.000 beside it, a larger shadow at .7."""

    hand, true, large = face(50, 50, 5, 0.86), face(70, 60, 10, 1.0), face(20, 80, 20, 0.7)

    def test_the_central_one_among_the_plausible(self):
        faces = [self.true, self.hand, self.large]
        assert choose(faces, (100, 100), "center", 0.95) == [self.true]
        assert choose(faces, (100, 100), "center") == [self.hand]
        assert choose(faces, (100, 100), "largest", 0.95) == choose(faces, (100, 100), "best") == [self.true]
        assert choose(faces, (100, 100), "all", 0.95) == faces

    def test_among_all_where_none_is_plausible(self):
        assert choose([self.hand, self.large], (100, 100), "center", 0.95) == [self.hand]
        assert choose([self.hand, self.large], (100, 100), "largest", 0.95) == [self.large]

    def test_what_is_said_of_the_others(self):
        (found,) = find_portraits(Scripted([1.0, 0.97, 0.86]), [opened(np.zeros((100, 100, 3), np.uint8))], GOAL)
        assert (len(found), found[0].found, found[0].likely) == (1, 3, 2)


class TestTurns:
    image = np.zeros((60, 80, 3), np.uint8)

    def turn(self, *scores):
        """Of the whole, of a smaller one in four ways up, and of what is looked at then."""
        scripted = Scripted(*([score] if score else [] for score in scores))
        (found,) = find_faces(scripted, [opened(self.image)])
        assert not scripted.views
        return found[0].turn if found else None, [view.shape[:2] for view in scripted.seen]

    def test_the_other_ways_up_are_tried_below_a_sure_score_only(self):
        whole, small, lying = (60, 80), (24, 32), (32, 24)
        assert self.turn(0.999) == (0, [whole])
        assert self.turn(0.9989, 0.9995) == (0, [whole, small])
        assert self.turn(0.9989, 0.99, 0.9, 0.0, 0.9) == (0, [whole, small, lying, small, lying])

    def test_the_best_score_wins_if_it_is_plausible_and_better_than_upright(self):
        assert self.turn(0.8, 0.0, 0.96, 0.999, 0.9, 1.0)[0] == 180
        assert self.turn(0.97, 0.0, 0.96, 0.0, 0.0, 0.96)[0] == 0
        assert self.turn(0.0, 0.0, 0.96, 0.0, 0.0, 0.94)[0] is None

    def test_faces_too_small_for_the_smaller_image(self):
        assert self.turn(0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.99, 0.99)[0] == 90
        assert self.turn(0.5, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0)[0] == 0

    def test_a_detector_that_states_no_scores_is_asked_once(self):
        plain = Scripted([0.5])
        plain.sure = 0.0
        assert len(find_faces(plain, [opened(self.image)])[0]) == 1
        assert len(plain.seen) == 1

    @pytest.mark.parametrize("quarters", [1, 2, 3])
    def test_coordinates_are_those_of_the_photograph_as_it_is(self, quarters, portrait):
        """A point drawn at a place of the turned view lies there in the photograph."""
        image = np.zeros((101, 123, 3), np.uint8)
        scores = [[0.5], [], [], [], [], [0.99]]
        scores[1 + quarters] = [0.99]
        (found,) = find_faces(Scripted(*scores), [opened(image)])[0]
        for x, y in found.landmarks.astype(int).tolist():
            image[y, x] = 255
        view = np.rot90(image, quarters)
        assert all(view[int(y), int(x)].all() for x, y in POINTS)
        x0, y0, x1, y1 = found.box
        assert sorted([x1 - x0, y1 - y0]) == [10, 20]
        assert x0 < x1
        assert y0 < y1
        assert found.turn == {1: 270, 2: 180, 3: 90}[quarters]

    @pytest.mark.parametrize("quarters", [1, 2, 3])
    def test_a_turned_portrait_gives_the_same_crop(self, mtcnn, portrait, quarters):
        (upright,), (turned,) = find_portraits(
            mtcnn, [opened(portrait), opened(np.rot90(portrait, quarters).copy())], GOAL
        )
        assert turned.face.turn == 90 * quarters
        assert upright.face.turn == 0
        assert np.abs(upright.crop.astype(int) - turned.crop).max() <= 3
        one, other = (signals(each.crop, each.face)["shape"] for each in (upright, turned))
        assert one == pytest.approx(other, rel=1e-4)
        assert shape(upright.face.landmarks) == one


class TestSize:
    def test_a_large_photograph_is_looked_at_reduced_and_cut_whole(self, mtcnn, portrait):
        """A face whose crop needs no more than half the size is cut from there, a smaller one from the whole."""
        image = np.full((1100, 1300, 3), 128, np.uint8)
        image[200:900, 300:1000] = cv2.resize(portrait, (700, 700), interpolation=cv2.INTER_CUBIC)
        for data in (image, cv2.imencode(".png", image[..., ::-1])[1].tobytes()):
            it = Photograph.open(data, "it")
            assert it.reduced.factor == 2
            ((found,),) = find_portraits(mtcnn, [it], GOAL)
            points = it.reduced.to_reduced(found.face.landmarks)
            np.testing.assert_array_equal(found.crop, align(it.reduced.image, points))
        it = Photograph.open(image, "it")
        points = POINTS * 1.2 + (600, 300)
        (crop,) = it.crops([Face((0, 0, 1, 1), points, 1.0)], GOAL)
        np.testing.assert_array_equal(crop, align(image, points))

    def test_small_faces_are_cut_from_the_part_of_a_png_that_they_need(self, monkeypatch):
        """As from the whole; two faces from the part that holds both, and one at the border with black beyond it."""
        image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), np.uint8), (0, 0), 2)
        png = Photograph.open(cv2.imencode(".png", image[..., ::-1])[1].tobytes(), "it")
        shapes, decode = [], photographs.decode_reduced

        def kept(*words, **named):
            found = decode(*words, **named)
            shapes.append(found.image.shape[:2])
            return found

        monkeypatch.setattr(photographs, "decode_reduced", kept)
        for scale, places in ((0.6, [(500, 300)]), (1.2, [(500, 300), (640, 420)]), (1.0, [(-30, -20)])):
            faces = [Face((0, 0, 1, 1), scale * POINTS + place, 1.0) for place in places]
            for crop, face in zip(png.crops(faces, GOAL), faces, strict=True):
                assert np.abs(crop.astype(int) - align(image, face.landmarks)).max() <= 1
        assert len(shapes) == 3
        assert max(max(shape) for shape in shapes) < 400

    def test_filtering_a_part_of_a_large_photograph_is_as_filtering_all(self, monkeypatch):
        image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8), (0, 0), 2)
        for about in ((450, 450), (20, 10), (880, 890)):
            points = (POINTS - 56) * 2.5 + about
            whole = align(image, points)
            monkeypatch.setattr(alignment, "LARGE", 1)
            part = align(image, points)
            monkeypatch.undo()
            assert np.abs(whole.astype(int) - part).max() <= 1  # one gray level: the warp's rounding

    def test_one_damaged_behind_the_reduced_part(self, portrait):
        broken = Photograph("it", b"no image", opened(np.zeros((200, 200, 3), np.uint8)).reduced._replace(factor=2))
        (found,) = find_portraits(Scripted([1.0]), [broken], GOAL)
        assert isinstance(found, DataError)

    def test_degenerate_landmarks(self):
        class Flat(Scripted):
            def detect_many(self, images):
                return [[Face((0, 0, 1, 1), np.ones((5, 2)), 1.0)] for _ in images]

        (found,) = find_portraits(Flat(), [opened(np.zeros((60, 80, 3), np.uint8))], GOAL)
        assert isinstance(found, FaceError)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (11, 11), (2, 3)])
def test_pictures_too_small_for_a_face(mtcnn, size):
    image = np.full((*size, 3), 128, np.uint8)
    jpeg = simplejpeg.encode_jpeg(image)
    assert find_portraits(mtcnn, [opened(image), opened(jpeg)], GOAL) == [[], []]


@pytest.mark.slow
def test_forty_faces_and_faces_at_the_border(mtcnn, portrait):
    crowd = np.tile(cv2.resize(portrait, (125, 125), interpolation=cv2.INTER_AREA), (5, 8, 1))
    ((found,),) = (find_portraits(mtcnn, [opened(crowd)], GOAL),)
    alone = len(find_portraits(mtcnn, [opened(crowd[:125, :125])], GOAL, "all")[0])
    assert alone >= 1
    assert found[0].found >= 36
    everybody = find_portraits(mtcnn, [opened(crowd)], GOAL, "all")[0]
    assert len(everybody) == found[0].found
    border = portrait[:, 60:]  # the face is cut by the left border
    for each in find_portraits(mtcnn, [opened(border)], GOAL, "all")[0]:
        assert each.crop.shape == (112, 112, 3)


def test_drawing():
    image = np.zeros((300, 400, 3), np.uint8)
    used, other = Face((100, 100, 200, 220), POINTS + 100, 1.0), Face((10, 10, 60, 70), POINTS, 0.9)
    drawn = draw_faces(opened(image), [used], [other])
    assert drawn[100, 150].tolist() == list(USED)
    assert drawn[10, 30].tolist() == [150, 150, 150]
    assert not image.any()
    assert side_by_side([drawn, drawn[:100]]).shape == (300, 800, 3)
    assert (side_by_side([drawn, drawn[:100]])[200, 500] == 255).all()
