"""Many processes that enrol, search and forget in one gallery at once: no false error, and the answers are right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MIXED = Path(__file__).with_name("mixed.py")


@pytest.mark.parametrize(
    ("processes", "seconds"),
    [
        pytest.param(4, 5, marks=pytest.mark.slow), pytest.param(4, 60, marks=pytest.mark.nightly),
        pytest.param(64, 60, marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_processes_enrol_search_and_forget_at_once(processes, seconds, place):
    command = [sys.executable, MIXED, place, str(processes), str(seconds)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert not told["wrong"], told["wrong"][0]
    assert told["as_the_oracle"]
    assert told["searches_that_agree"] == 50
    assert min(told["done"].values()) > 10
