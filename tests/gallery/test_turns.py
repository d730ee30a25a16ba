"""Turns: in the order of arrival, and not for longer than one is patient."""

import sys
import threading
import time
from pathlib import Path

import pytest

from normface.gallery.turns import in_turn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")


def test_first_come_first_served(tmp_path):
    file, served = tmp_path / "reserve", []
    file.touch()

    def go(number):
        with in_turn(file, 60):
            served.append(number)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(6)]
    with in_turn(file, 60):
        for thread in threads:
            thread.start()
            time.sleep(0.05)  # it waits in line
        assert not served
    for thread in threads:
        thread.join()
    assert served == list(range(6))


def test_whoever_waited_long_enough_goes_on_and_leaves_the_line(tmp_path):
    file = tmp_path / "reserve"
    file.touch()
    with in_turn(file, 60):
        began = time.monotonic()
        with in_turn(file, 0.1):
            assert 0.1 <= time.monotonic() - began < 30
    began = time.monotonic()
    with in_turn(file, 60):
        assert time.monotonic() - began < 30
    for thread in threading.enumerate():  # what waits in the place of those that went on closes the file at its end
        if thread.name == "gallery-turn":
            thread.join(30)
    if Path("/proc/self/fd").exists():
        assert file not in [each.resolve() for each in Path("/proc/self/fd").iterdir()]


def test_without_a_file_all_go_on(tmp_path):
    with in_turn(tmp_path / "none", 60), in_turn(tmp_path / "none", 60):
        pass
