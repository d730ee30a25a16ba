"""The readers on the real archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from normface.data import open_reader

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("archive", "images", "people", "shape"),
    [("train/faces-112.zip", 23_236, 5_311, (112, 112, 3)), ("lfw/lfw-112x96.zip", 13_233, 5_749, (112, 96, 3))],
)
def test_counts(data_dir: Path, archive: str, images: int, people: int, shape: tuple[int, ...]) -> None:
    reader = open_reader(data_dir / archive)
    assert (len(reader), len(reader.identities)) == (images, people)
    assert all(reader.read(i).shape == shape for i in range(0, images, 500))
