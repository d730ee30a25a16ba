"""`python -m benchmarks gpu` on a CPU with toy sizes; parts in their own processes that hang, die or lack something."""

import json
from importlib import import_module

import pytest
from benchmarks.harness import command
from benchmarks.harness.parts import Part, measure_parts
from benchmarks.harness.sheet import Sheet

from benchmarks import gpu

pytest.importorskip("torch")
TOYS = """
import os, time
from importlib import import_module
from benchmarks.harness.sheet import LeftOut

def good(setting, count=2):
    for number in range(count):
        yield f"good/{number}", lambda: setting + number

def mixed(setting):
    yield "mixed/missing", lambda: import_module("no_such_package")
    yield "mixed/left", refuse
    yield "mixed/broken", lambda: [][0]
    yield "mixed/fine", lambda: 1

def refuse():
    raise LeftOut("no such GPU")

def hanging(setting):
    yield "hanging/before", lambda: 1
    yield "hanging/now", lambda: time.sleep(600)
    yield "hanging/after", lambda: 2

def dying(setting):
    yield "dying/before", lambda: 1
    yield "dying/now", lambda: os._exit(9)
"""


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measure some of the functions above, each as a part; returns the record."""
    (tmp_path / "toy_parts.py").write_text(TOYS)
    monkeypatch.syspath_prepend(tmp_path)

    def call(*names, seconds=600.0, limit=600.0, **options):
        sheet = Sheet("fake", tmp_path / "fake.json", facts={})
        sheet.resume("code")
        parts = {name: Part(limit, f"toy_parts:{name}", options) for name in names}
        measure_parts(sheet, parts, 10, seconds)
        return sheet

    return call


@pytest.mark.slow
class TestParts:
    def test_each_is_kept(self, measured):
        sheet = measured("good", count=3)
        assert sheet.figures == {"good": {"0": 10, "1": 11, "2": 12}}
        assert json.loads(sheet.partial.read_text())["good"]["2"] == 12

    def test_what_is_missing_left_out_or_broken_costs_no_other(self, measured):
        sheet = measured("mixed")
        assert sheet.figures == {"mixed": {"fine": 1}}
        assert "pip install no_such_package" in sheet.left_out["mixed/missing"]
        assert sheet.left_out["mixed/left"] == "no such GPU"
        assert "IndexError" in sheet.failed["mixed/broken"]

    def test_a_part_that_hangs_is_stopped_and_one_that_dies_is_told(self, measured):
        sheet = measured("hanging", "dying", limit=4.0)
        assert sheet.figures == {"hanging": {"before": 1}, "dying": {"before": 1}}
        assert "were over" in sheet.left_out["hanging/now"]
        assert sheet.failed == {"dying/now": "its process ended with code 9"}

    def test_a_later_call_measures_what_is_missing(self, measured):
        assert "same command" in measured("good", seconds=0.0).left_out["good"]
        measured("mixed")
        sheet = measured("good", "mixed")
        assert sheet.figures["good"] == {"0": 10, "1": 11}
        assert measured("good", "mixed").done == sheet.done


@pytest.mark.slow
def test_everything_runs_on_a_cpu(tmp_path, monkeypatch, capsys):
    """In one process, all parts one after the other; what needs a GPU is left out, nothing fails."""
    monkeypatch.setattr(gpu, "measure_parts", at_once)
    monkeypatch.delenv("ARCFACE_TORCH", raising=False)
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    (file,) = (path for path in tmp_path.glob("*.json") if "partial" not in path.name)
    record = json.loads(file.read_text())
    assert record["failed"] == {}
    assert set(record["errors"]) >= {"cosines", "ArcFace", "exclusion", "sharded", "C-triplet"}
    assert all(found["ms"] > 0 for methods in record["head"].values() for found in methods.values())
    assert record["loader"]["images_per_second"] > 0
    assert record["training"]["smallresnet, batch 4, 40 classes"]["ours"]["images_per_second"] > 0
    assert record["embedding"]["the default model, bf16"]["images_per_second"] > 0
    assert "git clone" in record["left_out"]["training/smallresnet, batch 4, 40 classes/arcface_torch"]
    assert {"device", "date", "commit", "torch"} <= set(record)
    assert file.with_suffix(".png").stat().st_size > 10_000
    assert "kept in" in capsys.readouterr().out


def at_once(sheet, parts, setting, seconds):
    for part in parts.values():
        module, _, function = part.place.partition(":")
        for place, work in getattr(import_module(module), function)(setting, **part.options):
            sheet.measure(place, work)


class TestCommandLine:
    def test_without_a_gpu(self, capsys):
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is one")
        with pytest.raises(SystemExit) as ended:
            command.main(["gpu"])
        assert ended.value.code == 2
        assert "expected a GPU, got none; to try it on a CPU add: --tiny --device cpu" in capsys.readouterr().err

    def test_limits_fit_into_ten_minutes_of_a_borrowed_machine(self):
        """Each is three times what a part should take, so that all of them take 6 minutes at most."""
        assert sum(part.seconds for part in gpu.PARTS.values()) / 3 < 6 * 60
        assert all(part.place.partition(":")[0].startswith("benchmarks.") for part in gpu.PARTS.values())
