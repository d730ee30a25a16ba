"""normface embed CLIP: one row for each track."""

import json

import numpy as np
import pytest
from tests.cli.conftest import one_line
from tests.conftest import ROOT
from tests.embed.clips import SPEED, write_clip

from normface import Embedder, read_image
from normface.data.synthetic import photograph
from normface.types import Embeddings

PHOTOGRAPHS = ROOT / "examples" / "photographs"


@pytest.mark.slow
def test_embed_writes_a_row_for_each_track(run, tmp_path):
    ann, bob = (read_image(PHOTOGRAPHS / name) for name in ("ann-1.jpg", "bob-1.jpg"))
    clip = write_clip(tmp_path / "clip.avi", [[(ann, 0), (bob, 350)]] * 3)
    code, out, err = run("embed", clip, "--out", tmp_path / "v.npz", "--rate", SPEED, "--json")
    assert code == 0, err
    told = json.loads(out)["tracks"]
    assert sorted(each["id"] for each in told) == ["clip/track-1", "clip/track-2"]
    assert {(each["start"], each["end"], each["frames"]) for each in told} == {(0.0, 0.2, 3)}
    saved = Embeddings.load(tmp_path / "v.npz")
    assert saved.ids.tolist() == [each["id"] for each in told]
    with np.load(tmp_path / "v.npz") as file:
        assert file["track"].tolist() == [0, 0, 0, 1, 1, 1]
        assert file["boxes"].shape == (6, 4)


def test_the_command_says_it_in_one_line(run, tmp_path):
    (tmp_path / "c.mp4").write_bytes(b"no video" * 99)
    code, _, err = run("embed", tmp_path / "c.mp4", "--out", tmp_path / "v.npz")
    assert code == 2
    assert one_line(err, "a video stream in")
    code, _, err = run("embed", write_clip(tmp_path / "c.avi", [[]] * 2), "--out", tmp_path / "v.npz")
    assert code == 2
    assert one_line(err, "faces in", "got none")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Ann alone; Ann for three frames with Bob for five."""
    folder = tmp_path_factory.mktemp("clips")
    ann, bob = (read_image(PHOTOGRAPHS / name) for name in ("ann-1.jpg", "bob-1.jpg"))
    alone = write_clip(folder / "ann.avi", [[(ann, 0)]] * 3)
    both = write_clip(folder / "both.avi", [[(ann, 0), (bob, 350)]] * 3 + [[(bob, 350)]] * 6)
    return alone, both


@pytest.mark.slow
class TestAClipInPlaceOfAPhotograph:
    def test_verify_takes_its_track(self, run, clips):
        code, out, err = run("verify", clips[0], PHOTOGRAPHS / "ann-2.jpg", "--anyway", "--json")
        assert code == 0, err
        embedder = Embedder.load()
        (track,) = embedder.track(clips[0])
        expected = embedder.verify(track, PHOTOGRAPHS / "ann-2.jpg", anyway=True).score
        assert json.loads(out)["score"] == expected
        assert json.loads(out)["faces"][0]["found"] == 1

    def test_of_two_people_the_one_seen_longest_or_all(self, run, clips):
        code, out, err = run("verify", clips[1], PHOTOGRAPHS / "bob-1.jpg", "--anyway", "--json")
        assert code == 0, err
        assert json.loads(out)["score"] > 0.9
        code, out, err = run("verify", clips[1], PHOTOGRAPHS / "ann-1.jpg", "--anyway", "--faces", "all")
        assert code == 0, err
        assert "2 faces followed, used one that in its best frame is at" in out
        assert "all 2 pairs of faces" in out

    def test_enrol_asks_and_search_finds(self, run, clips, tmp_path):
        gallery = ["--gallery", f"file:{tmp_path / 'people.db'}", "--anyway"]
        code, _, err = run("enrol", "Bob", clips[1], *gallery)
        assert code == 2
        assert one_line(err, "one face in", "got 2 that may be meant")
        code, out, err = run("enrol", "Bob", clips[1], *gallery, "--faces", "best")
        assert code == 0, err
        assert "Bob enrolled with 1 template" in out
        code, out, err = run("search", clips[1], *gallery, "--faces", "all", "--json")
        assert code == 0, err
        told = json.loads(out)["faces"]
        assert told[0]["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
        assert told[1]["matches"][0]["score"] < 0.9

    def test_what_it_cannot_do(self, run, clips, tmp_path):
        code, _, err = run("verify", clips[0], clips[0], "--aligned")
        assert code == 2
        assert one_line(err, "aligned crops", "the video")
        code, _, err = run("search", clips[0], "--gallery", f"file:{tmp_path / 'x.db'}")
        assert code == 2

    def test_beside_photographs_it_is_named_as_not_read(self, run, clips, tmp_path):
        folder = tmp_path / "mixed"
        folder.mkdir()
        for path in (clips[0], PHOTOGRAPHS / "ann-1.jpg"):
            (folder / path.name).write_bytes(path.read_bytes())
        code, _, err = run("embed", folder, "--images", "photographs", "--out", tmp_path / "v.npz")
        assert code == 0, err
        assert "holds 1 video, which are not read" in " ".join(err.split())


@pytest.mark.slow
def test_ytf_starts_from_videos(run, tmp_path):
    """Eight clips of drawn people, of whom the frames with a face become the frames of the protocol."""
    pytest.importorskip("sklearn")
    rows = ["split, number, first, second, same"]
    for person in range(8):
        for video in range(2):
            shown = photograph(0, person, video, strength=0.4)
            (tmp_path / f"P{person}").mkdir(exist_ok=True)
            write_clip(tmp_path / f"P{person}" / f"{video}.avi", [[(shown, 40 * video)]] * 2 + [[]])
        rows.append(f"{1 + person % 2}, {person}, P{person}/0, P{person}/1, 1")
        rows.append(f"{1 + person % 2}, {person}, P{person}/0, P{(person + 2) % 8}/1, 0")
    splits = tmp_path / "splits.txt"
    splits.write_text("\n".join(rows))
    code, out, err = run("evaluate", "ytf", "--list", splits, "--photographs", tmp_path, "--json")
    assert code == 0, err
    facts = json.loads(out)["facts"]
    assert (facts["videos"], facts["frames"], facts["pairs"]) == (16, 16, 16)  # 5 frames a second of 10
    assert facts["detector"] == "mtcnn"
    assert all(isinstance(note, str) and " " in note for note in facts["notes"])
    code, _, err = run("evaluate", "ytf", "--list", splits, "--photographs", tmp_path, "--failures", "count")
    assert code == 2
    assert one_line(err, "--failures with photographs")
