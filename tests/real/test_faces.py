"""Our MTCNN against the landmarks that the authors' Caffe MTCNN found in the same LFW photographs."""

import cv2
import numpy as np
import pytest

from normface.data import open_reader
from normface.faces import DETECTORS, align, central
from normface.faces.photographs import read_landmarks
from normface.prefetch import map_ahead

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_landmarks_of_the_first_fold(data_dir):
    known = read_landmarks(data_dir / "lfw" / "landmarks-mtcnn.txt")
    reader = open_reader(data_dir / "lfw" / "lfw-raw-fold1.zip")
    assert len(reader) == 807
    detector = DETECTORS.build("mtcnn")

    def offsets(start):
        rows = range(start, min(start + 8, len(reader)))
        images = [reader.read(row) for row in rows]
        found = zip(rows, images, detector.detect_many(images), strict=True)
        return [central(f, image.shape).landmarks - known[str(reader.ids[row])] for row, image, f in found if f]

    found = [each for some in map_ahead(offsets, range(0, 807, 8), threads=2) for each in some]
    assert len(found) >= 0.995 * len(reader)
    distance = np.hypot(*np.moveaxis(np.array(found), 2, 0)).mean(1)  # mean over the five landmarks of a face
    shift = np.mean(found, axis=(0, 1))
    print(f"found {len(found)}, median {np.median(distance):.2f} px, mean shift {shift.round(2)}")
    assert np.median(distance) <= 2.0
    assert np.abs(shift).max() <= 0.5


def test_crops_are_the_published_ones(data_dir):
    """From the same landmarks our crop lies where the published 112×96 crop does: shifted or enlarged it fits worse."""
    known = read_landmarks(data_dir / "lfw" / "landmarks-mtcnn.txt")
    raw = open_reader(data_dir / "lfw" / "lfw-raw-fold1.zip").select(np.arange(0, 807, 9))
    crops = open_reader(data_dir / "lfw" / "lfw-112x96.zip")
    place = {name: row for row, name in enumerate(crops.ids.tolist())}
    moves = [(1, 0, 0), (1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (1.01, 0, 0), (0.99, 0, 0)]
    differences = {move: [] for move in moves}  # larger, right, down
    for row, name in enumerate(raw.ids.tolist()):
        ours, published = align(raw.read(row), known[name], "112x96"), crops.read(place[name]).astype(float)
        for (larger, right, down), found in differences.items():
            about = np.array([[larger, 0, (1 - larger) * 47.5 + right], [0, larger, (1 - larger) * 55.5 + down]])
            found.append(np.abs(cv2.warpAffine(ours, about, (96, 112)) - published)[8:-8, 8:-8].mean())
    means = {move: np.mean(found) for move, found in differences.items()}
    print({move: round(float(mean), 2) for move, mean in means.items()})
    assert min(means, key=means.get) == (1, 0, 0)
