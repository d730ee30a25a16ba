"""The model that ships: what it must be on any machine, without photographs of real people."""

import json
from pathlib import Path

import numpy as np
import pytest

from normface.cli import main
from normface.data.synthetic import photograph
from normface.embed import Embedder, certificate
from normface.embed.loading import DEFAULT
from normface.report import estimate


def test_it_is_small_and_certified():
    assert DEFAULT.stat().st_size <= 6_000_000
    point = Embedder.load().operating_point  # of these very weights, or loading would have refused it
    assert point.target_far == 0.001
    assert point.far.value <= 0.001
    assert point.calibration
    assert point.conditions
    assert point.conditions.facts["threshold"] == pytest.approx(point.threshold, abs=1e-6)
    assert certificate(DEFAULT).exists()


def test_its_card_names_its_weights():
    assert Embedder.load().sha256 in DEFAULT.with_name("model-card.md").read_text("utf-8")


def test_a_picture_is_more_like_itself_than_like_another_person():
    one, other = photograph(0, 0, 0), photograph(0, 1, 0)
    embedder = Embedder.load()
    assert embedder.verify(one, one).score == pytest.approx(1, abs=1e-6)
    assert embedder.verify(one, other).score < 0.9
    crops = np.concatenate([embedder.crop(one), embedder.crop(other)])
    assert embedder.embed(crops, aligned=True).vectors.shape == (2, 128)


def test_the_command_takes_it_where_no_model_is_named(tmp_path: Path, monkeypatch, capsys):
    pictures = Path(__file__).parents[2] / "examples" / "photographs"
    for name, picture in (("a.jpg", "ann-1.jpg"), ("b.jpg", "ann-2.jpg")):
        (tmp_path / name).write_bytes((pictures / picture).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["normface", "verify", "a.jpg", "b.jpg", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert json.loads(capsys.readouterr().out)["model"] == "default.onnx"
    monkeypatch.setattr("sys.argv", ["normface", "verify", "a.jpg", "b.jpg"])
    with pytest.raises(SystemExit):
        main()
    point = Embedder.load().operating_point
    told = capsys.readouterr().out
    assert f"threshold from {point.protocol}, with 95 % intervals" in told
    assert f"and {estimate(point.far)} of {point.far.n:,} impostor pairs" in told
    assert point.commonest_five > 1 / 3
    assert told.index("on average over 1,680 people") < told.index("242,257 genuine pairs")  # per person first
