"""Milvus Lite and Qdrant's local mode serve one process at a time, which opens what another, killed one left."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from normface.errors import DataError
from normface.gallery import open_gallery, qdrant

pytestmark = pytest.mark.slow

ENROLLER = """
import sys, time, numpy as np
from normface.gallery import Enrolments, open_gallery
gallery = open_gallery(sys.argv[1], model="m")
count = int(sys.argv[2])
names = [f"p{i // 2}" for i in range(count)]
gallery.enrol_many(Enrolments(names, np.random.default_rng(0).standard_normal((count, 8))))
print("enrolled", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("kind", "module", "count"), [("milvus", "pymilvus", 2500), ("qdrant", "qdrant_client", 50)])
def test_a_second_process_opens_what_a_killed_one_enrolled(kind, module, count, tmp_path, monkeypatch):
    pytest.importorskip(module)
    monkeypatch.setattr(qdrant, "POINTS_AT_ONCE", 20)  # so that `count` is more than a page of rows in both
    url = f"{kind}:{tmp_path / 'people.db'}"
    command = [sys.executable, "-c", ENROLLER, url, str(count)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "enrolled\n"
        with pytest.raises(DataError, match=f"one process, got process {other.pid} .*end that process"):
            open_gallery(url)
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    last = np.random.default_rng(0).standard_normal((count, 8))[-1]
    with open_gallery(url, model="m") as gallery:
        assert len(gallery) == count
        assert [p.name for p in gallery.people()] == sorted(f"p{i}" for i in range(count // 2))
        assert gallery.search(last, 1)[0].person == f"p{count // 2 - 1}"
        assert gallery.forget(f"p{count // 2 - 1}") == 2
        assert gallery.search(last, 1)[0].person != f"p{count // 2 - 1}"
        assert sum(len(part) for part in gallery.export()) == count - 2
        actions = [event.action for event in gallery.audit()]
    assert actions == ["enrol"] * (count // 2) + ["search", "forget", "search", "export"]
