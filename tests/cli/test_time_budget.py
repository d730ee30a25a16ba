"""`normface train … --teacher … --time-budget`: teachers by name, and a run planned to a time."""

import json

import pytest

from normface.cli.train import seconds_of
from normface.errors import ConfigError
from normface.train import speed

TINY = ["model.options.channels=[4,8,8,8]", "model.options.units=[1,1,1]", "optim.batch=16", "precision=fp32"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("9m", 540), ("1h30m", 5400), ("0.5h", 1800), (" 8h ", 28800)]
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "9", "m", "0s", "1.5.2h", "30m1h", "-9m"])
def test_no_times(text):
    with pytest.raises(ConfigError, match="a time such as 90s, 9m, 8h or 1h30m"):
        seconds_of(text)


@pytest.mark.slow
def test_two_teachers_in_a_time(run, drawn, tmp_path, monkeypatch):
    """The default model twice, by its path: no other is at hand everywhere."""
    from normface.embed.loading import DEFAULT

    monkeypatch.setattr(speed, "images_per_second", lambda config, images, limit: len(images) / 1e4)
    faces = drawn / "train" / "faces-112.zip"
    words = ["train", "ensemble", "--crops", faces, "--unlabelled", faces, "--teacher", DEFAULT, "--teacher", DEFAULT]
    words += ["--out", tmp_path / "run", "--time-budget", "1h30m", "--json", *(f"--set={each}" for each in TINY)]
    code, out, err = run(*words)
    assert code == 0, err
    told = json.loads(out)
    assert told["finished"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["distill"]["teacher"] == [str(DEFAULT)] * 2
    assert config["optim"]["epochs"] == pytest.approx(0.95 * 5400 / 1e4, rel=0.1)
    assert json.loads(run(*words, "--resume")[1])["total"] == told["total"]
