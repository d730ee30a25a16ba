"""Running a command line in this process, and what a mistake looks like."""

import sys

import pytest

from normface.cli import main


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["normface", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return call


def one_line(err, *parts):
    """A user's mistake: one line, expected … got … what to do; no traceback."""
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("normface: error: expected ")
    assert ", got " in lines[0]
    for part in parts:
        assert part in lines[0], lines[0]
    return True
