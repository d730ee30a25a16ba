"""normface embed CLIP: one row for each track."""

import json

import numpy as np
import pytest
from tests.cli.conftest import one_line
from tests.conftest import ROOT
from tests.embed.clips import SPEED, write_clip

from normface import read_image
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
