"""Light CNN's rule, templates from JSON, and the choice among faces."""

import json

import numpy as np
import pytest

from normface.errors import ConfigError, FaceError
from normface.faces import TEMPLATES, Template, central, choose, find_template
from normface.types import Face

LANDMARKS = np.array([(100, 120), (150, 132), (121, 150), (98, 172), (136, 181)], float)


def inverse(transform, points):
    return np.linalg.solve(transform[:, :2], (points - transform[:, 2]).T).T


@pytest.mark.parametrize(("name", "row"), [("144x144", 48), ("128x128", 40)])
def test_light_cnns_rule(name, row):
    """Eyes level, their middle in the row and halfway across; the mouth's middle 48 rows below (PAPER.md §3)."""
    goal = TEMPLATES[name]
    left, right, _, *mouth = inverse(goal.fit(LANDMARKS), LANDMARKS)
    assert left[1] == pytest.approx(right[1])
    np.testing.assert_allclose((left + right) / 2, ((goal.width - 1) / 2, row))
    assert np.mean(mouth, 0)[1] == pytest.approx(row + 48)


@pytest.mark.parametrize(
    "points", [LANDMARKS[[0, 1, 2, 0, 1]], LANDMARKS[[3, 4, 2, 0, 1]], LANDMARKS[[0, 0, 2, 3, 4]], LANDMARKS * np.nan]
)
def test_light_cnn_needs_eyes_above_a_mouth(points):
    with pytest.raises(FaceError, match="use another photograph"):
        TEMPLATES["144x144"].fit(points)


def test_from_a_file(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"points": TEMPLATES["112x96"].points.tolist(), "height": 112, "width": 96}))
    np.testing.assert_array_equal(find_template(str(file)).fit(LANDMARKS), TEMPLATES["112x96"].fit(LANDMARKS))
    assert find_template(find_template("112x96")) is TEMPLATES["112x96"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"points": [[1, 2]], "height": 9, "width": 9}', '{"points": 3, "height": 9, "width": 9}',
     '{"points": [[1, 2], [3, 4], [5, 6], [7, 8], [9, NaN]], "height": 9, "width": 9}',
     '{"points": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 9]], "height": 0, "width": 9}',
     '{"points": [[1, 1], [1, 1], [1, 1], [1, 1], [1, 1]], "height": 9, "width": 9}'],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ConfigError, match="template"):
        find_template(str(tmp_path / "mine.json"))


def test_missing_and_unknown():
    with pytest.raises(ConfigError, match=r"write it like \{"):
        find_template("nowhere.json")
    with pytest.raises(ConfigError, match="a template among 112x96, 112x112"):
        find_template("96x96")
    with pytest.raises(ConfigError, match="5 points"):
        Template(np.zeros((3, 2)), 10, 10)


class TestChoice:
    def face(self, x, y, r):
        return Face((x - r, y - r, x + r, y + r), LANDMARKS, 0.9)

    def test_center_largest_all(self):
        faces = [self.face(20, 20, 10), self.face(60, 40, 5), self.face(90, 50, 30)]
        assert choose(faces, (100, 100)) == [faces[1]] == [central(faces, (100, 100))]
        assert choose(faces, (100, 100), "largest") == [faces[2]]
        assert choose(faces, (100, 100), "all") == faces

    def test_none(self):
        assert choose([], (100, 100)) == choose([], (9, 9), "all") == []
        with pytest.raises(FaceError, match="none found"):
            central([], (100, 100))
        with pytest.raises(ConfigError, match="center, largest, best, all"):
            choose([], (100, 100), "first")
