"""What is kept of memory, and how the speed of training is measured."""

import subprocess
import sys

import numpy as np
import pytest

from normface.data import open_reader
from normface.train import load_config, loop, speed

pytestmark = pytest.mark.slow

SMALL = ["model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]", "optim.batch=16", "precision=fp32"]


def test_speed_is_images_over_the_time_of_later_steps(drawn, monkeypatch):
    ends = iter(np.cumsum([100.0, 50.0, *[1.0] * 6, *[2.0] * 8, *[6.0] * 8]))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ends))
    reader = open_reader(drawn / "train" / "faces-112.zip")
    assert speed.images_per_second(load_config("normface", SMALL), reader) == pytest.approx(16 * 16 / 64)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_by_the_process():
    code = """
import resource
from normface.train import memory
memory.keep()
block = lambda: len(bytearray(64 << 20))
block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(faults) < 64 << 20 >> 12  # fewer than one of the four blocks has pages


def test_training_keeps_memory(drawn, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(loop.memory, "keep", lambda: called.append(True))
    reader = open_reader(drawn / "train" / "faces-112.zip")
    loop.train(load_config("normface", [*SMALL, "optim.epochs=0.3"]), reader, tmp_path / "run")
    assert called
