"""Milvus Lite across processes: each opens what another one left, also one that was killed."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from normface.errors import DataError
from normface.gallery import open_gallery

pytestmark = pytest.mark.slow

ENROLLER = """
import sys, time, numpy as np
from normface.gallery import Enrolments, open_gallery
gallery = open_gallery(sys.argv[1], model="m")
names = [f"p{i}" for i in range(2500)]  # more than a page
gallery.enrol_many(Enrolments(names, np.random.default_rng(0).standard_normal((2500, 8))))
print("enrolled", flush=True)
time.sleep(600)
"""


def test_a_second_process_opens_what_a_killed_one_enrolled(tmp_path, monkeypatch):
    url = f"milvus:{tmp_path / 'people.milvus.db'}"
    other = subprocess.Popen([sys.executable, "-c", ENROLLER, url], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "enrolled\n"
        with pytest.raises(DataError, match=f"one process, got process {other.pid} .*end that process"):
            open_gallery(url)
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    rows = np.random.default_rng(0).standard_normal((2500, 8))
    with open_gallery(url, model="m") as gallery:
        assert len(gallery) == 2500
        assert [p.name for p in gallery.people()] == sorted(f"p{i}" for i in range(2500))
        assert gallery.search(rows[1234], 1)[0].person == "p1234"
        assert gallery.forget("p1234") == 1
        assert gallery.search(rows[1234], 1)[0].person != "p1234"
        assert sum(len(part) for part in gallery.export()) == 2499
        actions = [event.action for event in gallery.audit()]
    assert actions == ["enrol"] * 2500 + ["search", "forget", "search", "export"]
