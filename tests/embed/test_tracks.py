"""Faces followed through clips that are drawn here: moving, turning, leaving, two people who cross."""

import cv2
import numpy as np
import pytest
from tests.conftest import ROOT
from tests.embed.clips import SPEED, write_clip

from normface import Embedder, read_image
from normface.errors import ConfigError, DataError
from normface.faces.video import read_frames

PHOTOGRAPHS = ROOT / "examples" / "photographs"


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load()


@pytest.fixture(scope="module")
def people():
    return {name: read_image(PHOTOGRAPHS / f"{name}.jpg") for name in ("ann-1", "ann-2", "bob-1", "bob-2")}


def turned(photograph, degrees):
    height, width = photograph.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(photograph, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def cosine(track, embedder, name):
    return float(track.vector @ embedder.faces(PHOTOGRAPHS / f"{name}.jpg", faces="center")[0].vector)


@pytest.mark.slow
def test_one_who_moves_and_turns_is_one_track(embedder, people, tmp_path):
    frames = [[(turned(people["ann-1"], 3 * i), 20 * i)] for i in range(12)]
    (track,) = embedder.track(write_clip(tmp_path / "c.avi", frames), rate=SPEED)
    assert track.times == pytest.approx(np.arange(12) / SPEED)
    lefts = [box[0] for box in track.boxes]
    assert np.diff(lefts) == pytest.approx(20, abs=10)
    assert np.linalg.norm(track.vector) == pytest.approx(1, abs=1e-6)
    assert cosine(track, embedder, "ann-1") > 0.8
    assert track.crop.shape == (112, 96, 3)


@pytest.mark.slow
def test_rate_and_leaving(embedder, people, tmp_path):
    """Seen for 0.5 s, away for 2 s, back for 0.5 s: two tracks; five frames a second are looked at."""
    frames = [[(people["ann-1"], 100)]] * 5 + [[]] * 20 + [[(people["ann-2"], 300)]] * 5
    first, second = embedder.track(write_clip(tmp_path / "c.avi", frames), rate=5)
    assert first.times == pytest.approx([0, 0.2, 0.4])
    assert second.times == pytest.approx([2.6, 2.8])
    assert first.vector @ second.vector > embedder.operating_point.threshold


@pytest.mark.slow
def test_two_who_cross_keep_their_tracks(embedder, people, tmp_path):
    ann, bob = people["ann-1"], people["bob-1"]
    frames = [[(bob, 380 - 40 * i), (ann, 40 * i)] for i in range(10)]
    tracks = embedder.track(write_clip(tmp_path / "c.avi", frames), rate=SPEED)
    assert len(tracks) == 2
    found = {max(("ann-1", "bob-1"), key=lambda name: cosine(track, embedder, name)): track for track in tracks}
    assert found["ann-1"].boxes[0][0] < found["bob-1"].boxes[0][0]
    assert found["ann-1"].boxes[-1][0] > found["bob-1"].boxes[-1][0]
    assert len(found["ann-1"].times) == 10
    assert cosine(found["bob-1"], embedder, "ann-1") < embedder.operating_point.threshold

    ann = found["ann-1"]  # taken as a photograph is
    assert embedder.faces(ann) == [ann]
    assert embedder.verify(ann, PHOTOGRAPHS / "ann-2.jpg", anyway=True).decision is True
    assert embedder.verify(ann, found["bob-1"], anyway=True).decision is False
    with embedder.open_gallery(tmp_path / "people.db") as gallery:
        gallery.enrol("Ann", PHOTOGRAPHS / "ann-2.jpg", anyway=True)
        gallery.enrol("Bob", found["bob-1"], anyway=True)
        assert gallery.search(ann, anyway=True)[0].person == "Ann"
        assert gallery.verify("Bob", PHOTOGRAPHS / "bob-1.jpg", anyway=True).decision is True


class TestBadInput:
    def test_no_face(self, embedder, tmp_path):
        assert embedder.track(write_clip(tmp_path / "c.avi", [[]] * 3)) == []

    def test_an_unreadable_frame_is_counted_and_skipped(self, people, tmp_path, caplog):
        clip = write_clip(tmp_path / "c.avi", [[(people["ann-1"], 10 * i)] for i in range(6)])
        data, at = bytearray(clip.read_bytes()), -1
        for _ in range(4):  # the third frame: the first hit is in the header
            at = data.index(b"00dc", at + 1)
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + size] = bytes(size)
        clip.write_bytes(data)
        assert [frame.seconds for frame in read_frames(clip, rate=SPEED)] == pytest.approx([0, 0.1, 0.3, 0.4, 0.5])
        assert "1 frames cannot be decoded" in caplog.text

    @pytest.mark.parametrize(("data", "got"), [(b"", "an empty file"), (b"no video" * 99, "none that can be read")])
    def test_no_video(self, data, got, tmp_path):
        (tmp_path / "c.mp4").write_bytes(data)
        with pytest.raises(DataError, match=got):
            list(read_frames(tmp_path / "c.mp4"))

    def test_nothing_there_and_a_wrong_rate(self, tmp_path):
        with pytest.raises(DataError, match="nothing there"):
            list(read_frames(tmp_path / "c.mp4"))
        with pytest.raises(ConfigError, match="rate above 0"):
            list(read_frames(tmp_path / "c.mp4", rate=0))
