import zipfile

import numpy as np
import pytest
import simplejpeg

from normface.data import open_reader
from normface.data.synthetic import QUALITY, face, photograph, write_dataset
from normface.data.synthetic_face import TEMPLATE, Identity, Nuisance, render
from normface.errors import DataError, InputError
from normface.protocols import read_lfw_pairs

pytestmark = pytest.mark.slow


def test_the_same_picture_whenever_it_is_drawn():
    first = face(1, 5, 3)
    face(2, 9, 9)
    np.testing.assert_array_equal(face(1, 5, 3), first)
    assert first.shape == (112, 112, 3)
    assert first.dtype == np.uint8
    assert photograph(1, 5, 3).shape == (250, 250, 3)


def test_seed_person_and_picture_all_matter():
    pictures = [face(*numbers) for numbers in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for i, a in enumerate(pictures):
        for b in pictures[i + 1 :]:
            assert np.abs(a.astype(int) - b).mean() > 2


def test_in_the_studio_only_the_person_matters():
    portraits = np.array([[face(0, p, k, strength=0).astype(float) for k in range(2)] for p in range(6)])
    np.testing.assert_array_equal(portraits[:, 0], portraits[:, 1])
    apart = np.abs(portraits[:, None, 0] - portraits[None, :, 0]).mean((2, 3, 4))
    assert apart[~np.eye(6, dtype=bool)].min() > 3


def test_raw_pixels_do_not_tell_people_apart():
    """Light, pose and background outweigh the person: verification must learn."""
    rng = np.random.default_rng(0)
    pictures = np.array([[face(0, p, k).ravel() for k in range(4)] for p in range(16)], float)
    pictures -= pictures.mean((0, 1))
    pictures /= np.linalg.norm(pictures, axis=2, keepdims=True)
    same = [p[i] @ p[j] for p in pictures for i in range(4) for j in range(i)]
    other = [pictures[a, i] @ pictures[b, j] for a, b, i, j in rng.integers([16, 16, 4, 4], size=(400, 4)) if a != b]
    order = (np.array(same)[:, None] > other).mean()  # area under the ROC
    assert 0.5 < order < 0.85


def test_eyes_lie_where_landmarks_say():
    studio = Nuisance(*[0.0] * 26)
    for person in range(5):
        who = Identity.draw(np.random.default_rng(person))
        points = who.landmarks()
        assert np.abs(points - TEMPLATE).max() < 6
        gray = render(who, studio).astype(float).mean(2)
        for x, y in np.rint(points[:2]).astype(int):
            pupil, white = gray[y - 1 : y + 2, x - 1 : x + 2], gray[y, x - 6 : x + 7]
            assert pupil.mean() < 80
            assert white.max() > 150


def test_data_set_is_laid_out_like_the_real_one(drawn):
    train = open_reader(drawn / "train" / "faces-112.zip")
    assert (len(train), len(train.identities)) == (96, 12)
    assert train.read(0).shape == (112, 112, 3)
    lfw = open_reader(drawn / "lfw" / "lfw-112x96.zip")
    assert (len(lfw), len(lfw.identities)) == (24, 8)
    assert lfw.read(0).shape == (112, 96, 3)
    assert not set(train.identities) & set(lfw.identities)
    pairs = read_lfw_pairs(drawn / "lfw" / "pairs.txt")
    assert np.bincount(pairs.fold).tolist() == [12, 12]
    assert pairs.same.sum() == 12
    people = [
        {name.split("/")[0] for name in np.r_[pairs.left, pairs.right][np.tile(pairs.fold == f, 2)]} for f in (0, 1)
    ]
    assert not people[0] & people[1]
    raw = open_reader(drawn / "lfw" / "lfw-raw-fold1.zip")
    first = pairs.fold == 0
    assert set(raw.ids) == set(pairs.left[first]) | set(pairs.right[first])
    assert set(pairs.left) | set(pairs.right) <= set(lfw.ids)


def test_same_arguments_same_bytes(tmp_path):
    for name in "ab":
        write_dataset(tmp_path / name, people=2, images=2, folds=2, fold_people=2, fold_images=2, fold_pairs=1)
    for file in ("train/faces-112.zip", "lfw/lfw-112x96.zip", "lfw/lfw-raw-fold1.zip", "lfw/pairs.txt"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert zipfile.ZipFile(tmp_path / "a" / "train" / "faces-112.zip").testzip() is None


def small(folder):
    """Draw a few people; return {(archive, member): bytes}."""
    write_dataset(folder, people=3, images=5, folds=2, fold_people=2, fold_images=3, fold_pairs=4, seed=6)
    archives = {path.name: zipfile.ZipFile(path) for path in folder.glob("*/*.zip")}
    return {(key, name): archive.read(name) for key, archive in archives.items() for name in archive.namelist()}


@pytest.mark.parametrize(("part", "threads"), [(1, 1), (2, 3), (100, 2)])
def test_neither_parts_nor_threads_change_a_byte(tmp_path, monkeypatch, part, threads):
    usual = small(tmp_path / "usual")
    monkeypatch.setattr("normface.data.synthetic.PART", part)
    monkeypatch.setattr("normface.data.synthetic.usable_cores", lambda: threads)
    assert small(tmp_path / "other") == usual


def test_written_pictures_are_those_drawn_alone(tmp_path):
    draw = {
        "faces-112.zip": face,
        "lfw-112x96.zip": lambda *numbers, strength: face(*numbers, strength=strength)[:, 8:104],
        "lfw-raw-fold1.zip": photograph,
    }
    written = small(tmp_path)
    for archive, name in sorted(written, key=lambda key: key[1][-8:]):  # people take turns
        person, picture = int(name[7:11]), int(name[-8:-4]) - 1
        image = np.ascontiguousarray(draw[archive](6, person, picture, strength=1.6))
        assert written[archive, name] == simplejpeg.encode_jpeg(image, QUALITY)


def test_progress_counts_every_picture(tmp_path):
    seen = []
    write_dataset(
        tmp_path, people=2, images=3, folds=2, fold_people=2, fold_images=2, fold_pairs=1,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    pictures = sum(len(zipfile.ZipFile(path).namelist()) for path in tmp_path.glob("*/*.zip"))
    assert seen == [(number, pictures) for number in range(1, pictures + 1)]


@pytest.mark.parametrize(
    "change", [dict(people=1), dict(folds=1), dict(fold_pairs=0), dict(fold_images=1), dict(people=9999)]
)
def test_bad_counts(tmp_path, change):
    with pytest.raises(InputError, match="correct the counts"):
        write_dataset(tmp_path, **change)
    assert not list(tmp_path.iterdir())


def test_nowhere_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="to write"):
        write_dataset(tmp_path / "file", people=2, images=2)
