"""What `normface data check` finds: planted faults are found, clean sets are left alone."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image as pillow

from normface.data import open_reader
from normface.data.hygiene import doubtful, duplicates, fingerprint, overlap, survey


def encoded(image, quality=95, kind="JPEG"):
    file = io.BytesIO()
    pillow.fromarray(image).save(file, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.fixture(scope="module")
def faces(drawn):
    reader = open_reader(drawn / "train" / "faces-112.zip")
    return [reader.read(row) for row in range(0, len(reader), 8)]


def folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return open_reader(path)


def test_planted_duplicates(faces, tmp_path):
    one, two, three, four = faces[:4]
    planted = {
        "A/copy.jpg": (encoded(one), "exact"), "B/anew.jpg": (encoded(two, 50), "near"),
        "C/smaller.png": (encoded(cv2.resize(three, (80, 80), interpolation=cv2.INTER_AREA), kind="PNG"), "near"),
        "D/mirrored.jpg": (encoded(np.ascontiguousarray(four[:, ::-1]), 90), "mirrored"),
    }  # fmt: skip
    files = {f"0/{i}.jpg": encoded(face) for i, face in enumerate(faces)}
    reader = folder(tmp_path, files | {name: data for name, (data, _) in planted.items()})
    found = {reader.ids[row]: (reader.ids[at], kind) for row, at, kind in duplicates(survey(reader))}
    originals = [f"0/{i}.jpg" for i in range(4)]
    wanted = dict(zip(planted, zip(originals, [kind for _, kind in planted.values()], strict=True), strict=True))
    assert found == wanted


def test_a_clean_set(faces, tmp_path):
    reader = folder(tmp_path, {f"0/{i}.jpg": encoded(face) for i, face in enumerate(faces)})
    found = survey(reader, threads=2)
    assert duplicates(found) == []
    assert found.unreadable == []
    assert (found.sizes == 112).all()


def test_across_two_sets(faces, tmp_path):
    ours = folder(tmp_path / "a", {f"A/{i}.jpg": encoded(face) for i, face in enumerate(faces[:6])})
    theirs = folder(tmp_path / "b", {"X/1.jpg": encoded(faces[9]), "X/2.jpg": encoded(faces[4], 85)})
    ((row, at, kind),) = duplicates(survey(ours), survey(theirs))
    assert (ours.ids[row], theirs.ids[at], kind) == ("A/4.jpg", "X/2.jpg", "near")


def test_unreadable_images_are_named_and_no_duplicates_of_each_other(faces, tmp_path):
    reader = folder(
        tmp_path, {"A/1.jpg": b"", "A/2.jpg": b"", "A/3.jpg": encoded(faces[0])[:300], "A/4.jpg": encoded(faces[0])}
    )
    found = survey(reader)
    assert [reader.ids[row] for row, _ in found.unreadable] == ["A/1.jpg", "A/2.jpg", "A/3.jpg"]
    assert found.unreadable[0][1] == "an empty file"
    assert duplicates(found) == []


def test_mirroring_leaves_the_fingerprint(faces):
    for face in faces:
        gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
        assert fingerprint(gray) == fingerprint(np.ascontiguousarray(gray[:, ::-1]))
    assert len({fingerprint(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)) for face in faces}) == len(faces)


class TestEmbeddings:
    """People as tight clusters around orthogonal directions: every answer is known."""

    def people(self, count, each, seed=0, dim=64, noise=0.03):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(count), each)
        vectors = np.eye(dim)[labels] + noise * rng.standard_normal((count * each, dim))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels

    def test_clean(self):
        vectors, labels = self.people(10, 6)
        assert doubtful(vectors, labels, 0.5) == ([], [], [])

    def test_wrong_labels_and_strangers(self):
        vectors, labels = self.people(10, 6)
        labels[[7, 20]] = [5, 0]  # of person 1 under 5, of person 3 under 0
        vectors[30] = np.eye(64)[60]  # like nobody
        found = doubtful(vectors, labels, 0.5)
        assert [(row, nearest) for row, _, nearest, _ in found.wrong] == [(7, 1), (20, 3)]
        assert [row for row, _ in found.strangers] == [30]
        assert found.alike == []

    def test_one_person_under_two_names(self):
        vectors, labels = self.people(10, 6)
        labels[27:30] = 10  # half of person 4
        found = doubtful(vectors, labels, 0.5)
        assert [(i, j) for i, j, _ in found.alike] == [(4, 10)]

    def test_overlap(self):
        ours, labels = self.people(12, 5)
        theirs, theirs_labels = self.people(12, 3, seed=1)
        keep = theirs_labels >= 10  # the last two, as 0 and 1
        moved = theirs[keep], theirs_labels[keep] - 10
        assert [(i, j) for i, j, _ in sorted(overlap(ours, labels, *moved, 0.5))] == [(10, 0), (11, 1)]
        assert overlap(ours[labels < 10], labels[labels < 10], *moved, 0.5) == []

    def test_people_with_one_image_are_not_compared_with_themselves(self):
        vectors, labels = self.people(10, 1)
        assert doubtful(vectors, labels, 0.5).strangers == []
