"""What others publish is found by its entry point, and used like what ships."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT

from normface import registry
from normface.errors import ConfigError
from normface.protocols import read_lfw_pairs
from normface.registry import GROUP, REGISTRY_KINDS, Registry
from normface.types import Embeddings

PROGRAM = """
import json, sys
from normface.cli import main
for words in json.load(open(sys.argv[1])):
    sys.argv = ["normface", *words]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            print(words[0], "ended with", ended.code)
"""


@pytest.fixture
def installed(tmp_path):
    """A folder that holds the toy plug-in as pip would install it."""
    place = tmp_path / "site"
    info = place / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("toy_plugin.py"), place)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    kinds = "detector gallery loss model protocol reader".split()
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(f"{kind}.toy = toy_plugin\n" for kind in kinds))
    return place


@pytest.mark.slow
def test_one_of_each_kind_from_a_file_outside_the_package(installed, drawn, tmp_path):
    """On the command line: a protocol, a detector, a reader, a gallery, and a network trained with a loss."""
    (tmp_path / "data" / "toy").mkdir(parents=True)
    shutil.copy(drawn / "lfw" / "pairs.txt", tmp_path / "data" / "toy")
    (tmp_path / "photographs").mkdir()
    shutil.copy(ROOT / "examples" / "photographs" / "ann-1.jpg", tmp_path / "photographs")
    pairs = read_lfw_pairs(drawn / "lfw" / "pairs.txt")
    ids = np.unique([pairs.left, pairs.right])
    Embeddings(np.random.default_rng(0).normal(size=(len(ids), 8)), ids).save(tmp_path / "f.npz")
    shutil.copytree(tmp_path / "photographs", tmp_path / "faces" / "Ann")
    (tmp_path / "set.toy").write_text("faces")
    calls = [
        ["evaluate", "toy_protocol", "--data", "data", "--embeddings", "f.npz", "--json"],
        ["align", "photographs", "crops", "--detector", "toy_detector", "--json"],
        ["pack", "set.toy", "set.zip", "--unlabelled", "--json"],
        ["enrol", "--embeddings", "f.npz", "--gallery", "toy:g", "--json"],
        ["people", "--gallery", "file:g.db", "--json"],
        ["train", "normface", "--data", str(drawn / "train" / "faces-112.zip"), "--out", "run", "--json",
         "--set", "model.name=toy_model", "--set", "model.options={}", "--set", "loss.name=toy_loss",
         "--set", "loss.options={}", "--set", "optim.batch=16", "--set", "optim.epochs=1"],
    ]  # fmt: skip
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    paths = [str(installed), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "calls.json"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )  # fmt: skip
    assert "ended with" not in done.stdout, done.stderr
    evaluated, aligned, packed, enrolled, people, trained = documents(done.stdout)
    assert evaluated["protocol"] == "toy_protocol"
    assert evaluated["metrics"]["accuracy"]["n"] == len(ids)
    assert "cllr" in evaluated["facts"]  # its pairs were read as it declares
    assert aligned["crops"] == 1
    assert packed["images"] == 1
    assert enrolled["templates"] == people["templates"] == len(ids)
    assert trained["finished"]


def documents(text):
    """The JSON documents that stand one behind the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        document, end = decoder.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
        found.append(document)
        at = end
    return found


@pytest.fixture
def points(monkeypatch, tmp_path):
    """Install entry points that exist in this test alone."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(**modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        found = tuple(EntryPoint(f"detector.{name}", name, GROUP) for name in modules)
        monkeypatch.setattr(registry, "_entry_points", lambda: found)
        return Registry("detector", "normface.recipes")

    yield install
    for name in ("broken", "taken"):
        sys.modules.pop(name, None)


def test_a_broken_plugin_is_named_and_left_out(points, caplog):
    detectors = points(broken="raise RuntimeError('no licence')")
    assert list(detectors) == []
    assert "detector.broken (broken) skipped: RuntimeError('no licence')" in caplog.text


def test_plugins_are_imported_only_for_names_that_do_not_ship(points, caplog):
    detectors = points(broken="raise RuntimeError")
    detectors.register(mine)
    assert detectors.build("mine") == "made"
    assert "mine" in detectors
    assert not caplog.text
    with pytest.raises(ConfigError, match=r"a detector among mine, got 'other'; choose one of them"):
        detectors["other"]
    assert "broken" in caplog.text


def mine():
    """Made here."""
    return "made"


def test_a_name_is_given_once():
    detectors = Registry("detector", "normface.recipes")
    detectors.register(mine)
    detectors.register(mine)  # the same again, as by a module imported twice
    other = type(mine)(mine.__code__, {}, "mine")
    other.__module__ = "elsewhere"
    with pytest.raises(ConfigError, match="an unused name for the detector of elsewhere, got 'mine'"):
        detectors.register(other)
    assert detectors.about("mine") == "Made here."


def test_every_registry_is_of_a_known_kind():
    from normface.data import READERS
    from normface.faces import DETECTORS
    from normface.figures import FIGURES
    from normface.gallery import GALLERIES
    from normface.losses import LOSSES, MARGINS
    from normface.models import MODELS
    from normface.protocols import PROTOCOLS

    every = (DETECTORS, FIGURES, GALLERIES, LOSSES, MARGINS, MODELS, PROTOCOLS, READERS)
    assert tuple(each.kind for each in every) == REGISTRY_KINDS
    for each in every:
        assert list(each)
        assert all(each.about(name) for name in each), each.kind


def test_an_entry_point_of_no_kind_is_told(monkeypatch, caplog):
    import importlib.metadata

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [EntryPoint("mine", "mine", group)])
    registry._entry_points.cache_clear()
    registry._entry_points()
    registry._entry_points.cache_clear()
    assert "plug-in mine (mine) skipped: its name must begin with one of detector, figure" in caplog.text
