"""What is kept of memory, and how the speed of training is measured."""

import subprocess
import sys

import numpy as np
import pytest

from normface.data import open_reader
from normface.errors import ConfigError
from normface.train import load_config, loop, speed

pytestmark = pytest.mark.slow

SMALL = ["model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]", "optim.batch=16", "precision=fp32"]


def test_speed_is_images_over_the_time_of_later_steps(drawn, monkeypatch):
    ends = iter(np.cumsum([100.0, 50.0, *[1.0] * 6, *[2.0] * 8, *[6.0] * 8]))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ends))
    reader = open_reader(drawn / "train" / "faces-112.zip")
    assert speed.images_per_second(load_config("normface", SMALL), reader) == pytest.approx(16 * 16 / 64)


def test_a_slow_machine_is_measured_by_fewer_steps(drawn, monkeypatch):
    """Steps of 10 s each: over after the third and 15 s, of which the first is left out."""
    ends = iter(np.cumsum([100.0, 10.0, 10.0, 10.0]))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ends))
    reader = open_reader(drawn / "train" / "faces-112.zip")
    assert speed.images_per_second(load_config("normface", SMALL), reader, limit=15.0) == pytest.approx(1.6)
    assert next(ends) == 130.0


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


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(50, 0.5), (200, 2), (250, 4)],  # 100 images/s over 10,000 images: 100 s an epoch; from the third on 25 s
)
def test_epochs_that_fit_where_teachers_are_asked_twice(seconds, expected):
    assert speed.epochs_in(seconds, 10_000, 100.0, views=2, kept_speed=400.0) == pytest.approx(expected)


def test_a_plan_is_kept_by_the_run(drawn, tmp_path, monkeypatch):
    """Half of the budget is spent when the first steps are over; the resumed run asks no clock."""
    reader = open_reader(drawn / "train" / "faces-112.zip")
    config = load_config("normface", [*SMALL, "save_every=2"])
    monkeypatch.setattr(speed, "images_per_second", lambda config, images, limit: len(images) / 10)
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    plan = speed.within(20.0)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    planned = plan(config, reader)
    assert planned.optim.epochs == pytest.approx((0.95 * 20 - 10) / 10)
    monkeypatch.undo()
    steps = len(reader) // 16

    def stop(done, total, measured):
        assert total == round(planned.optim.epochs * steps)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(config, reader, tmp_path / "run", plan=lambda config, images: planned, progress=stop)
    refuse = speed.within(1.0)  # is not asked
    outcome = loop.train(config, reader, tmp_path / "run", plan=refuse, resume=True)
    assert outcome.finished
    assert outcome.total == round(planned.optim.epochs * steps)


def test_too_little_time_is_refused(drawn, monkeypatch):
    reader = open_reader(drawn / "train" / "faces-112.zip")
    with pytest.raises(ConfigError, match=r"a time budget of more than \d+ s"):
        speed.within(0.01)(load_config("normface", SMALL), reader)
