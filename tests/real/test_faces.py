"""Our MTCNN against the landmarks that the authors' Caffe MTCNN found in the same LFW photographs."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from normface.data import open_reader
from normface.faces import DETECTORS, align, central

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_landmarks_of_the_first_fold(data_dir):
    rows = (line.split() for line in (data_dir / "lfw" / "landmarks-mtcnn.txt").read_text().splitlines())
    known = {name: np.array(values, float).reshape(2, 5).T for name, *values in rows}
    reader = open_reader(data_dir / "lfw" / "lfw-raw-fold1.zip")
    assert len(reader) == 807
    detector = DETECTORS.build("mtcnn")

    def offsets(index):
        image = reader.read(index)
        faces = detector.detect(image)
        return central(faces, image.shape).landmarks - known[str(reader.ids[index])] if faces else None

    with ThreadPoolExecutor(2) as pool:
        found = [o for o in pool.map(offsets, range(len(reader))) if o is not None]
    assert len(found) >= 0.995 * len(reader)
    distance = np.hypot(*np.moveaxis(np.array(found), 2, 0)).mean(1)  # mean over the five landmarks of a face
    shift = np.mean(found, axis=(0, 1))
    print(f"found {len(found)}, median {np.median(distance):.2f} px, mean shift {shift.round(2)}")
    assert np.median(distance) <= 2.0
    assert np.abs(shift).max() <= 0.5


def test_crops_are_the_published_ones(data_dir):
    """From the same landmarks our crop lies where the published 112×96 crop does: any shift of it fits worse."""
    rows = (line.split() for line in (data_dir / "lfw" / "landmarks-mtcnn.txt").read_text().splitlines())
    known = {name: np.array(values, float).reshape(2, 5).T for name, *values in rows}
    raw = open_reader(data_dir / "lfw" / "lfw-raw-fold1.zip").select(np.arange(0, 807, 27))
    crops = open_reader(data_dir / "lfw" / "lfw-112x96.zip")
    place = {name: row for row, name in enumerate(crops.ids.tolist())}
    differences = {shift: [] for shift in [(0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)]}
    for row, name in enumerate(raw.ids.tolist()):
        ours = align(raw.read(row), known[name], "112x96").astype(float)
        published = crops.read(place[name]).astype(float)
        for shift, found in differences.items():
            found.append(np.abs(np.roll(ours, shift, (0, 1)) - published)[4:-4, 4:-4].mean())
    means = {shift: np.mean(found) for shift, found in differences.items()}
    assert min(means, key=means.get) == (0, 0)
