"""The figures as files, and `normface figures` as a user runs it."""

import json
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from normface.cli import main
from normface.figures import FIGURES
from normface.figures.drawing import Sphere, panels

QUICK = ["agents", "bound", "gradient", "marginal"]


@pytest.fixture
def run(monkeypatch, capfd):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["normface", "figures", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return call


def test_all_figures_are_registered():
    assert list(FIGURES) == [
        "agents", "bias", "bound", "gradient", "loss_weight", "marginal", "norms", "radial", "scales", "spheres",
        "videos",
    ]  # fmt: skip


@pytest.mark.slow
def test_quick_figures_as_files(run, tmp_path):
    code, out, err = run(*QUICK, "--out", tmp_path, "--json")
    assert (code, err) == (0, "")
    numbers = json.loads(out)
    assert list(numbers) == QUICK
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"{n}.{k}" for n in QUICK for k in ("png", "svg", "json")
    )
    for name in QUICK:
        kept = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
        assert kept.pop("figure") == name
        assert kept.items() <= numbers[name].items()
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")
        picture = tmp_path / f"{name}.png"
        assert picture.stat().st_size < 200_000
        with Image.open(picture) as image:
            corners = np.asarray(image.convert("RGB"))[:: image.height - 1, :: image.width - 1]
        assert (corners == 255).all()  # white, so that it can be read on a dark page too


@pytest.mark.slow
def test_equal_figures_are_equal_bytes(run, tmp_path):
    for folder in "ab":
        run("bound", "--out", tmp_path / folder)
    for kind in ("png", "svg", "json"):
        first, second = ((tmp_path / folder / f"bound.{kind}").read_bytes() for folder in "ab")
        assert first == second


def test_list(run):
    code, out, _ = run("--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(FIGURES)
    assert json.loads(run("--list", "--json")[1]).keys() == set(FIGURES)


def test_unknown_name_before_any_work(run, tmp_path):
    code, out, err = run("bound", "agent", "--out", tmp_path / "new")
    assert (code, out) == (2, "")
    assert "did you mean 'agents'?" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("bound", "--out", tmp_path / "file")
    assert code == 2
    assert err.startswith("normface: error: expected to write ")
    assert len(err.splitlines()) == 1


def test_absent_package_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    code, _, err = run("bound", "--out", tmp_path)
    assert code == 2
    assert "pip install 'normface[figures]'" in err


def test_the_sphere_is_seen_from_its_viewer():
    _, axes = panels(1, 1, 2, 2)
    ball = Sphere(axes[0, 0], azimuth=90, elevation=0)  # from the positive y axis
    seen, front = ball.project(np.array([[0.0, 1, 0], [0, -1, 0], [0, 0, 1], [-1, 0, 0]]))
    np.testing.assert_allclose(seen, [[0, 0], [0, 0], [0, 1], [1, 0]], atol=1e-12)
    assert front[:2].tolist() == [True, False]
    np.testing.assert_allclose(ball.view @ ball.view.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(ball.view) == pytest.approx(1)
