import errno
import os

import pytest

from normface.atomic import replacing
from normface.errors import DataError
from normface.prefetch import map_ahead


def test_replaces_at_once(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with replacing(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError("killed"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "old"


def test_a_full_disk_is_said(tmp_path):
    def write():
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match=r"to write .*No space left on device.*free disk space"):
        write()
    assert os.listdir(tmp_path) == []


def test_ahead_keeps_the_order_and_raises_in_turn():
    assert list(map_ahead(lambda i: i * i, range(50))) == [i * i for i in range(50)]
    results = map_ahead(lambda i: 1 // (3 - i), range(10))
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
